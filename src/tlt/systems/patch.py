"""Local patch matching: the classical answer, and what the last step of `tlt` is made of.

The baseline patch around the lesion, under a Gaussian window, is compared with every place of a
search range of the follow-up by normalised cross-correlation, less a weak penalty for distance:
a large patch over a wide range at 4 mm, then a small one at 2 mm, then a parabola between voxels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from tlt.geometry import Points
from tlt.systems.base import AlignedPair, Location, Progress
from tlt.volume import Volume

LOW_HU, HIGH_HU = -1000.0, 400.0
LEAST_SEEN = 0.3


@dataclass(frozen=True)
class PatchStep:
    """One round of matching.

    Attributes:
        patch_mm: side of the patch; its Gaussian window has a quarter of it as sigma.
        reach_mm: how far from the start is searched, along each axis.
        step_mm: voxel size.
        penalty_mm: distance from the start that costs as much as 0.5 of correlation.
    """

    patch_mm: float
    reach_mm: float
    step_mm: float
    penalty_mm: float


# The penalties were chosen on simulated pairs of the training CTs (docs/decisions/0004).
WIDE = PatchStep(64.0, 32.0, 4.0, 40.0)
FINE = PatchStep(32.0, 10.0, 2.0, 15.0)


ELSEWHERE_MM = 12.0  # from the best place on


@dataclass(frozen=True, eq=False)
class PatchMatch:
    """The best place (x, y, z) of a patch, and its correlation (n, n, n) at every place.

    Attributes:
        center_mm: the best place, between voxels.
        everywhere: correlation, ``step_mm`` apart, about where the search began.
        peak: voxel of the best place.
    """

    center_mm: Points
    everywhere: Tensor
    peak: tuple[int, int, int]
    step_mm: float

    @property
    def correlation(self) -> float:
        """At the best place."""
        return float(self.everywhere[self.peak])

    @property
    def runner_up(self) -> float:
        """The best correlation elsewhere; -1 where the search reaches no farther."""
        reach = len(self.everywhere) // 2
        from_zyx = tuple(p - reach for p in self.peak)
        far = _squared_distance(reach, from_zyx) * self.step_mm**2 > ELSEWHERE_MM**2
        return float(self.everywhere[far].max()) if far.any() else -1.0


class PatchSystem:
    """Patch matching from the affine prior: ``--tracker patch``."""

    name = "patch"
    model_name: str | None = None
    weights_sha256: str | None = None
    spacing_mm = 2.0
    margin_mm = WIDE.reach_mm + WIDE.patch_mm / 2 + 16

    def locate(self, pair: AlignedPair, progress: Progress | None = None) -> list[Location]:
        """A wide and a fine round for each lesion."""
        located = []
        for index, prior in enumerate(pair.prior_mm):
            wide = match_patch(pair, prior, prior, WIDE)
            fine = match_patch(pair, prior, wide.center_mm, FINE)
            evidence = {
                "correlation": fine.correlation,
                "margin": wide.correlation - wide.runner_up,
            }
            located.append(Location(fine.center_mm, evidence))
            if progress is not None:
                progress("match patches", (index + 1) / len(pair.prior_mm))
        return located


def match_patch(
    pair: AlignedPair,
    lesion_mm: ArrayLike,
    start_mm: ArrayLike,
    step: PatchStep,
    stretch: NDArray[np.float64] | None = None,
) -> PatchMatch:
    """Where, around ``start_mm`` in the search image, the template's patch at a lesion fits best.

    ``stretch`` (3, 3) carries small vectors of the template to the search image; the patch is seen
    through it.
    """
    half = int(step.patch_mm / 2 / step.step_mm)
    reach = int(step.reach_mm / step.step_mm)
    back = None if stretch is None else np.linalg.inv(stretch)
    patch = _cube(pair.template, lesion_mm, half, step.step_mm, back)
    window = _cube(pair.search, start_mm, half + reach, step.step_mm)
    correlation = correlate(patch, window, _gaussian_window(half))
    penalty = _squared_distance(reach) * (step.step_mm**2 * 0.5 / step.penalty_mm**2)
    score = correlation - penalty
    z, y, x = (int(p) for p in np.unravel_index(int(score.argmax()), score.shape))
    offset_zyx = np.array((z, y, x)) - reach + _parabola(score.numpy(), (z, y, x))
    center = np.asarray(start_mm, float) + offset_zyx[::-1] * step.step_mm
    return PatchMatch(center, correlation, (z, y, x), step.step_mm)


def correlate(patch: Tensor, window: Tensor, weight: Tensor) -> Tensor:
    """Weighted normalised cross-correlation of a patch (k, k, k) at every place of a window.

    Returns (n, n, n) in [-1, 1], n = window side - k + 1. NaN marks what a scanner did not see: it
    takes no part, or the edge of the view would be matched. Flat places give 0, and so do those
    where less than `LEAST_SEEN` of the weight is seen in both.
    """
    weight = weight / weight.sum()
    own = torch.where(patch.isnan(), 0.0, weight)
    patch = patch.nan_to_num(0.0)
    patch = patch - (own * patch).sum() / own.sum().clamp(min=1e-6)
    seen, values = (~window.isnan()).float(), window.nan_to_num(0.0)
    sums = F.conv3d(
        torch.stack([seen, values, values.square()])[:, None],
        torch.stack([own, own * patch, own * patch.square()])[:, None],
    )  # of 1, image, image squared (first) times 1, patch, patch squared (second)
    common = sums[0, 0].clamp(min=1e-6)
    patch_mean, image_mean = sums[0, 1] / common, sums[1, 0] / common
    patch_spread = (sums[0, 2] / common - patch_mean.square()).clamp(min=0)
    image_spread = (sums[2, 0] / common - image_mean.square()).clamp(min=0)
    covariance = sums[1, 1] / common - patch_mean * image_mean
    correlation = covariance / (patch_spread * image_spread).sqrt().clamp(min=1e-5)
    return torch.where(common >= LEAST_SEEN, correlation.clamp(-1, 1), 0.0)


def _cube(
    volume: Volume, center_mm: ArrayLike, half: int, step_mm: float, matrix: NDArray | None = None
) -> Tensor:
    """Intensities in [0, 1] of a cube of 2 * half + 1 voxels exactly centred on a point.

    With a matrix (3, 3), its axes are turned and stretched by it.
    """
    steps = np.arange(-half, half + 1) * step_mm
    offsets = np.stack(np.meshgrid(steps, steps, steps, indexing="ij")[::-1], -1)  # z y x, (x y z)
    if matrix is not None:
        offsets = offsets @ matrix.T
    points = np.asarray(center_mm, float) + offsets
    return tones(volume.sample(points, fill=np.nan))


def tones(hu: NDArray) -> Tensor:
    """Intensities in [0, 1], float32; NaN is kept."""
    clipped = np.clip(hu.astype(np.float32), LOW_HU, HIGH_HU)
    return torch.from_numpy((clipped - LOW_HU) / (HIGH_HU - LOW_HU))


@cache
def _gaussian_window(half: int) -> Tensor:
    return torch.exp(-_squared_distance(half) / (2 * (half / 2) ** 2))


@lru_cache(maxsize=64)
def _squared_distance(reach: int, from_zyx: tuple[int, ...] = (0, 0, 0)) -> Tensor:
    """Squared distance in voxels of each place of a cube, 2 * reach + 1 a side, from one."""
    steps = torch.arange(-reach, reach + 1, dtype=torch.float32)
    z, y, x = ((steps - float(c)) ** 2 for c in from_zyx)
    return z[:, None, None] + y[None, :, None] + x[None, None, :]


def _parabola(score: NDArray[np.float32], peak: tuple) -> Points:
    """Offset (3,) of the maximum from its voxel, by a parabola along each axis; 0 at the border."""
    offset = np.zeros(3)
    for axis in range(3):
        place = list(peak)
        if not 0 < place[axis] < score.shape[axis] - 1:
            continue
        place[axis] -= 1
        before = score[tuple(place)]
        place[axis] += 2
        after = score[tuple(place)]
        curvature = before - 2 * score[tuple(peak)] + after
        if curvature < 0:
            offset[axis] = np.clip(0.5 * (before - after) / curvature, -0.5, 0.5)
    return offset
