"""How the tissue about a lesion moved: a local affine held by many matches (ours, not the paper's).

What surrounds a lesion moves with it. Places near it are matched on their own, first far and
wide, by the tokens' embedding and by large patches alike, then closer by small patches; each round
fits one affine displacement, robustly. A lesion that changed, or that has a double, is held by what
did not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
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
SMALL_MM, LARGEST = 10.0, 3.0  # up to which radius nothing changes, and how far out at most
MOST_STRAIN = 0.25  # of the tissue, along each axis


@dataclass(frozen=True)
class Weighing:
    """How the matches of a round are weighed.

    Attributes:
        weight_mm: sigma of their weight over the distance from the lesion.
        outlier_mm: deviation from the fit at which a match counts half.
        held: weight of what was believed before of the lesion, as a share of all matches.
    """

    weight_mm: float
    outlier_mm: float
    held: float


@dataclass(frozen=True)
class PatchRound:
    """Patches about a lesion.

    Attributes:
        about_mm: distance of their centres from the lesion along an axis; up to a third farther
            along the diagonals.
        step: how each is matched.
        weighing: of the fit.
    """

    about_mm: float
    step: PatchStep
    weighing: Weighing

    def beyond(self, radius_mm: float) -> PatchRound:
        """The round for a lesion of a radius: about a large one the patches lie farther out.

        A lesion changes between two scans; the tissue about it tells where it is.
        """
        larger = min(LARGEST, max(1.0, radius_mm / SMALL_MM))
        weighing = replace(self.weighing, weight_mm=self.weighing.weight_mm * larger)
        return replace(self, about_mm=self.about_mm * larger, weighing=weighing)


# Chosen on simulated pairs of the training CTs (docs/decisions/0007).
TOKENS_NEAR_MM, TOKENS_REACH_MM = 40.0, 32.0
FAR = PatchRound(20.0, PatchStep(32.0, 28.0, 4.0, penalty_mm=40.0), Weighing(20.0, 4.0, 0.1))
# No penalty for distance from here on: it would pull every patch towards what was believed.
CLOSER = (
    PatchRound(14.0, PatchStep(20.0, 10.0, 2.0, math.inf), Weighing(12.0, 3.0, 0.05)),
    PatchRound(7.0, PatchStep(16.0, 4.0, 2.0, math.inf), Weighing(8.0, 3.0, 0.05)),
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


def fit_local_motion(matches: Matches, believed: LocalMotion, weighing: Weighing) -> LocalMotion:
    """The affine displacement that most matches agree on: reweighted least squares.

    ``believed`` is where it starts, and one more match at the lesion itself.
    """
    places = torch.cat([matches.places_mm, believed.center_mm[None]]) - believed.center_mm
    moved = torch.cat([matches.moved_mm, believed.shift_mm[None]])
    weight = matches.weight * torch.exp(-places[:-1].square().sum(-1) / (2 * weighing.weight_mm**2))
    weight = torch.cat([weight, weighing.held * weight.sum().clamp(min=1e-6)[None]])
    design = torch.cat([torch.ones_like(places[:, :1]), places / weighing.weight_mm], 1)
    ridge = torch.diag(torch.tensor([1e-6, RIDGE, RIDGE, RIDGE], device=design.device))
    fitted = torch.zeros(4, 3, device=design.device)
    fitted[0] = believed.shift_mm
    for scale in (2 * weighing.outlier_mm, *(weighing.outlier_mm,) * (FITS - 1)):
        deviation = (moved - design @ fitted).norm(dim=-1)
        kept = weight / (1 + (deviation / scale) ** 2)
        normal = design.mT @ (kept[:, None] * design) + ridge * kept.sum()
        fitted = torch.linalg.solve(normal, design.mT @ (kept[:, None] * moved))
    spread = (kept * deviation).sum() / kept.sum()
    return LocalMotion(
        believed.center_mm, fitted[0], fitted[1:] / weighing.weight_mm, float(spread)
    )


def embedding_map(network: TLT, tokens: TokenMap) -> TokenMap:
    """The map of embeddings of a map of features."""
    embedded = network.embedding(tokens.tokens()).mT.unflatten(1, tokens.features.shape[1:])
    return TokenMap(embedded, tokens.origin_mm, tokens.token_mm)


def token_matches(
    template: TokenMap,
    search: TokenMap,
    expected: LocalMotion,
    near_mm: float = TOKENS_NEAR_MM,
    reach_mm: float = TOKENS_REACH_MM,
) -> Matches:
    """The tokens within ``near_mm`` of a place, each matched by its embedding alone.

    Each is looked for within ``reach_mm`` of where it is expected, along each axis.

    A token's counterpart is the mean place around its most similar search token; its weight is the
    share of the softmax that lies there.
    """
    center = expected.center_mm[None]
    tokens, places = (v[0] for v in template.windows(center, near_mm))
    inside = (places - center).norm(dim=-1) <= near_mm
    tokens, places = tokens[inside], places[inside]
    goals = places + expected(places)
    middle = expected.moved_mm[None]
    extent = float((torch.cat([goals, middle]) - middle).abs().max()) + reach_mm
    candidates, where = (v[0] for v in search.windows(middle, extent))
    allowed = _within(where, goals, reach_mm)
    some = allowed.any(1)  # the expected place may lie outside the map
    logits = CONTRAST_SCALE * tokens[some] @ candidates.mT
    share, places = logits.masked_fill_(~allowed[some], -torch.inf).softmax(-1), places[some]
    local = share * _within(where, where[share.argmax(-1)], 1.5 * search.token_mm)
    weight = local.sum(-1)
    return Matches(places, local @ where / weight[:, None] - places, weight)


def _within(where: Tensor, centers: Tensor, reach_mm: float) -> Tensor:
    """Which places (N, 3) lie within a distance of centres (K, 3) along every axis: (K, N)."""
    near = (where[:, 0] - centers[:, :1]).abs() <= reach_mm
    for axis in (1, 2):  # one axis at a time: (K, N, 3) would not fit into the cache
        near &= (where[:, axis] - centers[:, axis : axis + 1]).abs() <= reach_mm
    return near


def patch_matches(pair: AlignedPair, expected: LocalMotion, patches: PatchRound) -> Matches:
    """27 places about a lesion, itself the first, each matched by a patch.

    The weight is the squared correlation.
    """
    places = expected.center_mm + patches.about_mm * _directions().to(expected.center_mm)
    starts = (places + expected(places)).double().cpu().numpy()
    found = [
        match_patch(pair, place, start, patches.step, expected.stretch)
        for place, start in zip(places.double().cpu().numpy(), starts, strict=True)
    ]
    moved = torch.as_tensor(np.array([f.center_mm for f in found])).to(places) - places
    correlation = torch.tensor([f.correlation for f in found]).to(places)
    return Matches(places, moved, correlation.clamp(min=0).square())


def pooled(tokens: Matches, patches: Matches, weighing: Weighing) -> Matches:
    """Both together, each with half of the weight about the lesion (the first of the patches)."""

    def total(matches: Matches) -> Tensor:
        distance2 = (matches.places_mm - patches.places_mm[0]).square().sum(-1)
        return (matches.weight * torch.exp(-distance2 / (2 * weighing.weight_mm**2))).sum()

    of_tokens, of_patches = total(tokens), total(patches)
    if of_tokens == 0 or of_patches == 0:
        return patches if of_tokens == 0 else tokens
    scaled = patches._replace(weight=patches.weight * of_tokens / of_patches)
    return Matches(*(torch.cat(both) for both in zip(tokens, scaled, strict=True)))


def _directions() -> Tensor:
    """Centre, faces, edges and corners (27, 3) of a cube, drawn in towards a ball."""
    steps = torch.tensor([0.0, -1.0, 1.0])
    cube = torch.cartesian_prod(steps, steps, steps)
    return cube / cube.norm(dim=1, keepdim=True).clamp(min=1).sqrt()
