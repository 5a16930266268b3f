"""A tracked study as files: which format gives which file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tlt.io import lesions, results
from tlt.io.pictures import Picture, draw_pictures
from tlt.io.report import write_report
from tlt.timeline import Progress

if TYPE_CHECKING:
    from tlt.pipeline import Study


def write_study(study: Study, folder: Path, formats: Sequence[str], progress: Progress) -> None:
    """Write the formats (``json csv html png mrk nifti``) into an existing folder.

    ==== =====================================================
    json ``result.json``
    csv  ``matches.csv``
    html ``report.html``, pictures included
    png  ``lesion_<id>.png``, a picture a lesion
    mrk  ``followup.mrk.json``, points for 3D Slicer
    nifti ``followup_mask.nii.gz``, the lesions as measured, or as balls
    ==== =====================================================

    With several follow-ups the files of each carry its number: ``followup2.mrk.json``.
    """
    if "json" in formats:
        results.write_json(study.result, folder / "result.json")
    if "csv" in formats:
        results.write_csv(study.result, folder / "matches.csv")
    if "mrk" in formats or "nifti" in formats:
        _write_lesions(study, folder, formats)
    if "png" in formats or "html" in formats:
        _write_pictures(study, folder, formats, progress)


def _write_lesions(study: Study, folder: Path, formats: Sequence[str]) -> None:
    for number, (followup, pair) in enumerate(zip(study.followups, study.pairs, strict=True), 1):
        stem = f"followup{number}" if len(study.pairs) > 1 else "followup"
        if "mrk" in formats:
            lesions.write_mrk_json(pair.matches, folder / f"{stem}.mrk.json")
        if "nifti" in formats:
            lesions.write_mask(pair.matches, followup.grid, folder / f"{stem}_mask.nii.gz")


def _write_pictures(study: Study, folder: Path, formats: Sequence[str], progress: Progress) -> None:
    pictures: list[Picture] = []
    total = sum(len(pair.matches) for pair in study.pairs)
    progress("draw pictures", 0.0)
    for picture in draw_pictures(study.baseline, study.followups, study.pairs):
        pictures.append(picture)
        progress("draw pictures", len(pictures) / total)
    if "png" in formats:
        for picture in pictures:
            (folder / picture.file_name).write_bytes(picture.png)
    if "html" in formats:
        write_report(study.result, pictures, folder / "report.html")
