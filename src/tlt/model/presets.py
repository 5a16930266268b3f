"""The networks that can be built: one frozen configuration a preset.

`paper` follows supplement Table 2 and the text, `published` the authors' code (commit 202110e),
`compact` is the one that trains in hours on a CPU and is shipped. Where the paper is silent
(position encoding, norms, feed-forward, intensity window) the choice stands here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class BackboneConfig:
    """What shapes the shared backbone (`tlt.model.backbone`); each network adds its own fields.

    Attributes:
        name: preset it started from.
        spacing_mm: isotropic voxel size both CTs are resampled to.
        windows_hu: one input channel for each window (low, high), scaled to [0, 1].
        clip: whether values outside a window are clipped.
        stem: "paper" (conv 7 then conv 3), "published" (two conv 3 and a conv 3 skip) or
            "compact" (one conv 5 of stride 2).
        channels: stem channels, then the channels of each stage.
        strides: stride of each stage.
        blocks: residual blocks in each stage.
        preactivation: norm-ReLU-conv blocks with a strided 3x3x3 skip, as the published code.
        norm: "batch" or "none" (the published code's batch norm is never loaded nor trained).
    """

    name: str
    spacing_mm: float = 1.0
    windows_hu: tuple[tuple[float, float], ...] = ((-1000.0, 400.0),)
    clip: bool = True
    stem: str = "paper"
    channels: tuple[int, ...] = (32, 64, 128, 192)
    strides: tuple[int, ...] = (2, 2, 2)
    blocks: tuple[int, ...] = (2, 2, 2)
    preactivation: bool = False
    norm: str = "batch"

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  (a file of another version is told)

    @property
    def stride(self) -> int:
        """Voxels between neighbouring tokens."""
        return self.stem_stride * math.prod(self.strides)

    @property
    def stem_stride(self) -> int:
        """Stride of the stem."""
        return 2 if self.stem == "compact" else 1

    @property
    def token_mm(self) -> float:
        """Millimetres between neighbouring tokens."""
        return self.stride * self.spacing_mm

    @property
    def width(self) -> int:
        """Channels of the tokens."""
        return self.channels[-1]

    @property
    def halo(self) -> int:
        """Voxels on each side of a token that its feature depends on (receptive field // 2)."""
        halo = {"paper": 3 + 1, "published": 1 + 1, "compact": 2}[self.stem]
        stride = self.stem_stride
        for step, blocks in zip(self.strides, self.blocks, strict=True):
            halo += stride  # the strided convolution
            stride *= step
            halo += stride * (2 * blocks - 1)
        return halo


@dataclass(frozen=True)
class ModelConfig(BackboneConfig):
    """Everything that shapes a TLT; a checkpoint carries it and rebuilds its network from it.

    Attributes:
        projection: 1x1x1 convolution between backbone and transformer.
        heads: attention heads; the transformer is as wide as the last stage.
        layers: cross-attention layers N on each line; one more follows on the search line.
        self_attention: self-attention on both lines before each cross-attention.
        output_norm: LayerNorm after the last layer.
        dropout: in attention blocks, training only.
        position: "relative" (sine of the offset in mm from the lesion and from its prior) or
            "crop" (sine of the place in the crop, normalised by its length).
        head: "relative" (token position + regressed offset) or "crop" (published: six outputs
            mixed with the prior's place, sigmoid over the crop).
        raam_keys: "template_line" (paper: elsewhere softmax cancels it) or "all" (published).
        similarity: give the search tokens, and the class logits, the similarity of learned
            embeddings (ours, not the paper's; see docs/method.md).
        embedding: width of that embedding.
        sss, raam, global_regression: the modules of Table 2 and Table S1.
        threshold: Tr of sparse selection.
        template_reach_mm: template tokens farther than this from the lesion are never selected.
        search_reach_mm: half the side of the search window around the prior.
    """

    projection: bool = False
    heads: int = 8
    layers: int = 3
    self_attention: bool = False
    output_norm: bool = False
    dropout: float = 0.0
    position: str = "relative"
    head: str = "relative"
    raam_keys: str = "template_line"
    similarity: bool = False
    embedding: int = 64
    sss: bool = True
    raam: bool = True
    global_regression: bool = True
    threshold: float = 0.7
    template_reach_mm: float = 40.0
    search_reach_mm: float = 64.0

    @property
    def features_reach_mm(self) -> float:
        """How far from a prior features are read."""
        return self.search_reach_mm


COMPACT: dict[str, Any] = {  # the backbone that trains in hours on a CPU
    "spacing_mm": 2.0,
    "windows_hu": ((-1000.0, 400.0), (-160.0, 240.0)),
    "stem": "compact",
    "channels": (32, 32, 64, 96),
    "strides": (1, 2, 1),
    "blocks": (1, 2, 1),
}
PRESETS = {
    "paper": ModelConfig("paper"),
    "published": ModelConfig(
        "published",
        windows_hu=((-800.0, 800.0),),
        clip=False,
        stem="published",
        blocks=(1, 1, 1),
        preactivation=True,
        norm="none",
        projection=True,
        self_attention=True,
        output_norm=True,
        dropout=0.1,
        position="crop",
        head="crop",
        raam_keys="all",
    ),
    "compact": ModelConfig(
        "compact",
        **COMPACT,
        similarity=True,
        heads=4,
        template_reach_mm=14.0,
        search_reach_mm=40.0,
    ),
}
