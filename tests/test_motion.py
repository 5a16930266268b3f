"""Motion between two scans: its inverse, its fast lattice version, and maps that fold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tlt.data.motion import Motion, MotionRange, SplineField, draw_motion
from tlt.geometry import AffineTransform

LOW, HIGH = np.array([-150.0, -100.0, -200.0]), np.array([150.0, 110.0, 150.0])


def in_lung(points_mm: np.ndarray) -> np.ndarray:
    """Lungs above z = 0, with a soft border."""
    return 1 / (1 + np.exp(-points_mm[:, 2] / 30))


def mild_motion(seed: int) -> Motion:
    return draw_motion(np.random.default_rng(seed), MotionRange().eased(0.5), LOW, HIGH, in_lung)


def points_in_body(seed: int, count: int = 50) -> np.ndarray:
    return np.random.default_rng(seed).uniform(LOW, HIGH, (count, 3))


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_there_and_back_again(seed: int) -> None:
    motion, points = mild_motion(seed), points_in_body(seed + 1)
    try:
        there = motion.baseline_to_followup(points)
    except ArithmeticError:
        return
    assert np.linalg.norm(there - points, axis=1).max() > 1  # it did move
    back = motion.followup_to_baseline(there)
    assert np.linalg.norm(back - points, axis=1).max() < 0.05


def test_nearly_all_mild_motions_have_an_inverse() -> None:
    folded = 0
    for seed in range(20):
        try:
            mild_motion(seed).baseline_to_followup(points_in_body(seed))
        except ArithmeticError:
            folded += 1
    assert folded <= 2


@given(st.integers(0, 10**6), st.floats(10, 80))
def test_field_on_axes_equals_the_field_at_points(seed: int, knot_mm: float) -> None:
    rng = np.random.default_rng(seed)
    shape = (*rng.integers(4, 8, 3), 3)
    field = SplineField(rng.normal(0, 20, 3), knot_mm, rng.normal(0, 5, shape).astype(np.float32))
    x, y, z = (np.sort(rng.uniform(-60, 400, n)) for n in (4, 3, 5))  # inside and beyond the knots
    points = np.stack(np.meshgrid(z, y, x, indexing="ij"), -1)[..., ::-1].reshape(-1, 3)
    expected = field(points).reshape(5, 3, 4, 3)
    assert np.allclose(field.on_axes(x, y, z).numpy(), expected, atol=1e-4)


def test_field_of_equal_coefficients_is_that_shift_inside_its_knots() -> None:
    coefficients = np.broadcast_to(np.float32([1.0, -2.0, 3.0]), (7, 7, 7, 3)).copy()
    field = SplineField(np.array([5.0, 5.0, 5.0]), 10.0, coefficients)
    inside = np.random.default_rng(0).uniform(15, 55, (30, 3))
    assert np.allclose(field(inside), [1.0, -2.0, 3.0], atol=1e-6)
    assert np.allclose(field([[200.0, 30.0, 30.0]]), 0)


def test_field_of_linear_coefficients_is_linear() -> None:
    knots = 5.0 + 10.0 * np.moveaxis(np.indices((7, 7, 7)), 0, -1)[..., ::-1]
    field = SplineField(np.array([5.0, 5.0, 5.0]), 10.0, (0.1 * knots).astype(np.float32))
    inside = np.random.default_rng(0).uniform(15, 55, (30, 3))
    assert np.allclose(field(inside), 0.1 * inside, atol=1e-5)


def test_pulled_axes_are_the_baseline_points_seen_there() -> None:
    motion = mild_motion(3)
    x, y, z = np.linspace(-80, 90, 6), np.linspace(-60, 60, 5), np.linspace(-100, 120, 4)
    points = np.stack(np.meshgrid(z, y, x, indexing="ij"), -1)[..., ::-1].reshape(-1, 3)
    pulled = motion.pulled_axes(x, y, z)
    assert pulled.dtype == torch.float32
    assert np.allclose(pulled.reshape(-1, 3), motion.followup_to_baseline(points), atol=1e-3)


def test_a_motion_without_fields_is_its_affine() -> None:
    affine = AffineTransform.about(np.diag([1.1, 0.9, 1.0]), (10, 20, 30), (5, -6, 7))
    points = points_in_body(0)
    assert np.allclose(Motion(affine, ()).baseline_to_followup(points), affine(points))
    assert np.allclose(Motion(affine, ()).followup_to_baseline(affine(points)), points)


def test_a_map_that_folds_is_refused() -> None:
    rng = np.random.default_rng(0)
    wild = rng.normal(0, 60, (12, 12, 12, 3)).astype(np.float32)
    motion = Motion(AffineTransform.identity(), (SplineField(LOW - 100, 30.0, wild),))
    with pytest.raises(ArithmeticError, match="folds"):
        motion.baseline_to_followup(points_in_body(0))


def test_no_points_map_to_no_points() -> None:
    assert mild_motion(0).baseline_to_followup(np.zeros((0, 3))).shape == (0, 3)


def test_breathing_moves_the_lungs_along_z_only() -> None:
    breath_only = MotionRange(0.0, 0.0, (1.0, 1.0), 0.0, 25.0, 0.0)
    motion = draw_motion(np.random.default_rng(5), breath_only, LOW, HIGH, in_lung)
    lung, belly = np.array([[0.0, 0.0, 120.0]]), np.array([[0.0, 0.0, -180.0]])
    moved = [motion.followup_to_baseline(p) - p for p in (lung, belly)]
    assert np.allclose([m[0, :2] for m in moved], 0, atol=1e-6)
    assert abs(moved[0][0, 2]) > 5 * abs(moved[1][0, 2])


def test_easing_scales_the_displacements_and_nothing_else() -> None:
    eased = MotionRange().eased(0.25)
    assert (eased.posture_mm, eased.breathing_mm, eased.local_mm) == (3.5, 6.25, 1.25)
    assert (eased.rotation_deg, eased.shift_mm, eased.scale) == (4.0, 50.0, (0.95, 1.06))
