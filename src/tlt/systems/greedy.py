"""Greedy deformable registration from the affine prior: ``--tracker greedy``.

Source: Yushkevich et al., greedy, by the package ``picsl_greedy``: a diffeomorphic scheme that
follows the gradient of local normalised cross-correlation and smooths step and warp. It is the
classical bar: no learning, and the whole common field of view instead of the lesion's patch.
"""

from __future__ import annotations

import io

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray

from tlt.errors import TltError
from tlt.systems.base import WHOLE_MM, AlignedPair, Location, Progress
from tlt.systems.warp import Warp, box_of, clipped, followed, load_optional, seen_by_both
from tlt.volume import AIR_HU, Volume, to_sitk

PACKAGE = "picsl_greedy"

# Chosen on simulated pairs of the training CTs (docs/decisions/0009): weighted NCC, radius in
# voxels; iterations from the coarsest level to 2 mm; smoothing of a step and of the warp.
SETTING = "-m WNCC 2x2x2 -n 100x100x50x10 -s 3vox 0.5vox"

# By default greedy adds random noise to flat places and rounds the warp to 0.1 voxel.
REPEATABLE = "-noise 0 -wp 0"

# A thinner slab is filled up with what the mask leaves out: greedy wants four voxels on its
# coarsest level, and there, at 16 mm, a whole neighbourhood of the correlation has five.
LEAST_VOXELS = 40


class GreedySystem:
    """The common field of view is registered once; each lesion follows the warp at its prior."""

    name = "greedy"
    model_name: str | None = None
    weights_sha256: str | None = None
    spacing_mm = 2.0
    margin_mm = WHOLE_MM

    def __init__(self, setting: str = SETTING) -> None:
        self.setting = setting
        load_optional(PACKAGE, self.name)  # a missing one is said before any image is read

    def locate(self, pair: AlignedPair, progress: Progress | None = None) -> list[Location]:
        """The priors moved by the warp.

        Raises:
            TltError: greedy fails.
        """
        if progress is not None:
            progress("register, deformable", 0.0)
        warp = register_greedy(pair.template, pair.search, self.setting)
        located = followed(pair, warp)
        if progress is not None:
            progress("register, deformable", 1.0)
        return located


def register_greedy(template: Volume, search: Volume, setting: str = SETTING) -> Warp:
    """The warp from a template to a search image on the same grid; NaN is what nobody saw there.

    Only what both scanners saw counts: the edge of a view would be matched as if it were anatomy.
    Where they share nothing the warp is zero.

    Raises:
        ModelError: picsl_greedy is not installed; TltError: it fails.
    """
    seen = seen_by_both(template, search)
    if not seen.any():
        return Warp.zero(template.grid)
    box, padding = _common_box(seen)
    start = np.array([part.start for part in box]) - padding[:, 0]
    grid = template.grid.cropped(start, np.array(seen[box].shape) + padding.sum(1))

    def image(voxels: NDArray, fill: float) -> sitk.Image:
        part = np.pad(voxels[box].astype(np.float32), padding, constant_values=fill)
        return to_sitk(Volume(part, grid))

    images = {
        "fixed": image(clipped(template), AIR_HU),
        "moving": image(clipped(search), AIR_HU),
        "mask": image(seen, 0.0),
    }
    return Warp(_run(setting, images), grid)


def _common_box(seen: NDArray[np.bool_]) -> tuple[tuple[slice, ...], NDArray[np.int64]]:
    """The box of what both saw, and voxels (3, 2) to add before and after it on each axis."""
    box = box_of(seen)
    lacking = np.maximum(LEAST_VOXELS - np.array(seen[box].shape), 0)
    return box, np.stack([lacking // 2, lacking - lacking // 2], -1)


def _run(setting: str, images: dict[str, sitk.Image]) -> NDArray[np.float32]:
    """The displacement (D, H, W, 3) that greedy finds.

    It prints whatever ``-V`` says, so what it prints goes into a text that nobody reads: the
    standard output is the user's.
    """
    greedy = load_optional(PACKAGE, GreedySystem.name).Greedy3D()
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
