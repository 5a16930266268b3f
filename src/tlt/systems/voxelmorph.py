"""VoxelMorph on whole CTs from the affine prior: ``--tracker voxelmorph``.

The network (`tlt.model.voxelmorph`) sees what both scans show, all at once, and each lesion follows
the displacement at its prior: the template is fixed, so no inverse is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tlt.model.weights import LoadedModel, inference_network, precision_on, tensor_on
from tlt.systems.base import WHOLE_MM, AlignedPair, Location, Progress
from tlt.systems.network import seen_through
from tlt.systems.warp import Warp, box_of, followed, seen_by_both
from tlt.volume import AIR_HU, Volume

AROUND_MM = 32.0  # of the follow-up about what both scans show: what moved out of the baseline's
TILE_VOXELS = 8_000_000  # with their halo, a voxel of the displacement's step: below 3 GiB


class VoxelMorphSystem:
    """The displacement of the common field of view in one go."""

    name = "voxelmorph"
    margin_mm = WHOLE_MM

    def __init__(self, model: LoadedModel, device: str = "cpu", bf16: bool = False) -> None:
        self.model_name: str | None = model.name
        self.weights_sha256: str | None = model.sha256
        self.config = model.network.config
        self.spacing_mm = self.config.spacing_mm
        self.network = inference_network(model.network, bf16).to(device)
        self.device, self.bf16 = device, bf16

    def locate(self, pair: AlignedPair, progress: Progress | None = None) -> list[Location]:
        """The priors moved by the displacement."""
        if progress is not None:
            progress("displacement", 0.0)
        located = followed(pair, self.register(pair.template, pair.search, progress))
        if progress is not None:
            progress("displacement", 1.0)
        return located

    def register(self, template: Volume, search: Volume, progress: Progress | None = None) -> Warp:
        """The warp from a template to a search image on the same grid; NaN is what nobody saw.

        Where they share nothing the warp is zero.
        """
        box = self._box(template, search)
        if box is None:
            return Warp.zero(template.grid)
        images = [self._tensor(v.voxels[box]) for v in (seen_through(template, search), search)]
        parts = []
        for low, high, kept in self._tiles(images[0].shape[2:]):
            parts.append(self._displacement(*(image[:, :, low:high] for image in images))[kept])
            if progress is not None:
                progress("displacement", high / images[0].shape[2])
        step = self.config.flow_step
        displacement = np.concatenate(parts)
        grid = template.grid.cropped([part.start for part in box], displacement.shape[:3])
        x, y, z = (step * spacing for spacing in grid.spacing_mm)
        return Warp(displacement, replace(grid, spacing_mm=(x, y, z)))

    def _box(self, template: Volume, search: Volume) -> tuple[slice, ...] | None:
        """What both saw, and some of the follow-up about it; None where they share nothing.

        It does not depend on the grid, which depends on the lesions.
        """
        both = seen_by_both(template, search)
        if not both.any():
            return None
        around = round(AROUND_MM / self.spacing_mm)
        return tuple(
            slice(max(common.start - around, own.start), min(common.stop + around, own.stop))
            for common, own in zip(box_of(both), box_of(~np.isnan(search.voxels)), strict=True)
        )

    def _tiles(self, shape_zyx: torch.Size) -> Iterator[tuple[int, int, slice]]:
        """First and last plane of each tile with its halo, and which of its displacements count."""
        depth, height, width = shape_zyx
        halo, coarsest, step = self.config.halo, self.config.coarsest, self.config.flow_step
        most = TILE_VOXELS * step // (height * width)
        thick = depth if depth <= most else max(coarsest, (most - 2 * halo) // coarsest * coarsest)
        for start in range(0, depth, thick):
            low, stop = max(0, start - halo), min(depth, start + thick)
            kept = slice((start - low) // step, -(-(stop - low) // step))
            yield low, min(depth, start + thick + halo), kept

    @torch.inference_mode()
    def _displacement(self, template: Tensor, search: Tensor) -> NDArray[np.float32]:
        """The displacement (d, h, w, 3) in mm as (x, y, z) of a tile (1, 1, D, H, W)."""
        with precision_on(self.device, self.bf16):
            flow = self.network(template, search)[0]
        return flow.permute(1, 2, 3, 0).cpu().numpy()

    def _tensor(self, voxels: NDArray[np.float32]) -> Tensor:
        return tensor_on(np.nan_to_num(voxels, nan=AIR_HU), self.device)[None, None]
