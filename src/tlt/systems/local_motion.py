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

import torch
import torch.nn.functional as F
from torch import Tensor

from tlt.systems.patch import PatchStep, Texture, match_patches

FITS = 10
RIDGE = 0.1
SMALL_MM, LARGEST = 10.0, 3.0  # up to which radius nothing changes, and how far out at most
MOST_STRAIN = 0.25  # of the tissue, along each axis


@dataclass(frozen=True)
class Weighing:
    """How the matches of a round are weighed.

    Attributes:
        weight_mm: sigma of their weight over the distance from the lesion; (Q, 1, 1) where it
            is not the same about each.
        outlier_mm: deviation from the fit at which a match counts half.
        held: weight of what was believed before of the lesion, as a share of all matches.
    """

    weight_mm: float | Tensor
    outlier_mm: float
    held: float


@dataclass(frozen=True)
class PatchRound:
    """Patches about a lesion.

    Attributes:
        about_mm: distance of their centres from the lesion along an axis; up to a third farther
            along the diagonals. (Q, 1, 1) where it is not the same about each.
        step: how each is matched.
        weighing: of the fit.
    """

    about_mm: float | Tensor
    step: PatchStep
    weighing: Weighing

    def beyond(self, radius_mm: Tensor) -> PatchRound:
        """The round for lesions of radii (Q,): about a large one the patches lie farther out.

        A lesion changes between two scans; the tissue about it tells where it is.
        """
        larger = (radius_mm / SMALL_MM).clamp(1.0, LARGEST)[:, None, None]
        weighing = replace(self.weighing, weight_mm=self.weighing.weight_mm * larger)
        return replace(self, about_mm=self.about_mm * larger, weighing=weighing)


# Chosen on simulated pairs of the training CTs (docs/decisions/0007, 0012).
FAR = PatchRound(20.0, PatchStep(32.0, 16.0, 4.0, penalty_mm=40.0), Weighing(20.0, 4.0, 0.1))
# No penalty for distance from here on: it would pull every patch towards what was believed.
CLOSER = (
    PatchRound(14.0, PatchStep(20.0, 10.0, 2.0, math.inf), Weighing(12.0, 3.0, 0.05)),
    PatchRound(7.0, PatchStep(16.0, 4.0, 2.0, math.inf), Weighing(8.0, 3.0, 0.05)),
)


class Matches(NamedTuple):
    """Places (Q, K, 3) of the template about Q lesions, displacements in mm, weights (Q, K)."""

    places_mm: Tensor
    moved_mm: Tensor
    weight: Tensor


@dataclass(frozen=True)
class LocalMotion:
    """Displacement of the tissue about each of Q places.

    Attributes:
        center_mm: (Q, 3) the places, in the template.
        shift_mm: (Q, 3) their displacements.
        gradient: (Q, 3, 3) change of the displacement (columns x, y, z) a mm of place (rows).
        spread_mm: (Q,) mean deviation of the matches that it rests on; 0 where there are none.
    """

    center_mm: Tensor
    shift_mm: Tensor
    gradient: Tensor
    spread_mm: Tensor

    @staticmethod
    def constant(center_mm: Tensor, shift_mm: Tensor) -> LocalMotion:
        """The same displacement everywhere about a place."""
        gradient = center_mm.new_zeros(len(center_mm), 3, 3)
        return LocalMotion(center_mm, shift_mm, gradient, center_mm.new_zeros(len(center_mm)))

    def __call__(self, places_mm: Tensor) -> Tensor:
        """Displacements (Q, K, 3) at places (Q, K, 3)."""
        return self.shift_mm[:, None] + (places_mm - self.center_mm[:, None]) @ self.gradient

    @property
    def still(self) -> LocalMotion:
        """No displacement about the same places."""
        return LocalMotion.constant(self.center_mm, torch.zeros_like(self.shift_mm))

    @property
    def moved_mm(self) -> Tensor:
        """Where (Q, 3) the places went."""
        return self.center_mm + self.shift_mm

    @property
    def stretch(self) -> Tensor:
        """The matrices (Q, 3, 3) by which small vectors of the template are carried over."""
        strain = self.gradient.mT.clamp(-MOST_STRAIN, MOST_STRAIN)
        return torch.eye(3, device=strain.device) + strain


def fit_local_motion(matches: Matches, believed: LocalMotion, weighing: Weighing) -> LocalMotion:
    """The affine displacements that most matches agree on: reweighted least squares.

    ``believed`` is where it starts, and one more match at the lesion itself.
    """
    center, shift = believed.center_mm[:, None], believed.shift_mm[:, None]  # Q, 1, 3
    places = torch.cat([matches.places_mm, center], 1) - center
    moved = torch.cat([matches.moved_mm, shift], 1)
    weight = matches.weight * _nearness(matches.places_mm, center, weighing)
    held = weighing.held * weight.sum(1, keepdim=True).clamp(min=1e-6)
    weight = torch.cat([weight, held], 1)
    design = torch.cat([torch.ones_like(places[..., :1]), places / weighing.weight_mm], -1)
    ridge = torch.diag(torch.tensor([1e-6, RIDGE, RIDGE, RIDGE], device=design.device))
    fitted = F.pad(shift, (0, 0, 0, 3))  # Q, 4, 3
    for scale in (2 * weighing.outlier_mm, *(weighing.outlier_mm,) * (FITS - 1)):
        deviation = (moved - design @ fitted).norm(dim=-1)
        kept = weight / (1 + (deviation / scale).square())
        total = kept.sum(1)
        weighed = (kept[..., None] * design).mT
        normal = weighed @ design + ridge * total[:, None, None]
        fitted = torch.linalg.solve(normal, weighed @ moved)
    spread = (kept * deviation).sum(1) / total
    return LocalMotion(believed.center_mm, fitted[:, 0], fitted[:, 1:] / weighing.weight_mm, spread)


def _nearness(places_mm: Tensor, center_mm: Tensor, weighing: Weighing) -> Tensor:
    """Weights (Q, K) of places by their distance from the lesions (Q, 1, 3)."""
    return torch.exp(-((places_mm - center_mm) / weighing.weight_mm).square().sum(-1) / 2)


def patch_matches(
    template: Texture, search: Texture, expected: LocalMotion, patches: PatchRound
) -> Matches:
    """27 places about each lesion, itself the first, each matched by a patch.

    The weight is the squared correlation.
    """
    center = expected.center_mm[:, None]
    places = center + patches.about_mm * _directions().to(center)  # Q, 27, 3
    starts = places + expected(places)
    stretch = expected.stretch.repeat_interleave(places.shape[1], 0)
    found = match_patches(
        template, search, places.flatten(0, 1), starts.flatten(0, 1), patches.step, stretch
    )
    moved = found.center_mm.view_as(places) - places
    weight = found.correlation.clamp(min=0).square()
    return Matches(places, moved, weight.view(places.shape[:2]))


def pooled(tokens: Matches, patches: Matches, weighing: Weighing) -> Matches:
    """Both together, each with half of the weight about a lesion (the first of the patches)."""
    center = patches.places_mm[:, :1]
    of_tokens, of_patches = (
        (m.weight * _nearness(m.places_mm, center, weighing)).sum(1, keepdim=True)
        for m in (tokens, patches)
    )
    ratio = torch.where((of_tokens > 0) & (of_patches > 0), of_tokens / of_patches, 1.0)
    scaled = patches._replace(weight=patches.weight * ratio)
    return Matches(*(torch.cat(both, 1) for both in zip(tokens, scaled, strict=True)))


def _directions() -> Tensor:
    """Centre, faces, edges and corners (27, 3) of a cube, drawn in towards a ball."""
    steps = torch.tensor([0.0, -1.0, 1.0])
    cube = torch.cartesian_prod(steps, steps, steps)
    return cube / cube.norm(dim=1, keepdim=True).clamp(min=1).sqrt()
