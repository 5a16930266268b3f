"""Patch matching: a shift that was made is found again; correlation against plain NumPy."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from conftest import torso_grid
from scipy import ndimage

from tlt.geometry import AffineTransform, Grid
from tlt.registration.result import Registration
from tlt.systems.base import AlignedPair
from tlt.systems.patch import (
    FINE,
    WIDE,
    PatchSystem,
    _gaussian_window,
    _parabola,
    correlate,
    match_patch,
)
from tlt.volume import Volume

IDENTITY = Registration(AffineTransform.identity(), "none", 1.0, True, 0.0)
PLACES = np.array([[0.0, 0.0, 0.0], [9.0, -8.0, 6.0]])


def texture(grid: Grid, sigma_mm: float = 5.0, seed: int = 0) -> Volume:
    """Soft tissue with smooth random structure."""
    noise = np.random.default_rng(seed).normal(size=grid.shape_zyx)
    smooth = ndimage.gaussian_filter(noise, sigma_mm / np.array(grid.spacing_mm)[::-1])
    return Volume((40 + 150 * smooth / smooth.std()).astype(np.float32), grid)


def shifted_pair(shift_mm, gain: float = 1.0, offset: float = 0.0) -> AlignedPair:
    """A texture, and the same moved by a shift, in other units of brightness."""
    template = texture(torso_grid((84, 84, 84), (2.0, 2.0, 2.0)))
    index = np.stack(np.indices(template.grid.shape_zyx), -1)
    points = template.grid.index_to_mm(index) - np.asarray(shift_mm)
    moved = gain * template.sample(points, 40.0) + offset
    search = Volume(moved.astype(np.float32), template.grid)
    return AlignedPair(template, search, PLACES, np.full(len(PLACES), 8.0), IDENTITY)


@pytest.mark.parametrize("shift_mm", [(0.0, 0.0, 0.0), (5.3, -7.1, 3.9), (-19.6, 11.3, -14.8)])
def test_a_shift_is_recovered(shift_mm: tuple[float, float, float]) -> None:
    pair = shifted_pair(shift_mm)
    for place, found in zip(PLACES, PatchSystem().locate(pair), strict=True):
        assert (
            np.linalg.norm(found.center_mm - place - shift_mm) < 0.5
        )  # the penalty pulls a little
        assert found.evidence["correlation"] > 0.9
        assert found.evidence["margin"] > 0.1


def test_another_brightness_changes_nothing() -> None:
    pair = shifted_pair((4.4, -2.2, 6.0), gain=0.6, offset=35.0)
    found = PatchSystem().locate(pair)[0]
    assert np.linalg.norm(found.center_mm - PLACES[0] - (4.4, -2.2, 6.0)) < 0.3


def test_of_two_equal_places_the_nearer_is_taken() -> None:
    grid = torso_grid((70, 40, 40), (2.0, 2.0, 2.0))
    x, y, z = np.moveaxis(grid.index_to_mm(np.stack(np.indices(grid.shape_zyx), -1)), -1, 0)
    balls = [np.hypot(np.hypot(x - c, y), z) < 7 for c in (-22.0, 14.0)]
    search = Volume(np.where(balls[0] | balls[1], 60.0, -100.0).astype(np.float32), grid)
    alone = np.where(np.hypot(np.hypot(x, y), z) < 7, 60.0, -100.0)
    template = Volume(alone.astype(np.float32), grid)
    pair = AlignedPair(template, search, PLACES[:1], np.array([7.0]), IDENTITY)
    wide = match_patch(pair, PLACES[0], PLACES[0], WIDE)
    assert np.linalg.norm(wide.center_mm - (14.0, 0.0, 0.0)) < 1.0
    assert wide.correlation - wide.runner_up < 0.1  # and it knows that there is another


def test_a_patch_is_seen_through_the_stretch_of_the_tissue() -> None:
    turn, wide = np.deg2rad(20.0), 1.2
    stretch = wide * np.array(
        [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]
    )
    template = texture(torso_grid((84, 84, 84), (2.0, 2.0, 2.0)))
    points = template.grid.index_to_mm(np.stack(np.indices(template.grid.shape_zyx), -1))
    moved = template.sample((points - (4.0, 2.0, -6.0)) @ np.linalg.inv(stretch).T, 40.0)
    search = Volume(moved.astype(np.float32), template.grid)
    pair = AlignedPair(template, search, PLACES, np.full(2, 8.0), IDENTITY)
    free = replace(FINE, penalty_mm=np.inf)
    seen = match_patch(pair, PLACES[0], PLACES[0], free, stretch)
    assert np.linalg.norm(seen.center_mm - (4.0, 2.0, -6.0)) < 0.3
    assert seen.correlation > match_patch(pair, PLACES[0], PLACES[0], free).correlation + 0.1
    assert seen.correlation > 0.95


def obvious_correlation(patch: np.ndarray, window: np.ndarray, weight: np.ndarray) -> np.ndarray:
    side, count = len(patch), len(window) - len(patch) + 1
    result = np.zeros((count, count, count))
    weight = weight / weight.sum()
    a = patch - (weight * patch).sum()
    for z, y, x in product(range(count), repeat=3):
        part = window[z : z + side, y : y + side, x : x + side]
        b = part - (weight * part).sum()
        norms = np.sqrt((weight * a * a).sum() * (weight * b * b).sum())
        result[z, y, x] = (weight * a * b).sum() / norms
    return result


def test_correlation_is_that_of_an_obvious_loop() -> None:
    rng = np.random.default_rng(0)
    window = rng.uniform(0, 1, (11, 11, 11)).astype(np.float32)
    patch = window[2:7, 4:9, 1:6].copy()
    weight = _gaussian_window(2)
    found = correlate(torch.from_numpy(patch), torch.from_numpy(window), weight).numpy()
    assert np.allclose(found, obvious_correlation(patch, window, weight.numpy()), atol=1e-4)
    assert np.unravel_index(found.argmax(), found.shape) == (2, 4, 1)
    assert found.max() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("level", [0.0, 0.714, 1.0])
def test_flat_places_do_not_correlate(level: float) -> None:
    weight = _gaussian_window(3)
    structured = torch.rand((7, 7, 7), generator=torch.Generator().manual_seed(0))
    flat_window, flat_patch = torch.full((12, 12, 12), level), torch.full((7, 7, 7), level)
    assert correlate(structured, flat_window, weight).abs().max() < 0.01
    window = torch.rand((12, 12, 12), generator=torch.Generator().manual_seed(1))
    assert correlate(flat_patch, window, weight).abs().max() < 0.01


@pytest.mark.parametrize("level", [0.05, 0.7])
def test_soft_tissue_correlates_as_exactly_as_noise_of_full_range(level: float) -> None:
    """60 HU of structure, of the 1400 HU that are scaled to one, at any density."""
    generator = torch.Generator().manual_seed(0)
    faint = level + 0.043 * torch.rand((12, 12, 12), generator=generator)
    patch, weight = faint[3:10, 1:8, 4:11], _gaussian_window(3)
    found = correlate(patch, faint, weight).numpy()
    expected = obvious_correlation(*(v.double().numpy() for v in (patch, faint, weight)))
    assert np.allclose(found, expected, atol=0.01)


def test_parabola_finds_the_peak_of_a_parabola() -> None:
    peak = np.array([2.3, 3.0, 1.6])
    index = np.stack(np.indices((5, 6, 4)), -1)
    score = 1 - 0.1 * ((index - peak) ** 2).sum(-1)
    assert np.allclose(_parabola(score, (2, 3, 2)), [0.3, 0.0, -0.4])


def test_parabola_stays_put_at_a_border_and_on_a_plateau() -> None:
    score = 1 - 0.1 * ((np.stack(np.indices((5, 5, 5)), -1) - [0, 4, 2.2]) ** 2).sum(-1)
    assert np.allclose(_parabola(score, (0, 4, 2)), [0, 0, 0.2])
    assert np.allclose(_parabola(np.ones((5, 5, 5)), (2, 2, 2)), 0)
