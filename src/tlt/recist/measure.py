"""One lesion at one time point: what it counts with, and why.

What a reader entered goes before what a reader decided on the review page, and that before what
`tlt` measured. Diameters that were measured by `tlt` are recorded to a tenth of a millimetre, so
that a table can be added up by hand; a reader's numbers stay as they were written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal
from enum import Enum

from tlt.io.results import Decision, LesionAtBaseline, LesionAtFollowup, Review, SizeFacts
from tlt.lesion import Status
from tlt.recist import rules
from tlt.recist.criteria import TOO_SMALL_MM, Diameter, Exact, Presence, is_normal
from tlt.recist.entries import Finding, Judgement, LesionEntry
from tlt.recist.rules import Rule

# What tlt.io.lesions takes where a file gives no radius.
GUESSED_RADIUS_MM = 10.0


class State(str, Enum):
    """What is known of a lesion at a time point."""

    MEASURED = "measured"
    TOO_SMALL = "too_small"
    SPLIT = "split"
    MERGED = "merged"
    PRESENT = "present"
    PROGRESSION = "unequivocal_progression"
    GONE = "gone"
    OUT_OF_VIEW = "out_of_view"
    NOT_EVALUABLE = "not_evaluable"
    REJECTED = "rejected"
    UNCONFIRMED = "unconfirmed"
    UNMEASURED = "unmeasured"


UNKNOWN = (State.OUT_OF_VIEW, State.NOT_EVALUABLE, State.REJECTED, State.UNCONFIRMED)


@dataclass(frozen=True)
class Measurement:
    """A lesion at a time point.

    Attributes:
        lesion_id: which lesion.
        state: what is known of it.
        diameter_mm: what it counts with: the long axis, or the short axis of a node; None where it
            cannot be counted.
        rule: the rule that decides it.
        by: ``reader`` or ``tlt``.
        seen: a reader has looked at it.
        doubtful: measured by `tlt`, which doubts it.
        from_radius: twice the radius; no axis was drawn or measured.
        parts_mm: the diameters that were added.
        merged_into: the lesion that it has grown together with.
        note: remarks of the reader or of `tlt`.
        needs_review: what a reader must decide before it can be relied on; empty if nothing.
        needs_size: why a reader must measure it before its diameter counts; empty if it need not.
    """

    lesion_id: str
    state: State
    diameter_mm: Exact | None
    rule: Rule
    by: str = "tlt"
    seen: bool = False
    doubtful: bool = False
    from_radius: bool = False
    parts_mm: tuple[Exact, ...] = ()
    merged_into: str = ""
    note: str = ""
    needs_review: str = ""
    needs_size: str = ""


def at_baseline(
    lesion_id: str, nodal: bool, found: LesionAtBaseline, entry: LesionEntry, guessed: bool = False
) -> Measurement:
    """The lesion at baseline; without axes the long axis is twice the radius.

    ``guessed`` says that the run had to take a default for some radius; a lesion of that radius
    has then no diameter.
    """
    if entry.diameter_mm is not None:
        value = exact(entry.diameter_mm)
        return _by_reader(lesion_id, State.MEASURED, value, axis_rule(nodal), entry.note)
    guess = guessed and found.size is None and found.radius_mm == GUESSED_RADIUS_MM
    radius_mm, note = (None, "its radius was not given") if guess else (found.radius_mm, "")
    return _by_tlt(lesion_id, nodal, found.size, radius_mm, note, seen=False)


def at_followup(
    lesion_id: str, nodal: bool, found: LesionAtFollowup, entry: Finding | None
) -> Measurement:
    """The lesion at a follow-up, from the reader's entry or else from the result."""
    review = found.review
    if entry is not None:
        return _contradicted(_entered(lesion_id, nodal, found, entry), review)
    if review is not None and review.decision is not Decision.ACCEPTED:
        decided = _decided(lesion_id, review)
        if decided is not None:
            return decided
    return _tracked(lesion_id, nodal, found, review)


def unconfirmed_return(measurement: Measurement) -> Measurement:
    """A lesion that a reader saw gone, and that the tracker alone has found again."""
    return replace(
        measurement,
        state=State.UNCONFIRMED,
        diameter_mm=None,
        rule=rules.UNCONFIRMED,
        needs_review="was gone before and is found again by the tracker; say whether it is there",
    )


def diameter_of(measurement: Measurement, nodal: bool) -> Diameter:
    """What the rules know of a measurement."""
    return Diameter(nodal, measurement.diameter_mm, measurement.parts_mm)


def presence(measurement: Measurement, nodal: bool) -> Presence:
    """What a measurement says of a non-target lesion; nodes are judged by their short axis."""
    state = measurement.state
    if state is State.PROGRESSION:
        return Presence.PROGRESSION
    if state is State.GONE:
        return Presence.ABSENT
    if state in UNKNOWN or (nodal and state is State.UNMEASURED):
        return Presence.NOT_EVALUABLE
    if nodal and state is not State.MERGED and is_normal(diameter_of(measurement, nodal)):
        return Presence.ABSENT
    return Presence.PRESENT


def axis_rule(nodal: bool) -> Rule:
    """The rule for the diameter of a lesion."""
    return rules.NODE_IN_SUM if nodal else rules.MEASURED


def exact(value: float) -> Decimal:
    """The decimal number that a person would read."""
    return Decimal(str(value))


def tenth(value: float) -> Decimal:
    """A measured length as it is recorded: to 0.1 mm, halves up."""
    return exact(value).quantize(Decimal("0.1"), ROUND_HALF_UP)


def _by_reader(
    lesion_id: str,
    state: State,
    value: Decimal | None,
    rule: Rule,
    note: str,
    parts_mm: Sequence[Decimal] = (),
    merged_into: str = "",
) -> Measurement:
    return Measurement(
        lesion_id,
        state,
        value,
        rule,
        by="reader",
        seen=True,
        parts_mm=tuple(parts_mm),
        merged_into=merged_into,
        note=note,
    )


def _entered(lesion_id: str, nodal: bool, found: LesionAtFollowup, entry: Finding) -> Measurement:
    """The lesion as the reader entered it."""
    note = entry.note
    if entry.status is Judgement.ABSENT or entry.diameter_mm == 0:
        return _by_reader(lesion_id, State.GONE, Decimal(0), rules.GONE, note)
    if entry.status is Judgement.TOO_SMALL:
        return _by_reader(lesion_id, State.TOO_SMALL, TOO_SMALL_MM, rules.TOO_SMALL, note)
    if entry.status is Judgement.NOT_EVALUABLE:
        return _by_reader(lesion_id, State.NOT_EVALUABLE, None, rules.NOT_EVALUABLE, note)
    if entry.status is Judgement.MERGED:
        into = entry.merged_into or ""
        zero = Decimal(0)
        return _by_reader(lesion_id, State.MERGED, zero, rules.MERGED, note, merged_into=into)
    value, state, rule = None, State.MEASURED, axis_rule(nodal)
    parts = [exact(part) for part in entry.parts_mm or ()]
    if parts:
        value, state, rule = sum(parts, Decimal(0)), State.SPLIT, rules.SPLIT
    elif entry.diameter_mm is not None:
        value = exact(entry.diameter_mm)
    if entry.status is Judgement.UNEQUIVOCAL_PROGRESSION:
        return _by_reader(lesion_id, State.PROGRESSION, value, rules.NON_TARGET_PD, note, parts)
    if value is not None:
        return _by_reader(lesion_id, state, value, rule, note, parts)
    # "present" without a number: what was measured of it counts, now that it has been seen.
    measured = _by_tlt(lesion_id, nodal, found.size, found.radius_mm, found.size_note, seen=True)
    present = measured.state is State.UNMEASURED
    return replace(
        measured, state=State.PRESENT if present else measured.state, note=note or measured.note
    )


def _decided(lesion_id: str, review: Review) -> Measurement | None:
    """A match that was marked lost or rejected; None for one that was moved."""
    if review.decision is Decision.LOST:
        return _by_reader(lesion_id, State.GONE, Decimal(0), rules.GONE, review.note)
    if review.decision is Decision.REJECTED:
        rejected = _by_reader(lesion_id, State.REJECTED, None, rules.REJECTED, review.note)
        return replace(rejected, needs_review="the match was rejected; place it or judge it")
    return None


def _tracked(
    lesion_id: str, nodal: bool, found: LesionAtFollowup, review: Review | None
) -> Measurement:
    """A match that a reader left where it is, moved, or has not looked at."""
    seen = review is not None
    note = review.note if review is not None and review.note else found.size_note
    if found.status is Status.OUTSIDE_FOV:
        return Measurement(
            lesion_id, State.OUT_OF_VIEW, None, rules.OUT_OF_VIEW, seen=seen, note=note
        )
    if found.status is Status.NOT_FOUND and not seen:
        return Measurement(
            lesion_id,
            State.UNCONFIRMED,
            None,
            rules.UNCONFIRMED,
            note=note,
            needs_review="not found by the tracker; say whether it is gone",
        )
    measured = _by_tlt(lesion_id, nodal, found.size, found.radius_mm, note, seen)
    if found.status is Status.LOW_CONFIDENCE and not seen:
        return replace(measured, needs_review="the match is of low confidence; look at it")
    return measured


def _by_tlt(
    lesion_id: str,
    nodal: bool,
    size: SizeFacts | None,
    radius_mm: float | None,
    note: str,
    seen: bool,
) -> Measurement:
    """The diameter that the result has of a lesion that is there."""
    if size is not None:
        value = size.short_mm if nodal else size.long_mm
    else:
        value = None if nodal or not radius_mm else 2 * radius_mm
    if value is None:
        axis = "short axis" if nodal else "long axis"
        return Measurement(
            lesion_id,
            State.UNMEASURED,
            None,
            rules.UNMEASURED,
            seen=seen,
            note=note,
            needs_size=f"no {axis}; measure it",
        )
    by_reader = size is not None and size.by_reader
    doubtful = size is not None and size.doubtful and not by_reader
    remark = size.note if size is not None and size.note else note
    return Measurement(
        lesion_id,
        State.MEASURED,
        tenth(value),
        axis_rule(nodal),
        by="reader" if by_reader else "tlt",
        seen=seen or by_reader,
        doubtful=doubtful,
        from_radius=size is None,
        note=remark,
        needs_size="the measured size is doubtful; measure it" if doubtful else "",
    )


def _contradicted(entered: Measurement, review: Review | None) -> Measurement:
    """The entry; to be reviewed where the review page says the opposite."""
    if review is None:
        return entered
    gone = entered.state is State.GONE
    lost = review.decision is Decision.LOST
    there = review.decision in (Decision.ACCEPTED, Decision.MOVED)
    not_there = entered.state in (State.MEASURED, State.SPLIT, State.TOO_SMALL, State.PRESENT)
    if (lost and not_there) or (gone and there):
        word = f"the entries and the review ({review.decision.value}) contradict each other"
        return replace(entered, needs_review=f"{word}; correct one")
    return entered
