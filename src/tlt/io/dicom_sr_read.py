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
from tlt.lesion import Axis, Role, Size

MAX_DEPTH = 20
NEAR_MM = 15.0
TO_MM = {"mm": 1.0, "cm": 10.0, "m": 1000.0}
TO_MM3 = {"mm3": 1.0, "cm3": 1e3, "ml": 1e3, "mL": 1e3}
FREE_TEXT = "CORNERSTONEFREETEXT"

log = logging.getLogger(__name__)


def read_sr(dataset: Dataset, name: str, references: References | None) -> list[Row]:
    """The lesions of a SR; ``references`` are the baseline's images, None where it is not DICOM.

    Groups that mark another series are left out, with a warning. Raises InputError when the SR has
    no measurement groups, or none that marks the baseline.
    """
    groups = _merged([group for group in _groups(dataset) if group])
    if not groups:
        raise InputError(
            f"{name}: a SR without measurement groups (TID 1500); "
            "give a measurement report with marked lesions"
        )
    rows, reasons = [], Counter[str]()
    for count, items in enumerate(groups, 1):
        try:
            rows.append(_row(items, f"{name}: measurement group {count}", references))
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


def _groups(dataset: Dataset, depth: int = 0) -> Iterator[list[Dataset]]:
    """The content items of every measurement group."""
    for item in dataset.get("ContentSequence") or []:
        if code_of(item.get("ConceptNameCodeSequence")) == known.MEASUREMENT_GROUP:
            yield list(item.get("ContentSequence") or [])
        elif depth < MAX_DEPTH:
            yield from _groups(item, depth + 1)


def _merged(groups: list[list[Dataset]]) -> list[list[Dataset]]:
    """Groups of one Tracking UID as one, as they tell of one lesion."""
    merged: dict[object, list[Dataset]] = {}
    for count, items in enumerate(groups):
        merged.setdefault(tracking_uid(items) or count, []).extend(items)
    return list(merged.values())


def _row(items: list[Dataset], where: str, references: References | None) -> Row:
    tool, id_ = _tool_and_id(text_of(items, known.TRACKING_ID))
    shapes = shapes_of(items, references)
    arrow = tool == "ArrowAnnotate"
    size = None if arrow else _size(items, shapes.lines)
    center, radius = _place(items, shapes, size, arrow)
    center = _exact(items, center)
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


def _exact(items: list[Dataset], center: Points) -> Points:
    """The centre that our profile for OHIF keeps beside a pixel; not where the mark has moved."""
    numbers = re.findall(r"-?\d+\.\d+", text_of(items, known.EXACT_CENTER.value))
    exact = np.array(numbers[:3], float)
    return exact if len(exact) == 3 and np.linalg.norm(exact - center) <= NEAR_MM else center


def _middle(axis: Axis) -> Points:
    return (np.array(axis.start_mm) + np.array(axis.end_mm)) / 2


def _number(items: list[Dataset], names: Sequence[str], factors: dict[str, float]) -> float | None:
    """The first number of one of the names, in millimetres; None without one."""
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
