"""A lesion's extent by region growing: what `tlt experiment sizes` compares outlines with.

From the middle of the lesion grow all voxels whose density lies within a window about the lesion's
and within reach; a watershed on their distance from the border then cuts off neighbours. No part
of `tlt track`: it leaks too often (docs/sizes.md).
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike, NDArray

from tlt.geometry import Points
from tlt.io.cuts import nearby
from tlt.segmentation import Span
from tlt.volume import Volume, to_sitk

REACH, REACH_MM = 1.6, 4.0  # how far it grows: radii expected, and millimetres on top
SPREAD = 1.5  # of the noise, that the window reaches beyond the lesion's densities
ISOLATED = 0.9  # of the surroundings darker (lighter), for a wider window
NECK = 0.05  # depth of the watershed between lesion and neighbour, in expected radii


def grow(
    volume: Volume,
    center_mm: ArrayLike,
    radius_mm: float,
    hu: float,
    noise_hu: float,
    span: Span,
) -> Volume:
    """The extent (1 inside) about a point, on its part of the volume's grid; it may be empty.

    ``hu`` and ``noise_hu`` are density and spread of the lesion's middle, ``span`` how far the
    densities of the rest of it lie from that.
    """
    center = np.asarray(center_mm, float)
    reach = REACH * radius_mm + REACH_MM
    part = nearby(volume, center.tolist(), 2 * reach)
    assert part is not None  # the centre lies in the volume
    points = part.grid.index_to_mm(np.moveaxis(np.indices(part.grid.shape_zyx), 0, -1))
    within = np.linalg.norm(points - center, axis=-1) <= reach
    low, high = window(part, points, center, radius_mm, hu, noise_hu, span)
    smooth = sitk.GetArrayFromImage(
        sitk.Median(to_sitk(Volume(part.voxels.astype(np.float32), part.grid)), [1, 1, 0])
    )
    like = (smooth >= low) & (smooth <= high) & within
    seed = _seed(like, part, center, radius_mm)
    if seed is None:
        return Volume(np.zeros_like(like, np.uint8), part.grid)
    image = to_sitk(Volume(like.astype(np.uint8), part.grid))
    grown = sitk.ConnectedThreshold(image, [seed[::-1]], 1, 1)
    grown = sitk.BinaryFillhole(grown)
    return Volume(_cut_off(grown, seed, NECK * radius_mm), part.grid)


def window(
    part: Volume,
    points_mm: Points,
    center_mm: Points,
    radius_mm: float,
    hu: float,
    noise_hu: float,
    span: Span,
) -> tuple[float, float]:
    """Lowest and highest density of the lesion: half way to its surroundings, if that is wider."""
    low, high = hu - span.below - SPREAD * noise_hu, hu + span.above + SPREAD * noise_hu
    distance = np.linalg.norm(points_mm - center_mm, axis=-1)
    around = part.voxels[(distance > 1.3 * radius_mm) & (distance < 2 * radius_mm + 3)]
    darker, lighter = around[around < low], around[around > high]
    if len(darker) > ISOLATED * len(around):
        low = min(low, (hu + float(np.median(darker))) / 2)
    if len(lighter) > ISOLATED * len(around):
        high = max(high, (hu + float(np.median(lighter))) / 2)
    return low, high


def _seed(
    like: NDArray[np.bool_], part: Volume, center_mm: Points, radius_mm: float
) -> list[int] | None:
    """The voxel like the lesion that is nearest its centre; None where none is near."""
    index = np.argwhere(like)
    if len(index) == 0:
        return None
    distance = np.linalg.norm(part.grid.index_to_mm(index) - center_mm, axis=1)
    nearest = int(distance.argmin())
    limit = max(0.5 * radius_mm, max(part.grid.spacing_mm))
    return [int(v) for v in index[nearest]] if distance[nearest] <= limit else None


def _cut_off(grown: sitk.Image, seed: list[int], depth_mm: float) -> NDArray[np.uint8]:
    """The basin of the seed, of a watershed on the distance from the border."""
    inside = sitk.GetArrayFromImage(grown)
    depth = sitk.SignedMaurerDistanceMap(grown, squaredDistance=False, useImageSpacing=True)
    basins = sitk.MorphologicalWatershed(depth, level=depth_mm, markWatershedLine=False)
    labels = sitk.GetArrayFromImage(basins)
    return ((labels == labels[tuple(seed)]) & (inside > 0)).astype(np.uint8)
