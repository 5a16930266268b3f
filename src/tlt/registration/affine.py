"""Affine registration of two CTs of a patient: arg min ||T_aff(I_t) - I_s||_1.

Source: TLT paper, RAAM, Eq. 2 (I_t baseline, I_s follow-up). The paper names no optimiser; here it
is Gauss-Newton over a 16-8-4 mm pyramid. The scans may share as little as a third of their length,
so it starts from the best of all shifts (`shifts`), and the best few that differ are refined. What
differs from Eq. 2: HU are clipped, with soft tissue stretched (`pyramid.tones`), only the body
counts, and a shift of all organs' HU (contrast medium) is taken out.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from tlt.geometry import AffineTransform, Points
from tlt.registration.gauss_newton import PRIOR, design_matrix, refine, to_affine, to_theta
from tlt.registration.mattes import register_mattes
from tlt.registration.pyramid import Level, pyramid
from tlt.registration.result import (
    OVERLAP_OK,
    PRONE,
    SIMILARITY_SURE,
    Registration,
    is_plausible,
    judge,
    made_plausible,
)
from tlt.registration.shifts import best_shifts
from tlt.threads import one_thread
from tlt.volume import Volume

Pyramid = list[Level]

SUPINE = np.eye(3)
SEARCH_VOXELS = 150_000  # of all shifts at 8 mm; where they are more, 16 mm will do
STARTS = 8
# iterations, candidates kept, apart by at least (mm), most points; from the coarsest level on
SCHEDULE = (
    (8, 3, 8.0, 3_000),
    (6, 1, 4.0, 6_000),
    (4, 1, 0.0, 10_000),
)
ENOUGH_OVERLAP = 0.5  # below it a result counts less against others
SOFT_PRIOR = 0.01  # tried where the first result is doubtful


def register_affine(baseline: Volume, followup: Volume) -> Registration:
    """The affine map of baseline points to the follow-up, with its similarity and an honest flag.

    Works from the images alone: the scans' frames may differ by any shift. Never raises on odd
    images: without a body in both, the grid centres are aligned and ``ok`` is False.
    """
    start = time.perf_counter()
    with one_thread():
        fixed, moving = pyramid(baseline), pyramid(followup)
        if not all(bool(level.body.any()) for level in (*fixed, *moving)):
            shift = followup.grid.center_mm - baseline.grid.center_mm
            centers = AffineTransform(np.eye(3), shift)
            return Registration(centers, "none", 0.0, False, time.perf_counter() - start, 0.0)
        found = judge(fixed[1], moving[1], register_l1(fixed, moving), "l1-gauss-newton", start)
        unsure = found.similarity < SIMILARITY_SURE
        if not found.ok or (unsure and seems_turned_over(fixed, moving)):
            found = _second_opinion(found, fixed, moving, start)
        return replace(found, seconds=time.perf_counter() - start)


def _second_opinion(
    first: Registration, fixed: Pyramid, moving: Pyramid, start: float
) -> Registration:
    """The best of a doubtful result, a softer one, a patient turned over, and Mattes MI.

    Where all are absurd, the bodies' centres are aligned.
    """
    center = fixed[1].points_mm(fixed[1].body).mean(0)
    shift = moving[1].points_mm(moving[1].body).mean(0) - center
    soft = register_l1(fixed, moving, SUPINE, SOFT_PRIOR)
    others = [
        ("l1-gauss-newton", made_plausible(first.baseline_to_followup, center)),
        ("l1-gauss-newton", soft),
        ("l1-gauss-newton", made_plausible(soft, center)),
        ("l1-gauss-newton", register_l1(fixed, moving, PRONE)),
        ("mattes-mi", register_mattes(fixed[0], moving[0])),
        ("none", AffineTransform(np.eye(3), shift)),
    ]
    if first.overlap < OVERLAP_OK:  # what both fill alike fits as well as can be in a corner
        others.append(("l1-gauss-newton", register_l1(fixed, moving, centred=True)))
    judged = [first, *(judge(fixed[1], moving[1], found, name, start) for name, found in others)]
    return max(judged, key=_merit)


def _merit(one: Registration) -> tuple[bool, bool, bool, bool, float]:
    """What is better comes later in order."""
    plausible = is_plausible(one.baseline_to_followup.matrix)
    # A corner that both fill with the same tissue is as similar as can be, and says nothing.
    similarity = one.similarity * min(1.0, one.overlap / ENOUGH_OVERLAP)
    return one.ok, one.same_region, plausible, one.method != "none", similarity


def register_l1(
    fixed: Pyramid,
    moving: Pyramid,
    turn: NDArray[np.float64] = SUPINE,
    prior: float = PRIOR,
    centred: bool = False,
) -> AffineTransform:
    """The affine of least L1 difference, refined from coarse to fine from the best shifts.

    ``turn`` is the rotation (3, 3) that every start has, ``prior`` the weight of "rotation and one
    scale"; ``centred`` starts where the bodies' centres meet, and nowhere else.
    """
    center = fixed[1].points_mm(fixed[1].body).mean(0)
    coarsest = _search_level(fixed, moving)
    best = [] if centred else best_shifts(fixed[coarsest], moving[coarsest], turn, STARTS)
    starts = [start for _, start in best]
    if not starts:
        shift = moving[1].points_mm(moving[1].body).mean(0) - center
        starts = [AffineTransform.about(turn, center, shift)]
    theta = torch.stack([to_theta(start, center) for start in starts])
    for step, (iterations, keep, apart_mm, points) in enumerate(SCHEDULE):
        level = max(0, coarsest - step)
        theta, score = refine(fixed[level], moving[level], theta, center, iterations, points, prior)
        theta = theta[_distinct(theta, score, fixed[2], center, keep, apart_mm)]
    return to_affine(theta[0], center)


def seems_turned_over(fixed: Pyramid, moving: Pyramid) -> bool:
    """Whether some mere shift of a patient who lies on the other side fits better than any other.

    A body turned over still fills its own outline: that alone may look like a modest match.
    """
    level = _search_level(fixed, moving)
    costs = [
        min((cost for cost, _ in best_shifts(fixed[level], moving[level], turn, 1)), default=np.inf)
        for turn in (SUPINE, PRONE)
    ]
    return costs[1] < costs[0]


def _search_level(fixed: Pyramid, moving: Pyramid) -> int:
    """The level that all shifts are compared at."""
    shape = np.add(fixed[1].image.shape, moving[1].image.shape)
    return 1 if shape.prod() < SEARCH_VOXELS else 2


def _distinct(
    theta: torch.Tensor,
    score: torch.Tensor,
    fixed: Level,
    center_mm: Points,
    keep: int,
    apart_mm: float,
) -> list[int]:
    """The best candidates, without those that move the body as a better one does."""
    body = fixed.points_mm(fixed.body)
    corners = np.stack(np.meshgrid(*zip(body.min(0), body.max(0), strict=True)), -1).reshape(-1, 3)
    mapped = design_matrix(corners, center_mm) @ theta.mT  # (K, 8, 3)
    distance = (mapped[:, None] - mapped).norm(dim=-1).mean(-1)  # (K, K)
    chosen: list[int] = []
    for i in torch.argsort(score, stable=True).tolist():
        if len(chosen) < keep and bool((distance[i, chosen] > apart_mm).all()):
            chosen.append(i)
    return chosen
