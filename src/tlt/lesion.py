"""A lesion marked in the baseline, and what became of it in a follow-up."""

from __future__ import annotations

import math
import uuid
from dataclasses import dataclass, field
from enum import Enum

from tlt.geometry import Triple


class Status(str, Enum):
    """What the tracker says of a lesion in a follow-up."""

    FOUND = "found"
    LOW_CONFIDENCE = "low_confidence"
    NOT_FOUND = "not_found"
    OUTSIDE_FOV = "outside_fov"


@dataclass(frozen=True)
class Lesion:
    """A lesion of the baseline.

    Attributes:
        id: name that is unique within the baseline.
        center_mm: LPS centre.
        radius_mm: half the longer RECIST axis.
        label: free text.
        tracking_uid: DICOM Tracking UID, the same at every time point.
    """

    id: str
    center_mm: Triple
    radius_mm: float
    label: str = ""
    tracking_uid: str = field(default_factory=lambda: f"2.25.{uuid.uuid4().int}")


@dataclass(frozen=True)
class Match:
    """Where a lesion lies in a follow-up.

    Attributes:
        lesion: the lesion of the baseline.
        status: found, low confidence, not found or outside the field of view.
        center_mm: best estimate of the LPS centre; None only for ``OUTSIDE_FOV``.
        confidence: probability that the centre is within min(10 mm, radius) of the truth; below
            0.5 where the registration is doubtful or the centre had to be drawn into the view.
        prior_center_mm: where registration alone puts the lesion.
        radius_mm: radius at follow-up; None where it was not measured.
    """

    lesion: Lesion
    status: Status
    center_mm: Triple | None
    confidence: float
    prior_center_mm: Triple
    radius_mm: float | None = None

    @property
    def prior_distance_mm(self) -> float | None:
        """How far the tracker moved from the prior; None when there is no centre."""
        return None if self.center_mm is None else math.dist(self.center_mm, self.prior_center_mm)
