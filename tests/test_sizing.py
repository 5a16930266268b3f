"""Sizes at follow-up: made lesions of known size are measured, doubted or left to the reader."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fakes import make_match, oblique

from tlt.geometry import Grid
from tlt.lesion import Axis, Lesion, Match, Size, Status
from tlt.segmentation import Span, find_surface
from tlt.sizing import measure, study_baseline, with_sizes
from tlt.volume import Volume

GRID = Grid((90, 90, 50), (1.0, 1.0, 2.0), (-45.0, -45.0, -50.0))
THICK = Grid((110, 110, 20), (0.8, 0.8, 6.0), (-44.0, -44.0, -58.0))


def scene(
    grid: Grid,
    radius_mm: float,
    hu: float = 40.0,
    around: float = -850.0,
    *,
    wall: bool = False,
    core: float = 0.0,
    center=(0.0, 0.0, 0.0),
    noise: float = 12.0,
    flat: float = 1.0,
    seed: int = 0,
) -> Volume:
    """A ball (its y axis times ``flat``), in tissue, with noise and blur; a wall beside it."""
    points = grid.index_to_mm(np.moveaxis(np.indices(grid.shape_zyx), 0, -1))
    offset = (points - np.asarray(center)) / (1.0, flat, 1.0)
    distance = np.linalg.norm(offset, axis=-1)
    edge = 0.7  # mm of blur; a slice averages over its thickness, which a wider edge stands for
    share = 1 / (1 + np.exp(2 * (distance - radius_mm) / edge))
    density = hu + core * (distance < 0.5 * radius_mm)
    voxels = around * (1 - share) + density * share
    if wall:
        voxels = np.where(points[..., 0] > center[0] + radius_mm - 1, 45.0, voxels)
    voxels += np.random.default_rng(seed).normal(0, noise, voxels.shape)
    return Volume(voxels.astype(np.float32), grid)


def lesion_of(radius_mm: float) -> Lesion:
    return Lesion("L1", (0.0, 0.0, 0.0), radius_mm)


def match_of(radius_mm: float, status=Status.FOUND, shift_mm=(1.0, -0.5, 0.5)) -> Match:
    return make_match(lesion_of(radius_mm), status, shift_mm)


@pytest.mark.parametrize("around", [-850.0, -100.0, 95.0], ids=["lung", "fat", "liver"])
@pytest.mark.parametrize("growth", [0.6, 1.0, 1.6])
def test_a_ball_is_measured(around: float, growth: float) -> None:
    known = study_baseline(scene(GRID, 8.0, around=around), lesion_of(8.0))
    found = measure(match_of(8.0), scene(GRID, 8.0 * growth, around=around, seed=1), known)
    assert known.size is not None
    assert abs(known.size.long_axis.length_mm - 16) < 1.6
    assert found.size is not None, found.size_note
    assert not found.size.doubtful, found.size.note
    truth = 16 * growth
    assert abs(found.size.long_axis.length_mm - truth) < 0.12 * truth
    assert found.size.short_axis is not None
    assert abs(found.size.short_axis.length_mm - truth) < 0.15 * truth
    assert found.radius_mm == pytest.approx(found.size.long_axis.length_mm / 2, abs=1e-3)
    assert found.size.volume_mm3 == pytest.approx(np.pi / 6 * truth**3, rel=0.25)


def test_axes_and_extent_lie_where_the_lesion_is_on_an_oblique_grid() -> None:
    grid = oblique(GRID, 15.0)
    known = study_baseline(scene(grid, 9.0), lesion_of(9.0))
    center = (6.0, -4.0, 3.0)
    followup = scene(grid, 9.0, center=center, seed=2)
    found = measure(match_of(9.0, shift_mm=center), followup, known)
    assert found.size is not None
    assert found.extent is not None
    middle = np.add(found.size.long_axis.start_mm, found.size.long_axis.end_mm) / 2
    assert np.linalg.norm(middle - center) < 2.5
    index = np.argwhere(found.extent.voxels)
    assert np.linalg.norm(found.extent.grid.index_to_mm(index.mean(0)) - center) < 0.7
    whole = grid.mm_to_index(found.extent.grid.index_to_mm((0, 0, 0)))
    assert np.allclose(whole, np.rint(whole), atol=1e-6), "it lies on the follow-up's voxels"


def test_a_wall_of_the_same_density_is_no_part_of_the_lesion() -> None:
    known = study_baseline(scene(GRID, 8.0, wall=True), lesion_of(8.0))
    found = measure(match_of(8.0), scene(GRID, 10.0, wall=True, seed=3), known)
    assert found.size is not None
    assert abs(found.size.long_axis.length_mm - 20) < 4


def test_thick_slices() -> None:
    known = study_baseline(scene(THICK, 10.0), lesion_of(10.0))
    found = measure(match_of(10.0), scene(THICK, 13.0, seed=4), known)
    assert found.size is not None
    assert abs(found.size.long_axis.length_mm - 26) < 2.6
    level = THICK.mm_to_index(found.size.long_axis.start_mm)[0]
    assert np.isclose(level, round(level))


def test_a_lesion_that_became_necrotic_is_measured_whole() -> None:
    known = study_baseline(scene(GRID, 10.0), lesion_of(10.0))
    found = measure(match_of(10.0), scene(GRID, 12.0, core=-60, seed=5), known)
    assert found.size is not None
    assert abs(found.size.long_axis.length_mm - 24) < 2.4


def test_the_long_axis_is_that_of_a_flat_lesion() -> None:
    known = study_baseline(scene(GRID, 12.0, flat=0.6), lesion_of(12.0))
    found = measure(match_of(12.0), scene(GRID, 12.0, flat=0.6, seed=6), known)
    assert found.size is not None
    assert found.size.short_axis is not None
    assert abs(found.size.long_axis.length_mm - 24) < 2.4
    assert abs(found.size.short_axis.length_mm - 14.4) < 2.2
    along = np.subtract(found.size.long_axis.end_mm, found.size.long_axis.start_mm)
    assert abs(along[0]) > 0.9 * np.linalg.norm(along)


def test_a_lesion_at_the_border_of_the_view_is_doubtful() -> None:
    known = study_baseline(scene(GRID, 9.0), lesion_of(9.0))
    center = (0.0, 0.0, 44.0)  # the last slice lies at 48
    found = measure(match_of(9.0, shift_mm=center), scene(GRID, 9.0, center=center), known)
    assert found.size is not None
    assert found.size.doubtful
    assert found.radius_mm is None
    assert "cut off by the border of the view" in found.size.note


def test_what_a_circle_of_reconstruction_leaves_out_is_a_border_too() -> None:
    known = study_baseline(scene(GRID, 9.0), lesion_of(9.0))
    followup = scene(GRID, 9.0, seed=7)
    followup.voxels[:, :, 50:] = -2000  # from x = 5
    found = measure(match_of(9.0), followup, known)
    assert found.size is None or "cut off by the border of the view" in found.size.note


def test_a_lesion_that_vanished_has_no_size_without_a_doubt() -> None:
    known = study_baseline(scene(GRID, 8.0), lesion_of(8.0))
    for around in (-850.0, 40.0):
        empty = Volume(scene(GRID, 0.1, hu=around, around=around).voxels, GRID)
        found = measure(match_of(8.0), empty, known)
        assert found.size is None or found.size.doubtful
        assert (found.size is not None) != bool(found.size_note)


@pytest.mark.parametrize(
    ("status", "words"),
    [(Status.OUTSIDE_FOV, "outside the field of view"), (Status.NOT_FOUND, "not found")],
)
def test_what_was_not_found_has_no_size(status: Status, words: str) -> None:
    volume = scene(GRID, 8.0)
    found = measure(match_of(8.0, status), volume, study_baseline(volume, lesion_of(8.0)))
    assert found.size is None
    assert found.extent is None
    assert words in found.size_note


def test_an_unsure_position_makes_a_doubtful_size() -> None:
    volume = scene(GRID, 8.0)
    known = study_baseline(volume, lesion_of(8.0))
    found = measure(match_of(8.0, Status.LOW_CONFIDENCE), volume, known)
    assert found.size is not None
    assert found.size.doubtful
    assert found.size.note == "the position is unsure"


def test_a_radius_that_the_baseline_does_not_confirm_is_told() -> None:
    volume = scene(GRID, 8.0)
    known = study_baseline(volume, lesion_of(13.0))
    found = measure(match_of(13.0), volume, known)
    assert known.size is None
    assert found.size is None or "does not confirm" in found.size.note


def test_lesions_get_a_size_in_the_baseline_and_keep_one_they_have() -> None:
    volume = scene(GRID, 8.0)
    own = Size(Axis((-8.0, 0.0, 0.0), (8.0, 0.0, 0.0)), by_reader=True)
    given = replace(lesion_of(8.0), id="L2", size=own)
    (measured, kept), _ = with_sizes(volume, [lesion_of(8.0), given])
    assert kept.size is own
    assert measured.size is not None
    assert not measured.size.by_reader
    assert abs(measured.size.long_axis.length_mm - 16) < 1.6


def test_a_surface_at_the_border_of_the_view_is_finite() -> None:
    corner = GRID.index_to_mm((-0.4, -0.4, -0.4))
    surface = find_surface(scene(GRID, 5.0), corner, 6.0, Span(), 0.15)
    assert np.isfinite(surface.radius_mm).all()
    assert np.isfinite(surface.centroid_mm).all()
    assert surface.extent(GRID).voxels.any()
