"""Lesions of a baseline from any format into any other."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from tlt.errors import InputError, UsageError
from tlt.io.images import load_volume
from tlt.io.lesion_rows import Row
from tlt.io.lesions import (
    read_rows,
    read_time_point,
    write_lesions_csv,
    write_mask,
    write_mrk_json,
    write_points_json,
    write_prompts_json,
)
from tlt.lesion import Lesion, Match, Status
from tlt.volume import Volume

ENDINGS = {
    ".csv": "csv",
    ".mrk.json": "mrk",
    ".nii": "nifti",
    ".nii.gz": "nifti",
    ".nrrd": "nifti",
    ".mha": "nifti",
    ".dcm": "dicom-sr",
}
# The endings that a named format may be written to.
FORMATS = {
    "csv": (".csv",),
    "mrk": (".mrk.json",),
    "points": (".json",),
    "prompts": (".json",),
    "nifti": (".nii", ".nii.gz", ".nrrd", ".mha"),
    "dicom-sr": (".dcm",),
    "dicom-seg": (".dcm",),
    "dicom-rtstruct": (".dcm",),
}

log = logging.getLogger(__name__)


def convert_lesions(
    source: str | os.PathLike[str],
    baseline: str | os.PathLike[str],
    output: Path,
    to: str | None = None,
    points_in: str | None = None,
    sr_profile: str = "plain",
) -> int:
    """Write the lesions of a file in another format; returns how many were written.

    Args:
        source: lesions in any format.
        baseline: the image that they lie in; for DICOM output its DICOM series.
        output: the file, whose ending says the format where it can.
        to: a key of ``FORMATS``; None goes by the ending.
        points_in: frame of grand-challenge points.
        sr_profile: ``plain`` or ``ohif``.

    Raises:
        UsageError: a format that does not go with the ending, or that the ending leaves open.
        InputError: lesions or image cannot be read, or the image is not DICOM but the output is.
    """
    to = format_of(output, to)
    if to.startswith("dicom-"):
        from tlt.io.dicom_references import check_dicom_output

        check_dicom_output(os.fspath(baseline), to)
    image = load_volume(baseline)
    marked = read_rows(source, image, points_in)
    if to.startswith("dicom-"):
        from tlt.io.dicom_references import tell_emptied

        tell_emptied(image)
        if to == "dicom-sr":
            from tlt.io.dicom_sr_write import write_sr

            items = [_as_told(lesion, row) for lesion, row in marked]
            write_sr(items, image, output, sr_profile, read_time_point(source))
            return len(items)
        return _write_dicom(marked, image, output, to)
    lesions = [lesion for lesion, _ in marked]
    if to == "csv":
        write_lesions_csv(lesions, output, tracking_uids=True)
    elif to == "mrk":
        write_mrk_json(lesions, output)
    elif to == "points":
        write_points_json(lesions, output)
    elif to == "prompts":
        write_prompts_json(lesions, image.grid, output)
    else:
        write_mask(_with_extents(marked), image.grid, output)
    return len(lesions)


def format_of(output: Path, to: str | None) -> str:
    """The format that a file name and a name of a format say together; raises UsageError."""
    name = output.name.lower()
    if to is not None:
        if to not in FORMATS:
            raise UsageError(f"--format {to}: unknown; use one of {' '.join(FORMATS)}")
        if not name.endswith(FORMATS[to]):
            raise UsageError(
                f"--output {output.name}: {to} needs the ending {' or '.join(FORMATS[to])}"
            )
        return to
    known = [kind for ending, kind in ENDINGS.items() if name.endswith(ending)]
    if known:
        return known[0]
    if name.endswith(".json"):
        raise UsageError(
            f"--output {output.name}: say --format points (grand-challenge) or prompts "
            "(LesionLocator), or end it in .mrk.json for 3D Slicer"
        )
    raise UsageError(
        f"--output {output.name}: an ending of no lesion format; use {' '.join(ENDINGS)} or .json"
    )


def _write_dicom(marked: list[tuple[Lesion, Row]], image: Volume, output: Path, to: str) -> int:
    matches, origins = _with_extents(marked), [row.origin for _, row in marked]
    if to == "dicom-rtstruct":
        from tlt.io.dicom_rtstruct import write_rtstruct

        return len(write_rtstruct(matches, image, output, origins=origins))
    from tlt.io.dicom_seg import what_seg_lacks, write_seg

    written = write_seg(matches, image, output, origins=origins)
    if not written:
        raise InputError(
            f"{output}: no SEG, because the lesions have no voxels of their own; "
            "convert a mask, SEG or RTSTRUCT, or use dicom-sr or dicom-rtstruct"
        )
    lacking = what_seg_lacks(matches, written)
    if lacking:
        log.warning("%s: %s", output.name, lacking)
    return len(written)


def _as_told(lesion: Lesion, row: Row) -> Lesion | Match:
    """A lesion; what no reader decided on stays a match: it must not pass for a person's mark."""
    if row.status is None:
        return lesion
    sure = lesion.size is not None and not lesion.size.doubtful
    return Match(
        lesion, row.status, lesion.center_mm, row.confidence, lesion.center_mm,
        lesion.radius_mm if sure else None, lesion.size,
    )  # fmt: skip


def _with_extents(marked: list[tuple[Lesion, Row]]) -> list[Match]:
    """The lesions at their own place, as what writers of voxels take."""
    return [
        Match(
            lesion, Status.FOUND, lesion.center_mm, 1.0, lesion.center_mm, lesion.radius_mm,
            lesion.size, extent=row.extent,
        )
        for lesion, row in marked
    ]  # fmt: skip
