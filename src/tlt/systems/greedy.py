"""Greedy deformable registration from the affine prior: ``--tracker greedy``.

Source: Yushkevich et al., greedy, by the package ``picsl_greedy``: a diffeomorphic scheme that
follows the gradient of local normalised cross-correlation and smooths step and warp. It is the
classical bar: no learning, and the whole common field of view instead of the lesion's patch.
"""

from __future__ import annotations

import io
from types import ModuleType

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from tlt.errors import ModelError, TltError
from tlt.geometry import Grid, Points
from tlt.systems.base import AlignedPair, Location, Progress
from tlt.systems.patch import HIGH_HU, LOW_HU, correlate, tones
from tlt.volume import AIR_HU, Volume, to_sitk

# Chosen on simulated pairs of the training CTs (docs/decisions/0009): weighted NCC, radius in
# voxels; iterations from the coarsest level to 2 mm; smoothing of a step and of the warp.
SETTING = "-m WNCC 2x2x2 -n 100x100x50x10 -s 3vox 0.5vox"

# By default greedy adds random noise to flat places and rounds the warp to 0.1 voxel.
REPEATABLE = "-noise 0 -wp 0"

# A thinner slab is filled up with what the mask leaves out: greedy wants four voxels on its
# coarsest level, and there, at 16 mm, a whole neighbourhood of the correlation has five.
LEAST_VOXELS = 40

WHOLE_MM = 2000.0  # beyond any scanner's field of view

AROUND_MM = 16.0  # half the side of the cube whose fit the confidence rests on
LEAST_VOLUME = 0.05  # a warp that folds counts as one that squeezes to this share


class GreedySystem:
    """The common field of view is registered once; each lesion follows the warp at its prior."""

    name = "greedy"
    model_name: str | None = None
    weights_sha256: str | None = None
    spacing_mm = 2.0
    margin_mm = WHOLE_MM

    def __init__(self, setting: str = SETTING) -> None:
        self.setting = setting
        load_greedy()  # a missing package is said before any image is read

    def locate(self, pair: AlignedPair, progress: Progress | None = None) -> list[Location]:
        """The priors moved by the warp.

        Raises:
            TltError: greedy fails.
        """
        if progress is not None:
            progress("register, deformable", 0.0)
        warp = register_greedy(pair.template, pair.search, self.setting)
        moved = pair.prior_mm + warp.at(pair.prior_mm)
        located = [
            Location(there, evidence(pair, warp, prior))
            for prior, there in zip(pair.prior_mm, moved, strict=True)
        ]
        if progress is not None:
            progress("register, deformable", 1.0)
        return located


class Warp:
    """A dense displacement: added to a point of the template it gives that of the search image.

    Attributes:
        displacement_mm: (D, H, W, 3) as (x, y, z), LPS.
        grid: where its voxels lie.
    """

    def __init__(self, displacement_mm: NDArray[np.float32], grid: Grid) -> None:
        self.displacement_mm, self.grid = displacement_mm, grid

    def at(self, points_mm: ArrayLike) -> Points:
        """Displacement (..., 3) in mm at points (..., 3); outside the grid that of its border."""
        points = np.asarray(points_mm, float)
        index = self.grid.mm_to_index(points.reshape(-1, 3)).T
        components = [
            ndimage.map_coordinates(self.displacement_mm[..., axis], index, order=1, mode="nearest")
            for axis in range(3)
        ]
        return np.stack(components, -1).astype(float).reshape(points.shape)

    def volume_change(self, point_mm: ArrayLike, step_mm: float = 4.0) -> float:
        """Determinant of the map's Jacobian at a point (3,): below 0 where it folds."""
        steps = step_mm * np.eye(3)
        point = np.asarray(point_mm, float)
        slope = (self.at(point + steps) - self.at(point - steps)).T / (2 * step_mm)
        return float(np.linalg.det(np.eye(3) + slope))


def register_greedy(template: Volume, search: Volume, setting: str = SETTING) -> Warp:
    """The warp from a template to a search image on the same grid; NaN is what nobody saw there.

    Only what both scanners saw counts: the edge of a view would be matched as if it were anatomy.
    Where they share nothing the warp is zero.

    Raises:
        ModelError: picsl_greedy is not installed; TltError: it fails.
    """
    seen = ~np.isnan(template.voxels) & ~np.isnan(search.voxels)
    if not seen.any():
        return Warp(np.zeros((*template.grid.shape_zyx, 3), np.float32), template.grid)
    box, padding = _common_box(seen)
    start = np.array([part.start for part in box]) - padding[:, 0]
    grid = template.grid.cropped(start, np.array(seen[box].shape) + padding.sum(1))

    def image(voxels: NDArray, fill: float) -> sitk.Image:
        part = np.pad(voxels[box].astype(np.float32), padding, constant_values=fill)
        return to_sitk(Volume(part, grid))

    images = {
        "fixed": image(_clipped(template), AIR_HU),
        "moving": image(_clipped(search), AIR_HU),
        "mask": image(seen, 0.0),
    }
    return Warp(_run(setting, images), grid)


def _common_box(seen: NDArray[np.bool_]) -> tuple[tuple[slice, ...], NDArray[np.int64]]:
    """The box of what both saw, and voxels (3, 2) to add before and after it on each axis."""
    box = ndimage.find_objects(seen.astype(np.uint8))[0]
    lacking = np.maximum(LEAST_VOXELS - np.array(seen[box].shape), 0)
    return box, np.stack([lacking // 2, lacking - lacking // 2], -1)


def _run(setting: str, images: dict[str, sitk.Image]) -> NDArray[np.float32]:
    """The displacement (D, H, W, 3) that greedy finds.

    It prints whatever ``-V`` says, so what it prints goes into a text that nobody reads: the
    standard output is the user's.
    """
    greedy = load_greedy().Greedy3D()
    said = io.StringIO()
    threads = torch.get_num_threads()
    command = f"-i fixed moving -gm mask {setting} {REPEATABLE} -o warp -threads {threads} -V 0"
    try:
        greedy.execute(command, out=said, err=said, warp=None, **images)
        displacement = sitk.GetArrayFromImage(greedy["warp"])
    except (RuntimeError, ValueError, KeyError, MemoryError) as error:
        raise TltError(_failure(str(error) or type(error).__name__)) from error
    if not np.isfinite(displacement).all():
        raise TltError(_failure("the warp is not finite"))
    return displacement


def _failure(reason: str) -> str:
    one_line = " ".join(reason.split())
    return f"greedy could not register the pair: {one_line}; take another --tracker"


def load_greedy() -> ModuleType:
    """The package picsl_greedy.

    Raises:
        ModelError: it is not installed.
    """
    try:
        import picsl_greedy
    except ImportError as error:
        raise ModelError(
            "the tracker 'greedy' needs the package picsl_greedy: "
            "pip install 'transformer-lesion-tracker[registration]'"
        ) from error
    return picsl_greedy


def evidence(pair: AlignedPair, warp: Warp, prior_mm: Points) -> dict[str, float]:
    """How well the tissue about a lesion fits after the warp, and how unruly the warp is there.

    ``correlation`` after the warp, ``gain`` over that at the prior, ``spread_mm`` of the
    displacement about its mean, ``squeeze``: the absolute logarithm of the change of volume.
    """
    points = prior_mm + _offsets_mm(pair.template.grid.spacing_mm[0])
    shift = warp.at(points)
    template = tones(pair.template.sample(points, np.nan))
    before, after = (tones(pair.search.sample(p, np.nan)) for p in (points, points + shift))
    fit = _correlation(template, after)
    weight = _gaussian(points - prior_mm)
    own = (weight / weight.sum())[..., None]
    scatter = shift - (own * shift).sum((0, 1, 2))
    return {
        "correlation": fit,
        "gain": fit - _correlation(template, before),
        "spread_mm": float(np.sqrt((own * scatter**2).sum())),
        "squeeze": abs(float(np.log(max(warp.volume_change(prior_mm), LEAST_VOLUME)))),
    }


def _offsets_mm(step_mm: float) -> NDArray[np.float64]:
    """Places (n, n, n, 3) of a cube about 0, as (x, y, z)."""
    steps = np.arange(-AROUND_MM, AROUND_MM + step_mm / 2, step_mm)
    return np.stack(np.meshgrid(steps, steps, steps, indexing="ij")[::-1], -1)


def _gaussian(offsets_mm: NDArray[np.float64]) -> NDArray[np.float32]:
    """Weights that fall off with half of `AROUND_MM` as sigma."""
    sigma = AROUND_MM / 2
    return np.exp(-(offsets_mm**2).sum(-1) / (2 * sigma**2)).astype(np.float32)


def _correlation(template: torch.Tensor, search: torch.Tensor) -> float:
    """NCC of two cubes, under the same Gaussian, at the one place where they lie on each other."""
    return float(correlate(template[None], search[None]).item())


def _clipped(volume: Volume) -> NDArray[np.float32]:
    """HU within the window; air where nothing was seen."""
    return np.clip(np.nan_to_num(volume.voxels, nan=AIR_HU), LOW_HU, HIGH_HU)
