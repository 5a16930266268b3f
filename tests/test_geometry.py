"""Grids over RAS, LAS, LPS and oblique axes, against SimpleITK and nibabel; affine transforms."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from conftest import LAS, LPS, RAS, oblique
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tlt.geometry import AffineTransform, Grid

mm = st.floats(-500, 500)
# SimpleITK's own inverse gives NaN for cosines below the smallest normal number.
degrees = st.floats(-180, 180).map(lambda value: round(value, 6))
directions = st.one_of(
    st.sampled_from([LPS, RAS, LAS, (0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, -1.0)]),
    st.builds(
        oblique, degrees, st.tuples(*[st.floats(0.1, 1)] * 3)
    ),
)  # fmt: skip
grids = st.builds(
    Grid,
    st.tuples(st.integers(2, 90), st.integers(2, 70), st.integers(2, 40)),
    st.tuples(st.floats(0.4, 1.2), st.floats(1.3, 3), st.floats(3.1, 9)),
    st.tuples(mm, mm, mm),
    directions,
)
points = arrays(np.float64, (5, 3), elements=st.floats(-300, 300))
indices = arrays(np.float64, (4, 2, 3), elements=st.floats(-20, 100))


@given(grids, indices)
def test_index_to_mm_and_back(grid: Grid, index_zyx: np.ndarray) -> None:
    points_mm = grid.index_to_mm(index_zyx)
    assert points_mm.shape == index_zyx.shape
    assert np.allclose(grid.mm_to_index(points_mm), index_zyx, atol=1e-6)
    assert np.array_equal(grid.index_to_mm((0, 0, 0)), grid.origin_mm)


@given(grids, indices)
@settings(max_examples=30)
def test_agrees_with_simpleitk(grid: Grid, index_zyx: np.ndarray) -> None:
    image = sitk.Image(2, 2, 2, sitk.sitkUInt8)
    image.SetSpacing(grid.spacing_mm)
    image.SetOrigin(grid.origin_mm)
    image.SetDirection(grid.direction)
    for index in index_zyx.reshape(-1, 3):
        point = image.TransformContinuousIndexToPhysicalPoint(index[::-1].tolist())
        assert np.allclose(grid.index_to_mm(index), point, atol=1e-6)
        back = image.TransformPhysicalPointToContinuousIndex(point)
        assert np.allclose(grid.mm_to_index(point), back[::-1], atol=1e-6)


@given(grids, points)
@settings(max_examples=30)
def test_agrees_with_nibabel(grid: Grid, points_mm: np.ndarray) -> None:
    """nibabel's affines speak RAS, so x and y change sign."""
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = grid.axes, grid.origin_mm
    affine = np.diag([-1, -1, 1, 1]) @ affine
    index_xyz = nib.affines.apply_affine(np.linalg.inv(affine), points_mm * (-1, -1, 1))
    assert np.allclose(grid.mm_to_index(points_mm), index_xyz[:, ::-1], atol=1e-6)


@given(grids, st.integers(0, 2), st.booleans())
def test_contains_ends_half_a_voxel_beyond_the_outer_centres(
    grid: Grid, axis: int, upper: bool
) -> None:
    index = (np.array(grid.shape_zyx) - 1) / 2
    index[axis] = grid.shape_zyx[axis] - 0.5 if upper else -0.5
    assert grid.contains(grid.index_to_mm(index))
    index[axis] += 1e-3 if upper else -1e-3
    assert not grid.contains(grid.index_to_mm(index))


@given(grids)
def test_bounds_center_and_extent(grid: Grid) -> None:
    low, high = grid.bounds_mm()
    last = np.array(grid.shape_zyx) - 1
    corners = grid.index_to_mm([last * (i & 1, i >> 1 & 1, i >> 2) for i in range(8)])
    assert np.allclose(low, corners.min(0), atol=1e-6)
    assert np.allclose(high, corners.max(0), atol=1e-6)
    assert np.allclose(grid.center_mm, (low + high) / 2, atol=1e-6)
    widths = [np.linalg.norm(grid.axes[:, k]) * grid.size_xyz[k] for k in range(3)]
    assert np.allclose(grid.extent_mm, widths)


@given(grids, st.tuples(*[st.floats(0.7, 6)] * 3))
def test_resampled_covers_the_bounds(grid: Grid, spacing_mm: tuple[float, float, float]) -> None:
    coarse = grid.resampled(spacing_mm)
    assert coarse.is_axis_aligned
    assert coarse.spacing_mm == spacing_mm
    (low, high), (own_low, own_high) = grid.bounds_mm(), coarse.bounds_mm()
    assert np.allclose(own_low, low)
    assert (own_high >= high - 1e-4).all()
    assert (own_high < high + spacing_mm + 1e-4).all()


@given(st.tuples(mm, mm, mm), st.tuples(*[st.integers(1, 9)] * 3), st.floats(0.5, 4))
def test_around_puts_the_middle_voxel_at_the_center(
    center_mm: tuple[float, ...], shape_zyx: tuple[int, int, int], spacing_mm: float
) -> None:
    grid = Grid.around(center_mm, shape_zyx, spacing_mm)
    assert grid.shape_zyx == shape_zyx
    assert np.allclose(grid.index_to_mm(np.array(shape_zyx) // 2), center_mm, atol=1e-9)


@given(grids, st.tuples(*[st.integers(-5, 5)] * 3), st.tuples(*[st.integers(1, 9)] * 3))
def test_cropped_keeps_voxels_where_they_are(
    grid: Grid, start: tuple[int, ...], shape: tuple[int, int, int]
) -> None:
    part = grid.cropped(start, shape)
    assert part.shape_zyx == shape
    assert np.allclose(part.index_to_mm((1, 0, 2)), grid.index_to_mm(np.add(start, (1, 0, 2))))


def test_is_axis_aligned() -> None:
    for direction, expected in ((LPS, True), (RAS, False), (LAS, False), (oblique(1), False)):
        assert Grid((2, 2, 2), (1, 1, 1), (0, 0, 0), direction).is_axis_aligned is expected


matrices = st.builds(
    lambda degrees, axis, scale: np.array(oblique(degrees, axis)).reshape(3, 3) @ np.diag(scale),
    st.floats(-40, 40),
    st.tuples(*[st.floats(0.1, 1)] * 3),
    st.tuples(*[st.floats(0.8, 1.25)] * 3),
)
affines = st.builds(AffineTransform, matrices, arrays(float, 3, elements=st.floats(-99, 99)))


@given(affines, points)
def test_inverse_leads_back(transform: AffineTransform, points_mm: np.ndarray) -> None:
    assert np.allclose(transform.inverse()(transform(points_mm)), points_mm, atol=1e-8)
    assert np.allclose(AffineTransform.identity()(points_mm), points_mm)


@given(affines, affines, points)
def test_after_applies_the_first_first(
    second: AffineTransform, first: AffineTransform, points_mm: np.ndarray
) -> None:
    assert np.allclose(second.after(first)(points_mm), second(first(points_mm)))


@given(affines, st.integers(0, 99))
def test_fit_recovers_the_truth(truth: AffineTransform, seed: int) -> None:
    source = np.random.default_rng(seed).uniform(-200, 200, (12, 3))
    fitted = AffineTransform.fit(source, truth(source))
    assert np.allclose(fitted.matrix, truth.matrix, atol=1e-9)
    assert np.allclose(fitted.translation_mm, truth.translation_mm, atol=1e-7)


@given(matrices, st.tuples(mm, mm, mm), st.tuples(mm, mm, mm))
def test_about_moves_its_center_by_the_shift(
    matrix: np.ndarray, center_mm: tuple[float, ...], shift_mm: tuple[float, ...]
) -> None:
    transform = AffineTransform.about(matrix, center_mm, shift_mm)
    assert np.allclose(transform(center_mm), np.add(center_mm, shift_mm))
    assert np.array_equal(transform.matrix, matrix)


def test_scale_is_the_change_of_length() -> None:
    matrix = np.array(oblique(30)).reshape(3, 3) * 1.05
    assert AffineTransform(matrix, np.zeros(3)).scale == pytest.approx(1.05)
