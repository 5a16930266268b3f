"""The centre predictor and global regression (Section 3.3, Eq. 4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tlt.model.presets import ModelConfig


class RelativeCenterPredictor(nn.Module):
    """Class logits Y (Q, N) and centres C (Q, N, 3) in mm from the prior, one a search token.

    A token says how far the centre lies from itself, in token distances: what it regresses does
    not depend on where the crop lies (the paper is silent; the published code regresses a place
    in the crop).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.width
        self.token_mm = config.token_mm
        self.classify = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))
        self.regress = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3))
        # Few tokens lie in a lesion: starting there keeps the focal loss from drowning the rest.
        nn.init.constant_(self.classify[-1].bias, -6.0)  # type: ignore[arg-type]

    def forward(self, tokens: Tensor, offsets_mm: Tensor) -> tuple[Tensor, Tensor]:
        centers = offsets_mm + self.token_mm * self.regress(tokens).float()
        return self.classify(tokens).float().squeeze(-1), centers


class CropCenterPredictor(nn.Module):
    """The published head: a box in crop shares, mixed with the prior's place, then a sigmoid.

    Returns the same as `RelativeCenterPredictor`; the crop is the bounding box of the tokens.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.width
        self.half_token_mm = config.token_mm / 2
        self.classify = nn.Linear(width, 1)
        self.regress = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 6))
        self.with_prior = nn.Linear(9, 6)

    def forward(self, tokens: Tensor, offsets_mm: Tensor) -> tuple[Tensor, Tensor]:
        low = offsets_mm.amin(1, keepdim=True) - self.half_token_mm  # Q, 1, 3
        side = offsets_mm.amax(1, keepdim=True) + self.half_token_mm - low
        prior_share = (-low / side).expand(-1, tokens.shape[1], -1)
        mixed = self.with_prior(torch.cat([self.regress(tokens).float(), prior_share], -1))
        centers = low + side * mixed[..., :3].sigmoid()
        return self.classify(tokens).float().squeeze(-1), centers


def global_regression(logits: Tensor, centers_mm: Tensor) -> Tensor:
    """The centre (Q, 3) of Eq. 4: every token's centre, weighed by the softmax of the logits."""
    return (logits.softmax(-1)[..., None] * centers_mm).sum(1)


def best_token(logits: Tensor, centers_mm: Tensor) -> Tensor:
    """The centre (Q, 3) that the most likely token regresses: without global regression."""
    best = logits.argmax(-1)[:, None, None].expand(-1, 1, 3)
    return centers_mm.gather(1, best).squeeze(1)
