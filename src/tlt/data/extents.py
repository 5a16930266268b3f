"""The true extent of a lesion in a simulated scan: what a perfect outline would hold.

An extent is 1 inside and 0 outside, on a grid of its own: axial slices about a millimetre apart and
half a millimetre in the plane (coarser for large lesions), whatever the scan's slices. A painted
lesion ends where its margin is half of it; a real one where the mask drawn in the baseline ends,
carried along by the motion.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from tlt.data.appearance import InsertedLesion, surface_mm
from tlt.data.motion import Motion
from tlt.geometry import AffineTransform, Grid
from tlt.volume import Volume

STILL = Motion(AffineTransform.identity(), ())  # what the baseline is seen through

Inside = Callable[[Tensor], NDArray[np.bool_]]  # of baseline points (..., 3)


def inside_painted(lesion: InsertedLesion) -> Inside:
    """Whether baseline points lie in a painted lesion."""

    def inside(points_mm: Tensor) -> NDArray[np.bool_]:
        offset = points_mm - torch.tensor(lesion.center_mm)
        return (offset.norm(dim=-1) < surface_mm(lesion, offset)).numpy()

    return inside


def inside_mask(mask: Volume) -> Inside:
    """Whether baseline points lie in a mask (0 and 1), interpolated between its voxels."""
    return lambda points_mm: mask.sample(points_mm.numpy(), fill=0.0) >= 0.5


def true_extent(
    inside: Inside, motion: Motion, center_mm: ArrayLike, reach_mm: float
) -> Volume | None:
    """The extent about a point of a scan, which shows the baseline through ``motion``.

    ``reach_mm`` is half the side of the cube that holds it; None where nothing is inside.
    """
    plane = max(0.5, reach_mm / 60)
    side = 2 * int(np.ceil(reach_mm / plane)) + 1
    high = 2 * int(np.ceil(reach_mm / (2 * plane))) + 1
    grid = Grid.around(center_mm, (high, side, side), (plane, plane, 2 * plane))
    axes = (
        start + np.arange(count) * step
        for start, count, step in zip(grid.origin_mm, grid.size_xyz, grid.spacing_mm, strict=True)
    )
    there = inside(motion.pulled_axes(*axes))
    return Volume(there.astype(np.uint8), grid) if there.any() else None
