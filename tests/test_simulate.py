"""Simulated scans and studies: seeded, and true to the millimetre."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import make_phantom, oblique, torso_grid
from hypothesis import given
from hypothesis import strategies as st

from tlt.data.appearance import (
    InsertedLesion,
    Scan,
    contrasted,
    draw_scan,
    grown,
    paint_lesion,
)
from tlt.data.followup import SimulatedStudy, StudyRange, paint_volume, simulate_study
from tlt.data.motion import Motion, MotionRange, draw_motion
from tlt.data.placing import GAP_MM, LEAST_CONTRAST_HU, apart, distinctness, draw_lesions
from tlt.data.simulate import Anatomy, render
from tlt.errors import InputError
from tlt.geometry import AffineTransform, Grid
from tlt.lesion import Lesion
from tlt.volume import Volume

STILL = Motion(AffineTransform.identity(), ())
BLOB = Lesion("B", (-70.0, 10.0, 0.0), 10.0, "blob")
COARSE = StudyRange(
    painted=3,
    structures=2,
    plane_mm=(2.4, 2.8),
    overlap=(0.9, 1.0),
    decoys=0.0,
    surroundings=0.0,
    circles=0.0,
)


def ball(center_mm, radius_mm: float, hu: float = 900.0) -> InsertedLesion:
    """A round lesion with a sharp margin."""
    return InsertedLesion(tuple(center_mm), radius_mm, hu, 0.8, (0.0,) * 15)


def torso_with_blob(direction=None) -> Volume:
    """A phantom with a very dense ball, unlike anything else in it."""
    grid = torso_grid((116, 82, 60), (3.0, 3.0, 4.0), direction or oblique(0))
    return make_phantom(grid, ((BLOB.center_mm, BLOB.radius_mm, 1500.0),))


def centroid_mm(volume: Volume, above_hu: float) -> np.ndarray:
    """Middle of all that is denser than a value, weighed by how much denser."""
    excess = np.clip(volume.voxels.astype(float) - above_hu, 0, None)
    index = np.stack(np.indices(excess.shape), -1)
    points = volume.grid.index_to_mm(index.reshape(-1, 3))
    return (points * excess.reshape(-1, 1)).sum(0) / excess.sum()


def study_of(seed: int, ranges: StudyRange = COARSE, direction=None) -> SimulatedStudy:
    rng = np.random.default_rng(seed)
    return simulate_study(torso_with_blob(direction), rng, [BLOB], ranges)


@pytest.mark.parametrize(("seed", "direction"), [(0, None), (1, None), (2, oblique(15))])
def test_the_truth_is_where_the_followup_shows_the_lesion(seed: int, direction) -> None:
    study = study_of(seed, replace(COARSE, painted=0), direction)
    truth = study.truth[0]
    assert truth.lesion is BLOB
    assert truth.in_view
    assert np.linalg.norm(np.subtract(truth.center_mm, BLOB.center_mm)) > 3
    seen = centroid_mm(study.followup, 700.0)
    assert np.linalg.norm(seen - truth.center_mm) < 1.0


def test_a_painted_lesion_moves_with_the_anatomy() -> None:
    anatomy = Anatomy(torso_with_blob())
    low, high = anatomy.body_mm.min(0), anatomy.body_mm.max(0)
    mild = MotionRange().eased(0.5)
    motion = draw_motion(np.random.default_rng(4), mild, low, high, anatomy.lung_share)
    there = motion.baseline_to_followup([(60.0, -40.0, -50.0)])[0]
    grid = Grid.around(np.add(there, (3, -2, 4)), (24, 30, 30), (2.0, 2.0, 3.0))
    scan = render(anatomy, grid, motion, Scan(3.0), (ball((60.0, -40.0, -50.0), 9.0),))
    assert np.linalg.norm(centroid_mm(Volume(scan.voxels, grid), 400.0) - there) < 1.0


def test_the_same_seed_gives_the_same_voxels_and_another_does_not() -> None:
    first, again, other = study_of(5), study_of(5), study_of(6)
    assert np.array_equal(first.followup.voxels, again.followup.voxels)
    assert np.array_equal(first.baseline.voxels, again.baseline.voxels)
    places = [[t.center_mm for t in study.truth] for study in (first, again, other)]
    assert places[0] == places[1] != places[2]
    assert first.followup.grid == again.followup.grid != other.followup.grid


def test_a_vanished_lesion_is_painted_in_the_baseline_only() -> None:
    kept, gone = study_of(7), study_of(7, replace(COARSE, vanish=1.0))
    assert np.array_equal(kept.baseline.voxels, gone.baseline.voxels)
    assert [t.vanished for t in gone.truth] == [False, True, True, True, False, False]
    assert not any(t.vanished for t in kept.truth)
    assert len(kept.parameters.followup_lesions) == 3
    assert gone.parameters.followup_lesions == ()
    change = np.abs(kept.followup.voxels.astype(int) - gone.followup.voxels)
    index = np.stack(np.indices(change.shape), -1)
    points, painted = kept.followup.grid.index_to_mm(index), kept.truth[1:4]
    for truth in painted:
        near = np.linalg.norm(points - truth.center_mm, axis=-1) < truth.lesion.radius_mm + 6
        if truth.in_view:
            assert change[near].max() > 15
    distances = [np.linalg.norm(points - t.center_mm, axis=-1) for t in painted]
    assert change[np.min(distances, axis=0) > 90].max() == 0


def test_lesions_lie_apart_and_inside() -> None:
    study = study_of(8, replace(COARSE, painted=8, structures=6))
    centers = np.array([lesion.center_mm for lesion in study.lesions])
    radii = np.array([lesion.radius_mm for lesion in study.lesions])
    assert study.baseline.grid.contains(centers).all()
    painted = range(len([le for le in study.lesions if le.label != "structure"]))
    for i in painted:
        for j in range(i):
            assert np.linalg.norm(centers[i] - centers[j]) > radii[i] + radii[j] + 11.9
    assert len({lesion.id for lesion in study.lesions}) == len(study.lesions)


def test_a_ct_without_a_body_is_refused() -> None:
    empty = Volume(np.full((30, 40, 40), -1000, np.int16), torso_grid((40, 40, 30)))
    with pytest.raises(InputError, match="no body"):
        simulate_study(empty, np.random.default_rng(0))


def test_a_slice_averages_over_its_thickness() -> None:
    voxels = np.zeros((41, 30, 30), np.float32)
    voxels[16:20] = 100.0  # a sheet of 4 mm
    anatomy = Anatomy(Volume(voxels, Grid((30, 30, 41), (1.0,) * 3, (0.0,) * 3)))
    grid = Grid((4, 4, 4), (2.0, 2.0, 8.0), (10.0, 10.0, 17.5 - 8.0))
    image = render(anatomy, grid, STILL, Scan(8.0)).voxels
    assert np.allclose(image.mean((1, 2)), [0, 50, 0, 0], atol=1e-3)


def test_planes_beyond_the_ct_are_flat_air() -> None:
    volume = make_phantom(torso_grid((60, 40, 40), (4.0, 4.0, 4.0)))
    turn = np.array(oblique(6)).reshape(3, 3)
    motion = Motion(AffineTransform.about(turn, (0, 0, 0), (0, 0, 0)), ())
    grid = Grid.covering((-140, -90, -90), (140, 90, 90), (4.0, 4.0, 5.0))
    scan = Scan(5.0, curve_hu=(-990.0, *Scan(5.0).curve_hu[1:]))
    image, seen = render(Anatomy(volume), grid, motion, scan)
    for axis, covered in enumerate(seen):
        assert covered.any()
        assert not covered[[0, -1]].any()
        assert np.all(np.compress(~covered, image, axis) == -990.0)
    assert image[np.ix_(*seen)].max() > 200


def test_renders_only_on_axis_aligned_grids() -> None:
    with pytest.raises(ValueError, match="axis-aligned"):
        render(Anatomy(torso_with_blob()), torso_grid(direction=oblique()), STILL, Scan(8.0))


def test_a_scan_that_changes_nothing_shows_the_ct_itself() -> None:
    volume = torso_with_blob()
    grid = volume.grid.cropped((20, 20, 30), (6, 20, 20))
    shown = render(Anatomy(volume), replace(grid, spacing_mm=(3.0, 3.0, 1.0)), STILL, Scan(1.0))
    expected = volume.resample(replace(grid, spacing_mm=(3.0, 3.0, 1.0))).voxels
    assert np.allclose(shown.voxels, expected, atol=0.5)


@given(st.integers(0, 10**6), st.floats(0, 2))
def test_contrast_never_turns_densities_round(seed: int, strength: float) -> None:
    scan = draw_scan(np.random.default_rng(seed), strength)
    hu = torch.linspace(-1100, 3200, 500)
    shown = contrasted(hu, scan, None)
    assert (shown.diff() >= -1e-3).all()
    assert torch.allclose(contrasted(hu, Scan(1.0), None), hu.clamp(-1000, 3000), atol=1e-3)


def test_enhancement_reaches_soft_tissue_only() -> None:
    hu = torch.tensor([-900.0, -100.0, 40.0, 150.0, 800.0])
    shown = contrasted(hu, Scan(1.0), torch.full((5,), 30.0))
    assert (shown - hu).tolist() == pytest.approx([0, 0, 30, 30, 0], abs=1e-3)


def test_a_painted_ball_by_hand() -> None:
    points = torch.zeros(1, 1, 40, 3)
    points[..., 0] = torch.arange(40.0) + 5.0
    hu = torch.full((1, 1, 40), 40.0)
    paint_lesion(hu, points, replace(ball((5.0, 0.0, 0.0), 12.0, hu=100.0), core_hu=-30.0))
    profile = hu[0, 0]
    assert profile[0] == pytest.approx(70.0, abs=0.1)  # its core
    assert profile[9] == pytest.approx(100.0, abs=1.0)
    assert profile[12] == pytest.approx(70.0, abs=0.1)  # halfway at the radius
    assert profile[16:] == pytest.approx(40.0, abs=0.01)


def test_painting_keeps_type_and_far_voxels() -> None:
    volume = torso_with_blob()
    painted = paint_volume(volume, [ball((60.0, -40.0, -50.0), 9.0, hu=200.0)])
    assert painted.voxels.dtype == volume.voxels.dtype
    changed = np.argwhere(painted.voxels != volume.voxels)
    distance = np.linalg.norm(volume.grid.index_to_mm(changed) - (60.0, -40.0, -50.0), axis=1)
    assert 9.0 - 3 < distance.max() < 9.0 + 5
    assert np.linalg.norm(centroid_mm(painted, 1200.0) - BLOB.center_mm) < 0.5


def test_growth_keeps_the_place_and_stays_in_bounds() -> None:
    rng, lesion = np.random.default_rng(0), ball((1.0, 2.0, 3.0), 8.0)
    later = [grown(lesion, rng) for _ in range(300)]
    ratios = np.array([each.radius_mm / 8.0 for each in later])
    assert {each.center_mm for each in later} == {lesion.center_mm}
    assert 0.5 <= ratios.min() < 0.55 < 1.9 < ratios.max() <= 2.0


def test_lesions_do_not_grow_into_each_other() -> None:
    before = [ball((0, 0, 0), 8.0), ball((40, 0, 0), 6.0), ball((0, 90, 0), 5.0)]
    later = [replace(before[0], radius_mm=30.0), before[1], replace(before[2], radius_mm=10.0)]
    known = [Lesion("K", (0.0, -30.0, 0.0), 10.0)]
    free = apart(later, before, known)
    assert free[0].radius_mm == pytest.approx(30.0 - 10.0 - GAP_MM)  # the known one is nearest
    assert free[1].radius_mm == 6.0  # it never shrinks for its neighbour
    assert free[2].radius_mm == 10.0


def shape_of(density) -> Anatomy:
    """An anatomy whose HU are a function of x, y, z."""
    grid = torso_grid((60, 60, 60), (1.0, 1.0, 1.0))
    points = grid.index_to_mm(np.stack(np.indices(grid.shape_zyx), -1))
    hu = density(*np.moveaxis(points, -1, 0))
    return Anatomy(Volume(np.asarray(hu, np.float32), grid))


def test_a_place_is_distinct_only_if_it_can_be_told_in_every_direction() -> None:
    center = np.zeros(3)
    flat = shape_of(lambda x, y, z: 40.0 + 0 * x)
    plane = shape_of(lambda x, y, z: np.where(x > 0, 40.0, -800.0))
    vessel = shape_of(lambda x, y, z: np.where(np.hypot(x, y) < 4, 40.0, -800.0))
    nodule = shape_of(lambda x, y, z: np.where(np.hypot(np.hypot(x, y), z) < 6, 40.0, -800.0))
    assert max(distinctness(a, center) for a in (flat, plane, vessel)) < 1.0
    assert distinctness(nodule, center) > 20.0


def test_painted_lesions_can_be_seen() -> None:
    anatomy = Anatomy(torso_with_blob())
    drawn = draw_lesions(np.random.default_rng(3), anatomy, 6, [])
    assert len(drawn) == 6
    for lesion in drawn:
        near = np.array(lesion.center_mm) + np.random.default_rng(0).normal(0, 1.0, (50, 3))
        hu = anatomy.density_hu(torch.from_numpy(near).float()[None, None]).ravel()
        assert float((hu - lesion.hu).abs().median()) > 0.8 * LEAST_CONTRAST_HU
