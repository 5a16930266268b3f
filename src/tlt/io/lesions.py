"""Reading the lesions of a baseline from any file of the contract, and checking them.

The formats are in `lesions_csv`, `lesions_json`, `masks` and `dicom_lesions`; here they are told
apart, and every lesion passes the same checks.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from tlt.errors import InputError
from tlt.geometry import Grid
from tlt.io import dicom_lesions
from tlt.io.dicom_codes import valid_uid
from tlt.io.dicom_files import is_dicom
from tlt.io.images import ENDINGS
from tlt.io.lesion_rows import Row, without_remark
from tlt.io.lesions_csv import read_csv, write_lesions_csv
from tlt.io.lesions_json import read_json, write_points_json, write_prompts_json
from tlt.io.lesions_mrk import write_mrk_json
from tlt.io.masks import read_mask, sphere_labels, write_labels, write_mask
from tlt.lesion import Lesion
from tlt.pacs.source import is_peer_source, pulled_source
from tlt.volume import Volume

__all__ = [
    "read_lesions",
    "sphere_labels",
    "write_labels",
    "write_lesions_csv",
    "write_mask",
    "write_mrk_json",
    "write_points_json",
    "write_prompts_json",
]

DEFAULT_RADIUS_MM = 10.0
MAX_RADIUS_MM = 300.0
MAX_TEXT_BYTES = 64 << 20

log = logging.getLogger(__name__)


def read_lesions(
    path: str | os.PathLike[str], baseline: Volume, points_in: str | None = None
) -> list[Lesion]:
    """The lesions marked in the baseline, in the file's order, in LPS millimetres.

    The file is a CSV, 3D Slicer markups, a mask, LesionLocator prompts, grand-challenge points,
    whose frame ``points_in`` ("lps" or "voxel") must say, or a DICOM SR, SEG or RTSTRUCT, also as
    the one such object of a folder or zip. Lesions without a radius get 10 mm, with a warning in
    the log; those without an id become L1, L2, ... Raises InputError when the file cannot be
    read, or when a lesion is impossible, outside the baseline, or of another patient.
    """
    return [lesion for lesion, _ in read_rows(path, baseline, points_in)]


def read_time_point(path: str | os.PathLike[str]) -> int:
    """The time point of lesions that `read_lesions` has read: a SR says that of a follow-up."""
    if is_peer_source(os.fspath(path)):
        with pulled_source(os.fspath(path)) as folder:
            return read_time_point(folder)
    path = Path(path)
    return dicom_lesions.read_time_point(path) if _from_dicom(path) else 0


def read_with_extents(
    path: str | os.PathLike[str], baseline: Volume, points_in: str | None = None
) -> list[tuple[Lesion, Volume | None]]:
    """As `read_lesions`, each lesion with its voxels where a mask, SEG or RTSTRUCT tells them."""
    return [(lesion, row.extent) for lesion, row in read_rows(path, baseline, points_in)]


def read_rows(
    path: str | os.PathLike[str], baseline: Volume, points_in: str | None = None
) -> list[tuple[Lesion, Row]]:
    """As `read_lesions`, each lesion with all that the file tells of it."""
    if is_peer_source(os.fspath(path)):
        with pulled_source(os.fspath(path)) as folder:
            return read_rows(folder, baseline, points_in)
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file; check the path")
    try:
        rows = _rows(path, baseline, points_in)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror or error}); check its permissions"
        ) from error
    if not rows:
        raise InputError(f"{path}: no lesions in it; mark at least one")
    ids = _ids(rows)
    for row, id_ in zip(rows, ids, strict=True):
        _check(row, id_, baseline.grid)
    _check_unique(path, rows, ids)
    guessed = [id_ for row, id_ in zip(rows, ids, strict=True) if row.radius_mm is None]
    if guessed:
        shown = ", ".join(guessed[:10]) + (", ..." if len(guessed) > 10 else "")
        log.warning("%s: no radius for %s; %g mm is used", path, shown, DEFAULT_RADIUS_MM)
    return [(_lesion(row, id_), row) for row, id_ in zip(rows, ids, strict=True)]


def _rows(path: Path, baseline: Volume, points_in: str | None) -> list[Row]:
    ending, grid = path.name.lower(), baseline.grid
    if _from_dicom(path):
        return dicom_lesions.read_dicom(path, baseline)
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty; mark at least one lesion")
    if ending.endswith(".csv"):
        return read_csv(_text(path), str(path), grid)
    if ending.endswith(".json"):
        return read_json(_text(path), str(path), grid, points_in)
    if ending.endswith(ENDINGS):
        return read_mask(path, grid)
    raise InputError(
        f"{path}: not a lesion file that tlt reads; give .csv, .mrk.json (3D Slicer), .json "
        "(LesionLocator prompts or grand-challenge points), a mask (.nii.gz, .nrrd, .mha) or "
        "DICOM (SR, SEG, RTSTRUCT)"
    )


def _from_dicom(path: Path) -> bool:
    return path.is_dir() or path.name.lower().endswith((".zip", ".dcm")) or is_dicom(path)


def _text(path: Path) -> str:
    if path.stat().st_size > MAX_TEXT_BYTES:
        raise InputError(f"{path}: {path.stat().st_size >> 20} MiB is no list of lesions")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text; save it as UTF-8") from error
    if not text.strip():
        raise InputError(f"{path}: the file is empty; mark at least one lesion")
    return text


def _ids(rows: list[Row]) -> list[str]:
    """The file's ids, and L1, L2, ... for the others, without using an id twice."""
    own = [" ".join(row.id.split()) for row in rows]
    free = (f"L{count}" for count in range(1, 2 * len(rows) + 1))
    generated = (name for name in free if name not in own)
    return [id_ or next(generated) for id_ in own]


def _check_unique(path: Path, rows: list[Row], ids: list[str]) -> None:
    double = sorted(id_ for id_, count in Counter(ids).items() if count > 1)
    if double:
        raise InputError(f"{path}: lesion id {', '.join(double)} occurs twice; make ids unique")
    named: dict[str, list[str]] = {}
    for row, id_ in zip(rows, ids, strict=True):
        if row.tracking_uid:
            named.setdefault(valid_uid(row.tracking_uid), []).append(id_)
    same = next((own for own in named.values() if len(own) > 1), None)
    if same:
        raise InputError(
            f"{path}: lesions {', '.join(same)} have one Tracking UID, which would make them one "
            "lesion; give each its own, or leave it out"
        )


def _check(row: Row, id_: str, grid: Grid) -> None:
    lesion = f"{row.where}: lesion {id_}"
    if not np.isfinite(row.center_mm).all():
        given = ", ".join(f"{value:g}" for value in row.center_mm)
        raise InputError(f"{lesion}: the centre ({given}) is not finite; give three numbers in mm")
    radius = row.radius_mm
    if radius is not None and not 0 < radius <= MAX_RADIUS_MM:
        raise InputError(
            f"{lesion}: radius {radius:g} mm; it must be above 0 and at most {MAX_RADIUS_MM:g} mm"
        )
    if not grid.contains(row.center_mm):
        low, high = grid.bounds_mm()
        bounds = ", ".join(
            f"{axis} {a:.1f} to {b:.1f}" for axis, a, b in zip("xyz", low, high, strict=True)
        )
        point = ", ".join(f"{value:.1f}" for value in row.center_mm)
        raise InputError(
            f"{lesion} at LPS ({point}) mm lies outside the baseline ({bounds}); {_hint(row, grid)}"
        )


def _hint(row: Row, grid: Grid) -> str:
    if row.frame == "VOXEL":
        swapped = grid.index_to_mm(grid.mm_to_index(row.center_mm)[::-1])
        if grid.contains(swapped):
            return "with x and z exchanged it would lie inside: check the order of the indices"
        return "check that the indices start at 0 and belong to this baseline"
    if grid.contains(row.center_mm * (-1, -1, 1)):
        other = "RAS" if row.frame == "LPS" else "LPS"
        return f"as {other} it would lie inside: check the coordinate system"
    return "check that the lesions belong to this baseline"


def _lesion(row: Row, id_: str) -> Lesion:
    x, y, z = row.center_mm.tolist()
    lesion = Lesion(
        id=id_,
        center_mm=(x, y, z),
        radius_mm=DEFAULT_RADIUS_MM if row.radius_mm is None else row.radius_mm,
        label=without_remark(row.label),
        size=row.size,
        site=row.site,
        nodal=row.nodal,
        role=row.role,
    )
    uid = str(valid_uid(row.tracking_uid)) if row.tracking_uid else lesion.tracking_uid
    return replace(lesion, tracking_uid=uid)
