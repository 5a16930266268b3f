"""Nodes that were normal at baseline: not followed, but a reader is told when one has grown."""

from __future__ import annotations

from decimal import Decimal

from tlt.io.results import LesionAtBaseline, LesionAtFollowup
from tlt.recist.criteria import NORMAL_NODE_MM, is_normal, mm_text
from tlt.recist.entries import Finding, Judgement
from tlt.recist.measure import Measurement, State, diameter_of, tenth

WHAT_TO_DO = (
    "give it the role non-target, or enter a new lesion; 'present' here tells that it was judged"
)
GROWN, GROWN_MM = Decimal("1.2"), Decimal(5)  # a long axis that is both is no error of measuring


def asked_of_normal_node(
    now: Measurement,
    finding: Finding | None,
    found: LesionAtFollowup,
    baseline: LesionAtBaseline,
) -> str:
    """What a reader must say of a node that was normal at baseline; empty if nothing.

    ``finding`` is what is entered of it: a reader who has called it present has judged it.
    """
    if finding is not None and finding.status is Judgement.PRESENT:
        return ""
    if now.state is State.PROGRESSION:
        return f"was a normal node, and has progressed unequivocally; {WHAT_TO_DO}"
    if now.diameter_mm is not None:
        if is_normal(diameter_of(now, nodal=True)):
            return ""
        axis = f"short axis {mm_text(now.diameter_mm)} mm"
        return f"was a normal node, is not now ({axis}); {WHAT_TO_DO}"
    if now.state not in (State.UNMEASURED, State.PRESENT) or found.size is None:
        return ""
    long_mm = tenth(found.size.long_mm)
    before_mm = tenth(baseline.size.long_mm) if baseline.size is not None else None
    # A short axis is no longer than the long one.
    grown = before_mm is None or long_mm >= max(before_mm * GROWN, before_mm + GROWN_MM)
    if long_mm < NORMAL_NODE_MM or not grown:
        return ""
    return f"was a normal node, has grown (long axis {mm_text(long_mm)} mm); measure its short axis"
