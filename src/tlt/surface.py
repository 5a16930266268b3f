"""A star-shaped surface: a radius for each of many rays from a centre."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from tlt.diameters import measure_points, upright_axis
from tlt.geometry import Grid, Points
from tlt.lesion import Size
from tlt.volume import Volume

Array = NDArray[np.float64]

EDGE = 0.2  # least edge strength of a ray that saw the border


@dataclass(frozen=True, eq=False)
class Surface:
    """A star-shaped surface.

    Attributes:
        center_mm: LPS centre (3,).
        frame: 3x3, columns are the LPS directions of its x, y and pole.
        radius_mm: (latitudes from the pole, longitudes).
        edge: how clearly each ray saw the border, 0 to 1.
        hu: density of the lesion's middle.
        noise_hu: its spread there.
    """

    center_mm: Points
    frame: Array
    radius_mm: Array
    edge: Array
    hu: float
    noise_hu: float

    @property
    def weight(self) -> Array:
        """Share of the sphere that each ray stands for, (latitudes, longitudes); its sum is 1."""
        rows = np.sin(latitudes(len(self.radius_mm)))
        weight = np.broadcast_to(rows[:, None], self.radius_mm.shape)
        return weight / weight.sum()

    @property
    def volume_mm3(self) -> float:
        """Volume within."""
        return float(4 / 3 * np.pi * (self.weight * self.radius_mm**3).sum())

    @property
    def mean_radius_mm(self) -> float:
        """Radius of the ball of its volume."""
        return float((3 * self.volume_mm3 / (4 * np.pi)) ** (1 / 3))

    @property
    def centroid_mm(self) -> Points:
        """LPS centre of what is within."""
        moment = self.weight[..., None] * (self.radius_mm**4)[..., None] / 4 * self.directions
        return self.center_mm + moment.sum((0, 1)) / (self.weight * self.radius_mm**3 / 3).sum()

    @property
    def directions(self) -> Array:
        """LPS unit vectors of the rays (latitudes, longitudes, 3)."""
        return directions(*self.radius_mm.shape) @ self.frame.T

    @property
    def seen(self) -> float:
        """Share of the border that was seen as an edge."""
        return float((self.weight * (self.edge >= EDGE)).sum())

    @property
    def points_mm(self) -> Points:
        """LPS points of the surface, one a ray (latitudes, longitudes, 3)."""
        return self.center_mm + self.radius_mm[..., None] * self.directions

    def size(self, grid: Grid) -> Size:
        """Its diameters in the axial slices of a grid, and its volume."""
        rows, columns = self.radius_mm.shape
        row = (np.arange(3 * rows) + 0.5) / 3 - 0.5
        column = np.arange(3 * columns) / 3
        radius = self._radius_at(*np.meshgrid(row, column, indexing="ij"))
        rays = directions(3 * rows, 3 * columns) @ self.frame.T
        points = self.center_mm + radius[..., None] * rays
        thickness = max(self.mean_radius_mm / 6, 0.5)
        long, short = measure_points(points.reshape(-1, 3), grid, thickness)
        return Size(long, short, round(self.volume_mm3, 1))

    def _radius_at(self, row: Array, column: Array) -> Array:
        """Radius in mm at fractional places of the rays."""
        wrapped = np.concatenate([self.radius_mm, self.radius_mm[:, :1]], 1)
        return ndimage.map_coordinates(wrapped, [row, column], order=1, mode="nearest")

    def holds(self, points_mm: ArrayLike) -> NDArray[np.bool_]:
        """Whether LPS points (..., 3) lie within."""
        offset = (np.asarray(points_mm, float) - self.center_mm) @ self.frame
        distance = np.linalg.norm(offset, axis=-1)
        polar = np.arccos(np.clip(offset[..., 2] / np.maximum(distance, 1e-9), -1, 1))
        around = np.arctan2(offset[..., 1], offset[..., 0])
        rows, columns = self.radius_mm.shape
        row = polar / np.pi * rows - 0.5
        column = np.mod(around / (2 * np.pi) * columns, columns)
        return distance <= self._radius_at(row, column)

    def extent(self, grid: Grid) -> Volume:
        """Its voxels (1 within, 0 outside) on their part of a grid; at least one is within."""
        points = self.points_mm.reshape(-1, 3)
        index = grid.mm_to_index(points)
        low = np.maximum(np.floor(index.min(0)).astype(int), 0)
        high = np.minimum(np.ceil(index.max(0)).astype(int) + 1, grid.shape_zyx)
        part = grid.cropped(low, np.maximum(high - low, 1))
        plane = np.moveaxis(np.indices((1, *part.shape_zyx[1:])), 0, -1)
        levels = (plane + np.array([z, 0, 0]) for z in range(part.shape_zyx[0]))
        # plane by plane: all at once, a large one would fill the memory
        inside = np.concatenate([self.holds(part.index_to_mm(level)) for level in levels])
        if not inside.any():
            nearest = np.rint(part.mm_to_index(self.center_mm)).astype(int)
            inside[tuple(np.clip(nearest, 0, np.array(part.shape_zyx) - 1))] = True
        return Volume(inside.astype(np.uint8), part)


def latitudes(count: int) -> Array:
    """Angles from the pole of rows of rays."""
    return (np.arange(count) + 0.5) * np.pi / count


def directions(rows: int, columns: int) -> Array:
    """Unit vectors (rows, columns, 3) in a surface's own frame."""
    polar, around = latitudes(rows), np.arange(columns) * 2 * np.pi / columns
    x = np.sin(polar)[:, None] * np.cos(around)
    y = np.sin(polar)[:, None] * np.sin(around)
    return np.stack([x, y, np.broadcast_to(np.cos(polar)[:, None], x.shape)], -1)


def slice_frame(grid: Grid) -> Array:
    """3x3: columns are LPS directions of two axes of the axial slices and of their normal."""
    axes = np.reshape(grid.direction, (3, 3))[:, ::-1]  # columns along z, y, x of the array
    normal = upright_axis(grid)
    first, second = (axis for axis in (2, 1, 0) if axis != normal)
    return np.stack([axes[:, first], axes[:, second], axes[:, normal]], 1)
