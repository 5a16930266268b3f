"""The inference path on phantoms: a motion is made, and every tracker is asked for it."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
import torch
from conftest import RAS, make_phantom, oblique, torso_grid
from scipy import ndimage
from tiny import tiny_siamese

import tlt.systems.tiles
from tlt.confidence import UNSURE, Calibration, load_calibration, status_of
from tlt.errors import ModelError, UsageError
from tlt.geometry import AffineTransform, Grid
from tlt.lesion import Lesion, Match, Status
from tlt.model.network import TLT
from tlt.model.presets import PRESETS
from tlt.model.shipped import shipped_path
from tlt.model.voxelmorph import PRESETS as VOXELMORPH
from tlt.model.voxelmorph import VoxelMorph
from tlt.model.weights import LoadedModel, save_weights
from tlt.registration.result import Registration
from tlt.systems.affine import AffineSystem
from tlt.systems.base import System, align
from tlt.systems.network import NetworkSystem
from tlt.systems.patch import PatchSystem
from tlt.systems.tlt import TLTSystem
from tlt.systems.voxelmorph import VoxelMorphSystem
from tlt.track import (
    PairResult,
    Tracker,
    calibration_of,
    make_system,
    near_field_of_view,
    usable_device,
)
from tlt.volume import Volume

TINY = replace(
    PRESETS["compact"],
    spacing_mm=4.0,
    channels=(4, 4, 8, 16),
    strides=(1, 1, 1),
    blocks=(1, 1, 1),
    heads=2,
    layers=1,
    embedding=8,
    search_reach_mm=24.0,
)
LESIONS = [
    Lesion("nodule", (-70.0, 0.0, 10.0), 14.0),
    Lesion("node", (0.0, 30.0, -40.0), 12.0),
    Lesion("mass", (40.0, -60.0, -60.0), 10.0),
]
GRID = torso_grid((90, 70, 56), (4.0, 4.0, 5.0))
TURN = np.array(oblique(4.0)).reshape(3, 3) * 1.02
MOTION = AffineTransform.about(TURN, (0, 0, 0), (12.0, -7.0, 15.0))
PRIOR_ERROR_MM = np.array([4.0, 5.0, -3.0])


def registration_with(error_mm: np.ndarray) -> Registration:
    """The true motion with an error on top."""
    prior = AffineTransform(MOTION.matrix, MOTION.translation_mm + error_mm)
    return Registration(prior, "made", 0.8, True, 0.0)


@cache
def baseline() -> Volume:
    """The phantom of conftest with smooth structure in its tissues."""
    volume = make_phantom(GRID)
    noise = np.random.default_rng(0).normal(size=volume.voxels.shape)
    smooth = ndimage.gaussian_filter(noise, (1.2, 1.5, 1.5))
    voxels = volume.voxels + (volume.voxels > -990) * 60 * smooth / smooth.std()
    return Volume(voxels.astype(np.int16), GRID)


@cache
def followup() -> Volume:
    """The same after `MOTION`, on a grid of its own."""
    grid = torso_grid((100, 80, 70), (3.6, 3.6, 4.0), center_mm=(12.0, -7.0, 15.0))
    return baseline().resample(grid, pull=MOTION.inverse())


def tiny_tlt() -> TLTSystem:
    torch.manual_seed(0)
    return TLTSystem(LoadedModel(TLT(TINY).eval(), "tiny", "0" * 64, {}))


def track(system: System, error_mm=PRIOR_ERROR_MM, lesions=LESIONS, **images) -> PairResult:
    volumes = {"baseline": baseline(), "followup": followup()} | images
    tracker = Tracker(system, Calibration({}, 0.0))
    return tracker.track_pair(
        **volumes, lesions=lesions, registration=registration_with(np.asarray(error_mm))
    )


def errors_mm(matches: list[Match]) -> np.ndarray:
    found = np.array([match.center_mm for match in matches], float)
    truth = MOTION(np.array([match.lesion.center_mm for match in matches]))
    return np.linalg.norm(found - truth, axis=1)


def tiny_network(name: str, **fields) -> Callable[[], NetworkSystem]:
    """What makes the system of a family, with tiny random weights."""

    def make() -> NetworkSystem:
        network = tiny_siamese(name, search_reach_mm=24.0, **fields)
        return NetworkSystem(LoadedModel(network, "tiny", "0" * 64, {}, name))

    return make


def tiny_voxelmorph() -> VoxelMorphSystem:
    """Its displacement of some millimetres is that of chance, but not nothing."""
    torch.manual_seed(0)
    small = replace(
        VOXELMORPH["compact"], spacing_mm=4.0, encoder=(4, 4, 4, 4), decoder=(4, 4, 4, 4, 4, 4, 4)
    )
    network = VoxelMorph(small).eval().requires_grad_(False)
    network.flow.weight.normal_(0, 0.1)
    return VoxelMorphSystem(LoadedModel(network, "tiny", "0" * 64, {}, "voxelmorph"))


def tiny_detect_and_match() -> System:
    from test_detect_and_match import tiny_system

    return tiny_system()


COARSE = {"spacing_mm": 4.0, "strides": (1, 1, 1), "blocks": (1, 1, 1)}
SYSTEMS: dict[str, Callable[[], System]] = {
    "affine": AffineSystem,
    "patch": PatchSystem,
    "tlt": tiny_tlt,
    "siamrpn": tiny_network("siamrpn", **COARSE),
    "dlt": tiny_network("dlt"),
    "transt": tiny_network("transt", **COARSE),
    "voxelmorph": tiny_voxelmorph,
    "vuld-lesanet": tiny_detect_and_match,
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_match_tells_its_prior_and_how_far_it_moved(name: str) -> None:
    result = track(SYSTEMS[name]())
    priors = MOTION(np.array([lesion.center_mm for lesion in LESIONS])) + PRIOR_ERROR_MM
    for match, lesion, prior in zip(result.matches, LESIONS, priors, strict=True):
        assert match.lesion is lesion
        assert match.prior_center_mm == pytest.approx(prior)
        assert match.prior_distance_mm == pytest.approx(np.linalg.norm(match.center_mm - prior))
        assert (match.status, match.confidence) == (Status.FOUND, 0.5)
    assert [f["similarity"] for f in result.features if f is not None] == [0.8] * 3
    moved = [match.prior_distance_mm for match in result.matches]
    assert (max(moved) == 0) is (name == "affine")


def test_patch_matching_corrects_the_prior() -> None:
    result = track(PatchSystem())
    prior_error = np.linalg.norm(PRIOR_ERROR_MM)
    assert errors_mm(track(AffineSystem()).matches) == pytest.approx(prior_error)
    assert errors_mm(result.matches).max() < 1.0


def test_the_registration_of_the_images_is_the_prior() -> None:
    matches = Tracker(AffineSystem(), Calibration({}, 0.0)).track(baseline(), followup(), LESIONS)
    assert errors_mm(matches).max() < 3.0


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_lesion_beyond_the_followup_has_no_centre(name: str) -> None:
    low = 30  # the followup starts above the mass and the node
    part = Volume(followup().voxels[low:], followup().grid.cropped((low, 0, 0), (40, 80, 100)))
    truth = MOTION(np.array([lesion.center_mm for lesion in LESIONS]))
    assert part.grid.contains(truth).tolist() == [True, False, False]
    result = track(SYSTEMS[name](), (0.0, 0.0, 0.0), followup=part)
    assert [m.status is Status.OUTSIDE_FOV for m in result.matches] == [False, True, True]
    for match, features in zip(result.matches[1:], result.features[1:], strict=True):
        assert (match.center_mm, match.confidence, features) == (None, 0.0, None)
        assert match.prior_distance_mm is None
    assert result.matches[2].prior_center_mm == pytest.approx(truth[2])


def test_near_field_of_view_by_hand() -> None:
    volume = Volume(np.zeros((4, 4, 10), np.int16), Grid((10, 4, 4), (2.0,) * 3, (0.0,) * 3))
    points = np.array([[x, 3.0, 3.0] for x in (-9.1, -8.9, 0.0, 18.0, 26.9, 27.1)])
    near = near_field_of_view(volume, points, 8.0)
    assert near.tolist() == [False, True, True, True, True, False]


# Untrained, all embeddings are alike to the seventh digit, and rounding decides which is nearest;
# test_detect_and_match has the same test with candidates that differ.
@pytest.mark.parametrize("name", [n for n in SYSTEMS if n != "vuld-lesanet"])
def test_many_lesions_are_tracked_as_one_by_one(name: str) -> None:
    system = SYSTEMS[name]()
    together = track(system).matches
    alone = [track(system, lesions=[lesion]).matches[0] for lesion in LESIONS]
    for one, other in zip(together, alone, strict=True):
        assert one.center_mm == pytest.approx(other.center_mm, abs=0.05)


# Untrained weights leave to chance which of many places is best, and what a border does to a U-Net.
TRAINED: dict[str, Callable[[], System]] = {
    name: partial(make_system, name, None, "cpu", "fp32") for name in ("dlt", "voxelmorph")
}
STEADY = {name: make for name, make in SYSTEMS.items() if name != "vuld-lesanet"} | TRAINED


@pytest.mark.parametrize("name", [n for n in STEADY if n != "affine"])
@pytest.mark.parametrize("direction", [RAS, oblique(20.0)])
def test_the_grids_orientation_does_not_matter(name: str, direction: tuple[float, ...]) -> None:
    turned = torso_grid((100, 90, 80), (4.0, 4.0, 4.0), direction, (6.0, -4.0, 8.0))
    straight = torso_grid((100, 90, 80), (4.0, 4.0, 4.0), center_mm=(6.0, -4.0, 8.0))
    centers = []
    for grid in (turned, straight):
        images = {"baseline": baseline().resample(grid), "followup": followup().resample(grid)}
        centers.append([m.center_mm for m in track(STEADY[name](), **images).matches])
    limit_mm = 2.0 if name == "dlt" else 1.0  # half a token: the peak of its map may change place
    assert np.linalg.norm(np.subtract(*centers), axis=1).max() < limit_mm


@pytest.mark.parametrize("name", ["tlt", "siamrpn", "dlt", "transt"])
def test_tiles_give_the_features_of_the_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    system = SYSTEMS[name]()
    assert isinstance(system, NetworkSystem)
    lesions, registration = LESIONS[:2], registration_with(PRIOR_ERROR_MM)
    pair = align(baseline(), followup(), lesions, registration, system.spacing_mm, 60.0)
    whole = system.token_map(pair.search)
    done: list[float] = []
    monkeypatch.setattr(tlt.systems.tiles, "TILE_VOXELS", 4 * pair.search.voxels[0].size)
    tiled = system.token_map(pair.search, done.append)
    assert len(done) > 3
    assert done[-1] == 1.0
    assert torch.allclose(tiled.features, whole.features, atol=1e-5)
    assert torch.equal(tiled.origin_mm, whole.origin_mm)


def test_images_that_are_all_alike_give_no_match_far_away() -> None:
    flat = {
        "baseline": replace(baseline(), voxels=np.full_like(baseline().voxels, 40)),
        "followup": replace(followup(), voxels=np.full_like(followup().voxels, 40)),
    }
    for match in track(PatchSystem(), **flat).matches:
        assert match.prior_distance_mm == pytest.approx(0, abs=1e-4)


def test_a_lesion_is_seen_at_its_prior_in_both_aligned_images() -> None:
    pair = align(baseline(), followup(), LESIONS, registration_with(np.zeros(3)), 2.0, 30.0)
    around = np.random.default_rng(0).uniform(-15, 15, (200, 3))
    for prior in pair.prior_mm:
        template, search = pair.template.sample(prior + around), pair.search.sample(prior + around)
        assert np.corrcoef(template, search)[0, 1] > 0.97
    assert pair.radius_mm == pytest.approx([14.28, 12.24, 10.2])


def test_the_network_alone_and_with_the_last_step() -> None:
    model = LoadedModel(tiny_tlt().network, "tiny", "0" * 64, {})
    rough, fine = track(TLTSystem(model, refine=False)), track(TLTSystem(model))
    for before, after in zip(rough.features, fine.features, strict=True):
        assert before is not None
        assert after is not None
        added = {"correlation", "tissue_cm", "patches_cm", "pulled_cm"}
        assert set(after) - set(before) == added
        assert set(before) - set(after) == {
            "peak",
            "log_spread",
            "best",
            "margin",
        }  # of the network alone
    for was, now, features in zip(rough.matches, fine.matches, fine.features, strict=True):
        assert was.center_mm is not None
        assert now.center_mm is not None
        moved = math.dist(was.center_mm, now.center_mm)
        assert moved == pytest.approx(10 * features["pulled_cm"], abs=1e-3)


def test_what_cannot_be_made_is_refused() -> None:
    with pytest.raises(UsageError, match="no weights"):
        make_system("patch", "some.safetensors", "cpu", "auto")
    with pytest.raises(UsageError, match="'dlt' takes one file; give one"):
        make_system("dlt", "dlt-ct,dlt-mix-ct", "cpu", "auto")
    with pytest.raises(ModelError, match=r"one of the shipped models \(tlt-ct, "):
        make_system("dlt", "nowhere.safetensors", "cpu", "auto")
    with pytest.raises(ModelError, match="no weights"):
        Tracker.load("tlt", "missing.safetensors")
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="CUDA"):
            usable_device("cuda:3")
    assert usable_device("cpu") == "cpu"


def test_a_calibration_travels_with_its_weights(tmp_path, caplog) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(TLT(TINY), path, {})
    assert calibration_of("tlt", str(path)) == load_calibration("tlt")
    (message,) = (record.getMessage() for record in caplog.records)
    assert "fitted for the weights tlt-ct, not for w.safetensors" in message
    caplog.clear()
    own = {"weights": {"similarity": 2.0}, "intercept": -1.0}
    (tmp_path / "confidence.json").write_text(json.dumps({"tlt": own}))
    assert calibration_of("tlt", str(path)) == Calibration(**own)
    assert calibration_of("tlt", None) == load_calibration("tlt")
    shutil.copy(shipped_path("tlt-ct"), tmp_path / "copy.safetensors")
    assert calibration_of("tlt-network", str(tmp_path / "copy.safetensors")) == load_calibration(
        "tlt-network"
    )
    assert caplog.records == []
    assert calibration_of("tlt-network", str(path)) == load_calibration("tlt-network")
    assert len(caplog.records) == 1  # of that tracker nothing stands in the file
    (tmp_path / "confidence.json").write_text('{"tlt": {"weight": 1}}')
    with pytest.raises(ModelError, match="calibrate"):
        calibration_of("tlt", str(path))


SURE = Calibration({}, 5.0)


def sure_matches(lesions, registration: Registration) -> list[Match]:
    """Matches of the affine tracker, with a confidence of 99 % everywhere."""
    tracker = Tracker(AffineSystem(), SURE)
    return tracker.track_pair(baseline(), followup(), lesions, registration=registration).matches


def test_nothing_is_found_for_sure_after_a_doubtful_registration() -> None:
    known = registration_with(np.zeros(3))
    assert {m.status for m in sure_matches(LESIONS, known)} == {Status.FOUND}
    doubtful = sure_matches(LESIONS, replace(known, ok=False))
    assert {(m.status, m.confidence) for m in doubtful} == {(Status.LOW_CONFIDENCE, UNSURE)}
    assert status_of(UNSURE) is Status.LOW_CONFIDENCE


def test_a_centre_drawn_to_the_border_is_never_found_for_sure() -> None:
    grid = followup().grid
    low, _ = grid.bounds_mm()
    outside = np.array([12.0, -7.0, low[2] - 5.0])
    place = MOTION.inverse()(outside)
    lesion = Lesion("edge", tuple(place.tolist()), 10.0)
    (match,) = sure_matches([lesion], registration_with(np.zeros(3)))
    assert (match.status, match.confidence) == (Status.LOW_CONFIDENCE, UNSURE)
    assert match.center_mm is not None
    index = grid.mm_to_index(match.center_mm)
    assert index[0] == pytest.approx(0)  # the first slice's centre: there is a picture of it
