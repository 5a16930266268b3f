"""Simulated pairs: one real CT, two scans of it, and the exact truth between them.

A pair is drawn as parameters (`draw_pair`) from a seeded generator; `render` turns parameters into
voxels on any grid without further chance. Training crops and whole follow-ups share it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from tlt.data.appearance import (
    InsertedLesion,
    Scan,
    contrasted,
    draw_enhancement,
    draw_scan,
    filtered,
    paint_lesion,
)
from tlt.data.motion import Motion, MotionRange, draw_motion
from tlt.data.sliding import find_pleura
from tlt.data.surroundings import Surroundings, body_mask, draw_surroundings
from tlt.data.view import draw_circle
from tlt.geometry import Grid, Points
from tlt.lesion import Lesion
from tlt.volume import AIR_HU, Volume

COARSE_MM, FINE_MM = 8.0, 4.0


class Anatomy:
    """A real CT as the simulator reads it: density, body and lungs at any LPS points.

    ``lesions`` are those it is known to hold; pairs for training mark them (`tlt.data.pairs`).
    """

    def __init__(self, volume: Volume, lesions: Sequence[Lesion] = ()) -> None:
        self.name = volume.path or "a CT"
        self.lesions = tuple(lesions)
        self.grid = volume.grid
        self._density = torch.from_numpy(volume.voxels.astype(np.float32) - AIR_HU)[None, None]
        coarse = volume.resample(volume.grid.resampled(COARSE_MM))
        body = coarse.voxels > -400
        body = ndimage.binary_opening(body)
        filled = np.stack([ndimage.binary_fill_holes(plane) for plane in body])
        labels, count = ndimage.label(filled)
        if count:
            filled = labels == 1 + np.argmax(
                ndimage.sum_labels(filled, labels, range(1, count + 1))
            )
        lungs = (coarse.voxels < -550) & filled
        self._coarse_grid = coarse.grid
        self._lungs = ndimage.gaussian_filter(lungs.astype(np.float32), 2.0)
        self.body_mm = coarse.grid.index_to_mm(np.argwhere(filled))
        fine = volume.resample(volume.grid.resampled(FINE_MM))
        within = body_mask(fine.voxels, FINE_MM)
        self.pleura = find_pleura(fine.voxels, within, fine.grid)
        self._body_grid = fine.grid
        self._body = torch.from_numpy(within.astype(np.float32))[None, None]

    def density_hu(self, points_mm: Tensor) -> Tensor:
        """HU (D, H, W) at LPS points (D, H, W, 3), trilinear; air outside."""
        return _sampled(self._density, self.grid, points_mm) + AIR_HU

    def outside(self, points_mm: Tensor) -> Tensor:
        """Whether points (D, H, W, 3) lie outside the body and a rim about its skin: (D, H, W)."""
        return _sampled(self._body, self._body_grid, points_mm, "border") < 0.5

    def surround(self, hu: Tensor, points_mm: Tensor, scan_mm: Tensor, about: Surroundings) -> None:
        """Put a scan's couch and arms, in place, into HU (D, H, W) outside the body.

        ``points_mm`` (D, H, W, 3) are the baseline points seen, ``scan_mm`` the scan's own.
        """
        outside = self.outside(points_mm)
        if not outside.any():
            return
        matrix, shift = (
            torch.from_numpy(v).float() for v in (about.to_ct.matrix, about.to_ct.translation_mm)
        )
        there = scan_mm[outside] @ matrix.T + shift
        around = torch.full((len(there),), AIR_HU)
        if about.kept:
            free = self.outside(there[:, None, None])[:, 0, 0]
            around[free] = self.density_hu(there[free][:, None, None])[:, 0, 0]
        if about.couch is not None:
            around = torch.maximum(around, about.couch.hu(there))
        hu[outside] = around

    def inside(self, points_mm: Tensor) -> Tensor:
        """Whether points (..., 3) lie within the CT along its axes nearest x, y, z: (..., 3)."""
        to_index = torch.from_numpy(np.linalg.inv(self.grid.axes).T).float()
        index = (points_mm - torch.tensor(self.grid.origin_mm).float()) @ to_index
        within = (index >= -0.5) & (index <= torch.tensor(self.grid.size_xyz) - 0.5)
        nearest = np.abs(np.reshape(self.grid.direction, (3, 3))).argmax(1)
        return within[..., torch.from_numpy(nearest)]

    def lung_share(self, points_mm: Points) -> NDArray[np.float64]:
        """Share of lung (N,) in [0, 1] in the neighbourhood of points (N, 3)."""
        index = self._coarse_grid.mm_to_index(points_mm).T
        return np.clip(ndimage.map_coordinates(self._lungs, index, order=1, mode="nearest"), 0, 1)


def _sampled(values: Tensor, grid: Grid, points_mm: Tensor, beyond: str = "zeros") -> Tensor:
    """Values (1, 1, D, H, W) of a grid at LPS points (D, H, W, 3), trilinear: (D, H, W)."""
    size = np.array(grid.size_xyz)
    to_index = np.linalg.inv(grid.axes)
    matrix = to_index * (2 / size)[:, None]
    shift = (1 - 2 * to_index @ np.array(grid.origin_mm)) / size - 1
    share = points_mm @ torch.from_numpy(matrix.T).float() + torch.from_numpy(shift).float()
    return F.grid_sample(values, share[None], padding_mode=beyond, align_corners=False)[0, 0]


@dataclass(frozen=True, eq=False)
class PairParameters:
    """All that a simulated pair is made of.

    Attributes:
        motion: where the anatomy of the baseline lies in the follow-up.
        baseline, followup: how each scan sees it.
        baseline_lesions, followup_lesions: what is painted into each, in baseline coordinates;
            a lesion that vanished stands in the first only.
    """

    motion: Motion
    baseline: Scan
    followup: Scan
    baseline_lesions: tuple[InsertedLesion, ...] = ()
    followup_lesions: tuple[InsertedLesion, ...] = ()


def draw_pair(
    rng: np.random.Generator,
    anatomy: Anatomy,
    motion: MotionRange,
    strength: float = 1.0,
    surroundings: float = 0.0,
    circles: float = 0.0,
) -> PairParameters:
    """Motion and two scans of an anatomy, without lesions yet; a map that folds is drawn again.

    ``surroundings`` and ``circles`` are the shares of scans with another couch, or another circle.
    """
    low, high = anatomy.body_mm.min(0), anatomy.body_mm.max(0)
    for attempt in range(20):
        milder = motion.eased(0.95**attempt)
        drawn = draw_motion(rng, milder, low, high, anatomy.lung_share, anatomy.pleura)
        try:
            drawn.baseline_to_followup(anatomy.body_mm[:: max(1, len(anatomy.body_mm) // 100)])
        except ArithmeticError:
            continue
        break
    else:
        raise ArithmeticError("twenty motions in a row folded; lower the range of motion")
    scans = []
    for _ in range(2):
        field = draw_enhancement(rng, low, high, 25.0 * strength)
        scans.append(replace(draw_scan(rng, strength), enhancement=field))
    body = anatomy.body_mm[::10]  # enough for its ends
    for index, place in enumerate((body, drawn.affine(body))):
        if surroundings and rng.random() < surroundings:
            about = draw_surroundings(rng, body, place)
            scans[index] = replace(scans[index], surroundings=about)
        if circles and rng.random() < circles:
            scans[index] = replace(scans[index], circle=draw_circle(rng, place))
    return PairParameters(drawn, scans[0], scans[1])


class Rendered(NamedTuple):
    """Voxels (D, H, W) in HU, and which planes along each array axis the CT covers."""

    voxels: NDArray[np.float32]
    seen_zyx: tuple[NDArray[np.bool_], ...]


def render(
    anatomy: Anatomy,
    grid: Grid,
    motion: Motion,
    scan: Scan,
    lesions: tuple[InsertedLesion, ...] = (),
) -> Rendered:
    """A scan on an axis-aligned grid whose slices are the scan's.

    ``motion`` says which baseline point a grid point shows. Each slice averages over its
    thickness. Planes that leave the CT are air as a whole: its edge must not move with the
    anatomy, or a network would match the edge. The scan's surroundings lie in the grid's frame; its
    circle is left to the caller.
    """
    if not grid.is_axis_aligned:
        raise ValueError("scans are rendered on axis-aligned grids")
    parts = max(1, round(grid.spacing_mm[2] / 2.0))
    x, y, z = (
        grid.origin_mm[i] + np.arange(grid.size_xyz[i]) * grid.spacing_mm[i] for i in range(3)
    )
    steps = ((np.arange(parts) + 0.5) / parts - 0.5) * grid.spacing_mm[2]
    chunk = max(1, int(4e6 / (len(x) * len(y) * parts)))
    planes, inside = [], []
    for start in range(0, len(z), chunk):
        fine_z = (z[start : start + chunk, None] + steps).ravel()
        hu, within = _seen(anatomy, (x, y, fine_z), motion, scan, lesions)
        planes.append(hu.unflatten(0, (-1, parts)).mean(1))
        inside.append(within.unflatten(0, (-1, parts)).all(1))
    image = torch.cat(planes)
    seen = _seen_planes(torch.cat(inside))
    for axis, planes_seen in enumerate(seen):
        image[(slice(None),) * axis + (~planes_seen,)] = scan.curve_hu[0]
    image = filtered(image, scan, grid.spacing_mm[0])
    return Rendered(image.numpy(), tuple(planes_seen.numpy() for planes_seen in seen))


def _seen(anatomy: Anatomy, axes, motion: Motion, scan: Scan, lesions) -> tuple[Tensor, Tensor]:
    """Contrasted HU (D, H, W), and whether each voxel is in the CT along x, y, z: (D, H, W, 3)."""
    points = motion.pulled_axes(*axes)
    hu = anatomy.density_hu(points)
    # A crop within the body, seen by every fourth point, has no surroundings.
    if scan.surroundings is not None and anatomy.outside(points[::4, ::4, ::4]).any():
        anatomy.surround(hu, points, _lattice(axes), scan.surroundings)
    for lesion in lesions:
        paint_lesion(hu, points, lesion)
    extra = None
    if scan.enhancement is not None:
        extra = scan.enhancement.on_axes(*axes)[..., 0]
    return contrasted(hu, scan, extra), anatomy.inside(points)


def _lattice(axes) -> Tensor:
    """Points (D, H, W, 3), float32, of the lattice of three axes x, y, z."""
    x, y, z = (torch.from_numpy(np.asarray(axis, np.float32)) for axis in axes)
    z, y, x = torch.meshgrid(z, y, x, indexing="ij")
    return torch.stack([x, y, z], -1)


def _seen_planes(inside: Tensor) -> list[Tensor]:
    """For each array axis, which planes lie (all but 3 %) inside the CT along that axis."""
    outside = ~inside
    return [
        outside[..., 2 - axis].float().mean([a for a in range(3) if a != axis]) < 0.03
        for axis in range(3)
    ]
