"""DLT, the Deep Lesion Tracker: ``--tracker dlt``, and ``dlt-mix`` with other weights.

Source: Cai et al., Deep Lesion Tracker, CVPR 2021. The image encoder gives features of both images;
the anatomy signal encoder multiplies into them what a heatmap says: of the lesion in the template,
of its affine prior in the search image, a Gaussian of four radii (their size factor n = 4). The
fast cross-correlation takes a small kernel about the lesion and a large one, which three
convolutions flatten along z, y and x; their maps become one heatmap, whose peak is the centre.

Departures: the compact backbone of all networks here, with a feature pyramid down to 4 mm, in
place of the 3D DenseFPN; the heatmap is evaluated at the tokens (it is smooth) and encoded there;
the correlations are means over the kernel, then normalised by a batch norm; the peak is the
maximum of a parabola through the best voxel and its neighbours, in place of the maximum of the
upsampled map. Kernels of 3 x 5 x 5 and 7 x 11 x 11 features. The single CTs of ``dlt-mix`` are
resized by a factor an axis, so they may be stretched (`tlt.data.pairs.AUGMENTED`), and lesions are
painted into them that may have grown in the second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tlt.model.backbone import convolution
from tlt.model.correlation import Cubes, Triple, correlate, cubes_about, middle
from tlt.model.network import Prediction, TokenMap
from tlt.model.presets import COMPACT
from tlt.model.siamese import (
    RARE_LOGIT,
    UNSEEN_LOGIT,
    SiameseConfig,
    SiameseNetwork,
    classifier,
    picked,
)


@dataclass(frozen=True)
class DLTConfig(SiameseConfig):
    """What shapes a DLT.

    Attributes:
        pyramid: channels of the features.
        signal: standard deviation of the anatomy signal in radii.
        local_kernel, global_kernel: tokens of the two kernels along z, y, x.
        jitter: share of a lesion's radius by which training displaces its centre at most.
    """

    pyramid: int = 32
    signal: float = 4.0
    local_kernel: Triple = (3, 5, 5)
    global_kernel: Triple = (7, 11, 11)
    jitter: float = 0.25

    @property
    def last_halving(self) -> int:
        """Number of the last stage that halves the resolution; features come from before it."""
        return max(stage for stage, step in enumerate(self.strides) if step == 2)

    @property
    def token_stride(self) -> int:
        """Voxels between neighbouring tokens."""
        return self.stride // 2

    @property
    def token_mm(self) -> float:
        """Millimetres between neighbouring tokens."""
        return self.token_stride * self.spacing_mm

    @property
    def halo(self) -> int:
        """As the backbone's, and a token each for upsampling and the convolution after it."""
        return super().halo + 2 * self.token_stride

    @property
    def kernel_reach(self) -> int:
        """Tokens on each side of the global kernel's middle, along its longest side."""
        return max(self.global_kernel) // 2


class AnatomySignalEncoder(nn.Module):
    """Features (Q, C, d, h, w) of a Gaussian heatmap, to be multiplied into those of an image."""

    def __init__(self, channels: int, hidden: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv3d(1, hidden, 3, padding=1, padding_mode="replicate")
        self.second = nn.Conv3d(hidden, channels, 1)
        nn.init.ones_(self.second.bias)  # type: ignore[arg-type]  # it starts by changing little

    def forward(self, cubes: Cubes, centers_mm: Tensor, sigma_mm: Tensor) -> Tensor:
        """The cubes' features under the signal of centres (Q, 3) and deviations (Q,)."""
        distance2 = (cubes.positions_mm - centers_mm[:, None, None, None]).square().sum(-1)
        heat = torch.exp(-distance2 / (2 * sigma_mm.square()[:, None, None, None]))
        return cubes.features * self.second(torch.relu(self.first(heat[:, None])))


class FastCrossCorrelation(nn.Module):
    """The correspondence maps (Q, 2 * C, ...) of a global and of a local kernel."""

    def __init__(self, channels: int, local_kernel: Triple, global_kernel: Triple) -> None:
        super().__init__()
        self.local_half = _halves(local_kernel)
        depth, height, width = global_kernel
        self.flatten = nn.ModuleList(
            _middle_slice(nn.Conv3d(channels, channels, extent))
            for extent in ((depth, 1, 1), (1, height, 1), (1, 1, width))
        )

    def forward(self, lesion: Tensor, windows: Tensor, half_zyx: Triple) -> Tensor:
        """Maps that reach ``half_zyx`` on each side of the middle of ``windows``.

        lesion (Q, C, *global_kernel), windows (Q, C, ...) larger by half of that on each side.
        """
        flat = [correlate(windows, flatten(lesion), half_zyx) for flatten in self.flatten]
        local = correlate(windows, middle(lesion, self.local_half), half_zyx)
        return torch.cat([torch.stack(flat).sum(0), local], 1)


class DLT(SiameseNetwork):
    """Image encoder, anatomy signal encoders, fast cross-correlation, one heatmap."""

    presets: ClassVar[Mapping[str, DLTConfig]] = {"compact": DLTConfig("compact", **COMPACT)}
    config: DLTConfig

    def __init__(self, config: DLTConfig) -> None:
        super().__init__(config, config.pyramid)
        channels = config.pyramid
        self.lateral = nn.Conv3d(config.channels[config.last_halving], channels, 1)
        self.top = nn.Conv3d(config.channels[-1], channels, 1)
        self.smooth = convolution(channels, channels, 3)
        self.template_signal = AnatomySignalEncoder(channels)
        self.search_signal = AnatomySignalEncoder(channels)
        self.correlation = FastCrossCorrelation(channels, config.local_kernel, config.global_kernel)
        self.scale = nn.BatchNorm3d(2 * channels)
        self.fuse = classifier(2 * channels, 1, RARE_LOGIT)

    def encode(self, image_hu: Tensor) -> Tensor:
        """Features (B, pyramid, d, h, w) of a CT window (B, 1, D, H, W) in HU."""
        *_, fine, coarse = self.backbone.levels(image_hu)
        return self.smooth(self.lateral(fine) + upsampled(self.top(coarse), fine.shape[2:]))

    def forward(
        self, template: TokenMap, search: TokenMap, centers_mm: Tensor, radius_mm: Tensor
    ) -> Prediction:
        """The centres of Q lesions, as `TLT.forward`."""
        config = self.config
        inside = _halves(config.global_kernel)
        window: Triple = (config.reach_tokens,) * 3
        around: Triple = tuple(a + b for a, b in zip(inside, window, strict=True))  # type: ignore
        sigma = config.signal * radius_mm
        lesion = cubes_about(template, centers_mm, inside)
        rest = centers_mm - lesion.center_mm
        search_cubes = cubes_about(search, centers_mm - rest, around)
        maps = self.correlation(
            self.template_signal(lesion, centers_mm, sigma),
            self.search_signal(search_cubes, centers_mm, sigma),
            window,
        )
        logits = self.fuse(self.scale(maps))[:, 0].float()
        logits = logits.masked_fill(~middle(search_cubes.seen, window), UNSEEN_LOGIT)
        positions = middle(search_cubes.positions_mm.movedim(-1, 1), window).flatten(2).mT
        positions = positions + rest[:, None]
        best = logits.flatten(1).argmax(1)
        center = picked(positions, best) + config.token_mm * peak_offset(logits)
        return Prediction(center, logits.flatten(1), positions, positions)


def upsampled(coarse: Tensor, shape_zyx: torch.Size) -> Tensor:
    """Features of a grid on the grid with twice its points, trilinear; each n-th point stays.

    Beyond the last coarse point its value is repeated.
    """
    exact = [2 * n - 1 for n in coarse.shape[2:]]
    finer = F.interpolate(coarse, size=exact, mode="trilinear", align_corners=True)
    lacking = [have - n for have, n in zip(shape_zyx, exact, strict=True)]
    padded = F.pad(finer, [side for n in lacking[::-1] for side in (0, n)], mode="replicate")
    return padded


def peak_offset(maps: Tensor) -> Tensor:
    """Offset (Q, 3), as (x, y, z) in voxels, of the peak of maps (Q, D, H, W) from its voxel.

    By a parabola along each axis, at most half a voxel; 0 at the border, and beside what is unseen.
    """
    index = torch.stack(torch.unravel_index(maps.flatten(1).argmax(1), maps.shape[1:]), -1)
    rows = torch.arange(len(maps), device=maps.device)
    offset = torch.zeros(len(maps), 3, device=maps.device)
    for axis in range(3):
        step = torch.zeros(3, dtype=torch.long, device=maps.device)
        step[axis] = 1
        last = maps.shape[1 + axis] - 1
        before, here, after = (
            maps[(rows, *(index + k * step).clamp(min=0).minimum(_last(maps)).unbind(-1))]
            for k in (-1, 0, 1)
        )
        curvature = before - 2 * here + after
        found = (0.5 * (before - after) / curvature.clamp(max=-1e-6)).clamp(-0.5, 0.5)
        within = (index[:, axis] > 0) & (index[:, axis] < last)
        within &= torch.minimum(before, after) > UNSEEN_LOGIT
        offset[:, 2 - axis] = torch.where(within, found, 0.0)
    return offset


def _last(maps: Tensor) -> Tensor:
    return torch.tensor(maps.shape[1:], device=maps.device) - 1


def _middle_slice(flatten: nn.Conv3d) -> nn.Conv3d:
    """A convolution that starts as the middle slice: a correlation with it matches untrained."""
    nn.init.dirac_(flatten.weight)
    nn.init.zeros_(flatten.bias)  # type: ignore[arg-type]
    return flatten


def _halves(kernel: Triple) -> Triple:
    z, y, x = (n // 2 for n in kernel)
    return z, y, x
