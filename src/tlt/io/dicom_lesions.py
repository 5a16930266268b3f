"""Lesions from a DICOM object: which file of a folder or zip it is, whose it is, and its reader."""

from __future__ import annotations

import warnings
from pathlib import Path

import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.uid import UID

from tlt.errors import InputError
from tlt.io.dicom import dicom_paths, patient_digest
from tlt.io.dicom_files import is_dicom, plain
from tlt.io.dicom_references import References, load_references
from tlt.io.lesion_rows import Row
from tlt.volume import Volume

SR_CLASSES = {
    f"1.2.840.10008.5.1.4.1.1.88.{last}" for last in ("11", "22", "33", "34", "35")
}  # Basic Text, Enhanced, Comprehensive, Comprehensive 3D, Extensible
SEG_CLASSES = {"1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"}
RTSTRUCT_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"
KINDS = {
    **dict.fromkeys(SR_CLASSES, "SR"),
    **dict.fromkeys(SEG_CLASSES, "SEG"),
    RTSTRUCT_CLASS: "RTSTRUCT",
}
MAX_LISTED = 10
UNDEFINED = 0xFFFFFFFF


def read_dicom(path: Path, baseline: Volume) -> list[Row]:
    """The lesions of the one SR, SEG or RTSTRUCT in a file, a folder or a zip.

    Raises InputError when there is none or more than one, when it is damaged, of another patient,
    of another frame of reference or grid than the baseline, or marks nothing in it.
    """
    with dicom_paths(path) as paths:
        dataset = _chosen(paths, path)
        kind = KINDS.get(str(dataset.get("SOPClassUID")))
        if kind is None:
            raise InputError(f"{path}: {_what(dataset)}, not a SR, SEG or RTSTRUCT; give one")
        _check_patient(dataset, baseline, str(path), kind)
        references = load_references(baseline) if baseline.series_uid and baseline.path else None
        try:
            return _read(kind, dataset, str(path), baseline, references)
        except InputError:
            raise
        except Exception as error:  # whatever an impossible object makes pydicom raise
            raise InputError(
                f"{path}: damaged or impossible {kind} ({type(error).__name__}); export it again"
            ) from error


def read_time_point(path: Path) -> int:
    """The time point that a SR marks, as its Subject Time Point says; 0, the baseline, without."""
    with dicom_paths(path) as paths:
        dataset = _chosen(paths, path)
    if KINDS.get(str(dataset.SOPClassUID)) != "SR":
        return 0
    from tlt.io.dicom_sr_read import time_point_of

    return time_point_of(dataset)


def _chosen(paths: list[Path], source: Path) -> Dataset:
    """The object that is meant: the one file, or the one of a folder or zip that marks lesions."""
    single = source.is_file() and paths == [source]
    return _whole(paths[0] if single else _pick(paths, source), str(source))


def _read(
    kind: str, dataset: Dataset, name: str, baseline: Volume, references: References | None
) -> list[Row]:
    if kind == "SR":
        from tlt.io.dicom_sr_read import read_sr

        return read_sr(dataset, name, references)
    if kind == "SEG":
        from tlt.io.dicom_seg_read import read_seg

        return read_seg(dataset, name, baseline.grid, references)
    from tlt.io.dicom_rtstruct_read import read_rtstruct

    return read_rtstruct(dataset, name, baseline.grid, references)


def _pick(paths: list[Path], source: Path) -> Path:
    """The one file that marks lesions, whatever else is beside it."""
    kinds = {path: kind for path in paths if (kind := _kind(path)) is not None}
    if not kinds:
        raise InputError(
            f"{source}: no DICOM SR, SEG or RTSTRUCT in it; give the object that marks the lesions"
        )
    if len(kinds) > 1:
        unpacked = source.is_file()  # then the files have numbers for names
        shown = [
            f"{path.stem.lstrip('0') or '0' if unpacked else path.relative_to(source)} ({kind})"
            for path, kind in sorted(kinds.items())
        ]
        more = f" and {len(shown) - MAX_LISTED} more" if len(shown) > MAX_LISTED else ""
        what = "file numbers " if unpacked else ""
        raise InputError(
            f"{source}: {len(kinds)} objects that mark lesions: {what}"
            f"{', '.join(shown[:MAX_LISTED])}{more}; give one of them"
        )
    return next(iter(kinds))


def _kind(path: Path) -> str | None:
    """SR, SEG or RTSTRUCT; None for everything else, damaged files included."""
    if not is_dicom(path):
        return None
    try:
        header = pydicom.dcmread(
            path, stop_before_pixels=True, specific_tags=["SOPClassUID"], force=True
        )
        return KINDS.get(str(header.get("SOPClassUID")))
    except Exception:  # pydicom raises whatever a damaged file makes its parsers raise
        return None


def _whole(path: Path, name: str) -> Dataset:
    """The object with every element decoded; raises InputError when it is damaged or cut off."""
    try:
        with warnings.catch_warnings():
            # pydicom's warnings quote values; of a file that ends within an element it only warns.
            warnings.simplefilter("ignore")
            warnings.filterwarnings("error", message=".*end of file", category=UserWarning)
            dataset = pydicom.dcmread(path, force=True)
            _check_lengths(dataset)
            for _ in dataset.iterall():
                pass
    except Exception as error:  # pydicom raises whatever a damaged file makes its parsers raise
        raise InputError(
            f"{name}: damaged or incomplete, or not DICOM; copy or export it again"
        ) from error
    if "SOPClassUID" not in dataset:
        raise InputError(f"{name}: damaged or incomplete, or not DICOM; copy or export it again")
    return dataset


def _check_lengths(dataset: Dataset) -> None:
    """Refuse values that are shorter than they say, of which pydicom says nothing."""
    for tag in dataset.keys():  # noqa: SIM118 - iterating a dataset itself decodes it
        raw = dataset.get_item(tag)
        if not isinstance(raw, RawDataElement) or not isinstance(raw.value, bytes):
            continue
        if raw.length != UNDEFINED and len(raw.value) < raw.length:
            raise ValueError("cut off")


def _what(dataset: Dataset) -> str:
    uid = UID(str(dataset.SOPClassUID))
    return f"a DICOM {uid.name if uid.is_valid and uid.name != uid else plain(uid)}"


def _check_patient(dataset: Dataset, baseline: Volume, name: str, kind: str) -> None:
    patient = patient_digest(dataset)
    if None not in (patient, baseline.patient) and patient != baseline.patient:
        raise InputError(
            f"{name}: the {kind} carries another PatientID than the baseline; "
            "give the lesions of the same patient"
        )
