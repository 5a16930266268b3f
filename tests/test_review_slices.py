"""Slices show the patient's right on the left, the front above, at their true millimetres."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest
from conftest import LAS, LPS, RAS, make_phantom, oblique, torso_grid
from PIL import Image

from tlt.errors import InputError
from tlt.geometry import Grid
from tlt.io.cuts import PLANES, SOFT_TISSUE, Window
from tlt.review.reduced import reduced_nifti
from tlt.review.slices import Stack
from tlt.volume import Volume

GRIDS = {
    "LPS": torso_grid((70, 52, 40), (5.0, 4.0, 6.0), LPS),
    "RAS": torso_grid((70, 52, 40), (5.0, 4.0, 6.0), RAS),
    "LAS": torso_grid((70, 52, 40), (5.0, 4.0, 6.0), LAS),
    "oblique": torso_grid((70, 52, 40), (5.0, 4.0, 6.0), oblique()),
    "sagittal slices": Grid(
        (52, 40, 70), (4.0, 6.0, 5.0), (-172.0, -102.0, -117.0), (0, 0, 1, 1, 0, 0, 0, 1, 0)
    ),
}
# To the patient's left, to the front, to the head: what is seen to the right, above, above.
BALL = ((45.0, -40.0, 30.0), 16.0, 2000.0)
WIDE = Window("", 1000.0, 2000.0)


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def bright_mm(stack: Stack, plane: str, index: int) -> tuple[float, float, float]:
    """The middle of what is brighter than any tissue, as an LPS point by the sheet."""
    sheet = stack.sheets[plane]
    gray = pixels(stack.png(plane, index, WIDE))
    assert gray.shape == (sheet.height, sheet.width)
    down, right = np.argwhere(gray > 180).mean(0)
    return sheet.point_mm(
        index,
        sheet.left_mm + (right + 0.5) * sheet.pixel_mm,
        sheet.top_mm + (down + 0.5) * sheet.pixel_mm,
    )


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("plane", PLANES, ids=lambda plane: plane.name)
def test_a_ball_is_seen_at_its_millimetres_in_every_plane(name, plane):
    stack = Stack(make_phantom(GRIDS[name], [BALL]))
    sheet = stack.sheets[plane.name]
    index = round((BALL[0][plane.normal_axis] - sheet.first_mm) / sheet.step_mm)
    point = bright_mm(stack, plane.name, index)
    assert np.abs(np.subtract(point, BALL[0])).max() <= 3.1


@pytest.mark.parametrize("name", GRIDS)
def test_left_is_right_and_the_front_is_above(name):
    stack = Stack(make_phantom(GRIDS[name], [BALL]))
    sheet = stack.sheets["axial"]
    index = round((BALL[0][2] - sheet.first_mm) / sheet.step_mm)
    down, right = np.argwhere(pixels(stack.png("axial", index, WIDE)) > 180).mean(0)
    middle_x = (0.0 - sheet.left_mm) / sheet.pixel_mm
    middle_y = (0.0 - sheet.top_mm) / sheet.pixel_mm
    assert right > middle_x  # the patient's left is on the picture's right
    assert down < middle_y
    coronal = stack.sheets["coronal"]
    index = round((BALL[0][1] - coronal.first_mm) / coronal.step_mm)
    down, _ = np.argwhere(pixels(stack.png("coronal", index, WIDE)) > 180).mean(0)
    assert down < (0.0 - coronal.top_mm) / coronal.pixel_mm  # the head is above


def test_slices_of_an_aligned_grid_are_its_own_and_not_between_two():
    grid = Grid((24, 20, 18), (2.0, 2.0, 5.0), (-10.0, 7.0, -40.0))
    voxels = np.random.default_rng(0).integers(-500, 500, grid.shape_zyx).astype(np.int16)
    stack = Stack(Volume(voxels, grid))
    sheet = stack.sheets["axial"]
    assert (sheet.count, sheet.first_mm, sheet.step_mm) == (18, -40.0, 5.0)
    for index in (0, 7, 17):
        expected = np.round(255 * SOFT_TISSUE.gray(voxels[index].astype(float)))
        np.testing.assert_array_equal(pixels(stack.png("axial", index, SOFT_TISSUE)), expected)


def test_pixels_are_square_whatever_the_voxels_are():
    stack = Stack(make_phantom(torso_grid((80, 40, 20), (2.0, 4.0, 9.0))))
    for plane, sides in (("axial", (160, 160)), ("coronal", (160, 180)), ("sagittal", (160, 180))):
        sheet = stack.sheets[plane]
        size = np.array([sheet.width, sheet.height]) * sheet.pixel_mm
        assert np.abs(size - sides).max() <= 9.0


@pytest.mark.parametrize(
    ("plane", "index", "window"),
    [
        ("axial", -1, SOFT_TISSUE),
        ("axial", 30, SOFT_TISSUE),
        ("slanted", 0, SOFT_TISSUE),
        ("axial", 0, Window("", 0.0, 0.0)),
        ("axial", 0, Window("", float("nan"), 10.0)),
    ],
)
def test_impossible_slices_are_refused(plane, index, window):
    with pytest.raises(InputError):
        Stack(make_phantom()).png(plane, index, window)


def test_a_slice_of_a_large_ct_takes_a_fraction_of_a_second():
    grid = Grid((512, 512, 40), (0.75, 0.75, 1.0), (-192.0, -192.0, 0.0))
    voxels = np.random.default_rng(0).integers(-500, 500, grid.shape_zyx).astype(np.int16)
    stack = Stack(Volume(voxels, grid))
    seconds = []
    for index in range(8):
        start = time.perf_counter()
        stack.png("axial", index, SOFT_TISSUE)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.25  # 0.03 s on an idle core; the machine may be busy


def test_the_reduced_volume_is_small_and_lies_in_the_same_place(tmp_path):
    import nibabel

    volume = make_phantom(torso_grid((120, 100, 60), (3.0, 3.0, 4.0), oblique()), [BALL])
    path = tmp_path / "small.nii"
    path.write_bytes(reduced_nifti(volume, limit=200_000))
    image = nibabel.nifti1.load(path)
    voxels = np.asarray(image.dataobj)
    assert voxels.dtype == np.int16
    assert voxels.size <= 200_000
    ras = nibabel.affines.apply_affine(image.affine, np.argwhere(voxels > 1200).mean(0))
    assert np.abs(ras * (-1, -1, 1) - BALL[0]).max() < 2.0
