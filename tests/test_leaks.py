"""The shipped weights find lesions by what they look like: without that, no better than the prior.

A leak would be an answer that the network reads from where its crops lie, not from the images.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from conftest import make_phantom, torso_grid
from scipy import ndimage

from tlt.confidence import Calibration
from tlt.data.pairs import PairConfig, TrainingPair, draw_training_pair
from tlt.data.simulate import Anatomy
from tlt.geometry import AffineTransform
from tlt.lesion import Lesion
from tlt.model.weights import LoadedModel, load_weights
from tlt.registration.result import Registration
from tlt.systems.tlt import TLTSystem
from tlt.track import Tracker
from tlt.training.tlt_task import predict
from tlt.volume import Volume

PAIRS = PairConfig(crops_zyx=((40, 64, 64),), queries=24, strength=0.3)
PRIOR_ERROR_MM = np.array([9.0, -8.0, 6.0])
LESIONS = [
    Lesion(f"L{i}", place, 9.0)
    for i, place in enumerate([(-70.0, 0.0, 10.0), (0.0, 30.0, -40.0), (-30.0, -40.0, -30.0)])
]


def shipped() -> LoadedModel:
    """The model that the package carries."""
    return load_weights("tlt-ct")


@cache
def torso(patient: int) -> Volume:
    """A phantom whose tissues have smooth structure, another in each patient."""
    volume = make_phantom(torso_grid((110, 80, 64), (3.0, 3.0, 4.0)))
    noise = np.random.default_rng(patient).normal(size=volume.voxels.shape)
    smooth = ndimage.gaussian_filter(noise, (1.8, 2.4, 2.4))
    voxels = volume.voxels + (volume.voxels > -990) * 140 * smooth / smooth.std()
    return Volume(voxels.astype(np.int16), volume.grid)


@cache
def pairs(patient: int) -> list[TrainingPair]:
    """Pairs cut as in training, at full difficulty."""
    rng = np.random.default_rng(patient)
    return [draw_training_pair(rng, Anatomy(torso(patient)), PAIRS) for _ in range(3)]


def mean_errors_mm(every: list[TrainingPair]) -> tuple[float, float]:
    """Of the prior and of the network alone, over all queries of some pairs."""
    network = shipped().network
    prior, found = [], []
    with torch.no_grad():
        for pair in every:
            center = predict(network, pair, bf16=False)[0].center_mm
            prior.append((pair.centers_mm - pair.truth_mm).norm(dim=1))
            found.append((center - pair.truth_mm).norm(dim=1))
    return float(torch.cat(prior).mean()), float(torch.cat(found).mean())


def test_in_pairs_with_structure_the_network_beats_the_prior() -> None:
    prior, found = mean_errors_mm(pairs(0))
    assert found < 0.8 * prior


@pytest.mark.parametrize("hu", [-1000.0, 40.0])
def test_in_blank_pairs_it_does_not(hu: float) -> None:
    blank = [
        replace(p, template=torch.full_like(p.template, hu), search=torch.full_like(p.search, hu))
        for p in pairs(0)
    ]
    prior, found = mean_errors_mm(blank)
    assert found > 0.95 * prior


def test_with_another_patients_template_it_does_not() -> None:
    mixed = [
        replace(ours, template=theirs.template)
        for ours, theirs in zip(pairs(0), pairs(1), strict=True)
    ]
    prior, found = mean_errors_mm(mixed)
    assert found > 0.95 * prior


def tracked_errors_mm(baseline: Volume, followup: Volume, error_mm: np.ndarray) -> np.ndarray:
    """Errors of the tracker from a wrong prior, where the truth is that nothing moved."""
    registration = Registration(AffineTransform(np.eye(3), error_mm), "made", 0.8, True, 0.0)
    tracker = Tracker(TLTSystem(shipped()), Calibration({}, 0.0))
    result = tracker.track_pair(baseline, followup, LESIONS, registration=registration)
    truth = [lesion.center_mm for lesion in LESIONS]
    return np.linalg.norm(np.subtract([m.center_mm for m in result.matches], truth), axis=1)


def test_the_tracker_corrects_a_wrong_prior() -> None:
    errors = tracked_errors_mm(torso(0), torso(0), PRIOR_ERROR_MM)
    assert errors.max() < 0.3 * np.linalg.norm(PRIOR_ERROR_MM)


def test_the_tracker_corrects_nothing_where_the_images_tell_nothing() -> None:
    """Whatever it answers to blank images, errors of both signs cannot both get smaller."""
    grid = torso_grid((60, 60, 60), (10.0, 10.0, 10.0))
    blank = Volume(np.full(grid.shape_zyx, 40, np.int16), grid)
    errors = [tracked_errors_mm(blank, blank, sign * PRIOR_ERROR_MM) for sign in (-1, 1)]
    assert np.mean(errors) > 0.95 * np.linalg.norm(PRIOR_ERROR_MM)
