"""TransT in 3D: ``--tracker transt``, the baseline that TLT's paper starts from.

Source: Chen et al., Transformer Tracking, CVPR 2021; as run in TLT's paper (Section 4.2): TLT
without SSS, RAAM and global regression. The template is a cube of fixed size; four layers of
self-attention (ECA) and cross-attention (CFA) on both lines, then one more cross-attention on the
search line; two heads; the centre is the one that the best token regresses.

Departures: the compact backbone of all networks here, and as many heads as keep 32 channels each,
as published; a centre instead of a box, hence no IoU loss;
feed-forward as wide as the tokens, no dropout; sine encoding of the offset in mm from the lesion,
or from its prior. What it learns from is in `tlt.training.siamese_task`. The cosine window has the
published influence, 0.49. The search window reaches 32 mm from the prior, not 40 as in the other
networks: self-attention costs the square of its tokens, a quarter so; 0.2 % of the queries of the
training pairs lie farther off on an axis.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor, nn

from tlt.model.network import TLT, Prediction, TokenMap
from tlt.model.presets import COMPACT, ModelConfig
from tlt.model.siamese import picked, windowed_best


@dataclass(frozen=True)
class TransTConfig(ModelConfig):
    """A TLT's configuration with TLT's own modules off.

    Attributes:
        window_influence: weight of the cosine window in the choice of the token.
    """

    layers: int = 4
    self_attention: bool = True
    sss: bool = False
    raam: bool = False
    global_regression: bool = False
    search_reach_mm: float = 32.0
    window_influence: float = 0.49


class TransT(TLT):
    """TLT's network as configured above; its embedding is for the contrastive loss alone."""

    presets: ClassVar[Mapping[str, TransTConfig]] = {
        "compact": TransTConfig("compact", **COMPACT, heads=3)
    }
    config: TransTConfig

    def __init__(self, config: TransTConfig) -> None:
        super().__init__(config)
        self.embed = nn.Linear(config.width, config.embedding)

    def forward(
        self, template: TokenMap, search: TokenMap, centers_mm: Tensor, radius_mm: Tensor
    ) -> Prediction:
        """As `TLT.forward`; the best token is chosen under the cosine window."""
        config = self.config
        predicted = super().forward(template, search, centers_mm, radius_mm)
        best = windowed_best(
            predicted.logits,
            predicted.positions_mm - centers_mm[:, None],
            config.search_reach_mm + config.token_mm,
            config.window_influence,
        )
        return replace(predicted, center_mm=picked(predicted.centers_mm, best))
