"""The trackers that register deformably: a smooth displacement that was made is found again."""

from __future__ import annotations

import math
import sys
from functools import cache

import numpy as np
import pytest
import torch
from conftest import torso_grid
from numpy.typing import NDArray
from test_patch import IDENTITY, texture

from tlt.confidence import Calibration, load_calibration
from tlt.errors import ModelError
from tlt.lesion import Lesion
from tlt.systems.base import AlignedPair, System
from tlt.systems.deeds import DeedsSystem, register_deeds
from tlt.systems.greedy import GreedySystem, register_greedy
from tlt.systems.warp import Warp
from tlt.track import Tracker, make_system
from tlt.volume import Volume

GRID = torso_grid((56, 48, 40), (2.0, 2.0, 2.0), center_mm=(20.0, -30.0, 40.0))
PLACES = np.array([[20.0, -30.0, 40.0], [34.0, -42.0, 28.0], [2.0, -20.0, 52.0]])
SHIFT_MM = np.array([5.0, -3.0, 4.0])

SYSTEMS = {"greedy": GreedySystem, "deeds": DeedsSystem}
REGISTER = {"greedy": register_greedy, "deeds": register_deeds}
both = pytest.mark.parametrize("name", SYSTEMS)


def backwards(points_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """From the search image to the template: a shift that grows along x, unequal on all axes."""
    return points_mm - SHIFT_MM * (1 + 0.006 * (points_mm[..., :1] - 20.0))


def forwards(points_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse of `backwards`, by fixed-point iteration."""
    there = points_mm + SHIFT_MM
    for _ in range(30):
        there = there + points_mm - backwards(there)
    return there


@cache
def images() -> tuple[Volume, Volume]:
    """A texture, and the same moved by `forwards`."""
    template = texture(GRID)
    points = GRID.index_to_mm(np.stack(np.indices(GRID.shape_zyx), -1))
    return template, Volume(template.sample(backwards(points), 40.0).astype(np.float32), GRID)


@cache
def moved_pair() -> AlignedPair:
    """Both images; a slab of each was not seen."""
    template, search = (volume.voxels.copy() for volume in images())
    template[:3] = np.nan
    search[..., -4:] = np.nan
    return AlignedPair(
        Volume(template, GRID), Volume(search, GRID), PLACES, np.full(3, 8.0), IDENTITY
    )


@both
def test_a_known_displacement_is_recovered(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    done: list[float] = []
    located = SYSTEMS[name]().locate(moved_pair(), lambda _, fraction: done.append(fraction))
    truth = forwards(PLACES)
    assert np.abs(backwards(truth) - PLACES).max() < 1e-6
    for place, found in zip(truth, located, strict=True):
        assert np.linalg.norm(found.center_mm - place) < 1.0
        assert found.evidence["correlation"] > 0.9
        assert found.evidence["gain"] > 0.2
        assert 0 < found.evidence["spread_mm"] < 2.0
        assert found.evidence["squeeze"] < 0.2
    assert (done[0], done[-1]) == (0.0, 1.0)
    assert done == sorted(done)
    assert capfd.readouterr() == ("", "")  # though greedy has much to say of so small an image


@both
def test_a_tracker_gives_each_lesion_its_own_answer(name: str) -> None:
    """In their order, whatever else is tracked, each with its prior and finite features."""
    tracker = Tracker(SYSTEMS[name](), Calibration({}, 0.0))
    lesions = [Lesion(str(k), tuple(place), 8.0) for k, place in enumerate(PLACES.tolist())]
    result = tracker.track_pair(*images(), lesions, registration=IDENTITY)
    (alone,) = tracker.track_pair(*images(), lesions[1:2], registration=IDENTITY).matches
    assert result.matches[1].center_mm == pytest.approx(alone.center_mm, abs=1e-6)
    for match, lesion, features in zip(result.matches, lesions, result.features, strict=True):
        assert match.lesion is lesion
        assert match.prior_center_mm == pytest.approx(lesion.center_mm)
        assert match.center_mm is not None
        assert math.dist(match.center_mm, forwards(np.array(lesion.center_mm))) < 1.5
        assert features is not None
        assert {"correlation", "gain", "log_spread", "squeeze", "moved_cm"} <= set(features)
        assert 0 < load_calibration(name).probability(features) < 1


@both
def test_the_answer_depends_neither_on_chance_nor_on_threads(name: str) -> None:
    pair, threads = moved_pair(), torch.get_num_threads()
    found = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(REGISTER[name](pair.template, pair.search).displacement_mm)
    finally:
        torch.set_num_threads(threads)
    assert np.array_equal(*found)


@both
def test_a_thin_slab_can_be_registered(name: str) -> None:
    low, high = 14, 27  # 26 mm along z: less than two voxels of greedy's coarsest level
    grid = GRID.cropped((low, 0, 0), (high - low, 48, 56))
    template, search = (Volume(volume.voxels[low:high], grid) for volume in images())
    warp = REGISTER[name](template, search)
    place = PLACES[0] + (0.0, 0.0, -2.0)
    assert grid.contains(place)
    assert np.linalg.norm(place + warp.at(place) - forwards(place)) < 1.5


@both
def test_images_that_share_nothing_stay_where_they_are(name: str) -> None:
    unseen = Volume(np.full(GRID.shape_zyx, np.nan, np.float32), GRID)
    pair = AlignedPair(images()[0], unseen, PLACES, np.full(3, 8.0), IDENTITY)
    for place, found in zip(PLACES, SYSTEMS[name]().locate(pair), strict=True):
        assert found.center_mm == pytest.approx(place)
        assert set(found.evidence.values()) == {0.0}


@both
def test_it_is_chosen_by_name(name: str) -> None:
    system: System = make_system(name, None, "cpu", "auto")
    assert (system.name, system.model_name, system.weights_sha256) == (name, None, None)


@pytest.mark.parametrize(("name", "package"), [("greedy", "picsl_greedy"), ("deeds", "numba")])
def test_a_missing_package_is_told_with_the_remedy(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ModelError, match=rf"'{name}' .* {package}: pip .*\[registration\]"
    ) as caught:
        make_system(name, None, "cpu", "auto")
    assert caught.value.exit_code == 4


def test_deeds_says_where_what_is_compiled_may_go(monkeypatch: pytest.MonkeyPatch) -> None:
    class ReadOnly:
        """Stands for an installation where numba finds no place for its cache."""

        def find_spec(self, name: str, *_: object) -> None:
            if name == "tlt.registration.deeds":
                raise RuntimeError("cannot cache function '_pack': no locator available")

    monkeypatch.delitem(sys.modules, "tlt.registration.deeds", raising=False)
    monkeypatch.setattr(sys, "meta_path", [ReadOnly(), *sys.meta_path])
    with pytest.raises(ModelError, match=r"no locator available\); set NUMBA_CACHE_DIR"):
        make_system("deeds", None, "cpu", "auto")


def test_a_warp_by_hand() -> None:
    points = GRID.index_to_mm(np.stack(np.indices(GRID.shape_zyx), -1))
    stretch = np.array([0.1, -0.2, 0.0])
    warp = Warp((stretch * points + (1.0, 2.0, 3.0)).astype(np.float32), GRID)
    inside = PLACES + 0.7
    assert np.allclose(warp.at(inside), stretch * inside + (1.0, 2.0, 3.0), atol=1e-4)
    assert warp.volume_change(PLACES[0]) == pytest.approx(1.1 * 0.8, abs=1e-4)
    low, _ = GRID.bounds_mm()
    corner = GRID.index_to_mm((0, 0, 0))
    assert np.allclose(warp.at(low - 50.0), warp.at(corner))
    assert not Warp.zero(GRID).at(inside).any()
