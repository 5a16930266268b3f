"""CAT, the cross-attention transformer (Section 3.2, Eq. 3).

Two lines: on the template line Q comes from the lesion's tokens and K, V from the search tokens;
on the search line the other way round. N layers on each, then one more on the search line.
The paper shows the attention only; residual, LayerNorm and a feed-forward of the same width after
it are as in the published code.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tlt.model.presets import ModelConfig


class Attention(nn.Module):
    """Multi-head attention of Eq. 3, with the anatomical mask as a bias for each key.

    Attributes:
        maps: a list to which each forward pass adds its attention map (Q, heads, L, N), for
            figures; None, the default, takes the fast kernel, which has no map to give.
    """

    maps: list[Tensor] | None = None

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        """(Q, L, C) from query (Q, L, C), key and value (Q, N, C), bias (Q, 1, 1, N)."""
        q = self._split(self.query(query))
        k, v = self._split(self.key(key)), self._split(self.value(value))
        if self.maps is not None:
            self.maps.append(self.weights(query, key, bias))
            attended = self.maps[-1].to(v.dtype) @ v
        else:
            mask = None if bias is None else bias.to(q.dtype)
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(attended.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # Q, heads, L, C / heads

    def weights(self, query: Tensor, key: Tensor, bias: Tensor | None) -> Tensor:
        """Attention maps (Q, heads, L, N): the softmax of the fast kernel, written out."""
        q, k = self._split(self.query(query)), self._split(self.key(key))
        scores = q @ k.mT / math.sqrt(q.shape[-1])
        return (scores if bias is None else scores + bias).softmax(-1)


class AttentionBlock(nn.Module):
    """Attention with residual and LayerNorm, then (optionally) a feed-forward with the same."""

    def __init__(self, width: int, heads: int, dropout: float, feed_forward: bool = True) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.feed_forward: nn.Module | None = None
        if feed_forward:
            self.feed_forward = nn.Sequential(
                nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
            )
            self.feed_norm = nn.LayerNorm(width)

    def forward(
        self,
        x: Tensor,
        source: Tensor,
        x_position: Tensor,
        source_position: Tensor,
        bias: Tensor | None,
    ) -> Tensor:
        attended = self.attention(x + x_position, source + source_position, source, bias)
        x = self.norm(x + self.dropout(attended))
        if self.feed_forward is not None:
            x = self.feed_norm(x + self.dropout(self.feed_forward(x)))
        return x


class FusionLayer(nn.Module):
    """One cross-attention on each line, after self-attention where the preset has it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        shape = (config.width, config.heads, config.dropout)
        self.template_self = AttentionBlock(*shape, False) if config.self_attention else None
        self.search_self = AttentionBlock(*shape, False) if config.self_attention else None
        self.template_cross = AttentionBlock(*shape)
        self.search_cross = AttentionBlock(*shape)

    def forward(
        self, template: Line, search: Line, template_bias: Tensor, search_bias: Tensor | None
    ) -> None:
        """Advance both lines; the biases are those of template keys and of search keys."""
        t, s = template.tokens, search.tokens
        tp, sp = template.position, search.position
        if self.template_self is not None and self.search_self is not None:
            t = self.template_self(t, t, tp, tp, template_bias)
            s = self.search_self(s, s, sp, sp, search_bias)
        template.tokens = self.template_cross(t, s, tp, sp, search_bias)
        search.tokens = self.search_cross(s, t, sp, tp, template_bias)


class Line:
    """The tokens (Q, L, C) of one line on their way through CAT, and their position encoding."""

    def __init__(self, tokens: Tensor, position: Tensor) -> None:
        self.tokens, self.position = tokens, position


class CrossAttentionTransformer(nn.Module):
    """F_s, the search tokens (Q, N, C) fused with the lesion's template tokens."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(FusionLayer(config) for _ in range(config.layers))
        self.last = AttentionBlock(config.width, config.heads, config.dropout)
        self.output_norm = nn.LayerNorm(config.width) if config.output_norm else nn.Identity()

    def forward(
        self, template: Line, search: Line, template_bias: Tensor, search_bias: Tensor | None
    ) -> Tensor:
        """template_bias (Q, 1, 1, L) masks padding; search_bias (Q, 1, 1, N) is RAAM's M_A."""
        for layer in self.layers:
            layer(template, search, template_bias, search_bias)
        fused = self.last(
            search.tokens, template.tokens, search.position, template.position, template_bias
        )
        return self.output_norm(fused)


def sine_encoding(coordinates: Tensor, width: int, longest: float, shortest: float) -> Tensor:
    """Sine position encoding (..., width) of coordinates (..., 3), a third of it for each axis.

    Wavelengths run geometrically from ``longest`` to ``shortest``, in the coordinates' unit. What
    a width leaves over after sixths is zero.
    """
    count = width // 6
    steps = torch.linspace(0, 1, count, device=coordinates.device)
    wavelength = longest * (shortest / longest) ** steps
    phase = coordinates[..., None] * (2 * math.pi / wavelength)  # ..., 3, count
    encoding = torch.cat([phase.sin(), phase.cos()], -1).flatten(-2)
    return F.pad(encoding, (0, width - 6 * count))
