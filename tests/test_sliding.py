"""Lungs that slide: an exact inverse, a jump at the pleura, and a chest wall that stays."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from conftest import make_phantom, torso_grid
from hypothesis import given, settings
from hypothesis import strategies as st

from tlt.data.motion import Motion, MotionRange, draw_motion
from tlt.data.simulate import Anatomy
from tlt.data.sliding import LARGEST_MM, Pleura, Slide
from tlt.geometry import AffineTransform
from tlt.volume import Volume

# In the phantom the lungs' lateral walls lie at x = -125 and 125 at y = -5, z = 30.
WALL_MM, DEEP_MM = (-131.0, -5.0, 10.0), (-112.0, -5.0, 10.0)


@cache
def torso() -> Anatomy:
    return Anatomy(make_phantom(torso_grid((116, 82, 75), (3.0, 3.0, 4.0)), ()))


def pleura() -> Pleura:
    found = torso().pleura
    assert found is not None
    return found


def points_of(seed: int, count: int = 200) -> np.ndarray:
    """Points of body and lungs, pleura included."""
    rng = np.random.default_rng(seed)
    return torso().body_mm[rng.integers(len(torso().body_mm), size=count)] + rng.uniform(
        -4, 4, (count, 3)
    )


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.floats(-LARGEST_MM, LARGEST_MM))
def test_a_slide_is_undone_everywhere(seed: int, amplitude_mm: float) -> None:
    slide, points = Slide(pleura(), amplitude_mm), points_of(seed)
    assert np.abs(slide(slide.undone(points)) - points).max() < 0.002
    assert np.abs(slide.undone(slide(points)) - points).max() < 0.05


@settings(max_examples=10)
@given(st.integers(0, 10**6))
def test_a_sliding_motion_there_and_back_again(seed: int) -> None:
    anatomy, ranges = torso(), MotionRange(sliding_share=1.0).eased(0.4)
    low, high = anatomy.body_mm.min(0), anatomy.body_mm.max(0)
    rng = np.random.default_rng(seed)
    motion = draw_motion(rng, ranges, low, high, anatomy.lung_share, anatomy.pleura)
    assert motion.slide is not None
    points = points_of(seed)
    try:
        there = motion.baseline_to_followup(points)
    except ArithmeticError:
        return
    assert np.abs(motion.followup_to_baseline(there) - points).max() < 0.05


@pytest.mark.parametrize("amplitude_mm", [LARGEST_MM, -LARGEST_MM])
def test_lung_moves_along_the_wall_and_the_wall_does_not(amplitude_mm: float) -> None:
    motion = Motion(AffineTransform.identity(), (), Slide(pleura(), amplitude_mm))
    wall, lung = motion.followup_to_baseline([WALL_MM, DEEP_MM]) - [WALL_MM, DEEP_MM]
    assert np.abs(wall).max() < 0.01
    assert lung[2] / amplitude_mm > 0.4
    assert abs(lung[0]) < 0.35 * abs(lung[2])  # not into the wall


def test_the_step_lies_within_a_few_millimetres_of_the_pleura() -> None:
    slide = Slide(pleura(), 10.0)
    x = np.arange(-140.0, -95.0)
    points = np.stack([x, np.full_like(x, -5.0), np.full_like(x, 10.0)], 1)
    moved = (slide(points) - points)[:, 2]
    plateau = moved.max()
    first, last = x[moved > 0.1 * plateau][0], x[moved > 0.8 * plateau][0]
    assert last - first < 9  # a layer, by the side of lungs 100 mm wide
    assert -130 < first < -118


def test_what_is_held_does_not_slide() -> None:
    slide = Slide(pleura(), LARGEST_MM)
    mediastinum, belly = [0.0, -5.0, 30.0], [0.0, 0.0, -120.0]
    points = np.array([mediastinum, belly])
    assert np.abs(slide(points) - points).max() < 0.1


def test_no_cell_of_the_slide_folds() -> None:
    grid = pleura().grid
    index = np.moveaxis(np.indices(grid.shape_zyx), 0, -1)
    points = torch.from_numpy(grid.index_to_mm(index)).float()
    for amplitude in (-LARGEST_MM, LARGEST_MM):
        moved = (points + Slide(pleura(), amplitude).displacement(points)).double().numpy()
        rows = [np.gradient(moved, 4.0, axis=axis) for axis in (2, 1, 0)]
        assert np.linalg.det(np.stack(rows, -1)).min() > 0.1


def test_nothing_slides_without_lungs_or_at_zero() -> None:
    solid = Volume(np.full((30, 40, 40), 40, np.int16), torso_grid((40, 40, 30), (6.0,) * 3))
    assert Anatomy(solid).pleura is None
    anatomy = torso()
    low, high = anatomy.body_mm.min(0), anatomy.body_mm.max(0)
    drawn = [
        draw_motion(np.random.default_rng(1), ranges, low, high, anatomy.lung_share, where)
        for ranges, where in (
            (MotionRange(sliding_mm=0.0), anatomy.pleura),
            (MotionRange(sliding_share=0.0), anatomy.pleura),
            (MotionRange(), None),
        )
    ]
    assert all(motion.slide is None for motion in drawn)
    places = [motion.baseline_to_followup([[0.0, 0.0, 0.0]]) for motion in drawn]
    assert np.array_equal(places[0], places[1])
    assert np.array_equal(places[0], places[2])
