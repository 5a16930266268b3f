"""Lesions as a DICOM SEG: a binary segment a lesion, with its Tracking UID and Identifier.

Voxels go between the two through the millimetres of the slices' own positions, as the orders of
slices of SimpleITK and highdicom differ.

Segments do not overlap: a voxel of two lesions is the smaller one's. Segments that do would need
memory for every voxel of every lesion to be written.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from tlt.geometry import Grid
from tlt.io import dicom_codes as known
from tlt.io.dicom_references import References, check_frame, require_highdicom
from tlt.io.files import atomic_path
from tlt.io.lesion_rows import Origin, origin_of, placed
from tlt.io.masks import on_grid
from tlt.lesion import Lesion, Match
from tlt.privacy import quiet_libraries
from tlt.volume import Volume

SERIES_NUMBER = 9902
DOUBTFUL = "(doubtful)"  # in the description of a segment whose size is so


@dataclass(frozen=True, eq=False)
class _Segment:
    """A lesion, who drew it, its extent as a part of the grid, and at which voxel that begins."""

    lesion: Lesion
    origin: Origin
    extent: Volume
    start_zyx: tuple[int, int, int]


def write_seg(
    items: Sequence[Lesion | Match],
    image: Volume,
    path: str | os.PathLike[str],
    sop_uid: str | None = None,
    series_uid: str | None = None,
    origins: Sequence[Origin] | None = None,
) -> list[str]:
    """Write the matches that have an extent as segments; returns the ids of these lesions.

    A lesion without a voxel to itself is left out; `what_seg_lacks` tells which. Nothing is
    written, and nothing returned, where no lesion that was found has an extent: a ball would pass
    for a measured outline. ``image`` is the DICOM series that they lie in; ``origins`` says
    who drew each item, tlt by default. Raises InputError when the image is no DICOM series,
    UsageError when the extra ``dicom`` is not installed.
    """
    require_highdicom()
    references = check_frame(image)
    segments = _segments(items, references.grid, origins)
    if not segments:
        return []
    levels, images = _levels(segments, references)
    segments, numbers = _painted(segments, levels, references.grid)
    with quiet_libraries(), atomic_path(path) as beside:  # they quote the patient's name
        segmentation = _segmentation(segments, numbers, images, sop_uid, series_uid)
        segmentation.save_as(beside, enforce_file_format=True)
    return [segment.lesion.id for segment in segments]


def what_seg_lacks(items: Sequence[Lesion | Match], written: Sequence[str]) -> str:
    """A remark on the outlined lesions that are not among the ids written; empty without one."""
    given = [(lesion.id, items[count - 1]) for count, lesion in placed(items)]
    outlined = [id_ for id_, item in given if isinstance(item, Match) and item.extent is not None]
    lost = [id_ for id_ in outlined if id_ not in written]
    if not lost:
        return ""
    return (
        f"the DICOM SEG lacks {', '.join(lost)}: all voxels there are other lesions' too; "
        "check whether they are one lesion; dicom-rtstruct outlines each by itself"
    )


def _segments(
    items: Sequence[Lesion | Match], grid: Grid, origins: Sequence[Origin] | None
) -> list[_Segment]:
    """The lesions that have an extent here."""
    segments = []
    for count, lesion in placed(items):
        item = items[count - 1]
        extent = item.extent if isinstance(item, Match) else None
        part = on_grid(extent, grid) if extent is not None else None
        if part is not None:
            z, y, x = np.round(grid.mm_to_index(part.grid.origin_mm)).astype(int).tolist()
            origin = origin_of(item) if origins is None else origins[count - 1]
            segments.append(_Segment(lesion, origin, part, (z, y, x)))
    return segments


def _levels(segments: list[_Segment], references: References) -> tuple[list[int], list[Dataset]]:
    """The slices that are written, in the order of the images' frames, and these images.

    Only slices with a lesion are taken, except of a multi-frame image, which comes as a whole.
    """
    planes = references.planes
    if planes[0].frame is not None:
        _share_groups(references.images[0])
        return sorted(range(len(planes)), key=lambda p: planes[p].frame or 0), references.images
    levels: set[int] = set()
    for segment in segments:
        z = segment.start_zyx[0]
        levels.update(range(z, z + segment.extent.voxels.shape[0]))
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


def _painted(
    segments: list[_Segment], levels: list[int], grid: Grid
) -> tuple[list[_Segment], NDArray[np.uint16]]:
    """The segments that have a voxel to themselves, and their numbers (frames, rows, columns)."""
    numbers = np.zeros((len(levels), *grid.shape_zyx[1:]), np.uint16)
    frame_of = {level: frame for frame, level in enumerate(levels)}
    boxes = [_box(segment, frame_of) for segment in segments]
    for n in sorted(
        range(len(segments)), key=lambda n: -np.count_nonzero(segments[n].extent.voxels)
    ):
        here = numbers[boxes[n]]
        here[segments[n].extent.voxels > 0] = n + 1
        numbers[boxes[n]] = here
    kept = [s for n, s in enumerate(segments) if (numbers[boxes[n]] == n + 1).any()]
    return (segments, numbers) if len(kept) == len(segments) else _painted(kept, levels, grid)


def _box(segment: _Segment, frame_of: dict[int, int]) -> tuple[list[int], slice, slice]:
    """Where in the frames a segment's extent lies."""
    z, y, x = segment.start_zyx
    depth, height, width = segment.extent.voxels.shape
    frames = [frame_of[level] for level in range(z, z + depth)]
    return frames, slice(y, y + height), slice(x, x + width)


def _segmentation(
    segments: list[_Segment],
    numbers: NDArray[np.uint16],
    images: list[Dataset],
    sop_uid: str | None,
    series_uid: str | None,
) -> Any:
    import highdicom as hd

    sop_uid = sop_uid or generate_uid(prefix=None)
    return hd.seg.Segmentation(
        source_images=images,
        pixel_array=numbers,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_description(n, segment) for n, segment in enumerate(segments, 1)],
        series_instance_uid=series_uid or known.derived_uid(f"{sop_uid} series"),
        series_number=SERIES_NUMBER,
        sop_instance_uid=sop_uid,
        instance_number=1,
        manufacturer="Transformer Lesion Tracker",
        manufacturer_model_name="tlt",
        software_versions=version("transformer-lesion-tracker"),
        device_serial_number="1",
        content_label="LESIONS",
        content_description="Lesions",
        series_description="Lesions",
        specific_character_set="ISO_IR 192",
    )


def _description(number: int, segment: _Segment) -> Any:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    lesion, origin = segment.lesion, segment.origin
    site = known.site_code(lesion.site) if lesion.site.strip() else None
    if site is None and lesion.nodal:
        site = known.LYMPH_NODE
    description = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=known.plain_text(f"{lesion.id} {lesion.label}") or f"lesion {number}",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Lesion,
        algorithm_type="MANUAL",
        tracking_uid=lesion.tracking_uid,
        tracking_id=known.plain_text(lesion.id) or str(number),
        anatomic_regions=[site] if site is not None else None,
    )
    if origin.kind != "MANUAL":  # highdicom would want the family of an algorithm, too
        description.SegmentAlgorithmType = origin.kind
        description.SegmentAlgorithmName = known.plain_text(origin.program)
    if lesion.size is not None and lesion.size.doubtful:
        description.SegmentDescription = f"{DOUBTFUL} {lesion.size.note}".strip()
    return description
