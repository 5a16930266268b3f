"""Local patch matching: the classical answer, and what the last step of `tlt` is made of.

The baseline patch around a place, under a Gaussian window, is compared with every place of a
search range of the follow-up by normalised cross-correlation, less a weak penalty for distance:
a large patch over a wide range at 4 mm, then a small one at 2 mm, then a parabola between voxels.
Many patches are matched at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

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

    @property
    def half(self) -> int:
        """Voxels of the patch on each side of its middle."""
        return int(self.patch_mm / 2 / self.step_mm)

    @property
    def reach(self) -> int:
        """Voxels searched on each side of the start."""
        return int(self.reach_mm / self.step_mm)


# The penalties were chosen on simulated pairs of the training CTs (docs/decisions/0004).
WIDE = PatchStep(64.0, 32.0, 4.0, 40.0)
FINE = PatchStep(32.0, 10.0, 2.0, 15.0)


ELSEWHERE_MM = 12.0  # from the best place on


@dataclass(frozen=True, eq=False)
class Texture:
    """An aligned image as patches see it.

    Attributes:
        tones: (D + 2, H + 2, W + 2) intensities in [0, 1], NaN where nothing was seen and in a
            frame of one voxel, which stands for all that lies beyond.
        origin_mm: (3,) place of the frame's first voxel.
        spacing_mm: (3,) voxel size.
    """

    tones: Tensor
    origin_mm: Tensor
    spacing_mm: Tensor

    @staticmethod
    def of(volume: Volume, device: str | torch.device = "cpu") -> Texture:
        """The texture of an axis-aligned volume."""
        shape = [n + 2 for n in volume.voxels.shape]
        framed = torch.full(shape, torch.nan, device=device)
        inner = framed[1:-1, 1:-1, 1:-1]
        inner.copy_(torch.from_numpy(volume.voxels))
        inner.sub_(LOW_HU).div_(HIGH_HU - LOW_HU).clamp_(0, 1)
        spacing = torch.tensor(volume.grid.spacing_mm, device=device)
        return Texture(
            framed, torch.tensor(volume.grid.origin_mm, device=device) - spacing, spacing
        )

    def sample(self, points_mm: Tensor) -> Tensor:
        """Intensities (...) at points (..., 3), trilinear."""
        last = torch.tensor(self.tones.shape[::-1], device=points_mm.device) - 1
        share = (points_mm - self.origin_mm) / self.spacing_mm / last * 2 - 1
        sampled = F.grid_sample(
            self.tones[None, None],
            share.reshape(1, 1, 1, -1, 3),
            padding_mode="border",
            align_corners=True,
        )
        return sampled.reshape(points_mm.shape[:-1])

    def cubes(
        self, centers_mm: Tensor, half: int, step_mm: float, matrix: Tensor | None = None
    ) -> Tensor:
        """Intensities (N, n, n, n) of cubes of n = 2 * half + 1 voxels, exactly centred on points.

        With matrices (N, 3, 3), their axes are turned and stretched by them. A cube whose voxels
        are whole voxels apart is cut out, which is much faster than to sample it.
        """
        every = step_mm / float(self.spacing_mm[0])
        if matrix is not None or every != int(every) or self.spacing_mm.unique().numel() > 1:
            return self.sample(_points(centers_mm, half, step_mm, matrix))
        every, side = int(every), 2 * half + 1
        first = (centers_mm - half * step_mm - self.origin_mm) / self.spacing_mm
        low = first.floor()
        length = every * (side - 1) + 2
        last = torch.tensor(self.tones.shape[::-1], device=low.device) - length
        inside = ((low >= 0) & (low <= last)).all(1)
        cubes = centers_mm.new_empty(len(low), side, side, side)
        if not inside.all():
            beyond = centers_mm[~inside]
            cubes[~inside] = self.sample(_points(beyond, half, step_mm, None))
        if inside.any():
            cut = [
                self.tones[z : z + length, y : y + length, x : x + length]
                for x, y, z in low[inside].long().tolist()
            ]
            cubes[inside] = _between(torch.stack(cut), (first - low)[inside], every)
        return cubes


def _points(centers_mm: Tensor, half: int, step_mm: float, matrix: Tensor | None) -> Tensor:
    """The places (N, n, n, n, 3) of the voxels of cubes."""
    steps = torch.arange(-half, half + 1, device=centers_mm.device) * step_mm
    grid = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij")[::-1], -1)
    offsets = grid.reshape(1, -1, 3)  # z y x, (x y z)
    if matrix is not None:
        offsets = offsets @ matrix.mT
    return (centers_mm[:, None] + offsets).unflatten(1, grid.shape[:3])


def _between(voxels: Tensor, share_xyz: Tensor, every: int) -> Tensor:
    """Cubes (N, n, n, n) a share of a voxel on, of each (``every``)th voxel of (N, m, m, m)."""
    for axis in (1, 2, 3):
        before = (slice(None),) * axis
        low = voxels[(*before, slice(0, -1, every))]
        high = voxels[(*before, slice(1, None, every))]
        voxels = torch.lerp(low, high, share_xyz[:, 3 - axis, None, None, None])
    return voxels


@dataclass(frozen=True, eq=False)
class PatchMatches:
    """The best places of N patches, and the correlation at every place.

    Attributes:
        center_mm: (N, 3) best places (x, y, z), between voxels.
        everywhere: (N, n, n, n) correlation, ``step_mm`` apart, about where the search began.
        peak_zyx: (N, 3) voxel of the best place.
        step_mm: distance of neighbouring places.
    """

    center_mm: Tensor
    everywhere: Tensor
    peak_zyx: Tensor
    step_mm: float

    @property
    def correlation(self) -> Tensor:
        """At the best places (N,)."""
        z, y, x = self.peak_zyx.unbind(1)
        return self.everywhere[torch.arange(len(z), device=z.device), z, y, x]

    @property
    def runner_up(self) -> Tensor:
        """The best correlation (N,) elsewhere; -1 where the search reaches no farther."""
        steps = torch.arange(self.everywhere.shape[1], device=self.peak_zyx.device)
        z, y, x = ((steps - self.peak_zyx[:, i, None]).square() for i in range(3))
        distance2 = z[:, :, None, None] + y[:, None, :, None] + x[:, None, None, :]
        near = distance2 * self.step_mm**2 <= ELSEWHERE_MM**2
        return self.everywhere.masked_fill(near, -1.0).amax((1, 2, 3))


class PatchSystem:
    """Patch matching from the affine prior: ``--tracker patch``."""

    name = "patch"
    model_name: str | None = None
    weights_sha256: str | None = None
    spacing_mm = 2.0
    margin_mm = WIDE.reach_mm + WIDE.patch_mm / 2 + 16

    @torch.inference_mode()
    def locate(self, pair: AlignedPair, progress: Progress | None = None) -> list[Location]:
        """A wide and a fine round for each lesion."""
        template, search = Texture.of(pair.template), Texture.of(pair.search)
        located = []
        for index, place in enumerate(torch.from_numpy(pair.prior_mm).float()[:, None]):
            wide = match_patches(template, search, place, place, WIDE)
            fine = match_patches(template, search, place, wide.center_mm, FINE)
            evidence = {
                "correlation": float(fine.correlation),
                "margin": float(wide.correlation - wide.runner_up),
            }
            located.append(Location(fine.center_mm[0].double().numpy(), evidence))
            if progress is not None:
                progress("match patches", (index + 1) / len(pair.prior_mm))
        return located


def match_patches(
    template: Texture,
    search: Texture,
    places_mm: Tensor,
    starts_mm: Tensor,
    step: PatchStep,
    stretch: Tensor | None = None,
) -> PatchMatches:
    """Where, around starts (N, 3) in the search image, the template's patches at places fit best.

    ``stretch`` (N, 3, 3) carries small vectors of the template to the search image; the patches are
    seen through it.
    """
    back = None if stretch is None else torch.linalg.inv(stretch)
    patches = template.cubes(places_mm, step.half, step.step_mm, back)
    windows = search.cubes(starts_mm, step.half + step.reach, step.step_mm)
    correlation = correlate(patches, windows)
    penalty = _squared_distance(step.reach).to(correlation)
    score = correlation - penalty * (step.step_mm**2 * 0.5 / step.penalty_mm**2)
    best = score.flatten(1).argmax(1)
    side = score.shape[1]
    peak = torch.stack([best // side**2, best // side % side, best % side], 1)
    offset_zyx = peak - step.reach + _parabola(score, peak)
    return PatchMatches(
        starts_mm + offset_zyx.flip(1) * step.step_mm, correlation, peak, step.step_mm
    )


def correlate(patches: Tensor, windows: Tensor) -> Tensor:
    """Normalised cross-correlation, under a Gaussian, of patches at every place of their windows.

    Returns (N, n, n, n) in [-1, 1] from patches (N, k, k, k) and windows (N, w, w, w), where n is
    w - k + 1. NaN marks what a scanner did not see: it takes no part, or the edge of the view would
    be matched. Flat places give 0, and so do those where less than `LEAST_SEEN` of the weight is
    seen in both.
    """
    whole = ~patches.isnan().flatten(1).any(1)
    everything = whole & ~windows.isnan().flatten(1).any(1)
    side = windows.shape[1] - patches.shape[1] + 1
    correlation = windows.new_empty(len(windows), side, side, side)
    for kind, of_kind in (
        (_all_seen, everything),
        (_patch_seen, whole & ~everything),
        (_seen_in_part, ~whole),
    ):
        if of_kind.all():
            return kind(patches, windows)
        if of_kind.any():
            correlation[of_kind] = kind(patches[of_kind], windows[of_kind])
    return correlation


def _all_seen(patches: Tensor, windows: Tensor) -> Tensor:
    """The correlation where nothing is hidden: a single sum is not one axis at a time."""
    line = _gaussian_line(patches.shape[1] // 2).to(patches)
    weight = _cube(line)
    patches = patches - (weight * patches).sum((1, 2, 3), keepdim=True)
    patch_square = (weight * patches.square()).sum((1, 2, 3), keepdim=True)
    mean, mean_square = _along_axes(torch.stack([windows, windows.square()]), line)
    return _normalised(_slide(windows, weight * patches), patch_square, mean_square - mean.square())


def _patch_seen(patches: Tensor, windows: Tensor) -> Tensor:
    """The correlation over what the windows show."""
    line = _gaussian_line(patches.shape[1] // 2).to(patches)
    seen, values = (~windows.isnan()).to(windows), windows.nan_to_num(0.0)
    sums = _along_axes(torch.stack([seen, values, values.square()]), line)
    return _over_what_is_seen(patches, _cube(line).expand_as(patches), seen, values, sums)


def _seen_in_part(patches: Tensor, windows: Tensor) -> Tensor:
    """The correlation over what patches and windows both show."""
    line = _gaussian_line(patches.shape[1] // 2).to(patches)
    own = torch.where(patches.isnan(), 0.0, _cube(line))
    seen, values = (~windows.isnan()).to(windows), windows.nan_to_num(0.0)
    sums = torch.stack([_slide(part, own) for part in (seen, values, values.square())])
    return _over_what_is_seen(patches.nan_to_num(0.0), own, seen, values, sums)


def _over_what_is_seen(
    patches: Tensor, own: Tensor, seen: Tensor, values: Tensor, sums: Tensor
) -> Tensor:
    """The correlation from the weights of a patch and the sums (3, N, n, n, n) under them.

    They are those of 1, image and image squared, over what the window shows.
    """
    common = sums[0].clamp(min=1e-6)
    mean = (own * patches).sum((1, 2, 3), keepdim=True) / own.sum((1, 2, 3), keepdim=True).clamp(
        min=1e-6
    )
    patches = patches - mean
    first, second = own * patches, own * patches.square()
    patch_mean, patch_square = _slide(seen, first) / common, _slide(seen, second) / common
    image_mean, image_square = sums[1] / common, sums[2] / common
    covariance = _slide(values, first) / common - patch_mean * image_mean
    correlation = _normalised(
        covariance, patch_square - patch_mean.square(), image_square - image_mean.square()
    )
    return torch.where(common >= LEAST_SEEN, correlation, 0.0)


def _normalised(covariance: Tensor, patch_spread: Tensor, image_spread: Tensor) -> Tensor:
    spread = patch_spread.clamp(min=0) * image_spread.clamp(min=0)
    return (covariance / spread.sqrt().clamp(min=1e-5)).clamp(-1, 1)


def _slide(windows: Tensor, kernels: Tensor) -> Tensor:
    """The sum of each window times its kernel, at every place."""
    return F.conv3d(windows[None], kernels[:, None], groups=len(kernels))[0]


def _along_axes(windows: Tensor, line: Tensor) -> Tensor:
    """Each window (..., w, w, w) weighed by a line (k,) along all three axes, at every place."""
    side = windows.shape[-1]
    count = side - len(line) + 1
    band = torch.stack([F.pad(line, (i, count - 1 - i)) for i in range(count)])  # count, w
    for _ in range(3):  # each turn takes the last axis and puts it first
        windows = (windows @ band.mT).movedim(-1, -3)
    return windows


def tones(hu: NDArray) -> Tensor:
    """Intensities in [0, 1], float32; NaN is kept."""
    clipped = np.clip(hu.astype(np.float32), LOW_HU, HIGH_HU)
    return torch.from_numpy((clipped - LOW_HU) / (HIGH_HU - LOW_HU))


@lru_cache(maxsize=16)
def _gaussian_line(half: int) -> Tensor:
    """Weights (2 * half + 1,) along an axis, of sum 1; sigma is half of ``half``."""
    steps = torch.arange(-half, half + 1, dtype=torch.float32)
    line = torch.exp(-steps.square() / (2 * (half / 2) ** 2))
    return line / line.sum()


def _cube(line: Tensor) -> Tensor:
    """The weights (k, k, k) of a cube of lines (k,)."""
    return line[:, None, None] * line[:, None] * line


@lru_cache(maxsize=16)
def _squared_distance(reach: int) -> Tensor:
    """Squared distance in voxels of each place of a cube, 2 * reach + 1 a side, from its middle."""
    steps = torch.arange(-reach, reach + 1, dtype=torch.float32).square()
    return steps[:, None, None] + steps[:, None] + steps


def _parabola(score: Tensor, peak_zyx: Tensor) -> Tensor:
    """Offsets (N, 3) of maxima from their voxels, by a parabola along each axis; 0 at a border."""
    side = score.shape[1]
    flat = score.flatten(1)
    stride = torch.tensor([side * side, side, 1], device=score.device)
    middle = (peak_zyx * stride).sum(1, keepdim=True)  # N, 1
    inner = (peak_zyx > 0) & (peak_zyx < side - 1)
    step = stride * inner  # no neighbour is asked for beyond the border
    before, at, after = (flat.gather(1, middle + i * step) for i in (-1, 0, 1))
    curvature = before - 2 * at + after
    offset = (0.5 * (before - after) / curvature.clamp(max=-1e-12)).clamp(-0.5, 0.5)
    return torch.where(inner & (curvature < 0), offset, 0.0)
