"""Lesions as a DICOM RT Structure Set: a region of interest a lesion, outlined slice by slice.

The outlines are those of the extent where there is one, else of the ball. Their centroid follows
the slices; the lesion's own centre, radius and Tracking UID stand in the ROI Description, with the
outlines' centroid and radius: a reader goes by them until somebody has moved the outlines.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from tlt.geometry import Points
from tlt.io.dicom_codes import derived_uid, plain_text
from tlt.io.dicom_references import COMMON, References, check_frame
from tlt.io.files import atomic_path
from tlt.io.lesion_rows import Origin, origin_of, placed
from tlt.io.masks import on_grid
from tlt.io.outlines import (
    Outlined,
    ball_outlines,
    extent_outlines,
    measure_outlines,
)
from tlt.lesion import Lesion, Match
from tlt.privacy import quiet_libraries
from tlt.volume import Volume

COLORS = ((230, 60, 50), (60, 160, 230), (250, 180, 40), (90, 190, 90), (190, 90, 200))
SERIES_NUMBER = 9903


@dataclass(frozen=True, eq=False)
class _Region:
    """A lesion, who drew it (DICOM's word), what is said of it, and its outlines."""

    lesion: Lesion
    origin: str
    description: str
    outlines: list[Outlined]


def write_rtstruct(
    items: Sequence[Lesion | Match],
    image: Volume,
    path: str | os.PathLike[str],
    sop_uid: str | None = None,
    series_uid: str | None = None,
    origins: Sequence[Origin] | None = None,
) -> list[str]:
    """Write lesions where they were found as an RT Structure Set; returns their ids.

    Nothing is written, and nothing returned, where none was found. ``image`` is the DICOM series
    that they lie in; ``origins`` says who drew each item, tlt by default. Raises InputError when
    the image is no DICOM series, or has no frame of reference.
    """
    references = check_frame(image)
    regions = []
    for count, lesion in placed(items):
        item = items[count - 1]
        origin = origin_of(item) if origins is None else origins[count - 1]
        extent = item.extent if isinstance(item, Match) else None
        extent = on_grid(extent, references.grid) if extent is not None else None
        if extent is None:
            drawn = list(ball_outlines(lesion, references.grid))
        else:
            drawn = list(extent_outlines(extent, references.grid))
        text = _description(lesion, drawn, extent is None)
        regions.append(_Region(lesion, origin.kind, text, drawn))
    if not regions:
        return []
    sop_uid = UID(sop_uid) if sop_uid else generate_uid(prefix=None)
    with quiet_libraries(), atomic_path(path) as beside:  # pydicom quotes odd values
        dataset = _object(references, sop_uid, series_uid or derived_uid(f"{sop_uid} series"))
        _add_regions(dataset, regions, references)
        dataset.save_as(beside, enforce_file_format=True)
    return [region.lesion.id for region in regions]


def _object(references: References, sop_uid: str, series_uid: str) -> Dataset:
    """The structure set without regions: patient, study, equipment and what it refers to."""
    image, now = references.images[0], datetime.datetime.now()
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = RTStructureSetStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = UID(sop_uid)
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = RTStructureSetStorage
    dataset.SOPInstanceUID = UID(sop_uid)
    for keyword in COMMON:
        setattr(dataset, keyword, image.get(keyword))
    dataset.StudyInstanceUID = image.StudyInstanceUID
    dataset.InstanceCreationDate, dataset.InstanceCreationTime = _date_time(now)
    dataset.Modality, dataset.SeriesInstanceUID = "RTSTRUCT", series_uid
    dataset.SeriesNumber, dataset.InstanceNumber = SERIES_NUMBER, 1
    dataset.SeriesDescription, dataset.OperatorsName = "Lesions", None
    dataset.Manufacturer, dataset.ManufacturerModelName = "Transformer Lesion Tracker", "tlt"
    dataset.SoftwareVersions = version("transformer-lesion-tracker")
    dataset.PositionReferenceIndicator = None
    dataset.FrameOfReferenceUID = references.frame_uid
    dataset.StructureSetLabel, dataset.StructureSetName = "LESIONS", "Lesions"
    dataset.StructureSetDate, dataset.StructureSetTime = _date_time(now)
    dataset.ApprovalStatus = "UNAPPROVED"
    dataset.ReferencedFrameOfReferenceSequence = [_referenced_frame(references)]
    return dataset


def _date_time(now: datetime.datetime) -> tuple[str, str]:
    return now.strftime("%Y%m%d"), now.strftime("%H%M%S")


def _referenced_frame(references: References) -> Dataset:
    image = references.images[0]
    series = Dataset()
    series.SeriesInstanceUID = image.SeriesInstanceUID
    series.ContourImageSequence = [_reference(h.SOPClassUID, h.SOPInstanceUID)
                                   for h in references.images]  # fmt: skip
    study = _reference("1.2.840.10008.3.1.2.3.1", image.StudyInstanceUID)
    study.RTReferencedSeriesSequence = [series]
    frame = Dataset()
    frame.FrameOfReferenceUID = references.frame_uid
    frame.RTReferencedStudySequence = [study]
    return frame


def _reference(sop_class: str, sop_uid: str) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = sop_class, sop_uid
    return reference


def _add_regions(dataset: Dataset, regions: Sequence[_Region], references: References) -> None:
    dataset.StructureSetROISequence = []
    dataset.ROIContourSequence = []
    dataset.RTROIObservationsSequence = []
    for number, region in enumerate(regions, 1):
        lesion, described, drawn, note = region.lesion, Dataset(), Dataset(), Dataset()
        described.ROINumber = number
        described.ReferencedFrameOfReferenceUID = references.frame_uid
        described.ROIName = plain_text(lesion.id) or f"lesion {number}"
        described.ROIDescription = region.description
        described.ROIGenerationAlgorithm = region.origin
        dataset.StructureSetROISequence.append(described)
        drawn.ROIDisplayColor = list(COLORS[(number - 1) % len(COLORS)])
        drawn.ReferencedROINumber = number
        drawn.ContourSequence = [_contour(*outline, references) for outline in region.outlines]
        dataset.ROIContourSequence.append(drawn)
        note.ObservationNumber = note.ReferencedROINumber = number
        note.ROIObservationLabel = plain_text(lesion.label, 16)
        note.RTROIInterpretedType = "GTV"
        note.ROIInterpreter = None
        dataset.RTROIObservationsSequence.append(note)


def _description(lesion: Lesion, drawn: list[Outlined], ball: bool) -> str:
    """What the outlines do not tell; a radius only where they are made from it."""
    center = ",".join(f"{v:.4f}" for v in lesion.center_mm)
    middle, reach = measure_outlines([np.round(points, 4) for _, points in drawn])
    outline = ",".join(f"{v:.4f}" for v in (*middle, reach or 0.0))
    radius = f"radius_mm={lesion.radius_mm:.4f}; " if ball else ""
    doubtful = "doubtful=yes; " if lesion.size is not None and lesion.size.doubtful else ""
    text = f"center_mm={center}; outline={outline}; {radius}{doubtful}"
    # The label comes last, as it may be cut, or hold a semicolon.
    return plain_text(f"{text}tracking_uid={lesion.tracking_uid}; label={lesion.label}", 1024)


def _contour(level: int, points: Points, references: References) -> Dataset:
    plane = references.planes[level]
    image = _reference(plane.sop_class_uid, plane.sop_uid)
    if plane.frame is not None:
        image.ReferencedFrameNumber = plane.frame
    contour = Dataset()
    contour.ContourImageSequence = [image]
    contour.ContourGeometricType = "CLOSED_PLANAR" if len(points) > 1 else "POINT"
    contour.NumberOfContourPoints = len(points)
    contour.ContourData = [f"{v:.4f}" for v in points.ravel()]
    return contour
