"""Which lesions are targets: as the reader chose, or else as the rule proposes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum

from tlt.lesion import Role
from tlt.recist import rules
from tlt.recist.criteria import NORMAL_NODE_MM, mm_text
from tlt.recist.measure import Measurement
from tlt.recist.rules import Rule

MOST_TARGETS, MOST_OF_AN_ORGAN = 5, 2
MEASURABLE_MM, TARGET_NODE_MM = Decimal(10), Decimal(15)
THICK_MM = Decimal(5)
NODES = "lymph nodes"


class Part(str, Enum):
    """The part of a lesion in the assessment."""

    TARGET = "target"
    NON_TARGET = "non_target"
    NORMAL_NODE = "normal_node"


@dataclass(frozen=True)
class Candidate:
    """A lesion before it has a part: what was chosen for it, and its diameter at baseline."""

    id: str
    site: str
    nodal: bool
    role: Role
    baseline: Measurement

    @property
    def organ(self) -> str:
        """What counts as one organ: all nodes; both of a pair; empty if the site is unknown.

        A site says the organ first: ``liver, segment 7`` and ``Liver (dome)`` are one organ.
        """
        if self.nodal:
            return NODES
        organ = re.split(r"[,;(/]", self.site.lower())[0]
        return " ".join(re.sub(r"\b(left|right)\b", " ", organ).split())


@dataclass(frozen=True)
class Assigned:
    """The part of a lesion, the rule and the numbers behind it, and whether a reader chose it."""

    part: Part
    chosen: bool
    rule: Rule
    because: str


def measurable_from_mm(nodal: bool, slice_mm: Decimal) -> Decimal:
    """The diameter from which a lesion can be a target."""
    least = TARGET_NODE_MM if nodal else MEASURABLE_MM
    return max(least, 2 * slice_mm) if slice_mm > THICK_MM else least


def assign(candidates: Sequence[Candidate], slice_mm: Decimal) -> dict[str, Assigned]:
    """The part of each lesion.

    Where a target was chosen, the lesions left open are non-target; where none was chosen, targets
    are proposed among those left open: measurable, surely measured ones first, then the largest.
    Neither depends on the order of the lesions.
    """
    by_hand = any(c.role is Role.TARGET for c in candidates)
    proposed = {} if by_hand else _proposed(candidates, slice_mm)
    return {c.id: _assigned(c, by_hand, proposed, slice_mm) for c in candidates}


def remarks(
    candidates: Sequence[Candidate], parts: Mapping[str, Assigned], slice_mm: Decimal
) -> list[str]:
    """What a reader should know of the choice: proposals, and where it departs from the rules."""
    targets = [c for c in candidates if parts[c.id].part is Part.TARGET]
    said = []
    if targets and not any(parts[c.id].chosen for c in targets):
        said.append(
            f"targets ({', '.join(c.id for c in targets)}) were proposed by the rule, not chosen "
            "by a reader; choose them by the role of each lesion"
        )
    if len(targets) > MOST_TARGETS:
        said.append(f"{len(targets)} targets were chosen; RECIST 1.1 (4.2) has at most five")
    organs = [c.organ for c in targets if c.organ]
    for organ in sorted({o for o in organs if organs.count(o) > MOST_OF_AN_ORGAN}):
        said.append(
            f"{organs.count(organ)} targets in {organ} were chosen; RECIST 1.1 (4.2) has at most "
            "two of an organ"
        )
    unknown = [c.id for c in targets if not c.organ]
    if len(targets) > MOST_OF_AN_ORGAN and unknown:
        said.append(
            f"no site for {', '.join(unknown)}: at most two targets of an organ (4.2) cannot be "
            "checked; give the site of each lesion"
        )
    for c in targets:
        least = measurable_from_mm(c.nodal, slice_mm)
        value = c.baseline.diameter_mm
        if value is not None and value < least:
            said.append(
                f"target {c.id} has {mm_text(value)} mm at baseline; a target has at least "
                f"{mm_text(least)} mm (3.1.1)"
            )
    return said


def _proposed(candidates: Sequence[Candidate], slice_mm: Decimal) -> dict[str, str]:
    """The proposed targets, each with its place: ``1st of 3 measurable``."""
    measurable = [c for c in candidates if c.role is Role.UNDECIDED and _is_measurable(c, slice_mm)]
    measurable.sort(key=lambda c: (c.baseline.doubtful, -_mm(c), c.id))
    taken: dict[str, str] = {}
    organs: list[str] = []
    for place, c in enumerate(measurable, 1):
        full = c.organ != "" and organs.count(c.organ) >= MOST_OF_AN_ORGAN
        if len(taken) < MOST_TARGETS and not full:
            taken[c.id] = f"number {place} of {len(measurable)} measurable"
            organs.append(c.organ)
    return taken


def _assigned(
    c: Candidate, by_hand: bool, proposed: Mapping[str, str], slice_mm: Decimal
) -> Assigned:
    value = c.baseline.diameter_mm
    axis = "short axis" if c.nodal else "long axis"
    size = f"{axis} {'not known' if value is None else mm_text(value) + ' mm'} at baseline"
    if c.role is not Role.UNDECIDED:
        part = Part.TARGET if c.role is Role.TARGET else Part.NON_TARGET
        return Assigned(part, True, rules.SELECTION, f"chosen by the reader; {size}")
    if c.nodal and value is not None and value < NORMAL_NODE_MM:
        return Assigned(Part.NORMAL_NODE, False, rules.NODE_SIZE, f"normal node, {size}")
    if c.id in proposed:
        why = f"proposed: {size}, {proposed[c.id]}"
        return Assigned(Part.TARGET, False, rules.SELECTION, why)
    if not _is_measurable(c, slice_mm):
        rule = rules.NODE_SIZE if c.nodal else rules.MEASURABLE
        least = mm_text(measurable_from_mm(c.nodal, slice_mm))
        return Assigned(Part.NON_TARGET, False, rule, f"{size}, a target has {least} mm")
    why = "not chosen as target" if by_hand else "five targets, or two of its organ, are larger"
    return Assigned(Part.NON_TARGET, False, rules.SELECTION, f"{why}; {size}")


def _is_measurable(c: Candidate, slice_mm: Decimal) -> bool:
    return _mm(c) >= measurable_from_mm(c.nodal, slice_mm)


def _mm(c: Candidate) -> Decimal:
    return c.baseline.diameter_mm or Decimal(0)
