"""The same contract for every tracker, with the weights it is shipped with, on a part of a real CT.

What a tracker says of a lesion may not depend on how the images are stored, on which lesions are
asked for beside it, or on when it is asked. Whether it is right is another question, which
docs/results.md answers.
"""

from __future__ import annotations

import math
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from conftest import write_dicom_series

from tlt import Tracker, load_volume, read_lesions
from tlt.geometry import Grid
from tlt.io.lesions import write_lesions_csv
from tlt.lesion import Lesion, Status
from tlt.model.shipped import shipped_path
from tlt.pipeline import TrackJob, run_track
from tlt.registration.result import Registration
from tlt.systems import TRACKERS
from tlt.track import PairResult, register_pair
from tlt.volume import Volume

ORDERS = {
    "sagittal": ((2, 0, 1), (0, 1, 2)),
    "coronal": ((1, 0, 2), (0,)),
    "turned": ((0, 1, 2), (1, 2)),
}
INSIDE = ("N1", "P2", "P3", "S2")  # what the part of the example shows in both images


def box(volume: Volume, low_mm: tuple[float, ...], high_mm: tuple[float, ...]) -> Volume:
    """The voxels of a volume between two corners."""
    ends = np.sort([volume.grid.mm_to_index(low_mm), volume.grid.mm_to_index(high_mm)], axis=0)
    start = np.maximum(np.round(ends[0]).astype(int), 0)
    stop = np.minimum(np.round(ends[1]).astype(int), volume.grid.shape_zyx)
    voxels = volume.voxels[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
    return Volume(np.ascontiguousarray(voxels), volume.grid.cropped(start, stop - start))


@cache
def study() -> tuple[Volume, Volume, tuple[Lesion, ...], Registration]:
    """A part of the bundled example, its lesions, and its registration."""
    folder = Path(str(files("tlt") / "example"))
    whole = load_volume(folder / "baseline.nii.gz")
    lesions = [le for le in read_lesions(folder / "lesions.csv", whole) if le.id in INSIDE]
    baseline = box(whole, (-145, -254, -777), (50, -60, -560))
    followup = box(load_volume(folder / "followup.nii.gz"), (-140, -288, -803), (50, -110, -600))
    return baseline, followup, tuple(lesions), register_pair(baseline, followup)


@cache
def tracker(name: str) -> Tracker:
    return Tracker.load(name, device="cpu", precision="fp32")


def track(name: str, **changes) -> PairResult:
    baseline, followup, lesions, registration = study()
    given = {
        "baseline": baseline,
        "followup": followup,
        "lesions": lesions,
        "registration": registration,
    }
    return tracker(name).track_pair(**(given | changes))


@cache
def answer(name: str) -> PairResult:
    """What a tracker says of the study as it is."""
    return track(name)


def apart_mm(one: PairResult, other: PairResult) -> np.ndarray:
    """How far the centres of the lesions that both results hold lie apart."""
    places = {m.lesion.id: m.center_mm for m in other.matches}
    pairs = [(m.center_mm, places[m.lesion.id]) for m in one.matches if m.lesion.id in places]
    assert pairs
    return np.array([math.dist(a, b) for a, b in pairs])


def stored_as(volume: Volume, axes: tuple[int, ...], flipped: tuple[int, ...]) -> Volume:
    """The same voxels at the same places, in another order of axes and directions."""
    voxels = np.flip(volume.voxels.transpose(axes), flipped)
    corner = [volume.grid.shape_zyx[a] - 1 if i in flipped else 0 for i, a in enumerate(axes)]
    start = np.zeros(3)
    start[list(axes)] = corner
    directions = np.array(volume.grid.direction).reshape(3, 3)
    signs = [-1 if i in flipped else 1 for i in range(3)]
    columns = [directions[:, 2 - a] * s for a, s in zip(axes, signs, strict=True)][::-1]
    spacing = [volume.grid.spacing_mm[2 - a] for a in axes][::-1]
    grid = Grid(
        tuple(voxels.shape[::-1]),
        tuple(spacing),
        tuple(volume.grid.index_to_mm(start)),
        tuple(np.column_stack(columns).ravel()),
    )
    return Volume(np.ascontiguousarray(voxels), grid)


def test_storing_in_another_order_moves_nothing() -> None:
    followup = study()[1]
    points = np.add([lesion.center_mm for lesion in study()[2]], (0, -45, -35))
    for order in ORDERS.values():
        assert stored_as(followup, *order).sample(points) == pytest.approx(followup.sample(points))


def test_all_weights_are_shipped_and_small() -> None:
    """Whoever installs tlt may choose any tracker; the repository stays below 60 MB of weights."""
    files = {shipped_path(one) for info in TRACKERS.values() for one in info.weights.values()}
    assert len(files) == 10
    assert sum(path.stat().st_size for path in files) < 60e6


@pytest.mark.parametrize("name", TRACKERS)
def test_every_lesion_gets_a_centre_in_view_and_a_probability(name: str) -> None:
    _, followup, lesions, _ = study()
    matches = answer(name).matches
    assert [m.lesion for m in matches] == list(lesions)
    assert all(followup.grid.contains(m.center_mm) for m in matches)
    assert all(0 <= m.confidence <= 1 and m.status is not Status.OUTSIDE_FOV for m in matches)


@pytest.mark.parametrize("name", TRACKERS)
@pytest.mark.parametrize("order", ORDERS)
def test_the_order_of_the_voxels_does_not_matter(name: str, order: str) -> None:
    baseline, followup, *_ = study()
    other = track(
        name,
        baseline=stored_as(baseline, *ORDERS["turned"]),
        followup=stored_as(followup, *ORDERS[order]),
    )
    assert apart_mm(other, answer(name)).max() < 0.5


@pytest.mark.parametrize("name", TRACKERS)
def test_a_finer_grid_tells_the_same(name: str) -> None:
    followup = study()[1]
    fine = followup.resample(followup.grid.resampled((0.9, 1.3, 2.5)))
    assert np.median(apart_mm(track(name, followup=fine), answer(name))) < 2.0


@pytest.mark.parametrize("name", TRACKERS)
def test_a_lesion_alone_is_found_where_it_is_found_among_others(name: str) -> None:
    for lesion in study()[2][:2]:
        assert apart_mm(track(name, lesions=[lesion]), answer(name)).max() < 0.1


@pytest.mark.parametrize("name", TRACKERS)
def test_beyond_the_view_there_is_no_centre(name: str) -> None:
    _, followup, lesions, registration = study()
    priors = registration.baseline_to_followup(np.array([le.center_mm for le in lesions]))
    level = float(np.sort(priors[:, 2])[1:3].mean())
    low, high = followup.grid.bounds_mm()
    upper = box(followup, (low[0], low[1], level + 10), tuple(high))
    matches = track(name, followup=upper).matches
    seen = [m.status is not Status.OUTSIDE_FOV for m in matches]
    assert seen == (priors[:, 2] > level).tolist()
    assert all((m.center_mm is None) is not s for m, s in zip(matches, seen, strict=True))


@pytest.mark.parametrize("name", TRACKERS)
def test_one_lesion_in_dicom_twice(name: str, tmp_path: Path) -> None:
    baseline, followup, lesions, _ = study()
    write_dicom_series(baseline, tmp_path / "baseline", series="1")
    write_dicom_series(followup, tmp_path / "followup", series="2")
    write_lesions_csv(lesions[:1], tmp_path / "lesions.csv")
    job = TrackJob(
        str(tmp_path / "baseline"),
        (str(tmp_path / "followup"),),
        str(tmp_path / "lesions.csv"),
        None,
        tracker=name,
        device="cpu",
        precision="fp32",
    )
    first, second = (run_track(job).lesions[0].followups[0] for _ in range(2))
    assert first == second
    assert math.dist(first.center_mm, answer(name).matches[0].center_mm) < 0.5
