"""Training pairs from DeepLesion's annotations: two views of one sub-volume.

DeepLesion tells where its lesions are, of which type, and where in the body, but only DLS tells
which of them are the same at another time. What needs no second time (detectors, embeddings)
learns from each sub-volume beside a copy that is moved, turned and resized.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tlt.data.deeplesion import Annotation
from tlt.data.pairs import (
    PairConfig,
    TrainingPair,
    as_tensor,
    draw_grids,
    registration_error,
    shown_in,
)
from tlt.geometry import AffineTransform, Grid, Points
from tlt.volume import AIR_HU, Volume

TURN, STRETCH, SHIFT_MM = 0.08, 0.08, 10.0  # of the copy: standard deviations
NOISE_HU, OFFSET_HU = 12.0, 8.0
BODY_HU = -900.0
TRIES = 10


@dataclass(frozen=True)
class AnnotatedPair(TrainingPair):
    """A training pair whose marks have been annotated.

    Attributes:
        marks_type: (P,) as DeepLesion's coarse types, from 0; -1 unknown.
        marks_place: (P, 3) share of the body's extent along x, y, z, in [0, 1]; NaN unknown.
    """

    marks_type: Tensor
    marks_place: Tensor


def cut_annotated_pair(
    rng: np.random.Generator, volume: Volume, known: Sequence[Annotation], config: PairConfig
) -> AnnotatedPair | None:
    """Crops about one annotated lesion, seen as it is and through a random affine map.

    None when chance shows none of them in both crops.
    """
    centers = np.array([one.center_mm for one in known])
    radius = np.array([one.radius_mm for one in known])
    for _ in range(TRIES):
        one = int(rng.integers(len(known)))
        move = _draw_copy(rng, centers[one])
        prior = registration_error(rng, move(centers[one])).after(move)
        template, search = draw_grids(rng, prior(centers[one]), config)
        shown = np.stack([shown_in(template, prior(centers)), shown_in(search, move(centers))], -1)
        both = np.flatnonzero(shown.all(1))
        if not len(both):
            continue
        places = np.concatenate([centers[both], _places(rng, volume, search, move, config)])
        inside = shown_in(template, prior(places)) & shown_in(search, move(places))
        anchors = np.resize(np.flatnonzero(inside), config.anchors)
        queries = np.resize(both, config.queries)
        scale = [prior.scale, move.scale]
        return AnnotatedPair(
            template=_scanned(rng, volume, template, prior),
            search=_scanned(rng, volume, search, move),
            template_origin_mm=as_tensor(template.origin_mm),
            search_origin_mm=as_tensor(search.origin_mm),
            centers_mm=as_tensor(prior(centers[queries])),
            truth_mm=as_tensor(move(centers[queries])),
            radius_mm=as_tensor(radius[queries] * prior.scale),
            anchors_mm=as_tensor(prior(places[anchors])),
            anchors_truth_mm=as_tensor(move(places[anchors])),
            marks_mm=as_tensor(prior(centers)),
            marks_truth_mm=as_tensor(move(centers)),
            marks_radius_mm=as_tensor(radius[:, None] * scale),
            marks_seen=torch.from_numpy(shown),
            marks_type=torch.tensor([one.type for one in known]),
            marks_place=as_tensor([one.place for one in known]),
        )
    return None


def _draw_copy(rng: np.random.Generator, about_mm: Points) -> AffineTransform:
    """The map of the copy: about a lesion."""
    turn = np.eye(3) + rng.normal(0, TURN, (3, 3))
    turn *= np.exp(rng.normal(0, STRETCH))
    return AffineTransform.about(turn, about_mm, rng.normal(0, SHIFT_MM, 3))


def _scanned(rng: np.random.Generator, volume: Volume, grid: Grid, move: AffineTransform) -> Tensor:
    """The crop (1, D, H, W) of a moved volume, with noise and an offset where it shows."""
    voxels = volume.resample(grid, pull=move.inverse(), fill=np.nan).voxels
    voxels = voxels + rng.normal(0, OFFSET_HU) + rng.normal(0, NOISE_HU, voxels.shape)
    return torch.from_numpy(np.nan_to_num(voxels, nan=AIR_HU).astype(np.float32))[None]


def _places(
    rng: np.random.Generator,
    volume: Volume,
    search: Grid,
    move: AffineTransform,
    config: PairConfig,
) -> Points:
    """Places in the body, in the volume's frame, all over the search crop."""
    low, high = search.bounds_mm()
    there = move.inverse()(rng.uniform(low, high, (4 * config.anchors, 3)))
    return there[volume.sample(there, AIR_HU) > BODY_HU]
