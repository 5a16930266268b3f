"""The readers' entries for RECIST 1.1, from the events of a review.

Roles, sites, nodes, decisions and sizes are in the result already; here is what it has no place
for: days, diameters at baseline, judgements on a lesion at a time point, and new lesions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tlt.errors import InputError
from tlt.io.files import atomic_write
from tlt.io.results import Result
from tlt.recist.entries import ENTRIES, Entries, to_json
from tlt.review.state import Event, Kind, effective, replay

DIGEST = ".tlt-entries.sha256"  # of the entries that a review has written into the folder


def write_entries(entries: Entries, folder: Path) -> None:
    """Leave the entries for `tlt recist`, and a digest that tells them from a person's own."""
    text = to_json(entries)
    atomic_write(folder / DIGEST, _digest(text.encode()))
    atomic_write(folder / ENTRIES, text)


def entries_by_hand(folder: Path) -> bool:
    """Whether the folder has entries that no review has written, or that were changed since."""
    try:
        there = (folder / ENTRIES).read_bytes()
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        return (folder / DIGEST).read_text(encoding="utf-8") != _digest(there)
    except (OSError, ValueError):
        return True


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def entries_of(result: Result, events: Sequence[Event]) -> Entries:
    """What the readers entered and did not take back.

    Raises:
        InputError: entries contradict each other, as days that are not in order.
    """
    standing = [event for event in replay(events).last.values() if event.value is not None]
    points = [_time_point(standing, number) for number in range(1, len(result.followups) + 1)]
    content = {
        "reader": ", ".join(_readers(events)),
        "lesions": {
            event.lesion_id: {"diameter_mm": event.value}
            for event in standing
            if event.kind is Kind.DIAMETER
        },
        "time_points": [point for point in points if len(point) > 1],
    }
    try:
        return Entries.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InputError(first["msg"].removeprefix("Value error, ")) from None


def _time_point(standing: Sequence[Event], number: int) -> dict[str, Any]:
    """What was entered of a follow-up."""
    point: dict[str, Any] = {"followup": number}
    here = sorted((event for event in standing if event.followup == number), key=lambda e: e.seq)
    days = [event.value for event in here if event.kind is Kind.DAY]
    lesions = {event.lesion_id: event.value for event in here if event.kind is Kind.FINDING}
    new = [{"id": e.lesion_id, **e.value} for e in here if e.kind is Kind.NEW_LESION]
    if days:
        point["day"] = days[0]
    if lesions:
        point["lesions"] = lesions
    if new:
        point["new_lesions"] = new
    return point


def _readers(events: Sequence[Event]) -> list[str]:
    """Who decided or entered something that stands, the first first."""
    return list(dict.fromkeys(event.by for event in effective(events)))
