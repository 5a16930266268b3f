"""How the tissue about a lesion moved: a local affine held by many matches (ours, not the paper's).

What surrounds a lesion moves with it. Places near it are matched on their own, first far and
wide, by the tokens' embedding and by large patches alike, then closer by small patches; each round
fits one affine displacement, robustly. A lesion that changed, or that has a double, is held by what
did not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tlt.model.losses import CONTRAST_SCALE
from tlt.model.network import TLT, TokenMap
from tlt.systems.base import AlignedPair
from tlt.systems.patch import PatchStep, match_patch

FITS = 10
RIDGE = 0.1
MOST_STRAIN = 0.25  # of the tissue, along each axis


@dataclass(frozen=True)
class Neighbourhood:
    """Which places about a lesion are matched, and how their matches are weighed.

    Attributes:
        near_mm: places within this distance of the lesion take part.
        reach_mm: how far from where they are expected they are looked for, along each axis.
        weight_mm: sigma of their weight over the distance from the lesion.
        outlier_mm: deviation from the fit at which a match counts half.
        held: weight of what was believed before of the lesion, as a share of all matches.
    """

    near_mm: float
    reach_mm: float
    weight_mm: float
    outlier_mm: float
    held: float


# Chosen on simulated pairs of the training CTs (docs/decisions/0007).
TOKENS = Neighbourhood(40.0, 32.0, 20.0, 4.0, 0.1)
FAR = Neighbourhood(20.0, 28.0, 20.0, 4.0, 0.1)
WIDE_PATCHES = Neighbourhood(14.0, 10.0, 12.0, 3.0, 0.05)
CLOSE_PATCHES = Neighbourhood(7.0, 4.0, 8.0, 3.0, 0.05)
FAR_PATCHES = (FAR, PatchStep(32.0, FAR.reach_mm, 4.0, penalty_mm=40.0))
# Then no penalty for distance: it would pull every patch towards what was believed.
PATCH_ROUNDS = (
    (WIDE_PATCHES, PatchStep(20.0, WIDE_PATCHES.reach_mm, 2.0, math.inf)),
    (CLOSE_PATCHES, PatchStep(16.0, CLOSE_PATCHES.reach_mm, 2.0, math.inf)),
)


class Matches(NamedTuple):
    """Places (K, 3) of the template, their displacements (K, 3) in mm, and weights (K,)."""

    places_mm: Tensor
    moved_mm: Tensor
    weight: Tensor


@dataclass(frozen=True)
class LocalMotion:
    """Displacement of the tissue about a place.

    Attributes:
        center_mm: (3,) the place, in the template.
        shift_mm: (3,) its displacement.
        gradient: (3, 3) change of the displacement (columns x, y, z) a mm of place (rows).
        spread_mm: mean deviation of the matches that it rests on; 0 where there are none.
    """

    center_mm: Tensor
    shift_mm: Tensor
    gradient: Tensor
    spread_mm: float = 0.0

    @staticmethod
    def constant(center_mm: Tensor, shift_mm: Tensor) -> LocalMotion:
        """The same displacement everywhere."""
        return LocalMotion(center_mm, shift_mm, torch.zeros_like(center_mm).expand(3, 3))

    def __call__(self, places_mm: Tensor) -> Tensor:
        """Displacements (K, 3) at places (K, 3)."""
        return self.shift_mm + (places_mm - self.center_mm) @ self.gradient

    @property
    def moved_mm(self) -> Tensor:
        """Where (3,) the place went."""
        return self.center_mm + self.shift_mm

    @property
    def stretch(self) -> np.ndarray:
        """The matrix (3, 3) by which small vectors of the template are carried over."""
        strain = self.gradient.T.double().cpu().numpy()
        return np.eye(3) + np.clip(strain, -MOST_STRAIN, MOST_STRAIN)


def fit_local_motion(matches: Matches, believed: LocalMotion, near: Neighbourhood) -> LocalMotion:
    """The affine displacement that most matches agree on: reweighted least squares.

    ``believed`` is where it starts, and one more match at the lesion itself.
    """
    places = torch.cat([matches.places_mm, believed.center_mm[None]]) - believed.center_mm
    moved = torch.cat([matches.moved_mm, believed.shift_mm[None]])
    weight = matches.weight * torch.exp(-places[:-1].square().sum(-1) / (2 * near.weight_mm**2))
    weight = torch.cat([weight, near.held * weight.sum().clamp(min=1e-6)[None]])
    design = torch.cat([torch.ones_like(places[:, :1]), places / near.weight_mm], 1)
    ridge = torch.diag(torch.tensor([1e-6, RIDGE, RIDGE, RIDGE], device=design.device))
    fitted = torch.zeros(4, 3, device=design.device)
    fitted[0] = believed.shift_mm
    for scale in (2 * near.outlier_mm, *(near.outlier_mm,) * (FITS - 1)):
        deviation = (moved - design @ fitted).norm(dim=-1)
        kept = weight / (1 + (deviation / scale) ** 2)
        normal = design.mT @ (kept[:, None] * design) + ridge * kept.sum()
        fitted = torch.linalg.solve(normal, design.mT @ (kept[:, None] * moved))
    spread = (kept * deviation).sum() / kept.sum()
    return LocalMotion(believed.center_mm, fitted[0], fitted[1:] / near.weight_mm, float(spread))


def embedding_map(network: TLT, tokens: TokenMap) -> TokenMap:
    """The map of embeddings of a map of features."""
    embedded = network.embedding(tokens.tokens()).mT.unflatten(1, tokens.features.shape[1:])
    return TokenMap(embedded, tokens.origin_mm, tokens.token_mm)


def token_matches(
    template: TokenMap, search: TokenMap, expected: LocalMotion, near: Neighbourhood
) -> Matches:
    """The tokens about a place, each matched by its embedding alone.

    A token's counterpart is the mean place around its most similar search token; its weight is the
    share of the softmax that lies there.
    """
    center = expected.center_mm[None]
    tokens, places = (v[0] for v in template.windows(center, near.near_mm))
    inside = (places - center).norm(dim=-1) <= near.near_mm
    tokens, places = tokens[inside], places[inside]
    goals = places + expected(places)
    middle = expected.moved_mm[None]
    extent = float((torch.cat([goals, middle]) - middle).abs().max()) + near.reach_mm
    candidates, where = (v[0] for v in search.windows(middle, extent))
    distance = (where - goals[:, None]).abs().amax(-1)  # K, N
    logits = CONTRAST_SCALE * tokens @ candidates.mT
    logits = logits.masked_fill(distance > near.reach_mm, -torch.inf)
    some = (distance <= near.reach_mm).any(1)  # the expected place may lie outside the map
    share, places = logits[some].softmax(-1), places[some]
    peak = where[share.argmax(-1)]
    around = (where - peak[:, None]).abs().amax(-1) <= 1.5 * search.token_mm
    local = share * around
    weight = local.sum(-1)
    return Matches(places, local @ where / weight[:, None] - places, weight)


def patch_matches(
    pair: AlignedPair, expected: LocalMotion, near: Neighbourhood, step: PatchStep
) -> Matches:
    """27 places about a lesion, itself the first, each matched by a small patch.

    The weight is the squared correlation.
    """
    places = expected.center_mm + near.near_mm * _directions().to(expected.center_mm)
    starts = (places + expected(places)).double().cpu().numpy()
    found = [
        match_patch(pair, place, start, step, expected.stretch)
        for place, start in zip(places.double().cpu().numpy(), starts, strict=True)
    ]
    moved = torch.as_tensor(np.array([f.center_mm for f in found])).to(places) - places
    correlation = torch.tensor([f.correlation for f in found]).to(places)
    return Matches(places, moved, correlation.clamp(min=0).square())


def pooled(first: Matches, second: Matches, near: Neighbourhood) -> Matches:
    """Both together, each with the same weight about the place (the second's first) in sum."""

    def total(matches: Matches) -> Tensor:
        distance2 = (matches.places_mm - second.places_mm[0]).square().sum(-1)
        return (matches.weight * torch.exp(-distance2 / (2 * near.weight_mm**2))).sum()

    share = total(first) / total(second).clamp(min=1e-6)
    scaled = second._replace(weight=second.weight * share)
    return Matches(*(torch.cat(both) for both in zip(first, scaled, strict=True)))


def _directions() -> Tensor:
    """Centre, faces, edges and corners (27, 3) of a cube, drawn in towards a ball."""
    steps = torch.tensor([0.0, -1.0, 1.0])
    cube = torch.cartesian_prod(steps, steps, steps)
    return cube / cube.norm(dim=1, keepdim=True).clamp(min=1).sqrt()
