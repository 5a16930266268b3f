"""Lesions as JSON: 3D Slicer markups, LesionLocator prompts, grand-challenge points."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tlt.errors import InputError, UsageError
from tlt.geometry import Grid
from tlt.io.files import atomic_write
from tlt.io.lesion_rows import Row, number, numbers, placed, to_lps, triple
from tlt.lesion import Axis, Lesion, Match, Size

SLICER_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/"
    "Resources/Schema/markups-schema-v1.0.3.json#"
)
# Slicer writes names; files of Slicer 4 and its scripts have numbers.
SHORT = " short axis"  # ends the name of a line that is not the long axis
MEASURED = "measured by tlt"
NEAR_MM = 30.0
SLICER_FRAMES = {"LPS": "LPS", "RAS": "RAS", "1": "LPS", "0": "RAS"}


def read_json(text: str, name: str, grid: Grid, points_in: str | None = None) -> list[Row]:
    """The lesions of any JSON format of the contract, told apart by content.

    ``points_in`` ("lps" or "voxel") says what grand-challenge points are. Raises InputError for
    malformed JSON, an unknown format, a missing coordinate system or a value of the wrong kind.
    """
    try:
        content = json.loads(text, object_pairs_hook=_without_doubles)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{name}: line {error.lineno}: not JSON ({error.msg}); correct it"
        ) from error
    except (_DoubleKey, RecursionError) as error:
        raise InputError(f"{name}: duplicate or too deep entries ({error}); correct it") from error
    if isinstance(content, dict) and isinstance(content.get("markups"), list):
        return _read_markups(content["markups"], name)
    if isinstance(content, dict) and isinstance(content.get("points"), list):
        return _read_points(content["points"], name, grid, points_in)
    if isinstance(content, dict) and all(_is_prompt(value) for value in content.values()):
        return [
            _prompt(key, value, f"{name}: lesion {' '.join(key.split())}", grid)
            for key, value in content.items()
        ]
    raise InputError(
        f"{name}: JSON of an unknown kind; give Slicer markups (.mrk.json), "
        'LesionLocator prompts ({"1": {"point": [z, y, x]}}) or grand-challenge "Multiple points"'
    )


def write_mrk_json(lesions: Sequence[Lesion | Match], path: str | os.PathLike[str]) -> None:
    """Write lesions as a 3D Slicer point list in LPS; radius and label go into descriptions.

    Where diameters are known, a Line of the lesion's name follows for the long axis, and one of
    its name and "short axis" for the short one.
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
        _line_markup(f"{lesion.id}{suffix}", axis, lesion.size.by_reader)
        for _, lesion in placed(lesions)
        if lesion.size is not None
        for suffix, axis in (("", lesion.size.long_axis), (SHORT, lesion.size.short_axis))
        if axis is not None
    ]
    _write(path, {"@schema": SLICER_SCHEMA, "markups": [markup, *lines]})


def _line_markup(name: str, axis: Axis, by_reader: bool) -> dict:
    ends = (axis.start_mm, axis.end_mm)
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
                "description": "" if by_reader else MEASURED,
                "position": [round(float(value), 4) for value in end],
                "selected": True,
                "locked": False,
                "visibility": True,
                "positionStatus": "defined",
            }
            for count, end in enumerate(ends, 1)
        ],
    }


def write_prompts_json(
    lesions: Sequence[Lesion | Match], grid: Grid, path: str | os.PathLike[str]
) -> None:
    """Write LesionLocator point prompts: 1-based numbers, voxel indices (z, y, x) of ``grid``."""
    prompts = {
        str(count): {"point": np.round(grid.mm_to_index(lesion.center_mm), 4).tolist()}
        for count, lesion in placed(lesions)
    }
    _write(path, prompts)


def write_points_json(lesions: Sequence[Lesion | Match], path: str | os.PathLike[str]) -> None:
    """Write grand-challenge "Multiple points" in LPS millimetres (x, y, z)."""
    points = [
        {"name": lesion.id, "point": [round(float(value), 4) for value in lesion.center_mm]}
        for _, lesion in placed(lesions)
    ]
    version = {"major": 1, "minor": 0}
    content = {"name": "Lesions", "type": "Multiple points", "points": points, "version": version}
    _write(path, content)


def _write(path: str | os.PathLike[str], content: dict) -> None:
    atomic_write(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


class _DoubleKey(ValueError):
    pass


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _DoubleKey(f"{next(key for key in keys if keys.count(key) > 1)!r} occurs twice")
    return entries


def _read_markups(markups: list, name: str) -> list[Row]:
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
    return _joined(rows)


def _joined(rows: list[Row]) -> list[Row]:
    """Lines given to the lesion whose name they bear, as its diameters."""
    lines = {row.id: row for row in rows if row.size is not None and row.id}
    others = {row.id: row for row in rows if row.size is None}
    joined = []
    for row in rows:
        long, short = lines.get(row.id), lines.get(row.id + SHORT)
        owner = row.id.removesuffix(SHORT)
        if row.size is not None and (
            (row.id in others and _near(others[row.id], row))
            or (owner != row.id and owner in lines and _near(lines[owner], row))
        ):
            continue  # an axis of a lesion that is itself in the file
        if long is not None and long.size is not None and _near(row, long):
            size = long.size
            if short is not None and short.size is not None and _near(row, short):
                size = replace(size, short_axis=short.size.long_axis)
            radius = size.long_axis.length_mm / 2 if row.radius_mm is None else row.radius_mm
            row = replace(row, size=size, radius_mm=radius)
        joined.append(row)
    return joined


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
    notes = dict(re.findall(r"(radius_mm|tracking_uid|label)=([^;]*)", description))
    radius = notes.get("radius_mm")
    return Row(
        where=where,
        id=str(point.get("label") or ""),
        center_mm=_position(point, where, frame),
        radius_mm=None if radius is None else number(radius.strip(), where, "radius_mm"),
        label=notes["label"].strip() if "label" in notes else description if not notes else "",
        tracking_uid=notes.get("tracking_uid", "").strip(),
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
    drawn = not any(point.get("description") == MEASURED for _, point in points)
    size = Size(Axis(triple(start), triple(end)), by_reader=drawn)
    return [Row(where, _name(markup, points), (start + end) / 2, radius, frame=frame, size=size)]


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


def _is_prompt(value: object) -> bool:
    return isinstance(value, dict) and ("point" in value or "box" in value)


def _prompt(key: str, value: dict, where: str, grid: Grid) -> Row:
    """A LesionLocator prompt; its box is half open: z0 <= z < z1."""
    if "box" not in value:
        index = numbers(value["point"], 3, where, "point")
        return Row(where, key, grid.index_to_mm(index), frame="VOXEL")
    low, high = numbers(value["box"], 6, where, "box").reshape(3, 2).T
    if not (high > low).all():
        raise InputError(f"{where}: box {value['box']} is empty; write [z0, z1, y0, y1, x0, x1]")
    sides = (high - low)[::-1] * grid.spacing_mm
    upright = int(np.abs(np.array(grid.direction).reshape(3, 3)[2]).argmax())
    radius = float(np.delete(sides, upright).max()) / 2
    return Row(where, key, grid.index_to_mm((low + high - 1) / 2), radius, frame="VOXEL")


def _read_points(points: list, name: str, grid: Grid, points_in: str | None) -> list[Row]:
    if points_in is None:
        raise InputError(
            f'{name}: "Multiple points" do not name their frame; '
            "say it with --points-in lps or --points-in voxel"
        )
    frame = points_in.upper()
    if frame not in ("LPS", "VOXEL"):
        raise UsageError(f"--points-in is {points_in!r}; it must be lps or voxel")
    rows = []
    for count, entry in enumerate(points, 1):
        where = f"{name}: point {count}"
        if not isinstance(entry, dict):
            raise InputError(f'{where}: not an object; write {{"point": [x, y, z]}}')
        point = numbers(entry.get("point"), 3, where, "point")
        center = grid.index_to_mm(point[::-1]) if frame == "VOXEL" else point
        rows.append(Row(where, str(entry.get("name") or ""), center, frame=frame))
    return rows
