"""Detector and similarity: the candidate most like the lesion, wherever it lies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import torso_grid
from test_detectors import boxes, tiny_detector
from test_lesion_embedding import tiny_embedding
from test_track import (
    LESIONS,
    PRIOR_ERROR_MM,
    baseline,
    followup,
    registration_with,
    track,
)
from torch import Tensor

import tlt.systems.tiles
from tlt.errors import ModelError, UsageError
from tlt.geometry import Grid
from tlt.model.detections import Detections
from tlt.model.weights import LoadedModel, save_weights
from tlt.systems import TRACKERS
from tlt.systems.base import AlignedPair, align
from tlt.systems.detect_and_match import DetectAndMatch, shown
from tlt.systems.tiles import tiled
from tlt.track import make_system
from tlt.volume import Volume

NAMES = [f"{d}-{e}" for e in ("lesiongraph", "lesanet") for d in ("lens", "vuld")]


def tiny_system(name: str = "vuld-lesanet", bf16: bool = False) -> DetectAndMatch:
    """A system with tiny random networks, whose detector finds something everywhere."""
    detector, embedding = name.split("-")
    models = (
        LoadedModel(tiny_detector(detector, least=0.001).eval(), detector, "0" * 64, {}, detector),
        LoadedModel(tiny_embedding(embedding).eval(), embedding, "1" * 64, {}, embedding),
    )
    return DetectAndMatch(*models, bf16=bf16)


class Balls(torch.nn.Module):
    """Stands for an embedding: what lies in the middle of a lesion, as a point of the circle."""

    def embedded(self, image, origin_mm, centers_mm, radius_mm) -> Tensor:
        x, y, z = ((centers_mm - origin_mm) / 2).round().long().T
        angle = image[0, z, y, x] / 1000
        return torch.stack([angle.cos(), angle.sin()], -1)


def pair_of(search_hu: dict[tuple[float, float, float], float]) -> AlignedPair:
    """A template with balls of 100 and 200 HU, and a follow-up with balls at given places."""
    grid = Grid((64, 48, 32), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    lesions = {(30.0, 30.0, 30.0): 100.0, (90.0, 60.0, 30.0): 200.0}
    images = []
    for balls in (lesions, search_hu):
        points = grid.index_to_mm(np.moveaxis(np.indices(grid.shape_zyx), 0, -1))
        voxels = np.full(grid.shape_zyx, -100, np.float32)
        for center, hu in balls.items():
            voxels[np.linalg.norm(points - center, axis=-1) <= 6] = hu
        images.append(Volume(voxels, grid))
    priors = np.array(list(lesions))
    return AlignedPair(*images, priors, np.array([6.0, 6.0]), registration_with(np.zeros(3)))


def knowing(found: Detections) -> DetectAndMatch:
    """A system whose detector says what it is told, and whose embedding sees HU."""
    system = tiny_system()
    system.embedding = Balls()
    system.detect = lambda volume, progress=None: found  # type: ignore[method-assign]
    return system


def candidates(*places: tuple[float, float, float]) -> Detections:
    score = torch.linspace(0.9, 0.3, len(places))
    return Detections(torch.tensor(places), torch.full((len(places), 3), 6.0), score)


def test_the_candidate_most_like_the_lesion_is_the_answer_however_far() -> None:
    far, near, other = (110.0, 80.0, 50.0), (34.0, 30.0, 30.0), (60.0, 40.0, 30.0)
    pair = pair_of({far: 110.0, near: 400.0, other: 190.0})
    first, second = knowing(candidates(near, other, far)).locate(pair)
    assert tuple(first.center_mm) == far  # 110 HU is most like 100 HU
    assert tuple(second.center_mm) == other
    assert first.evidence == pytest.approx(
        {
            "likeness": np.cos(0.01),
            "likeness_margin": np.cos(0.01) - np.cos(0.09),
            "detection_score": 0.3,
        },
        abs=1e-5,
    )


def test_lesions_are_found_together_as_one_by_one() -> None:
    places = (34.0, 30.0, 30.0), (60.0, 40.0, 30.0), (110.0, 80.0, 50.0)
    pair = pair_of(dict(zip(places, (400.0, 190.0, 110.0), strict=True)))
    together = knowing(candidates(*places)).locate(pair)
    for index, one in enumerate(together):
        part = slice(index, index + 1)
        own = replace(pair, prior_mm=pair.prior_mm[part], radius_mm=pair.radius_mm[part])
        (alone,) = knowing(candidates(*places)).locate(own)
        assert tuple(one.center_mm) == tuple(alone.center_mm)
        assert one.evidence == pytest.approx(alone.evidence, abs=1e-6)
    assert tuple(together[0].center_mm) != tuple(together[1].center_mm)


def test_without_any_candidate_the_answer_is_the_prior() -> None:
    pair = pair_of({})
    located = knowing(boxes((0.0, 1.0, 0.5))[:0]).locate(pair)
    for one, prior in zip(located, pair.prior_mm, strict=True):
        assert one.center_mm == pytest.approx(prior)
        assert set(one.evidence.values()) == {0.0}


def test_what_the_followup_does_not_show_is_nowhere_in_the_template() -> None:
    pair = pair_of({(60.0, 40.0, 30.0): 190.0})
    voxels = pair.search.voxels.copy()
    voxels[:, :, 40:] = np.nan  # the second lesion lies beyond
    cut = replace(pair, search=replace(pair.search, voxels=voxels))
    _, second = knowing(candidates((60.0, 40.0, 30.0))).locate(cut)
    assert second.evidence["likeness"] == pytest.approx(np.cos(1.0 + 0.19), abs=1e-3)  # air


@pytest.mark.parametrize("name", ["lens", "vuld"])
def test_tiles_give_what_the_whole_gives(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    system = tiny_system(f"{name}-lesanet")
    pair = align(baseline(), followup(), LESIONS[:1], registration_with(PRIOR_ERROR_MM), 2.0, 60.0)
    whole = system.detect(pair.search)
    assert len(whole) > 5
    done: list[float] = []
    monkeypatch.setattr(tlt.systems.tiles, "TILE_VOXELS", 12 * pair.search.voxels[0].size)
    parts = system.detect(pair.search, done.append)
    assert len(done) > 3
    assert done[-1] == 1.0
    assert torch.allclose(parts.center_mm, whole.center_mm, atol=1e-3)
    assert torch.allclose(parts.score, whole.score, atol=1e-5)


def test_tiles_of_an_image_that_tells_its_own_place() -> None:
    depth = np.arange(37, dtype=np.float32)[:, None, None] * np.ones((1, 6, 8), np.float32)
    volume = Volume(depth, Grid((8, 6, 37), (2.0,) * 3, (0.0,) * 3))
    said = tiled(volume, lambda image: image[0, :, ::2, ::2, ::2], 2, 4, 3)
    assert said[0, :, 0, 0].tolist() == list(range(0, 37, 2))


@pytest.mark.parametrize("name", NAMES)
def test_a_tracker_takes_the_weights_of_its_two_families(name: str, tmp_path) -> None:
    detector, embedding = name.split("-")
    assert list(TRACKERS[name].weights) == [detector, embedding]
    save_weights(tiny_detector(detector), tmp_path / "d.safetensors", {}, detector)
    save_weights(tiny_embedding(embedding), tmp_path / "e.safetensors", {}, embedding)
    both = f"{tmp_path / 'd.safetensors'},{tmp_path / 'e.safetensors'}"
    system = make_system(name, both, "cpu", "fp32")
    assert (system.name, system.spacing_mm) == (name, 2.0)
    with pytest.raises(ModelError, match=f"weights of '{embedding}'"):
        make_system(name, ",".join(reversed(both.split(","))), "cpu", "fp32")
    with pytest.raises(UsageError, match=f"{detector.upper()},{embedding.upper()}"):
        make_system(name, both.split(",")[0], "cpu", "fp32")


def test_networks_of_different_voxels_do_not_go_together() -> None:
    detector = LoadedModel(tiny_detector("vuld").eval(), "d", "0" * 64, {}, "vuld")
    network = tiny_embedding("lesanet", spacing_mm=1.0).eval()
    with pytest.raises(ModelError, match=r"d was trained on voxels of 2.0 mm, e on 1.0 mm"):
        DetectAndMatch(detector, LoadedModel(network, "e", "1" * 64, {}, "lesanet"))


@pytest.mark.parametrize("name", ["vuld-lesiongraph", "lens-lesanet"])
def test_bf16_says_nearly_the_same(name: str) -> None:
    pair = align(baseline(), followup(), LESIONS, registration_with(PRIOR_ERROR_MM), 2.0, 40.0)
    places = torch.from_numpy(pair.prior_mm).float(), torch.from_numpy(pair.radius_mm).float()
    with torch.inference_mode():
        exact, rough = (
            tiny_system(name, bf16=bf16).embed(pair.search, *places) for bf16 in (False, True)
        )
        assert (exact * rough).sum(1).min() > 0.99
        assert len(tiny_system(name, bf16=True).detect(pair.search)) > 0


def test_a_candidate_beyond_the_view_is_none() -> None:
    pair = pair_of({})
    voxels = pair.search.voxels.copy()
    voxels[10:] = np.nan
    volume = replace(pair.search, voxels=voxels)
    points = np.array([[20.0, 20.0, 18.9], [20.0, 20.0, 19.1], [20.0, 20.0, -1.1]])
    assert shown(volume, points).tolist() == [True, False, False]


def test_a_thin_slab_is_searched_as_it_is() -> None:
    grid = torso_grid((100, 80, 13), (3.6, 3.6, 5.0), center_mm=(-58.0, -7.0, 25.0))
    slab = baseline().resample(grid, pull=registration_with(
        np.zeros(3)).baseline_to_followup.inverse())  # fmt: skip
    (match,) = track(tiny_system(), lesions=LESIONS[:1], followup=slab).matches
    assert match.center_mm is not None
    assert slab.grid.contains(np.array(match.center_mm))
