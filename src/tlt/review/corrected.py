"""A result with the readers' decisions in it.

| decision | status | centre | size |
| --- | --- | --- | --- |
| accepted | found (outside the field of view stays so) | as tracked | as measured |
| moved | found | where the reader clicked | measured there, or left to the reader |
| rejected | not found | as tracked: still the best estimate | none |
| lost | not found | as tracked, or by registration alone | none |

To accept what was moved is to move it to the same place; `tlt.review.service` saves it so. A reader
may also draw the axes at follow-up; they count while the lesion is where it was then, and not for
one that is rejected or lost. The confidence stays what was computed for the tracked position: it is
no opinion of the reader.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tlt.io.results import (
    Decision,
    LesionAtFollowup,
    LesionResult,
    Result,
    Review,
    SizeFacts,
)
from tlt.lesion import Role, Status
from tlt.review.state import Event, Kind, State

MEASURE_AGAIN = "to be measured again: the reader moved the centre"
NO_SIZE = {
    Decision.REJECTED: "not measured: the reader rejected this match",
    Decision.LOST: "not measured: the reader no longer sees the lesion",
}


def corrected(result: Result, state: State) -> Result:
    """The tracker's result as the readers left it; ``result`` is not changed."""
    return result.model_copy(
        update={
            "lesions": [_lesion(lesion, state) for lesion in result.lesions],
            "warnings": list(result.warnings),  # exports may add to them
        }
    )


def _lesion(lesion: LesionResult, state: State) -> LesionResult:
    role = state.said(lesion.id, Kind.ROLE)
    site = state.said(lesion.id, Kind.SITE)
    nodal = state.said(lesion.id, Kind.NODAL)
    return lesion.model_copy(
        update={
            "role": lesion.role if role is None else Role(role),
            "site": lesion.site if site is None else site,
            "nodal": lesion.nodal if nodal is None else nodal,
            "followups": [
                _match(lesion, number, state) for number in range(1, len(lesion.followups) + 1)
            ],
        }
    )


def _match(lesion: LesionResult, number: int, state: State) -> LesionAtFollowup:
    return _sized(_decided(lesion, number, state), lesion.id, number, state)


def _sized(found: LesionAtFollowup, lesion_id: str, number: int, state: State) -> LesionAtFollowup:
    """With the axes that a reader drew, where they still hold."""
    drawn = state.last.get((lesion_id, number, Kind.SIZE.value))
    if drawn is None or found.center_mm is None:
        return found
    decided = state.decided(lesion_id, number)
    elsewhere = state.drawn_at[lesion_id, number] != state.moved_to(lesion_id, number)
    if elsewhere or (decided is not None and decided.kind in (Kind.REJECTED, Kind.LOST)):
        return found
    long_axis, short_axis = drawn.value["long_axis"], drawn.value["short_axis"]
    long_mm = round(math.dist(*long_axis), 3)
    size = SizeFacts(
        long_axis=long_axis,
        short_axis=short_axis,
        long_mm=long_mm,
        short_mm=None if short_axis is None else round(math.dist(*short_axis), 3),
        by_reader=True,
    )
    changes = {"size": size, "size_note": "", "radius_mm": round(long_mm / 2, 3)}
    return LesionAtFollowup.model_validate({**dict(found), **changes})


def _decided(lesion: LesionResult, number: int, state: State) -> LesionAtFollowup:
    found = lesion.followups[number - 1]
    event = state.decided(lesion.id, number)
    if event is None:
        return found
    decision = event.kind.decision
    assert decision is not None  # only decisions are stored under that subject
    note = state.said(lesion.id, Kind.NOTE, number) or ""
    review = Review(decision=decision, by=event.by, at=event.at, note=note)
    changes = {"review": review, **_changes(found, event, decision)}
    return LesionAtFollowup.model_validate({**dict(found), **changes})


def _changes(found: LesionAtFollowup, event: Event, decision: Decision) -> dict[str, object]:
    if decision is Decision.ACCEPTED:
        outside = found.status is Status.OUTSIDE_FOV
        return {} if outside else {"status": Status.FOUND}
    if decision is Decision.MOVED:
        told = event.value["size"]
        size = None if told is None else SizeFacts.model_validate(told)
        return {
            "status": Status.FOUND,
            **_centre(found, event.value["center_mm"]),
            "radius_mm": None if size is None or size.doubtful else round(size.long_mm / 2, 3),
            "size": size,
            "size_note": MEASURE_AGAIN if size is None else "",
        }
    gone = {"radius_mm": None, "size": None, "size_note": NO_SIZE[decision]}
    center = found.center_mm or found.prior_center_mm
    return {"status": Status.NOT_FOUND, **_centre(found, center), **gone}


def _centre(found: LesionAtFollowup, center_mm: Sequence[float]) -> dict[str, object]:
    distance = math.dist(center_mm, found.prior_center_mm)
    return {"center_mm": tuple(center_mm), "prior_distance_mm": round(distance, 3)}
