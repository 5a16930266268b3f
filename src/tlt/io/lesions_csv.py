"""Lesions as CSV: ``lesion_id,x,y,z,coordinate_system,radius_mm,label``.

Columns ``site,nodal,role`` may be added, for RECIST.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence

import numpy as np

from tlt.errors import InputError
from tlt.geometry import Grid
from tlt.io.files import atomic_write
from tlt.io.lesion_rows import Row, number, placed, to_lps
from tlt.lesion import Lesion, Match, Role

HEADER = ("lesion_id", "x", "y", "z", "coordinate_system", "radius_mm", "label")
REQUIRED = ("x", "y", "z", "coordinate_system")
RECIST = ("site", "nodal", "role")
SYSTEMS = ("LPS", "RAS", "VOXEL")
YES, NO = ("yes", "true", "1"), ("no", "false", "0", "")


def read_csv(text: str, name: str, grid: Grid) -> list[Row]:
    """The rows of a CSV; ``grid`` is the baseline's, for VOXEL coordinates (0-based x, y, z).

    Raises InputError with the line number for a missing column, a wrong number of fields, a value
    that is not a number, or a coordinate system other than LPS, RAS and VOXEL.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    rows, columns = [], None
    try:
        for fields in reader:
            where = f"{name}: line {reader.line_num}"
            if not any(field.strip() for field in fields):
                continue
            if columns is None:
                columns = _columns(fields, where)
                continue
            rows.append(_row(_named(fields, columns, where), where, grid))
    except csv.Error as error:
        raise InputError(
            f"{name}: line {reader.line_num}: not CSV ({error}); correct it"
        ) from error
    return rows


def write_lesions_csv(
    lesions: Sequence[Lesion | Match], path: str | os.PathLike[str], tracking_uids: bool = False
) -> None:
    """Write lesions in LPS mm; with ``tracking_uids`` a last column keeps the Tracking UIDs.

    Columns for RECIST are there where a lesion has a site, is a node or has a role.
    """
    listed = [lesion for _, lesion in placed(lesions)]
    assessed = any(le.site or le.nodal or le.role is not Role.UNDECIDED for le in listed)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    added = (*RECIST * assessed, *("tracking_uid",) * tracking_uids)
    writer.writerow((*HEADER, *added))
    for lesion in listed:
        point = [f"{value:.4f}" for value in lesion.center_mm]
        row = [lesion.id, *point, "LPS", f"{lesion.radius_mm:.4f}", lesion.label]
        more = {
            "site": lesion.site,
            "nodal": "yes" if lesion.nodal else "no",
            "role": "" if lesion.role is Role.UNDECIDED else lesion.role.value,
            "tracking_uid": lesion.tracking_uid,
        }
        writer.writerow([*row, *(more[column] for column in added)])
    atomic_write(path, text.getvalue())


def _columns(fields: list[str], where: str) -> list[str]:
    columns = [" ".join(field.lower().split()) for field in fields]
    missing = [column for column in REQUIRED if column not in columns]
    if missing:
        hint = "; separate by commas" if len(fields) == 1 else ""
        raise InputError(
            f"{where}: no column {', '.join(missing)}; "
            f"the first line must be {','.join(HEADER)} (lesion_id, radius_mm and label may be "
            f"left out){hint}"
        )
    double = {column for column in columns if column and columns.count(column) > 1}
    if double:
        raise InputError(f"{where}: column {', '.join(sorted(double))} occurs twice; keep one")
    return columns


def _named(fields: list[str], columns: list[str], where: str) -> dict[str, str]:
    """The fields by column; fields at the end may be left out, or be empty and too many."""
    fields = [field.strip() for field in fields]
    if any(fields[len(columns) :]):
        raise InputError(
            f"{where}: {len(fields)} fields, but the header has {len(columns)}; "
            "separate by commas, use a decimal point, and quote labels with commas"
        )
    fields += [""] * (len(columns) - len(fields))
    return dict(zip(columns, fields, strict=False))


def _row(fields: dict[str, str], where: str, grid: Grid) -> Row:
    system = fields["coordinate_system"].upper()
    if system not in SYSTEMS:
        raise InputError(
            f"{where}: coordinate_system is {fields['coordinate_system']!r}; "
            "write LPS, RAS or VOXEL"
        )
    point = np.array([number(fields[axis], where, axis) for axis in "xyz"])
    center = grid.index_to_mm(point[::-1]) if system == "VOXEL" else to_lps(point, system)
    radius = fields.get("radius_mm", "")
    return Row(
        where=where,
        id=fields.get("lesion_id", ""),
        center_mm=center,
        radius_mm=number(radius, where, "radius_mm") if radius else None,
        label=fields.get("label", ""),
        tracking_uid=fields.get("tracking_uid", ""),
        frame=system,
        site=fields.get("site", ""),
        nodal=_nodal(fields.get("nodal", ""), where),
        role=_role(fields.get("role", ""), where),
    )


def _nodal(text: str, where: str) -> bool:
    if text.lower() not in YES + NO:
        raise InputError(f"{where}: nodal is {text!r}; write yes or no")
    return text.lower() in YES


def _role(text: str, where: str) -> Role:
    try:
        return Role(text.lower().replace("-", "_").replace(" ", "_") or Role.UNDECIDED)
    except ValueError as error:
        choices = " or ".join(role.value for role in Role if role is not Role.UNDECIDED)
        raise InputError(
            f"{where}: role is {text!r}; write {choices}, or leave it empty"
        ) from error
