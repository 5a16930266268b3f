"""Nodes that were normal at baseline: not followed, but a reader is told when one has grown."""

from __future__ import annotations

from tlt.io.results import LesionAtBaseline, LesionAtFollowup
from tlt.recist.criteria import NORMAL_NODE_MM, is_normal, mm_text
from tlt.recist.measure import Measurement, State, diameter_of, tenth

WHAT_TO_DO = "enter it as a new lesion, or give it the role non-target"


def asked_of_normal_node(
    now: Measurement, found: LesionAtFollowup, baseline: LesionAtBaseline
) -> str:
    """What a reader must say of a node that was normal at baseline; empty if nothing."""
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
    if long_mm < NORMAL_NODE_MM or (before_mm is not None and long_mm <= before_mm):
        return ""
    return f"was a normal node, has grown (long axis {mm_text(long_mm)} mm); measure its short axis"
