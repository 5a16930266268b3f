"""Tracking metrics as properties of stored rows, one a lesion (DLS metric; paper, Section 4.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tlt.geometry import Triple


@dataclass(frozen=True)
class LesionRow:
    """One lesion of one pair: what is true and what a tracker said.

    Attributes:
        pair, lesion, patient: names.
        kind: what it is (painted, structure, a real lesion's label).
        radius_mm: radius by which a match is judged.
        truth_mm, found_mm: centres; ``found_mm`` is None where the tracker gave none (a miss).
        prior_mm: where registration alone put it; None where unknown.
        confidence: what the tracker gave.
        seconds: wall time of the pair, shared among its lesions.
        slice_mm: slice distance of the follow-up; NaN where unknown.
        box_mm: lower and upper corner of the lesion's box in the follow-up; None where unknown,
            and then the cube of its radius stands for it.
    """

    pair: str
    lesion: str
    patient: str
    kind: str
    radius_mm: float
    truth_mm: Triple
    found_mm: Triple | None
    prior_mm: Triple | None
    confidence: float
    seconds: float
    slice_mm: float = math.nan
    box_mm: tuple[Triple, Triple] | None = None

    @property
    def error_mm(self) -> float:
        """Distance of the prediction from the truth; infinite for a miss."""
        return math.inf if self.found_mm is None else math.dist(self.found_mm, self.truth_mm)

    @property
    def within_10mm(self) -> bool:
        """CPM@10mm counts it: the error is at most min(10 mm, radius)."""
        return self.error_mm <= min(10.0, self.radius_mm)

    @property
    def within_radius(self) -> bool:
        """CPM@Radius counts it: the error is below the radius."""
        return self.error_mm < self.radius_mm

    @property
    def within_fixed_10mm(self) -> bool:
        """The TLT/UAE metric counts it: the error is at most 10 mm, whatever the radius."""
        return self.error_mm <= 10.0

    @property
    def within_box(self) -> bool:
        """The TLT/UAE metric counts it: the prediction lies in the lesion's box."""
        if self.found_mm is None:
            return False
        r = self.radius_mm
        low, high = self.box_mm or ([v - r for v in self.truth_mm], [v + r for v in self.truth_mm])
        return all(a <= v <= b for a, v, b in zip(low, self.found_mm, high, strict=True))


@dataclass(frozen=True)
class Summary:
    """Metrics over rows: CPM in percent, distances in mm.

    Attributes:
        n: lesions; answered: those with a prediction.
        cpm_10mm, cpm_radius: centre point matching, a miss counts as wrong (DLS metric).
        cpm_fixed_10mm, cpm_box: the same as TLT and UAE count it.
        med_mm, med_std_mm: mean and standard deviation of the error, over answered lesions.
        median_mm, p95_mm: of the error of all lesions; a miss is infinitely far.
        med_x_mm ... med_z_std_mm: mean and standard deviation of the error along each axis.
        seconds: mean wall time a lesion, where it is known.
    """

    n: int
    answered: int
    cpm_10mm: float
    cpm_radius: float
    cpm_fixed_10mm: float
    cpm_box: float
    med_mm: float
    med_std_mm: float
    median_mm: float
    p95_mm: float
    med_x_mm: float
    med_y_mm: float
    med_z_mm: float
    med_x_std_mm: float
    med_y_std_mm: float
    med_z_std_mm: float
    seconds: float


def summarise(rows: Sequence[LesionRow]) -> Summary:
    """The metrics of rows.

    Raises:
        ValueError: no rows.
    """
    if not rows:
        raise ValueError("no lesions to summarise")
    every = np.array([row.error_mm for row in rows])
    offsets = np.array(
        [np.subtract(row.found_mm, row.truth_mm) for row in rows if row.found_mm is not None]
    ).reshape(-1, 3)
    errors = np.linalg.norm(offsets, axis=1)
    along = np.abs(offsets) if len(offsets) else np.full((1, 3), math.nan)
    axes, spread = along.mean(0), along.std(0)
    return Summary(
        n=len(rows),
        answered=len(errors),
        cpm_10mm=100.0 * float(np.mean([row.within_10mm for row in rows])),
        cpm_radius=100.0 * float(np.mean([row.within_radius for row in rows])),
        cpm_fixed_10mm=100.0 * float(np.mean([row.within_fixed_10mm for row in rows])),
        cpm_box=100.0 * float(np.mean([row.within_box for row in rows])),
        med_mm=float(errors.mean()) if len(errors) else math.nan,
        med_std_mm=float(errors.std()) if len(errors) else math.nan,
        median_mm=float(np.median(every)),
        p95_mm=p95(every),
        med_x_mm=float(axes[0]),
        med_y_mm=float(axes[1]),
        med_z_mm=float(axes[2]),
        med_x_std_mm=float(spread[0]),
        med_y_std_mm=float(spread[1]),
        med_z_std_mm=float(spread[2]),
        seconds=_mean([row.seconds for row in rows]),
    )


def p95(errors_mm: NDArray[np.float64]) -> float:
    """The 95th percentile; between two errors the higher one, so that infinity does no harm."""
    return float(np.percentile(errors_mm, 95, method="higher"))


def _mean(values: Sequence[float]) -> float:
    """The mean of the finite values; NaN without any."""
    finite = [value for value in values if math.isfinite(value)]
    return float(np.mean(finite)) if finite else math.nan
