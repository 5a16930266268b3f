"""Best overall response and progression, from the responses at the time points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tlt.recist import rules
from tlt.recist.criteria import Decided, Response

STABLE = (Response.CR, Response.PR, Response.SD, Response.NON_CR_NON_PD)


@dataclass(frozen=True)
class Visit:
    """The overall response at a time point, and its day from baseline where it is known."""

    followup: int
    response: Response
    day: int | None = None


def progression(visits: Sequence[Visit]) -> Visit | None:
    """The first time point with progression; None without one."""
    return next((visit for visit in visits if visit.response is Response.PD), None)


def best_response(
    visits: Sequence[Visit], stable_days: int, neutral: Response = Response.SD
) -> Decided:
    """The best response until progression, without confirmation of CR and PR.

    ``neutral`` is SD, or Non-CR/Non-PD for a patient without targets.

    Stable disease counts at ``stable_days`` from baseline; where a day is not known, the minimum
    is not asked for.
    """
    counted = _until_progression(visits)
    shown = _sequence(counted)
    for best in (Response.CR, Response.PR):
        if any(visit.response is best for visit in counted):
            return Decided(best, rules.BEST, shown)
    outcome, shown = _at_most_stable(counted, (neutral,), stable_days, shown)
    return Decided(outcome or neutral, rules.BEST, shown)


def confirmed_response(
    visits: Sequence[Visit],
    stable_days: int,
    confirmation_days: int,
    neutral: Response = Response.SD,
) -> Decided | None:
    """The best response until progression, CR and PR confirmed; None where days are not known.

    A response is confirmed by one as good at least ``confirmation_days`` later, with nothing worse
    between them; a time point that could not be evaluated may lie between.
    """
    counted = _until_progression(visits)
    if any(visit.day is None for visit in counted):
        return None
    shown = f"{_sequence(counted)}; interval {confirmation_days} days"
    for best, as_good in (
        (Response.CR, (Response.CR,)),
        (Response.PR, (Response.CR, Response.PR)),
    ):
        if _is_confirmed(counted, as_good, confirmation_days):
            return Decided(best, rules.CONFIRMED, shown)
    outcome, shown = _at_most_stable(counted, STABLE, stable_days, shown)
    return Decided(outcome or neutral, rules.CONFIRMED, shown)


def _until_progression(visits: Sequence[Visit]) -> list[Visit]:
    """The time points up to the first progression, which is the last that counts."""
    end = progression(visits)
    return [v for v in visits if end is None or v.followup <= end.followup]


def _is_confirmed(
    visits: Sequence[Visit], as_good: tuple[Response, ...], confirmation_days: int
) -> bool:
    first: int | None = None
    for visit in visits:
        if visit.response in as_good and visit.day is not None:
            first = visit.day if first is None else first
            if visit.day - first >= confirmation_days:
                return True
        elif visit.response is not Response.NE:
            first = None
    return False


def _at_most_stable(
    visits: Sequence[Visit], stable: tuple[Response, ...], stable_days: int, shown: str
) -> tuple[Response | None, str]:
    """None where the disease was stable for long enough, else PD, else NE; and why."""
    held = [visit for visit in visits if visit.response in stable]
    if any(visit.day is None or visit.day >= stable_days for visit in held):
        return None, shown
    if held:
        shown += f"; stable disease not held for {stable_days} days"
    if progression(visits):
        return Response.PD, shown
    only_none = bool(visits) and all(v.response is Response.NO_DISEASE for v in visits)
    return (Response.NO_DISEASE if only_none else Response.NE), shown


def _sequence(visits: Sequence[Visit]) -> str:
    return ", ".join(
        f"{v.followup}: {v.response.value}" + ("" if v.day is None else f" (day {v.day})")
        for v in visits
    )
