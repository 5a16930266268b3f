"""Affine registration on 20 hard simulated pairs of real CT: error against the best affine, time.

Run ``python benchmarks/registration.py ../shared/ct``. A follow-up is the baseline pulled through
an affine and a smooth field, shown through another field of view, with other HU, noise and couch.
The truth is exact: the field's inverse comes by fixed-point iteration.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from tlt.geometry import AffineTransform, Grid
from tlt.registration.affine import register_affine
from tlt.registration.pyramid import body_mask
from tlt.volume import AIR_HU, Volume, grid_of


@dataclass(frozen=True)
class Hardship:
    """How a simulated follow-up differs; each field is a maximum unless it says otherwise."""

    rotation_deg: float = 15.0
    scale: float = 0.10
    warp_mm: tuple[float, float] = (5.0, 15.0)  # range of the largest displacement
    overlap: tuple[float, float] = (0.3, 1.0)  # range along z, of the shorter scan
    noise_hu: float = 40.0
    tissue_hu: float = 80.0
    circle: bool = True  # now and then a reconstruction circle that cuts the body


@dataclass(frozen=True)
class Pair:
    """A baseline, its follow-up, and the true map with the body points that both show."""

    baseline: Volume
    followup: Volume
    truth: Callable[[NDArray], NDArray]
    common_mm: NDArray[np.float64]
    overlap: float


def simulate(volume: Volume, rng: np.random.Generator, hard: Hardship | None = None) -> Pair:
    """A pair of the volume (both cropped along z) with a known map, drawn from the generator."""
    hard = hard or Hardship()
    source = volume.resample(volume.grid.resampled(3.0))
    body = body_mask(source.voxels, 3.0)
    body_mm = source.grid.index_to_mm(np.argwhere(body))
    low, high = body_mm[:, 2].min(), body_mm[:, 2].max()
    overlap = float(rng.uniform(*hard.overlap))
    ours, theirs = _crops(low, high, overlap, rng)
    affine = _random_affine(body_mm.mean(0), hard, rng)
    warp = _random_warp(source.grid, float(rng.uniform(*hard.warp_mm)), rng)
    inside_out = np.where(body, source.voxels, AIR_HU)  # the couch does not follow the patient
    bare = Volume(inside_out.astype(np.float32), source.grid)
    followup = _render(bare, affine, warp, theirs, body_mm, rng)
    followup = _other_scanner(followup, hard, rng)
    first, last = (round(float(v)) for v in (np.array(ours) - source.grid.origin_mm[2]) / 3.0)
    crop = source.grid.cropped((first, 0, 0), (last - first + 1, *source.grid.shape_zyx[1:]))
    baseline = Volume(source.voxels[first : last + 1], crop)

    def truth(points_mm: NDArray) -> NDArray:
        inverse = points_mm.copy()
        for _ in range(30):
            inverse = points_mm - warp(inverse)
        return affine(inverse)

    shown = body_mm[(body_mm[:, 2] >= ours[0]) & (body_mm[:, 2] <= ours[1])][::7]
    common = shown[followup.grid.contains(truth(shown))]
    return Pair(baseline, followup, truth, common, overlap)


def _crops(
    low: float, high: float, overlap: float, rng: np.random.Generator
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Two z ranges: staggered (either may be the upper one) or one inside the other."""
    length, kind = high - low, rng.integers(4)
    if kind < 2:
        each = length / (2 - overlap)
        ranges = (low, low + each), (high - each, high)
    else:
        start = low + rng.uniform(0, length * (1 - overlap))
        ranges = (low, high), (start, start + length * overlap)
    return ranges if kind % 2 else (ranges[1], ranges[0])


def _random_affine(center_mm: NDArray, hard: Hardship, rng: np.random.Generator) -> AffineTransform:
    """Rotation about any axis, scale with slight anisotropy, any shift of the frame."""
    axis = rng.normal(size=3)
    angle = np.radians(rng.uniform(-1, 1) * hard.rotation_deg)
    rotation = Rotation.from_rotvec(axis / np.linalg.norm(axis) * angle).as_matrix()
    scale = 1 + rng.uniform(-1, 1) * hard.scale + rng.uniform(-0.2, 0.2, 3) * hard.scale
    shift = rng.uniform(-1, 1, 3) * (60, 60, 400)
    return AffineTransform.about(rotation @ np.diag(scale), center_mm, shift)


def _random_warp(
    grid: Grid, largest_mm: float, rng: np.random.Generator
) -> Callable[[NDArray], NDArray]:
    """A smooth field (cubic B-spline, nodes 80 mm apart): displacement (N, 3) at points (N, 3)."""
    low, high = grid.bounds_mm()
    nodes = Grid.covering(low - 160, high + 160, 80.0)
    coefficients = rng.normal(size=(3, *nodes.shape_zyx))

    def raw(points_mm: NDArray) -> NDArray:
        index = nodes.mm_to_index(points_mm).T
        each = [
            ndimage.map_coordinates(c, index, order=3, prefilter=False, mode="nearest")
            for c in coefficients
        ]
        return np.stack(each, 1)

    probe = raw(Grid.covering(low, high, 20.0).index_to_mm(_indices(low, high, 20.0)))
    factor = largest_mm / np.linalg.norm(probe, axis=1).max()
    return lambda points_mm: raw(points_mm) * factor


def _indices(low: NDArray, high: NDArray, spacing: float) -> NDArray:
    return np.argwhere(np.ones(Grid.covering(low, high, spacing).shape_zyx, bool))


def _render(
    source: Volume,
    affine: AffineTransform,
    warp: Callable[[NDArray], NDArray],
    z_range: tuple[float, float],
    body_mm: NDArray,
    rng: np.random.Generator,
) -> Volume:
    """The follow-up: the source pulled through the map on a grid of its own."""
    part = body_mm[(body_mm[:, 2] >= z_range[0]) & (body_mm[:, 2] <= z_range[1])]
    center = affine(part.mean(0))
    depth = (z_range[1] - z_range[0]) * affine.scale
    spacing = np.array([2.0, 2.0, rng.choice([2.0, 3.0, 5.0])])
    half = np.array([220.0, 180.0, depth / 2])
    grid = Grid.covering(center - half, center + half, (spacing[0], spacing[1], spacing[2]))
    points = grid.index_to_mm(np.argwhere(np.ones(grid.shape_zyx, bool)))
    inverse = affine.inverse()(points)
    index = source.grid.mm_to_index(inverse + warp(inverse)).T
    # beyond the last slices the tissue goes on, as it does in a patient
    index[0] = index[0].clip(0, source.grid.shape_zyx[0] - 1)
    voxels = ndimage.map_coordinates(source.voxels, index, order=1, cval=AIR_HU, output=np.float32)
    return Volume(voxels.reshape(grid.shape_zyx), grid)


def _other_scanner(volume: Volume, hard: Hardship, rng: np.random.Generator) -> Volume:
    """Contrast that varies over the body, an offset, blurred noise, a couch, a circle."""
    voxels = volume.voxels.copy()
    soft = np.exp(-(((voxels - 50.0) / 60.0) ** 2))
    nodes = rng.uniform(-0.3, 1.0, (5, 5, 5))
    zoom = np.array(voxels.shape) / 5
    where = ndimage.zoom(nodes, zoom, order=1, grid_mode=True, mode="nearest")
    voxels += soft * where[tuple(slice(n) for n in voxels.shape)] * rng.uniform() * hard.tissue_hu
    noise = ndimage.gaussian_filter(rng.normal(size=voxels.shape), (0, 0.6, 0.6))
    voxels += noise / noise.std() * rng.uniform(0.2, 1.0) * hard.noise_hu + rng.uniform(-15, 15)
    rows = np.flatnonzero((volume.voxels > -300).any((0, 2)))
    if len(rows):
        plate = min(rows[-1] + int(rng.integers(2, 12)), voxels.shape[1] - 3)
        voxels[:, plate : plate + 3, 30:-30] = np.maximum(
            voxels[:, plate : plate + 3, 30:-30], -300
        )
    if hard.circle and rng.uniform() < 0.3:
        y, x = np.indices(voxels.shape[1:]) - (np.array(voxels.shape[1:])[:, None, None] - 1) / 2
        voxels[:, np.hypot(x, y) > rng.uniform(75, 90)] = -1024
    return Volume(voxels.clip(-1024, 3071).round().astype(np.int16), volume.grid)


def errors_mm(pair: Pair, found: AffineTransform) -> tuple[float, float]:
    """Mean distance (mm) from the truth at the common body points: found, and the best affine."""
    true_mm = pair.truth(pair.common_mm)
    best = AffineTransform.fit(pair.common_mm, true_mm)
    error = np.linalg.norm(found(pair.common_mm) - true_mm, axis=1).mean()
    return float(error), float(np.linalg.norm(best(pair.common_mm) - true_mm, axis=1).mean())


def read_ct(path: Path) -> Volume:
    """A volume from a file that SimpleITK reads."""
    import SimpleITK as sitk

    image = sitk.ReadImage(str(path))
    return Volume(sitk.GetArrayFromImage(image), grid_of(image), str(path))


def main() -> None:
    """Print the table: a row for each pair, then the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("ct", type=Path, help="folder with train/*.nii.gz")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", default="train")
    arguments = parser.parse_args()
    paths = [
        p for p in sorted((arguments.ct / arguments.part).glob("*.nii.gz")) if "label" not in p.name
    ]
    volumes = [v for v in map(read_ct, paths) if v.grid.extent_mm[2] > 180]
    print(
        f"{'volume':24} {'z overlap':>9} {'best mm':>8} {'ours mm':>8} {'excess':>7} {'NCC':>5} "
        f"{'shown':>6} {'ok':>5} {'wall s':>7} {'cpu s':>6}  method"
    )
    excess = []
    for number in range(arguments.pairs):
        volume = volumes[number % len(volumes)]
        pair = simulate(volume, np.random.default_rng([arguments.seed, number]))
        cpu = time.process_time()
        found = register_affine(pair.baseline, pair.followup)
        cpu = time.process_time() - cpu
        error, best = errors_mm(pair, found.baseline_to_followup)
        excess.append(error - best)
        print(
            f"{Path(volume.path).name[:24]:24} {pair.overlap:9.2f} {best:8.2f} {error:8.2f} "
            f"{error - best:7.2f} {found.similarity:5.2f} {found.overlap:6.2f} {found.ok!s:>5} "
            f"{found.seconds:7.2f} {cpu:6.2f}  {found.method}"
        )
    within = np.mean(np.array(excess) <= 1.5)
    print(
        f"excess over the best affine: median {np.median(excess):.2f} mm, "
        f"max {np.max(excess):.2f} mm; within 1.5 mm: {within:.0%}"
    )


if __name__ == "__main__":
    main()
