"""A reviewed study as files: the same that `tlt track` writes, with the readers' corrections."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tlt.errors import InputError
from tlt.geometry import AffineTransform
from tlt.io.matches_csv import write_csv
from tlt.io.output import names_in, staged
from tlt.io.results import Result, write_json
from tlt.io.sources import read_sources, save_sources
from tlt.pipeline import WRITTEN, Study
from tlt.recist.entries import ENTRIES
from tlt.review.entries import entries_by_hand, entries_of, write_entries
from tlt.review.outlines import Outlines
from tlt.review.shelf import Shelf
from tlt.review.state import Event
from tlt.review.told import lesion_of, match_of

TEXT_FORMATS = ("json", "csv", "recist")  # they need no image
DRAWN_FORMATS = ("nifti", "dicom-seg", "dicom-rtstruct")  # they draw the extent of a lesion
RECIST_FILES = (ENTRIES, "recist.html", "recist.csv", "recist.json")
# Title and content of a format on the page; one that is missing here is shown by its name.
CONTENT = {
    "json": ("JSON", "result.json: everything, for programs"),
    "csv": ("CSV", "matches.csv: a row a lesion, for spreadsheets"),
    "html": ("Report", "report.html: tables and pictures in one file"),
    "png": ("Pictures", "a picture a lesion"),
    "recist": ("RECIST 1.1", "recist.html, .csv, .json, and entries.json for tlt recist"),
    "mrk": ("3D Slicer", "followup.mrk.json: points"),
    "nifti": ("Mask", "followup_mask.nii.gz: a label a lesion"),
    "points": ("Points", "for grand-challenge"),
    "dicom-sr": ("DICOM SR", "a structured report for the PACS"),
    "dicom-seg": ("DICOM SEG", "a segmentation for the PACS"),
    "dicom-rtstruct": ("RTSTRUCT", "outlines for radiotherapy"),
}


# What tells that a folder holds a format, where the run left no word of it.
PATTERNS = {
    "csv": "matches.csv",
    "html": "report.html",
    "png": "lesion_*.png",
    "mrk": "followup*.mrk.json",
    "nifti": "followup*_mask.nii.gz",
    "points": "followup*_points.json",
    "dicom-sr": "followup*_sr.dcm",
    "dicom-seg": "followup*_seg.dcm",
    "dicom-rtstruct": "followup*_rtstruct.dcm",
}


def write_reviewed(
    result: Result,
    events: Sequence[Event],
    shelf: Shelf,
    folder: Path,
    formats: Sequence[str],
    as_of: float,
    sr_profile: str | None = None,
) -> list[str]:
    """Write the formats, and anew all those that the folder has; the names of the files.

    ``events`` are those of which ``result`` is made; RECIST takes the readers' entries from them.
    All appear together, or none does; nothing is removed. ``as_of`` becomes the time of the files:
    when the decisions in them were read. ``sr_profile`` is that of the DICOM SR, by default the one
    that the folder has. Without the images only JSON, CSV and RECIST can be written; then the
    others are left as they are.

    Raises:
        InputError: an image is missing for a format that needs it, or the folder is closed.
    """
    sources = read_sources(folder)
    sources = replace(sources, sr_profile=sr_profile or sources.sr_profile)
    there = [name for name, pattern in PATTERNS.items() if any(folder.glob(pattern))]
    wanted = tuple(dict.fromkeys(("json", *sources.formats, *there, *formats)))
    chosen = wanted
    if "recist" in wanted and entries_by_hand(folder):
        if "recist" in formats:
            raise InputError(
                f"{ENTRIES} in the folder was not written here, or changed since; rename it, then "
                "export RECIST again"
            )
        chosen = tuple(name for name in wanted if name != "recist")  # what there is stays
    texts_only = not set(formats) - set(TEXT_FORMATS) and not _all_images(shelf)
    with staged(folder) as fresh:
        if texts_only:
            _write_texts(result, fresh, chosen)
        else:
            from tlt.io.exports import write_study  # it draws with matplotlib

            study = reviewed_study(result, shelf, extents=bool(set(chosen) & set(DRAWN_FORMATS)))
            write_study(study, fresh, chosen, _unseen, sources.sr_profile)
        if "recist" in chosen:
            _write_recist(result, events, fresh)
        known = replace(sources, formats=wanted)
        if known != read_sources(folder):
            save_sources(known, fresh)
        names = sorted(path.name for path in fresh.iterdir())
        for name in names:
            os.utime(fresh / name, (as_of, as_of))
        listed = sorted(names_in(folder / WRITTEN).union(names))
        (fresh / WRITTEN).write_text(json.dumps(listed), encoding="utf-8")
    return [name for name in names if not name.startswith(".")]


def reviewed_study(result: Result, shelf: Shelf, extents: bool = False) -> Study:
    """The study that a result tells of, as `tlt track` had it, with the images.

    With ``extents`` lesions are outlined again where the program measured them: a result has no
    room for voxels.
    """
    from tlt.registration.result import Registration
    from tlt.track import PairResult

    volumes = [shelf.stack(number).volume for number in range(len(shelf))]
    outlines = Outlines(lambda: volumes[0])
    lesions = [lesion_of(lesion) for lesion in result.lesions]
    pairs = []
    for number, followup in enumerate(result.followups, 1):
        facts = followup.registration
        registration = Registration(
            baseline_to_followup=_transform(facts.matrix),
            method=facts.method,
            similarity=float("nan") if facts.similarity is None else facts.similarity,
            ok=facts.ok,
            seconds=facts.seconds,
        )
        matches = [
            match_of(told, lesion, number)
            for told, lesion in zip(result.lesions, lesions, strict=True)
        ]
        if extents:
            matches = [outlines.with_extent(match, volumes[number]) for match in matches]
        pairs.append(PairResult(matches, registration, followup.seconds, [None] * len(matches)))
    return Study(volumes[0], volumes[1:], pairs, result)


def _write_recist(result: Result, events: Sequence[Event], folder: Path) -> None:
    from tlt.recist import assess, write_recist  # it draws with matplotlib

    entries = entries_of(result, events)
    write_recist(assess(result, entries), folder)
    write_entries(entries, folder)


def _write_texts(result: Result, folder: Path, formats: Sequence[str]) -> None:
    write_json(result, folder / "result.json")
    if "csv" in formats:
        write_csv(result, folder / "matches.csv")


def _all_images(shelf: Shelf) -> bool:
    try:
        for number in range(len(shelf)):
            shelf.stack(number)
    except InputError:
        return False
    return True


def _transform(matrix: Sequence[Sequence[float]] | None) -> AffineTransform:
    if matrix is None:
        return AffineTransform.identity()
    import numpy as np

    rows = np.array(matrix, float)
    return AffineTransform(rows[:3, :3], rows[:3, 3])


def _unseen(stage: str, fraction: float) -> None:
    """Progress that nobody watches."""
