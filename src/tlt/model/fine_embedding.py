"""The fine embedding: which place of the follow-up shows the same anatomy, to half a token (ours).

Tokens are 8 mm apart, too far for a displacement to 2 mm. Here the features before the last stride
keep what is small, and the tokens' features, spread between them, say where in the body it is.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tlt.model.presets import ModelConfig


class FineEmbedding(nn.Module):
    """Unit vectors (B, E, d, h, w) from features at half the token distance and at the tokens."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.fine_embedding
        self.local = nn.Conv3d(config.fine_channels, width, 1)
        self.context = nn.Conv3d(config.width, width, 1)
        self.mix = nn.Conv3d(width, width, 1)

    def forward(self, fine: Tensor, deep: Tensor) -> Tensor:
        context = between_tokens(self.context(deep), fine.shape[2:])
        mixed = self.mix(torch.relu(self.local(fine) + context))
        return F.normalize(mixed.float(), dim=1)


def between_tokens(tokens: Tensor, shape: torch.Size) -> Tensor:
    """Tokens at twice the density: token k stays at place 2k, the last is held to the end."""
    twice = [2 * n - 1 for n in tokens.shape[2:]]
    spread = F.interpolate(tokens, size=twice, mode="trilinear", align_corners=True)
    missing = [side - n for side, n in zip(shape, twice, strict=True)]  # 0 or 1, z y x
    return F.pad(spread, [0, missing[2], 0, missing[1], 0, missing[0]], mode="replicate")
