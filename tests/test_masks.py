"""Masks: balls come back where they were drawn; what is no mask is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import LAS, LPS, RAS, oblique, torso_grid
from test_lesions_io import CT, TRUTH, refused

from tlt.io.lesions import read_lesions, sphere_labels, write_labels, write_mask
from tlt.lesion import Lesion, Match, Status
from tlt.volume import Volume


@pytest.mark.parametrize("direction", [LPS, RAS, LAS, oblique(10)])
@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_mask_of_balls_gives_the_balls_back(
    tmp_path: Path, ending: str, direction: tuple[float, ...]
) -> None:
    ct = Volume(
        np.zeros((60, 100, 90), np.int16), torso_grid((90, 100, 60), (1.0, 1.2, 2.0), direction)
    )
    truth = [Lesion("7", (10.3, -20.2, 5.1), 12.0), Lesion("2", (-18.4, 20.0, -30.0), 8.0)]
    write_mask(truth, ct.grid, tmp_path / f"m{ending}")
    read = read_lesions(tmp_path / f"m{ending}", ct)
    assert [lesion.id for lesion in read] == ["2", "7"]
    for lesion, expected in zip(read, truth[::-1], strict=True):
        assert np.allclose(lesion.center_mm, expected.center_mm, atol=0.5)
        assert abs(lesion.radius_mm - expected.radius_mm) < 1.2


def test_binary_mask_is_split(tmp_path: Path) -> None:
    labels = np.zeros(CT.grid.shape_zyx, np.uint8)
    labels[2:4, 3:5, 3:6] = labels[10, 20, 20:26] = 1
    labels[4, 5, 6] = 1  # touches the first by a corner
    write_labels(labels, CT.grid, tmp_path / "m.nii.gz")
    first, second = read_lesions(tmp_path / "m.nii.gz", CT)
    assert [first.id, second.id] == ["L1", "L2"]
    assert np.allclose(second.center_mm, CT.grid.index_to_mm((10, 20, 22.5)), atol=1e-3)
    assert np.isclose(second.radius_mm, 6 * 8 / 2)  # faces of the outer voxels, 8 mm wide


def test_one_component_keeps_its_integer(tmp_path: Path) -> None:
    write_mask([Lesion("1", TRUTH[0].center_mm, 30.0)], CT.grid, tmp_path / "m.nii.gz")
    assert [lesion.id for lesion in read_lesions(tmp_path / "m.nii.gz", CT)] == ["1"]


def test_what_is_as_large_as_an_organ_is_told(tmp_path: Path, caplog) -> None:
    grid = torso_grid((60, 60, 30), (4.0, 4.0, 5.0))
    ct = Volume(np.zeros(grid.shape_zyx, np.int16), grid)
    write_mask(
        [Lesion("1", (0, 0, 0), 66.0), Lesion("2", (90, 90, 50), 20.0)], grid, tmp_path / "m.nrrd"
    )
    radii = [lesion.radius_mm for lesion in read_lesions(tmp_path / "m.nrrd", ct)]
    assert radii[0] > 60 > radii[1]
    (message,) = (record.getMessage() for record in caplog.records)
    assert "above 60 mm: 1 (" in message
    assert "2 (" not in message


def test_single_voxel_has_its_width(tmp_path: Path) -> None:
    labels = np.zeros(CT.grid.shape_zyx, np.uint8)
    labels[5, 6, 7] = 4
    write_labels(labels, CT.grid, tmp_path / "m.nii.gz")
    (lesion,) = read_lesions(tmp_path / "m.nii.gz", CT)
    assert (lesion.id, round(lesion.radius_mm, 3)) == ("4", 4)


def test_radius_is_measured_in_axial_slices_of_a_sagittal_mask(tmp_path: Path) -> None:
    """A rod along the body axis, in a mask whose slices are sagittal."""
    direction = (0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0)  # x -> P, y -> S, z -> L
    grid = torso_grid((40, 50, 30), (2.0, 3.0, 4.0), direction)
    labels = np.zeros(grid.shape_zyx, np.uint8)
    labels[10:12, 5:45, 20:25] = 1
    write_labels(labels, grid, tmp_path / "m.nrrd")
    (lesion,) = read_lesions(tmp_path / "m.nrrd", Volume(labels, grid))
    assert np.isclose(lesion.radius_mm, np.hypot(1 * 4.0, 5 * 2.0) / 2, atol=0.5)


def test_mask_on_another_grid(tmp_path: Path) -> None:
    grid = torso_grid((60, 50, 40), (2.0, 2.0, 2.0), center_mm=TRUTH[0].center_mm)
    write_mask([TRUTH[0]], grid, tmp_path / "m.nii.gz")
    (lesion,) = read_lesions(tmp_path / "m.nii.gz", CT)
    assert np.allclose(lesion.center_mm, TRUTH[0].center_mm, atol=0.5)
    far = torso_grid((60, 50, 40), (2.0, 2.0, 2.0), center_mm=(0, 0, 0))
    write_mask([Lesion("1", (0.0, 0.0, 0.0), 9.0)], far, tmp_path / "m.nii.gz")
    refused(tmp_path / "m.nii.gz", "outside the baseline")


def test_segment_names_of_slicer(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.zeros((20, 20, 20), np.uint8))
    image[5, 5, 5] = 3
    image.SetMetaData("Segment0_LabelValue", "3")
    image.SetMetaData("Segment0_Name", "liver lesion")
    sitk.WriteImage(image, str(tmp_path / "m.seg.nrrd"))
    ct = Volume(np.zeros((20, 20, 20)), torso_grid((20, 20, 20), (1, 1, 1), center_mm=[9.5] * 3))
    (lesion,) = read_lesions(tmp_path / "m.seg.nrrd", ct)
    assert (lesion.id, lesion.label, lesion.center_mm) == ("3", "liver lesion", (5, 5, 5))


def test_bad_masks(tmp_path: Path) -> None:
    path, shape = tmp_path / "m.nrrd", CT.grid.shape_zyx

    def write(voxels: np.ndarray, origin: tuple[float, ...] = CT.grid.origin_mm) -> None:
        image = sitk.GetImageFromArray(voxels)
        image.SetSpacing(CT.grid.spacing_mm)
        image.SetDirection(CT.grid.direction)
        image.SetOrigin(origin)
        sitk.WriteImage(image, str(path))

    write(np.zeros(shape, np.uint8))
    refused(path, "mask is empty")
    write(np.full(shape, 0.3, np.float32))
    refused(path, "not whole numbers")
    write(np.full(shape, np.nan, np.float32))
    refused(path, "not whole numbers")
    write(CT.voxels)
    refused(path, "not a mask")
    write(np.arange(CT.voxels.size, dtype=np.int32).reshape(shape) % 5000)
    refused(path, "4999 instances")
    write(np.ones(shape, np.uint8), (0.0, 0.0, 0.0))
    refused(path, "as many voxels as the baseline, but displaced")
    write(np.eye(20, 36)[..., None].repeat(40, 2) * 2.0)
    assert [lesion.id for lesion in read_lesions(path, CT)] == ["2"]


def test_small_and_overlapping_balls_all_have_voxels() -> None:
    at = (10.0, -20.0, 310.0)
    lesions = [Lesion("tiny", at, 0.1), Lesion("big", at, 40.0), Lesion("off", (0.0, 0.0, 9e3), 5)]
    labels = sphere_labels(lesions, CT.grid)
    assert np.unique(labels).tolist() == [0, 1, 2]
    assert np.count_nonzero(labels == 1) == 1
    volume = np.count_nonzero(labels) * np.prod(CT.grid.spacing_mm)
    assert np.isclose(volume, 4 / 3 * np.pi * 40**3, rtol=0.05)


def test_ids_are_integers_only_where_these_tell_them_apart() -> None:
    places = ((10.0, -20.0, 310.0), (-40.0, 30.0, 280.0))
    for ids, values in ((("1", "01"), [1, 2]), (("7", "07"), [1, 2]), (("7", "2"), [2, 7])):
        lesions = [Lesion(id_, place, 12.0) for id_, place in zip(ids, places, strict=True)]
        assert np.unique(sphere_labels(lesions, CT.grid)).tolist() == [0, *values], ids


def test_a_label_in_parts_is_told(tmp_path: Path, caplog) -> None:
    labels = np.zeros(CT.grid.shape_zyx, np.uint8)
    labels[2:4, 3:5, 3:6] = labels[10, 20, 20:26] = 3
    labels[15, 5, 6] = 4
    write_labels(labels, CT.grid, tmp_path / "m.nii.gz")
    assert [lesion.id for lesion in read_lesions(tmp_path / "m.nii.gz", CT)] == ["3", "4"]
    assert "in unconnected parts, but taken as one lesion each: 3; mark" in caplog.text


def test_a_mask_tells_sizes_and_takes_extents(tmp_path: Path) -> None:
    grid = torso_grid((60, 50, 20), (1.0, 1.0, 3.0), oblique(10))
    ct = Volume(np.zeros(grid.shape_zyx, np.int16), grid)
    labels = np.zeros(grid.shape_zyx, np.uint8)
    labels[8, 20:24, 10:30] = labels[9, 20:22, 12:20] = 1
    write_labels(labels, grid, tmp_path / "m.nii.gz")
    (lesion,) = read_lesions(tmp_path / "m.nii.gz", ct)
    size = lesion.size
    assert size is not None
    assert size.short_axis is not None
    assert abs(size.long_axis.length_mm - np.hypot(20, 4)) < 0.5
    assert lesion.radius_mm == pytest.approx(size.long_axis.length_mm / 2)
    assert size.volume_mm3 == pytest.approx((80 + 16) * 3, rel=1e-4)
    extent = Volume(labels[7:11, 18:26, 8:32], grid.cropped((7, 18, 8), (4, 8, 24)))
    match = Match(lesion, Status.FOUND, lesion.center_mm, 0.9, lesion.center_mm, None, size)
    drawn = sphere_labels([replace(match, extent=extent)], grid)
    assert np.array_equal(drawn > 0, labels > 0)
    unsure = replace(match, extent=extent, size=replace(size, doubtful=True))
    assert not np.array_equal(sphere_labels([unsure], grid) > 0, labels > 0), "a ball"
