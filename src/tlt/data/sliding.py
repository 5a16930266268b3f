"""How the lungs slide along the chest wall: a thin shear layer at the pleura.

The displacement is z with its part across the pleura taken out, so that tissue follows the wall
and nothing is torn or lost. It is full along ribs and back, none where the lung is held
(mediastinum and diaphragm), and falls to none within `LAYER_MM` of the pleura: at the resolution of
CT that is a jump, yet the map stays continuous and has an inverse.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from tlt.geometry import Grid, Points

LARGEST_MM = 12.0  # of the sliding
SMOOTH_VOXELS = 1.5
LAYER_MM = 6.0  # of lung next to the wall, in which the shear happens
TETHER_MM = 40.0  # from mediastinum or diaphragm to where the lung slides freely
FLAT_MM = 20.0  # depth from which on the wall's direction no longer matters
LEAST_LUNG_MM3 = 1e5  # what is smaller is no lung (bowel gas, stomach)
APEX_SHARE = 0.4  # of the sliding at the base
LEAST_VOLUME_CHANGE = 0.2  # of the map at its most compressed place


@dataclass(frozen=True, eq=False)
class Pleura:
    """Where and in which direction the lungs of one CT can slide.

    Attributes:
        grid: axis-aligned lattice of the baseline.
        unit: (1, 3, D, H, W) displacement (x, y, z) for an amplitude of 1 mm; up to `LARGEST_MM`
            either way the map does not fold.
    """

    grid: Grid
    unit: Tensor


@dataclass(frozen=True, eq=False)
class Slide:
    """A point p of the lung shows what lies at p + amplitude * unit(p), both baseline points."""

    pleura: Pleura
    amplitude_mm: float

    def displacement(self, points_mm: Tensor) -> Tensor:
        """Displacement (D, H, W, 3) at baseline points (D, H, W, 3), trilinear."""
        grid = self.pleura.grid
        step = 2 / (torch.tensor(grid.spacing_mm) * torch.tensor(grid.size_xyz))
        first = torch.tensor(grid.origin_mm) - torch.tensor(grid.spacing_mm) / 2
        place = (points_mm - first) * step - 1
        sampled = F.grid_sample(
            self.pleura.unit, place[None], padding_mode="border", align_corners=False
        )
        return self.amplitude_mm * sampled[0].movedim(0, -1)

    def __call__(self, points_mm: Points) -> Points:
        """The points (N, 3) with the displacement added."""
        at = torch.from_numpy(np.asarray(points_mm, np.float32))[:, None, None]
        return points_mm + self.displacement(at)[:, 0, 0].double().numpy()

    def undone(self, points_mm: Points, tolerance_mm: float = 0.002) -> Points:
        """The points (N, 3) that the slide carries to the given ones.

        Half steps: the shear is steeper than 1, where the plain fixed-point iteration oscillates.

        Raises:
            ArithmeticError: the residual stays above the tolerance.
        """
        solution = np.array(points_mm, float)
        left = np.arange(len(solution))
        for _ in range(300):
            residual = points_mm[left] - self(solution[left])
            open_ = np.abs(residual).max(1, initial=0.0) > tolerance_mm
            left, residual = left[open_], residual[open_]
            if len(left) == 0:
                return solution
            solution[left] += 0.5 * residual
        raise ArithmeticError(f"the lungs fold: residual {np.abs(residual).max():.2f} mm")


def find_pleura(hu: NDArray, body: NDArray[np.bool_], grid: Grid) -> Pleura | None:
    """Where the lungs of an axis-aligned CT (D, H, W) of some 4 mm can slide; None if nowhere."""
    lungs = _large((hu < -550) & body, LEAST_LUNG_MM3 / float(np.prod(grid.spacing_mm)))
    if not lungs.any():
        return None
    low, high = (f(np.argwhere(lungs), 0) for f in (np.min, np.max))
    low, high = np.maximum(low - 4, 0), np.minimum(high + 5, lungs.shape)
    cut = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    lungs, body, grid = lungs[cut], body[cut], grid.cropped(low, high - low)
    # Vessels and airways move with the lung; a mass at its border counts as wall.
    lungs |= ndimage.binary_closing(lungs, iterations=2) & body
    spacing = np.array(grid.spacing_mm)[::-1]
    inner, outer = (ndimage.distance_transform_edt(m, spacing) for m in (lungs, ~lungs))
    depth = np.clip(inner, 0, FLAT_MM) - np.clip(outer, 0, FLAT_MM)
    depth = ndimage.gaussian_filter(depth, SMOOTH_VOXELS)
    unit = np.stack(_tangent(depth, spacing)) * np.clip(depth / LAYER_MM, 0, 1)
    unit = _eased_where_it_folds((unit * _freedom(lungs, spacing)).astype(np.float32), spacing)
    return Pleura(grid, torch.from_numpy(unit)[None]) if unit.any() else None


def _large(mask: NDArray[np.bool_], least: float) -> NDArray[np.bool_]:
    """The connected parts of at least so many voxels."""
    labels, count = ndimage.label(mask)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = 0
    return (sizes >= least)[labels]


def _tangent(depth_mm: NDArray, spacing_zyx: NDArray) -> tuple[NDArray, ...]:
    """The z direction (x, y, z components) without its part across the wall."""
    z, y, x = np.gradient(depth_mm, *spacing_zyx)
    length = np.sqrt(x**2 + y**2 + z**2)
    out = z * np.clip(length / 0.5, 0, 1) / np.maximum(length, 1e-3) ** 2  # nothing in the middle
    return -x * out, -y * out, 1 - z * out


def _freedom(lungs: NDArray[np.bool_], spacing_zyx: NDArray) -> NDArray:
    """Share (D, H, W) in [0, 1] of the sliding: none where the lung is held, most at its base."""
    right = np.maximum.accumulate(lungs, 2)
    left = np.maximum.accumulate(lungs[..., ::-1], 2)[..., ::-1]
    held = right & left & ~lungs  # lung on both sides of it: mediastinum, and the liver's dome
    free = np.ones(lungs.shape)
    if held.any():
        free = np.clip(ndimage.distance_transform_edt(~held, spacing_zyx) / TETHER_MM, 0, 1)
    planes = np.flatnonzero(lungs.any((1, 2)))
    height = (np.arange(len(lungs)) - planes[0]) / max(1, planes[-1] - planes[0])
    growing = 1 - (1 - APEX_SHARE) * np.clip(height, 0, 1)
    return ndimage.gaussian_filter(free**2 * (3 - 2 * free), 1.5) * growing[:, None, None]


def _eased_where_it_folds(unit: NDArray, spacing_zyx: NDArray) -> NDArray:
    """The field with less sliding about places that would fold at `LARGEST_MM` up or down."""
    for _ in range(40):
        slope = _slopes(unit, spacing_zyx)
        folds = np.zeros(unit.shape[1:], bool)
        for amplitude in (-LARGEST_MM, LARGEST_MM):
            change = _volume_change(amplitude * slope).min(0)
            folds |= np.pad(change, ((0, 1),) * 3, constant_values=1.0) < LEAST_VOLUME_CHANGE
        if not folds.any():
            return unit
        near = ndimage.gaussian_filter(folds.astype(np.float32), 2.0)
        unit = unit * (1 - np.clip(4 * near, 0, 0.5))
    return np.zeros_like(unit)


def _slopes(unit: NDArray, spacing_zyx: NDArray) -> NDArray:
    """Derivatives (3, 3, 2, D-1, H-1, W-1) of (x, y, z) along (x, y, z), at two cell corners."""
    columns = []
    for axis in (3, 2, 1):
        step = np.diff(unit, axis=axis) / spacing_zyx[axis - 1]
        others = [a for a in (1, 2, 3) if a != axis]
        corners = []
        for kept in (slice(None, -1), slice(1, None)):
            cut = [slice(None)] * 4
            for other in others:
                cut[other] = kept
            corners.append(step[tuple(cut)])
        columns.append(np.stack(corners, 1))
    return np.stack(columns, 1)


def _volume_change(slope: NDArray) -> NDArray:
    """Determinant of the identity plus slopes (3, 3, ...)."""
    a, b, c = slope[0, 0] + 1, slope[0, 1], slope[0, 2]
    d, e, f = slope[1, 0], slope[1, 1] + 1, slope[1, 2]
    g, h, i = slope[2, 0], slope[2, 1], slope[2, 2] + 1
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
