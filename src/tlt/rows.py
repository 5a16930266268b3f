"""Rows on disk: every printed figure can be computed from them again."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlt.data.dls import PREDICTION, dls_pairs, predicted_rows, read_json
from tlt.errors import InputError
from tlt.io.files import atomic_write
from tlt.metrics import LesionRow
from tlt.scores import without_nan

if TYPE_CHECKING:
    from tlt.evaluate import Outcome

POINTS = ("truth_mm", "found_mm", "prior_mm")
UNKNOWN = ("slice_mm", "seconds", "confidence")  # None on disk where they are not known


def write_rows(outcomes: Mapping[str, Sequence[Outcome]], path: Path) -> None:
    """Store the rows of each tracker, with the features of their confidence, as JSON."""
    atomic_write(path, json.dumps(rows_content(outcomes), indent=1, allow_nan=False) + "\n")


def rows_content(outcomes: Mapping[str, Sequence[Outcome]]) -> dict[str, list[dict[str, Any]]]:
    """What a file of rows holds: JSON values, a row a lesion, by tracker."""
    return {
        name: [without_nan({**asdict(o.row), "features": o.features}) for o in every]
        for name, every in outcomes.items()
    }


def read_rows(path: Path, field: str | None = None) -> list[LesionRow]:
    """The rows of a file that `write_rows` wrote, or those of predictions in the form of DLS.

    ``field`` names a tracker of the first, or the centre to score of the second.

    Raises:
        InputError: unreadable, neither of the two, it has no such field, or no rows.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; check the path")
    content = read_json(path)
    if not _is_rows(content):
        return predicted_rows(dls_pairs(content, path), field or PREDICTION)
    if field is None and len(content) > 1:
        raise InputError(
            f"{path}: rows of {', '.join(content)}; choose one with --field (or --against-field)"
        )
    name = field or next(iter(content))
    if not content.get(name, True):
        raise InputError(f"{path}: no rows of '{name}'; nothing was tracked")
    if name not in content:
        raise InputError(f"{path}: no rows of '{name}'; --field may be {', '.join(content)}")
    return _rows(content[name], path)


def read_every_row(path: Path) -> dict[str, list[LesionRow]]:
    """The rows of each tracker of a file that `write_rows` wrote.

    Raises:
        InputError: unreadable, another kind of file, or a tracker without rows.
    """
    content = read_json(path)
    if not _is_rows(content) or not all(content.values()):
        raise InputError(f"{path}: not rows of trackers; choose another folder")
    return {name: _rows(every, path) for name, every in content.items()}


def _rows(every: list[dict[str, Any]], path: Path) -> list[LesionRow]:
    """Rows of a file; InputError where one cannot be read."""
    try:
        return [_row(values) for values in every]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: a row cannot be read ({error!r}); write it again") from error


def _is_rows(content: Any) -> bool:
    """Whether this is what `write_rows` writes: lists of rows by tracker."""
    if not isinstance(content, dict) or not content:
        return False
    lists = [v for v in content.values() if isinstance(v, list)]
    rows = [row for part in lists for row in part]
    return len(lists) == len(content) and all(
        isinstance(row, dict) and "truth_mm" in row for row in rows
    )


def _row(values: dict[str, Any]) -> LesionRow:
    fields = {name: value for name, value in values.items() if name != "features"}
    for name in UNKNOWN:
        if fields.get(name) is None:
            fields[name] = math.nan
    for name in POINTS:
        if fields[name] is not None:
            fields[name] = tuple(float(v) for v in fields[name])
    if fields.get("box_mm") is not None:
        fields["box_mm"] = tuple(tuple(float(v) for v in corner) for corner in fields["box_mm"])
    return LesionRow(**fields)
