"""Diameters of a lesion's voxels: long and short axis in one axial slice, as RECIST 1.1 has it.

The long axis is the longest line within one axial slice, over all slices; the short axis the
longest line at right angles to it in the same slice. Both join points of the convex outline of the
slice, as a reader lays them. Axial slices are those across the array axis nearest the patient's z,
whatever the grid's orientation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist, squareform

from tlt.geometry import Grid, Points, Triple
from tlt.lesion import Axis, Size
from tlt.volume import Volume

LEAST_POINTS = 60  # of a surface within a slab, to be an outline


@dataclass(frozen=True, eq=False)
class SliceOutline:
    """The convex outline of an axial slice: corners (N, 2) in mm along the slice's own axes."""

    level: int
    corners_mm: NDArray[np.float64]


def measure_extent(extent: Volume) -> Size | None:
    """Long and short axis (LPS mm) and volume of the voxels that are not zero; None without any."""
    index = np.argwhere(extent.voxels)
    return None if len(index) == 0 else measure_voxels(index, extent.grid)


def measure_voxels(index_zyx: NDArray[np.int_], grid: Grid) -> Size:
    """Long and short axis (LPS mm) and volume of voxels (N, 3), of which there is at least one."""
    upright = upright_axis(grid)
    long, short = _axes_of(_outlines(index_zyx, upright, grid), upright, grid)
    return Size(long, short, round(len(index_zyx) * float(np.prod(grid.spacing_mm)), 3))


def measure_points(points_mm: Points, grid: Grid, thickness_mm: float) -> tuple[Axis, Axis]:
    """Long and short axis (LPS mm) of a closed surface that is known by many points (N, 3) on it.

    Points within ``thickness_mm`` of each other along the normal of the axial slices count as one
    outline. The axes lie in the slice of the grid that holds the outline.
    """
    upright = upright_axis(grid)
    index = grid.mm_to_index(points_mm)
    plane_mm = index[:, _in_plane(upright)] * _spacing_zyx(grid)[_in_plane(upright)]
    height = index[:, upright] * _spacing_zyx(grid)[upright]
    slabs = np.floor(height / thickness_mm)
    outlines = []
    for slab in np.unique(slabs):
        part = slabs == slab
        if part.sum() >= LEAST_POINTS:
            corners = plane_mm[part][ConvexHull(plane_mm[part]).vertices]
            level = float(height[part].mean()) / _spacing_zyx(grid)[upright]
            last = grid.shape_zyx[upright] - 1
            outlines.append(SliceOutline(int(np.clip(np.rint(level), 0, last)), corners))
    return _axes_of(outlines, upright, grid)


def upright_axis(grid: Grid) -> int:
    """The array axis (0, 1, 2 for z, y, x) whose direction is nearest the patient's z."""
    return int(np.abs(np.reshape(grid.direction, (3, 3))[2])[::-1].argmax())


@dataclass(frozen=True, eq=False)
class _Slice:
    """A slice of a grid: from its own two axes in mm to LPS."""

    grid: Grid
    upright: int
    level: int

    def axis(self, ends_mm: NDArray[np.float64]) -> Axis:
        """The line between two points (2, 2) of the slice."""
        rest = _in_plane(self.upright)
        index = np.zeros((2, 3))
        index[:, self.upright] = self.level
        index[:, rest] = ends_mm / _spacing_zyx(self.grid)[rest]
        start, end = (_triple(point) for point in self.grid.index_to_mm(index))
        return Axis(start, end)


def _axes_of(outlines: list[SliceOutline], upright: int, grid: Grid) -> tuple[Axis, Axis]:
    """The longest line of all outlines, and the longest at right angles to it in its own."""
    best: tuple[float, SliceOutline, tuple[int, int]] | None = None
    for outline in outlines:
        span = np.ptp(outline.corners_mm, 0)
        if best is not None and np.hypot(*span) <= best[0]:
            continue  # no line is longer than its box's diagonal
        length, ends = _longest(outline.corners_mm)
        if best is None or length > best[0]:
            best = length, outline, ends
    assert best is not None  # there are points
    _, outline, (i, j) = best
    ends_mm = outline.corners_mm[[i, j]]
    place = _Slice(grid, upright, outline.level)
    return place.axis(ends_mm), place.axis(_across(outline.corners_mm, ends_mm))


def _outlines(index_zyx: NDArray[np.int_], upright: int, grid: Grid) -> list[SliceOutline]:
    """The outline of every slice that has voxels."""
    order = np.argsort(index_zyx[:, upright], kind="stable")
    levels, starts = np.unique(index_zyx[order, upright], return_index=True)
    parts = np.split(index_zyx[order][:, _in_plane(upright)], starts[1:])
    spacing = _spacing_zyx(grid)[_in_plane(upright)]
    return [
        SliceOutline(int(level), _outline(part, spacing))
        for level, part in zip(levels, parts, strict=True)
    ]


def _outline(index: NDArray[np.int_], spacing_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Corners of the convex outline of pixels (N, 2): around the middles of their sides."""
    half = 0.5 * np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])
    points = (index[:, None] + half).reshape(-1, 2) * spacing_mm
    return points[ConvexHull(points).vertices]


def _longest(corners_mm: NDArray[np.float64]) -> tuple[float, tuple[int, int]]:
    distance = squareform(pdist(corners_mm))
    i, j = np.unravel_index(distance.argmax(), distance.shape)
    return float(distance[i, j]), (int(i), int(j))


def _across(corners_mm: NDArray[np.float64], ends_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """The ends (2, 2) of the longest line at right angles to that between ``ends_mm``.

    The width of a convex outline along a line is concave, and straight between its corners: the
    widest place is at one of them.
    """
    along = (ends_mm[1] - ends_mm[0]) / np.linalg.norm(ends_mm[1] - ends_mm[0])
    side = np.array([-along[1], along[0]])
    t, s = (corners_mm - ends_mm[0]) @ along, (corners_mm - ends_mm[0]) @ side
    low, high = int(t.argmin()), int(t.argmax())
    # the corners go round: from the lowest to the highest along the line, and back
    there = np.arange(low, low + (high - low) % len(t) + 1) % len(t)
    back = np.arange(high, high + (low - high) % len(t) + 1) % len(t)
    first = np.interp(t, t[there], s[there])
    second = np.interp(t, t[back][::-1], s[back][::-1])
    widest = int(np.abs(first - second).argmax())
    at = ends_mm[0] + t[widest] * along
    return np.stack([at + first[widest] * side, at + second[widest] * side])


def _in_plane(upright: int) -> list[int]:
    return [axis for axis in range(3) if axis != upright]


def _spacing_zyx(grid: Grid) -> NDArray[np.float64]:
    return np.array(grid.spacing_mm)[::-1]


def _triple(point: Points) -> Triple:
    x, y, z = (float(v) for v in point)
    return x, y, z
