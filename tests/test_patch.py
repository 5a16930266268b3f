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
    LEAST_SEEN,
    WIDE,
    PatchMatches,
    PatchStep,
    PatchSystem,
    Texture,
    _cube,
    _gaussian_line,
    _parabola,
    correlate,
    match_patches,
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
    wide = matched(pair, WIDE)
    assert np.linalg.norm(wide.center_mm[0].numpy() - (14.0, 0.0, 0.0)) < 1.0
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
    seen = matched(pair, free, stretch)
    assert np.linalg.norm(seen.center_mm[0].numpy() - (4.0, 2.0, -6.0)) < 0.3
    assert seen.correlation[0] > matched(pair, free).correlation[0] + 0.1
    assert seen.correlation[0] > 0.95


def matched(pair: AlignedPair, step: PatchStep, stretch: np.ndarray | None = None) -> PatchMatches:
    """The patches at the lesions, looked for about the same places."""
    places = torch.from_numpy(pair.prior_mm).float()
    turned = (
        None if stretch is None else torch.from_numpy(stretch).float().expand(len(places), 3, 3)
    )
    template, search = Texture.of(pair.template), Texture.of(pair.search)
    return match_patches(template, search, places, places, step, turned)


def obvious_correlation(patch: np.ndarray, window: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Over what is seen in both, place by place; 0 where that is too little."""
    side, count = len(patch), len(window) - len(patch) + 1
    result = np.zeros((count, count, count))
    for z, y, x in product(range(count), repeat=3):
        part = window[z : z + side, y : y + side, x : x + side]
        both = ~np.isnan(patch) & ~np.isnan(part)
        w, a, b = weight[both], patch[both], part[both]
        if w.sum() < LEAST_SEEN * weight.sum():
            continue
        a, b = a - (w * a).sum() / w.sum(), b - (w * b).sum() / w.sum()
        norms = np.sqrt((w * a * a).sum() * (w * b * b).sum())
        result[z, y, x] = (w * a * b).sum() / norms
    return result


def gaussian(half: int) -> torch.Tensor:
    return _cube(_gaussian_line(half))


def test_correlation_is_that_of_an_obvious_loop() -> None:
    rng = np.random.default_rng(0)
    window = rng.uniform(0, 1, (11, 11, 11)).astype(np.float32)
    patch = window[2:7, 4:9, 1:6].copy()
    found = correlate(*(torch.from_numpy(v)[None] for v in (patch, window)))[0].numpy()
    assert np.allclose(found, obvious_correlation(patch, window, gaussian(2).numpy()), atol=1e-4)
    assert np.unravel_index(found.argmax(), found.shape) == (2, 4, 1)
    assert found.max() == pytest.approx(1.0, abs=1e-4)


def test_many_correlate_as_one_by_one_whatever_is_seen_of_each() -> None:
    rng = np.random.default_rng(0)
    patches = rng.uniform(0, 1, (4, 5, 5, 5)).astype(np.float32)
    windows = rng.uniform(0, 1, (4, 9, 9, 9)).astype(np.float32)
    windows[1, :, :, :4] = np.nan  # the edge of the view
    patches[2, 3:] = np.nan
    patches[3, 0, 0, 0] = windows[3, :3] = np.nan
    found = correlate(torch.from_numpy(patches), torch.from_numpy(windows))
    for patch, window, many in zip(patches, windows, found, strict=True):
        one = correlate(*(torch.from_numpy(v)[None] for v in (patch, window)))[0]
        assert torch.allclose(one, many, atol=1e-5)
        expected = obvious_correlation(patch, window, gaussian(2).numpy())
        assert np.allclose(many, expected, atol=1e-4)
    assert (found[1, :, :, 0] == 0).all()  # hardly anything is seen there


@pytest.mark.parametrize("step_mm", [1.5, 2.0, 4.0])
@pytest.mark.parametrize("center", [(3.3, -4.7, 2.0), (30.0, 1.2, -33.1), (200.0, 0.0, 0.0)])
def test_cubes_hold_the_image_at_their_places(step_mm: float, center: tuple) -> None:
    volume = texture(torso_grid((40, 36, 44), (2.0, 2.0, 2.0)))
    volume = replace(volume, voxels=volume.voxels.clip(-1000, 400))
    places = torch.tensor([(0.3, 0.2, 0.1), center])
    found = Texture.of(volume).cubes(places, 4, step_mm)
    steps = step_mm * np.arange(-4, 5)
    offsets = np.stack(np.meshgrid(steps, steps, steps, indexing="ij")[::-1], -1)
    for cube, place in zip(found.numpy(), places.numpy(), strict=True):
        expected = (volume.sample(place + offsets, np.nan) + 1000) / 1400
        assert np.array_equal(np.isnan(cube), np.isnan(expected))
        assert np.allclose(cube, expected, atol=1e-3, equal_nan=True)


@pytest.mark.parametrize("level", [0.0, 0.714, 1.0])
def test_flat_places_do_not_correlate(level: float) -> None:
    structured = torch.rand((1, 7, 7, 7), generator=torch.Generator().manual_seed(0))
    flat_window, flat_patch = torch.full((1, 12, 12, 12), level), torch.full((1, 7, 7, 7), level)
    assert correlate(structured, flat_window).abs().max() < 0.01
    window = torch.rand((1, 12, 12, 12), generator=torch.Generator().manual_seed(1))
    assert correlate(flat_patch, window).abs().max() < 0.01


@pytest.mark.parametrize("level", [0.05, 0.7])
def test_soft_tissue_correlates_as_exactly_as_noise_of_full_range(level: float) -> None:
    """60 HU of structure, of the 1400 HU that are scaled to one, at any density."""
    generator = torch.Generator().manual_seed(0)
    faint = level + 0.043 * torch.rand((12, 12, 12), generator=generator)
    patch, weight = faint[3:10, 1:8, 4:11], gaussian(3)
    found = correlate(patch[None], faint[None])[0].numpy()
    expected = obvious_correlation(*(v.double().numpy() for v in (patch, faint, weight)))
    assert np.allclose(found, expected, atol=0.01)


def parabola(score: np.ndarray, peak_zyx: tuple[int, int, int]) -> np.ndarray:
    return _parabola(torch.from_numpy(score)[None], torch.tensor([peak_zyx]))[0].numpy()


def test_parabola_finds_the_peak_of_a_parabola() -> None:
    peak = np.array([2.3, 3.0, 1.6])
    index = np.stack(np.indices((5, 5, 5)), -1)
    score = 1 - 0.1 * ((index - peak) ** 2).sum(-1)
    assert np.allclose(parabola(score, (2, 3, 2)), [0.3, 0.0, -0.4])


def test_parabola_stays_put_at_a_border_and_on_a_plateau() -> None:
    score = 1 - 0.1 * ((np.stack(np.indices((5, 5, 5)), -1) - [0, 4, 2.2]) ** 2).sum(-1)
    assert np.allclose(parabola(score, (0, 4, 2)), [0, 0, 0.2])
    assert np.allclose(parabola(np.ones((5, 5, 5)), (2, 2, 2)), 0)
