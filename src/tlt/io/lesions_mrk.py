"""Lesions as 3D Slicer markups: points, lines (the RECIST axes) and boxes.

A line that tlt measured says so, with its ends and the lesion's centre: once somebody has moved an
end it is that reader's, and once the point is elsewhere it is no diameter of it any more.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tlt.errors import InputError
from tlt.io.files import atomic_write_json
from tlt.io.lesion_rows import Row, notes_of, number, numbers, placed, to_lps, triple
from tlt.lesion import Axis, Lesion, Match, Size

SLICER_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/"
    "Resources/Schema/markups-schema-v1.0.3.json#"
)
# Slicer writes names; files of Slicer 4 and its scripts have numbers.
SHORT = " short axis"  # ends the name of a line that is not the long axis
MEASURED = "measured by tlt"
DOUBTFUL = ", doubtful"
NEAR_MM = 30.0
SAME_MM = 0.05  # by which the ends of a line may differ that nobody has moved
SLICER_FRAMES = {"LPS": "LPS", "RAS": "RAS", "1": "LPS", "0": "RAS"}

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Line(Row):
    """A line, and where its lesion was when tlt measured it; None for one that a reader drew."""

    home_mm: np.ndarray | None = None


def write_mrk_json(lesions: Sequence[Lesion | Match], path: str | os.PathLike[str]) -> None:
    """Write lesions as a 3D Slicer point list in LPS; radius and label go into descriptions.

    Where diameters are known, a Line of the lesion's name follows for the long axis, and one of
    its name and "short axis" for the short one. The points of a line that tlt measured say so, with
    where it was.
    """
    points = [
        {
            "id": str(count),
            "label": lesion.id,
            "description": f"radius_mm={lesion.radius_mm:.4f}; "
            f"tracking_uid={lesion.tracking_uid}; label={lesion.label}",
            "associatedNodeID": "",
            "position": [round(float(value), 4) for value in lesion.center_mm],
            "selected": True,
            "locked": False,
            "visibility": True,
            "positionStatus": "defined",
        }
        for count, lesion in placed(lesions)
    ]
    markup = {
        "type": "Fiducial",
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "locked": False,
        "labelFormat": "%N-%d",
        "controlPoints": points,
    }
    lines = [
        _line_markup(f"{lesion.id}{suffix}", axis, lesion)
        for _, lesion in placed(lesions)
        if lesion.size is not None
        for suffix, axis in (("", lesion.size.long_axis), (SHORT, lesion.size.short_axis))
        if axis is not None
    ]
    atomic_write_json(path, {"@schema": SLICER_SCHEMA, "markups": [markup, *lines]})


def _line_markup(name: str, axis: Axis, lesion: Lesion) -> dict:
    ends, size = (axis.start_mm, axis.end_mm), lesion.size
    said = ""
    if size is not None and not size.by_reader:
        place = ",".join(f"{value:.4f}" for end in (*ends, lesion.center_mm) for value in end)
        said = f"{MEASURED}{DOUBTFUL * size.doubtful}; at_mm={place}"
    return {
        "type": "Line",
        "name": name,
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "locked": False,
        "labelFormat": "%N-%d",
        "controlPoints": [
            {
                "id": str(count),
                "label": f"{name}-{count}",
                "description": said,
                "position": [round(float(value), 4) for value in end],
                "selected": True,
                "locked": False,
                "visibility": True,
                "positionStatus": "defined",
            }
            for count, end in enumerate(ends, 1)
        ],
    }


def read_markups(markups: list, name: str) -> list[Row]:
    """The lesions of the markups of a file; raises InputError with the place in it."""
    rows: list[Row] = []
    for count, markup in enumerate(markups, 1):
        where = f"{name}: markup {count}"
        if not isinstance(markup, dict):
            raise InputError(f"{where} is not an object; save it again from 3D Slicer")
        raw = markup.get("coordinateSystem")
        frame = SLICER_FRAMES.get(str(raw).upper())
        if frame is None:
            shown = "missing" if raw is None else repr(raw)
            raise InputError(f"{where}: coordinateSystem is {shown}; it must be LPS or RAS")
        units = markup.get("coordinateUnits", "mm")
        if units not in ("mm", ["mm"] * 3):
            raise InputError(f"{where}: coordinateUnits is {units!r}; save it in mm")
        points = _control_points(markup, where)
        kind = markup.get("type")
        if kind == "Fiducial":
            rows += [_fiducial(point, place, frame) for place, point in points]
        elif kind == "Line":
            rows += _line(markup, points, where, frame)
        elif kind == "ROI":
            rows.append(_roi(markup, points, where, frame))
        else:
            raise InputError(f"{where}: type {kind!r} is no lesion; use Fiducial, Line or ROI")
    return _joined(rows, name)


def _joined(rows: list[Row], name: str) -> list[Row]:
    """Lines given to the lesion whose name they bear, as its diameters."""
    lines = {row.id: row for row in rows if isinstance(row, _Line) and row.id}
    points = {row.id: row for row in rows if not isinstance(row, _Line) and row.id}
    joined = []
    for row in rows:
        long, short = lines.get(row.id), lines.get(row.id + SHORT)
        if isinstance(row, _Line) and _is_axis(row, lines, points):
            continue
        if long is not None and _belongs(row, long):
            row = _with_axes(row, long, short)
        elif long is not None and long.home_mm is not None:
            log.warning(
                "%s: %s was moved away from the diameters that tlt measured; measure them anew",
                name,
                row.id,
            )
        joined.append(row)
    return joined


def _is_axis(line: _Line, lines: dict[str, _Line], points: dict[str, Row]) -> bool:
    """Whether a line is no lesion of its own: that of tlt never is where its point is there."""
    owner = line.id.removesuffix(SHORT)
    point, long = points.get(owner), lines.get(owner)
    if point is not None and (line.home_mm is not None or _belongs(point, line)):
        return True
    return owner != line.id and long is not None and _near(line, long)


def _with_axes(row: Row, long: _Line, short: _Line | None) -> Row:
    """The lesion with its diameters; lines that a reader drew or changed tell the radius, too."""
    assert long.size is not None
    size = long.size
    if short is not None and short.size is not None and _near(short, long):
        drawn = size.by_reader or short.size.by_reader
        doubtful = not drawn and (size.doubtful or short.size.doubtful)
        axis = short.size.long_axis
        size = replace(size, short_axis=axis, by_reader=drawn, doubtful=doubtful)
    kept = None if long.home_mm is None else row.radius_mm
    return replace(row, size=size, radius_mm=kept or long.radius_mm)


def _belongs(row: Row, long: _Line) -> bool:
    """Whether a line is a diameter of the lesion at a point.

    One that tlt measured is, unless the point was moved from where it was by more than a radius.
    """
    if long.home_mm is None:
        return _near(row, long)
    moved = np.linalg.norm(row.center_mm - long.home_mm)
    away = np.linalg.norm(row.center_mm - long.center_mm)
    return bool(moved <= SAME_MM or away <= (long.radius_mm or 0.0))


def _near(row: Row, line: Row) -> bool:
    """Whether a line can be a diameter of a lesion: two lesions may bear one name by mistake."""
    reach = max(NEAR_MM, 4 * (line.radius_mm or 0.0))
    return bool(np.linalg.norm(row.center_mm - line.center_mm) <= reach)


def _control_points(markup: dict, where: str) -> list[tuple[str, dict]]:
    """The placed control points, each with its place in the file."""
    points = markup.get("controlPoints") or []
    if not isinstance(points, list) or not all(isinstance(point, dict) for point in points):
        raise InputError(f"{where}: controlPoints is not a list of objects; save it again")
    return [
        (f"{where}, control point {count}", point)
        for count, point in enumerate(points, 1)
        if point.get("positionStatus", "defined") == "defined"
    ]


def _position(point: dict, where: str, frame: str) -> np.ndarray:
    return to_lps(numbers(point.get("position"), 3, where, "position"), frame)


def _fiducial(point: dict, where: str, frame: str) -> Row:
    description = str(point.get("description") or "")
    notes = notes_of(description)
    radius = notes.get("radius_mm")
    return Row(
        where=where,
        id=str(point.get("label") or ""),
        center_mm=_position(point, where, frame),
        radius_mm=None if radius is None else number(radius, where, "radius_mm"),
        label=notes.get("label", "" if notes else description),
        tracking_uid=notes.get("tracking_uid", ""),
        frame=frame,
    )


def _line(markup: dict, points: list[tuple[str, dict]], where: str, frame: str) -> list[Row]:
    """A line is the RECIST long axis: its middle, and half its length. None if never drawn."""
    if not points:
        return []
    if len(points) != 2:
        raise InputError(f"{where}: a line of {len(points)} points; place both ends")
    start, end = (_position(point, place, frame) for place, point in points)
    radius = float(np.linalg.norm(end - start)) / 2
    said = str(points[0][1].get("description") or "")
    home = _home(said, np.concatenate([start, end]))
    size = Size(
        Axis(triple(start), triple(end)),
        by_reader=home is None,
        doubtful=home is not None and said.startswith(MEASURED + DOUBTFUL),
    )
    middle = (start + end) / 2
    name = _name(markup, points)
    return [_Line(where, name, middle, radius, frame=frame, size=size, home_mm=home)]


def _home(said: str, ends_mm: np.ndarray) -> np.ndarray | None:
    """The lesion's centre when tlt measured a line; None for one that a reader drew or changed."""
    told = re.match(rf"{MEASURED}(?:{DOUBTFUL})?; at_mm=([-\d.,]+)$", said)
    try:
        values = np.array([float(value) for value in told[1].split(",")]) if told else np.empty(0)
    except ValueError:  # a description that was changed by hand
        return None
    if values.shape != (9,) or np.abs(values[:6] - ends_mm).max() > SAME_MM:
        return None
    return values[6:]


def _roi(markup: dict, points: list[tuple[str, dict]], where: str, frame: str) -> Row:
    """A box: its middle, and half its longer side in the axial plane."""
    raw = markup.get("center") or (points[0][1].get("position") if points else None)
    center = to_lps(numbers(raw, 3, where, "center"), frame)
    size = numbers(markup.get("size"), 3, where, "size")
    axes = numbers(markup.get("orientation") or np.eye(3).ravel().tolist(), 9, where, "orientation")
    upright = int(np.abs(axes.reshape(3, 3)[2]).argmax())
    radius = float(np.delete(size, upright).max()) / 2
    return Row(where, _name(markup, points), center, radius, frame=frame)


def _name(markup: dict, points: list[tuple[str, dict]]) -> str:
    """The markup's name; Slicer keeps it only in the labels of its points, as NAME-1."""
    label = str(points[0][1].get("label") or "") if points else ""
    return str(markup.get("name") or re.sub(r"-\d+$", "", label))
