"""Intervals and tests over rows, clustered by patient: lesions of one patient are not independent.

The paper gives a paired t-test over lesions; it stands beside the one over patients' means.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from tlt.errors import InputError
from tlt.metrics import LesionRow

Value = Callable[[LesionRow], float]
RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A 95 % interval; NaN where there are too few patients."""

    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Two trackers on the same lesions.

    Attributes:
        n: lesions that both answered; misses: those that one of them did not.
        med_difference_mm: mean of (first - second) error.
        p_lesions: paired t-test over lesions, as in the paper.
        p_patients: the same over the patients' mean differences.
        first_only, second_only: CPM@10mm, right in one and wrong in the other (a miss is wrong).
        p_mcnemar: exact McNemar test of these two.
        p_cpm_lesions: paired t-test over lesions of CPM@10mm, as in the paper.
    """

    n: int
    misses: int
    med_difference_mm: float
    p_lesions: float
    p_patients: float
    first_only: int
    second_only: int
    p_mcnemar: float
    p_cpm_lesions: float


def bootstrap_mean(rows: Sequence[LesionRow], value: Value, seed: int = 0) -> Interval:
    """Interval of the mean of a value over rows, patients drawn as wholes; NaN values are left out.

    A percentile bootstrap, so that it stays within the range of the value.
    """
    sums, counts = _by_patient(rows, value)
    if len(counts) < 2:
        return Interval(math.nan, math.nan)
    found = stats.bootstrap(
        (sums, counts),
        lambda s, n, axis: s.sum(axis) / n.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return Interval(float(found.confidence_interval.low), float(found.confidence_interval.high))


def bootstrap_errors(
    rows: Sequence[LesionRow], figure: Callable[[NDArray[np.float64]], float], seed: int = 0
) -> Interval:
    """Interval of a figure of the errors, as their median, patients drawn as wholes.

    A miss is infinitely far; an end of the interval may be infinite, too.
    """
    errors: dict[str, list[float]] = {}
    for row in rows:
        errors.setdefault(row.patient, []).append(row.error_mm)
    if len(errors) < 2:
        return Interval(math.nan, math.nan)
    groups = [np.array(part) for part in errors.values()]
    drawn = np.random.default_rng(seed).integers(len(groups), size=(RESAMPLES, len(groups)))
    found = [figure(np.concatenate([groups[i] for i in draw])) for draw in drawn]
    low, high = np.quantile(found, (0.025, 0.975), method="nearest")
    return Interval(float(low), float(high))


def compare(first: Sequence[LesionRow], second: Sequence[LesionRow]) -> Comparison:
    """Paired tests over the lesions that both lists name.

    Raises:
        InputError: a lesion stands in one list only, or twice in one.
    """
    by_name = {(row.pair, row.lesion): row for row in second}
    names = {(row.pair, row.lesion) for row in first}
    odd = sorted(names ^ set(by_name))
    if odd:
        raise InputError(
            f"the two files do not hold the same lesions: {len(odd)} stand in one only, as "
            f"{odd[0][1]} of {odd[0][0]}; compare runs on one dataset"
        )
    if not len(first) == len(names) == len(second):
        raise InputError("a lesion stands twice in one of the two files; write it again")
    pairs = [(row, by_name[row.pair, row.lesion]) for row in first]
    answered = [(a, b) for a, b in pairs if a.found_mm is not None and b.found_mm is not None]
    difference = np.array([a.error_mm - b.error_mm for a, b in answered])
    patients = sorted({a.patient for a, _ in answered})
    means = np.array(
        [
            np.mean([d for d, (a, _) in zip(difference, answered, strict=True) if a.patient == p])
            for p in patients
        ]
    )
    first_only = sum(a.within_10mm and not b.within_10mm for a, b in pairs)
    second_only = sum(b.within_10mm and not a.within_10mm for a, b in pairs)
    decided = first_only + second_only
    return Comparison(
        n=len(answered),
        misses=len(pairs) - len(answered),
        med_difference_mm=float(difference.mean()) if len(difference) else math.nan,
        p_lesions=_t_test(difference),
        p_patients=_t_test(means),
        first_only=first_only,
        second_only=second_only,
        p_mcnemar=float(stats.binomtest(first_only, decided).pvalue) if decided else 1.0,
        p_cpm_lesions=_t_test(np.array([float(a.within_10mm) - b.within_10mm for a, b in pairs])),
    )


def _t_test(differences: NDArray[np.float64]) -> float:
    """Two-sided p of the mean being zero; NaN for fewer than two.

    Where all are the same it is 1 if they are zero, else 0.
    """
    if len(differences) < 2:
        return math.nan
    if np.ptp(differences) == 0:
        return 1.0 if differences[0] == 0 else 0.0
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def _by_patient(
    rows: Sequence[LesionRow], value: Value
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum of the finite values and their number, for each patient that has any."""
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for row in rows:
        now = value(row)
        if math.isfinite(now):
            sums[row.patient] = sums.get(row.patient, 0.0) + now
            counts[row.patient] = counts.get(row.patient, 0) + 1
    return np.array(list(sums.values())), np.array(list(counts.values()), float)
