"""What a registration hands back, and how far it can be trusted."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tlt.geometry import AffineTransform, Points
from tlt.registration.gauss_newton import sample
from tlt.registration.pyramid import Level

# Measured on CTs of 14 patients. The same patient, simulated follow-ups (n 97): similarity 0.75 to
# 0.97 (5th percentile 0.86). Another patient's same region (n 42): at most 0.72; whole chests
# against abdomens (n 24): at most 0.79. Chest against what lies below the diaphragm (n 24): -0.06
# to 0.66, 17 of them below 0.30 and none between 0.34 and 0.49. A right map of two small crops had
# 0.37. A map that is wrong by a few mm shows in no similarity.
SIMILARITY_OK = 0.70
SIMILARITY_SURE = 0.80  # below it the patient may have been turned over
SIMILARITY_SAME_REGION = 0.36
OVERLAP_OK = 0.15
OVERLAP_SAME_REGION = 0.05
MILD_SCALE, MILD_STRETCH = (0.85, 1.18), (0.88, 1.15)  # well within what is plausible
PRONE = np.diag([-1.0, -1.0, 1.0])  # the turn of a patient who lies on the other side


@dataclass(frozen=True)
class Registration:
    """An affine map between two scans.

    Attributes:
        baseline_to_followup: carries LPS points (mm) of the baseline to the follow-up.
        method: the engine that found it: ``l1-gauss-newton``, ``mattes-mi`` or ``none``.
        similarity: Pearson correlation of the images over the common body, in [-1, 1].
        ok: similarity and overlap are those of one patient and the matrix is plausible.
        seconds: wall time of the whole registration.
        overlap: part of the smaller body (of the two scans) that the other scan shows, in [0, 1].
    """

    baseline_to_followup: AffineTransform
    method: str
    similarity: float
    ok: bool
    seconds: float
    overlap: float = 1.0

    @property
    def same_region(self) -> bool:
        """False when the follow-up shows another part of the body, as chest against pelvis.

        Another patient's chest is still the same region; that is for ``ok`` to doubt.
        """
        return self.similarity >= SIMILARITY_SAME_REGION and self.overlap >= OVERLAP_SAME_REGION


def judge(
    fixed: Level, moving: Level, transform: AffineTransform, method: str, start: float
) -> Registration:
    """The registration with its figures; ``start`` is the `time.perf_counter` it began at."""
    similarity, overlap = compare(fixed, moving, transform)
    enough = similarity >= SIMILARITY_OK and overlap >= OVERLAP_OK
    ok = enough and method != "none" and is_plausible(transform.matrix)
    return Registration(transform, method, similarity, ok, time.perf_counter() - start, overlap)


def compare(fixed: Level, moving: Level, transform: AffineTransform) -> tuple[float, float]:
    """Pearson correlation over the common body, and the part of the smaller body that is common."""
    points = torch.from_numpy(transform(fixed.points_mm(fixed.body))).float()
    channels = torch.stack([moving.image, moving.body.float()])
    (values, body), inside = sample(channels, moving, points[None])
    common = inside[0] & (body[0] > 0.5)
    if common.sum() < 8:
        return 0.0, 0.0
    theirs = float(moving.body.sum()) / abs(float(np.linalg.det(transform.matrix)))
    overlap = float(common.sum()) / min(float(fixed.body.sum()), theirs)
    pair = torch.stack([fixed.image[fixed.body][common], values[0][common]]).double()
    deviation = pair - pair.mean(1, keepdim=True)
    norms = float(deviation.norm(dim=1).prod())
    similarity = float(deviation.prod(0).sum()) / norms if norms > 1e-9 else 0.0
    return similarity, min(1.0, overlap)


def is_plausible(matrix: NDArray[np.float64]) -> bool:
    """Whether one patient can move so: scale 0.8-1.25, little shear, rotation < 30 degrees.

    The rotation counts from lying the same way, or turned over (supine against prone).
    """
    u, stretches, vt = np.linalg.svd(matrix)
    cosine = max((np.trace(u @ vt @ turn) - 1) / 2 for turn in (np.eye(3), PRONE))
    return bool(
        np.linalg.det(matrix) > 0
        and 0.8 <= np.cbrt(stretches.prod()) <= 1.25
        and stretches.max() / stretches.min() < 1.35
        and cosine > np.cos(np.radians(30))
    )


def made_plausible(transform: AffineTransform, center_mm: Points) -> AffineTransform:
    """The affine with its stretches drawn into what `is_plausible` lets pass, about a point (3,).

    In a small scan a few organs that move apart look like a shear of the patient.
    """
    u, stretches, vt = np.linalg.svd(transform.matrix)
    scale = np.cbrt(stretches.prod())
    shape = np.clip(stretches / scale, *MILD_STRETCH)
    matrix = u @ np.diag(shape * np.clip(scale, *MILD_SCALE)) @ vt
    return AffineTransform.about(matrix, center_mm, transform(center_mm) - center_mm)
