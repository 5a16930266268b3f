"""Lesions as a DICOM SEG: a binary segment a lesion, with its Tracking UID and Identifier.

Voxels go between the two through the millimetres of the slices' own positions, as the orders of
slices of SimpleITK and highdicom differ.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from tlt.errors import InputError
from tlt.geometry import Grid
from tlt.io import dicom_codes as known
from tlt.io.dicom_references import References, check_frame, require_highdicom
from tlt.io.files import atomic_path
from tlt.io.lesion_rows import Row, placed, with_unique_ids
from tlt.io.masks import measure_mask, on_grid
from tlt.lesion import Lesion, Match
from tlt.pacs.privacy import quiet_libraries
from tlt.volume import Volume

LABELMAP_CLASS = "1.2.840.10008.5.1.4.1.1.66.7"
OFF_GRID = 0.1  # of a voxel: further off, a segment's voxels are not the baseline's
MAX_VOXELS = 1 << 31
SERIES_NUMBER = 9902


def write_seg(
    items: Sequence[Lesion | Match],
    image: Volume,
    path: str | os.PathLike[str],
    sop_uid: str | None = None,
    series_uid: str | None = None,
) -> list[str]:
    """Write the matches that have an extent as segments; returns the ids of these lesions.

    Nothing is written, and nothing returned, where no lesion that was found has one: a ball would
    pass for a measured outline. ``image`` is the DICOM series that they lie in. Raises InputError
    when it is none, UsageError when the extra ``dicom`` is not installed.
    """
    require_highdicom()
    references = check_frame(image)
    masks = list(_masks(items, references.grid))
    if not masks:
        return []
    with quiet_libraries(), atomic_path(path) as beside:  # they quote the patient's name
        segmentation = _segmentation(masks, references, sop_uid, series_uid)
        segmentation.save_as(beside, enforce_file_format=True)
    return [lesion.id for lesion, _ in masks]


def read_seg(
    dataset: Dataset, name: str, baseline: Grid, references: References | None
) -> list[Row]:
    """The segments of a SEG on the baseline's voxels, those of one Tracking UID as one lesion.

    Raises InputError for another frame of reference, voxels that are not the baseline's, and a SEG
    in which nothing is marked.
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
    for number, index in _marked(dataset, name, baseline):
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
    return with_unique_ids(rows)


def _masks(items: Sequence[Lesion | Match], grid: Grid) -> Iterator[tuple[Lesion, Volume]]:
    """The lesions that have an extent here, with it on its part of the grid."""
    for count, lesion in placed(items):
        item = items[count - 1]
        extent = item.extent if isinstance(item, Match) else None
        if extent is not None:
            part = on_grid(extent, grid)
            if part is not None:
                yield lesion, part


def _segmentation(
    masks: list[tuple[Lesion, Volume]],
    references: References,
    sop_uid: str | None,
    series_uid: str | None,
) -> Any:
    import highdicom as hd

    sop_uid = sop_uid or generate_uid(prefix=None)
    pixels, images = _frames(masks, references)
    return hd.seg.Segmentation(
        source_images=images,
        pixel_array=pixels,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _description(number, lesion) for number, (lesion, _) in enumerate(masks, 1)
        ],
        series_instance_uid=series_uid or known.derived_uid(f"{sop_uid} series"),
        series_number=SERIES_NUMBER,
        sop_instance_uid=sop_uid,
        instance_number=1,
        manufacturer="Transformer Lesion Tracker",
        manufacturer_model_name="tlt",
        software_versions=version("transformer-lesion-tracker"),
        device_serial_number="1",
        content_label="LESIONS",
        content_description="Tracked lesions",
        series_description="Lesions",
        specific_character_set="ISO_IR 192",
    )


def _frames(
    masks: list[tuple[Lesion, Volume]], references: References
) -> tuple[NDArray, list[Dataset]]:
    """The segments, and the images whose frames these are.

    Numbers of segments (frames, rows, columns) where no two overlap, which takes less memory, else
    ones (frames, rows, columns, segments). Only slices with a lesion are taken, except of a
    multi-frame image, which comes as a whole.
    """
    levels, images = _levels(masks, references)
    frame_of = {level: count for count, level in enumerate(levels)}
    shape = (len(levels), *references.grid.shape_zyx[1:])
    numbers = np.zeros(shape, np.uint16)
    overlap = False
    for number, frame, rows, columns, plane in _planes(masks, references.grid, frame_of):
        here = numbers[frame, rows, columns]
        overlap = overlap or bool(here[plane].any())
        here[plane] = number
    if not overlap:
        return numbers, images
    pixels = np.zeros((*shape, len(masks)), np.uint8)
    for number, frame, rows, columns, plane in _planes(masks, references.grid, frame_of):
        pixels[frame, rows, columns, number - 1] = plane
    return pixels, images


def _levels(
    masks: list[tuple[Lesion, Volume]], references: References
) -> tuple[list[int], list[Dataset]]:
    """The slices that are written, in the order of the images' frames, and these images."""
    planes = references.planes
    if planes[0].frame is not None:
        _share_groups(references.images[0])
        return sorted(range(len(planes)), key=lambda p: planes[p].frame or 0), references.images
    levels: set[int] = set()
    for _, mask in masks:
        z, _, _ = _start(mask.grid, references.grid)
        levels.update(range(z, z + mask.voxels.shape[0]))
    return sorted(levels), [references.image(level) for level in sorted(levels)]


def _share_groups(image: Dataset) -> None:
    """Give a multi-frame header as shared what is the same in every frame: highdicom wants it so.

    That spacing and orientation are the same was checked when the series was read.
    """
    (shared,) = image.get("SharedFunctionalGroupsSequence") or [Dataset()]
    for keyword in ("PixelMeasuresSequence", "PlaneOrientationSequence"):
        if keyword not in shared:
            setattr(shared, keyword, image.PerFrameFunctionalGroupsSequence[0].get(keyword))
    image.SharedFunctionalGroupsSequence = [shared]


def _planes(
    masks: list[tuple[Lesion, Volume]], grid: Grid, frame_of: dict[int, int]
) -> Iterator[tuple[int, int, slice, slice, NDArray]]:
    """Each segment's number, frame, rows, columns and mask, slice by slice."""
    for number, (_, mask) in enumerate(masks, 1):
        z, y, x = _start(mask.grid, grid)
        _, height, width = mask.voxels.shape
        for level, plane in enumerate(mask.voxels, z):
            yield number, frame_of[level], slice(y, y + height), slice(x, x + width), plane > 0


def _start(part: Grid, whole: Grid) -> tuple[int, int, int]:
    """The voxel of the whole grid at which a part of it begins."""
    z, y, x = np.round(whole.mm_to_index(part.origin_mm)).astype(int).tolist()
    return z, y, x


def _description(number: int, lesion: Lesion) -> Any:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    site = known.site_code(lesion.site) if lesion.site.strip() else None
    if site is None and lesion.nodal:
        site = known.LYMPH_NODE
    drawn = lesion.size is not None and lesion.size.by_reader
    algorithm = hd.AlgorithmIdentificationSequence(
        name="tlt",
        family=codes.DCM.ArtificialIntelligence,
        version=version("transformer-lesion-tracker"),
    )
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=known.plain_text(f"{lesion.id} {lesion.label}") or f"lesion {number}",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Lesion,
        algorithm_type="SEMIAUTOMATIC" if drawn else "AUTOMATIC",
        algorithm_identification=algorithm,
        tracking_uid=known.valid_uid(lesion.tracking_uid),
        tracking_id=known.plain_text(lesion.id) or str(number),
        anatomic_regions=[site] if site is not None else None,
    )


def _marked(dataset: Dataset, name: str, grid: Grid) -> Iterator[tuple[int, NDArray]]:
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
        index = _voxels(np.argwhere(plane >= half), groups, shared, grid, name)
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
    pixels: NDArray, groups: Dataset, shared: Dataset, grid: Grid, name: str
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
    start = grid.mm_to_index(first)
    steps = grid.mm_to_index(first + np.array([column * down, row * right])) - start
    whole = np.round(steps)
    off = max(np.abs(steps - whole).max() * max(1, pixels.max(initial=1)),
              np.abs(start - np.round(start)).max())  # fmt: skip
    if not np.isfinite(off) or off > OFF_GRID or (np.abs(whole).sum(1) != 1).any():
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


def _group(keyword: str, groups: Dataset, shared: Dataset) -> Dataset:
    return (groups.get(keyword) or shared.get(keyword) or [Dataset()])[0]


def _row(segment: Dataset, index: NDArray, where: str, grid: Grid) -> Row:
    low, high = index.min(0), index.max(0) + 1
    mask = np.zeros(high - low, np.uint8)
    mask[tuple((index - low).T)] = 1
    extent = Volume(mask, grid.cropped(low, high - low))
    center, size = measure_mask(extent)
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
    )
