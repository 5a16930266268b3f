"""SSS, the sparse selection strategy (Section 3.1, Eq. 1): the lesion's tokens of the template.

The paper resizes a voxel-wise Gaussian to the feature grid by trilinear interpolation. Tokens lie
exactly on voxels here, where that interpolation returns the Gaussian itself, so it is evaluated at
the tokens. Departures: at least the best token is kept (a 3 mm nodule must not vanish), and no
token beyond ``reach_mm`` is (a huge mass would fill memory).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def gaussian(offsets_mm: Tensor, radius_mm: Tensor) -> Tensor:
    """G(c, r) of Eq. 1 at offsets (Q, N, 3) from the centre, for radii (Q,): (Q, N) in (0, 1]."""
    return torch.exp(-offsets_mm.square().sum(-1) / (12 * radius_mm.square()[:, None]))


class Selected(NamedTuple):
    """Template tokens of Q lesions, padded to the longest of them, L.

    tokens (Q, L, C); offsets_mm (Q, L, 3) from the lesion's centre; valid (Q, L);
    weight (Q, L), the Gaussian at each token.
    """

    tokens: Tensor
    offsets_mm: Tensor
    valid: Tensor
    weight: Tensor


def select_tokens(
    tokens: Tensor,
    positions_mm: Tensor,
    centers_mm: Tensor,
    radius_mm: Tensor,
    threshold: float,
    reach_mm: float,
) -> Selected:
    """The tokens where G > Tr, at least one a lesion.

    tokens (T, C) at positions_mm (T, 3); centers_mm (Q, 3); radius_mm (Q,).
    """
    offsets = positions_mm[None] - centers_mm[:, None]  # Q, T, 3
    weight = gaussian(offsets, radius_mm)
    near = offsets.abs().amax(-1) <= reach_mm
    return _gather(tokens, offsets, weight, (weight > threshold) & near)


def crop_tokens(
    tokens: Tensor,
    positions_mm: Tensor,
    centers_mm: Tensor,
    radius_mm: Tensor,
    half_side_mm: float,
) -> Selected:
    """The tokens of a cube of fixed size around the lesion: the template without SSS (TransT)."""
    offsets = positions_mm[None] - centers_mm[:, None]
    inside = offsets.abs().amax(-1) <= half_side_mm
    return _gather(tokens, offsets, gaussian(offsets, radius_mm), inside)


def _gather(tokens: Tensor, offsets: Tensor, weight: Tensor, chosen: Tensor) -> Selected:
    """Tokens from the nearest on, then masked copies of the nearest, which is always valid.

    The length is rounded up to a multiple of 16: a new shape at every call costs the CPU's kernel
    cache more than a few masked tokens.
    """
    length = min(-(-max(int(chosen.sum(1).max()), 1) // 16) * 16, chosen.shape[1])
    distance = offsets.square().sum(-1)
    behind = distance + distance.amax(1, keepdim=True) + 1.0  # farther than any that is chosen
    order = torch.where(chosen, distance, behind).topk(length, 1, largest=False).indices
    valid = chosen.gather(1, order)
    valid[:, 0] = True
    order = torch.where(valid, order, order[:, :1])
    picked_offsets = offsets.gather(1, order[..., None].expand(-1, -1, 3))
    return Selected(tokens[order], picked_offsets, valid, weight.gather(1, order))
