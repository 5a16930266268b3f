"""Confidence: the probability that a centre is within min(10 mm, radius) of the truth.

A logistic regression on the tracker's evidence, fitted on simulated pairs of patients that the
network was not trained on. Its coefficients are data (``confidence.json`` beside the weights, made
by ``tlt experiment calibrate``), one set a tracker.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from tlt.errors import ModelError
from tlt.lesion import Status
from tlt.systems.base import AlignedPair, Location

FILE = "confidence.json"
FOUND, DOUBTFUL = 0.5, 0.2
UNSURE = 0.49  # at most, where other signs speak against an answer
RIDGE = 10.0  # few of some hundred lesions are wrong: with less, one bad study decides a weight


@dataclass(frozen=True)
class Calibration:
    """A fitted logistic regression; features not in ``weights`` are not used.

    Attributes:
        weights: coefficient of each feature, on its own scale.
        intercept: the constant term.
    """

    weights: dict[str, float]
    intercept: float

    def probability(self, features: dict[str, float]) -> float:
        """The confidence in [0, 1].

        Raises:
            ModelError: a feature is missing: it was fitted for another version of the tracker.
        """
        missing = [name for name in self.weights if name not in features]
        if missing:
            raise ModelError(
                f"the calibration of the confidence wants '{missing[0]}', which this tracker does "
                "not give; make it again with 'tlt experiment calibrate'"
            )
        logit = self.intercept + sum(w * features[name] for name, w in self.weights.items())
        return 1.0 / (1.0 + math.exp(-min(max(logit, -30.0), 30.0)))


def features_of(pair: AlignedPair, index: int, location: Location) -> dict[str, float]:
    """All that the confidence may rest on, for one lesion: finite numbers of moderate size."""
    radius = float(pair.radius_mm[index])
    moved = float(np.linalg.norm(location.center_mm - pair.prior_mm[index]))
    features = {
        "log_tolerance": math.log(min(10.0, max(radius, 1.0)) / 10.0),
        "moved_cm": min(moved, 40.0) / 10.0,
        "similarity": pair.registration.similarity,
        **location.evidence,
    }
    if "spread_mm" in features:
        features["log_spread"] = math.log(1.0 + features.pop("spread_mm"))
    lengths = [name for name in features if name.endswith("_mm")]
    return features | {n.removesuffix("_mm") + "_cm": features.pop(n) / 10.0 for n in lengths}


def status_of(confidence: float) -> Status:
    """Found from 0.5 on, doubtful from 0.2 on, else not found."""
    if confidence >= FOUND:
        return Status.FOUND
    return Status.LOW_CONFIDENCE if confidence >= DOUBTFUL else Status.NOT_FOUND


def load_calibration(tracker: str) -> Calibration:
    """The shipped calibration of a tracker.

    Raises:
        ModelError: there is none, which means an incomplete installation.
    """
    found = calibration_in(Path(str(resources.files("tlt"))) / "weights", tracker)
    if found is None:
        raise ModelError(
            f"no calibration of the confidence of '{tracker}' in {FILE}; "
            "install tlt again, or make it with 'tlt experiment calibrate'"
        )
    return found


def calibration_in(folder: Path, tracker: str) -> Calibration | None:
    """The calibration of a tracker that a folder of weights holds; None where there is none.

    Raises:
        ModelError: its file cannot be read.
    """
    path = folder / FILE
    try:
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return Calibration(**known[tracker]) if tracker in known else None
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(
            f"{path.name}: no calibration of a confidence that can be read; "
            "make it again with 'tlt experiment calibrate', or remove it"
        ) from error


def fit_calibration(rows: Sequence[dict[str, float]], correct: Sequence[bool]) -> Calibration:
    """Logistic regression with a ridge (Newton's method on standardised features)."""
    names = sorted(rows[0])
    values = np.array([[row[name] for name in names] for row in rows])
    center, scale = values.mean(0), values.std(0)
    used = scale > 1e-9
    scale = np.where(used, scale, 1.0)
    design = np.concatenate([(values - center) / scale * used, np.ones((len(values), 1))], 1)
    target = np.asarray(correct, float)
    ridge = np.diag([RIDGE] * len(names) + [0.0])
    beta = np.zeros(len(names) + 1)
    for _ in range(50):
        p = 1 / (1 + np.exp(-design @ beta))
        gradient = design.T @ (target - p) - ridge @ beta
        curvature = (design * (p * (1 - p))[:, None]).T @ design + ridge + 1e-6 * np.eye(len(beta))
        step = np.linalg.solve(curvature, gradient)
        beta += step
        if np.abs(step).max() < 1e-8:
            break
    weights = beta[:-1] / scale * used
    intercept = float(beta[-1] - weights @ center)
    kept = {n: float(w) for n, w, u in zip(names, weights, used, strict=True) if u}
    return Calibration(kept, intercept)
