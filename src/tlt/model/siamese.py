"""What the networks share that answer with a map of scores: SiamRPN++, DLT and TransT.

Template and search image pass through one backbone; each lesion is then looked for in the window
about its prior. An embedding of the features is learned beside it, by the dense contrastive loss
that all networks here are trained with (docs/decisions/0002); it takes no part in the answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tlt.model.backbone import Backbone
from tlt.model.presets import BackboneConfig

UNSEEN_LOGIT = -30.0  # of a token that the search image does not have
RARE_LOGIT = -5.0  # where a classifier starts: few tokens are a lesion's


@dataclass(frozen=True)
class SiameseConfig(BackboneConfig):
    """What these networks have in common.

    Attributes:
        search_reach_mm: half the side of the search window around the prior.
        embedding: width of the embedding that the contrastive loss trains.
    """

    search_reach_mm: float = 40.0
    embedding: int = 64

    @property
    def reach_tokens(self) -> int:
        """Tokens on each side of the window's middle."""
        return int(self.search_reach_mm / self.token_mm)

    @property
    def features_reach_mm(self) -> float:
        """How far from a prior features are read: the window, and half of a kernel beyond it."""
        return self.search_reach_mm + self.kernel_reach * self.token_mm

    @property
    def kernel_reach(self) -> int:
        """Tokens on each side of the middle of the longest kernel."""
        return 0


class SiameseNetwork(nn.Module):
    """The shared backbone, and the embedding of its features for the contrastive loss."""

    def __init__(self, config: Any, channels: int) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        self.embed = nn.Linear(channels, config.embedding)

    def embedding(self, tokens: Tensor) -> Tensor:
        """Unit vectors (..., E) by which the same anatomy is recognised in both images."""
        return F.normalize(self.embed(tokens).float(), dim=-1)


def windowed_best(logits: Tensor, offsets_mm: Tensor, reach_mm: float, influence: float) -> Tensor:
    """Index (Q,) of the best token, where a cosine window about the prior has its say.

    Score = (1 - influence) * probability + influence * window; the window is the product over the
    axes of a cosine that falls from 1 at the prior to 0 at ``reach_mm``. A token that is unseen
    comes after all others, however near. logits (Q, N); offsets_mm (Q, N, 3) from the prior.
    """
    share = (offsets_mm / reach_mm).clamp(-1, 1)
    window = (0.5 + 0.5 * torch.cos(math.pi * share)).prod(-1)
    score = (1 - influence) * logits.sigmoid() + influence * window
    return torch.where(logits > UNSEEN_LOGIT, score, score - 2).argmax(-1)


def picked(values: Tensor, index: Tensor) -> Tensor:
    """Row ``index`` (Q,) of values (Q, N, 3): (Q, 3)."""
    return values[torch.arange(len(index), device=index.device), index]


def classifier(channels: int, outputs: int, bias: float = 0.0) -> nn.Sequential:
    """Two 1x1x1 convolutions with a batch norm between: a head on correlation maps."""
    first = nn.Sequential(nn.Conv3d(channels, channels, 1, bias=False), nn.BatchNorm3d(channels))
    last = nn.Conv3d(channels, outputs, 1)
    nn.init.constant_(last.bias, bias)  # type: ignore[arg-type]
    return nn.Sequential(first, nn.ReLU(), last)
