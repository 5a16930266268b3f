"""Lesions as masks: each integer an instance, the same integer the same lesion at every time."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from tlt.errors import InputError
from tlt.geometry import Grid
from tlt.io.images import read_image, write_image
from tlt.io.instances import check_count, measure_mask, split, tell_odd
from tlt.io.lesion_rows import Row, placed
from tlt.lesion import Lesion, Match
from tlt.volume import Volume, grid_of, to_sitk


def read_mask(path: str | os.PathLike[str], baseline: Grid) -> list[Row]:
    """The instances of a NIfTI, NRRD or MHA mask, ids being their integers.

    A mask of ones (or of 255) in several 26-connected components is split into L1, L2, ... The
    centre is the centroid, the radius half the longest extent within one axial slice. Other labels
    in several components, and a radius above 60 mm, are told in the log. The mask may have another
    grid than the baseline.

    Raises InputError for an empty mask, values that are not integers from 0, more than 1000
    instances, or a mask displaced against the baseline.
    """
    image = read_image(path)
    grid = grid_of(image)
    _check_same_frame(grid, baseline, str(path))
    labels = _integers(sitk.GetArrayFromImage(image), str(path))
    names = _segment_names(image)
    values = np.unique(labels[labels > 0]).tolist()
    check_count(len(values), str(path))
    boxes = ndimage.find_objects(labels)
    rows = []
    for value in values:
        extent = _cut_out(labels, value, boxes[value - 1], grid)
        center, size = measure_mask(extent)
        radius, where = size.long_axis.length_mm / 2, f"{path}: label {value}"
        label = names.get(value, "")
        rows.append(Row(where, str(value), center, radius, label, size=size, extent=extent))
    if values in ([1], [255]):
        rows = split(rows[0])
    tell_odd(rows, str(path))
    return rows


def sphere_labels(lesions: Sequence[Lesion | Match], grid: Grid) -> NDArray[np.uint16]:
    """A label array (D, H, W): a match's extent, else a ball, of each lesion; smaller ones on top.

    A match whose extent is not in doubt is drawn as that; a ball has at least one voxel. The
    integer is the lesion's id where all ids are different whole numbers from 1, else its place in
    the list, from 1. Lesions outside the grid, and matches that were not found, are left out.
    """
    ids = [(item if isinstance(item, Lesion) else item.lesion).id for item in lesions]
    whole = len(set(ids)) == len(ids) and all(map(_is_value, ids))
    labels = np.zeros(grid.shape_zyx, np.uint16)
    for count, lesion in sorted(placed(lesions), key=lambda pair: -pair[1].radius_mm):
        value, extent = int(lesion.id) if whole else count, _extent(lesions[count - 1])
        part = on_grid(extent, grid) if extent is not None else None
        if part is not None:
            z, y, x = np.round(grid.mm_to_index(part.grid.origin_mm)).astype(int)
            d, h, w = part.voxels.shape
            labels[z : z + d, y : y + h, x : x + w][part.voxels > 0] = value
        elif grid.contains(lesion.center_mm):
            _paint(labels, lesion, value, grid)
    return labels


def _is_value(id_: str) -> bool:
    """Whether an id is a label as it stands: 01 would be the same one as 1."""
    digits = id_.isascii() and id_.isdigit() and len(id_) <= 5
    return digits and not id_.startswith("0") and int(id_) < 65536


def _extent(item: Lesion | Match) -> Volume | None:
    """What of an item was outlined well enough to be drawn."""
    doubtful = isinstance(item, Match) and item.size is not None and item.size.doubtful
    return None if isinstance(item, Lesion) or doubtful else item.extent


def write_mask(lesions: Sequence[Lesion | Match], grid: Grid, path: str | os.PathLike[str]) -> None:
    """Write lesions on a grid as `sphere_labels` draws them (.nii.gz, .nrrd, .mha)."""
    write_labels(sphere_labels(lesions, grid), grid, path)


def write_labels(labels: NDArray, grid: Grid, path: str | os.PathLike[str]) -> None:
    """Write a label array (D, H, W) on its grid, as unsigned integers."""
    write_image(to_sitk(Volume(np.ascontiguousarray(labels, np.uint16), grid)), path)


def on_grid(extent: Volume, grid: Grid) -> Volume | None:
    """An extent (1 inside, 0 outside) as a part of a grid; None where none of it lies in there.

    Voxels that are the grid's own are taken over; others are looked up, nearest neighbour.
    """
    low, high = _box(extent.grid, grid)
    if (high <= low).any():
        return None
    part = grid.cropped(low, high - low)
    index = np.moveaxis(np.indices(part.shape_zyx), 0, -1)
    own = np.round(extent.grid.mm_to_index(part.index_to_mm(index))).astype(int)
    inside = ((own >= 0) & (own < extent.voxels.shape)).all(-1)
    voxels = np.zeros(part.shape_zyx, np.uint8)
    voxels[inside] = extent.voxels[tuple(own[inside].T)] > 0
    return Volume(voxels, part) if voxels.any() else None


def _box(extent: Grid, grid: Grid) -> tuple[NDArray, NDArray]:
    """The voxels of the grid, from and to, that hold all voxel centres of an extent's grid."""
    ends = np.stack(np.meshgrid(*[(0, n - 1) for n in extent.shape_zyx], indexing="ij"), -1)
    corners = grid.mm_to_index(extent.index_to_mm(ends.reshape(-1, 3)))
    low = np.maximum(np.floor(corners.min(0) + 1e-3).astype(int), 0)
    high = np.minimum(np.ceil(corners.max(0) - 1e-3).astype(int) + 1, grid.shape_zyx)
    return low, high


def _cut_out(labels: NDArray, value: int, box: tuple[slice, ...], grid: Grid) -> Volume:
    """The voxels of one label on their part of the grid."""
    mask = (labels[box] == value).astype(np.uint8)
    return Volume(mask, grid.cropped([part.start for part in box], mask.shape))


def _check_same_frame(mask: Grid, baseline: Grid, name: str) -> None:
    """Refuse the commonest mistake: the baseline's size with another origin or spacing."""
    if mask.size_xyz != baseline.size_xyz:
        return
    ends = np.array(mask.bounds_mm()) - np.array(baseline.bounds_mm())
    if np.abs(ends).max() > max(baseline.spacing_mm):
        raise InputError(
            f"{name}: as many voxels as the baseline, but displaced by "
            f"{np.abs(ends).max():.1f} mm (another origin, spacing or orientation); "
            "save the mask with the baseline's header"
        )


def _integers(voxels: NDArray, name: str) -> NDArray[np.int32]:
    whole = voxels
    if voxels.dtype.kind == "f":
        finite = bool(np.isfinite(voxels).all())
        whole = np.round(voxels) if finite else voxels
        if not finite or np.abs(voxels - whole).max() > 1e-3:
            raise InputError(f"{name}: its values are not whole numbers; threshold the mask first")
    low, high = int(whole.min()), int(whole.max())
    if low < 0 or high > 65535:
        raise InputError(f"{name}: its values run from {low} to {high}, not a mask; use 0 to 65535")
    if high == 0:
        raise InputError(f"{name}: the mask is empty; mark at least one lesion")
    return whole.astype(np.int32)


def _segment_names(image: sitk.Image) -> dict[int, str]:
    """Names of a Slicer .seg.nrrd by label value."""
    names = {}
    for key in image.GetMetaDataKeys():
        if key.startswith("Segment") and key.endswith("_LabelValue"):
            name = key.replace("_LabelValue", "_Name")
            value = image.GetMetaData(key)
            if value.isdigit() and image.HasMetaDataKey(name):
                names[int(value)] = image.GetMetaData(name)
    return names


def _paint(labels: NDArray, lesion: Lesion, value: int, grid: Grid) -> None:
    index = grid.mm_to_index(lesion.center_mm)
    reach = lesion.radius_mm / np.array(grid.spacing_mm)[::-1]
    low = np.maximum(np.floor(index - reach).astype(int), 0)
    high = np.minimum(np.ceil(index + reach).astype(int) + 1, grid.shape_zyx)
    box = tuple(slice(start, stop) for start, stop in zip(low, high, strict=True))
    inside = np.moveaxis(np.indices(high - low), 0, -1) + low
    distance = np.linalg.norm(grid.index_to_mm(inside) - lesion.center_mm, axis=-1)
    labels[box][distance <= lesion.radius_mm] = value
    nearest = np.clip(np.round(index).astype(int), 0, np.array(grid.shape_zyx) - 1)
    labels[tuple(nearest)] = value
