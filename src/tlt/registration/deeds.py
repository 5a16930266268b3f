"""Deformable registration by dense displacement search: deeds.

Source: Heinrich et al., *MRF-Based Deformable Registration and Ventilation Estimation of Lung CT*,
IEEE TMI 2013 (dense displacement sampling, minimum spanning tree, symmetric transformations), with
the descriptors of MICCAI 2013 and the settings of the authors' code, deedsBCV. Each round searches
all displacements of a coarse grid, in both directions, from where the round before ended.

What differs from deedsBCV: control points lie in the middle of the cells whose voxels they stand
for, not at their first corner; a shift is composed with the displacement at the place it leads to
(there they are added); every second voxel of a cell counts along all three axes, not two; the last
cells reach beyond the image instead of leaving a rest out; what a scanner did not see costs the
same wherever it lies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from tlt.registration.dense_displacement import displacement_costs
from tlt.registration.mind import UNSEEN, codes
from tlt.registration.spanning_tree import best_shifts, spanning_tree

ALPHA = 1.6  # how much smoothness counts
CONSISTENCY_ROUNDS = 10


@dataclass(frozen=True)
class Level:
    """One round of the search, in voxels.

    Attributes:
        cell: distance of the control points (G).
        radius: how many steps are searched each way along an axis (L).
        step: distance of two displacements (Q).
    """

    cell: int
    radius: int
    step: int

    @property
    def mind_step(self) -> int:
        """Distance of the neighbours of MIND-SSC."""
        return self.step // 2 + 1

    @property
    def stride(self) -> int:
        """Of the voxels of a cell that count."""
        return 2 if self.cell > 4 else 1

    @property
    def data_weight(self) -> float:
        """Of a bit, where a squared difference of one step between neighbours weighs 1."""
        return 0.5 * self.cell / (ALPHA * self.step)


LEVELS = (Level(8, 8, 5), Level(7, 7, 4), Level(6, 6, 3), Level(5, 5, 2), Level(4, 4, 1))


@dataclass(frozen=True, eq=False)
class Scan:
    """An image without gaps, and what of it is true.

    Attributes:
        image: (D, H, W) HU.
        seen: (D, H, W) bool.
    """

    image: Tensor
    seen: Tensor

    @staticmethod
    def filled(image: Tensor) -> Scan:
        """The scan of an image (D, H, W) with NaN where nothing was seen: as the nearest voxel."""
        unseen = image.isnan().numpy()
        if not unseen.any():
            return Scan(image, ~image.isnan())
        nearest = ndimage.distance_transform_edt(
            unseen, return_distances=False, return_indices=True
        )
        return Scan(torch.from_numpy(image.numpy()[tuple(nearest)]), torch.from_numpy(~unseen))

    def codes(self, step: int) -> NDArray[np.int64]:
        """MIND-SSC (D, H, W), `UNSEEN` where nothing was seen."""
        return codes(self.image, step).masked_fill_(~self.seen, UNSEEN).numpy()

    def warped(self, displacement: Tensor) -> Scan:
        """The scan as seen through a displacement (3, D, H, W) in voxels."""
        index = _voxels(displacement.shape[1:]) + displacement
        last = torch.tensor(self.image.shape)[:, None, None, None] - 1
        within = ((index >= -0.5) & (index <= last + 0.5)).all(0)
        image, seen = sampled(torch.stack([self.image, self.seen.float()]), index)
        return Scan(image, within & (seen > 0.99))


def register(
    template: Tensor,
    search: Tensor,
    levels: Sequence[Level] = LEVELS,
    report: Callable[[float], None] | None = None,
) -> Tensor:
    """Displacement (3, D, H, W), (z, y, x) in voxels, from a template to a search image.

    Both are (D, H, W) of isotropic voxels, NaN where nothing was seen. ``report`` is told the share
    of rounds that are done. The two directions are computed side by side where torch may use two
    threads; the answer is the same.
    """
    shape = template.shape
    scans = [Scan.filled(image) for image in (template, search)]
    fields, cell = (torch.zeros(3, 1, 1, 1),) * 2, max(shape)
    with ThreadPoolExecutor(min(2, torch.get_num_threads())) as pool:
        for done, level in enumerate(levels):
            starts = [_regridded(field, cell, level.cell, shape) for field in fields]
            forward, backward = pool.map(_estimate, scans, scans[::-1], starts, [level] * 2)
            fields, cell = consistent(forward, backward, level.cell), level.cell
            if report is not None:
                report((done + 1) / len(levels))
    return _dense(fields[0], cell, shape)


def _estimate(fixed: Scan, moving: Scan, start: Tensor, level: Level) -> Tensor:
    """Displacement (3, Z, Y, X) of the control points, in voxels, after one round from a start."""
    warped = moving.warped(_dense(start, level.cell, fixed.image.shape))
    costs = displacement_costs(
        fixed.codes(level.mind_step),
        warped.codes(level.mind_step),
        level.cell,
        level.radius,
        level.step,
        level.stride,
    )
    costs *= level.data_weight
    tree = spanning_tree(fixed.image, level.cell)
    nodes = (start / level.step).flatten(1).mT.contiguous().numpy()
    chosen = best_shifts(costs.reshape(-1, *costs.shape[3:]), tree, nodes)
    steps = torch.from_numpy(chosen.T).float().reshape(start.shape) - level.radius
    shift = steps * level.step
    return shift + sampled(start, _voxels(start.shape[1:]) + shift / level.cell)


def consistent(forward: Tensor, backward: Tensor, cell: int) -> tuple[Tensor, Tensor]:
    """Two displacements (3, Z, Y, X) of control points, each drawn to the inverse of the other.

    Both are in voxels, as are the ``cell``s that lie between control points.
    """
    there, back = forward / cell, backward / cell
    points = _voxels(there.shape[1:])
    for _ in range(CONSISTENCY_ROUNDS):
        there, back = (
            (there - sampled(back, points + there)) / 2,
            (back - sampled(there, points + back)) / 2,
        )
    return there * cell, back * cell


def _dense(field: Tensor, cell: int, shape: Sequence[int]) -> Tensor:
    """A field (3, Z, Y, X) of control points, which lie amid their cells, at every voxel."""
    depth, height, width = shape
    wide = F.interpolate(field[None], scale_factor=cell, mode="trilinear")[0]
    return wide[:, :depth, :height, :width]


def _regridded(field: Tensor, cell: int, new_cell: int, shape: Sequence[int]) -> Tensor:
    """A field of control points at those of another cell, of an image (D, H, W)."""
    from_corner = (_voxels([-(-size // new_cell) for size in shape]) + 0.5) * new_cell
    return sampled(field, from_corner / cell - 0.5)


def sampled(channels: Tensor, index_zyx: Tensor) -> Tensor:
    """Channels (C, D, H, W) at (3, d, h, w): (C, d, h, w), trilinear; the border is repeated."""
    size = torch.tensor(channels.shape[:0:-1])
    place = (2 * index_zyx.flip(0).movedim(0, -1) + 1) / size - 1
    return F.grid_sample(channels[None], place[None], padding_mode="border", align_corners=False)[0]


def _voxels(shape: Sequence[int]) -> Tensor:
    """Indices (3, *shape) of all voxels."""
    axes = [torch.arange(size, dtype=torch.float32) for size in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))
