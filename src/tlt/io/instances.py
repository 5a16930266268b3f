"""Extents in several unconnected parts, which are rarely one lesion, or as large as an organ.

A centre between two lesions lies in neither, and a template cut there shows none of them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tlt.diameters import measure_voxels
from tlt.errors import InputError
from tlt.io.lesion_rows import Row
from tlt.lesion import Size
from tlt.volume import Volume

MAX_INSTANCES = 1000
LARGE_MM = 60.0  # radius from which on a label is more likely an organ

log = logging.getLogger(__name__)


def split(row: Row, gap: int = 0) -> list[Row]:
    """A row for each 26-connected part of a row's extent, without ids; the row itself if it is one.

    ``gap`` is how many slices without a voxel connect what lies above and below them. Raises
    InputError for more than 1000 parts.
    """
    labels, count = _parts(row, gap)
    check_count(count, row.where)
    if row.extent is None or count < 2:
        return [row]
    rows = []
    for value, box in enumerate(ndimage.find_objects(labels), 1):
        mask = (labels[box] == value).astype(np.uint8)
        low = [part.start for part in box]
        extent = Volume(mask, row.extent.grid.cropped(low, mask.shape))
        center, size = measure_mask(extent)
        size = replace(size, doubtful=row.size is not None and row.size.doubtful)
        radius = size.long_axis.length_mm / 2
        part = replace(row, center_mm=center, radius_mm=radius, size=size, extent=extent)
        rows.append(replace(part, id=""))
    return rows


def split_only(rows: list[Row], gap: int = 0) -> list[Row]:
    """The rows; the parts of the only one, unless it says by a Tracking UID that it is a lesion."""
    return split(rows[0], gap) if len(rows) == 1 and not rows[0].tracking_uid else rows


def tell_odd(rows: Sequence[Row], name: str, gap: int = 0) -> None:
    """Warn of rows in unconnected parts, whose centre is between them, and of large ones."""
    apart = [_name(row) for row in rows if _parts(row, gap)[1] > 1]
    if apart:
        log.warning(
            "%s: in unconnected parts, but taken as one lesion each: %s; mark every lesion by "
            "itself",
            name,
            ", ".join(apart),
        )
    large = [f"{_name(r)} ({r.radius_mm:.0f} mm)" for r in rows if (r.radius_mm or 0) > LARGE_MM]
    if large:
        log.warning(
            "%s: a radius above %g mm: %s; is it an organ?", name, LARGE_MM, ", ".join(large)
        )


def check_count(count: int, where: str) -> None:
    """Refuse what is noise rather than lesions."""
    if count > MAX_INSTANCES:
        raise InputError(
            f"{where}: {count} instances, more than {MAX_INSTANCES}; is this a lesion mask?"
        )


def measure_mask(extent: Volume) -> tuple[NDArray, Size]:
    """LPS centroid of a mask's voxels, and their size."""
    index = np.argwhere(extent.voxels)
    return extent.grid.index_to_mm(index.mean(0)), measure_voxels(index, extent.grid)


def _parts(row: Row, gap: int) -> tuple[NDArray, int]:
    """The voxels of a row's extent, numbered by connected part, and how many parts there are."""
    if row.extent is None:
        return np.zeros((0, 0, 0), int), 0
    mask = row.extent.voxels > 0
    closed = ndimage.binary_closing(mask, np.ones((2 * gap + 1, 1, 1))) | mask if gap else mask
    labels, count = ndimage.label(closed, np.ones((3, 3, 3)))
    return labels * mask, count


def _name(row: Row) -> str:
    return row.id or row.label or row.where.rsplit(": ", 1)[-1]
