"""A patient's assessment by RECIST 1.1, from a result of `tlt` and what a reader entered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tlt.errors import InputError
from tlt.io.results import LesionResult, Result
from tlt.recist import best, rules
from tlt.recist.assessment import SCHEMA_VERSION, Assessment, FollowedLesion, TimePoint
from tlt.recist.best import Visit
from tlt.recist.criteria import Response
from tlt.recist.entries import Entries, Finding, LesionEntry
from tlt.recist.measure import State, at_baseline, exact
from tlt.recist.merged import whole_of
from tlt.recist.roles import Assigned, Candidate, Part, assign, remarks
from tlt.recist.timepoints import baseline_sum, time_points


def assess(result: Result, entries: Entries | None = None) -> Assessment:
    """The assessment of a result with its reviews, and of what a reader entered beside it.

    Raises InputError where the entries name lesions or follow-ups that the result does not have.
    """
    entries = entries or Entries()
    _check(result, entries)
    slice_mm = exact(result.baseline.spacing_mm[2])
    guessed = any("no radius for" in warning for warning in result.warnings)
    candidates = [_candidate(lesion, entries, guessed) for lesion in result.lesions]
    parts = assign(candidates, slice_mm)
    lesions = _lesions(result, candidates, parts)
    targets = [lesion for lesion in lesions if lesion.part is Part.TARGET]
    _check_merged(entries, {lesion.id for lesion in targets})
    points = time_points(result, entries, lesions)
    visits = [Visit(p.followup, p.overall.response, p.day) for p in points]
    neutral = Response.SD if targets else Response.NON_CR_NON_PD
    confirmed = best.confirmed_response(
        visits, entries.stable_days, entries.confirmation_days, neutral
    )
    first = best.progression(visits)
    without_days = "" if confirmed else "not every time point has a day or date"
    return Assessment(
        schema_version=SCHEMA_VERSION,
        criteria=f"RECIST 1.1: {rules.SOURCE}",
        software=f"tlt {result.software.version}, tracker {result.software.tracker}",
        reader=entries.reader,
        baseline_name=result.baseline.path,
        baseline_date=entries.baseline_date,
        slice_mm=slice_mm,
        baseline_sum_mm=baseline_sum(lesions),
        confirmation_days=entries.confirmation_days,
        stable_days=entries.stable_days,
        targets_proposed=bool(targets) and not any(lesion.chosen for lesion in targets),
        lesions=lesions,
        time_points=points,
        best=best.best_response(visits, entries.stable_days, neutral),
        confirmed=confirmed,
        confirmed_note=without_days,
        progression=None if first is None else first.followup,
        preliminary=any(
            p.preliminary for p in points if first is None or p.followup <= first.followup
        ),
        notices=(
            *remarks(candidates, parts, slice_mm),
            *_day_remarks(without_days),
            *_unseen_remarks(lesions, points),
            *(f"tlt track: {warning}" for warning in result.warnings),
        ),
    )


def _check(result: Result, entries: Entries) -> None:
    """Refuse entries that belong to another result."""
    ids = {lesion.id for lesion in result.lesions}
    count = len(result.followups)
    _check_known("lesions", entries.lesions, ids)
    for point in entries.time_points:
        where = f"follow-up {point.followup}"
        if point.followup > count:
            raise InputError(f"entries: {where}, but the result has {count}; correct the number")
        _check_known(where, point.lesions, ids)
        for new in point.new_lesions:
            if new.id in ids:
                raise InputError(
                    f"entries: {where}: new lesion {new.id} is a lesion of the baseline; "
                    "give it another id"
                )
        for id_, finding in point.lesions.items():
            into = finding.merged_into
            if into is not None and (into not in ids or into == id_):
                raise InputError(
                    f"entries: {where}: {id_} has merged into {into}, which is no other lesion of "
                    "the result; correct it"
                )
        _check_rings(where, point.lesions)


def _check_rings(where: str, findings: Mapping[str, Finding]) -> None:
    """Refuse lesions that have merged into each other: none would count for the whole."""
    into = {id_: one.merged_into for id_, one in findings.items() if one.merged_into is not None}
    ring = [id_ for id_ in sorted(into) if whole_of(id_, into) is None]
    if ring:
        raise InputError(
            f"entries: {where}: {', '.join(ring)} have merged into each other; give one of them "
            "the diameter of the whole instead"
        )


def _check_merged(entries: Entries, targets: set[str]) -> None:
    """Refuse a target whose diameter would leave the sum with the lesion that it has joined."""
    for point in entries.time_points:
        for id_, finding in point.lesions.items():
            into = finding.merged_into
            if into is not None and id_ in targets and into not in targets:
                raise InputError(
                    f"entries: follow-up {point.followup}: target {id_} has merged into {into}, "
                    f"which is no target; enter {into} as merged into {id_} instead"
                )


def _check_known(where: str, given: Mapping[str, object], ids: set[str]) -> None:
    unknown = sorted(set(given) - ids)
    if unknown:
        raise InputError(
            f"entries: {where}: lesion {unknown[0]} is not in the result, which has "
            f"{', '.join(sorted(ids))}; correct the id, or put it under new_lesions"
        )


def _candidate(lesion: LesionResult, entries: Entries, guessed: bool) -> Candidate:
    """The lesion, with what the entries say of it instead of the result."""
    entry = entries.lesions.get(lesion.id, LesionEntry())
    nodal = lesion.nodal if entry.nodal is None else entry.nodal
    return Candidate(
        id=lesion.id,
        site=(lesion.site if entry.site is None else entry.site).strip(),
        nodal=nodal,
        role=lesion.role if entry.role is None else entry.role,
        baseline=at_baseline(lesion.id, nodal, lesion.baseline, entry, guessed),
    )


def _lesions(
    result: Result, candidates: Sequence[Candidate], parts: Mapping[str, Assigned]
) -> tuple[FollowedLesion, ...]:
    """The lesions, targets first, otherwise in the order of the result."""
    order = list(Part)
    followed = [
        FollowedLesion(
            id=c.id,
            label=lesion.label,
            site=c.site,
            nodal=c.nodal,
            part=parts[c.id].part,
            chosen=parts[c.id].chosen,
            rule=parts[c.id].rule,
            because=parts[c.id].because,
            baseline=c.baseline,
        )
        for lesion, c in zip(result.lesions, candidates, strict=True)
    ]
    return tuple(sorted(followed, key=lambda lesion: order.index(lesion.part)))


def _day_remarks(without_days: str) -> list[str]:
    if not without_days:
        return []
    return [
        f"{without_days}: the best response is given without confirmation and without the minimum "
        "time for stable disease"
    ]


def _unseen_remarks(lesions: Sequence[FollowedLesion], points: Sequence[TimePoint]) -> list[str]:
    """How many diameters in the sums nobody has looked at."""
    used = [
        m
        for point in points
        for lesion, m in zip(lesions, point.measurements, strict=True)
        if lesion.part is Part.TARGET and m.state is State.MEASURED
    ]
    unseen = [m for m in used if not m.seen]
    if not unseen:
        return []
    return [
        f"{len(unseen)} of {len(used)} target diameters at follow-up were measured by tlt and seen "
        "by no reader; a lesion that has gone can still be reported as found"
    ]
