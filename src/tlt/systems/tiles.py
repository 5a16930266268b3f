"""Dense outputs of a network over a whole volume, tile by tile along z."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from tlt.volume import AIR_HU, Volume

TILE_VOXELS = 16_000_000


def tiled(
    volume: Volume,
    encode: Callable[[Tensor], Tensor],
    step: int,
    stride: int,
    halo: int,
    progress: Callable[[float], None] | None = None,
) -> Tensor:
    """What ``encode`` makes of the volume, (C, d, h, w): place k lies on voxel k * ``step``.

    ``encode`` maps images (1, 1, D, H, W) to (C, D / step, ...); it is the same wherever a tile
    starts on a multiple of ``stride`` and reaches ``halo`` voxels beyond what is kept of it. What
    was not seen (NaN) is air.
    """
    depth, height, width = volume.voxels.shape
    thick = max(stride, int(TILE_VOXELS / (height * width)) // stride * stride)
    parts = []
    for start, low, high in _tiles(depth, thick, halo + -halo % stride):
        voxels = np.nan_to_num(volume.voxels[low:high], nan=AIR_HU).astype(np.float32)
        outputs = encode(torch.from_numpy(voxels)[None, None])
        first = (start - low) // step
        parts.append(outputs[:, first : first + -(-min(thick, depth - start) // step)])
        if progress is not None:
            progress(min(1.0, (start + thick) / depth))
    return torch.cat(parts, 1)


def _tiles(depth: int, thick: int, halo: int) -> Iterator[tuple[int, int, int]]:
    """Where each tile's own part starts, and the slices [low, high) that it sees."""
    for start in range(0, depth, thick):
        yield start, max(0, start - halo), min(depth, start + thick + halo)
