"""Lesions of a DICOM SR after TID 1500: measurement groups with points, lines or outlines.

Also what OHIF and Cornerstone write (Length, Bidirectional, ArrowAnnotate, regions), whose tracking
identifiers name the tool. Pixel coordinates (SCOORD) need the baseline's DICOM series; points in
space (SCOORD3D) need it only for the check of the frame of reference.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from tlt.errors import InputError
from tlt.geometry import Points
from tlt.io import dicom_codes as known
from tlt.io.dicom_references import References
from tlt.io.dicom_sr_items import (
    code_of,
    meaning_of,
    name_code,
    text_of,
    tracking_uid,
    value_type,
    with_inner,
)
from tlt.io.dicom_sr_shapes import Shapes, Skipped, shapes_of
from tlt.io.lesion_rows import Origin, Row, triple, with_unique_ids
from tlt.lesion import Axis, Role, Size, Status

MAX_DEPTH = 20
APART_MM = 15.0  # at least, by which marks of one Tracking UID are told to be far apart
SAME_PIXEL, SAME_MM = 0.05, 0.1  # by which a mark may differ that nobody has moved
TO_MM = {"mm": 1.0, "cm": 10.0, "m": 1000.0}
TO_MM3 = {"mm3": 1.0, "cm3": 1e3, "ml": 1e3, "mL": 1e3}
FREE_TEXT = "CORNERSTONEFREETEXT"

log = logging.getLogger(__name__)


def read_sr(dataset: Dataset, name: str, references: References | None) -> list[Row]:
    """The lesions of a SR; ``references`` are the baseline's images, None where it is not DICOM.

    Groups that mark another series are left out, with a warning. Raises InputError when the SR has
    no measurement groups, or none that marks the baseline.
    """
    parts = _by_lesion([group for group in _groups(dataset) if group])
    groups = [[item for group in own for item in group] for own in parts]
    if not groups:
        raise InputError(
            f"{name}: a SR without measurement groups (TID 1500); "
            "give a measurement report with marked lesions"
        )
    decided = any(name_code(i) == known.PERSON_OBSERVER for i in dataset.ContentSequence)
    rows, reasons = [], Counter[str]()
    for count, items in enumerate(groups, 1):
        try:
            row = _row(items, f"{name}: measurement group {count}", references)
            rows.append(row if decided else _with_status(row, items))
            _tell_apart(parts[count - 1], rows[-1], name, references)
        except Skipped as skipped:
            reasons[str(skipped)] += 1
    if not rows:
        raise InputError(f"{name}: {reasons.most_common(1)[0][0]}")
    for reason, count in reasons.items():
        log.warning("%s: %d measurement groups are left out: %s", name, count, reason)
    spatial = any(value_type(item) == "SCOORD3D" for items in groups for item in with_inner(items))
    if references is None and spatial:
        log.warning("%s: the baseline is not DICOM: its frame of reference is not checked", name)
    return with_unique_ids(rows)


def time_point_of(dataset: Dataset) -> int:
    """The latest Subject Time Point of a SR's groups; 0 where it does not count time points."""
    told = [text_of(items, known.TIME_POINT) for items in _groups(dataset)]
    return max((int(text) for text in told if re.fullmatch(r"\d{1,3}", text)), default=0)


def _groups(dataset: Dataset, depth: int = 0) -> Iterator[list[Dataset]]:
    """The content items of every measurement group."""
    for item in dataset.get("ContentSequence") or []:
        if code_of(item.get("ConceptNameCodeSequence")) == known.MEASUREMENT_GROUP:
            yield list(item.get("ContentSequence") or [])
        elif depth < MAX_DEPTH:
            yield from _groups(item, depth + 1)


def _by_lesion(groups: list[list[Dataset]]) -> list[list[list[Dataset]]]:
    """The groups of each lesion: those of one Tracking UID tell of one."""
    lesions: dict[object, list[list[Dataset]]] = {}
    for count, items in enumerate(groups):
        lesions.setdefault(tracking_uid(items) or count, []).append(items)
    return list(lesions.values())


def _tell_apart(
    groups: list[list[Dataset]], row: Row, name: str, references: References | None
) -> None:
    """Warn where the groups of one lesion mark places that can hardly be one lesion."""
    places = []
    for items in groups if len(groups) > 1 else ():
        with suppress(Skipped):
            places.append(shapes_of(items, references).middle)
    away = max((float(np.linalg.norm(p - places[0])) for p in places), default=0.0)
    if away > max(APART_MM, 2 * (row.radius_mm or 0.0)):
        log.warning(
            "%s: %s: %d measurement groups of one Tracking UID mark places up to %.0f mm apart; "
            "they are taken as one lesion at the first; give each lesion its own",
            name,
            row.id or row.where.rsplit(": ", 1)[-1],
            len(groups),
            away,
        )


def _row(items: list[Dataset], where: str, references: References | None) -> Row:
    tool, id_ = _tool_and_id(text_of(items, known.TRACKING_ID))
    shapes = shapes_of(items, references)
    arrow = tool == "ArrowAnnotate"
    size = None if arrow else _size(items, shapes.lines)
    center, radius = _place(items, shapes, size, arrow)
    center = _exact(items, center, size, references)
    if size is None or size.doubtful:
        radius = _expected_radius(items) or radius
    return Row(
        where=where,
        id=id_,
        center_mm=center,
        radius_mm=radius,
        label=_label(items, id_),
        tracking_uid=tracking_uid(items),
        size=size,
        site=_site(items),
        nodal=_nodal(items),
        role=_role(items),
        origin=_origin(items, size),
    )


def _origin(items: list[Dataset], size: Size | None) -> Origin:
    """A status is only there where tlt looked for the lesion, whoever drew its axes."""
    if not any(name_code(item) == known.STATUS.value for item in items):
        return Origin()
    drawn = size is not None and size.by_reader
    return Origin("SEMIAUTOMATIC" if drawn else "AUTOMATIC", "tlt")


def _with_status(row: Row, items: list[Dataset]) -> Row:
    """The row with what tlt said of it, if it has tracked it."""
    said = {
        code_of(i.get("ConceptCodeSequence")) for i in items if name_code(i) == known.STATUS.value
    }
    status = next((status for status in Status if status.value in said), None)
    percent = _number(items, (known.CERTAINTY.value,), {"%": 0.01})
    return row if status is None else replace(row, status=status, confidence=percent or 0.0)


def _tool_and_id(identifier: str) -> tuple[str, str]:
    """The tool that a tracking identifier of Cornerstone names, and what is left as an id.

    >>> _tool_and_id("Cornerstone3DTools@^0.1.0:Bidirectional:L 1"), _tool_and_id("node A")
    (('Bidirectional', 'L 1'), ('', 'node A'))
    """
    match = re.match(r"cornerstone\w*@[^:]*:([^:]*):?(.*)", identifier, re.IGNORECASE | re.DOTALL)
    return (match[1], match[2].strip()) if match else ("", identifier.strip())


def _size(items: list[Dataset], lines: list[tuple[str, NDArray]]) -> Size | None:
    """The axes that a group draws: those named so, else its longest line."""
    if not lines:
        return None
    named = dict(reversed(lines))
    longest = max((ends for _, ends in lines), key=lambda ends: np.linalg.norm(ends[1] - ends[0]))
    long = next((named[c] for c in known.LONG_NAMES if c in named), longest)
    short = next((named[c] for c in known.SHORT_NAMES if c in named), None)
    if np.linalg.norm(long[1] - long[0]) == 0:
        return None
    quality = {code_of(i.get("ConceptCodeSequence")) for i in items if value_type(i) == "CODE"}
    return Size(
        long_axis=_axis(long),
        short_axis=None if short is None else _axis(short),
        volume_mm3=_number(items, known.VOLUME_NAMES, TO_MM3),
        by_reader=not any(name_code(item) == known.ALGORITHM for item in items),
        doubtful=known.DOUBTFUL.value in quality,
    )


def _axis(ends: NDArray) -> Axis:
    return Axis(triple(ends[0]), triple(ends[1]))


def _place(
    items: list[Dataset], shapes: Shapes, size: Size | None, arrow: bool
) -> tuple[Points, float | None]:
    """The centre and the radius: a point before an outline before the middle of the long axis."""
    if arrow and shapes.lines:
        return shapes.lines[0][1][0], None
    radius = max(shapes.radii) if shapes.radii else None
    if size is not None:
        radius = size.long_axis.length_mm / 2
    elif radius is None:
        names = (*known.DIAMETER_NAMES, *known.LONG_NAMES)
        diameter = _number(items, names, TO_MM)
        radius = diameter / 2 if diameter else None
    if shapes.points:
        return shapes.points[0], radius
    if shapes.centers:
        return shapes.centers[0], radius
    return shapes.lines[0][1].mean(0) if size is None else _middle(size.long_axis), radius


def _exact(
    items: list[Dataset], center: Points, size: Size | None, references: References | None
) -> Points:
    """The centre that our profile for OHIF keeps beside a mark; not where the mark has moved.

    The mark was at a pixel of the slice nearest to the centre, or it is the long axis, whose middle
    stands behind the centre.
    """
    numbers = re.findall(r"-?\d+\.\d+", text_of(items, known.EXACT_CENTER.value))
    exact, marked = np.array(numbers[:3], float), np.array(numbers[-3:], float)
    if len(numbers) != (3 if size is None else 6):
        return center
    now = center if size is None else _middle(size.long_axis)
    if references is None:
        return exact if np.abs(now - marked).max() <= SAME_MM else center
    away = np.abs(references.grid.mm_to_index(now) - references.grid.mm_to_index(marked))
    return exact if (away <= (0.5 + SAME_PIXEL, SAME_PIXEL, SAME_PIXEL)).all() else center


def _expected_radius(items: list[Dataset]) -> float | None:
    """The radius that tlt expected where it measured none without a doubt."""
    text = text_of(items, known.EXPECTED_RADIUS.value)
    return float(text) if re.fullmatch(r"\d+\.\d+", text) else None


def _middle(axis: Axis) -> Points:
    return (np.array(axis.start_mm) + np.array(axis.end_mm)) / 2


def _number(items: list[Dataset], names: Sequence[str], factors: dict[str, float]) -> float | None:
    """The first number of one of the names, times its unit's factor; None without one."""
    for item in items:
        if value_type(item) == "NUM" and name_code(item) in names and item.MeasuredValueSequence:
            measured = item.MeasuredValueSequence[0]
            unit = code_of(measured.get("MeasurementUnitsCodeSequence"))
            value = float(measured.NumericValue)
            if unit in factors and np.isfinite(value) and value > 0:
                return value * factors[unit]
    return None


def _label(items: list[Dataset], id_: str) -> str:
    """The comment, Cornerstone's free text, or else the name of the finding or of the site."""
    comment = text_of(items, known.COMMENT)
    if comment:
        ours = f"{id_}: "
        return (
            "" if comment == id_ else comment[len(ours) :] if comment.startswith(ours) else comment
        )
    for item in items:
        if code_of(item.get("ConceptCodeSequence")) == FREE_TEXT:
            return meaning_of(item)
    findings = [i for i in items if name_code(i) == known.FINDING]
    names = [meaning_of(i) for i in findings if meaning_of(i).lower() != "lesion"]
    return next((name for name in (*names, _site(items)) if name), "")


def _sites(items: list[Dataset]) -> list[Dataset]:
    sites = [i for i in items if name_code(i) in known.FINDING_SITE]
    return [i for i in sites if code_of(i.get("ConceptCodeSequence")) != FREE_TEXT]


def _site(items: list[Dataset]) -> str:
    """The site by its name; that it is a lymph node is said elsewhere."""
    names = [
        meaning_of(item)
        for item in _sites(items)
        if code_of(item.get("ConceptCodeSequence")) not in known.NODE_CODES
    ]
    return next((name for name in names if name), "")


def _nodal(items: list[Dataset]) -> bool:
    said = [*_sites(items), *(i for i in items if name_code(i) == known.FINDING)]
    return any(
        code_of(i.get("ConceptCodeSequence")) in known.NODE_CODES
        or re.search(r"\blymph ?nod", meaning_of(i), re.IGNORECASE)
        for i in said
    )


def _role(items: list[Dataset]) -> Role:
    for item in items:
        if name_code(item) == known.ROLE.value:
            value = code_of(item.get("ConceptCodeSequence"))
            return Role(value) if value in {role.value for role in Role} else Role.UNDECIDED
    return Role.UNDECIDED
