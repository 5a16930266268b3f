"""The DICOM images behind a volume: what SR, SEG and RTSTRUCT refer to.

Pixels that DICOM objects name are (column, row) with 0.5 at the centre of the first one (PS3.3
C.18.6.1.2); they become millimetres through the grid that the voxels have, so that a mark stays on
the pixel on which it was put.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import ArrayLike, NDArray
from pydicom.dataset import Dataset

from tlt.errors import InputError, UsageError
from tlt.geometry import Grid, Points
from tlt.io.dicom import open_series
from tlt.io.dicom_files import is_dicom
from tlt.pacs.source import is_peer_source
from tlt.volume import Volume

ALMOST = 1e-2  # of a voxel: a point counts as lying in a slice
# What the objects need from the images even where it is empty (type 2).
COMMON = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
    "StudyID", "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip


@dataclass(frozen=True)
class Plane:
    """One slice of the series: its image's UIDs, and the frame (from 1) of a multi-frame image."""

    sop_class_uid: str
    sop_uid: str
    frame: int | None


@dataclass(frozen=True, eq=False)
class References:
    """The images of a series.

    Attributes:
        grid: the grid of its voxels.
        planes: where each of its slices is, in the order of the grid.
        images: headers without pixels, in the order of the planes, a multi-frame image once.
        frame_uid: Frame of Reference UID; empty if the images have none.
    """

    grid: Grid
    planes: list[Plane]
    images: list[Dataset]
    frame_uid: str

    def points_of(self, pixels: ArrayLike, sop_uid: str, frame: int | None) -> Points | None:
        """LPS points (N, 3) of (column, row) pairs of an image; None for one of another series."""
        levels = [
            level
            for level, plane in enumerate(self.planes)
            if plane.sop_uid == sop_uid and plane.frame in (None, frame or 1)
        ]
        if not levels:
            return None
        pairs = np.asarray(pixels, float).reshape(-1, 2) - 0.5
        index = np.concatenate([np.full((len(pairs), 1), levels[0]), pairs[:, ::-1]], 1)
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
    planes = [
        Plane(
            str(headers[s.path].SOPClassUID),
            str(headers[s.path].SOPInstanceUID),
            s.frame + 1 if "PerFrameFunctionalGroupsSequence" in headers[s.path] else None,
        )
        for s in stack
    ]
    images = list(headers.values())
    frame_uid = str(images[0].get("FrameOfReferenceUID") or "")
    return References(grid, planes, images, frame_uid)


def _source(path: str) -> Path:
    if "#" in path and not Path(path).exists():
        return Path(path.rsplit("#", 1)[0])
    return Path(path)


def _header(path: str, name: str) -> Dataset:
    """The header of an image, with empty elements where the common ones are missing."""
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        missing = [keyword for keyword in COMMON if keyword not in header]
        for keyword in missing:
            setattr(header, keyword, None)
        if not all(keyword in header for keyword in ("SOPClassUID", "StudyInstanceUID")):
            raise ValueError("no SOPClassUID or StudyInstanceUID")
    except Exception as error:  # pydicom raises whatever a damaged file makes its parsers raise
        raise InputError(
            f"{name}: an image has a damaged header; export the series again"
        ) from error
    return header
