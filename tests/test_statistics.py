"""Intervals and tests: exact values by hand, and the clustering."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from tlt.errors import InputError
from tlt.metrics import LesionRow
from tlt.statistics import bootstrap_errors, bootstrap_mean, compare


def rows_of(errors, patients=None) -> list[LesionRow]:
    """Lesions of 20 mm radius with errors along x; NaN is a miss."""
    names = patients or [f"p{i}" for i in range(len(errors))]
    origin = (0.0, 0.0, 0.0)
    return [
        LesionRow(
            "pair", f"l{i}", name, "painted", 20.0, origin,
            None if math.isnan(e) else (float(e), 0.0, 0.0), origin, 0.5, 1.0,
        )
        for i, (e, name) in enumerate(zip(errors, names, strict=True))
    ]  # fmt: skip


def test_an_interval_of_a_quantile_holds_it_and_bears_misses() -> None:
    errors = np.linspace(0, 10, 101)
    found = bootstrap_errors(rows_of(errors), np.median)
    assert 3.5 < found.low < 5 < found.high < 6.5
    one = bootstrap_errors(rows_of([1.0] * 20, ["a"] * 10 + ["b"] * 10), np.max)
    assert (one.low, one.high) == (1.0, 1.0)
    missed = bootstrap_errors(rows_of([1.0, 2.0, math.nan, math.nan]), np.max)
    assert missed.high == math.inf
    assert math.isnan(bootstrap_errors(rows_of([1.0, 2.0], ["a", "a"]), np.median).low)


def test_the_t_test_of_cpm_is_over_all_lesions() -> None:
    right, wrong = rows_of([1.0, 1.0, 1.0, 1.0]), rows_of([1.0, 11.0, 11.0, math.nan])
    expected = stats.ttest_1samp([0.0, 1.0, 1.0, 1.0], 0).pvalue
    assert compare(right, wrong).p_cpm_lesions == pytest.approx(expected)


def test_an_interval_holds_the_mean_and_is_wider_for_clustered_patients() -> None:
    rng = np.random.default_rng(0)
    shared = np.repeat(np.abs(rng.normal(6, 3, 20)), 10)
    alone = bootstrap_mean(rows_of(shared), lambda r: r.error_mm)
    patients = [f"p{i // 10}" for i in range(200)]
    together = bootstrap_mean(rows_of(shared, patients), lambda r: r.error_mm)
    assert alone.low < shared.mean() < alone.high
    assert together.low < shared.mean() < together.high
    assert together.high - together.low > 2 * (alone.high - alone.low)


def test_an_interval_leaves_misses_out_of_the_error_and_needs_two_patients() -> None:
    found = bootstrap_mean(rows_of([4.0, 4.0, math.nan]), lambda r: r.error_mm)
    assert (found.low, found.high) == (4.0, 4.0)
    assert math.isnan(bootstrap_mean(rows_of([1.0, 2.0], ["a", "a"]), lambda r: r.error_mm).low)


def test_an_interval_is_of_lesions_not_of_patients_means() -> None:
    patients = [f"p{i // 10}" for i in range(90)] + ["alone"]
    found = bootstrap_mean(rows_of([1.0] * 90 + [11.0], patients), lambda r: r.error_mm)
    assert found.low == 1.0
    assert found.high < 1.6  # the mean of patients' means is 2


def test_paired_tests_by_hand() -> None:
    first, second = [1.0, 2.0, 3.0, 12.0, 11.0, 1.0], [2.0, 4.0, 2.0, 4.0, 13.0, 11.0]
    found = compare(rows_of(first), rows_of(second))
    assert found.med_difference_mm == pytest.approx(np.mean(np.subtract(first, second)))
    assert found.p_lesions == pytest.approx(stats.ttest_rel(first, second).pvalue)
    assert found.p_patients == pytest.approx(found.p_lesions)  # one lesion a patient
    assert (found.first_only, found.second_only) == (1, 1)  # the sixth, and the fourth
    assert found.p_mcnemar == 1.0


def test_mcnemar_is_the_exact_binomial() -> None:
    found = compare(rows_of([1.0] * 6), rows_of([11.0] * 5 + [1.0]))
    assert (found.first_only, found.second_only) == (5, 0)
    assert found.p_mcnemar == pytest.approx(2 * 0.5**5)


def test_a_miss_is_wrong_in_cpm_and_out_of_the_t_test() -> None:
    found = compare(rows_of([1.0, 2.0, math.nan]), rows_of([2.0, 4.0, 3.0]))
    assert (found.n, found.misses, found.second_only) == (2, 1, 1)


def test_patients_are_averaged_first() -> None:
    first, second = [1.0, 1.0, 1.0, 5.0], [3.0, 3.0, 3.0, 4.0]
    found = compare(rows_of(first, list("aaab")), rows_of(second, list("aaab")))
    assert found.p_patients == pytest.approx(stats.ttest_1samp([-2.0, 1.0], 0).pvalue)


def test_equal_and_unequal_lists() -> None:
    same = rows_of([1.0, 2.0])
    assert compare(same, same).p_lesions == 1.0
    assert compare(same, rows_of([2.0, 3.0])).p_lesions == 0.0
    with pytest.raises(InputError, match="same lesions"):
        compare(same, rows_of([1.0]))
    with pytest.raises(InputError, match="twice"):
        compare([*same, same[0]], same)
    with pytest.raises(InputError, match="same lesions"):
        compare(same, [replace(row, lesion=f"x{row.lesion}") for row in same])
