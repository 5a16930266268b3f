"""RECIST 1.1 as pure rules: diameters and statuses in, a response and its reason out.

Millimetres are decimal numbers, so that 30 % and 5 mm are met exactly, and not by the luck of
binary fractions. No rule here knows of files, images or trackers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import Annotated

from pydantic import PlainSerializer

from tlt.recist import rules
from tlt.recist.rules import Rule

# A decimal number inside, a plain number in JSON.
Exact = Annotated[Decimal, PlainSerializer(float, return_type=float, when_used="json")]

NORMAL_NODE_MM = Decimal(10)
TOO_SMALL_MM = Decimal(5)
PR_PERCENT, PD_PERCENT, PD_MM = Decimal(-30), Decimal(20), Decimal(5)


class Response(str, Enum):
    """A response category; ``ND`` where no disease is followed, ``NA`` where there is none."""

    CR = "CR"
    PR = "PR"
    SD = "SD"
    NON_CR_NON_PD = "Non-CR/Non-PD"
    PD = "PD"
    NE = "NE"
    NO_DISEASE = "ND"
    NOT_APPLICABLE = "NA"


class Presence(str, Enum):
    """What became of a non-target lesion."""

    PRESENT = "present"
    ABSENT = "absent"
    PROGRESSION = "unequivocal_progression"
    NOT_EVALUABLE = "not_evaluable"


class NewLesions(str, Enum):
    """Whether there is new disease."""

    NO = "no"
    EQUIVOCAL = "equivocal"
    YES = "yes"


@dataclass(frozen=True)
class Diameter:
    """A lesion at one time point: its diameter for the sum, None where it was not evaluated.

    ``parts_mm`` are those of the parts that it fell into, if it did.
    """

    nodal: bool
    mm: Decimal | None
    parts_mm: tuple[Decimal, ...] = ()


@dataclass(frozen=True)
class Decided:
    """A response, the rule that gives it, and the numbers that the rule was given."""

    response: Response
    rule: Rule
    because: str


def sum_mm(diameters: Sequence[Diameter]) -> Decimal:
    """The sum of the diameters that were evaluated."""
    return sum((d.mm for d in diameters if d.mm is not None), Decimal(0))


def change_percent(now_mm: Decimal, reference_mm: Decimal) -> Decimal | None:
    """The change in per cent of the reference; None from zero."""
    return None if reference_mm == 0 else 100 * (now_mm - reference_mm) / reference_mm


def has_shrunk(now_mm: Decimal, baseline_mm: Decimal) -> bool:
    """At least 30 % below baseline (multiplied out: nothing is rounded)."""
    return 100 * (now_mm - baseline_mm) <= PR_PERCENT * baseline_mm


def has_grown(now_mm: Decimal, nadir_mm: Decimal) -> bool:
    """At least 20 % and at least 5 mm above the smallest sum."""
    growth_mm = now_mm - nadir_mm
    return 100 * growth_mm >= PD_PERCENT * nadir_mm and growth_mm >= PD_MM


def is_normal(diameter: Diameter) -> bool:
    """Gone, or a node of normal size, or such a node in parts, each of which is."""
    if diameter.mm is None:
        return False
    if not diameter.nodal:
        return diameter.mm == 0
    return all(mm < NORMAL_NODE_MM for mm in diameter.parts_mm or (diameter.mm,))


def target_response(
    diameters: Sequence[Diameter], baseline_mm: Decimal | None, nadir_mm: Decimal | None
) -> Decided:
    """The response of the targets at one time point.

    Args:
        diameters: one a target.
        baseline_mm: the sum at baseline; None where a target was not measured there.
        nadir_mm: the smallest sum at earlier time points, the baseline included.

    Nodes that are all below 10 mm are a complete response even if their sum has grown: no disease
    is left that could progress.
    """
    if not diameters:
        return Decided(Response.NOT_APPLICABLE, rules.NO_TARGETS, "no target lesions")
    if not baseline_mm or nadir_mm is None:
        return Decided(Response.NE, rules.NO_BASELINE, "the sum at baseline is not complete")
    now_mm = sum_mm(diameters)
    missing = sum(d.mm is None for d in diameters)
    numbers = _numbers(now_mm, baseline_mm, nadir_mm)
    if all(is_normal(d) for d in diameters):
        return Decided(Response.CR, rules.TARGET_CR, f"all targets gone or normal; {numbers}")
    if missing:
        numbers = f"{missing} of {len(diameters)} targets not evaluated; the others: {numbers}"
    if has_grown(now_mm, nadir_mm):
        rule = rules.MISSING if missing else rules.TARGET_PD
        return Decided(Response.PD, rule, numbers)
    if missing:
        return Decided(Response.NE, rules.MISSING, numbers)
    if has_shrunk(now_mm, baseline_mm):
        return Decided(Response.PR, rules.TARGET_PR, numbers)
    return Decided(Response.SD, rules.TARGET_SD, numbers)


def non_target_response(states: Sequence[Presence]) -> Decided:
    """The response of the non-targets at one time point."""
    counts = ", ".join(
        f"{states.count(state)} {state.value.replace('_', ' ')}"
        for state in Presence
        if state in states
    )
    if not states:
        return Decided(Response.NOT_APPLICABLE, rules.NO_NON_TARGETS, "no non-target lesions")
    if Presence.PROGRESSION in states:
        return Decided(Response.PD, rules.NON_TARGET_PD, counts)
    if Presence.NOT_EVALUABLE in states:
        return Decided(Response.NE, rules.NON_TARGET_NE, counts)
    if Presence.PRESENT in states:
        return Decided(Response.NON_CR_NON_PD, rules.NON_TARGET_NON_CR, counts)
    return Decided(Response.CR, rules.NON_TARGET_CR, counts)


def overall_response(target: Response, non_target: Response, new: NewLesions) -> Decided:
    """The response at one time point, by Tables 1 and 2 of the source.

    ``NOT_APPLICABLE`` for targets or non-targets says that the patient has none of them.
    """
    given = f"targets {target.value}, non-targets {non_target.value}, new lesions {new.value}"
    absent = Response.NOT_APPLICABLE
    if new is NewLesions.YES:
        return Decided(Response.PD, rules.NEW, given)
    if target is not absent:
        return _by_table_1(target, non_target, given)
    if non_target is not absent:
        return Decided(non_target, TABLE_2[non_target], given)
    return Decided(Response.NO_DISEASE, rules.NO_DISEASE, given)


TABLE_1 = {
    Response.CR: rules.TABLE_1_CR,
    Response.PR: rules.TABLE_1_PR,
    Response.SD: rules.TABLE_1_SD,
    Response.NE: rules.TABLE_1_NE,
}
TABLE_2 = {
    Response.CR: rules.TABLE_2_CR,
    Response.NON_CR_NON_PD: rules.TABLE_2_NON_CR,
    Response.NE: rules.TABLE_2_NE,
    Response.PD: rules.TABLE_2_PD,
}


def _by_table_1(target: Response, non_target: Response, given: str) -> Decided:
    """Table 1, without new lesions."""
    if Response.PD in (target, non_target):
        return Decided(Response.PD, rules.TABLE_1_PD, given)
    complete = non_target in (Response.CR, Response.NOT_APPLICABLE)
    if target is Response.CR and not complete:
        return Decided(Response.PR, rules.TABLE_1_HELD, given)
    return Decided(target, TABLE_1[target], given)


def _numbers(now_mm: Decimal, baseline_mm: Decimal, nadir_mm: Decimal) -> str:
    from_baseline = percent_text(change_percent(now_mm, baseline_mm))
    from_nadir = percent_text(change_percent(now_mm, nadir_mm))
    return (
        f"sum {mm_text(now_mm)} mm; baseline {mm_text(baseline_mm)} mm ({from_baseline}); "
        f"smallest {mm_text(nadir_mm)} mm ({from_nadir}, {now_mm - nadir_mm:+.1f} mm)"
    )


def mm_text(value: Decimal) -> str:
    """Millimetres with one decimal, or with all of them where there are more."""
    text = f"{value.normalize():f}"
    return text if len(text.partition(".")[2]) > 1 else f"{value:.1f}"


def percent_text(value: Decimal | None) -> str:
    """A change in per cent, with as many decimals as tell it from -30 % and +20 %.

    >>> percent_text(Decimal("-29.96")), percent_text(Decimal("-30"))
    ('-29.96 %', '-30.0 %')
    """
    if value is None:
        return "from 0"
    for digits in range(1, 8):
        shown = round(value, digits)
        told = (value <= PR_PERCENT) == (shown <= PR_PERCENT)
        if told and (value >= PD_PERCENT) == (shown >= PD_PERCENT):
            break
    return f"{shown:+f} %"
