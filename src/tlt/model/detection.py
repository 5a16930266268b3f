"""What the detectors share: one pyramid on the backbone, and a centre-based head a source.

A source is a set of lesions that was labelled by itself: VULD has one, LENS several. See
`tlt.model.vuld` and `tlt.model.lens` for what each takes from its paper.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tlt.model.backbone import Backbone, convolution
from tlt.model.detections import Detections, decode, fused
from tlt.model.presets import BackboneConfig

RARE = 0.01  # likelihood of a centre at any token before anything is learned
FACES = 6


@dataclass(frozen=True)
class DetectorConfig(BackboneConfig):
    """Everything that shapes a detector.

    Attributes:
        sources: names of the heads; the first learns all lesions.
        head: channels of the pyramid's finest level.
        least: likelihood from which on a peak is a candidate.
        overlap: intersection over union from which on two candidates are one.
        mine_after: training passes after which confident places without a label are no longer
            taught as background; 0 for never.
        mine_from: likelihood that counts as confident.
    """

    sources: tuple[str, ...] = ("all",)
    head: int = 32
    least: float = 0.02
    overlap: float = 0.2
    mine_after: int = 0
    mine_from: float = 0.5

    @property
    def head_stride(self) -> int:
        """Voxels between neighbouring places of the heads: the pyramid's finest level."""
        return self.stem_stride

    @property
    def head_mm(self) -> float:
        """Millimetres between them."""
        return self.head_stride * self.spacing_mm

    @property
    def halo(self) -> int:
        """Voxels on each side that a place of the heads depends on."""
        return super().halo + 2 * self.stride + self.head_stride


class Detector(nn.Module):
    """A heat map of lesion centres for every source, and distances to the lesion's faces."""

    presets: ClassVar[Mapping[str, DetectorConfig]]
    passes: Tensor  # of training, so far: a buffer, so that a resumed run goes on counting

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        width, sources = config.head, len(config.sources)
        self.backbone = Backbone(config)
        self.fine = nn.Conv3d(config.channels[1], width, 1)
        self.coarse = nn.Conv3d(config.width, width, 1)
        self.mix = nn.Sequential(convolution(width, width, 3), nn.ReLU())
        self.heat = nn.Conv3d(width, sources, 1)
        self.faces = nn.Conv3d(width, FACES, 1)
        nn.init.constant_(self.heat.bias, math.log(RARE / (1 - RARE)))  # type: ignore[arg-type]
        self.register_buffer("passes", torch.zeros((), dtype=torch.long))

    @property
    def mines(self) -> bool:
        """Whether it has been trained for long enough to be asked where labels are missing."""
        return 0 < self.config.mine_after <= int(self.passes)

    def forward(self, image_hu: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, S, d, h, w) and faces (B, 6, d, h, w) in mm of (B, 1, D, H, W) in HU.

        Place k lies on voxel k * `DetectorConfig.head_stride`.
        """
        if self.training:
            self.passes += 1
        features = self.backbone.stem(self.backbone.scaled(image_hu))
        fine = None
        for block in self.backbone.stages:
            before, features = features, block(features)
            if fine is None and features.shape[2:] != before.shape[2:]:
                fine = before
        assert fine is not None  # every preset has a coarser level
        above = F.interpolate(self.coarse(features), scale_factor=2, mode="nearest")
        depth, height, width = fine.shape[2:]
        mixed = self.mix(self.fine(fine) + above[..., :depth, :height, :width])
        faces = self.faces(mixed).float() * self.config.head_mm
        return self.heat(mixed).float(), faces

    def detections(self, heat: Tensor, faces_mm: Tensor, origin_mm: Tensor) -> Detections:
        """The candidates of one image: those of all sources, fused.

        heat (S, d, h, w), faces_mm (6, d, h, w), origin_mm (3,) of the first place.
        """
        config = self.config
        proposals = [decode(one, faces_mm, origin_mm, config.head_mm, config.least) for one in heat]
        return fused(Detections.joined(proposals), config.overlap)
