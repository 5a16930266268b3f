"""Lesions that have grown together: which one each is a part of at a time point.

A reader enters that a lesion has merged into another. That holds at later time points until a
reader enters something else of the lesion, or finds it by itself, or lets the other one merge into
it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal

from tlt.io.results import Decision, Review
from tlt.recist import rules
from tlt.recist.assessment import FollowedLesion
from tlt.recist.criteria import Presence
from tlt.recist.entries import Finding
from tlt.recist.measure import UNKNOWN, Measurement, State, presence
from tlt.recist.roles import Part

APART = (Decision.ACCEPTED, Decision.MOVED)


def whole_of(lesion_id: str, into: Mapping[str, str]) -> str | None:
    """The lesion at the end of the chain of mergers; None where the chain is a ring."""
    seen = {lesion_id}
    while lesion_id in into:
        lesion_id = into[lesion_id]
        if lesion_id in seen:
            return None
        seen.add(lesion_id)
    return lesion_id


def merged_now(
    findings: Mapping[str, Finding],
    last: Mapping[str, Measurement],
    reviews: Mapping[str, Review | None],
) -> dict[str, str]:
    """Into which lesion each one that is merged has merged, at one time point.

    Args:
        findings: what is entered here; no ring of mergers.
        last: each lesion when it was last judged.
        reviews: each lesion's review here.
    """
    into = {id_: one.merged_into for id_, one in findings.items() if one.merged_into is not None}
    for id_ in sorted(set(last) - set(findings)):
        review = reviews[id_]
        judged = review is not None and review.decision is not Decision.REJECTED
        if last[id_].state is not State.MERGED or judged:
            continue
        with_it = {**into, id_: last[id_].merged_into}
        # What is entered here goes before what was entered earlier.
        into = into if whole_of(id_, with_it) is None else with_it
    return into


def no_longer_merged(now: Measurement, last: Measurement, review: Review | None) -> Measurement:
    """A lesion that was a part of another one and is none now, though no entry says so."""
    if review is None or review.decision is Decision.REJECTED:
        why = f"was a part of {last.merged_into}, which is now a part of it; measure the whole"
    elif review.decision in APART:
        why = (
            f"was a part of {last.merged_into}, and the review ({review.decision.value}) has it by "
            "itself; enter its diameter, or that it has merged"
        )
    else:
        return now
    return replace(now, needs_review=why)


def as_their_whole(
    measured: Sequence[Measurement], into: Mapping[str, str], lesions: Sequence[FollowedLesion]
) -> list[Measurement]:
    """The measurements of the lesions; what has merged is gone, or not evaluable, as its whole is.

    A non-target lesion that has merged into a node is gone where that is normal.
    """
    by_id = {m.lesion_id: (m, lesion.nodal) for m, lesion in zip(measured, lesions, strict=True)}
    return [
        _as_whole(m, lesion.part, *by_id[whole_of(m.lesion_id, into) or m.lesion_id])
        if m.state is State.MERGED
        else m
        for m, lesion in zip(measured, lesions, strict=True)
    ]


def _as_whole(part: Measurement, followed_as: Part, whole: Measurement, nodal: bool) -> Measurement:
    shown = presence(whole, nodal) if followed_as is Part.NON_TARGET else None
    if whole.state is State.GONE or shown is Presence.ABSENT:
        what = "gone" if whole.state is State.GONE else "a normal node now"
        note = f"a part of {whole.lesion_id}, which is {what}"
        return replace(part, state=State.GONE, diameter_mm=Decimal(0), rule=rules.GONE, note=note)
    if whole.state in UNKNOWN or shown is Presence.NOT_EVALUABLE:
        note = f"a part of {whole.lesion_id}, which is not evaluable"
        rule = rules.NOT_EVALUABLE
        return replace(part, state=State.NOT_EVALUABLE, diameter_mm=None, rule=rule, note=note)
    return part
