"""What readers decided, as a pure function of the events that they caused.

An event is never changed or taken back: an undo is one more event, which names the one that it
undoes. The state is what the events that are not undone say, each of the last for its subject.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeAlias

from pydantic import BaseModel, ValidationError

from tlt.errors import InputError
from tlt.geometry import Triple
from tlt.io.results import Decision, LesionResult, Result
from tlt.lesion import Role, Status
from tlt.recist.entries import Finding, NewLesionEntry

STUDY = ""  # stands for the study itself where an event needs a lesion
MAX_TEXT = 500
MAX_ID = 40
MAX_DAY = 36500
MAX_NAME = 80
MIN_AXIS_MM, MAX_AXIS_MM = 1.0, 500.0


class Kind(str, Enum):
    """What an event does. The first four are a reader's decisions on a match.

    ``diameter``, ``finding``, ``new_lesion`` and ``day`` are entries for RECIST 1.1.
    """

    ACCEPTED = "accepted"
    MOVED = "moved"
    REJECTED = "rejected"
    LOST = "lost"
    SIZE = "size"
    NOTE = "note"
    ROLE = "role"
    SITE = "site"
    NODAL = "nodal"
    DIAMETER = "diameter"
    FINDING = "finding"
    NEW_LESION = "new_lesion"
    DAY = "day"
    UNDONE = "undone"

    @property
    def decision(self) -> Decision | None:
        """The decision that the event is, if it is one."""
        return Decision(self.value) if self.value in set(Decision) else None

    @property
    def of_lesion(self) -> bool:
        """Whether it says something of the lesion at every time point, not of one match."""
        return self in (Kind.ROLE, Kind.SITE, Kind.NODAL, Kind.DIAMETER)

    @property
    def for_recist(self) -> bool:
        """Whether it is an entry for RECIST alone, which result.json has no place for."""
        return self in (Kind.DIAMETER, Kind.FINDING, Kind.NEW_LESION, Kind.DAY)


@dataclass(frozen=True)
class Draft:
    """What a reader wants to be so.

    Attributes:
        kind: what happens.
        lesion_id: the lesion; a name of its own for a new one; `STUDY` for the day of a follow-up.
        followup: number of the follow-up from 1; None for what holds at every time point.
        value: ``center_mm`` (LPS) and ``size`` (what was measured there, or None) for `MOVED`,
            which the page sends as the bare centre; the ends of ``long_axis`` and ``short_axis``
            (or None) for `SIZE`; text for note, role and site; whether a node for `NODAL`; number
            of the event for `UNDONE`; for `DIAMETER` that at baseline in mm, for `FINDING` and
            `NEW_LESION` what `tlt.review.entries` takes, for `DAY` days from baseline, each None to
            take the entry back; otherwise None.
    """

    kind: Kind
    lesion_id: str
    followup: int | None = None
    value: Any = None


@dataclass(frozen=True)
class Event(Draft):
    """A draft that was saved: its number, when (ISO 8601, UTC) and by whom."""

    seq: int = 0
    at: str = ""
    by: str = ""


Subject: TypeAlias = tuple[str, int | None, str]


@dataclass(frozen=True)
class State:
    """What holds now.

    Attributes:
        last: the event that decides each subject (lesion, follow-up, matter).
        versions: number of the last event of each lesion, undo included; 0 is left out.
        drawn_at: where a reader had moved the lesion when the axes that decide were drawn, in mm
            (LPS); None where it was as tracked.
    """

    last: dict[Subject, Event] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    drawn_at: dict[tuple[str, int | None], Triple | None] = field(default_factory=dict)

    def decided(self, lesion_id: str, followup: int) -> Event | None:
        """The event that decided on a match, if any."""
        return self.last.get((lesion_id, followup, "decision"))

    def moved_to(self, lesion_id: str, followup: int | None) -> Triple | None:
        """Where a reader has moved a match, in mm (LPS); None where it is not moved."""
        event = self.last.get((lesion_id, followup, "decision"))
        if event is None or event.kind is not Kind.MOVED:
            return None
        x, y, z = event.value["center_mm"]
        return x, y, z

    def said(self, lesion_id: str, matter: Kind, followup: int | None = None) -> Any:
        """The note, role, site or nodal that a reader gave; None if none did."""
        event = self.last.get((lesion_id, followup, matter.value))
        return None if event is None else event.value

    def version(self, lesion_id: str) -> int:
        """Number of the last event of a lesion; 0 before the first."""
        return self.versions.get(lesion_id, 0)


def subject(draft: Draft) -> Subject:
    """What a draft is about: later events on the same replace it."""
    matter = "decision" if draft.kind.decision else draft.kind.value
    return draft.lesion_id, draft.followup, matter


def replay(events: Sequence[Event]) -> State:
    """The state after events in the order of their numbers."""
    state = State(versions={event.lesion_id: event.seq for event in events})
    for event in effective(events):
        state.last[subject(event)] = event
        if event.kind is Kind.SIZE:
            place = event.lesion_id, event.followup
            state.drawn_at[place] = state.moved_to(*place)
    return state


def effective(events: Sequence[Event]) -> list[Event]:
    """The events that were neither undone nor undo another."""
    undone = {event.value for event in events if event.kind is Kind.UNDONE}
    return [e for e in events if e.kind is not Kind.UNDONE and e.seq not in undone]


def undo_of(events: Sequence[Event], by: str) -> Draft:
    """The draft that undoes a reader's last event that still stands.

    Raises:
        InputError: there is none, or another reader has decided on the same since.
    """
    standing = effective(events)
    own = [event for event in standing if event.by == by]
    if not own:
        raise InputError("there is nothing of yours to undo")
    event = own[-1]
    later = [e for e in standing if e.seq > event.seq and _rests_on(e, event)]
    if later:
        raise InputError(
            f"{later[-1].by} has changed {event.lesion_id} since ({later[-1].kind.value}); "
            "decide on it anew instead of undoing"
        )
    return Draft(Kind.UNDONE, event.lesion_id, event.followup, event.seq)


def _rests_on(later: Event, event: Event) -> bool:
    """Whether an event decides on the same as an earlier one, or was drawn where that moved it."""
    drawn_there = event.kind is Kind.MOVED and later.kind is Kind.SIZE
    same_match = (later.lesion_id, later.followup) == (event.lesion_id, event.followup)
    return subject(later) == subject(event) or (drawn_there and same_match)


def checked(draft: Draft, result: Result) -> Draft:
    """The draft with its value in its proper form.

    Raises:
        InputError: no such lesion or follow-up, a value that cannot be, or a decision that has no
            meaning for a lesion out of view.
    """
    lesion_id, count = draft.lesion_id, len(result.followups)
    if draft.kind.of_lesion != (draft.followup is None):
        raise InputError(f"{draft.kind.value}: follow-up {draft.followup} makes no sense here")
    if draft.followup is not None and not 1 <= draft.followup <= count:
        raise InputError(f"follow-up {draft.followup}: there are {count}; reload the page")
    lesion = next((one for one in result.lesions if one.id == lesion_id), None)
    if draft.kind is Kind.NEW_LESION:
        lesion_id = _new_id(lesion_id, lesion)
    elif draft.kind is Kind.DAY:
        lesion_id = STUDY
    elif lesion is None:
        raise InputError(f"lesion '{lesion_id}': not in this study; reload the page")
    else:
        _check_rejection(draft, lesion)
    value = _VALUES.get(draft.kind, _nothing)(draft.value)
    return Draft(draft.kind, lesion_id, draft.followup, value)


def _new_id(name: str, lesion: LesionResult | None) -> str:
    name = " ".join(name.split())
    if not name or len(name) > MAX_ID or not name.isprintable():
        raise InputError(f"the name of a new lesion has 1 to {MAX_ID} letters, such as X1")
    if lesion is not None:
        raise InputError(f"{name} is a lesion of the baseline; give the new one another name")
    return name


def _check_rejection(draft: Draft, lesion: LesionResult) -> None:
    if draft.kind is not Kind.REJECTED or draft.followup is None:
        return
    if lesion.followups[draft.followup - 1].status is Status.OUTSIDE_FOV:
        raise InputError(
            f"{draft.lesion_id} has no position to reject: it is outside the field of view; "
            "move it to where you see it, or mark it lost"
        )


def reader_name(text: str) -> str:
    """A reader's name without line breaks; raises `InputError` where there is none."""
    name = " ".join(text.split())
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise InputError(f"a reader's name has 1 to {MAX_NAME} letters; give yours")
    return name


def _point(value: Any) -> Triple:
    try:
        x, y, z = (float(v) for v in value)
    except (TypeError, ValueError):
        raise InputError(f"a centre is three numbers in mm, got {value!r}") from None
    if not all(math.isfinite(v) and abs(v) < 1e5 for v in (x, y, z)):
        raise InputError(f"a centre is three numbers in mm, got {value!r}")
    return round(x, 3), round(y, 3), round(z, 3)


def _place(value: Any) -> dict[str, Any]:
    return {"center_mm": _point(value), "size": None}


def _axes(value: Any) -> dict[str, list[Triple] | None]:
    if not isinstance(value, dict) or not set(value) <= {"long_axis", "short_axis"}:
        raise InputError(f"a size is a long_axis and a short_axis, got {value!r}")
    return {
        "long_axis": _axis(value.get("long_axis")),
        "short_axis": None if value.get("short_axis") is None else _axis(value["short_axis"]),
    }


def _axis(value: Any) -> list[Triple]:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise InputError(f"an axis has two ends, got {value!r}")
    start, end = _point(value[0]), _point(value[1])
    length_mm = math.dist(start, end)
    if not MIN_AXIS_MM <= length_mm <= MAX_AXIS_MM:
        raise InputError(
            f"an axis of {length_mm:.1f} mm cannot be; give {MIN_AXIS_MM:g} to {MAX_AXIS_MM:g} mm"
        )
    return [start, end]


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise InputError(f"a text has at most {MAX_TEXT} letters")
    return " ".join(value.split())


def _role(value: Any) -> str:
    try:
        return Role(value).value
    except ValueError:
        raise InputError(f"role '{value}': use one of {', '.join(Role)}") from None


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"nodal is true or false, got {value!r}")
    return value


def _diameter(value: Any) -> float | None:
    if value is None:
        return None
    number = not isinstance(value, bool) and isinstance(value, (int, float))
    if not number or not MIN_AXIS_MM <= value <= MAX_AXIS_MM:
        raise InputError(
            f"a diameter has {MIN_AXIS_MM:g} to {MAX_AXIS_MM:g} mm at baseline, got {value!r}"
        )
    return float(value)


def _day(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_DAY:
        raise InputError(f"a day is a whole number from 0, counted from baseline, got {value!r}")
    return value


def _finding(value: Any) -> dict[str, Any] | None:
    return None if value is None else _parsed(Finding, value)


def _new_lesion(value: Any) -> dict[str, Any] | None:
    """Without its id, which is the event's lesion."""
    if value is None:
        return None
    if not isinstance(value, dict):
        raise InputError(f"a new lesion has a certainty and a site, got {value!r}")
    told = _parsed(NewLesionEntry, {**value, "id": "X", "site": _text(value.get("site", ""))})
    return {key: one for key, one in told.items() if key != "id"}


def _parsed(model: type[BaseModel], value: Any) -> dict[str, Any]:
    """The entry as plain values; raises `InputError` with the first thing that is wrong."""
    try:
        entry = model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        words = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{place}: {words}" if place else words) from None
    told = entry.model_dump(mode="json", exclude_defaults=True)
    _text(told.get("note", ""))
    return told


def _nothing(value: Any) -> None:
    if value is not None:
        raise InputError(f"this decision takes no value, got {value!r}")


def _number(value: Any) -> int:
    if not isinstance(value, int):
        raise InputError(f"an undo names the number of an event, got {value!r}")
    return value


_VALUES = {
    Kind.MOVED: _place,
    Kind.SIZE: _axes,
    Kind.NOTE: _text,
    Kind.SITE: _text,
    Kind.ROLE: _role,
    Kind.NODAL: _truth,
    Kind.DIAMETER: _diameter,
    Kind.FINDING: _finding,
    Kind.NEW_LESION: _new_lesion,
    Kind.DAY: _day,
    Kind.UNDONE: _number,
}
