"""Real lesions of single CTs, listed beside them."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tlt.errors import InputError
from tlt.io.lesion_rows import number, to_lps, triple
from tlt.lesion import Lesion

FRAMES = ("LPS", "RAS")


def known_lesions(folder: Path) -> dict[str, list[Lesion]]:
    """Real lesions by CT, from ``lesions.csv`` in the folder or above it; empty without one.

    Its columns are ``volume,lesion_id,x,y,z,coordinate_system,radius_mm,label``; a list without
    ``volume`` is of something else.

    Raises:
        InputError: a line that cannot be read, or a frame other than LPS and RAS.
    """
    places = [place / "lesions.csv" for place in (folder, folder.parent)]
    path = next((place for place in places if place.is_file()), None)
    lesions: dict[str, list[Lesion]] = {}
    if path is None:
        return lesions
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = csv.DictReader(file, restval="")
        if "volume" not in (lines.fieldnames or ()):
            return lesions
        for line in lines:
            lesion = _lesion(line, f"{path}: line {lines.line_num}")
            lesions.setdefault(line["volume"], []).append(lesion)
    return lesions


def _lesion(line: Mapping[str, str], where: str) -> Lesion:
    frame = line.get("coordinate_system", "")
    if frame not in FRAMES:
        raise InputError(f"{where}: coordinate_system is {frame!r}; write LPS or RAS")
    center = np.array([number(line.get(axis, ""), where, axis) for axis in "xyz"])
    radius = number(line.get("radius_mm", ""), where, "radius_mm")
    if not (np.isfinite(center).all() and 0 < radius < np.inf):
        raise InputError(f"{where}: a place or radius that is none; write millimetres")
    name, label = line.get("lesion_id", ""), line.get("label", "")
    return Lesion(name, triple(to_lps(center, frame)), radius, label)
