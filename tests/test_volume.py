"""Resampling: a linear ramp is exact on every grid, and the lesion stays where it is in mm."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import LAS, LPS, RAS, make_phantom, oblique, torso_grid
from hypothesis import given, settings
from hypothesis import strategies as st

from tlt.geometry import AffineTransform, Grid
from tlt.volume import AIR_HU, Volume, grid_of, to_sitk

SLOPE = np.array([1.5, -2.0, 0.75])
DIRECTIONS = [LPS, RAS, LAS, oblique(), (0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, -1.0)]


def positions(grid: Grid) -> np.ndarray:
    return grid.index_to_mm(np.moveaxis(np.indices(grid.shape_zyx), 0, -1))


def ramp(grid: Grid) -> Volume:
    """HU that rises linearly with the LPS position."""
    return Volume((positions(grid) @ SLOPE + 7).astype(np.float32), grid)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_ramp_is_exact_on_another_grid(direction: tuple[float, ...]) -> None:
    volume = ramp(torso_grid((31, 23, 17), (2.0, 2.5, 4.0), direction, (3, -8, 40)))
    inner = Grid.around(volume.grid.center_mm, (5, 7, 6), (3.1, 2.9, 3.3))
    read = volume.resample(inner)
    assert read.grid == inner
    assert read.voxels.dtype == np.float32
    assert np.allclose(read.voxels, positions(inner) @ SLOPE + 7, atol=1e-2)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_ramp_is_exact_on_a_much_coarser_grid(direction: tuple[float, ...]) -> None:
    volume = ramp(torso_grid((60, 50, 40), (1.0, 1.2, 1.5), direction))
    inner = Grid.around((0, 0, 0), (3, 3, 3), 5.0)
    assert np.allclose(volume.resample(inner).voxels, positions(inner) @ SLOPE + 7, atol=1e-2)


def test_coarse_grid_averages_noise() -> None:
    grid = torso_grid((64, 64, 64), (1.0, 1.0, 1.0))
    noise = np.random.default_rng(0).normal(0, 20, grid.shape_zyx).astype(np.float32)
    coarse = Volume(noise, grid).resample(Grid.around((0, 0, 0), (10, 10, 10), 4.0))
    assert coarse.voxels.std() < 20 / 8 * 1.2


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_pull_reads_at_the_mapped_point(direction: tuple[float, ...]) -> None:
    matrix = np.array(oblique(12)).reshape(3, 3) * 1.03
    pull = AffineTransform.about(matrix, (1, 2, 3), (4, -5, 6))
    volume = ramp(torso_grid((40, 40, 30), (3.0, 3.0, 4.0), direction))
    inner = Grid.around((0, 0, 0), (5, 7, 6), 3.0)
    expected = pull(positions(inner)) @ SLOPE + 7
    assert np.allclose(volume.resample(inner, pull).voxels, expected, atol=1e-2)


def test_outside_is_air() -> None:
    volume = ramp(torso_grid((8, 8, 8), (2.0, 2.0, 2.0)))
    far = Grid.around((500, 0, 0), (3, 3, 3), 2.0)
    assert (volume.resample(far).voxels == AIR_HU).all()
    assert (volume.resample(far, fill=5.0).voxels == 5).all()
    assert volume.sample((500, 0, 0)) == AIR_HU


@given(
    st.lists(st.tuples(*[st.floats(-14, 14)] * 3), min_size=1, max_size=6),
    st.sampled_from(DIRECTIONS),
)
@settings(max_examples=30)
def test_sample_of_a_ramp_is_exact(points: list, direction: tuple[float, ...]) -> None:
    volume = ramp(torso_grid((31, 23, 17), (2.0, 2.5, 4.0), direction))
    values = volume.sample(points)
    assert values.shape == (len(points),)
    assert np.allclose(values, np.array(points) @ SLOPE + 7, atol=1e-2)


def test_sample_keeps_the_shape_of_its_points() -> None:
    volume = ramp(torso_grid((8, 8, 8), (2.0, 2.0, 2.0)))
    assert volume.sample(np.zeros((2, 3, 3))).shape == (2, 3)
    assert volume.sample((0, 0, 0)).shape == ()


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_phantom_looks_the_same_from_every_grid(direction: tuple[float, ...]) -> None:
    inner = Grid.around((0, 0, 0), (20, 20, 28), (7.0, 7.0, 9.0))
    truth = make_phantom(inner).voxels
    other = make_phantom(torso_grid((60, 60, 60), (6.0, 6.2, 6.4), direction))
    seen = other.resample(inner).voxels
    alike = np.corrcoef(seen.ravel(), truth.ravel())[0, 1]
    assert alike > 0.95
    for axis in range(3):  # the phantom has no symmetry
        assert np.corrcoef(np.flip(seen, axis).ravel(), truth.ravel())[0, 1] < alike - 0.002


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_to_sitk_and_back(direction: tuple[float, ...]) -> None:
    volume = make_phantom(torso_grid((9, 8, 7), (30.0, 25.0, 40.0), direction))
    image = to_sitk(volume)
    assert grid_of(image) == volume.grid
    assert np.array_equal(sitk.GetArrayFromImage(image), volume.voxels)
    assert image[3, 2, 1] == volume.voxels[1, 2, 3]


def test_resample_keeps_what_is_known_of_the_scan() -> None:
    volume = make_phantom(torso_grid((9, 8, 7), (30.0, 25.0, 40.0)))
    named = Volume(volume.voxels, volume.grid, "a.nii", "1.2.3", "20240131")
    read = named.resample(volume.grid)
    assert (read.path, read.series_uid, read.date) == ("a.nii", "1.2.3", "20240131")
    assert np.array_equal(read.voxels, volume.voxels)


def test_voxels_must_fit_their_grid() -> None:
    with pytest.raises(ValueError, match="shape"):
        Volume(np.zeros((2, 3, 4)), torso_grid((2, 3, 4)))
