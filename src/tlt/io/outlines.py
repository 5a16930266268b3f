"""Outlines of lesions, slice by slice, and what outlines enclose."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from matplotlib.path import Path as Outline
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import pdist

from tlt.geometry import Grid, Points
from tlt.io.dicom_geometry import UNEVEN_MM
from tlt.lesion import Lesion
from tlt.volume import Volume

CORNERS = 48  # of a ball's outline in a slice
ACROSS = 0.1  # of a slice: a flatter outline lies in one

Outlined: TypeAlias = tuple[int, Points]  # the slice, and LPS points (N, 3) around


def extent_outlines(part: Volume, grid: Grid) -> Iterator[Outlined]:
    """The outlines of a part of the grid that is marked, holes included."""
    from contourpy import contour_generator

    start = np.round(grid.mm_to_index(part.grid.origin_mm)).astype(int)
    for level, mask in enumerate(part.voxels, int(start[0])):
        padded = np.pad(mask.astype(float), 1)
        for line in map(np.asarray, contour_generator(z=padded).lines(0.5)):
            index = np.column_stack([np.full(len(line), level), line[:, ::-1] - 1 + start[1:]])
            yield level, grid.index_to_mm(index[:-1])


def ball_outlines(lesion: Lesion, grid: Grid) -> Iterator[Outlined]:
    """The circles in which slices cut a ball; the nearest slice has one at any rate."""
    center = grid.mm_to_index(lesion.center_mm)
    angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    depth = grid.shape_zyx[0]
    near = int(np.clip(np.round(center[0]), 0, depth - 1))
    reach = int(lesion.radius_mm / grid.spacing_mm[2]) + 1
    for level in range(max(0, near - reach), min(depth, near + reach + 1)):
        height = (level - center[0]) * grid.spacing_mm[2]
        square = lesion.radius_mm**2 - height**2
        if square <= 0 and level != near:
            continue
        radius = np.sqrt(square) if square > 0 else lesion.radius_mm
        index = np.column_stack(
            [
                np.full(CORNERS, level),
                center[1] + radius * np.sin(angles) / grid.spacing_mm[1],
                center[2] + radius * np.cos(angles) / grid.spacing_mm[0],
            ]
        )
        yield level, grid.index_to_mm(index)


def measure_outlines(contours: list[Points]) -> tuple[Points, float | None]:
    """The centroid of what is outlined, and half its longest extent in one slice.

    An outline inside another of its slice is a hole in it. Single points have no radius.
    """
    planes: dict[tuple[int, ...], list[Points]] = defaultdict(list)
    for points in contours:
        planes[_plane_of(points)].append(points)
    weighted, area = np.zeros(3), 0.0
    for inside in planes.values():
        for points in inside:
            part = _area(points) * (-1) ** _depth(points, inside)
            weighted, area = weighted + part * outline_center(points), area + part
    longest = max(_longest(points) for points in contours)
    if area <= 0:
        return np.concatenate(contours).mean(0), longest / 2 or None
    return weighted / area, longest / 2


def fill_outlines(contours: list[Points], grid: Grid) -> Volume | None:
    """The voxels (1 inside) that outlines enclose, on their part of a grid, holes left out.

    None where an outline lies across the grid's slices, beside them or outside it, where no two lie
    in neighbouring slices (then they were drawn in others), or where no voxel is enclosed.
    """
    outlines = [grid.mm_to_index(points) for points in contours if len(points) > 2]
    if not outlines or not _in_slices(outlines, grid):
        return None
    ends = np.concatenate(outlines)
    low = np.floor(ends.min(0) + 0.5).astype(int)
    high = np.ceil(ends.max(0) - 0.5).astype(int) + 1
    low, high = np.maximum(low, 0), np.minimum(high, grid.shape_zyx)
    if (high <= low).any():
        return None
    mask = np.zeros(high - low, bool)
    pixels = np.moveaxis(np.indices(mask.shape[1:]), 0, -1).reshape(-1, 2) + low[1:]
    for index in outlines:
        level = int(np.round(index[:, 0].mean())) - low[0]
        if 0 <= level < len(mask):
            inside = Outline(index[:, 1:]).contains_points(pixels)
            mask[level] ^= inside.reshape(mask.shape[1:])
    return Volume(mask.astype(np.uint8), grid.cropped(low, high - low)) if mask.any() else None


def _in_slices(outlines: list[Points], grid: Grid) -> bool:
    """Whether the slices of a grid are those in which outlines (N, 3; voxel indices) were drawn."""
    levels = np.array([index[:, 0].mean() for index in outlines])
    beside = np.abs(levels - np.round(levels)).max()
    flat = all(np.ptp(index[:, 0]) <= ACROSS for index in outlines)
    steps = np.diff(np.unique(np.round(levels)))
    near = max(ACROSS, UNEVEN_MM / grid.spacing_mm[2]) + 1e-3
    return bool(flat and beside <= near and (len(steps) == 0 or steps.min() == 1))


def outline_center(points: Points) -> Points:
    """The centroid of the area (3,) of a plane outline (N, 3); of the points if it has no area."""
    middle = points.mean(0)
    spokes = points - middle
    cross = np.cross(spokes, np.roll(spokes, -1, 0))
    normal = cross.sum(0)
    area = float(np.linalg.norm(normal))
    if area < 1e-9:
        return middle
    weights = cross @ normal / area
    return middle + (weights[:, None] * (spokes + np.roll(spokes, -1, 0))).sum(0) / (3 * area)


def _plane_of(points: Points) -> tuple[int, ...]:
    """Equal for outlines of one slice: its normal and its distance from the origin, rounded."""
    normal = _normal(points)
    normal = normal * (1 if normal[np.abs(normal).argmax()] > 0 else -1)
    return (*np.round(normal * 50).astype(int), round(float(points[0] @ normal) * 10))


def _normal(points: Points) -> NDArray:
    spokes = points - points.mean(0)
    total = np.cross(spokes, np.roll(spokes, -1, 0)).sum(0)
    length = np.linalg.norm(total)
    return total / length if length > 0 else np.array([0.0, 0.0, 1.0])


def _area(points: Points) -> float:
    spokes = points - points.mean(0)
    return float(np.linalg.norm(np.cross(spokes, np.roll(spokes, -1, 0)).sum(0))) / 2


def _depth(points: Points, inside: list[Points]) -> int:
    """How many other outlines of its slice lie around an outline."""
    flat = [axis for axis in range(3) if axis != np.abs(_normal(points)).argmax()]
    return sum(
        bool(Outline(other[:, flat]).contains_points(points[:1, flat])[0])
        for other in inside
        if other is not points and len(other) > 2
    )


def _longest(points: Points) -> float:
    """The longest distance between points of an outline."""
    if len(points) < 2:
        return 0.0
    if len(points) > 50:
        flat = [axis for axis in range(3) if axis != np.abs(_normal(points)).argmax()]
        try:
            points = points[ConvexHull(points[:, flat]).vertices]
        except QhullError:  # all on a line
            points = points[:: max(1, len(points) // 50)]
    return float(pdist(points).max())
