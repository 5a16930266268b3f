"""Greedy deformable registration from the affine prior: ``--tracker greedy``.

Source: Yushkevich et al., greedy (the package ``picsl_greedy``): a diffeomorphic demons-like scheme
on normalised cross-correlation. It is the strongest registration that can be installed from wheels.
"""

from __future__ import annotations

import os

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from tlt.errors import ModelError
from tlt.systems.base import AlignedPair, Location, Progress
from tlt.volume import AIR_HU, Volume, to_sitk

LOW_HU, HIGH_HU = -1000.0, 400.0
# Four levels from 16 to 2 mm; smoothing of the update and of the warp in voxels. Chosen on
# simulated pairs of the training CTs (docs/decisions/0008).
OPTIONS = "-m NCC 4x4x4 -n 100x100x50x20 -s 2vox 0.5vox"


class GreedySystem:
    """The whole field of view is registered once; each lesion follows the field at its prior."""

    name = "greedy"
    model_name: str | None = None
    weights_sha256: str | None = None
    spacing_mm = 2.0
    margin_mm = 96.0

    def __init__(self, options: str = OPTIONS) -> None:
        self.options = options

    def locate(self, pair: AlignedPair, progress: Progress | None = None) -> list[Location]:
        """The priors moved by the field.

        Raises:
            ModelError: picsl_greedy is not installed.
        """
        if progress is not None:
            progress("register, deformable", 0.0)
        field = displacement(pair.template, pair.search, self.options)
        index = pair.template.grid.mm_to_index(pair.prior_mm).T
        moved = [
            ndimage.map_coordinates(field[..., axis], index, order=1, mode="nearest")
            for axis in range(3)
        ]
        return [Location(p + m) for p, m in zip(pair.prior_mm, np.stack(moved, 1), strict=True)]


def displacement(template: Volume, search: Volume, options: str = OPTIONS) -> NDArray[np.float32]:
    """Displacement (D, H, W, 3) as (x, y, z) in mm from places of the template to the search image.

    Only what both scanners saw counts in the correlation.

    Raises:
        ModelError: picsl_greedy is not installed.
    """
    try:
        from picsl_greedy import Greedy3D
    except ImportError as error:
        raise ModelError(
            "the tracker 'greedy' needs picsl_greedy: pip install 'transformer-lesion-tracker"
            "[registration]'"
        ) from error
    seen = ~np.isnan(template.voxels) & ~np.isnan(search.voxels)
    mask = to_sitk(Volume(seen.astype(np.uint8), template.grid))
    greedy = Greedy3D()
    greedy.execute(
        f"-i fixed moving -gm mask {options} -o warp -threads {os.cpu_count() or 1} -V 0",
        fixed=_tones(template),
        moving=_tones(search),
        mask=mask,
        warp=None,
    )
    return sitk.GetArrayFromImage(greedy["warp"])


def _tones(volume: Volume) -> sitk.Image:
    """Clipped HU; air where nothing was seen."""
    voxels = np.clip(np.nan_to_num(volume.voxels, nan=AIR_HU), LOW_HU, HIGH_HU)
    return to_sitk(Volume(voxels.astype(np.float32), volume.grid))
