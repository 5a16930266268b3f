"""What an assessment says: lesions, time points, outcome. ``recist.json`` holds just this."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Literal

from tlt.recist.criteria import Decided, Exact
from tlt.recist.entries import Certainty
from tlt.recist.measure import Measurement, State
from tlt.recist.roles import Part
from tlt.recist.rules import Rule

SCHEMA_VERSION: Literal[1] = 1


@dataclass(frozen=True)
class FollowedLesion:
    """A lesion of the baseline and its part in the assessment.

    ``chosen`` says whether a reader gave the part, ``rule`` and ``because`` why it has it.
    """

    id: str
    label: str
    site: str
    nodal: bool
    part: Part
    chosen: bool
    rule: Rule
    because: str
    baseline: Measurement

    def needs(self, m: Measurement) -> list[str]:
        """What a reader must do; the lesion need only be measured where its diameter counts."""
        counts = self.part is Part.TARGET
        if self.part is Part.NON_TARGET and self.nodal:
            counts = m.doubtful or m.state is State.UNMEASURED
        return [need for need in (m.needs_review, m.needs_size if counts else "") if need]


@dataclass(frozen=True)
class NewLesion:
    """A new lesion as it stands at a time point.

    ``first`` is the follow-up that showed it first; ``confirmed_later`` says that it is equivocal
    here and was certain afterwards.
    """

    id: str
    site: str
    certainty: Certainty
    first: int
    confirmed_later: bool
    note: str


@dataclass(frozen=True)
class Sums:
    """The sum of target diameters at a time point, and what it is compared with.

    Attributes:
        sum_mm: None where a target could not be counted.
        counted_mm: the sum of those that could be counted.
        baseline_mm: the sum at baseline; None where a target was not measured there.
        from_baseline_percent: change from baseline; None without a sum.
        nadir_mm: the smallest sum before this time point, the baseline included.
        nadir_followup: where that was; 0 is the baseline.
        from_nadir_percent: change from it; None without a sum, or from zero.
        from_nadir_mm: the same in millimetres.
    """

    sum_mm: Exact | None
    counted_mm: Exact
    baseline_mm: Exact | None
    from_baseline_percent: Exact | None
    nadir_mm: Exact | None
    nadir_followup: int
    from_nadir_percent: Exact | None
    from_nadir_mm: Exact | None


@dataclass(frozen=True)
class TimePoint:
    """One follow-up, assessed.

    Attributes:
        followup: its number, from 1.
        name: the image, as the result names it.
        day: days from baseline; None if not given.
        date: its date, where the reader gave one.
        measurements: the lesions, in the order of the assessment's.
        sums: the sum of target diameters and its changes.
        new_lesions: the new lesions known here.
        target: response of the targets.
        non_target: response of the others.
        overall: the response of the patient.
        needs_review: what a reader must do before the response is final.
        preliminary: the response may change with that.
        note: the reader's remark.
    """

    followup: int
    name: str
    day: int | None
    date: datetime.date | None
    measurements: tuple[Measurement, ...]
    sums: Sums
    new_lesions: tuple[NewLesion, ...]
    target: Decided
    non_target: Decided
    overall: Decided
    needs_review: tuple[str, ...]
    preliminary: bool
    note: str


@dataclass(frozen=True)
class Assessment:
    """Everything that the tables show.

    Attributes:
        schema_version: version of ``recist.json``.
        criteria: name and source of the criteria.
        software: the program and the tracker that made the result.
        reader: who entered, as they call themselves.
        baseline_name: the baseline, as the result names it.
        baseline_date: where the reader gave it.
        slice_mm: distance of the baseline's slices.
        baseline_sum_mm: sum of target diameters; None where one is not known.
        confirmation_days: until CR or PR is confirmed.
        stable_days: from baseline until stable disease counts.
        targets_proposed: the targets were proposed by the rule, not chosen.
        lesions: targets, then non-targets, then normal nodes.
        time_points: the follow-ups in order.
        best: best overall response without confirmation.
        confirmed: with confirmation; None where it could not be computed.
        confirmed_note: why not; empty if it was.
        progression: the follow-up in which progression is first seen; None without one.
        preliminary: a reader must look at something that may change the outcome.
        notices: what else the reader should know.
    """

    schema_version: Literal[1]
    criteria: str
    software: str
    reader: str
    baseline_name: str
    baseline_date: datetime.date | None
    slice_mm: Exact
    baseline_sum_mm: Exact | None
    confirmation_days: int
    stable_days: int
    targets_proposed: bool
    lesions: tuple[FollowedLesion, ...]
    time_points: tuple[TimePoint, ...]
    best: Decided
    confirmed: Decided | None
    confirmed_note: str
    progression: int | None
    preliminary: bool
    notices: tuple[str, ...]

    def of(self, part: Part) -> list[FollowedLesion]:
        """The lesions with this part."""
        return [lesion for lesion in self.lesions if lesion.part is part]

    def measured(self, lesion: FollowedLesion, point: TimePoint) -> Measurement:
        """A lesion at a time point."""
        return point.measurements[self.lesions.index(lesion)]
