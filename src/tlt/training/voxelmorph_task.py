"""What VoxelMorph learns: to lay the search image on the template, without any known truth.

Source: Balakrishnan et al., CVPR 2018, Section 3.3: local normalised cross-correlation in windows
of 9^3 voxels, and the diffusion of the displacement, lambda 1.0. Only what both images show counts.
Optimiser and schedule are those of all networks of Table 1 (configs/table1), not Adam at 1e-4.
Nothing here looks at the lesions; they serve to judge it.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from tlt.data.pairs import TrainingPair
from tlt.model.backbone import windowed
from tlt.model.network import TokenMap
from tlt.model.voxelmorph import VoxelMorph
from tlt.training.task import Terms, TrackingTask
from tlt.volume import AIR_HU

WINDOW = 9  # voxels a side of the local correlation
FLAT = 1e-8  # product of variances: tones that vary by less than 0.01 say little


class VoxelMorphTask(TrackingTask):
    """``ncc`` is 1 minus the squared local correlation, a mean over what both images show."""

    weights: ClassVar[dict[str, float]] = {"ncc": 1.0, "diffusion": 1.0}

    def centers(self, network: VoxelMorph, pair: TrainingPair, bf16: bool) -> Tensor:
        return pair.centers_mm + displacement(network, pair, bf16).sample(pair.centers_mm)

    def loss_terms(self, network: VoxelMorph, pair: TrainingPair, bf16: bool) -> Terms:
        flow = displacement(network, pair, bf16)
        spacing, windows = network.config.spacing_mm, network.config.windows_hu
        fixed, moving = (
            windowed(crop[None], windows, True)[0] for crop in (pair.template, pair.search)
        )
        search = torch.cat([moving, seen(pair.search).to(moving)])
        points = TokenMap(pair.template, pair.template_origin_mm, spacing).positions_mm()
        there = points + flow.sample(points)
        sampled = crop_map(search, pair.search_origin_mm, spacing).sample(there)
        moved, shown = sampled.mT.unflatten(1, fixed.shape[1:]).split([len(moving), 1])
        common = seen(pair.template) & (shown.detach() > 0.99)
        return {
            "ncc": 1 - squared_correlation(fixed, moved, common),
            "diffusion": diffusion(flow),
        }


def displacement(network: VoxelMorph, pair: TrainingPair, bf16: bool) -> TokenMap:
    """The displacement of a pair in mm, (x, y, z) as channels, over the template crop.

    The search crop is resampled on the template's grid first, air where it does not reach.
    """
    spacing, shape = network.config.spacing_mm, pair.template.shape[1:]
    points = TokenMap(pair.template, pair.template_origin_mm, spacing).positions_mm()
    around = crop_map(pair.search - AIR_HU, pair.search_origin_mm, spacing)
    search = around.sample(points).mT.unflatten(1, shape) + AIR_HU
    with torch.autocast(search.device.type, torch.bfloat16, enabled=bf16):
        flow = network(pair.template[None], search[None])[0]
    return TokenMap(flow, pair.template_origin_mm, network.config.flow_mm)


def crop_map(crop: Tensor, origin_mm: Tensor, spacing_mm: float) -> TokenMap:
    """A crop (C, D, H, W) and where it lies, with a layer of zeros about it: beyond it all is 0."""
    return TokenMap(F.pad(crop, [1] * 6), origin_mm - spacing_mm, spacing_mm)


def seen(crop_hu: Tensor) -> Tensor:
    """Which voxels (1, D, H, W) of a crop the scanner saw: it pads whole planes with one value."""
    shown = torch.ones_like(crop_hu, dtype=torch.bool)
    for axis in (1, 2, 3):
        others = [other for other in (1, 2, 3) if other != axis]
        shown = shown & (crop_hu.amax(others, keepdim=True) > crop_hu.amin(others, keepdim=True))
    return shown


def squared_correlation(first: Tensor, second: Tensor, common: Tensor) -> Tensor:
    """Squared local correlation in [0, 1] of tones (C, D, H, W), a mean over common (1, D, H, W).

    Sums run over the common voxels of each window alone. Zero where nothing is common.
    """
    weight = common.to(first)
    a, b = weight * first, weight * second
    sums = box_mean(torch.cat([weight, a, b, a * first, b * second, a * second]))
    share, *rest = sums.split([1] + [len(first)] * 5)
    mean_a, mean_b, square_a, square_b, product = (part / share.clamp(min=1e-6) for part in rest)
    spread_a = (square_a - mean_a.square()).clamp(min=0)
    spread_b = (square_b - mean_b.square()).clamp(min=0)
    squared = (product - mean_a * mean_b).square() / (spread_a * spread_b + FLAT)
    return (weight * squared).sum() / (len(first) * weight.sum()).clamp(min=1)


def box_mean(channels: Tensor) -> Tensor:
    """Means (C, D, H, W) over windows of `WINDOW` voxels a side; zeros beyond the border.

    A product with a band matrix along each axis: a third of the time of pooling.
    """
    for axis in (1, 2, 3):
        index = torch.arange(channels.shape[axis], device=channels.device)
        band = ((index[:, None] - index).abs() <= WINDOW // 2).to(channels) / WINDOW
        channels = (channels.transpose(axis, -1) @ band).transpose(axis, -1)
    return channels


def diffusion(flow: TokenMap) -> Tensor:
    """Mean square of the displacement's slopes, mm a mm, over places, components and axes."""
    slopes = [flow.features.diff(dim=axis) / flow.token_mm for axis in (1, 2, 3)]
    return torch.stack([slope.square().mean() for slope in slopes]).mean()
