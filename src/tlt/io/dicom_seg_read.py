"""Lesions of a DICOM SEG, on the voxels of a baseline.

A frame lies in the slice that is at its own position, which may be a little beside the even steps
of the baseline's grid, or at one of these steps, as programs write it that resample.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from tlt.errors import InputError
from tlt.geometry import Grid, Points
from tlt.io import dicom_codes as known
from tlt.io.dicom_geometry import SIDEWAYS_MM, UNEVEN_MM
from tlt.io.dicom_references import References
from tlt.io.dicom_seg import DOUBTFUL
from tlt.io.instances import measure_mask, split_only, tell_odd
from tlt.io.lesion_rows import Origin, Row, with_unique_ids
from tlt.volume import Volume

LABELMAP_CLASS = "1.2.840.10008.5.1.4.1.1.66.7"
OFF_GRID = 0.1  # of a voxel: further off, a segment's voxels are not the baseline's
MAX_VOXELS = 1 << 31


def read_seg(
    dataset: Dataset, name: str, baseline: Grid, references: References | None
) -> list[Row]:
    """The segments of a SEG on the baseline's voxels, those of one Tracking UID as one lesion.

    The only segment is split into its unconnected parts where it has no Tracking UID. Raises
    InputError for another frame of reference, voxels that are not the baseline's, and a SEG in
    which nothing is marked.
    """
    frame = str(dataset.get("FrameOfReferenceUID") or "")
    if references is not None and frame != references.frame_uid:
        raise InputError(
            f"{name}: the SEG has another frame of reference than the baseline; "
            "give the SEG that was drawn on this baseline"
        )
    segments = {int(s.SegmentNumber): s for s in dataset.get("SegmentSequence") or []}
    found: dict[str, list[NDArray]] = {}
    meant: dict[str, Dataset] = {}
    for number, index in _marked(dataset, name, baseline, references):
        if number not in segments:
            raise InputError(f"{name}: a frame of segment {number}, which is not described in it")
        key = str(segments[number].get("TrackingUID") or "") or f"segment {number}"
        found.setdefault(key, []).append(index)
        meant.setdefault(key, segments[number])
    if not found:
        raise InputError(f"{name}: the SEG is empty; mark at least one lesion")
    rows = [
        _row(meant[key], np.concatenate(found[key]), f"{name}: segment {key}", baseline)
        for key in sorted(found, key=lambda key: int(meant[key].SegmentNumber))
    ]
    rows = split_only(rows)
    tell_odd(rows, name)
    return with_unique_ids(rows)


def _marked(
    dataset: Dataset, name: str, grid: Grid, references: References | None
) -> Iterator[tuple[int, NDArray]]:
    """Each frame's segment number and the baseline's voxels (N, 3; z, y, x) marked in it."""
    frames = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    if not frames:
        raise InputError(f"{name}: the SEG has no frames; export it again")
    if len(frames) * int(dataset.Rows) * int(dataset.Columns) > MAX_VOXELS:
        raise InputError(f"{name}: the SEG has too many voxels; export only the lesions")
    pixels = np.asarray(dataset.pixel_array).reshape(len(frames), dataset.Rows, dataset.Columns)
    labelmap = str(dataset.SOPClassUID) == LABELMAP_CLASS
    half = 1
    if str(dataset.get("SegmentationType")) == "FRACTIONAL":
        half = (int(dataset.get("MaximumFractionalValue") or 255) + 1) // 2
    for groups, plane in zip(frames, pixels, strict=True):
        index = _voxels(np.argwhere(plane >= half), groups, shared, grid, references, name)
        if not len(index):
            continue
        if not labelmap:
            identification = _group("SegmentIdentificationSequence", groups, shared)
            yield int(identification.ReferencedSegmentNumber), index
            continue
        values = plane[plane >= half]
        for value in np.unique(values).tolist():
            yield int(value), index[values == value]


def _voxels(
    pixels: NDArray,
    groups: Dataset,
    shared: Dataset,
    grid: Grid,
    references: References | None,
    name: str,
) -> NDArray[np.int64]:
    """The baseline's voxels of the (row, column) pixels of a frame."""
    row, column = np.reshape(
        [
            float(v)
            for v in _group("PlaneOrientationSequence", groups, shared).ImageOrientationPatient
        ],
        (2, 3),
    )
    down, right = (float(v) for v in _group("PixelMeasuresSequence", groups, shared).PixelSpacing)
    first = [float(v) for v in _group("PlanePositionSequence", groups, shared).ImagePositionPatient]
    start, near = _start(np.array(first), grid, references)
    steps = np.array([column * down, row * right]) @ np.linalg.inv(grid.axes).T[:, ::-1]
    whole = np.round(steps)
    off = np.abs(steps - whole).max() * max(1, pixels.max(initial=1))
    beside = (np.abs(start - np.round(start)) > near).any() or not np.isfinite(start).all()
    if beside or not off <= OFF_GRID or (np.abs(whole).sum(1) != 1).any():
        raise InputError(
            f"{name}: the SEG lies on another grid than the baseline (pixels of {down:g} x "
            f"{right:g} mm; the baseline's voxels are "
            f"{' x '.join(f'{s:g}' for s in grid.spacing_mm)} mm, or lie elsewhere); "
            "give the SEG that was drawn on this baseline, or export it on its grid"
        )
    index = (np.round(start) + pixels @ whole).astype(np.int64)
    if ((index < 0) | (index >= grid.shape_zyx)).any():
        raise InputError(
            f"{name}: the SEG marks voxels outside the baseline; "
            "give the SEG that was drawn on this baseline"
        )
    return index


def _start(
    first_mm: Points, grid: Grid, references: References | None
) -> tuple[Points, NDArray[np.float64]]:
    """The voxel (z, y, x) of a frame's first pixel, and by how much it may be no whole one.

    It is counted from the grid or from the nearest slice's own position, whichever it fits better.
    Where the slices' own positions are not known, it is by what they may lie beside the grid.
    """
    start = grid.mm_to_index(first_mm)
    if references is None:
        beside_mm = np.array([UNEVEN_MM, SIDEWAYS_MM, SIDEWAYS_MM])
        return start, np.maximum(OFF_GRID, beside_mm / grid.spacing_mm[::-1])
    ways = start - grid.mm_to_index([plane.position_mm for plane in references.planes])
    level = int(np.abs(ways[:, 0]).argmin())
    starts = (ways[level] + (level, 0, 0), start)
    return min(starts, key=lambda one: np.abs(one - np.round(one)).max()), np.full(3, OFF_GRID)


def _group(keyword: str, groups: Dataset, shared: Dataset) -> Dataset:
    return (groups.get(keyword) or shared.get(keyword) or [Dataset()])[0]


def _row(segment: Dataset, index: NDArray, where: str, grid: Grid) -> Row:
    low, high = index.min(0), index.max(0) + 1
    mask = np.zeros(high - low, np.uint8)
    mask[tuple((index - low).T)] = 1
    extent = Volume(mask, grid.cropped(low, high - low))
    center, size = measure_mask(extent)
    size = replace(size, doubtful=DOUBTFUL in str(segment.get("SegmentDescription") or ""))
    kind = str(segment.get("SegmentAlgorithmType") or "")
    program = str(segment.get("SegmentAlgorithmName") or "unknown")
    id_ = str(segment.get("TrackingID") or "").strip()
    label = str(segment.get("SegmentLabel") or "").strip()
    sites = segment.get("AnatomicRegionSequence") or []
    nodal = any(str(site.get("CodeValue")) in known.NODE_CODES for site in sites)
    return Row(
        where=where,
        id=id_,
        center_mm=center,
        radius_mm=size.long_axis.length_mm / 2,
        label=label[len(id_) :].strip() if id_ and label.startswith(id_) else label,
        tracking_uid=str(segment.get("TrackingUID") or ""),
        site="" if nodal or not sites else str(sites[0].get("CodeMeaning") or ""),
        nodal=nodal,
        size=size,
        extent=extent,
        origin=Origin(kind, program) if kind in ("AUTOMATIC", "SEMIAUTOMATIC") else Origin(),
    )
