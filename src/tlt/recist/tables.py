"""An assessment as JSON, as CSV, and as what the page shows cell by cell."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter

from tlt.recist import rules
from tlt.recist.assessment import Assessment, FollowedLesion, TimePoint
from tlt.recist.criteria import Decided, Presence, Response, mm_text, percent_text
from tlt.recist.measure import Measurement, State, presence
from tlt.recist.roles import Part
from tlt.recist.rules import Rule

DOUBTFUL = Rule(rules.OURS, "Measured by tlt, which doubts the size: a reader must measure it.")
UNSEEN = Rule(rules.OURS, "Measured by tlt; no reader has looked at it.")
FROM_RADIUS = Rule(rules.OURS, "Twice the radius of the lesion; no axis was drawn or measured.")
READER = Rule(rules.OURS, "Entered or measured by a reader.")

# The marks beside a diameter; the legend tells those that occur.
MARKS: dict[State, tuple[str, Rule]] = {
    State.TOO_SMALL: ("s", rules.TOO_SMALL),
    State.SPLIT: ("p", rules.SPLIT),
    State.MERGED: ("m", rules.MERGED),
    State.GONE: ("g", rules.GONE),
    State.OUT_OF_VIEW: ("o", rules.OUT_OF_VIEW),
    State.NOT_EVALUABLE: ("n", rules.NOT_EVALUABLE),
    State.REJECTED: ("x", rules.REJECTED),
    State.UNCONFIRMED: ("u", rules.UNCONFIRMED),
    State.UNMEASURED: ("t", rules.UNMEASURED),
}
STATE_WORDS = {
    State.MERGED: "merged",
    State.OUT_OF_VIEW: "not in view",
    State.NOT_EVALUABLE: "not evaluable",
    State.REJECTED: "rejected",
    State.UNCONFIRMED: "to confirm",
    State.UNMEASURED: "to measure",
    State.PRESENT: "to measure",
    State.PROGRESSION: "to measure",
}
PRESENCE_WORDS = {
    Presence.PRESENT: "present",
    Presence.ABSENT: "absent",
    Presence.PROGRESSION: "progression",
    Presence.NOT_EVALUABLE: "not evaluable",
}
RESPONSE_WORDS = {
    Response.CR: "complete response",
    Response.PR: "partial response",
    Response.SD: "stable disease",
    Response.NON_CR_NON_PD: "neither complete response nor progression",
    Response.PD: "progressive disease",
    Response.NE: "not evaluable",
    Response.NO_DISEASE: "no disease followed",
    Response.NOT_APPLICABLE: "not applicable",
}


@dataclass(frozen=True)
class Cell:
    """A lesion at a time point, as a table shows it: text, its parts, marks, and why."""

    text: str
    parts: str = ""
    marks: tuple[str, ...] = ()
    why: str = ""
    needs_review: bool = False


def to_json(assessment: Assessment) -> str:
    """The text of ``recist.json``."""
    return _adapter().dump_json(assessment, indent=1).decode("utf-8") + "\n"


def recist_schema() -> dict[str, Any]:
    """The JSON schema of ``recist.json``."""
    schema = _adapter().json_schema(mode="serialization")
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "tlt RECIST assessment, schema version 1"
    return schema


@lru_cache(maxsize=1)
def _adapter() -> TypeAdapter[Assessment]:
    return TypeAdapter(Assessment)


CSV_COLUMNS = (
    "followup", "day", "kind", "item", "site", "nodal", "value", "unit", "state", "marks",
    "preliminary", "rule_section", "rule", "because",
)  # fmt: skip


def to_csv(assessment: Assessment) -> str:
    """The text of ``recist.csv``: a row a lesion and time point (0: baseline), sum or decision.

    The last columns quote the rule, and the numbers that it was given.
    """
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, CSV_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(_csv_rows(assessment))
    return out.getvalue()


def _csv_rows(a: Assessment) -> Iterator[dict[str, object]]:
    for lesion in a.lesions:
        row = _csv_lesion(lesion, lesion.baseline)
        yield {**row, "followup": 0, "day": 0, **_quoted(lesion.rule, lesion.because)}
    if a.baseline_sum_mm is not None:
        value = mm_text(a.baseline_sum_mm)
        row = {"followup": 0, "day": 0, "kind": "sum", "value": value, "unit": "mm"}
        yield {**row, **_quoted(rules.SUM, "")}
    for point in a.time_points:
        at: dict[str, object] = {
            "followup": point.followup,
            "day": "" if point.day is None else point.day,
        }
        for lesion, m in zip(a.lesions, point.measurements, strict=True):
            if lesion.part is not Part.NORMAL_NODE:
                note = "; ".join([*lesion.needs(m), *([m.note] if m.note else [])])
                yield {**at, **_csv_lesion(lesion, m), **_quoted(rule_of(lesion, m), note)}
        for row in _csv_point(point):
            yield {**at, **row}
    for kind, decided in (("best_response", a.best), ("confirmed_best_response", a.confirmed)):
        if decided is not None:
            yield {**_csv_decided(kind, decided), "preliminary": _yes(a.preliminary)}


def _csv_lesion(lesion: FollowedLesion, m: Measurement) -> dict[str, object]:
    state = m.state.value
    if lesion.part is Part.NON_TARGET:
        state = _presence(lesion, m).value
    return {
        "kind": lesion.part.value,
        "item": lesion.id,
        "site": lesion.site,
        "nodal": _yes(lesion.nodal),
        "value": "" if m.diameter_mm is None else mm_text(m.diameter_mm),
        "unit": "mm",
        "state": state,
        "marks": " ".join(marks(lesion, m)),
    }


def _csv_point(point: TimePoint) -> Iterator[dict[str, object]]:
    for new in point.new_lesions:
        rule = rules.NEW_EQUIVOCAL if new.certainty.value == "equivocal" else rules.NEW
        row = {"kind": "new_lesion", "item": new.id, "site": new.site}
        yield {**row, "state": new.certainty.value, **_quoted(rule, new.note)}
    sums = point.sums
    if sums.sum_mm is not None:
        row = {"kind": "sum", "value": mm_text(sums.sum_mm), "unit": "mm"}
        yield {**row, **_quoted(rules.SUM, "")}
    for kind, value in (
        ("change_from_baseline", sums.from_baseline_percent),
        ("change_from_nadir", sums.from_nadir_percent),
    ):
        if value is not None:
            shown = percent_text(value).removesuffix(" %")
            yield {"kind": kind, "value": shown, "unit": "%"}
    yield _csv_decided("target_response", point.target)
    yield _csv_decided("non_target_response", point.non_target)
    overall = _csv_decided("overall_response", point.overall)
    yield {**overall, "preliminary": _yes(point.preliminary)}


def _csv_decided(kind: str, decided: Decided) -> dict[str, object]:
    quoted = _quoted(decided.rule, decided.because)
    return {"kind": kind, "value": decided.response.value, **quoted}


def _quoted(rule: Rule, because: str) -> dict[str, str]:
    return {"rule_section": rule.cited, "rule": rule.text, "because": because}


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def cell(lesion: FollowedLesion, m: Measurement) -> Cell:
    """A lesion at a time point, as the table shows it."""
    value = "" if m.diameter_mm is None else mm_text(m.diameter_mm)
    if lesion.part is Part.NON_TARGET:
        word = PRESENCE_WORDS[_presence(lesion, m)]
        text = f"{word}, {value}" if value and m.state is not State.GONE else word
    elif m.state is State.MERGED:
        text = f"with {m.merged_into}"
    else:
        text = value or STATE_WORDS.get(m.state, m.state.value)
    parts = " + ".join(mm_text(part) for part in m.parts_mm)
    open_ = lesion.needs(m)
    rule = rule_of(lesion, m)
    why = "; ".join([f"{rule.cited}: {rule.text}", *open_, *([m.note] if m.note else [])])
    return Cell(text, parts, marks(lesion, m), why, bool(open_))


def _presence(lesion: FollowedLesion, m: Measurement) -> Presence:
    """What is said of a non-target, which was there at baseline, measured or not."""
    return Presence.PRESENT if m is lesion.baseline else presence(m, lesion.nodal)


def rule_of(lesion: FollowedLesion, m: Measurement) -> Rule:
    """The rule that decides what a lesion counts as."""
    plain = (State.MEASURED, State.PRESENT, State.UNMEASURED, State.TOO_SMALL, State.GONE)
    return rules.PRESENCE if lesion.part is Part.NON_TARGET and m.state in plain else m.rule


def marks(lesion: FollowedLesion, m: Measurement) -> tuple[str, ...]:
    """The marks of a lesion at a time point, in the order of the legend."""
    uncounted = m.state is State.UNMEASURED and not lesion.needs(m)
    found = [MARKS[m.state][0]] if m.state in MARKS and not uncounted else []
    if m.state is State.MEASURED and m.by == "reader":
        found.append("r")
    elif m.state is State.MEASURED and not m.seen and not m.from_radius:
        found.append("a")
    if m.state is State.MEASURED and m.from_radius:
        found.append("b")
    return (*found, *(("d",) if m.doubtful else ()))


def legend(assessment: Assessment) -> list[tuple[str, Rule]]:
    """The marks that occur, each with its rule."""
    pairs = [(lesion, lesion.baseline) for lesion in assessment.lesions]
    for point in assessment.time_points:
        pairs += [
            (lesion, m)
            for lesion, m in zip(assessment.lesions, point.measurements, strict=True)
            if lesion.part is not Part.NORMAL_NODE
        ]
    used = {mark for lesion, m in pairs for mark in marks(lesion, m)}
    known = [("a", UNSEEN), ("b", FROM_RADIUS), ("r", READER), ("d", DOUBTFUL), *MARKS.values()]
    return [(mark, rule) for mark, rule in known if mark in used]


def decisions(point: TimePoint) -> list[tuple[str, Decided]]:
    """The decisions at a time point, as the page lists them."""
    listed: Sequence[tuple[str, Decided]] = (
        ("Targets", point.target),
        ("Non-targets", point.non_target),
        ("Overall", point.overall),
    )
    return [(name, d) for name, d in listed if d.response is not Response.NOT_APPLICABLE]
