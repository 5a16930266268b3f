"""A lesion marked in the baseline, and what became of it in a follow-up."""

from __future__ import annotations

import math
import uuid
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from tlt.geometry import Triple

if TYPE_CHECKING:
    from tlt.volume import Volume


class Status(str, Enum):
    """What the tracker says of a lesion in a follow-up."""

    FOUND = "found"
    LOW_CONFIDENCE = "low_confidence"
    NOT_FOUND = "not_found"
    OUTSIDE_FOV = "outside_fov"


class Role(str, Enum):
    """What RECIST 1.1 makes of a lesion; undecided until a reader or a rule says."""

    UNDECIDED = "undecided"
    TARGET = "target"
    NON_TARGET = "non_target"


@dataclass(frozen=True)
class Axis:
    """A diameter: the straight line between two LPS points."""

    start_mm: Triple
    end_mm: Triple

    @property
    def length_mm(self) -> float:
        """Its length."""
        return math.dist(self.start_mm, self.end_mm)


@dataclass(frozen=True)
class Size:
    """How large a lesion is at one time point.

    Attributes:
        long_axis: the longest diameter within one axial slice.
        short_axis: the longest diameter at right angles to it in that slice; None if not drawn.
        volume_mm3: None where only diameters are known.
        by_reader: drawn by a person; otherwise measured by `tlt`.
        doubtful: to be looked at before it is used.
        note: what is doubtful; empty if nothing.
    """

    long_axis: Axis
    short_axis: Axis | None = None
    volume_mm3: float | None = None
    by_reader: bool = False
    doubtful: bool = False
    note: str = ""


@dataclass(frozen=True)
class Lesion:
    """A lesion of the baseline.

    Attributes:
        id: name that is unique within the baseline.
        center_mm: LPS centre.
        radius_mm: half the longer RECIST axis.
        label: free text.
        tracking_uid: DICOM Tracking UID, the same at every time point.
        size: its diameters, where they were drawn or measured.
        site: organ or region, for the rule of two targets an organ; empty if unknown.
        nodal: a lymph node, which RECIST measures by its short axis.
        role: target, non-target or undecided.
    """

    id: str
    center_mm: Triple
    radius_mm: float
    label: str = ""
    tracking_uid: str = field(default_factory=lambda: f"2.25.{uuid.uuid4().int}")
    size: Size | None = None
    site: str = ""
    nodal: bool = False
    role: Role = Role.UNDECIDED


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
        size: its diameters and volume at follow-up; None where the reader has to measure.
        size_note: why there is no size; empty where there is one or none was asked for.
        extent: its voxels (1 inside, 0 outside) on their part of the follow-up's grid.
    """

    lesion: Lesion
    status: Status
    center_mm: Triple | None
    confidence: float
    prior_center_mm: Triple
    radius_mm: float | None = None
    size: Size | None = None
    size_note: str = ""
    extent: Volume | None = field(default=None, repr=False, compare=False)

    @property
    def prior_distance_mm(self) -> float | None:
        """How far the tracker moved from the prior; None when there is no centre."""
        return None if self.center_mm is None else math.dist(self.center_mm, self.prior_center_mm)
