"""SiamRPN++ in 3D: ``--tracker siamrpn``.

Source: Li et al., SiamRPN++, CVPR 2019 (Section 3.3, depth-wise cross-correlation), on SiamRPN's
region proposals (Li et al., CVPR 2018), in 3D and about the affine prior as Cai et al. (CVPR 2021)
ran it. The lesion's features are the kernel of a correlation over the search features, once for
the class and once for the place.

Departures: the compact backbone of all networks here with one level of it (theirs fuses three of a
ResNet-50); one anchor a token, a ball of the lesion's own size, because lesions are given by a
radius (theirs five aspect ratios); so three outputs place the centre and none the size, and the
penalty for a change of size is gone. What it learns from is in `tlt.training.siamese_task`. The
cosine window has the published influence, 0.42.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from tlt.model.backbone import convolution
from tlt.model.correlation import Triple, correlate, cubes_about, middle
from tlt.model.network import Prediction, TokenMap
from tlt.model.presets import COMPACT
from tlt.model.siamese import (
    RARE_LOGIT,
    UNSEEN_LOGIT,
    SiameseConfig,
    SiameseNetwork,
    classifier,
    picked,
    windowed_best,
)


@dataclass(frozen=True)
class SiamRPNConfig(SiameseConfig):
    """What shapes a SiamRPN++.

    Attributes:
        hidden: channels of each of the two correlations.
        kernel_tokens: side of the template's kernel.
        window_influence: weight of the cosine window in the choice of the token.
    """

    hidden: int = 32
    kernel_tokens: int = 5
    window_influence: float = 0.42

    @property
    def halo(self) -> int:
        """As the backbone's, and one token for the convolution that adjusts its features."""
        return super().halo + self.stride

    @property
    def kernel_reach(self) -> int:
        """Tokens on each side of the kernel's middle."""
        return self.kernel_tokens // 2


class SiamRPN(SiameseNetwork):
    """Features of both roles and both branches in one map, two correlations, two heads."""

    presets: ClassVar[Mapping[str, SiamRPNConfig]] = {
        "compact": SiamRPNConfig("compact", **COMPACT)
    }
    config: SiamRPNConfig

    def __init__(self, config: SiamRPNConfig) -> None:
        super().__init__(config, 4 * config.hidden)
        # Kernel of class and place, then window of class and place.
        self.adjust = nn.Sequential(convolution(config.width, 4 * config.hidden, 3), nn.ReLU())
        self.classify = classifier(config.hidden, 1, RARE_LOGIT)
        self.regress = classifier(config.hidden, 3)

    def encode(self, image_hu: Tensor) -> Tensor:
        """Features (B, 4 * hidden, d, h, w) of a CT window (B, 1, D, H, W) in HU."""
        return self.adjust(self.backbone(image_hu))

    def forward(
        self, template: TokenMap, search: TokenMap, centers_mm: Tensor, radius_mm: Tensor
    ) -> Prediction:
        """The centres of Q lesions, as `TLT.forward`; of any radius, the kernel has one size."""
        config = self.config
        inside = config.kernel_reach
        reach = config.reach_tokens
        lesion = cubes_about(template, centers_mm, (inside,) * 3)
        rest = centers_mm - lesion.center_mm
        around = cubes_about(search, centers_mm - rest, (reach + inside,) * 3)
        window: Triple = (reach,) * 3
        roles = 2 * config.hidden
        response = correlate(around.features[:, roles:], lesion.features[:, :roles], window)
        seen = middle(around.seen, window).flatten(1)
        positions = middle(around.positions_mm.movedim(-1, 1), window).flatten(2).mT
        positions = positions + rest[:, None]
        logits = self.classify(response[:, : config.hidden]).flatten(1).float()
        logits = logits.masked_fill(~seen, UNSEEN_LOGIT)
        moved = self.regress(response[:, config.hidden :]).flatten(2).mT.float()
        centers = positions + config.token_mm * moved
        best = windowed_best(
            logits,
            positions - centers_mm[:, None],
            config.search_reach_mm + config.token_mm,
            config.window_influence,
        )
        return Prediction(picked(centers, best), logits, centers, positions)
