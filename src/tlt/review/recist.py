"""What the page shows of RECIST 1.1: the assessment of what is decided and entered up to now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tlt.io.results import Result
from tlt.recist import Assessment, assess, render_table
from tlt.recist.assessment import TimePoint
from tlt.recist.criteria import Decided, percent_text
from tlt.recist.tables import RESPONSE_WORDS
from tlt.review.entries import entries_of
from tlt.review.state import Event, Kind, State

Told = dict[str, Any]


def assessed(result: Result, events: Sequence[Event]) -> Assessment:
    """The assessment of a corrected result with the readers' entries.

    Raises:
        InputError: the entries contradict each other.
    """
    return assess(result, entries_of(result, events))


def shown(assessment: Assessment) -> Told:
    """The table as HTML, and what the page says beside it."""
    progression = assessment.progression
    return {
        "table": render_table(assessment, style=False),
        "points": [_point(point) for point in assessment.time_points],
        "best": _decided(assessment.best),
        "confirmed": None if assessment.confirmed is None else _decided(assessment.confirmed),
        "confirmed_note": assessment.confirmed_note,
        "progression": progression,
        "preliminary": assessment.preliminary,
        "notices": list(assessment.notices),
        "parts": {lesion.id: lesion.part.value for lesion in assessment.lesions},
    }


def entered(state: State, visits: int) -> Told:
    """The entries that stand, as the page's fields show them; a list has an item a follow-up."""
    told: Told = {
        "versions": state.versions,
        "diameters": {},
        "days": [None] * visits,
        "findings": [{} for _ in range(visits)],
        "new_lesions": [{} for _ in range(visits)],
    }
    for event in sorted(state.last.values(), key=lambda event: event.seq):
        if event.value is None:
            continue
        place = (event.followup or 1) - 1
        if event.kind is Kind.DIAMETER:
            told["diameters"][event.lesion_id] = event.value
        elif event.kind is Kind.DAY:
            told["days"][place] = event.value
        elif event.kind is Kind.FINDING:
            told["findings"][place][event.lesion_id] = {**event.value, "by": event.by}
        elif event.kind is Kind.NEW_LESION:
            told["new_lesions"][place][event.lesion_id] = {**event.value, "by": event.by}
    return told


def _point(point: TimePoint) -> Told:
    sums = point.sums
    return {
        "followup": point.followup,
        "overall": _decided(point.overall),
        "target": _decided(point.target),
        "non_target": _decided(point.non_target),
        "preliminary": point.preliminary,
        "needs_review": list(point.needs_review),
        "from_baseline": (
            None
            if sums.sum_mm is None or sums.baseline_mm is None
            else percent_text(sums.from_baseline_percent)
        ),
    }


def _decided(decided: Decided) -> Told:
    return {
        "response": decided.response.value,
        "words": RESPONSE_WORDS[decided.response],
        "because": decided.because,
        "rule": f"{decided.rule.text} ({decided.rule.cited})",
    }
