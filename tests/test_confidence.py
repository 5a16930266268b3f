"""Confidence: a logistic model that was made is found again, and what is said at which value."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tlt.confidence import (
    Calibration,
    features_of,
    fit_calibration,
    load_calibration,
    status_of,
)
from tlt.errors import ModelError
from tlt.geometry import AffineTransform, Grid
from tlt.lesion import Status
from tlt.registration.result import Registration
from tlt.systems import TRACKERS
from tlt.systems.base import AlignedPair, Location
from tlt.volume import Volume

TRUE = Calibration({"peak": 3.0, "moved_cm": -0.8}, -0.5)


def drawn_rows(count: int, seed: int = 0) -> tuple[list[dict[str, float]], list[bool]]:
    """Features, and outcomes that come with the probability of the true model."""
    rng = np.random.default_rng(seed)
    rows = [
        {"peak": float(rng.uniform()), "moved_cm": float(rng.gamma(2, 0.7)), "constant": 4.0}
        for _ in range(count)
    ]
    return rows, [bool(rng.random() < TRUE.probability(row)) for row in rows]


def test_probability_by_hand() -> None:
    model = Calibration({"a": 2.0, "b": -1.0}, 0.5)
    assert model.probability({"a": 1.0, "b": 2.5, "unused": 9.0}) == pytest.approx(0.5)
    features = {"a": 1.0, "b": 2.5 - math.log(3)}
    assert model.probability(features) == pytest.approx(0.75)


def test_fit_recovers_the_model_that_drew_the_outcomes() -> None:
    fitted = fit_calibration(*drawn_rows(6000))
    assert set(fitted.weights) == {"peak", "moved_cm"}  # a constant feature says nothing
    assert fitted.weights["peak"] == pytest.approx(3.0, abs=0.25)
    assert fitted.weights["moved_cm"] == pytest.approx(-0.8, abs=0.1)
    assert fitted.intercept == pytest.approx(-0.5, abs=0.2)


def test_fitted_confidence_means_its_share_of_hits() -> None:
    fitted = fit_calibration(*drawn_rows(3000))
    rows, correct = drawn_rows(3000, seed=1)
    confidence = np.array([fitted.probability(row) for row in rows])
    for low in (0.2, 0.4, 0.6, 0.8):
        chosen = (confidence >= low) & (confidence < low + 0.2)
        assert np.mean(np.array(correct)[chosen]) == pytest.approx(
            confidence[chosen].mean(), abs=0.06
        )


@pytest.mark.parametrize("outcome", [True, False, None])
def test_fit_stays_finite_when_outcomes_are_all_equal_or_separable(outcome: bool | None) -> None:
    rows, _ = drawn_rows(60)
    correct = [row["peak"] > 0.5 if outcome is None else outcome for row in rows]
    fitted = fit_calibration(rows, correct)
    confidence = np.array([fitted.probability(row) for row in rows])
    assert np.all(np.isfinite([*fitted.weights.values(), fitted.intercept]))
    assert np.mean((confidence > 0.5) == correct) > 0.95


@pytest.mark.parametrize(
    ("confidence", "status"),
    [
        (1.0, Status.FOUND),
        (0.5, Status.FOUND),
        (0.4999, Status.LOW_CONFIDENCE),
        (0.2, Status.LOW_CONFIDENCE),
        (0.1999, Status.NOT_FOUND),
        (0.0, Status.NOT_FOUND),
    ],
)
def test_status_thresholds(confidence: float, status: Status) -> None:
    assert status_of(confidence) is status


def two_lesions() -> AlignedPair:
    """Two priors, 25 and 5 mm in radius, after a registration of similarity 0.83."""
    volume = Volume(np.zeros((2, 2, 2), np.int16), Grid((2, 2, 2), (1.0,) * 3, (0.0,) * 3))
    registration = Registration(AffineTransform.identity(), "none", 0.83, True, 0.0)
    prior = np.array([[0.0, 0.0, 0.0], [10.0, 0.0, 0.0]])
    return AlignedPair(volume, volume, prior, np.array([25.0, 5.0]), registration)


def test_features_by_hand() -> None:
    pair = two_lesions()
    evidence = {"peak": 0.4, "spread_mm": math.e - 1, "step_mm": 3.0}
    assert features_of(pair, 1, Location(np.array([13.0, 4.0, 0.0]), evidence)) == pytest.approx(
        {
            "log_tolerance": math.log(0.5),
            "moved_cm": 0.5,
            "similarity": 0.83,
            "peak": 0.4,
            "log_spread": 1.0,
            "step_cm": 0.3,
        }
    )
    assert evidence == {"peak": 0.4, "spread_mm": math.e - 1, "step_mm": 3.0}
    far = features_of(pair, 0, Location(np.array([0.0, 900.0, 0.0])))
    assert (far["log_tolerance"], far["moved_cm"]) == (0.0, 4.0)


NETWORK = {"peak": 0.5, "spread_mm": 20.0, "best": 1.0, "margin": 2.0}
DETECTED = {"likeness": 0.9, "likeness_margin": 0.2, "detection_score": 0.5}


@pytest.mark.parametrize("name", TRACKERS)
def test_the_shipped_calibration_wants_what_its_tracker_gives(name: str) -> None:
    evidence = {
        "tlt": {"tissue_mm": 1.0, "patches_mm": 1.0, "pulled_mm": 1.0, "correlation": 0.5},
        "tlt-network": NETWORK,
        "transt": NETWORK,
        "dlt": NETWORK,
        "dlt-mix": NETWORK,
        "siamrpn": NETWORK,
        "patch": {"correlation": 0.5, "margin": 0.1},
        "greedy": {"correlation": 0.5, "gain": 0.2, "spread_mm": 1.0, "squeeze": 0.1},
        "deeds": {"correlation": 0.5, "gain": 0.2, "spread_mm": 1.0, "squeeze": 0.1},
        "voxelmorph": {"correlation": 0.5, "gain": 0.2, "spread_mm": 1.0, "squeeze": 0.1},
        "affine": {},
        "lens-lesiongraph": DETECTED,
        "vuld-lesiongraph": DETECTED,
        "lens-lesanet": DETECTED,
        "vuld-lesanet": DETECTED,
    }[name]
    features = features_of(two_lesions(), 1, Location(np.zeros(3), evidence))
    assert set(load_calibration(name).weights) <= set(features)
    assert 0 < load_calibration(name).probability(features) < 1


def test_a_calibration_of_another_version_is_a_model_error() -> None:
    with pytest.raises(ModelError, match="tlt experiment calibrate"):
        Calibration({"gone": 1.0}, 0.0).probability({"correlation": 1.0})
