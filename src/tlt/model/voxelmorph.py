"""VoxelMorph: a U-Net sees both images of an aligned pair and gives a displacement everywhere.

Source: Balakrishnan et al., *An Unsupervised Learning Model for Deformable Medical Image
Registration*, CVPR 2018: the larger network, VoxelMorph-2. Encoder of strided convolutions, decoder
of nearest-neighbour upsampling and skips, LeakyReLU 0.2, no norms, a last convolution that starts
near zero. The displacement is regressed as there, not integrated from a velocity: tracking carries
points one way and needs no inverse, and lungs that slide do not move by a smooth flow.

What differs (docs/decisions/0014-voxelmorph.md): the last two convolutions of the decoder work at
half resolution, so the displacement comes every second voxel (``flow_step`` 1 is the published
network); images enter in the windows that all our networks see.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tlt.model.backbone import windowed
from tlt.model.presets import COMPACT

# Along each axis of the coarsest level: with two, torch 2.13 leaves the bf16 gradient of a
# convolution's weights unwritten on a CPU (docs/decisions/0014-voxelmorph.md).
LEAST_PLACES = 3

LEAK = 0.2
FLOW_SIGMA = 1e-5  # of the first weights of the last convolution: it starts from the prior


@dataclass(frozen=True)
class VoxelMorphConfig:
    """Everything that shapes a VoxelMorph; its weights carry it.

    Attributes:
        name: preset it started from.
        spacing_mm: isotropic voxel size both images are resampled to.
        windows_hu: one input channel of each image for each window (low, high), clipped to [0, 1].
        encoder: channels of the convolutions of stride 2.
        decoder: channels of one convolution a level on the way up, then of those at the end.
        flow_step: voxels between places of the displacement: 1 (published) or 2.
    """

    name: str
    spacing_mm: float = 2.0
    windows_hu: tuple[tuple[float, float], ...] = ((-1000.0, 400.0),)
    encoder: tuple[int, ...] = (16, 32, 32, 32)
    decoder: tuple[int, ...] = (32, 32, 32, 32, 32, 16, 16)
    flow_step: Literal[1, 2] = 1

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  (a file of another version is told)

    @property
    def stride(self) -> int:
        """Crops may have any shape: the network fills them up itself."""
        return 1

    @property
    def coarsest(self) -> int:
        """Voxels between places of the coarsest level."""
        return 2 ** len(self.encoder)

    @property
    def halo(self) -> int:
        """Voxels on each side that a displacement depends on, in whole places of the coarsest."""
        return 5 * self.coarsest  # the reach of all convolutions and doublings is 67

    @property
    def flow_mm(self) -> float:
        """Millimetres between places of the displacement."""
        return self.flow_step * self.spacing_mm


PRESETS = {
    "published": VoxelMorphConfig("published"),
    "compact": VoxelMorphConfig(
        "compact",
        spacing_mm=COMPACT["spacing_mm"],
        windows_hu=COMPACT["windows_hu"],
        flow_step=2,
    ),
}


class VoxelMorph(nn.Module):
    """The displacement from a template to a search image on the same grid."""

    presets: ClassVar[Mapping[str, VoxelMorphConfig]] = PRESETS

    def __init__(self, config: VoxelMorphConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = UNet(config)
        self.flow = nn.Conv3d(config.decoder[-1], 3, 3, padding=1)
        nn.init.normal_(self.flow.weight, std=FLOW_SIGMA)
        nn.init.zeros_(self.flow.bias)  # type: ignore[arg-type]

    def forward(self, template_hu: Tensor, search_hu: Tensor) -> Tensor:
        """The displacement (B, 3, d, h, w) in mm as (x, y, z), of images (B, 1, D, H, W) in HU.

        That at index k belongs to voxel k * ``flow_step``, in as many places as lie in the images.
        Images are filled up with air to multiples of the coarsest level.
        """
        images = [windowed(hu, self.config.windows_hu, True) for hu in (template_hu, search_hu)]
        both = torch.cat(images, 1)
        shape = both.shape[2:]
        coarsest = self.config.coarsest
        lacking = [max(-side % coarsest, LEAST_PLACES * coarsest - side) for side in shape]
        both = F.pad(both, [n for after in lacking[::-1] for n in (0, after)])
        features = self.backbone(both.contiguous(memory_format=torch.channels_last_3d))
        voxels = self.flow(features).float()
        d, h, w = (-(-side // self.config.flow_step) for side in shape)
        return voxels[..., :d, :h, :w] * self.config.spacing_mm


class UNet(nn.Module):
    """Features (B, C, D/s, H/s, W/s) of images (B, c, D, H, W); s is 1 or 2, the flow's step."""

    def __init__(self, config: VoxelMorphConfig) -> None:
        super().__init__()
        depth, full = len(config.encoder), config.flow_step == 1
        levels = (2 * len(config.windows_hu), *config.encoder)
        self.down = nn.ModuleList(layer(inputs, outputs, 2) for inputs, outputs in pairwise(levels))
        self.up, width = nn.ModuleList(), levels[-1]
        for outputs, skip in zip(config.decoder[:depth], (*levels[-2:0:-1], 0), strict=True):
            self.up.append(layer(width, outputs))
            width = outputs + skip
        self.at_half = layer(width, config.decoder[depth])
        widths = (config.decoder[depth] + (levels[0] if full else 0), *config.decoder[depth + 1 :])
        self.end = nn.Sequential(*(layer(inputs, outputs) for inputs, outputs in pairwise(widths)))
        self.full = full

    def forward(self, images: Tensor) -> Tensor:
        kept = [images]
        for down in self.down:
            kept.append(down(kept[-1]))
        x = kept.pop()
        for up in self.up[:-1]:  # type: ignore[union-attr]
            x = joined(up(x), kept.pop())
        x = self.at_half(self.up[-1](x))
        return self.end(joined(x, images) if self.full else x)


def layer(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A 3x3x3 convolution and LeakyReLU; place k of its output lies at k * stride.

    Weights start as in the published code (He): with torch's own start, and no norms, eleven layers
    leave the images a thousandth of what they were.
    """
    convolution = nn.Conv3d(inputs, outputs, 3, stride, 1)
    nn.init.kaiming_normal_(convolution.weight, LEAK)
    nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
    return nn.Sequential(convolution, nn.LeakyReLU(LEAK))


def joined(coarse: Tensor, fine: Tensor) -> Tensor:
    """Features of two levels at the resolution of the finer one."""
    return torch.cat([F.interpolate(coarse, scale_factor=2.0), fine.to(coarse.dtype)], 1)
