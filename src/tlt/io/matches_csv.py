"""What a run found, as ``matches.csv``: the same facts as ``result.json``, a row a match."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from tlt.io.files import atomic_write
from tlt.io.results import LesionResult, Result, Review, SizeFacts

CSV_COLUMNS = (
    "lesion_id",
    "x",
    "y",
    "z",
    "coordinate_system",
    "radius_mm",
    "label",
    "followup",
    "status",
    "confidence",
    "prior_x",
    "prior_y",
    "prior_z",
    "prior_distance_mm",
    "baseline_x",
    "baseline_y",
    "baseline_z",
    "baseline_radius_mm",
    "long_mm",
    "short_mm",
    "volume_mm3",
    "size_doubtful",
    "decision",
    "reviewed_by",
    "reviewed_at",
)


def to_csv(result: Result) -> str:
    """The text of ``matches.csv``: a row a lesion and follow-up (1, 2, ...).

    It starts with the columns of a lesion file; a lesion outside the field of view has no x, y, z.
    It ends with the reader's decision, which is empty until there is one.
    """
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for number in range(1, len(result.followups) + 1):
        for lesion in result.lesions:
            writer.writerow(_csv_row(lesion, number))
    return out.getvalue()


def write_csv(result: Result, path: str | Path) -> None:
    """Write ``matches.csv``: whole or not at all."""
    atomic_write(path, to_csv(result))


def _csv_row(lesion: LesionResult, number: int) -> list[object]:
    found = lesion.followups[number - 1]
    return [
        lesion.id,
        *(found.center_mm or ("", "", "")),
        "LPS",
        "" if found.radius_mm is None else found.radius_mm,
        lesion.label,
        number,
        found.status.value,
        found.confidence,
        *found.prior_center_mm,
        "" if found.prior_distance_mm is None else found.prior_distance_mm,
        *lesion.baseline.center_mm,
        lesion.baseline.radius_mm,
        *_csv_size(found.size),
        *_csv_review(found.review),
    ]


def _csv_size(size: SizeFacts | None) -> list[object]:
    if size is None:
        return ["", "", "", ""]
    short, volume = size.short_mm, size.volume_mm3
    blank = [size.long_mm, "" if short is None else short, "" if volume is None else volume]
    return [*blank, "yes" if size.doubtful else "no"]


def _csv_review(review: Review | None) -> list[object]:
    return ["", "", ""] if review is None else [review.decision.value, review.by, review.at]
