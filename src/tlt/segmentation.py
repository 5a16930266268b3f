"""A lesion's extent around a point inside it, by rays: a star-shaped surface of least cost.

From the centre go rays, evenly in longitude and latitude about the normal of the axial slices. On
each ray every radius has a cost: low where the densities change from those of the lesion's middle
to others (whatever these are: air, fat, a vessel), high where much on the way there was not like
the lesion. One radius a ray is chosen together with its neighbours', by semi-global matching
(Hirschmüller 2008; here on a sphere), so that a pleura, a vessel or a neighbour of the same
density, which covers a few rays only, is bridged. Then each radius is set to where its own edge is
half way.

The surface is exact below a voxel; `tlt.surface.Surface.extent` puts it on voxels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from tlt.geometry import Points
from tlt.surface import Array, Surface, directions, slice_frame
from tlt.volume import Volume

LATITUDES, LONGITUDES, RADII = 16, 40, 48
REACH, REACH_MM = 2.5, 4.0  # how far rays go: radii expected, and millimetres on top
CORE = 0.45  # share of the expected radius that is surely inside
LEAST_NOISE_HU = 10.0
SOFT_HU = 60.0  # an edge of this height counts half of one of any height
STRAY = 1.0  # cost of crossing an expected radius of what is unlike the lesion
ROUND = 0.5  # cost of an e-fold radius of one ray against the middle one of all, squared
STEP, JUMP = 0.15, 0.6  # cost of a radius that is one bin off its neighbour's, or more
NEAR_MM, EDGE_MM, FLAT = 2.0, 3.5, 0.2  # of where an edge is half way; see `_half_way`


def find_surface(
    volume: Volume, center_mm: ArrayLike, radius_mm: float, span: Span, growth: float
) -> Surface:
    """The surface of the lesion about a point within it, of about a radius.

    It is found twice, the second time from the centre and for the radius of the first.
    """
    first = _fitted(volume, np.asarray(center_mm, float), radius_mm, radius_mm, span, growth)
    middle = float(np.median(first.radius_mm))
    return _fitted(volume, first.centroid_mm, first.mean_radius_mm, radius_mm, span, growth, middle)


@dataclass(frozen=True)
class Span:
    """How far densities of a lesion lie below and above that of its middle, in HU."""

    below: float = 0.0
    above: float = 0.0


def span_within(volume: Volume, surface: Surface, share: float = 0.85) -> Span:
    """The span of the densities within a surface (between their tenths)."""
    radii = np.linspace(0.1, share, 10) * surface.radius_mm[..., None]
    points = surface.center_mm + surface.directions[:, :, None] * radii[..., None]
    hu = volume.sample(points, fill=np.nan)
    weight = (surface.weight[..., None] * radii**2)[~np.isnan(hu)]
    values = hu[~np.isnan(hu)]
    if len(values) == 0:
        return Span()
    order = np.argsort(values)
    place = np.cumsum(weight[order]) / weight.sum()
    low, high = np.interp((0.15, 0.85), place, values[order])
    return Span(max(surface.hu - low, 0.0), max(high - surface.hu, 0.0))


def ball_surface(volume: Volume, center_mm: ArrayLike, radius_mm: float) -> Surface:
    """The ball of a radius as a surface."""
    radius = np.full((LATITUDES, LONGITUDES), float(radius_mm))
    hu, noise = _middle(volume, np.asarray(center_mm, float), radius_mm)
    frame = slice_frame(volume.grid)
    return Surface(np.asarray(center_mm, float), frame, radius, np.zeros_like(radius), hu, noise)


def _middle(volume: Volume, center_mm: Points, radius_mm: float) -> tuple[float, float]:
    """Density of a lesion's middle, and its spread there."""
    reach = max(CORE * radius_mm, 0.75 * min(volume.grid.spacing_mm))
    steps = (np.arange(6) + 0.5) / 6 * reach
    rays = directions(8, 12) @ slice_frame(volume.grid).T
    hu = volume.sample(center_mm + rays[:, :, None] * steps[:, None], fill=np.nan)
    values = hu[~np.isnan(hu)]
    if len(values) == 0:  # at the very border of the view
        index = np.rint(volume.grid.mm_to_index(center_mm)).astype(int)
        last = np.array(volume.grid.shape_zyx) - 1
        return float(volume.voxels[tuple(np.clip(index, 0, last))]), LEAST_NOISE_HU
    middle = float(np.median(values))
    spread = 1.4826 * float(np.median(np.abs(values - middle)))
    return middle, max(spread, LEAST_NOISE_HU)


def _fitted(
    volume: Volume,
    center_mm: Points,
    radius_mm: float,
    expected_mm: float,
    span: Span,
    prior: float,
    round_mm: float | None = None,
) -> Surface:
    """One round: rays that suit ``radius_mm``, and a prior for ``expected_mm``."""
    frame = slice_frame(volume.grid)
    step = (REACH * radius_mm + REACH_MM) / RADII
    along = (np.arange(RADII) + 0.5) * step
    rays = directions(LATITUDES, LONGITUDES) @ frame.T
    hu = volume.sample(center_mm + rays[:, :, None] * along[:, None], fill=np.nan)
    middle, noise = _middle(volume, center_mm, radius_mm)
    low, high = middle - span.below, middle + span.above
    known = np.nan_to_num(hu, nan=middle)
    unlike = np.maximum(np.maximum(low - known, known - high), 0)
    width = max(2, round(max(1.5 * min(volume.grid.spacing_mm), 1.5) / step))
    edge = _edges(unlike, noise, width)
    stray = np.clip((unlike - 2 * noise) / (2 * noise), 0, 1)
    crossed = np.cumsum(stray, -1) * step / expected_mm
    away = prior * np.log((along + step / 2) / expected_mm) ** 2
    if round_mm is not None:
        away = away + ROUND * np.log((along + step / 2) / round_mm) ** 2
    chosen = _matched(-edge + STRAY * crossed + away)
    radius = _smooth(_half_way(known, chosen, step, width))
    border = _border(known, radius / step - 0.5, width, noise)
    return Surface(center_mm, frame, radius, border, middle, noise)


def _border(hu: Array, place: Array, width: int, noise: float) -> Array:
    """How clearly densities before and beyond a place (in radii) of each ray differ, 0 to 1."""
    aside = np.linspace(0.6, 1.4, 4) * width
    rows, columns = np.expand_dims(np.indices(place.shape), -1)
    levels = [
        ndimage.map_coordinates(
            hu,
            np.broadcast_arrays(rows, columns, place[..., None] + side * aside),
            order=1,
            mode="nearest",
        ).mean(-1)
        for side in (-1, 1)
    ]
    return _soft(np.maximum(np.abs(levels[1] - levels[0]) - noise, 0))


def _edges(unlike: Array, noise: float, width: int) -> Array:
    """Strength (latitudes, longitudes, radii) of a border after each radius."""
    total = np.cumsum(np.pad(unlike, ((0, 0), (0, 0), (width, width)), mode="edge"), -1)
    total = np.pad(total, ((0, 0), (0, 0), (1, 0)))
    means = (total[..., width:] - total[..., :-width]) / width  # [i]: radii i - width to i - 1
    before, after = means[..., 1 : RADII + 1], means[..., width + 1 : RADII + width + 1]
    return _soft(np.maximum(after - noise, 0)) - _soft(np.maximum(before - noise, 0))


def _soft(height: Array) -> Array:
    return height / (height + SOFT_HU)


def _matched(cost: Array) -> NDArray[np.int_]:
    """The radius of each ray (latitudes, longitudes) by semi-global matching.

    Rows are closed circles: they are gone round twice, so that the end knows the start.
    """
    columns = cost.shape[1]
    total = np.zeros_like(cost)
    across = np.ascontiguousarray(cost.swapaxes(0, 1))
    for turn in (1, -1):
        path = across[::turn]
        run = _passed(np.concatenate([path, path]))[columns:]
        total += run[::turn].swapaxes(0, 1)
        total += _passed(cost[::turn])[::turn]
    return total.argmin(-1)


def _passed(cost: Array) -> Array:
    """Least cost of a path down the first axis that ends in each place: (n, m, radii)."""
    passed = np.empty_like(cost)
    passed[0] = cost[0]
    for i in range(1, len(cost)):
        last = passed[i - 1] - passed[i - 1].min(-1, keepdims=True)
        best = np.minimum(last, JUMP)
        best[:, 1:] = np.minimum(best[:, 1:], last[:, :-1] + STEP)
        best[:, :-1] = np.minimum(best[:, :-1], last[:, 1:] + STEP)
        passed[i] = cost[i] + best
    return passed


def _half_way(hu: Array, chosen: NDArray[np.int_], step: float, width: int) -> Array:
    """Radius in mm at which each ray is half way between the levels before and after its edge.

    The edge is the steepest place within `NEAR_MM` of the radius chosen; it ends, to both sides,
    where the slope falls below `FLAT` of that.
    """
    count, reach = hu.shape[-1], max(3, round(EDGE_MM / step))
    inner = np.clip(chosen[..., None] - width - np.arange(width), 0, count - 1)
    within = np.median(np.take_along_axis(hu, inner, -1), -1)[..., None]
    offsets = np.arange(1 - reach, reach + 1)
    at = np.clip(chosen[..., None] + offsets, 0, count - 1)
    height = np.abs(np.take_along_axis(hu, at, -1) - within)
    slope = np.diff(height)
    close = np.abs(offsets[:-1]) <= max(1, NEAR_MM / step)
    steepest = np.where(close, slope, -np.inf).argmax(-1)[..., None]
    flat = slope < FLAT * np.take_along_axis(slope, steepest, -1)
    index = np.arange(len(offsets) - 1)
    end = np.where(flat & (index > steepest), index, len(index)).min(-1)[..., None]
    start = np.where(flat & (index < steepest), index, -1).max(-1)[..., None] + 1
    low, high = (np.take_along_axis(height, i, -1) for i in (start, end))
    middle = (low + high) / 2
    passed = (height >= middle) & (np.arange(len(offsets)) > start)
    first = np.maximum(passed.argmax(-1)[..., None], 1)
    before, after = (np.take_along_axis(height, first - i, -1) for i in (1, 0))
    part = np.clip((middle - before) / np.where(after > before, after - before, 1), 0, 1)
    place = (chosen[..., None] + offsets[0] + first - 1 + part)[..., 0] + 0.5
    rises = np.take_along_axis(slope, steepest, -1)[..., 0] > 0
    return np.where(rises, np.clip(place, 0.5, count), chosen + 1.0) * step


def _smooth(radius_mm: Array) -> Array:
    """The radii without what single rays say: a median, then a little blur."""
    wrapped = np.pad(radius_mm, ((0, 0), (3, 3)), mode="wrap")
    wrapped = ndimage.median_filter(wrapped, (3, 3), mode="nearest")
    return ndimage.gaussian_filter(wrapped, 0.6, mode="nearest")[:, 3:-3]
