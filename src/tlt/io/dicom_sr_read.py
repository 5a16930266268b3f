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
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from scipy.spatial.distance import pdist

from tlt.errors import InputError
from tlt.geometry import Points
from tlt.io import dicom_codes as known
from tlt.io.dicom_references import References
from tlt.io.lesion_rows import Row, triple, with_unique_ids
from tlt.lesion import Axis, Role, Size

MAX_DEPTH = 20
MAX_POINTS = 20_000
FAR = 1e6  # mm or pixels; also false for NaN
NEAR_MM = 15.0
TO_MM = {"mm": 1.0, "cm": 10.0, "m": 1000.0}
TO_MM3 = {"mm3": 1.0, "cm3": 1e3, "ml": 1e3, "mL": 1e3}
FREE_TEXT = "CORNERSTONEFREETEXT"

log = logging.getLogger(__name__)


class _Skipped(Exception):
    """A measurement group that does not mark the baseline, and why."""


@dataclass
class _Shapes:
    """What a group draws, in LPS millimetres."""

    points: list[NDArray] = field(default_factory=list)
    lines: list[tuple[str, NDArray]] = field(default_factory=list)  # the code of its number first
    centers: list[NDArray] = field(default_factory=list)
    radii: list[float] = field(default_factory=list)


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
        except _Skipped as skipped:
            reasons[str(skipped)] += 1
    if not rows:
        raise InputError(f"{name}: {reasons.most_common(1)[0][0]}")
    for reason, count in reasons.items():
        log.warning("%s: %d measurement groups are left out: %s", name, count, reason)
    spatial = any(_value_type(item) == "SCOORD3D" for items in groups for item in _inner(items))
    if references is None and spatial:
        log.warning("%s: the baseline is not DICOM: its frame of reference is not checked", name)
    return with_unique_ids(rows)


def _groups(dataset: Dataset, depth: int = 0) -> Iterator[list[Dataset]]:
    """The content items of every measurement group."""
    for item in dataset.get("ContentSequence") or []:
        if _code(item.get("ConceptNameCodeSequence")) == known.MEASUREMENT_GROUP:
            yield list(item.get("ContentSequence") or [])
        elif depth < MAX_DEPTH:
            yield from _groups(item, depth + 1)


def _merged(groups: list[list[Dataset]]) -> list[list[Dataset]]:
    """Groups of one Tracking UID as one, as they tell of one lesion."""
    merged: dict[object, list[Dataset]] = {}
    for count, items in enumerate(groups):
        merged.setdefault(_uid(items) or count, []).extend(items)
    return list(merged.values())


def _row(items: list[Dataset], where: str, references: References | None) -> Row:
    tool, id_ = _tool_and_id(_text(items, known.TRACKING_ID))
    shapes = _shapes(items, references)
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
        tracking_uid=_uid(items),
        size=size,
        site=_site(items),
        nodal=_nodal(items),
        role=_role(items),
    )


def _tool_and_id(identifier: str) -> tuple[str, str]:
    """The tool that a tracking identifier of Cornerstone names, and what is left as an id.

    >>> _tool_and_id("Cornerstone3DTools@^0.1.0:Bidirectional:L 1"), _tool_and_id("node A")
    (('Bidirectional', 'L 1'), ('', 'node A'))
    """
    match = re.match(r"cornerstone\w*@[^:]*:([^:]*):?(.*)", identifier, re.IGNORECASE | re.DOTALL)
    return (match[1], match[2].strip()) if match else ("", identifier.strip())


def _shapes(items: list[Dataset], references: References | None) -> _Shapes:
    shapes = _Shapes()
    reasons: list[str] = []
    for name, item in _drawn(items):
        try:
            _add(shapes, name, str(item.get("GraphicType")), _points_mm(item, references))
        except _Skipped as skipped:
            reasons.append(str(skipped))
    if shapes.points or shapes.lines or shapes.centers:
        return shapes
    if reasons:
        raise _Skipped(reasons[0])
    raise _Skipped(
        "no coordinates in it (it may refer to a SEG); give that object, or mark the lesions"
    )


def _drawn(items: list[Dataset]) -> Iterator[tuple[str, Dataset]]:
    """The drawings of a group, each with the code of the number that is inferred from it."""
    for item in items:
        if _value_type(item).startswith("SCOORD"):
            if _code(item.get("ConceptNameCodeSequence")) not in ("TextPosition", "ControlPoints"):
                yield "", item
        elif _value_type(item) == "NUM":
            for inner in item.get("ContentSequence") or []:
                code = _code(inner.get("ConceptNameCodeSequence"))
                if _value_type(inner).startswith("SCOORD") and code != "ControlPoints":
                    yield _code(item.get("ConceptNameCodeSequence")), inner


def _points_mm(item: Dataset, references: References | None) -> Points:
    """The points (N, 3) of a drawing; raises `_Skipped` for one in another image or frame."""
    width = 3 if _value_type(item) == "SCOORD3D" else 2
    flat = np.array(item.GraphicData, float).ravel()
    if not 0 < flat.size <= width * MAX_POINTS or flat.size % width:
        raise _Skipped("coordinates that are no points; export it again")
    if not (np.abs(flat) < FAR).all():
        raise _Skipped("coordinates that are not finite; export it again")
    if width == 3:
        frame = str(item.get("ReferencedFrameOfReferenceUID") or "")
        if references is not None and frame != references.frame_uid:
            raise _Skipped(
                "it marks points in another frame of reference than the baseline's; "
                "give the SR that belongs to this baseline"
            )
        return flat.reshape(-1, 3)
    return _in_image(item, flat.reshape(-1, 2), references)


def _in_image(item: Dataset, pixels: NDArray, references: References | None) -> Points:
    if references is None:
        raise _Skipped(
            "it marks pixels of DICOM images, but the baseline is not DICOM; "
            "give the baseline as its DICOM series"
        )
    images = [i for i in item.get("ContentSequence") or [] if "ReferencedSOPSequence" in i]
    if not images or not images[0].ReferencedSOPSequence:
        raise _Skipped("pixels without the image that they lie in; export it again")
    reference = images[0].ReferencedSOPSequence[0]
    frame = reference.get("ReferencedFrameNumber")
    frame = frame[0] if isinstance(frame, Sequence) and not isinstance(frame, str) else frame
    points = references.points_of(
        pixels, str(reference.get("ReferencedSOPInstanceUID")), int(frame) if frame else None
    )
    if points is None:
        raise _Skipped(
            "it marks images of another series than the baseline; "
            "give the series that was measured as the baseline"
        )
    return points


def _add(shapes: _Shapes, name: str, kind: str, points: Points) -> None:
    """Sort a drawing into the shapes by what it is."""
    count = len(points)
    if kind in ("POINT", "MULTIPOINT") or count == 1:
        shapes.points.append(points.mean(0))
    elif kind == "POLYLINE" and count == 2:
        shapes.lines.append((name, points))
    elif kind == "CIRCLE":
        shapes.centers.append(points[0])
        shapes.radii.append(float(np.linalg.norm(points[1] - points[0])))
    elif kind in ("ELLIPSE", "ELLIPSOID") and count >= 4:
        ends = points[: count // 2 * 2].reshape(-1, 2, 3)
        shapes.centers.append(ends[0].mean(0))
        order = np.argsort([-np.linalg.norm(b - a) for a, b in ends])
        if kind == "ELLIPSE":
            shapes.lines.append((known.LONG_NAMES[0], ends[order[0]]))
            shapes.lines.append((known.SHORT_NAMES[0], ends[order[1]]))
        shapes.radii.append(float(np.linalg.norm(np.diff(ends[order[0]], axis=0))) / 2)
    else:
        shapes.centers.append(outline_center(points))
        shapes.radii.append(float(pdist(points[:: max(1, count // 2000)]).max()) / 2)


def outline_center(points: Points) -> Points:
    """The centroid of the area (3,) of a plane outline (N, 3); of the points if it has no area."""
    middle = points.mean(0)
    spokes = points - middle
    cross = np.cross(spokes, np.roll(spokes, -1, 0))
    normal = cross.sum(0)
    area = float(np.linalg.norm(normal))
    if area < 1e-9:
        return middle
    weights = cross @ normal / area
    return middle + (weights[:, None] * (spokes + np.roll(spokes, -1, 0))).sum(0) / (3 * area)


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
    quality = {_code(i.get("ConceptCodeSequence")) for i in items if _value_type(i) == "CODE"}
    return Size(
        long_axis=_axis(long),
        short_axis=None if short is None else _axis(short),
        volume_mm3=_number(items, known.VOLUME_NAMES, TO_MM3),
        by_reader=not any(_name_code(item) == known.ALGORITHM for item in items),
        doubtful=known.DOUBTFUL.value in quality,
    )


def _axis(ends: NDArray) -> Axis:
    return Axis(triple(ends[0]), triple(ends[1]))


def _place(
    items: list[Dataset], shapes: _Shapes, size: Size | None, arrow: bool
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
    numbers = re.findall(r"-?\d+\.\d+", _text(items, known.EXACT_CENTER.value))
    exact = np.array(numbers[:3], float)
    return exact if len(exact) == 3 and np.linalg.norm(exact - center) <= NEAR_MM else center


def _middle(axis: Axis) -> Points:
    return (np.array(axis.start_mm) + np.array(axis.end_mm)) / 2


def _number(items: list[Dataset], names: Sequence[str], factors: dict[str, float]) -> float | None:
    """The first number of one of the names, in millimetres; None without one."""
    for item in items:
        if _value_type(item) == "NUM" and _name_code(item) in names and item.MeasuredValueSequence:
            measured = item.MeasuredValueSequence[0]
            unit = _code(measured.get("MeasurementUnitsCodeSequence"))
            value = float(measured.NumericValue)
            if unit in factors and np.isfinite(value) and value > 0:
                return value * factors[unit]
    return None


def _label(items: list[Dataset], id_: str) -> str:
    """The comment, Cornerstone's free text, or else the name of the finding or of the site."""
    comment = _text(items, known.COMMENT)
    if comment:
        ours = f"{id_}: "
        return (
            "" if comment == id_ else comment[len(ours) :] if comment.startswith(ours) else comment
        )
    for item in items:
        if _code(item.get("ConceptCodeSequence")) == FREE_TEXT:
            return _meaning(item)
    findings = [i for i in items if _name_code(i) == known.FINDING]
    names = [_meaning(i) for i in findings if _meaning(i).lower() != "lesion"]
    return next((name for name in (*names, _site(items)) if name), "")


def _sites(items: list[Dataset]) -> list[Dataset]:
    sites = [i for i in items if _name_code(i) in known.FINDING_SITE]
    return [i for i in sites if _code(i.get("ConceptCodeSequence")) != FREE_TEXT]


def _site(items: list[Dataset]) -> str:
    """The site by its name; that it is a lymph node is said elsewhere."""
    names = [
        _meaning(item)
        for item in _sites(items)
        if _code(item.get("ConceptCodeSequence")) not in known.NODE_CODES
    ]
    return next((name for name in names if name), "")


def _nodal(items: list[Dataset]) -> bool:
    said = [*_sites(items), *(i for i in items if _name_code(i) == known.FINDING)]
    return any(
        _code(i.get("ConceptCodeSequence")) in known.NODE_CODES
        or re.search(r"\blymph ?nod", _meaning(i), re.IGNORECASE)
        for i in said
    )


def _role(items: list[Dataset]) -> Role:
    for item in items:
        if _name_code(item) == known.ROLE.value:
            value = _code(item.get("ConceptCodeSequence"))
            return Role(value) if value in {role.value for role in Role} else Role.UNDECIDED
    return Role.UNDECIDED


def _inner(items: list[Dataset]) -> Iterator[Dataset]:
    """The items of a group and what they contain."""
    for item in items:
        yield item
        yield from item.get("ContentSequence") or []


def _uid(items: list[Dataset]) -> str:
    found = (str(i.get("UID") or "") for i in items if _name_code(i) == known.TRACKING_UID)
    return next(found, "")


def _text(items: list[Dataset], code: str) -> str:
    texts = (str(i.get("TextValue") or "").strip() for i in items if _name_code(i) == code)
    return next((text for text in texts if text), "")


def _value_type(item: Dataset) -> str:
    return str(item.get("ValueType") or "")


def _name_code(item: Dataset) -> str:
    return _code(item.get("ConceptNameCodeSequence"))


def _code(sequence: Sequence[Dataset] | None) -> str:
    """The value of a coded name, whichever length its scheme needs."""
    if not sequence:
        return ""
    code = sequence[0]
    return str(code.get("CodeValue") or code.get("LongCodeValue") or code.get("URNCodeValue") or "")


def _meaning(item: Dataset) -> str:
    sequence = item.get("ConceptCodeSequence")
    return str(sequence[0].get("CodeMeaning") or "").strip() if sequence else ""
