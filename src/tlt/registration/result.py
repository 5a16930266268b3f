"""What a registration hands back, and how far it can be trusted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tlt.geometry import AffineTransform

SIMILARITY_OK = 0.6
SIMILARITY_SAME_REGION = 0.4
OVERLAP_OK = 0.1


@dataclass(frozen=True)
class Registration:
    """An affine map between two scans.

    Attributes:
        baseline_to_followup: carries LPS points (mm) of the baseline to the follow-up.
        method: the engine that found it: ``l1-gauss-newton``, ``mattes-mi`` or ``none``.
        similarity: Pearson correlation of the clipped HU over the common body, in [-1, 1].
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
        """False when the follow-up hardly shows the baseline's part of the body."""
        return self.similarity >= SIMILARITY_SAME_REGION and self.overlap >= OVERLAP_OK


def is_plausible(matrix: NDArray[np.float64]) -> bool:
    """Whether one patient can move so: scales 0.8-1.25, rotation < 30 degrees, no mirror."""
    u, stretches, vt = np.linalg.svd(matrix)
    rotation = u @ vt
    cos_angle = (np.trace(rotation) - 1) / 2
    return bool(
        np.linalg.det(matrix) > 0
        and stretches.min() > 0.75
        and stretches.max() < 1.33
        and 0.8 < np.cbrt(stretches.prod()) < 1.25
        and cos_angle > np.cos(np.radians(30))
    )
