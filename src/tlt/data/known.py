"""Real lesions of single CTs, listed beside them."""

from __future__ import annotations

import csv
from pathlib import Path

from tlt.lesion import Lesion


def known_lesions(folder: Path) -> dict[str, list[Lesion]]:
    """Real lesions by CT, from ``lesions.csv`` in the folder or above it; empty without one."""
    places = [place / "lesions.csv" for place in (folder, folder.parent)]
    path = next((place for place in places if place.is_file()), None)
    lesions: dict[str, list[Lesion]] = {}
    if path is None:
        return lesions
    with path.open(newline="") as file:
        for line in csv.DictReader(file):
            center = (float(line["x"]), float(line["y"]), float(line["z"]))
            lesion = Lesion(line["lesion_id"], center, float(line["radius_mm"]), line["label"])
            lesions.setdefault(line["volume"], []).append(lesion)
    return lesions
