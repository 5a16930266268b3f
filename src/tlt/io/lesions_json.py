"""Lesions as JSON: LesionLocator prompts and grand-challenge points; markups: `lesions_mrk`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from tlt.errors import InputError, UsageError
from tlt.geometry import Grid
from tlt.io.files import atomic_write_json
from tlt.io.lesion_rows import Row, numbers, placed
from tlt.io.lesions_mrk import read_markups
from tlt.lesion import Lesion, Match


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
        return read_markups(content["markups"], name)
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


def write_prompts_json(
    lesions: Sequence[Lesion | Match], grid: Grid, path: str | os.PathLike[str]
) -> None:
    """Write LesionLocator point prompts: 1-based numbers, voxel indices (z, y, x) of ``grid``."""
    prompts = {
        str(count): {"point": np.round(grid.mm_to_index(lesion.center_mm), 4).tolist()}
        for count, lesion in placed(lesions)
    }
    atomic_write_json(path, prompts)


def write_points_json(lesions: Sequence[Lesion | Match], path: str | os.PathLike[str]) -> None:
    """Write grand-challenge "Multiple points" in LPS millimetres (x, y, z)."""
    points = [
        {"name": lesion.id, "point": [round(float(value), 4) for value in lesion.center_mm]}
        for _, lesion in placed(lesions)
    ]
    version = {"major": 1, "minor": 0}
    content = {"name": "Lesions", "type": "Multiple points", "points": points, "version": version}
    atomic_write_json(path, content)


class _DoubleKey(ValueError):
    pass


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _DoubleKey(f"{next(key for key in keys if keys.count(key) > 1)!r} occurs twice")
    return entries


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
