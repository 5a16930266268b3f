"""Which point of the follow-up belongs to a point of the baseline, and back.

The registration carries the whole body. Near a lesion that was found, what the registration is off
there is known: the link of that lesion is the registration moved so that it meets the lesion.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tlt.geometry import AffineTransform
from tlt.io.results import LesionResult, RegistrationFacts


def lesion_link(
    registration: RegistrationFacts, lesion: LesionResult, followup: int
) -> AffineTransform:
    """Baseline to follow-up (numbered from 1), LPS mm, exact at the lesion's centre.

    A lesion without a centre is where registration alone puts it. A result without a matrix (of an
    older version) is linked by the shift of the lesion.
    """
    found = lesion.followups[followup - 1]
    matrix = np.eye(3) if registration.matrix is None else np.array(registration.matrix)[:3, :3]
    start = np.array(lesion.baseline.center_mm)
    target = np.array(found.center_mm or found.prior_center_mm)
    return AffineTransform(matrix, target - matrix @ start)


def rows(transform: AffineTransform) -> list[list[float]]:
    """The three rows of the affine as JSON takes them: (x, y, z, shift)."""
    table: NDArray = np.concatenate([transform.matrix, transform.translation_mm[:, None]], 1)
    return table.tolist()
