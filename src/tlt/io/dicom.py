"""Reading one DICOM CT series from a folder or a zip.

GDCM, through SimpleITK, decodes the pixels. It orders slices but takes their geometry on trust: a
missing slice or a tilted gantry only gives a wrong spacing. So every position is checked here, and
the grid is made from the checked positions.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from tlt.errors import InputError
from tlt.geometry import Grid
from tlt.io.dicom_files import DATES, File, pick_series, plain, read_headers
from tlt.io.dicom_geometry import Slice, sorted_stack
from tlt.io.zips import extract_dicom
from tlt.volume import Volume

MIN_SIZE = 4  # voxels along each axis; fewer cannot be registered
SALT = secrets.token_bytes(16)  # of this process alone: digests of IDs tell nothing outside it


def read_series(source: str | os.PathLike[str], series_uid: str | None = None) -> Volume:
    """The one CT series in a folder, a zip or a multi-frame file, rescaled to HU.

    Files that are not CT images, and localizers, are passed over. ``series_uid`` picks one series.
    Raises InputError when there is no CT series or more than one, and for missing slices, two
    acquisitions in one series, a tilted gantry, and slices that differ in size or orientation.
    """
    name = str(source)
    with open_series(source, series_uid) as (files, stack, grid):
        voxels = _pixels(stack, name)
    if voxels.shape != grid.shape_zyx:
        raise InputError(f"{name}: the pixels do not fit their headers; export the series again")
    header = files[0].header
    uid = str(header.SeriesInstanceUID)
    return Volume(voxels, grid, name, uid, _date(header), patient_digest(header))


@contextmanager
def open_series(
    source: str | os.PathLike[str], series_uid: str | None = None
) -> Iterator[tuple[list[File], list[Slice], Grid]]:
    """The files of the one CT series, their slices in the order of their grid, and the grid.

    The files of a zip are there as long as the block runs. Raises as `read_series` does.
    """
    with dicom_paths(Path(source)) as paths:
        files = pick_series(read_headers(paths), Path(source), series_uid)
        yield files, *_stack(files, str(source))


@contextmanager
def dicom_paths(source: Path) -> Iterator[list[Path]]:
    """The files of a folder or of a zip, which is unpacked while the block runs; or the one file.

    Raises InputError for a zip that is damaged, encrypted or too large.
    """
    with _folder_of(source) as folder:
        single = source.is_file() and folder == source.parent
        yield [source] if single else _walk(folder)


@contextmanager
def _folder_of(source: Path) -> Iterator[Path]:
    if source.suffix.lower() == ".zip" and source.is_file():
        with TemporaryDirectory(prefix="tlt-") as folder:
            extract_dicom(source, Path(folder))
            yield Path(folder)
    else:
        yield source if source.is_dir() else source.parent


def _walk(folder: Path) -> list[Path]:
    return [Path(root, name) for root, _, names in os.walk(folder) for name in sorted(names)]


def _stack(files: list[File], name: str) -> tuple[list[Slice], Grid]:
    _check_files(files, name)
    try:
        slices = [s for file in files for s in _slices(file)]
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(
            f"{name}: an image lacks its position, orientation, pixel spacing or rescale, or has "
            "impossible ones; export the original series"
        ) from error
    # The same image twice, as some exports have it, is one image.
    slices = list({(s.sop_uid, s.frame, s.position_mm): s for s in slices}.values())
    if len(slices) < MIN_SIZE:
        raise InputError(
            f"{name}: {len(slices)} slices; at least {MIN_SIZE} are needed; "
            "give the folder of the whole series"
        )
    return sorted_stack(slices, name)


def _check_files(files: list[File], name: str) -> None:
    broken = sum(not file.complete for file in files)
    if broken:
        raise InputError(
            f"{name}: {broken} of {len(files)} slices have incomplete pixel data; "
            "copy the series again"
        )
    if any(int(file.header.get("SamplesPerPixel") or 1) != 1 for file in files):
        raise InputError(f"{name}: colour images; give the CT series, not its screenshots")
    kinds = {plain(file.header.get("RescaleType") or "HU").upper() for file in files}
    if kinds - {"HU", "US"}:
        raise InputError(
            f"{name}: the values are in {', '.join(sorted(kinds))}, not HU; "
            "give the series in Hounsfield units"
        )
    if len(files) > 1 and any("NumberOfFrames" in f.header and not _single(f) for f in files):
        raise InputError(
            f"{name}: {len(files)} multi-frame images in one series; give the file of one of them"
        )


def _single(file: File) -> bool:
    return int(file.header.NumberOfFrames or 1) == 1


def _slices(file: File) -> list[Slice]:
    """The slices of a file: one, or each frame of an Enhanced CT."""
    header = file.header
    if "PerFrameFunctionalGroupsSequence" not in header:
        return [_slice(file, 0, header, header, header, header)]
    shared = (header.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    return [
        _slice(
            file,
            index,
            _group("PlanePositionSequence", groups, shared),
            _group("PlaneOrientationSequence", groups, shared),
            _group("PixelMeasuresSequence", groups, shared),
            _group("PixelValueTransformationSequence", groups, shared),
        )
        for index, groups in enumerate(header.PerFrameFunctionalGroupsSequence)
    ]


def _group(keyword: str, groups: Dataset, shared: Dataset) -> Dataset:
    """A functional group of a frame, or the one that all frames share; empty if there is none."""
    sequence = groups.get(keyword) or shared.get(keyword)
    return sequence[0] if sequence else Dataset()


def _slice(
    file: File, frame: int, plane: Dataset, axes: Dataset, measures: Dataset, rescale: Dataset
) -> Slice:
    header = file.header
    row_mm, column_mm = _finite(measures.PixelSpacing, 2)
    raw = [rescale.get("RescaleSlope", 1) or 1, rescale.get("RescaleIntercept", 0) or 0]
    slope, intercept = _finite(raw, 2)
    bits = int(header.get("BitsStored") or 16)
    if not 1 <= bits <= 32:
        raise ValueError("BitsStored")
    lowest = -(2 ** (bits - 1)) if header.get("PixelRepresentation") else 0
    return Slice(
        path=file.path,
        frame=frame,
        sop_uid=str(header.get("SOPInstanceUID")),
        size_xy=(int(header.Columns), int(header.Rows)),
        spacing_xy=(column_mm, row_mm),
        position_mm=_finite(plane.ImagePositionPatient, 3),
        orientation=_finite(axes.ImageOrientationPatient, 6),
        rescale=(slope, intercept),
        stored_range=(lowest, lowest + 2**bits - 1),
        acquisition=plain(header.get("AcquisitionNumber") or header.get("AcquisitionTime") or "?"),
    )


def _finite(values: Iterable, count: int) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise ValueError(f"not {count} finite numbers")
    return numbers


def _pixels(stack: list[Slice], name: str) -> NDArray:
    """The voxels (D, H, W) of the slices, in their order, rescaled."""
    many = len({s.path for s in stack}) > 1
    if not many and len({s.rescale for s in stack}) > 1:
        raise InputError(f"{name}: frames with different rescale; export it as single-frame CT")
    reader = sitk.ImageSeriesReader() if many else sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetOutputPixelType(_pixel_type(stack))
    if isinstance(reader, sitk.ImageSeriesReader):
        reader.SetFileNames([s.path for s in stack])
    else:
        reader.SetFileName(stack[0].path)
    # Slices were checked more strictly than ITK does; its warnings would only repeat jitter.
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        voxels = sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        raise InputError(
            f"{name}: the pixel data cannot be decoded (damaged, or an unknown transfer syntax); "
            "export the series uncompressed"
        ) from error
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)
    frames = [s.frame for s in stack]
    if many or frames == list(range(len(voxels))):
        return voxels
    return np.ascontiguousarray(voxels[frames])


def _pixel_type(stack: list[Slice]) -> int:
    """The smallest type that holds every rescaled value: slices of a series can differ."""
    ends = [v * s.rescale[0] + s.rescale[1] for s in stack for v in s.stored_range]
    if any(not float(v).is_integer() for s in stack for v in s.rescale):
        return sitk.sitkFloat32
    return sitk.sitkInt16 if min(ends) >= -32768 and max(ends) <= 32767 else sitk.sitkInt32


def _date(header: Dataset) -> str | None:
    for key in DATES:
        text = str(header.get(key) or "")[:8]
        if len(text) == 8 and text.isdigit():
            return text
    return None


def patient_digest(header: Dataset) -> bytes | None:
    """A digest that two objects share if they carry the same PatientID; None without one."""
    name = str(header.get("PatientID") or "").strip()
    return hashlib.blake2b(name.encode(), key=SALT).digest() if name else None
