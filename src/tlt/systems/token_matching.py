"""Tokens matched by their embedding alone: how the tissue about a lesion moved, far and wide."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from tlt.model.losses import CONTRAST_SCALE
from tlt.model.network import TLT, TokenMap
from tlt.systems.local_motion import Matches

# Chosen on simulated pairs of the training CTs (docs/decisions/0007).
TOKENS_NEAR_MM, TOKENS_REACH_MM = 40.0, 32.0


def embedding_map(network: TLT, tokens: TokenMap) -> TokenMap:
    """The map of embeddings of a map of features."""
    embedded = network.embedding(tokens.tokens()).mT.unflatten(1, tokens.features.shape[1:])
    return TokenMap(embedded, tokens.origin_mm, tokens.token_mm)


def token_matches(
    template: TokenMap,
    search: TokenMap,
    centers_mm: Tensor,
    near_mm: float = TOKENS_NEAR_MM,
    reach_mm: float = TOKENS_REACH_MM,
) -> Matches:
    """The tokens within ``near_mm`` of each place, each matched by its embedding alone.

    Each is looked for within ``reach_mm`` of itself, along each axis.

    A token's counterpart is the mean place around its most similar search token; its weight is the
    share of the softmax that lies there.
    """
    near, reach = int(near_mm / template.token_mm), int(reach_mm / template.token_mm)
    matched = [_match_tokens(template, search, center, near, reach) for center in centers_mm]
    return Matches(*(torch.stack(parts) for parts in zip(*matched, strict=True)))


def _match_tokens(
    template: TokenMap, search: TokenMap, center_mm: Tensor, near: int, reach: int
) -> Matches:
    """The matches (K, ...) of a ball of tokens about the one nearest to a place.

    A plane of them is compared with all tokens of the search planes within reach at once, and those
    of its products are picked that lie within reach of each token.
    """
    planes, offsets = _ball(near, reach)
    around, side = near + reach, 2 * (near + reach) + 1
    ours, place_mm, inside = template.cube(center_mm, near)
    theirs, where_mm, shown = search.cube(center_mm, around)
    hidden = torch.where(shown, 0.0, -torch.inf)
    logits, tokens = [], []
    for plane, (own, candidates) in enumerate(planes):
        slab = slice(plane * side**2, (plane + 2 * reach + 1) * side**2)
        similar = torch.addmm(hidden[slab], ours[own], theirs[slab].mT, alpha=CONTRAST_SCALE)
        logits.append(similar.gather(1, candidates))
        tokens.append(own)
    own = torch.cat(tokens)
    share = torch.cat(logits).softmax(-1)  # K, (2 * reach + 1) ** 3
    local, step_zyx = _around_the_best(share.nan_to_num_(0.0), 2 * reach + 1)
    weight = local.sum(-1)
    step = (local[..., None] * step_zyx).sum(1) / weight[:, None].clamp(min=1e-6) - reach
    between = where_mm - place_mm  # of the tokens nearest to the place in both maps
    moved = between + step.flip(-1) * search.token_mm
    places = place_mm + offsets[own] * template.token_mm
    return Matches(places, moved, weight * inside[own])


class _Plane(NamedTuple):
    """Tokens of one plane of a ball, and what each is compared with.

    own (K,): places of the tokens in the cube about the ball. candidates (K, M): places of the
    tokens within reach of each, in the planes of the larger cube that lie within reach.
    """

    own: Tensor
    candidates: Tensor


@lru_cache(maxsize=8)
def _ball(near: int, reach: int) -> tuple[list[_Plane], Tensor]:
    """The planes of a ball of tokens, and the offsets (N, 3) in tokens (x, y, z) of its cube."""
    side, around = 2 * near + 1, 2 * (near + reach) + 1
    steps = torch.arange(-near, near + 1)
    offsets_zyx = torch.cartesian_prod(steps, steps, steps)
    inside = (offsets_zyx.square().sum(1) <= near**2).view(side, side, side)
    reached = torch.arange(2 * reach + 1)
    dz, dy, dx = torch.cartesian_prod(reached, reached, reached).unbind(1)
    within = (dz * around + dy) * around + dx
    planes = []
    for z in range(side):
        y, x = inside[z].nonzero().unbind(1)
        corner = y * around + x
        planes.append(_Plane((z * side + y) * side + x, corner[:, None] + within))
    return planes, offsets_zyx.flip(1)


def _around_the_best(share: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Shares (K, 27) of the largest of a cube (K, side ** 3) and its neighbours, and their places.

    The places (K, 27, 3) are (z, y, x); neighbours outside the cube have no share.
    """
    best = share.argmax(-1)
    steps = torch.arange(-1, 2, device=share.device)
    best_zyx = torch.stack([best // side**2, best // side % side, best % side], -1)
    place = best_zyx[:, None] + torch.cartesian_prod(steps, steps, steps)
    there = ((place >= 0) & (place < side)).all(-1)
    z, y, x = place.clamp(0, side - 1).unbind(-1)
    return share.gather(1, (z * side + y) * side + x) * there, place
