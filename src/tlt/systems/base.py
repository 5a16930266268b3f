"""What every tracker gets and gives: an aligned pair in, one location a lesion out.

All trackers start from the same affine prior and see both images in the follow-up's frame: the
baseline is resampled through the affine once, so a lesion lies at its prior in both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from tlt.geometry import Grid, Points
from tlt.lesion import Lesion
from tlt.registration.result import Registration
from tlt.volume import Volume

Progress = Callable[[str, float], None]

EDGE_MM = 4.0  # of air around the field of view, so that its border looks like one

LATTICE_MM = 8.0

WHOLE_MM = 2000.0  # a margin that is beyond any scanner's field of view


@dataclass(frozen=True, eq=False)
class AlignedPair:
    """Both images on one axis-aligned grid of the follow-up's frame, and the lesions' priors.

    Attributes:
        template: the baseline, carried there by the affine registration; NaN outside its view.
        search: the follow-up; NaN outside its view.
        prior_mm: (Q, 3) where registration puts each lesion; its place in ``template``.
        radius_mm: (Q,) radii after the affine.
        registration: the affine itself, with its similarity.
    """

    template: Volume
    search: Volume
    prior_mm: Points
    radius_mm: Points
    registration: Registration


@dataclass(frozen=True)
class Location:
    """Where a tracker puts a lesion, and the evidence that its confidence is computed from."""

    center_mm: Points
    evidence: dict[str, float] = field(default_factory=dict)


class System(Protocol):
    """A tracker's own part: everything before and after it is shared (`tlt.track`).

    Attributes:
        name: as in ``--tracker``.
        model_name, weights_sha256: what it learned from, or None.
        spacing_mm: voxel size of the aligned pair it wants.
        margin_mm: how much image it wants around every prior.
    """

    name: str
    model_name: str | None
    weights_sha256: str | None
    spacing_mm: float
    margin_mm: float

    def locate(self, pair: AlignedPair, progress: Progress | None = None) -> list[Location]:
        """One location for each lesion of the pair."""
        ...


def align(
    baseline: Volume,
    followup: Volume,
    lesions: Sequence[Lesion],
    registration: Registration,
    spacing_mm: float,
    margin_mm: float,
) -> AlignedPair:
    """Both images resampled once, around the priors of all lesions, as far as the follow-up shows.

    The grid lies on a fixed lattice, that of the presets' tokens: a lesion's answer does not
    depend on which other lesions are tracked with it.
    """
    move = registration.baseline_to_followup
    prior = move(np.array([lesion.center_mm for lesion in lesions]))
    seen_low, seen_high = followup.grid.bounds_mm()
    low = np.maximum(prior.min(0) - margin_mm, seen_low - EDGE_MM)
    high = np.minimum(prior.max(0) + margin_mm, seen_high + EDGE_MM)
    low = np.floor(low / LATTICE_MM) * LATTICE_MM
    grid = Grid.covering(low, high, spacing_mm)
    return AlignedPair(
        template=baseline.resample(grid, pull=move.inverse(), fill=np.nan),
        search=followup.resample(grid, fill=np.nan),
        prior_mm=prior,
        radius_mm=np.array([lesion.radius_mm for lesion in lesions]) * move.scale,
        registration=registration,
    )
