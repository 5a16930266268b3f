"""Affine registration of two CTs of a patient: arg min ||T_aff(I_t) - I_s||_1.

Source: TLT paper, RAAM, Eq. 2 (I_t baseline, I_s follow-up). The paper names no optimiser; here it
is Gauss-Newton over a 16-8-4 mm pyramid. The scans may share as little as a third of their length,
so all shifts along z are tried at 16 mm and the best few that differ are refined. What differs from
Eq. 2: HU are clipped, with soft tissue stretched (`pyramid.tones`), only the body counts, and a
shift of all organs' HU (contrast medium) is taken out.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from tlt.geometry import AffineTransform, Points
from tlt.registration.gauss_newton import design_matrix, refine, to_affine, to_theta
from tlt.registration.mattes import register_mattes
from tlt.registration.pyramid import Level, pyramid
from tlt.registration.result import (
    PRONE,
    SIMILARITY_SURE,
    Registration,
    is_plausible,
    judge,
    made_plausible,
)
from tlt.threads import one_thread
from tlt.volume import Volume

Pyramid = list[Level]

SUPINE = np.eye(3)
# level (0 = 4 mm), iterations, candidates kept, apart by at least (mm), most points
SCHEDULE = (
    (2, 0, 12, 0.0, 4_000),
    (2, 10, 5, 8.0, 6_000),
    (1, 12, 2, 4.0, 10_000),
    (0, 10, 1, 0.0, 20_000),
)
# From starts that also differ in plane, for scans cut within the body; their distances in mm.
ASIDE_MM = (-48.0, -32.0, -16.0, 0.0, 16.0, 32.0, 48.0)
WIDE_SCHEDULE = (
    (1, 0, 40, 8.0, 4_000),
    (1, 10, 8, 8.0, 6_000),
    (0, 12, 3, 4.0, 10_000),
    (0, 10, 1, 0.0, 20_000),
)
ENOUGH_OVERLAP = 0.5  # below it a result counts less against others
CUT_SHARE = 0.05  # of the faces left, right, front and back covered by the body; see `cut_share`


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
        if not found.ok or found.similarity < SIMILARITY_SURE:
            found = _second_opinion(found, fixed, moving, start)
        return replace(found, seconds=time.perf_counter() - start)


def _second_opinion(
    first: Registration, fixed: Pyramid, moving: Pyramid, start: float
) -> Registration:
    """The best of a doubtful result, more starts, a patient turned over, and Mattes MI.

    Where all are absurd, the bodies' centres are aligned.
    """
    center = fixed[1].points_mm(fixed[1].body).mean(0)
    shift = moving[1].points_mm(moving[1].body).mean(0) - center
    others = [
        ("l1-gauss-newton", register_l1(fixed, moving, PRONE)),
        ("mattes-mi", register_mattes(fixed[0], moving[0])),
        ("none", AffineTransform(np.eye(3), shift)),
    ]
    if max(cut_share(fixed[1]), cut_share(moving[1])) > CUT_SHARE:
        wide = register_l1(fixed, moving, aside_mm=ASIDE_MM)
        others += [("l1-gauss-newton", wide), ("l1-gauss-newton", made_plausible(wide, center))]
    judged = [first, *(judge(fixed[1], moving[1], found, name, start) for name, found in others)]

    def merit(one: Registration) -> tuple[bool, bool, bool, bool, float]:
        plausible = is_plausible(one.baseline_to_followup.matrix)
        # A corner that both fill with the same tissue is as similar as can be, and says nothing.
        similarity = one.similarity * min(1.0, one.overlap / ENOUGH_OVERLAP)
        return one.ok, one.same_region, plausible, one.method != "none", similarity

    return max(judged, key=merit)


def cut_share(level: Level) -> float:
    """How much of the scan's faces left, right, front and back the body covers, in [0, 1].

    Where it is much, the scan was cut within the body, whose centre says little of its place.
    """
    body = level.body
    faces = [body[:, 0], body[:, -1], body[:, :, 0], body[:, :, -1]]
    return float(torch.cat([face.flatten() for face in faces]).float().mean())


def register_l1(
    fixed: Pyramid,
    moving: Pyramid,
    turn: NDArray[np.float64] = SUPINE,
    aside_mm: tuple[float, ...] = (0.0,),
) -> AffineTransform:
    """The affine of least L1 difference among all starts along z, refined from coarse to fine.

    ``turn`` is the rotation (3, 3) that every start has; ``aside_mm`` are shifts along x and y.
    """
    center = fixed[1].points_mm(fixed[1].body).mean(0)
    starts = _starts(fixed[2], moving[2], turn)
    shifts = [np.array([x, y, 0.0]) for x in aside_mm for y in aside_mm]
    starts = [AffineTransform(s.matrix, s.translation_mm + d) for s in starts for d in shifts]
    theta = torch.stack([to_theta(start, center) for start in starts])
    for level, iterations, keep, apart_mm, points in (
        SCHEDULE if len(shifts) == 1 else WIDE_SCHEDULE
    ):
        theta, score = refine(fixed[level], moving[level], theta, center, iterations, points)
        theta = theta[_distinct(theta, score, fixed[2], center, keep, apart_mm)]
    return to_affine(theta[0], center)


def _starts(
    fixed: Level, moving: Level, turn: NDArray[np.float64], step_mm: float = 16.0
) -> list[AffineTransform]:
    """Turns with all shifts along z that overlap; in plane the centres of what overlaps meet."""
    ours, theirs = fixed.points_mm(fixed.body), moving.points_mm(moving.body)
    low, high = ours[:, 2].min(), ours[:, 2].max()
    their_low, their_high = theirs[:, 2].min(), theirs[:, 2].max()
    least = min(48.0, 0.5 * min(high - low, their_high - their_low))
    steps = int(max(0.0, (high - low + their_high - their_low) / 2 - least) / step_mm)
    middle = (their_low + their_high - low - high) / 2
    starts = []
    for z in middle + step_mm * np.arange(-steps, steps + 1):
        first, last = max(low + z, their_low) - 8.0, min(high + z, their_high) + 8.0
        a = ours[(ours[:, 2] + z >= first) & (ours[:, 2] + z <= last)]
        b = theirs[(theirs[:, 2] >= first) & (theirs[:, 2] <= last)]
        if len(a) and len(b):
            x, y, _ = b.mean(0) - a.mean(0)
            starts.append(AffineTransform.about(turn, a.mean(0), (x, y, z)))
    return starts or [AffineTransform.about(turn, ours.mean(0), theirs.mean(0) - ours.mean(0))]


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
    chosen: list[int] = []
    for i in torch.argsort(score, stable=True).tolist():
        if len(chosen) == keep:
            break
        distances = [(mapped[i] - mapped[j]).norm(dim=-1).mean() for j in chosen]
        if all(d > apart_mm for d in distances):
            chosen.append(i)
    return chosen
