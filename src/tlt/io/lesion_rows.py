"""A lesion as a file gives it, before it is checked; shared by the readers of every format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tlt.errors import InputError
from tlt.geometry import Points
from tlt.lesion import Lesion, Match, Size, Status


@dataclass(frozen=True, eq=False)
class Row:
    """One lesion of a file.

    Attributes:
        where: the place in the file, for messages: "line 3".
        id: its name there; empty if it has none.
        center_mm: LPS centre (3,), finite or not.
        radius_mm: its radius; None where the file has none.
        label, tracking_uid: as in `Lesion`; empty if the file has none.
        frame: what the file's coordinates were: LPS, RAS or VOXEL.
        size: its diameters; None where the file has none.
    """

    where: str
    id: str
    center_mm: Points
    radius_mm: float | None = None
    label: str = ""
    tracking_uid: str = ""
    frame: str = "LPS"
    size: Size | None = None


def number(value: object, where: str, what: str) -> float:
    """The number in a text or JSON value; raises InputError that names the place."""
    try:
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            return float(value)
    except (ValueError, OverflowError):
        pass
    raise InputError(f"{where}: {what} is {value!r}, not a number; write it as 12.5")


def numbers(value: object, count: int, where: str, what: str) -> Points:
    """The ``count`` numbers of a JSON list; raises InputError that names the place."""
    if not isinstance(value, list) or len(value) != count:
        raise InputError(f"{where}: {what} is {value!r}; it must be a list of {count} numbers")
    return np.array([number(entry, where, what) for entry in value])


def to_lps(point: Points, frame: str) -> Points:
    """The LPS point of an LPS or RAS point."""
    return point * (-1, -1, 1) if frame == "RAS" else point


def placed(items: Sequence[Lesion | Match]) -> list[tuple[int, Lesion]]:
    """Lesions where they were found, each with the number of its place in ``items`` (from 1).

    A match that was not found or lies outside the field of view is left out: a point in a viewer
    would say that something is there.
    """
    found = []
    for count, item in enumerate(items, 1):
        if isinstance(item, Lesion):
            found.append((count, item))
        elif item.center_mm is not None and item.status is not Status.NOT_FOUND:
            lesion, sure = item.lesion, item.status is Status.FOUND
            label = lesion.label if sure else f"{lesion.label} (low confidence)".strip()
            radius = item.radius_mm or lesion.radius_mm
            uid = lesion.tracking_uid
            found.append((count, Lesion(lesion.id, item.center_mm, radius, label, uid)))
    return found
