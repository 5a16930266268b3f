"""Diameters: discs, ellipses and boxes of known size, on grids of any orientation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fakes import oblique

from tlt.diameters import measure_extent, measure_points, measure_voxels
from tlt.geometry import Grid
from tlt.surface import directions
from tlt.volume import Volume

UPRIGHT = Grid((61, 71, 9), (1.0, 1.0, 3.0), (-30.0, -35.0, 100.0))
UNEQUAL = Grid((61, 91, 9), (1.2, 0.8, 5.0), (-30.0, -35.0, 100.0))
FLIPPED = Grid((61, 71, 9), (1.0, 1.0, 3.0), (30.0, 35.0, 100.0), (-1, 0, 0, 0, -1, 0, 0, 0, 1))
# array axes (x, y, z) run along the patient's P, S and L: a sagittal scan
SAGITTAL = Grid((61, 61, 41), (1.0, 1.0, 1.5), (0.0, 0.0, 0.0), (0, 0, 1, 1, 0, 0, 0, 1, 0))
GRIDS = [UPRIGHT, UNEQUAL, FLIPPED, oblique(UPRIGHT, 12.0), SAGITTAL]


def ellipsoid(grid: Grid, center_mm, half_mm, turn: float = 0.0) -> Volume:
    """Voxels within an ellipsoid whose first two half axes lie in the grid's axial slices."""
    index = np.moveaxis(np.indices(grid.shape_zyx), 0, -1)
    offset = grid.index_to_mm(index) - center_mm
    axes = np.reshape(grid.direction, (3, 3))
    upright = np.abs(axes[2]).argmax()
    first, second = (axes[:, i] for i in range(3) if i != upright)
    c, s = np.cos(turn), np.sin(turn)
    frame = np.stack([c * first + s * second, -s * first + c * second, axes[:, upright]], 1)
    inside = (((offset @ frame) / half_mm) ** 2).sum(-1) <= 1
    return Volume(inside.astype(np.uint8), grid)


@pytest.mark.parametrize("grid", GRIDS)
def test_axes_of_ellipsoids_come_back(grid: Grid) -> None:
    rng = np.random.default_rng(3)
    errors = []
    for _ in range(12):
        center = grid.center_mm + rng.uniform(-2, 2, 3)
        extent = ellipsoid(grid, center, (14.0, 8.0, 9.0), rng.uniform(0, np.pi))
        size = measure_extent(extent)
        assert size is not None
        assert size.short_axis is not None
        errors.append((size.long_axis.length_mm - 28, size.short_axis.length_mm - 16))
        long, short = (
            np.subtract(axis.end_mm, axis.start_mm) for axis in (size.long_axis, size.short_axis)
        )
        assert abs(long @ short) < 1e-6 * np.linalg.norm(long) * np.linalg.norm(short)
    pixel = np.sort(grid.spacing_mm)[1]
    assert np.abs(np.mean(errors, 0)).max() < 0.5 * pixel
    assert np.abs(errors).max() < 1.5 * pixel


@pytest.mark.parametrize("radius", [2, 3, 5, 10, 20])
def test_a_disc_measures_its_diameter(radius: int) -> None:
    rng = np.random.default_rng(radius)
    grid = Grid((61, 61, 1), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    long, short = [], []
    for _ in range(20):
        size = measure_extent(ellipsoid(grid, (*rng.uniform(29, 31, 2), 0), (radius, radius, 1)))
        assert size is not None
        assert size.short_axis is not None
        long.append(size.long_axis.length_mm)
        short.append(size.short_axis.length_mm)
    # the longest of many lines that are equal but for the voxels is a little too long
    assert -0.1 < np.mean(long) - 2 * radius < 0.9
    assert abs(np.mean(short) - 2 * radius) < 0.6


def test_a_row_of_voxels_reaches_from_face_to_face() -> None:
    grid = Grid((20, 20, 3), (2.0, 0.5, 4.0), (0.0, 0.0, 0.0))
    size = measure_voxels(np.array([[1, 5, x] for x in range(3, 9)]), grid)
    assert np.isclose(size.long_axis.length_mm, 6 * 2.0)
    assert size.short_axis is not None
    assert np.isclose(size.short_axis.length_mm, 0.5)
    assert size.volume_mm3 == 6 * 4.0
    ends = sorted([size.long_axis.start_mm, size.long_axis.end_mm])
    assert np.allclose(ends, [(5.0, 2.5, 4.0), (17.0, 2.5, 4.0)])


def test_the_slice_of_largest_diameter_is_taken() -> None:
    voxels = np.zeros(UPRIGHT.shape_zyx, np.uint8)
    voxels[2, 30, 20:24] = voxels[5, 30:45, 20] = voxels[7, 30:38, 20] = 1
    size = measure_extent(Volume(voxels, UPRIGHT))
    assert size is not None
    assert np.isclose(size.long_axis.length_mm, 15)
    assert size.long_axis.start_mm[2] == UPRIGHT.index_to_mm((5, 0, 0))[2]


def test_nothing_has_no_size() -> None:
    assert measure_extent(Volume(np.zeros(UPRIGHT.shape_zyx, np.uint8), UPRIGHT)) is None


@pytest.mark.parametrize("grid", [UPRIGHT, oblique(UPRIGHT, 12.0)])
def test_points_of_a_surface_give_its_axes_below_a_voxel(grid: Grid) -> None:
    coarse = replace(grid, spacing_mm=(3.0, 3.0, 8.0))
    frame = np.reshape(grid.direction, (3, 3))
    surface = directions(48, 120) * (12.0, 7.0, 9.0) @ frame.T
    center = coarse.center_mm + np.array([1.3, -0.7, 2.0])
    long, short = measure_points((center + surface).reshape(-1, 3), coarse, 1.5)
    assert abs(long.length_mm - 24) < 0.2
    assert abs(short.length_mm - 14) < 0.2
    along = np.subtract(long.end_mm, long.start_mm) / long.length_mm
    assert abs(along @ frame[:, 0]) > 0.999
    level = coarse.mm_to_index([long.start_mm, long.end_mm])[:, 0]
    assert np.allclose(level, np.rint(level)), "the axes lie in a slice of the grid"
