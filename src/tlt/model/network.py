"""The Transformer Lesion Tracker: forward in the paper's order (Figure 1a).

Both images are seen in the follow-up's frame: the template is the baseline resampled through the
affine registration, so a lesion at p in the template has its prior at p in the search image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tlt.model.anatomical_attention import anatomical_key_bias
from tlt.model.backbone import Backbone
from tlt.model.center_predictor import (
    CropCenterPredictor,
    RelativeCenterPredictor,
    best_token,
    global_regression,
)
from tlt.model.cross_attention import CrossAttentionTransformer, Line, sine_encoding
from tlt.model.presets import PRESETS, ModelConfig
from tlt.model.sparse_selection import Selected, crop_tokens, select_tokens

LONGEST_WAVE_MM, SHORTEST_WAVE_MM = 256.0, 12.0


@dataclass
class TokenMap:
    """Backbone features of one image and where they lie.

    Attributes:
        features: (C, d, h, w).
        origin_mm: (3,) position (x, y, z) of the first token, in the frame of the search image.
        token_mm: distance between neighbouring tokens.
    """

    features: Tensor
    origin_mm: Tensor
    token_mm: float

    @property
    def shape_zyx(self) -> tuple[int, ...]:
        """(d, h, w)."""
        return tuple(self.features.shape[1:])

    def tokens(self) -> Tensor:
        """(d*h*w, C)."""
        return self.features.flatten(1).mT

    def positions_mm(self) -> Tensor:
        """Positions (d*h*w, 3) as (x, y, z)."""
        device = self.features.device
        axes = [torch.arange(n, dtype=torch.float32, device=device) for n in self.shape_zyx]
        index_zyx = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
        return self.origin_mm + index_zyx.flip(-1) * self.token_mm

    def sample(self, points_mm: Tensor) -> Tensor:
        """Features (Q, C) at points (Q, 3), trilinear; the border's value outside."""
        size = torch.tensor(self.shape_zyx[::-1], dtype=torch.float32, device=points_mm.device)
        share = (points_mm - self.origin_mm) / self.token_mm / (size - 1).clamp(min=1) * 2 - 1
        sampled = F.grid_sample(
            self.features[None].float(),
            share[None, None, None],
            padding_mode="border",
            align_corners=True,
        )
        return sampled[0, :, 0, 0].mT

    def windows(self, centers_mm: Tensor, reach_mm: float) -> tuple[Tensor, Tensor]:
        """Tokens (Q, N, C) around each of Q points, and their positions (Q, N, 3).

        A window reaches ``reach_mm`` from its point along each axis; at the map's border it is
        shifted inwards, and a map that is smaller than a window is taken whole.
        """
        device, (depth, height, width) = centers_mm.device, self.shape_zyx
        longest = 2 * int(reach_mm / self.token_mm) + 1
        sides = [min(longest, n) for n in (width, height, depth)]
        size, side = (torch.tensor(v, device=device) for v in ((width, height, depth), sides))
        nearest = ((centers_mm - self.origin_mm) / self.token_mm).round().long()
        start = torch.minimum((nearest - side // 2).clamp(min=0), size - side)  # Q, 3
        steps = [torch.arange(n, device=device) for n in sides]
        x, y, z = (start[:, i, None] + steps[i] for i in range(3))  # Q, side
        rows = z[:, :, None, None] * height + y[:, None, :, None]
        flat = (rows * width + x[:, None, None, :]).flatten(1)  # Q, N
        index_xyz = torch.stack([flat % width, flat // width % height, flat // width // height], -1)
        return self.tokens()[flat], self.origin_mm + index_xyz * self.token_mm

    def cube(self, center_mm: Tensor, half: int) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (N, C) of a cube about the one nearest to a point (3,), even beyond the border.

        With them the place (3,) of that token, and which of the tokens exist (N,); the others
        repeat the border's.
        """
        size = torch.tensor(self.shape_zyx, device=center_mm.device)
        nearest = ((center_mm - self.origin_mm) / self.token_mm).round().long()
        steps = torch.arange(-half, half + 1, device=center_mm.device)
        index = nearest.flip(0)[:, None] + steps  # z y x, side
        exists = (index >= 0) & (index < size[:, None])
        z, y, x = index.clamp(min=0).minimum(size[:, None] - 1)
        _, height, width = self.shape_zyx
        rows = (z[:, None, None] * height + y[:, None]) * width + x
        there = exists[0][:, None, None] & exists[1][:, None] & exists[2]
        place = self.origin_mm + nearest * self.token_mm
        return self.tokens()[rows.flatten()], place, there.flatten()


@dataclass
class Prediction:
    """What the network says of Q lesions over N search tokens.

    Attributes:
        center_mm: (Q, 3) predicted centre, in the frame of the search image.
        logits: (Q, N) class logits of the search tokens.
        centers_mm: (Q, N, 3) centre regressed by each token.
        positions_mm: (Q, N, 3) where the search tokens lie.
    """

    center_mm: Tensor
    logits: Tensor
    centers_mm: Tensor
    positions_mm: Tensor


class TLT(nn.Module):
    """The tracker's network, built from a preset."""

    presets: ClassVar[Mapping[str, ModelConfig]] = PRESETS

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.backbone = Backbone(config)
        self.projection = nn.Conv3d(width, width, 1) if config.projection else nn.Identity()
        self.transformer = CrossAttentionTransformer(config)
        relative = config.head == "relative"
        self.head = (RelativeCenterPredictor if relative else CropCenterPredictor)(config)
        if config.similarity:
            self.embed = nn.Linear(width, config.embedding)
            self.similarity_token = nn.Linear(1, width)
            self.similarity_logit = nn.Parameter(torch.tensor(6.0))

    def encode(self, image_hu: Tensor) -> Tensor:
        """Features (B, C, d, h, w) of a CT window (B, 1, D, H, W) in HU."""
        return self.projection(self.backbone(image_hu))

    def embedding(self, tokens: Tensor) -> Tensor:
        """Unit vectors (..., E) by which the same anatomy is recognised in both images."""
        return F.normalize(self.embed(tokens).float(), dim=-1)

    def forward(
        self, template: TokenMap, search: TokenMap, centers_mm: Tensor, radius_mm: Tensor
    ) -> Prediction:
        """The centres of Q lesions in the search image.

        centers_mm (Q, 3): where the affine prior puts each lesion, which is also where it lies in
        the resampled template. radius_mm (Q,): its radius there.
        """
        config = self.config
        chosen = self.select(template, centers_mm, radius_mm)  # SSS, Eq. 1
        tokens, positions = search.windows(centers_mm, config.search_reach_mm)  # Q, N, C and 3
        offsets = positions - centers_mm[:, None]  # Q, N, 3
        similarity = None
        if config.similarity:
            similarity = self.similarity(template.sample(centers_mm), tokens)  # Q, N
            tokens = tokens + self.similarity_token(similarity[..., None]).to(tokens.dtype)
        fused = self.transformer(  # CAT, Eq. 3
            Line(chosen.tokens, self.position(chosen.offsets_mm).to(tokens.dtype)),
            Line(tokens, self.position(offsets).to(tokens.dtype)),
            self.template_bias(chosen),
            anatomical_key_bias(offsets, radius_mm) if config.raam else None,  # RAAM, Eq. 2
        )
        logits, centers = self.head(fused, offsets)
        if similarity is not None:
            logits = logits + self.similarity_logit * similarity
        regress = global_regression if config.global_regression else best_token  # Eq. 4
        origin = centers_mm[:, None]
        return Prediction(
            regress(logits, centers) + centers_mm, logits, centers + origin, positions
        )

    def select(self, template: TokenMap, centers_mm: Tensor, radius_mm: Tensor) -> Selected:
        """The template tokens of each lesion: sparse, or a cube of five tokens without SSS."""
        place = (template.tokens(), template.positions_mm(), centers_mm, radius_mm)
        if self.config.sss:
            return select_tokens(*place, self.config.threshold, self.config.template_reach_mm)
        return crop_tokens(*place, 2.5 * self.config.token_mm)

    def similarity(self, lesions: Tensor, tokens: Tensor) -> Tensor:
        """Cosine (Q, N) of each lesion's embedding, from (Q, C), with those of tokens (Q, N, C)."""
        return (self.embedding(tokens) @ self.embedding(lesions)[..., None]).squeeze(-1)

    def position(self, offsets_mm: Tensor) -> Tensor:
        """Position encoding (Q, N, C) of offsets in mm from the lesion, or from its prior."""
        width = self.config.width
        if self.config.position == "relative":
            return sine_encoding(offsets_mm, width, LONGEST_WAVE_MM, SHORTEST_WAVE_MM)
        low = offsets_mm.amin(1, keepdim=True)
        side = (offsets_mm.amax(1, keepdim=True) - low).clamp(min=1)
        return sine_encoding((offsets_mm - low) / side, width, 10000.0, 1.0)

    def template_bias(self, chosen: Selected) -> Tensor:
        """Bias (Q, 1, 1, L) of the template keys: padding out, and G_t in the published masks."""
        bias = torch.zeros_like(chosen.weight)
        if self.config.raam and self.config.raam_keys == "all":
            bias = chosen.weight
        return bias.masked_fill(~chosen.valid, float("-inf"))[:, None, None]
