"""What the neighbourhood says: tissue around a lesion moves with it (ours, not the paper's).

Every template token near the lesion is matched by its embedding alone, and the lesion's own
prediction is pulled towards the robust mean of those displacements. A lesion that changed, or that
has a double, is held by what did not.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tlt.model.losses import CONTRAST_SCALE
from tlt.model.network import TLT, TokenMap

NEAR_MM = 28.0  # tokens within this distance of the lesion take part
REACH_MM = 32.0  # how far from their prior they are looked for
WEIGHT_MM = 16.0  # sigma of their weight over the distance from the lesion
OUTLIER_MM = 4.0  # deviation at which a displacement counts half
OWN_SHARE = 0.1  # weight of the lesion's own prediction, as a share of all others


class Consensus(NamedTuple):
    """A centre (3,) and the mean deviation in mm of the displacements that it rests on."""

    center_mm: Tensor
    spread_mm: float


def embedding_map(network: TLT, tokens: TokenMap) -> TokenMap:
    """The map of embeddings of a map of features."""
    embedded = network.embedding(tokens.tokens()).mT.unflatten(1, tokens.features.shape[1:])
    return TokenMap(embedded, tokens.origin_mm, tokens.token_mm)


def consensus(
    template: TokenMap, search: TokenMap, prior_mm: Tensor, predicted_mm: Tensor
) -> Consensus:
    """The prediction (3,) for a lesion with a prior (3,), held by its neighbourhood.

    ``template`` and ``search`` are maps of embeddings (`embedding_map`).
    """
    places, moved, weight = _displacements(template, search, prior_mm)
    distance2 = (places - prior_mm).square().sum(-1)
    weight = weight * torch.exp(-distance2 / (2 * WEIGHT_MM**2))
    moved = torch.cat([moved, (predicted_mm - prior_mm)[None]])
    weight = torch.cat([weight, OWN_SHARE * weight.sum().clamp(min=1e-6)[None]])
    shift, kept = predicted_mm - prior_mm, weight
    for scale_mm in (2 * OUTLIER_MM, *(OUTLIER_MM,) * 9):
        deviation = (moved - shift).norm(dim=-1)
        kept = weight / (1 + (deviation / scale_mm) ** 2)
        shift = (kept[:, None] * moved).sum(0) / kept.sum()
    spread = (kept * (moved - shift).norm(dim=-1)).sum() / kept.sum()
    return Consensus(prior_mm + shift, float(spread))


def _displacements(
    template: TokenMap, search: TokenMap, center_mm: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Places (K, 3) of the tokens near a point, their displacements (K, 3) and weights (K,).

    A token's counterpart is the mean place around its most similar search token; its weight is the
    share of the softmax that lies there.
    """
    embedded, positions = (v[0] for v in template.windows(center_mm[None], NEAR_MM))
    near = (positions - center_mm).norm(dim=-1) <= NEAR_MM
    embedded, places = embedded[near], positions[near]
    candidates, where = search.windows(places, REACH_MM)  # K, N, E and K, N, 3
    share = (CONTRAST_SCALE * (candidates @ embedded[..., None]).squeeze(-1)).softmax(-1)
    rows = torch.arange(len(places), device=share.device)
    peak = where[rows, share.argmax(-1)]
    around = (where - peak[:, None]).abs().amax(-1) <= 1.5 * search.token_mm
    local = share * around
    weight = local.sum(-1)
    counterpart = (local[..., None] * where).sum(1) / weight[:, None]
    return places, counterpart - places, weight
