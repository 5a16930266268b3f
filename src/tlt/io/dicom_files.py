"""Finding the DICOM files of one CT series among whatever else a folder holds."""

from __future__ import annotations

import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pydicom
from pydicom.dataset import Dataset

from tlt.errors import InputError
from tlt.io.zips import starts_as_dicom

UNCOMPRESSED = {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"}
DATES = ("AcquisitionDate", "AcquisitionDateTime", "SeriesDate", "ContentDate", "StudyDate")
TAGS = [
    *DATES, "PatientID", "SOPInstanceUID", "SeriesInstanceUID", "Modality", "ImageType",
    "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "BitsAllocated", "BitsStored",
    "PixelRepresentation", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient",
    "RescaleSlope", "RescaleIntercept", "RescaleType", "AcquisitionNumber", "AcquisitionTime",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class File:
    """A DICOM file: its header without pixels, and whether all its pixels are there."""

    path: str
    header: Dataset
    complete: bool

    @property
    def is_localizer(self) -> bool:
        return "LOCALIZER" in (self.header.get("ImageType") or [])

    @property
    def is_ct(self) -> bool:
        """A CT image that lies somewhere; not a screenshot or a dose report called CT."""
        placed = "ImagePositionPatient" in self.header
        framed = "PerFrameFunctionalGroupsSequence" in self.header
        return self.header.get("Modality") == "CT" and "Rows" in self.header and (placed or framed)


def is_dicom(path: Path) -> bool:
    """Whether a file starts as DICOM does."""
    try:
        with path.open("rb") as file:
            return starts_as_dicom(file.read(132))
    except OSError:
        return False


def read_headers(paths: Iterable[Path]) -> list[File]:
    """The headers of those files that are DICOM; others are passed over."""
    files, damaged = [], 0
    for path in paths:
        if not is_dicom(path):
            continue
        try:
            with path.open("rb") as file:
                header, complete = read_header(file, os.fstat(file.fileno()).st_size)
        except Exception:  # pydicom raises whatever a damaged file makes its parsers raise
            damaged += 1
            continue
        if "SeriesInstanceUID" in header:
            files.append(File(str(path), header, complete))
    if damaged:
        log.warning("%d damaged DICOM files were passed over", damaged)
    return files


def read_header(file: BinaryIO, size: int) -> tuple[Dataset, bool]:
    """The header of an open DICOM file of ``size`` bytes, and whether all its pixels are there.

    Raises whatever pydicom raises when the file is damaged.
    """
    header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(TAGS), force=True)
    left = size - file.tell()
    for _ in header:  # decode every element now, where errors are expected
        pass
    pixels = _pixel_bytes(header)
    head = 8 if header.original_encoding[0] else 12  # of the pixels: tag and length
    return header, pixels == 0 or left >= head + pixels


def _pixel_bytes(header: Dataset) -> int:
    """How many bytes of pixels must follow the header; 1 where they are compressed."""
    syntax = header.file_meta.get("TransferSyntaxUID") if hasattr(header, "file_meta") else None
    if syntax is not None and syntax not in UNCOMPRESSED:
        return 1
    bits = int(header.get("BitsAllocated") or 16) * int(header.get("SamplesPerPixel") or 1)
    frames = int(header.get("NumberOfFrames") or 1)
    return int(header.get("Rows") or 0) * int(header.get("Columns") or 0) * frames * bits // 8


def pick_series(files: list[File], source: Path, series_uid: str | None) -> list[File]:
    """The files of the one CT series that is meant, localizers left out.

    Raises InputError, with the list of series, when there is none or no single one.
    """
    if not files:
        raise InputError(f"{source}: holds no DICOM image; give the folder of one CT series")
    every: dict[str, list[File]] = defaultdict(list)
    for file in files:
        every[str(file.header.SeriesInstanceUID)].append(file)
    series = {uid: [f for f in group if f.is_ct] for uid, group in every.items()}
    series = {uid: group for uid, group in series.items() if group}
    if series_uid is not None:
        if series_uid not in every:
            raise InputError(f"{source}: no series {series_uid}; it holds {_listed(every)}")
        every = {series_uid: every[series_uid]}
        series = {uid: group for uid, group in series.items() if uid == series_uid}
    if not series:
        raise _no_ct(source, every)
    scans = {uid: kept for uid, group in series.items() if (kept := _scan(group))}
    if not scans:
        raise InputError(f"{source}: holds only a localizer (scout); give the CT series itself")
    if len(scans) > 1:
        raise InputError(
            f"{source}: {len(scans)} CT series: {_listed(scans)}; pick one as {source}#SERIES_UID"
        )
    return next(iter(scans.values()))


def _scan(group: list[File]) -> list[File]:
    return [file for file in group if not file.is_localizer]


def _no_ct(source: Path, every: dict[str, list[File]]) -> InputError:
    if any(f.header.get("Modality") == "CT" for group in every.values() for f in group):
        return InputError(
            f"{source}: its CT images have no ImagePositionPatient, so their place is unknown; "
            "export the original series"
        )
    return InputError(f"{source}: holds no CT series, but {_listed(every)}; give a CT")


def _listed(series: dict[str, list[File]]) -> str:
    """Series by UID, modality and number of slices: descriptions can hold names."""
    parts = []
    for uid, group in sorted(series.items()):
        frames = sum(int(file.header.get("NumberOfFrames") or 1) for file in group)
        modality = plain(group[0].header.get("Modality", "?"))
        parts.append(f"{plain(uid)} ({modality}, {frames} slices)")
    more = f" and {len(parts) - 20} more" if len(parts) > 20 else ""
    return ", ".join(parts[:20]) + more


def plain(value: object) -> str:
    """A header's value for a one-line message: no spaces, control characters or long texts."""
    return re.sub(r"[^\w.-]", "?", str(value))[:64]
