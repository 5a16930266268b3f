"""What a scanner shows of the patient: a box of planes, and within them a circle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tlt.geometry import Grid, Points
from tlt.volume import AIR_HU


@dataclass(frozen=True)
class Circle:
    """The circle of reconstruction: a cylinder along z in the scan's frame.

    Attributes:
        middle_mm: LPS x and y of its axis.
        radius_mm: its radius.
        padding_hu: what stands outside it.
    """

    middle_mm: tuple[float, float]
    radius_mm: float
    padding_hu: float

    def holds(self, points_mm: Points) -> NDArray[np.bool_]:
        """Whether points (..., 3) lie inside."""
        offset = points_mm[..., :2] - np.array(self.middle_mm)
        return np.square(offset).sum(-1) <= self.radius_mm**2


def draw_circle(rng: np.random.Generator, body_mm: Points) -> Circle:
    """A circle about a body's points (N, 3), somewhat too small: arms and skin are cut at most."""
    low, high = body_mm.min(0), body_mm.max(0)
    middle = (low + high)[:2] / 2 + rng.normal(0, 5, 2)
    radius = rng.uniform(0.88, 1.0) * (high - low)[:2].max() / 2
    padding = float(rng.choice([-1000.0, -1024.0]))
    return Circle((float(middle[0]), float(middle[1])), float(radius), padding)


def pad_outside(voxels: NDArray, points_mm: Points, circle: Circle | None) -> None:
    """Set voxels (D, H, W) at points (D or 1, H, W, 3) outside the circle to its padding."""
    if circle is not None:
        voxels[np.broadcast_to(~circle.holds(points_mm), voxels.shape)] = circle.padding_hu


def draw_box(rng: np.random.Generator, grid: Grid, share: float) -> tuple[Points, Points]:
    """Lower and upper ends (x, y, z) in mm of what a scanner shows of a crop."""
    low, high = grid.bounds_mm()
    cut = rng.uniform(0.05, 0.35, (2, 3)) * (high - low)
    ends = np.where(rng.random((2, 3)) < share, cut, -np.inf)
    return low + ends[0], high - ends[1]


def within_box(
    voxels: NDArray[np.float32],
    seen_zyx: tuple[NDArray[np.bool_], ...],
    grid: Grid,
    box: tuple[Points, Points],
) -> tuple[NDArray[np.bool_], ...]:
    """The planes that are also in a box; the voxels outside it become air, in place."""
    planes = []
    for axis_zyx, seen in enumerate(seen_zyx):
        axis = 2 - axis_zyx
        place = grid.origin_mm[axis] + np.arange(len(seen)) * grid.spacing_mm[axis]
        inside = (place >= box[0][axis]) & (place <= box[1][axis])
        np.moveaxis(voxels, axis_zyx, 0)[~inside] = AIR_HU
        planes.append(seen & inside)
    return tuple(planes)
