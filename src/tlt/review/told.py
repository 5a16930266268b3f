"""What a result tells of, as the lesions and matches that the rest of the program works with."""

from __future__ import annotations

from tlt.io.results import LesionResult, size_of
from tlt.lesion import Lesion, Match


def lesion_of(told: LesionResult) -> Lesion:
    """The lesion that a result tells of."""
    size = told.baseline.size
    return Lesion(
        id=told.id,
        center_mm=told.baseline.center_mm,
        radius_mm=told.baseline.radius_mm,
        label=told.label,
        tracking_uid=told.tracking_uid,
        size=None if size is None else size_of(size),
        site=told.site,
        nodal=told.nodal,
        role=told.role,
    )


def match_of(told: LesionResult, lesion: Lesion, followup: int) -> Match:
    """The match that a result tells of in a follow-up, numbered from 1."""
    found = told.followups[followup - 1]
    return Match(
        lesion=lesion,
        status=found.status,
        center_mm=found.center_mm,
        confidence=found.confidence,
        prior_center_mm=found.prior_center_mm,
        radius_mm=found.radius_mm,
        size=None if found.size is None else size_of(found.size),
        size_note=found.size_note,
    )
