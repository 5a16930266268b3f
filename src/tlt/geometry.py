"""Where voxels lie in the patient: the one place for coordinates.

Points are LPS+ world millimetres ``(x, y, z)``; arrays and voxel indices are ``(z, y, x)``, and
index 0 is the centre of the first voxel. Every conversion between the two is a method of `Grid`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Points: TypeAlias = NDArray[np.float64]
Triple: TypeAlias = tuple[float, float, float]

IDENTITY_DIRECTION = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Grid:
    """A regular voxel grid in LPS millimetres, with the meaning that DICOM and SimpleITK give it.

    Attributes:
        size_xyz: number of voxels along each axis.
        spacing_mm: distance of voxel centres along each axis (x, y, z).
        origin_mm: LPS position of the centre of the first voxel.
        direction: row-major 3x3 matrix whose columns are the LPS directions of the axes x, y, z.
    """

    size_xyz: tuple[int, int, int]
    spacing_mm: Triple
    origin_mm: Triple
    direction: tuple[float, ...] = IDENTITY_DIRECTION

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        """Shape of the voxel array."""
        x, y, z = self.size_xyz
        return z, y, x

    @property
    def axes(self) -> NDArray[np.float64]:
        """3x3 matrix that turns an (x, y, z) index step into millimetres."""
        return np.array(self.direction, float).reshape(3, 3) * np.array(self.spacing_mm, float)

    @property
    def is_axis_aligned(self) -> bool:
        """True when the grid's axes are the LPS axes."""
        return bool(np.allclose(self.direction, IDENTITY_DIRECTION, atol=1e-6))

    def index_to_mm(self, index_zyx: ArrayLike) -> Points:
        """LPS points (..., 3) of fractional voxel indices (..., 3) given as (z, y, x).

        >>> Grid((4, 4, 4), (1.0, 2.0, 3.0), (10.0, 0.0, 0.0)).index_to_mm((1, 1, 1)).tolist()
        [11.0, 2.0, 3.0]
        """
        index_xyz = np.asarray(index_zyx, float)[..., ::-1]
        return index_xyz @ self.axes.T + np.array(self.origin_mm)

    def mm_to_index(self, points_mm: ArrayLike) -> Points:
        """Fractional voxel indices (..., 3) as (z, y, x) of LPS points (..., 3)."""
        offset = np.asarray(points_mm, float) - np.array(self.origin_mm)
        return (offset @ np.linalg.inv(self.axes).T)[..., ::-1]

    def contains(self, points_mm: ArrayLike) -> NDArray[np.bool_]:
        """Whether points lie in the volume: within half a voxel of the outer voxel centres."""
        index = self.mm_to_index(points_mm)
        limit = np.array(self.shape_zyx) - 0.5
        return np.all((index >= -0.5 - 1e-9) & (index <= limit + 1e-9), axis=-1)

    @property
    def extent_mm(self) -> NDArray[np.float64]:
        """Length of the grid along its own axes x, y, z, outer voxel faces included."""
        return np.array(self.size_xyz) * np.array(self.spacing_mm)

    @property
    def center_mm(self) -> Points:
        """LPS point in the middle of the grid."""
        return self.index_to_mm((np.array(self.shape_zyx) - 1) / 2)

    def bounds_mm(self) -> tuple[Points, Points]:
        """Lower and upper corner of the smallest LPS box that holds all voxel centres."""
        last = np.array(self.shape_zyx) - 1
        corners = np.stack(np.meshgrid(*[(0, n) for n in last], indexing="ij"), -1).reshape(-1, 3)
        points = self.index_to_mm(corners)
        return points.min(0), points.max(0)

    def resampled(self, spacing_mm: float | Triple) -> Grid:
        """The axis-aligned LPS grid of another spacing that covers this grid's bounds."""
        return Grid.covering(*self.bounds_mm(), spacing_mm)

    @staticmethod
    def covering(low_mm: ArrayLike, high_mm: ArrayLike, spacing_mm: float | Triple) -> Grid:
        """The axis-aligned grid that starts at ``low_mm`` and reaches at least ``high_mm``."""
        low = np.asarray(low_mm, float)
        spacing = np.broadcast_to(np.asarray(spacing_mm, float), 3)
        size = np.ceil((np.asarray(high_mm, float) - low) / spacing - 1e-6).astype(int) + 1
        return Grid(_ints(np.maximum(size, 1)), _floats(spacing), _floats(low))

    @staticmethod
    def around(
        center_mm: ArrayLike, shape_zyx: tuple[int, int, int], spacing_mm: float | Triple
    ) -> Grid:
        """The axis-aligned grid whose voxel ``shape // 2`` lies exactly at ``center_mm``."""
        spacing = np.broadcast_to(np.asarray(spacing_mm, float), 3)
        half = (np.array(shape_zyx) // 2)[::-1]
        origin = np.asarray(center_mm, float) - half * spacing
        return Grid(_ints(np.array(shape_zyx)[::-1]), _floats(spacing), _floats(origin))

    def cropped(self, start_zyx: ArrayLike, shape_zyx: ArrayLike) -> Grid:
        """The part of this grid that starts at a voxel and has a shape; it may reach outside."""
        origin = self.index_to_mm(start_zyx)
        size = _ints(np.asarray(shape_zyx)[::-1])
        return Grid(size, self.spacing_mm, _floats(origin), self.direction)


@dataclass(frozen=True, eq=False)
class AffineTransform:
    """The map ``p -> matrix @ p + translation_mm`` on LPS points; its name says its direction."""

    matrix: NDArray[np.float64]
    translation_mm: NDArray[np.float64]

    def __call__(self, points_mm: ArrayLike) -> Points:
        """Mapped LPS points, same shape (..., 3)."""
        return np.asarray(points_mm, float) @ self.matrix.T + self.translation_mm

    def inverse(self) -> AffineTransform:
        """The map back."""
        inverse = np.asarray(np.linalg.inv(self.matrix), np.float64)
        return AffineTransform(inverse, -inverse @ self.translation_mm)

    def after(self, first: AffineTransform) -> AffineTransform:
        """The map that applies ``first`` and then this one."""
        return AffineTransform(self.matrix @ first.matrix, self(first.translation_mm))

    @property
    def scale(self) -> float:
        """Mean change of length: the cube root of the determinant."""
        return float(np.cbrt(np.linalg.det(self.matrix)))

    @staticmethod
    def identity() -> AffineTransform:
        """The map that moves nothing."""
        return AffineTransform(np.eye(3), np.zeros(3))

    @staticmethod
    def about(matrix: ArrayLike, center_mm: ArrayLike, shift_mm: ArrayLike) -> AffineTransform:
        """The map that applies ``matrix`` about ``center_mm`` and then shifts."""
        matrix, center = np.asarray(matrix, float), np.asarray(center_mm, float)
        return AffineTransform(matrix, center - matrix @ center + np.asarray(shift_mm, float))

    @staticmethod
    def fit(source_mm: ArrayLike, target_mm: ArrayLike) -> AffineTransform:
        """The least-squares affine that carries the source points (N, 3) to the targets."""
        source = np.asarray(source_mm, float)
        design = np.concatenate([source, np.ones((len(source), 1))], 1)
        solution, *_ = np.linalg.lstsq(design, np.asarray(target_mm, float), rcond=None)
        return AffineTransform(solution[:3].T, solution[3])


def _ints(values: ArrayLike) -> tuple[int, int, int]:
    x, y, z = (int(v) for v in np.asarray(values))
    return x, y, z


def _floats(values: ArrayLike) -> Triple:
    x, y, z = (float(v) for v in np.asarray(values))
    return x, y, z
