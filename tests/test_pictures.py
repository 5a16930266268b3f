"""Pictures: cuts lie where they say, point the way they say, and every status can be drawn."""

from __future__ import annotations

import io

import matplotlib.image
import numpy as np
import pytest
from fakes import GRID, LESIONS, ball_volume, make_match, make_pair, oblique

from tlt.geometry import Grid
from tlt.io.cuts import BONE, LUNG, PLANES, SOFT_TISSUE, choose_window, cut, nearby
from tlt.io.pictures import draw_match, draw_pictures
from tlt.lesion import Axis, Lesion, Size, Status
from tlt.volume import Volume

FIELD_MM = 60.0
PIXELS = 120
CENTER = (5.0, -3.0, -40.0)
LETTER_AXIS = {"R": (0, -1), "L": (0, 1), "A": (1, -1), "P": (1, 1), "F": (2, -1), "H": (2, 1)}


def coordinate_volume(axis: int, grid: Grid) -> Volume:
    """A volume whose value is ten times the LPS coordinate along an axis."""
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape_zyx), indexing="ij"), -1)
    return Volume(10 * grid.index_to_mm(index)[..., axis], grid)


@pytest.mark.parametrize("grid", [GRID, oblique(GRID)], ids=["LPS", "oblique"])
@pytest.mark.parametrize("plane", PLANES, ids=lambda plane: plane.name)
def test_letters_stand_at_the_side_they_name(plane, grid):
    left, right, top, bottom = (LETTER_AXIS[letter] for letter in plane.letters)
    for axis in range(3):
        part = nearby(coordinate_volume(axis, grid), CENTER, 20.0)
        pixels = cut(part, CENTER, plane, 20.0, PIXELS) / 10
        rows, columns = np.gradient(pixels, 20.0 / PIXELS)
        expected = {left[0]: (0, right[1]), top[0]: (bottom[1], 0)}.get(axis, (0, 0))
        assert np.allclose(rows, expected[0], atol=2e-2)
        assert np.allclose(columns, expected[1], atol=2e-2)
        middle = pixels[PIXELS // 2 - 1 : PIXELS // 2 + 1, PIXELS // 2 - 1 : PIXELS // 2 + 1]
        assert middle.mean() == pytest.approx(CENTER[axis], abs=0.01)


def test_planes_are_radiological():
    assert [plane.letters for plane in PLANES] == ["RLAP", "RLHF", "APHF"]


def test_offset_in_a_picture_follows_its_letters():
    axial, coronal, sagittal = PLANES
    assert axial.offset((0, 0, 0), (1, 2, 3)) == (1, 2)
    assert coronal.offset((0, 0, 0), (1, 2, 3)) == (1, -3)
    assert sagittal.offset((0, 0, 0), (1, 2, 3)) == (2, -3)


def test_a_cut_of_the_part_nearby_is_a_cut_of_the_whole():
    volume = ball_volume(LESIONS, grid=oblique(GRID))
    part = nearby(volume, CENTER, FIELD_MM)
    assert part.voxels.size < volume.voxels.size
    for plane in PLANES:
        whole = cut(volume, CENTER, plane, FIELD_MM, PIXELS)
        np.testing.assert_allclose(cut(part, CENTER, plane, FIELD_MM, PIXELS), whole, atol=1e-2)


def test_where_there_is_no_voxel_there_is_no_value():
    volume = ball_volume(LESIONS)
    low, _ = volume.grid.bounds_mm()
    pixels = cut(volume, low, PLANES[0], FIELD_MM, PIXELS)
    assert np.isnan(pixels[0, 0])
    assert np.isfinite(pixels[-1, -1])
    assert nearby(volume, low - 500, FIELD_MM) is None


@pytest.mark.parametrize(
    ("surroundings", "window"), [(-850, LUNG), (50, SOFT_TISSUE), (-90, SOFT_TISSUE), (700, BONE)]
)
def test_window_follows_the_surroundings(surroundings, window):
    lesion = Lesion("L1", CENTER, 8.0)
    volume = ball_volume([lesion])
    voxels = np.where(volume.voxels < 0, surroundings, 40)
    assert choose_window(Volume(voxels, volume.grid), CENTER, 8.0) is window


@pytest.mark.parametrize(("edge_mm", "window"), [(-8.0, LUNG), (8.0, SOFT_TISSUE)])
def test_the_chest_wall_is_not_shown_as_lung(edge_mm, window):
    volume = ball_volume([])
    index = np.stack(np.meshgrid(*map(np.arange, volume.grid.shape_zyx), indexing="ij"), -1)
    x = volume.grid.index_to_mm(index)[..., 0] - CENTER[0]
    voxels = np.where(x < edge_mm, 40, -850)  # tissue up to so far right of the lesion, lung beyond
    assert choose_window(Volume(voxels, volume.grid), CENTER, 10.0) is window


@pytest.mark.parametrize("status", list(Status))
def test_every_status_gives_a_picture(status):
    volume = ball_volume(LESIONS)
    lesion = Lesion("L$1$_x", LESIONS[0].center_mm, 8.0, "a $ and a \u732b")
    png = draw_match(volume, volume, make_match(lesion, status))
    pixels = matplotlib.image.imread(io.BytesIO(png), format="png")
    assert pixels.shape[0] > 600
    assert pixels.shape[1] > 900
    assert pixels[..., :3].std() > 0.05


def test_the_ball_is_in_the_middle_of_all_six_panels():
    volume = ball_volume(LESIONS)
    moved = ball_volume(LESIONS, (4.0, -6.0, 9.0))
    for image, shift in ((volume, (0, 0, 0)), (moved, (4.0, -6.0, 9.0))):
        center = np.add(LESIONS[1].center_mm, shift)
        for plane in PLANES:
            bright = np.argwhere(cut(image, center, plane, FIELD_MM, PIXELS) > 0)
            assert np.allclose(bright.mean(0), (PIXELS - 1) / 2, atol=5)


def test_file_names_are_safe_and_different():
    lesions = [Lesion(name, LESIONS[0].center_mm, 8.0) for name in ("a/b", "a b", "../..", "A b")]
    volume = ball_volume(lesions)
    pair = make_pair(make_match(lesion) for lesion in lesions)
    names = [picture.file_name for picture in draw_pictures(volume, [volume], [pair])]
    assert names == ["lesion_a_b.png", "lesion_a_b~2.png", "lesion_x.png", "lesion_A_b~3.png"]


def test_several_followups_are_numbered():
    volume = ball_volume(LESIONS)
    pair = make_pair([make_match(LESIONS[0])])
    pictures = list(draw_pictures(volume, [volume, volume], [pair, pair]))
    assert [picture.file_name for picture in pictures] == ["lesion_L1_fu1.png", "lesion_L1_fu2.png"]


def test_axes_are_drawn_where_they_lie():
    lesion = LESIONS[1]
    x, y, z = np.add(lesion.center_mm, (4.0, -6.0, 9.0))
    size = Size(
        Axis((x - 10, y, z), (x + 10, y, z)), Axis((x, y - 5, z), (x, y + 5, z)), note="unsure"
    )
    volumes = ball_volume(LESIONS), ball_volume(LESIONS, (4.0, -6.0, 9.0))
    with_lines, without = (
        matplotlib.image.imread(io.BytesIO(draw_match(*volumes, make_match(lesion, size=one))))
        for one in (size, None)
    )
    changed = np.abs(with_lines - without).max(-1) > 0.1
    below = changed[424:754, 72:402]  # the axial panel of the follow-up, 80 mm wide
    rows, columns = np.nonzero(below)
    assert np.ptp(columns) == pytest.approx(20 / 80 * 330, abs=3)
    assert np.ptp(rows) == pytest.approx(10 / 80 * 330, abs=3)
    caption = changed[-54:]
    assert caption.any()
    assert not changed[:424].any()
