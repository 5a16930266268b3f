"""What trackers that register deformably share: the part they register, the warp, its evidence."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from tlt.errors import ModelError
from tlt.geometry import Grid, Points
from tlt.systems.base import AlignedPair, Location
from tlt.systems.patch import HIGH_HU, LOW_HU, correlate, tones
from tlt.volume import AIR_HU, Volume

AROUND_MM = 16.0  # half the side of the cube whose fit the confidence rests on
LEAST_VOLUME = 0.05  # a warp that folds counts as one that squeezes to this share


class Warp:
    """A dense displacement: added to a point of the template it gives that of the search image.

    Attributes:
        displacement_mm: (D, H, W, 3) as (x, y, z), LPS.
        grid: where its voxels lie.
    """

    def __init__(self, displacement_mm: NDArray[np.float32], grid: Grid) -> None:
        self.displacement_mm, self.grid = displacement_mm, grid

    @staticmethod
    def zero(grid: Grid) -> Warp:
        """The warp that moves nothing."""
        return Warp(np.zeros((*grid.shape_zyx, 3), np.float32), grid)

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


def followed(pair: AlignedPair, warp: Warp) -> list[Location]:
    """Each lesion's prior moved by the warp, with its evidence."""
    moved = pair.prior_mm + warp.at(pair.prior_mm)
    return [
        Location(there, evidence(pair, warp, prior))
        for prior, there in zip(pair.prior_mm, moved, strict=True)
    ]


def seen_by_both(template: Volume, search: Volume) -> NDArray[np.bool_]:
    """Voxels (D, H, W) that both scanners saw, of two images on the same grid; NaN is unseen."""
    return ~np.isnan(template.voxels) & ~np.isnan(search.voxels)


def box_of(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """The smallest box that holds all that is true in a mask; something must be."""
    return ndimage.find_objects(mask.astype(np.uint8))[0]


def load_optional(package: str, tracker: str) -> ModuleType:
    """A package of the extra ``registration`` that a tracker is made of.

    Raises:
        ModelError: it is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise ModelError(
            f"the tracker '{tracker}' needs the package {package}: "
            "pip install 'transformer-lesion-tracker[registration]'"
        ) from error


def clipped(volume: Volume) -> NDArray[np.float32]:
    """HU within the window of the registrations; air where nothing was seen."""
    return np.clip(np.nan_to_num(volume.voxels, nan=AIR_HU), LOW_HU, HIGH_HU)


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
