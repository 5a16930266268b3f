"""Dense displacement search from the affine prior: ``--tracker deeds``.

Source: Heinrich et al., IEEE TMI 2013, and deedsBCV; `tlt.registration.deeds` is the method. The
template is the fixed image: its displacement carries a lesion's centre to the search image.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from types import ModuleType

import numpy as np
import torch

from tlt.errors import ModelError
from tlt.systems.base import WHOLE_MM, AlignedPair, Location, Progress
from tlt.systems.patch import HIGH_HU, LOW_HU
from tlt.systems.warp import Warp, box_of, followed, load_optional, seen_by_both
from tlt.volume import Volume


class DeedsSystem:
    """The common field of view is registered once; each lesion follows the warp at its prior."""

    name = "deeds"
    model_name: str | None = None
    weights_sha256: str | None = None
    spacing_mm = 2.0
    margin_mm = WHOLE_MM

    def __init__(self) -> None:
        load_optional("numba", self.name)  # what is missing is said before any image is read
        _load_method()

    def locate(self, pair: AlignedPair, progress: Progress | None = None) -> list[Location]:
        """The priors moved by the warp."""
        report = None if progress is None else partial(progress, "register, deformable")
        if report is not None:
            report(0.0)
        return followed(pair, register_deeds(pair.template, pair.search, report))


def _load_method() -> ModuleType:
    """The method, which numba compiles once.

    Raises:
        ModelError: what is compiled can be kept nowhere.
    """
    try:
        return import_module("tlt.registration.deeds")
    except RuntimeError as error:  # of numba, on an installation and a home that are read-only
        raise ModelError(
            f"the tracker 'deeds' cannot keep what numba compiles ({str(error).splitlines()[0]}); "
            "set NUMBA_CACHE_DIR to a folder that can be written"
        ) from error


def register_deeds(
    template: Volume, search: Volume, report: Callable[[float], None] | None = None
) -> Warp:
    """The warp from a template to a search image on the same isotropic grid; NaN was not seen.

    Where they share nothing it is zero.
    """
    seen = seen_by_both(template, search)
    if not seen.any():
        return Warp.zero(template.grid)
    box = box_of(seen)
    fixed, moving = (
        torch.from_numpy(np.clip(volume.voxels[box], LOW_HU, HIGH_HU).astype(np.float32))
        for volume in (template, search)
    )
    voxels_zyx = _load_method().register(fixed, moving, report=report)
    grid = template.grid.cropped([cut.start for cut in box], fixed.shape)
    displacement_mm = voxels_zyx.flip(0).movedim(0, -1).numpy() @ grid.axes.T
    return Warp(displacement_mm.astype(np.float32), grid)
