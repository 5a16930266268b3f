"""A tracked study as files: which format gives which file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tlt.io import lesions, results
from tlt.io.dicom_references import load_references
from tlt.io.dicom_rtstruct import write_rtstruct
from tlt.io.dicom_seg import what_seg_lacks, write_seg
from tlt.io.dicom_sr_write import write_sr
from tlt.io.matches_csv import write_csv
from tlt.io.pictures import Picture, draw_pictures
from tlt.io.report import write_report
from tlt.io.results import Result
from tlt.lesion import Match, Status
from tlt.timeline import Progress
from tlt.volume import Volume

if TYPE_CHECKING:
    from tlt.pipeline import Study


def write_study(
    study: Study,
    folder: Path,
    formats: Sequence[str],
    progress: Progress,
    sr_profile: str = "plain",
) -> None:
    """Write the formats into an existing folder.

    ============== ======================================================================
    json           ``result.json``
    csv            ``matches.csv``
    html           ``report.html``, pictures included
    png            ``lesion_<id>.png``, a picture a lesion
    mrk            ``followup.mrk.json``, points and diameters for 3D Slicer
    nifti          ``followup_mask.nii.gz``, the extent or a ball of each lesion
    points         ``followup_points.json`` for grand-challenge, ``followup_points.csv``
    dicom-sr       ``followup_sr.dcm``; ``baseline_sr.dcm`` where the baseline is DICOM
    dicom-seg      ``followup_seg.dcm``, the extents; not where no lesion has one
    dicom-rtstruct ``followup_rtstruct.dcm``, outlines of the extents or balls
    ============== ======================================================================

    With several follow-ups the files of each carry its number: ``followup2.mrk.json``. What could
    not be written is added to the result's warnings.
    """
    matches = [pair.matches for pair in study.pairs]
    readers = [reader_of(study.result, n) for n in range(1, len(matches) + 1)]
    remarks = write_lesions(
        study.baseline,
        study.followups,
        matches,
        folder,
        formats,
        sr_profile,
        readers,
        study.result.time_points(),
    )
    study.result.warnings.extend(remarks)
    if "json" in formats:
        results.write_json(study.result, folder / "result.json")
    if "csv" in formats:
        write_csv(study.result, folder / "matches.csv")
    if "png" in formats or "html" in formats:
        _write_pictures(study, folder, formats, progress)


def write_lesions(
    baseline: Volume,
    followups: Sequence[Volume],
    matches: Sequence[Sequence[Match]],
    folder: Path,
    formats: Sequence[str],
    sr_profile: str = "plain",
    reader: str | Sequence[str] = "",
    time_points: Sequence[int] = (),
) -> list[str]:
    """Write the matches of each follow-up, a reader's corrections included, in a lesion format.

    Formats and files as in `write_study`; others are passed over. ``reader`` is the person who
    decided, for the SR: one, or one for each follow-up; ``time_points`` are those of baseline and
    follow-ups, 0 and up where they are not given. Returns remarks on what could not be written.
    Raises InputError for DICOM formats where a follow-up was not read from DICOM.
    """
    remarks: list[str] = []
    numbers = time_points or range(len(followups) + 1)
    readers = [reader] * len(matches) if isinstance(reader, str) else reader
    for number, (followup, found, who) in enumerate(
        zip(followups, matches, readers, strict=True), 1
    ):
        stem = folder / (f"followup{number}" if len(followups) > 1 else "followup")
        _write_points(found, followup, stem, formats)
        if "dicom-sr" in formats:
            write_sr(found, followup, f"{stem}_sr.dcm", sr_profile, numbers[number], who)
        if "dicom-seg" in formats:
            written = write_seg(found, followup, f"{stem}_seg.dcm")
            lacking = what_seg_lacks(found, written)
            if not written:
                lacking = (
                    "no DICOM SEG, because no lesion has an extent; "
                    "dicom-rtstruct and nifti draw balls instead"
                )
            if lacking:
                remarks.append(f"follow-up {number}: {lacking}")
        if "dicom-rtstruct" in formats and not write_rtstruct(
            found, followup, f"{stem}_rtstruct.dcm"
        ):
            remarks.append(f"follow-up {number}: no DICOM RTSTRUCT, because no lesion was found")
    if "dicom-sr" in formats and baseline.series_uid is not None and matches:
        if load_references(baseline).frame_uid:
            marked = [match.lesion for match in matches[0]]
            write_sr(marked, baseline, folder / "baseline_sr.dcm", sr_profile, numbers[0])
        else:
            remarks.append("baseline: no DICOM SR, because it has no Frame of Reference UID")
    return remarks


def reader_of(result: Result, followup: int) -> str:
    """Who decided last on a follow-up (from 1); empty until every match in its view is decided.

    A report with a reader's name is taken as marked by that reader, the next baseline among others;
    one glance at one lesion must not vouch for the rest.
    """
    matches = [lesion.followups[followup - 1] for lesion in result.lesions]
    reviews = [m.review for m in matches if m.review or m.status is not Status.OUTSIDE_FOV]
    decided = [review for review in reviews if review is not None]
    whole = decided and len(decided) == len(reviews)
    return max(decided, key=lambda review: review.at).by if whole else ""


def _write_points(
    found: Sequence[Match], followup: Volume, stem: Path, formats: Sequence[str]
) -> None:
    if "mrk" in formats:
        lesions.write_mrk_json(found, f"{stem}.mrk.json")
    if "nifti" in formats:
        lesions.write_mask(found, followup.grid, f"{stem}_mask.nii.gz")
    if "points" in formats:
        lesions.write_points_json(found, f"{stem}_points.json")
        lesions.write_lesions_csv(found, f"{stem}_points.csv", tracking_uids=True)


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
