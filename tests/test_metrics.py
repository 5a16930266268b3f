"""Metrics by hand, with exact values, boundaries and misses."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tlt.geometry import Triple
from tlt.metrics import LesionRow, summarise


def row(found_mm: Triple | None, radius_mm: float = 20.0, seconds: float = 1.0) -> LesionRow:
    """A lesion whose truth is at (1, 2, 3)."""
    truth = (1.0, 2.0, 3.0)
    return LesionRow("p", "l", "a", "painted", radius_mm, truth, found_mm, truth, 0.5, seconds)


def off(x: float, y: float = 0.0, z: float = 0.0) -> Triple:
    return (1.0 + x, 2.0 + y, 3.0 + z)


@pytest.mark.parametrize(
    ("distance_mm", "radius_mm", "within_10mm", "within_radius"),
    [
        (4.0, 5.0, True, True),
        (5.0, 5.0, True, False),  # at most min(10, r) counts; only below r does
        (5.5, 5.0, False, False),
        (9.5, 20.0, True, True),
        (10.0, 20.0, True, True),
        (10.5, 20.0, False, True),
        (10.0, 10.0, True, False),
        (20.0, 20.0, False, False),
        (0.0, 0.0, True, False),
    ],
)
def test_centre_point_matching_and_its_boundaries(
    distance_mm: float, radius_mm: float, within_10mm: bool, within_radius: bool
) -> None:
    judged = row(off(0, distance_mm), radius_mm)
    assert judged.error_mm == distance_mm
    assert (judged.within_10mm, judged.within_radius) == (within_10mm, within_radius)


def test_a_miss_is_infinitely_far() -> None:
    miss = row(None)
    assert math.isinf(miss.error_mm)
    assert not miss.within_10mm
    assert not miss.within_radius


def test_summary_by_hand() -> None:
    rows = [
        row(off(3, 4, 0), 5.0, 1.0),  # 5 mm: counts at 10 mm, not at radius
        row(off(-2, -3, 6), 20.0, 2.0),  # 7 mm: both
        row(off(0, 0, 12), 20.0, 3.0),  # 12 mm: at radius only
        row(None, 20.0, 6.0),  # neither
    ]
    summary = summarise(rows)
    assert (summary.n, summary.answered) == (4, 3)
    assert (summary.cpm_10mm, summary.cpm_radius) == (50.0, 50.0)
    assert summary.med_mm == pytest.approx(8.0)
    assert summary.med_std_mm == pytest.approx(math.sqrt((9 + 1 + 16) / 3))  # population
    axes = (summary.med_x_mm, summary.med_y_mm, summary.med_z_mm)
    assert axes == pytest.approx((5 / 3, 7 / 3, 6.0))
    assert summary.median_mm == pytest.approx(9.5)  # of 5, 7, 12 and a miss
    assert math.isinf(summary.p95_mm)
    assert summary.seconds == 3.0


def test_p95_is_the_error_that_95_percent_do_not_exceed() -> None:
    rows = [row(off(float(d))) for d in range(1, 22)]
    assert summarise(rows).p95_mm == 20.0


def test_a_few_misses_leave_the_median_finite() -> None:
    summary = summarise([row(off(2.0)), row(off(4.0)), row(None)])
    assert summary.median_mm == 4.0
    assert summary.cpm_10mm == pytest.approx(200 / 3)


def test_only_misses() -> None:
    summary = summarise([row(None), row(None)])
    assert (summary.answered, summary.cpm_10mm, summary.cpm_radius) == (0, 0.0, 0.0)
    assert np.isnan([summary.med_mm, summary.med_std_mm, summary.med_z_mm]).all()
    assert math.isinf(summary.median_mm)


def test_no_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="no lesions"):
        summarise([])
