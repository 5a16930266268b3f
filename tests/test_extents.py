"""The true extents of simulated lesions, and region growing on made ones."""

from __future__ import annotations

import numpy as np
import torch
from test_sizing import GRID, lesion_of, match_of, scene

from tlt.data.appearance import InsertedLesion, draw_lobes, paint_lesion
from tlt.data.extents import STILL, inside_mask, inside_painted, true_extent
from tlt.data.motion import Motion
from tlt.diameters import measure_extent
from tlt.geometry import AffineTransform, Grid
from tlt.growing import grow
from tlt.segmentation import Span
from tlt.size_experiment import METHODS, SizeRow, size_table
from tlt.volume import Volume

ROUND = InsertedLesion((5.0, -3.0, 20.0), 8.0, 40.0, 1.0, (0.0,) * 15)


def test_a_painted_ball_has_its_diameter_and_moves_along() -> None:
    still = true_extent(inside_painted(ROUND), STILL, ROUND.center_mm, 12.0)
    larger = AffineTransform.about(1.25 * np.eye(3), ROUND.center_mm, (30, 10, -5))
    moved = true_extent(inside_painted(ROUND), Motion(larger, ()), (35.0, 7.0, 15.0), 15.0)
    for extent, diameter in ((still, 16.0), (moved, 20.0)):
        assert extent is not None
        size = measure_extent(extent)
        assert size is not None
        assert abs(size.long_axis.length_mm - diameter) < 0.5
    index = np.argwhere(moved.voxels).mean(0)  # type: ignore[union-attr]
    assert np.allclose(moved.grid.index_to_mm(index), (35, 7, 15), atol=0.2)  # type: ignore[union-attr]
    assert true_extent(inside_painted(ROUND), STILL, (90.0, 0.0, 0.0), 5.0) is None


def test_the_extent_ends_where_the_paint_is_half() -> None:
    lesion = InsertedLesion((0.0, 0.0, 0.0), 9.0, 100.0, 1.5, draw_lobes(np.random.default_rng(4)))
    grid = Grid((50, 50, 50), (0.5, 0.5, 0.5), (-12.25, -12.25, -12.25))
    points = torch.from_numpy(grid.index_to_mm(np.moveaxis(np.indices(grid.shape_zyx), 0, -1)))
    hu = torch.zeros(grid.shape_zyx)
    paint_lesion(hu, points.float(), lesion)
    assert np.array_equal(hu.numpy() > 50, inside_painted(lesion)(points.float()))


def test_a_mask_is_an_extent_too() -> None:
    grid = Grid((20, 20, 20), (2.0, 2.0, 2.0), (-19.0, -19.0, -19.0))
    points = grid.index_to_mm(np.moveaxis(np.indices(grid.shape_zyx), 0, -1))
    mask = Volume((np.linalg.norm(points, axis=-1) < 10).astype(np.uint8), grid)
    extent = true_extent(inside_mask(mask), STILL, (0.0, 0.0, 0.0), 14.0)
    assert extent is not None
    volume = np.count_nonzero(extent.voxels) * np.prod(extent.grid.spacing_mm)
    assert abs(volume / np.count_nonzero(mask.voxels) / 8 - 1) < 0.1


def test_growing_fills_a_ball_and_nothing_else() -> None:
    grown = grow(scene(GRID, 8.0), match_of(8.0).center_mm, 8.0, 40.0, 12.0, Span())  # type: ignore[arg-type]
    size = measure_extent(grown)
    assert size is not None
    assert abs(size.long_axis.length_mm - 16) < 2.5
    nothing = grow(scene(GRID, 0.1), lesion_of(8.0).center_mm, 8.0, 40.0, 12.0, Span())
    assert not nothing.voxels.any()


def test_the_table_counts_what_the_rows_say() -> None:
    def row(true_mm, long_mm, doubtful=False, method="outline by rays"):
        fixed = {"kind": "painted", "lung": False, "slice_mm": 2.0, "before_mm": 20.0}
        return SizeRow(
            lesion="a", method=method, true_mm=true_mm, true_short_mm=10.0, long_mm=long_mm,
            short_mm=None if long_mm is None else 9.0, dice=0.5, doubtful=doubtful, note="",
            milliseconds=30.0, **fixed,
        )  # fmt: skip

    rows = [
        row(20.0, 24.0), row(20.0, 25.0), row(20.0, 21.0, doubtful=True), row(20.0, None, True),
        row(None, 12.0),
    ]  # fmt: skip
    table = size_table(rows)
    assert (
        "| outline by rays | 4 | 4.0 | 20 | 67 % | 10 | 0.50 | 25 % | 3 of 5 | 1 (33 %) |" in table
    )
    assert "In the lung" not in table
    assert list(METHODS)[-1] not in table
