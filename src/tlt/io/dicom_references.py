"""The DICOM images behind a volume: what SR, SEG and RTSTRUCT refer to.

Pixels that DICOM objects name are (column, row) with 0.5 at the centre of the first one (PS3.3
C.18.6.1.2); they become millimetres through the grid that the voxels have, so that a mark stays on
the pixel on which it was put.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import ArrayLike, NDArray
from pydicom.config import RAISE
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.valuerep import DA, TM, validate_value

from tlt.errors import InputError, UsageError
from tlt.geometry import Grid, Points, Triple
from tlt.io.dicom import open_series
from tlt.io.dicom_files import is_dicom
from tlt.pacs.source import is_peer_source
from tlt.privacy import quiet_libraries
from tlt.volume import Volume

ALMOST = 1e-2  # of a voxel: a point counts as lying in a slice
# What the objects need from the images even where it is empty (type 2).
COMMON = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
    "StudyID", "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
NEEDED = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
SEXES = ("M", "F", "O")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plane:
    """One slice of the series.

    Attributes:
        sop_class_uid, sop_uid: of its image.
        frame: its number (from 1) in a multi-frame image.
        position_mm: LPS centre of its first pixel; up to a tolerance that of the grid.
    """

    sop_class_uid: str
    sop_uid: str
    frame: int | None
    position_mm: Triple


@dataclass(frozen=True, eq=False)
class References:
    """The images of a series.

    Attributes:
        grid: the grid of its voxels.
        planes: where each of its slices is, in the order of the grid.
        images: headers without pixels, in the order of the planes, a multi-frame image once.
        frame_uid: Frame of Reference UID; empty if the images have none.
        emptied: the elements of the headers that broke the standard and are empty here.
    """

    grid: Grid
    planes: list[Plane]
    images: list[Dataset]
    frame_uid: str
    emptied: tuple[str, ...] = ()

    def levels_of(self, sop_uid: str, frame: int | None) -> list[int]:
        """The slices that an image, or a frame of it, has in this series; none of another one."""
        return [
            level
            for level, plane in enumerate(self.planes)
            if plane.sop_uid == sop_uid and (frame is None or plane.frame in (None, frame))
        ]

    def points_of(self, pixels: ArrayLike, level: int) -> Points:
        """LPS points (N, 3) of (column, row) pairs (N, 2) in a slice."""
        pairs = np.asarray(pixels, float).reshape(-1, 2) - 0.5
        index = np.concatenate([np.full((len(pairs), 1), level), pairs[:, ::-1]], 1)
        return self.grid.index_to_mm(index)

    def pixels_of(self, points_mm: ArrayLike) -> NDArray[np.float64]:
        """(column, row) pairs (N, 2) of LPS points (N, 3), dropped onto whichever slice."""
        index = self.grid.mm_to_index(np.asarray(points_mm, float).reshape(-1, 3))
        return index[:, :0:-1] + 0.5

    def plane_near(self, point_mm: ArrayLike) -> int:
        """The slice that is nearest to an LPS point."""
        level = float(self.grid.mm_to_index(point_mm)[0])
        return int(np.clip(np.round(level), 0, len(self.planes) - 1))

    def in_one_plane(self, points_mm: ArrayLike) -> bool:
        """Whether all of some LPS points (N, 3) lie in one and the same slice."""
        levels = self.grid.mm_to_index(points_mm)[:, 0]
        return bool(np.abs(levels - np.round(levels[0])).max() <= ALMOST)

    def image(self, plane: int) -> Dataset:
        """The header of the image that a slice belongs to."""
        uid = self.planes[plane].sop_uid
        return next(image for image in self.images if uid == image.SOPInstanceUID)


def is_dicom_source(path: str | os.PathLike[str]) -> bool:
    """Whether an image was, or would be, read from DICOM: a folder, a zip or a DICOM file."""
    if is_peer_source(os.fspath(path)):
        return True
    source = _source(os.fspath(path))
    return source.is_dir() or source.suffix.lower() == ".zip" or is_dicom(source)


def check_dicom_output(path: str, formats: str) -> None:
    """Refuse DICOM output for an image that is none, and where the extra is not installed.

    Raises InputError for the image, if it is there, and UsageError for the extra.
    """
    if _source(path).exists() and not is_dicom_source(path):
        raise InputError(
            f"{path}: no DICOM series, but {formats} refers to its images and carries on its "
            "patient and study; give the DICOM series, or leave the format out"
        )
    require_highdicom()


def check_frame(volume: Volume) -> References:
    """The images of a volume in which DICOM objects can place something.

    Raises InputError when it is not from DICOM or has no frame of reference.
    """
    references = load_references(volume)
    if not references.frame_uid:
        raise InputError(
            f"{volume.path}: the images have no Frame of Reference UID, so no DICOM object can "
            "place a lesion in them; export the original series"
        )
    return references


def tell_emptied(volume: Volume) -> None:
    """Warn of a series' emptied elements, without their values: they tell who the patient is.

    Once a series is enough, and not for every object that is written; raises as `load_references`.
    """
    emptied = load_references(volume).emptied
    if emptied:
        log.warning(
            "%s: %s break the DICOM standard in the images and are left empty in what is written",
            Path(str(volume.path)).name,  # no folders: they can tell who the patient is
            ", ".join(emptied),
        )


def require_highdicom() -> None:
    """Raises UsageError where the extra ``dicom`` is not installed."""
    try:
        import highdicom  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "DICOM SR, SEG and RTSTRUCT need the package highdicom: "
            "pip install 'transformer-lesion-tracker[dicom]'"
        ) from error


def load_references(volume: Volume) -> References:
    """The images that a volume was read from; their headers are read again from its path.

    Raises InputError when the volume does not come from DICOM, or its images are no longer there.
    """
    if volume.series_uid is None or not volume.path:
        raise InputError(
            f"{volume.path or 'this image'}: not read from DICOM, so there is no DICOM image "
            "to refer to; give the DICOM series"
        )
    source = _source(volume.path)
    if not source.exists():
        raise InputError(f"{source}: the DICOM series is no longer there; put it back")
    return _load(source, volume.series_uid, source.stat().st_mtime_ns)


@lru_cache(maxsize=4)  # every format of a study asks for the same images
def _load(source: Path, series_uid: str, changed_ns: int) -> References:
    with open_series(source, series_uid) as (_, stack, grid):
        headers = {p: _header(p, str(source)) for p in dict.fromkeys(s.path for s in stack)}
    planes = []
    for s in stack:
        header = headers[s.path]
        frame = s.frame + 1 if "PerFrameFunctionalGroupsSequence" in header else None
        x, y, z = s.position_mm
        planes.append(Plane(header.SOPClassUID, header.SOPInstanceUID, frame, (x, y, z)))
    images = list(headers.values())
    emptied = _empty_invalid(images)
    frame_uid = str(images[0].get("FrameOfReferenceUID") or "")
    return References(grid, planes, images, frame_uid, emptied)


def _source(path: str) -> Path:
    if "#" in path and not Path(path).exists():
        return Path(path.rsplit("#", 1)[0])
    return Path(path)


def _header(path: str, name: str) -> Dataset:
    """The header of an image, with empty elements where the common ones are missing."""
    try:
        with quiet_libraries():  # pydicom's warnings quote values
            header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
            for keyword in COMMON:
                if header.get(keyword) is None:
                    setattr(header, keyword, None)
            missing = [keyword for keyword in NEEDED if not header.get(keyword)]
            if missing:
                raise ValueError(f"no {missing[0]}")
    except Exception as error:  # pydicom raises whatever a damaged file makes its parsers raise
        raise InputError(
            f"{name}: an image has a damaged header, or lacks its own UID, or that of its series "
            "or study; export the series again"
        ) from error
    return header


def _empty_invalid(images: Iterable[Dataset]) -> tuple[str, ...]:
    """Empty what breaks the standard: DICOM objects that took it over could not be written."""
    emptied = set()
    for image in images:
        for keyword in COMMON:
            if not _is_valid(keyword, image[keyword].value):
                setattr(image, keyword, None)
                emptied.add(keyword)
    return tuple(sorted(emptied))


def _is_valid(keyword: str, value: object) -> bool:
    """Whether a date, a time, a sex or a name is one, and a single one; others are not checked."""
    vr = dictionary_VR(keyword)
    if not value or vr not in ("DA", "TM", "CS", "PN"):
        return True
    if vr == "CS" or isinstance(value, MultiValue):
        return value in SEXES
    try:
        validate_value(vr, value, RAISE)
        return vr == "PN" or (DA if vr == "DA" else TM)(value) is not None
    except ValueError:
        return False
