"""A lesion as a file gives it, before it is checked; shared by the readers of every format."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tlt.errors import InputError
from tlt.geometry import Points, Triple
from tlt.io.dicom_codes import valid_uid
from tlt.lesion import Lesion, Match, Role, Size, Status
from tlt.volume import Volume

LOW = "(low confidence)"  # ends the label of a lesion that was found so
NOTES = re.compile(r"(center_mm|radius_mm|outline|doubtful|tracking_uid)=([^;]*)")


@dataclass(frozen=True)
class Origin:
    """Who drew a lesion, in DICOM's words: MANUAL, SEMIAUTOMATIC or AUTOMATIC, and the program."""

    kind: str = "MANUAL"
    program: str = ""


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
        size, site, nodal, role: as in `Lesion`, where the file tells them.
        extent: its voxels (1 inside, 0 outside) on a grid of their own; None where it has none.
        origin: who drew it; a person where the file does not tell.
        status, confidence: of what tlt has tracked and no reader decided on; None and 0 else.
    """

    where: str
    id: str
    center_mm: Points
    radius_mm: float | None = None
    label: str = ""
    tracking_uid: str = ""
    frame: str = "LPS"
    size: Size | None = None
    site: str = ""
    nodal: bool = False
    role: Role = Role.UNDECIDED
    extent: Volume | None = None
    origin: Origin = Origin()
    status: Status | None = None
    confidence: float = 0.0


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


def triple(point: Points) -> Triple:
    """A point (3,) as plain numbers."""
    x, y, z = point.tolist()
    return x, y, z


def notes_of(text: str) -> dict[str, str]:
    """The notes that we leave in a description, as ``key=value; ...``.

    The label comes last, since it may hold anything.

    >>> notes_of("radius_mm=9; label=a; b=c")
    {'radius_mm': '9', 'label': 'a; b=c'}
    """
    before, found, label = text.partition("label=")
    notes = {key: value.strip() for key, value in NOTES.findall(before)}
    return {**notes, "label": label.strip()} if found else notes


def without_remark(label: str) -> str:
    """A label without the remark that the lesion was found with low confidence.

    >>> without_remark("node (low confidence)")
    'node'
    """
    while label.endswith(LOW):
        label = label.removesuffix(LOW).rstrip()
    return label


def origin_of(item: Lesion | Match) -> Origin:
    """Who drew what tlt tracked: the program, or a reader with its help."""
    drawn = item.size is not None and item.size.by_reader
    return Origin("SEMIAUTOMATIC" if drawn else "AUTOMATIC", "tlt")


def with_unique_ids(rows: list[Row]) -> list[Row]:
    """The rows, without the ids that several of them have: those are numbered instead."""
    counts = Counter(" ".join(row.id.split()) for row in rows)
    return [row if counts[" ".join(row.id.split())] == 1 else replace(row, id="") for row in rows]


def placed(items: Sequence[Lesion | Match]) -> list[tuple[int, Lesion]]:
    """Lesions where they were found, each with the number of its place in ``items`` (from 1).

    A match that was not found or lies outside the field of view is left out: a point in a viewer
    would say that something is there. A label says where the confidence is low. A Tracking UID that
    is none becomes one.
    """
    found = []
    for count, item in enumerate(items, 1):
        if isinstance(item, Lesion):
            found.append((count, item))
        elif item.center_mm is not None and item.status is not Status.NOT_FOUND:
            lesion, sure = item.lesion, item.status is Status.FOUND
            label = without_remark(lesion.label)
            label = label if sure else f"{label} {LOW}".strip()
            size = item.size
            sure_size = size is not None and not size.doubtful
            measured = size.long_axis.length_mm / 2 if size and sure_size else None
            radius = item.radius_mm or measured or lesion.radius_mm
            here = replace(
                lesion, center_mm=item.center_mm, radius_mm=radius, label=label, size=item.size
            )
            found.append((count, here))
    return [(n, replace(x, tracking_uid=str(valid_uid(x.tracking_uid)))) for n, x in found]
