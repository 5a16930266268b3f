"""Lesions of a DICOM RT Structure Set, ours and those of other programs.

Our notes on a region count only as long as its outlines have the centroid and the radius with which
they were written.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
from pydicom.dataset import Dataset

from tlt.errors import InputError
from tlt.geometry import Grid, Points
from tlt.io.dicom_references import References
from tlt.io.instances import measure_mask, split_only, tell_odd
from tlt.io.lesion_rows import Origin, Row, notes_of, with_unique_ids
from tlt.io.outlines import fill_outlines, measure_outlines

# Types of regions that are no lesions.
NOT_LESIONS = {
    "EXTERNAL", "ORGAN", "AVOIDANCE", "SUPPORT", "FIXATION", "BOLUS", "CAVITY", "DOSE_REGION",
    "CONTRAST_AGENT", "CONTROL", "REGISTRATION", "ISOCENTER",
}  # fmt: skip
MAX_POINTS = 2_000_000
SAME_MM = 0.05  # by which a centroid and a radius of outlines may differ that nobody has changed
GAP = 1  # slices that may be left out within a lesion

log = logging.getLogger(__name__)


def read_rtstruct(
    dataset: Dataset, name: str, baseline: Grid, references: References | None
) -> list[Row]:
    """The regions of interest of an RT Structure Set; organs and the like are left out.

    The only region is split into its unconnected parts where it has no Tracking UID of ours. Raises
    InputError for another frame of reference than the baseline's, and where nothing is outlined.
    """
    regions = {int(r.ROINumber): r for r in dataset.get("StructureSetROISequence") or []}
    notes = {int(o.ReferencedROINumber): o for o in dataset.get("RTROIObservationsSequence") or []}
    rows, organs = [], 0
    for item in dataset.get("ROIContourSequence") or []:
        number = int(item.ReferencedROINumber)
        if number not in regions:
            raise InputError(f"{name}: contours of ROI {number}, which is not described in it")
        note = notes.get(number, Dataset())
        if str(note.get("RTROIInterpretedType") or "").upper() in NOT_LESIONS:
            organs += 1
            continue
        contours = _contours(item)
        if contours:
            _check_frame(regions[number], name, references)
            row = _row(regions[number], note, contours, f"{name}: ROI {number}", baseline)
            rows.append(replace(row, origin=_origin(regions[number], dataset)))
            if row.extent is None and _lies_between(row, contours):
                log.warning(
                    "%s: its centre lies far from all of its outlines; outline every lesion by "
                    "itself",
                    row.where,
                )
    if not rows:
        raise InputError(
            f"{name}: no outlined lesion in the RTSTRUCT ({organs} regions are organs or the "
            "like); outline at least one lesion"
        )
    if organs:
        log.warning("%s: %d regions are organs or the like and are left out", name, organs)
    rows = split_only(rows, GAP)
    tell_odd(rows, name, GAP)
    return with_unique_ids(rows)


def _contours(item: Dataset) -> list[Points]:
    contours = []
    for contour in item.get("ContourSequence") or []:
        flat = np.array([float(v) for v in contour.ContourData], float)
        if flat.size % 3 or flat.size > MAX_POINTS:
            raise ValueError("ContourData")
        if flat.size:
            contours.append(flat.reshape(-1, 3))
    return contours


def _check_frame(region: Dataset, name: str, references: References | None) -> None:
    frame = str(region.get("ReferencedFrameOfReferenceUID") or "")
    if references is not None and frame != references.frame_uid:
        raise InputError(
            f"{name}: the RTSTRUCT has another frame of reference than the baseline; "
            "give the one that was drawn on this baseline"
        )


def _row(region: Dataset, note: Dataset, contours: list[Points], where: str, baseline: Grid) -> Row:
    """A region: its outlines, and of our notes those that still fit them."""
    ours = notes_of(str(region.get("ROIDescription") or ""))
    center, radius = measure_outlines(contours)
    extent = fill_outlines(contours, baseline)
    size = measure_mask(extent)[1] if extent is not None else None
    if _unchanged(ours, center, radius):
        if "center_mm" in ours:
            center = np.array([float(v) for v in ours["center_mm"].split(",")]).reshape(3)
        if "radius_mm" in ours:  # a ball, whose size nobody measured
            radius, size = float(ours["radius_mm"]), None
        elif size is not None:
            size = replace(size, doubtful="doubtful" in ours)
    return Row(
        where=where,
        id=str(region.get("ROIName") or ""),
        center_mm=center,
        radius_mm=radius,
        label=(ours.get("label") or str(note.get("ROIObservationLabel") or "")).strip(),
        tracking_uid=ours.get("tracking_uid", ""),
        size=size,
        extent=extent,
    )


def _unchanged(ours: dict[str, str], center: Points, radius: float | None) -> bool:
    """Whether outlines have the centroid and the radius with which we wrote them."""
    if "outline" not in ours:
        return False
    told = np.array([float(v) for v in ours["outline"].split(",")])
    return bool(np.abs(told - [*center, radius or 0.0]).max() <= SAME_MM)


def _lies_between(row: Row, contours: list[Points]) -> bool:
    """Whether the centre is more than a radius away from every outline: of several lesions."""
    away = np.linalg.norm(np.concatenate(contours) - row.center_mm, axis=1).min()
    return row.radius_mm is not None and bool(away > row.radius_mm)


def _origin(region: Dataset, dataset: Dataset) -> Origin:
    kind = str(region.get("ROIGenerationAlgorithm") or "")
    program = str(dataset.get("ManufacturerModelName") or "unknown")
    return Origin(kind, program) if kind in ("AUTOMATIC", "SEMIAUTOMATIC") else Origin()
