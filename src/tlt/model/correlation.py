"""Cross-correlation of a lesion's features with the search image's, channel by channel.

The kernel is centred on the token nearest to the lesion. What is left between the two, at most
half a token along each axis, is kept: a peak at a search token then means the lesion's centre at
the token plus that rest, so nothing is lost to rounding and nothing is blurred by interpolation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tlt.model.network import TokenMap

Triple = tuple[int, int, int]


@dataclass
class Cubes:
    """Equal boxes of tokens about Q points.

    Attributes:
        features: (Q, C, d, h, w); zero outside the map.
        positions_mm: (Q, d, h, w, 3) where the tokens lie.
        seen: (Q, d, h, w) whether the map has the token.
        center_mm: (Q, 3) the middle token.
    """

    features: Tensor
    positions_mm: Tensor
    seen: Tensor
    center_mm: Tensor


def cubes_about(tokens: TokenMap, points_mm: Tensor, half_zyx: Triple) -> Cubes:
    """The tokens around those nearest to points (Q, 3), ``half_zyx`` on each side of them."""
    size = torch.tensor(tokens.shape_zyx[::-1], device=points_mm.device)
    nearest = ((points_mm - tokens.origin_mm) / tokens.token_mm).round().long()
    nearest = torch.minimum(nearest.clamp(min=0), size - 1)
    parts = [_box(tokens.features, place[::-1], half_zyx) for place in nearest.tolist()]
    steps = [torch.arange(-h, h + 1, device=points_mm.device) for h in half_zyx]
    offset = torch.stack(torch.meshgrid(*steps, indexing="ij"), -1).flip(-1)  # d, h, w, xyz
    index = nearest[:, None, None, None] + offset
    return Cubes(
        torch.stack(parts),
        tokens.origin_mm + index * tokens.token_mm,
        ((index >= 0) & (index < size)).all(-1),
        tokens.origin_mm + nearest * tokens.token_mm,
    )


def _box(features: Tensor, center_zyx: list[int], half_zyx: Triple) -> Tensor:
    """A box (C, d, h, w) of features (C, D, H, W), padded with zeros."""
    cut, padding = [slice(None)], []
    for center, half, size in zip(center_zyx, half_zyx, features.shape[1:], strict=True):
        low, high = center - half, center + half + 1
        cut.append(slice(max(low, 0), min(high, size)))
        padding.append((max(-low, 0), max(high - size, 0)))
    return F.pad(features[tuple(cut)], [side for pair in padding[::-1] for side in pair])


def middle(values: Tensor, half_zyx: Triple) -> Tensor:
    """The middle of the last three axes, ``half_zyx`` on each side of the centre."""
    cut = [
        slice(size // 2 - half, size // 2 + half + 1)
        for size, half in zip(values.shape[-3:], half_zyx, strict=True)
    ]
    return values[..., cut[0], cut[1], cut[2]]


def correlate(windows: Tensor, kernels: Tensor, half_zyx: Triple) -> Tensor:
    """Correlation (Q, C, D, H, W) of each lesion's window with its own kernel, a channel at a time.

    The result reaches ``half_zyx`` on each side of the window's middle. windows (Q, C, ...) are
    larger by at least half of kernels (Q, C, d, h, w), whose sides are odd. The sum over the kernel
    is divided by its number of tokens, so that kernels of any size give values of one scale.
    """
    reach = tuple(half + size // 2 for half, size in zip(half_zyx, kernels.shape[2:], strict=True))
    part = middle(windows, reach)  # type: ignore[arg-type]
    with torch.autocast(part.device.type, enabled=False):
        found: Tensor = _Correlation.apply(part.float(), kernels.float())
    return found / kernels[0, 0].numel()


class _Correlation(torch.autograd.Function):
    """Valid correlation with both gradients written as correlations again.

    On a CPU the backward pass of a grouped 3D convolution is some four times slower.
    """

    @staticmethod
    def forward(ctx: Any, windows: Tensor, kernels: Tensor) -> Tensor:
        ctx.save_for_backward(windows, kernels)
        return _grouped(windows, kernels)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        windows, kernels = ctx.saved_tensors
        (gradient,) = gradients
        padding = [size - 1 for size in kernels.shape[2:]]
        return (
            _grouped(gradient, kernels.flip(2, 3, 4), padding),
            _grouped(windows, gradient),
        )


def _grouped(images: Tensor, kernels: Tensor, padding: list[int] | int = 0) -> Tensor:
    """Each image (Q, C, ...) correlated with its own kernel (Q, C, ...)."""
    count = images.shape[:2]
    found = F.conv3d(
        images.flatten(0, 1)[None],
        kernels.flatten(0, 1)[:, None],
        padding=padding,
        groups=count.numel(),
    )
    return found[0].unflatten(0, count)
