"""The follow-ups of a patient, one after the other: each hands its sum and its states on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from tlt.io.results import LesionResult, Result
from tlt.recist import criteria, rules
from tlt.recist.assessment import FollowedLesion, NewLesion, Sums, TimePoint
from tlt.recist.criteria import Decided, Diameter, NewLesions, Presence, Response
from tlt.recist.entries import Certainty, Entries, Finding
from tlt.recist.measure import (
    UNKNOWN,
    Measurement,
    State,
    at_followup,
    diameter_of,
    presence,
    unconfirmed_return,
)
from tlt.recist.merged import as_their_whole, merged_now, no_longer_merged
from tlt.recist.nodes import asked_of_normal_node
from tlt.recist.roles import Part

THERE = (State.MEASURED, State.TOO_SMALL, State.SPLIT, State.PRESENT, State.UNMEASURED)
OF_A_TARGET = "unequivocal progression is said of non-targets; enter the diameter of this target"

Pairs = Sequence[tuple[FollowedLesion, Measurement]]


@dataclass(frozen=True)
class _Before:
    """What the earlier time points hand on.

    Attributes:
        nadir_mm: their smallest sum; None without a sum at baseline.
        nadir_followup: where it was.
        doubts: why the sum at baseline is not final.
        open: the follow-ups whose targets need review.
        last: each lesion when it was last judged.
        complete: the follow-up with an overall complete response.
    """

    nadir_mm: Decimal | None
    nadir_followup: int
    doubts: tuple[str, ...]
    last: Mapping[str, Measurement]
    open: tuple[int, ...] = ()
    complete: int | None = None


def baseline_sum(lesions: Sequence[FollowedLesion]) -> Decimal | None:
    """The sum of target diameters at baseline; None where one is not known."""
    values = [lesion.baseline.diameter_mm for lesion in lesions if lesion.part is Part.TARGET]
    known = [value for value in values if value is not None]
    return sum(known, Decimal(0)) if values and len(known) == len(values) else None


def time_points(
    result: Result, entries: Entries, lesions: Sequence[FollowedLesion]
) -> tuple[TimePoint, ...]:
    """Every follow-up of the result, assessed."""
    baseline_mm = baseline_sum(lesions)
    new = _new_lesions(entries, len(result.followups))
    doubts = tuple(
        f"{lesion.id} at baseline: {lesion.baseline.needs_size}"
        for lesion in lesions
        if lesion.part is Part.TARGET and lesion.baseline.needs_size
    )
    before = _Before(baseline_mm, 0, doubts, {})
    points = []
    for number in range(1, len(result.followups) + 1):
        measured = _measurements(result, entries, lesions, before, number)
        pairs = list(zip(lesions, measured, strict=True))
        point = _time_point(result, entries, number, pairs, new[number], baseline_mm, before)
        points.append(point)
        before = _after(before, point, pairs)
    return tuple(points)


def _measurements(
    result: Result,
    entries: Entries,
    lesions: Sequence[FollowedLesion],
    before: _Before,
    number: int,
) -> list[Measurement]:
    """Each lesion at this follow-up."""
    by_id = {lesion.id: lesion for lesion in result.lesions}
    findings = entries.at(number).lesions
    reviews = {id_: lesion.followups[number - 1].review for id_, lesion in by_id.items()}
    into = merged_now(findings, before.last, reviews)
    measured = [
        before.last[lesion.id]
        if lesion.id in into and lesion.id not in findings
        else _measurement(lesion, by_id[lesion.id], findings.get(lesion.id), before, number)
        for lesion in lesions
    ]
    return as_their_whole(measured, into, lesions)


def _measurement(
    lesion: FollowedLesion,
    told: LesionResult,
    finding: Finding | None,
    before: _Before,
    number: int,
) -> Measurement:
    """A lesion at this follow-up that has not merged into another at an earlier one."""
    found, last = told.followups[number - 1], before.last.get(lesion.id)
    now = at_followup(lesion.id, lesion.nodal, found, finding)
    if lesion.part is Part.NORMAL_NODE:
        return replace(now, needs_review=asked_of_normal_node(now, finding, found, told.baseline))
    if lesion.part is Part.TARGET and now.state is State.PROGRESSION:
        return replace(now, needs_review=OF_A_TARGET)
    if last is not None and last.state is State.MERGED and finding is None:
        return no_longer_merged(now, last, found.review)
    back = last is not None and last.state is State.GONE and now.state in THERE
    return unconfirmed_return(now) if back and not now.seen else now


def _time_point(
    result: Result,
    entries: Entries,
    number: int,
    pairs: Pairs,
    new: tuple[NewLesion, ...],
    baseline_mm: Decimal | None,
    before: _Before,
) -> TimePoint:
    targets = [(lesion, m) for lesion, m in pairs if lesion.part is Part.TARGET]
    others = [(lesion, m) for lesion, m in pairs if lesion.part is Part.NON_TARGET]
    diameters = [diameter_of(m, lesion.nodal) for lesion, m in targets]
    target = criteria.target_response(diameters, baseline_mm, before.nadir_mm)
    non_target = criteria.non_target_response([presence(m, x.nodal) for x, m in others])
    back = _back(targets, others) if before.complete else []
    overall = _overall(target, non_target, new, [x.id for x in back], before)
    needs = [f"{lesion.id}: {need}" for lesion, m in pairs for need in lesion.needs(m)]
    needs += _inherited(before) if targets else []
    if back and overall.rule is rules.REAPPEARED and all(lesion.nodal for lesion in back):
        needs.append("only nodes are there again; image again before progression is called")
    settled = non_target.response is Response.PD or _state_of(new) is NewLesions.YES
    entry = entries.at(number)
    return TimePoint(
        followup=number,
        name=result.followups[number - 1].path,
        day=entries.days().get(number),
        date=entry.date,
        measurements=tuple(m for _, m in pairs),
        sums=_sums(diameters, baseline_mm, before),
        new_lesions=new,
        target=target,
        non_target=non_target,
        overall=overall,
        needs_review=tuple(needs),
        preliminary=bool(needs) and not settled,
        note=entry.note,
    )


def _sums(diameters: Sequence[Diameter], baseline_mm: Decimal | None, before: _Before) -> Sums:
    counted_mm, nadir_mm = criteria.sum_mm(diameters), before.nadir_mm
    whole = bool(diameters) and all(d.mm is not None for d in diameters)
    change = criteria.change_percent
    compared = whole and baseline_mm is not None and nadir_mm is not None
    return Sums(
        sum_mm=counted_mm if whole else None,
        counted_mm=counted_mm,
        baseline_mm=baseline_mm,
        from_baseline_percent=change(counted_mm, baseline_mm or Decimal(0)) if compared else None,
        nadir_mm=nadir_mm,
        nadir_followup=before.nadir_followup,
        from_nadir_percent=change(counted_mm, nadir_mm or Decimal(0)) if compared else None,
        from_nadir_mm=counted_mm - (nadir_mm or Decimal(0)) if compared else None,
    )


def _overall(
    target: Decided,
    non_target: Decided,
    new: Sequence[NewLesion],
    back: Sequence[str],
    before: _Before,
) -> Decided:
    """The response by the tables, and by what they do not hold: dating back, and reappearance."""
    overall = criteria.overall_response(target.response, non_target.response, _state_of(new))
    later = [lesion.id for lesion in new if lesion.confirmed_later]
    certain = any(lesion.certainty is Certainty.UNEQUIVOCAL for lesion in new)
    if later and not certain and Response.PD not in (target.response, non_target.response):
        why = f"{', '.join(later)} equivocal here, unequivocal later; {overall.because}"
        return Decided(Response.PD, rules.NEW_CONFIRMED, why)
    if back and overall.response is not Response.PD:
        why = f"CR at follow-up {before.complete}, there again: {', '.join(back)}"
        return Decided(Response.PD, rules.REAPPEARED, f"{why}; {overall.because}")
    return overall


def _back(targets: Pairs, others: Pairs) -> list[FollowedLesion]:
    """The lesions that are there: of those that are nodes, the ones known not to be normal."""
    seen = [
        lesion
        for lesion, m in targets
        if m.state in THERE
        and not criteria.is_normal(diameter_of(m, lesion.nodal))
        and not (lesion.nodal and m.diameter_mm is None)
    ]
    return seen + [x for x, m in others if presence(m, x.nodal) is Presence.PRESENT]


def _inherited(before: _Before) -> list[str]:
    """What earlier time points leave open: they give the sums to compare with."""
    if not before.open:
        return list(before.doubts)
    numbers = ", ".join(map(str, before.open))
    return [*before.doubts, f"the smallest sum may change with the review of follow-up {numbers}"]


def _after(before: _Before, point: TimePoint, pairs: Pairs) -> _Before:
    """What the next time point starts from."""
    sum_mm, nadir_mm = point.sums.sum_mm, before.nadir_mm
    lower = sum_mm is not None and nadir_mm is not None and sum_mm < nadir_mm
    open_ = any(m.needs_review or m.needs_size for x, m in pairs if x.part is Part.TARGET)
    judged = {m.lesion_id: m for _, m in pairs if m.state not in UNKNOWN}
    complete = point.followup if point.overall.response is Response.CR else None
    return _Before(
        nadir_mm=sum_mm if lower else nadir_mm,
        nadir_followup=point.followup if lower else before.nadir_followup,
        doubts=before.doubts,
        last={**before.last, **judged},
        open=(*before.open, point.followup) if open_ else before.open,
        complete=before.complete or complete,
    )


def _state_of(new: Sequence[NewLesion]) -> NewLesions:
    if any(n.certainty is Certainty.UNEQUIVOCAL or n.confirmed_later for n in new):
        return NewLesions.YES
    return NewLesions.EQUIVOCAL if new else NewLesions.NO


def _new_lesions(entries: Entries, followups: int) -> dict[int, tuple[NewLesion, ...]]:
    """The new lesions at each follow-up: from the first that shows one until it is taken back."""
    at: dict[int, tuple[NewLesion, ...]] = {}
    known: dict[str, NewLesion] = {}
    for number in range(1, followups + 1):
        for entry in entries.at(number).new_lesions:
            old = known.pop(entry.id, None)
            if entry.certainty is Certainty.ABSENT:
                continue
            first = number if old is None else old.first
            site = entry.site or ("" if old is None else old.site)
            known[entry.id] = NewLesion(entry.id, site, entry.certainty, first, False, entry.note)
        at[number] = tuple(known.values())
    return {number: tuple(_dated(n, number, at) for n in new) for number, new in at.items()}


def _dated(lesion: NewLesion, number: int, at: Mapping[int, tuple[NewLesion, ...]]) -> NewLesion:
    """The lesion, marked where it is equivocal now and the same finding is certain later."""
    if lesion.certainty is Certainty.UNEQUIVOCAL:
        return lesion
    later = any(
        other.id == lesion.id
        and other.first == lesion.first
        and other.certainty is Certainty.UNEQUIVOCAL
        for followup, others in at.items()
        if followup > number
        for other in others
    )
    return NewLesion(lesion.id, lesion.site, lesion.certainty, lesion.first, later, lesion.note)
