"""Results with known sizes, for the tests of RECIST."""

from __future__ import annotations

from tlt.io.results import (
    Decision,
    Followup,
    Image,
    LesionAtBaseline,
    LesionAtFollowup,
    LesionResult,
    RegistrationFacts,
    Result,
    Review,
    SizeFacts,
    Software,
)
from tlt.lesion import Role, Status
from tlt.recist.entries import Entries

SOFTWARE = Software(version="1.2.3", tracker="tlt", model="tlt-ct", weights_sha256=None)
POINT = (1.0, 2.0, 3.0)


def size(long_mm, short_mm=None, **fields) -> SizeFacts:
    """A size with axes of these lengths."""
    x, y, z = POINT
    return SizeFacts(
        long_axis=(POINT, (x + long_mm, y, z)),
        short_axis=None if short_mm is None else (POINT, (x, y + short_mm, z)),
        long_mm=long_mm,
        short_mm=short_mm,
        **fields,
    )


def found(long_mm=None, short_mm=None, status="found", review=None, **fields) -> LesionAtFollowup:
    """A match; sizes are in millimetres, a review is a decision."""
    status = Status(status)
    unseen = status is Status.OUTSIDE_FOV
    return LesionAtFollowup(
        status=status,
        center_mm=None if unseen else POINT,
        radius_mm=None,
        confidence=0.0 if unseen else 0.9,
        prior_center_mm=POINT,
        prior_distance_mm=None if unseen else 0.0,
        size=None if long_mm is None else size(long_mm, short_mm, **fields),
        review=None if review is None else Review(decision=Decision(review), by="AB", at="2025"),
    )


def gone() -> LesionAtFollowup:
    """A match that the reader has marked lost."""
    return found(review="lost")


def lesion(
    id_, baseline, *followups, site="", nodal=False, role=Role.TARGET, radius_mm=None
) -> LesionResult:
    """A lesion: a baseline size (a number is a long axis; None with a radius) and its matches.

    A number among the follow-ups is a match with that diameter, accepted by the reader.
    """
    if isinstance(baseline, (int, float)):
        baseline = size(baseline + 5, baseline) if nodal else size(baseline)
    radius = radius_mm or (baseline.long_mm / 2 if baseline else 5.0)
    matches = []
    for match in followups:
        if isinstance(match, (int, float)):
            axes = (match + 5, match) if nodal else (match, None)
            match = found(*axes, review="accepted")
        matches.append(match)
    return LesionResult(
        id=id_,
        label="",
        tracking_uid="2.25.7",
        site=site,
        nodal=nodal,
        role=role,
        baseline=LesionAtBaseline(center_mm=POINT, radius_mm=radius, size=baseline),
        followups=matches,
    )


def make_result(*lesions, slice_mm=2.0, warnings=()) -> Result:
    """A result of these lesions."""
    image = {"size_xyz": (64, 64, 32), "spacing_mm": (0.7, 0.7, slice_mm), "series_uid": None}
    registration = RegistrationFacts(method="fake", seconds=0.1, similarity=0.9, ok=True)
    count = len(lesions[0].followups) if lesions else 0
    return Result(
        schema_version=1,
        coordinate_system="LPS",
        software=SOFTWARE,
        baseline=Image(path="bl.nii.gz", **image),
        followups=[
            Followup(path=f"fu{n}", registration=registration, seconds=1.0, **image)
            for n in range(1, count + 1)
        ],
        lesions=list(lesions),
        warnings=list(warnings),
    )


def entries(*time_points, **fields) -> Entries:
    """Entries; a time point is a mapping of lesions to findings, or a whole entry."""
    points = []
    for number, point in enumerate(time_points, 1):
        whole = "lesions" in point or "new_lesions" in point or "day" in point
        points.append({"followup": number, **(point if whole else {"lesions": point})})
    return Entries.model_validate({"time_points": points, **fields})
