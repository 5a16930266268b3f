"""What the lesion embeddings share: three slices, VGG stages, RoI pools, a unit vector.

The patch lies with the lesion in its middle, at the voxel size of the pair (2 mm; the papers have
1 mm in the plane), and reaches 48 mm to each side instead of the box and 50 or 60 mm of context:
the crops that are learned from hold no more. See `tlt.model.lesiongraph` and `tlt.model.lesanet`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tlt.model.presets import COMPACT
from tlt.volume import AIR_HU

LEAST_HALF_MM = 4.0  # of a box that is pooled: two voxels to each side of the centre
PATCHES_AT_ONCE = 64


@dataclass(frozen=True)
class EmbeddingConfig:
    """Everything that shapes an embedding.

    Attributes:
        name: preset it started from.
        spacing_mm: pixels of the patch, and distance of its slices.
        windows_hu: one input channel for each window (low, high), scaled to [0, 1].
        side: pixels of a patch along x and y.
        slices: of a patch.
        stages: channels of each VGG stage, two convolutions each, halving from one to the next.
        pool: bins of a RoI pool along x and y.
        features: width of what is made of each pool.
        embedding: width of the unit vector.
    """

    name: str
    spacing_mm: float = 2.0
    windows_hu: tuple[tuple[float, float], ...] = COMPACT["windows_hu"]
    side: int = 48
    slices: int = 3
    stages: tuple[int, ...] = (16, 32, 64, 96, 96)
    pool: int = 3
    features: int = 64
    embedding: int = 128

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  (a file of another version is told)

    @property
    def stride(self) -> int:
        """Voxels that the sides of a training crop are a multiple of."""
        return 4

    @property
    def half_side_mm(self) -> float:
        """From the middle of a patch to its outer pixels' edge."""
        return self.side * self.spacing_mm / 2


class Stages(nn.ModuleList):
    """VGG with batch norm, on slices that the first convolution merges into one."""

    def __init__(self, config: EmbeddingConfig) -> None:
        super().__init__()
        width = len(config.windows_hu)
        for number, outputs in enumerate(config.stages):
            first = (config.slices, 3, 3) if number == 0 else (1, 3, 3)
            self.append(nn.Sequential(*flat(width, outputs, first), *flat(outputs, outputs)))
            width = outputs

    def forward(self, patches: Tensor) -> list[Tensor]:
        """Features (N, C, 1, h, w) of every stage, from patches (N, windows, S, P, P)."""
        found = []
        for number, stage in enumerate(self):
            patches = stage(F.max_pool3d(patches, (1, 2, 2)) if number else patches)
            found.append(patches)
        return found


def flat(inputs: int, outputs: int, size: tuple[int, int, int] = (1, 3, 3)) -> list[nn.Module]:
    """A convolution in the plane that takes all slices together, batch norm and ReLU."""
    conv = nn.Conv3d(inputs, outputs, size, padding=(0, 1, 1), bias=False)
    return [nn.Sequential(conv, nn.BatchNorm3d(outputs)), nn.ReLU()]


class LesionEmbedding(nn.Module):
    """Unit vectors by which a lesion is known again; ``pooled`` names the stages that are pooled.

    ``whole`` adds the last stage's mean over the whole patch.
    """

    presets: ClassVar[Mapping[str, EmbeddingConfig]]
    pooled: ClassVar[Sequence[int]]
    whole: ClassVar[bool]

    def __init__(self, config: EmbeddingConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Stages(config)
        size = config.pool**2
        inputs = [config.stages[k] * size for k in self.pooled]
        inputs += [config.stages[-1]] * self.whole
        self.reduce = nn.ModuleList(nn.Linear(width, config.features) for width in inputs)
        self.join = nn.Linear(config.features * len(inputs), config.embedding)

    def forward(self, patches_hu: Tensor, radius_mm: Tensor) -> Tensor:
        """Unit vectors (N, E) of patches (N, 1, S, P, P) with lesions (N,) of these radii."""
        stages = self.backbone(self.scaled(patches_hu))
        half = radius_mm.clamp(LEAST_HALF_MM, self.config.half_side_mm) / self.config.half_side_mm
        parts = [roi_pool(stages[k], half, self.config.pool) for k in self.pooled]
        if self.whole:
            parts.append(stages[-1].mean((2, 3, 4)))
        reduced = [torch.relu(fc(part)) for fc, part in zip(self.reduce, parts, strict=True)]
        return F.normalize(self.join(torch.cat(reduced, 1)).float(), dim=1)

    def scaled(self, image_hu: Tensor) -> Tensor:
        """One channel a window: 0 at its lower end and below, 1 at its upper end and above."""
        channels = [(image_hu - low) / (high - low) for low, high in self.config.windows_hu]
        return torch.cat(channels, 1).clamp(0, 1)

    def patches(self, image_hu: Tensor, origin_mm: Tensor, centers_mm: Tensor) -> Tensor:
        """Patches (N, 1, S, P, P) in HU about points (N, 3) of an image (1, D, H, W).

        The image has the configuration's spacing and its first voxel at ``origin_mm``; air is
        outside.
        """
        config = self.config
        size_xyz = torch.tensor(image_hu.shape[:0:-1], device=image_hu.device)
        steps = [
            torch.arange(n, device=image_hu.device, dtype=torch.float32) - (n - 1) / 2
            for n in (config.slices, config.side, config.side)
        ]
        around = torch.stack(torch.meshgrid(*steps, indexing="ij"), -1).flip(-1)  # S, P, P, 3
        index = (centers_mm - origin_mm)[:, None, None, None] / config.spacing_mm + around
        share = index / (size_xyz - 1).clamp(min=1) * 2 - 1  # N, S, P, P, 3
        count, slices, side, _, _ = share.shape
        cut = F.grid_sample(
            image_hu[None] - AIR_HU, share.reshape(1, -1, side, side, 3), align_corners=True
        )
        return cut.reshape(count, 1, slices, side, side) + AIR_HU

    @torch.no_grad()
    def embedded(
        self, image_hu: Tensor, origin_mm: Tensor, centers_mm: Tensor, radius_mm: Tensor
    ) -> Tensor:
        """Unit vectors (N, E) of the lesions of an image; N may be large."""
        parts = [
            self(self.patches(image_hu, origin_mm, centers), radii)
            for centers, radii in zip(
                centers_mm.split(PATCHES_AT_ONCE), radius_mm.split(PATCHES_AT_ONCE), strict=True
            )
        ]
        return torch.cat(parts)


def roi_pool(features: Tensor, half: Tensor, bins: int) -> Tensor:
    """Features (N, C * bins * bins) in a box about the middle of maps (N, C, 1, h, w).

    ``half`` (N,) is half the box's side as a share of half the map's. Each bin is sampled at four
    places, linearly between pixels, as RoI align does.
    """
    places = (torch.arange(2 * bins, device=half.device) + 0.5) / bins - 1
    across = half[:, None] * places  # N, 2 * bins
    count = len(across)
    x = across[:, None, :].expand(count, 2 * bins, 2 * bins)
    grid = torch.stack([x, x.mT], -1)
    sampled = F.grid_sample(
        features[:, :, 0].float(), grid, padding_mode="border", align_corners=False
    )
    return F.avg_pool2d(sampled, 2).flatten(1)
