"""Affine registration: motions are made, then recovered; odd images are answered honestly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import pytest
import torch
from conftest import LPS, oblique
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from tlt.geometry import AffineTransform, Grid
from tlt.registration import affine
from tlt.registration.affine import register_affine, seems_turned_over
from tlt.registration.gauss_newton import design_matrix, extrapolated, refine, to_affine, to_theta
from tlt.registration.mattes import register_mattes
from tlt.registration.pyramid import Level, body_mask, field_of_view, pyramid
from tlt.registration.result import PRONE, is_plausible, made_plausible
from tlt.registration.shifts import OVERLAP_COST, best_shifts, cost_of_shifts
from tlt.volume import AIR_HU, Volume

SPACING_MM = 4.0
CENTER_MM = np.array([20.0, -35.0, 110.0])


@lru_cache
def torso() -> Volume:
    """A torso of 396 mm: two unequal lungs, a spine of separate vertebrae, ribs, organs, noise."""
    grid = Grid.around(CENTER_MM, (99, 63, 88), SPACING_MM)
    z, y, x = (
        (np.arange(n) - n // 2).reshape(shape) * SPACING_MM
        for n, shape in zip(grid.shape_zyx, ((-1, 1, 1), (-1, 1), (-1,)), strict=True)
    )
    rng = np.random.default_rng(7)
    hu = np.full(grid.shape_zyx, AIR_HU, np.float32)
    hu[(x / (150 + z / 12)) ** 2 + (y / (100 - z / 20)) ** 2 <= 1] = -90  # fat
    inner = (x / (138 + z / 12)) ** 2 + (y / (88 - z / 20)) ** 2 <= 1
    texture = ndimage.gaussian_filter(rng.normal(size=hu.shape), 3)
    hu[inner] = 40 + 30 * (texture / texture.std())[inner]
    for side, top in ((-70, 120), (72, 135)):
        hu[((x - side) / 48) ** 2 + ((y + 8) / 62) ** 2 + ((z - top / 2) / top) ** 2 <= 1] = -840
    hu[(x**2 + (y - 62) ** 2 <= 19**2) & (np.mod(z, 29) > 6)] = 320
    for center in rng.uniform((-120, -75, -185), (120, 60, 185), (60, 3)):
        distance = np.sqrt((x - center[0]) ** 2 + (y - center[1]) ** 2 + (z - center[2]) ** 2)
        hu[(distance < rng.uniform(6, 22)) & inner] = rng.choice([-60, 90, 160, 350])
    hu = ndimage.gaussian_filter(hu, 0.8)  # partial volume
    return Volume(hu + rng.normal(0, 5, hu.shape).astype(np.float32), grid)


def motion(degrees: float, scale: float, shift_mm: Sequence[float], seed: int = 0):
    """Rotation about a drawn axis and scale about the torso's centre, then a shift."""
    axis = np.random.default_rng(seed).normal(size=3)
    turn = Rotation.from_rotvec(np.radians(degrees) * axis / np.linalg.norm(axis)).as_matrix()
    return AffineTransform.about(turn * scale, CENTER_MM, shift_mm)


def moved(
    true: AffineTransform,
    z_mm: tuple[float, float] = (-150.0, 150.0),
    warp: Callable[[NDArray], NDArray] | None = None,
    direction: tuple[float, ...] = LPS,
    seed: int = 1,
) -> Volume:
    """The follow-up that a motion makes: a part along z, other noise, brighter, its own grid."""
    depth = int((z_mm[1] - z_mm[0]) * true.scale / 5.0)
    middle = true(CENTER_MM + np.array([0.0, 0.0, sum(z_mm) / 2]))
    shape = Grid((96, 70, depth), (4.1, 4.1, 5.0), (0.0, 0.0, 0.0), direction)
    x, y, z = (middle - shape.center_mm).tolist()
    grid = Grid(shape.size_xyz, shape.spacing_mm, (x, y, z), direction)
    source = true.inverse()(grid.index_to_mm(np.moveaxis(np.indices(grid.shape_zyx), 0, -1)))
    if warp is not None:
        source = source + warp(source)
    low, high = torso().grid.bounds_mm()
    hu = torso().sample(
        np.concatenate([source[..., :2], source[..., 2:].clip(low[2], high[2])], -1)
    )
    hu = hu + 35 * (hu > 0) + np.random.default_rng(seed).normal(0, 12, hu.shape)
    return Volume(hu.round().astype(np.int16), grid)


def part(z_mm: tuple[float, float]) -> Volume:
    """The torso's slices between two heights about its centre."""
    first, last = ((np.array(z_mm) + 198) / SPACING_MM).astype(int)
    grid = torso().grid.cropped((first, 0, 0), (last - first, *torso().grid.shape_zyx[1:]))
    return Volume(torso().voxels[first:last], grid)


def error_mm(found: AffineTransform, true: Callable, baseline: Volume, followup: Volume) -> float:
    """Mean distance from the truth at the body points that both scans show."""
    body = np.argwhere(body_mask(baseline.voxels, SPACING_MM))[::41]
    points = baseline.grid.index_to_mm(body)
    points = points[followup.grid.contains(true(points))]
    return float(np.linalg.norm(found(points) - true(points), axis=1).mean())


@pytest.mark.parametrize(
    ("degrees", "scale", "shift_mm"),
    [
        (0, 1.0, (0, 0, 0)),
        (15, 0.9, (60, -40, 300)),
        (-15, 1.1, (-30, 50, -500)),
        (8, 1.0, (9, 9, 9)),
    ],
)
def test_recovers_a_known_affine(degrees, scale, shift_mm) -> None:
    true = motion(degrees, scale, shift_mm, seed=abs(degrees))
    followup = moved(true)
    found = register_affine(torso(), followup)
    assert found.ok
    assert found.same_region
    assert found.method == "l1-gauss-newton"
    assert error_mm(found.baseline_to_followup, true, torso(), followup) < 1.0


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ((-198, 20), (-60, 150)),
        ((-30, 198), (-150, 40)),
        ((-198, 198), (20, 120)),
        ((0, 90), (-150, 150)),
    ],
)
def test_finds_the_common_part_along_z(ours, theirs) -> None:
    true = motion(12, 1.05, (20, 10, 777), seed=3)
    baseline, followup = part(ours), moved(true, theirs)
    found = register_affine(baseline, followup)
    assert found.ok
    assert error_mm(found.baseline_to_followup, true, baseline, followup) < 1.5


def test_comes_near_the_best_affine_of_a_smooth_deformation() -> None:
    def warp(points: NDArray) -> NDArray:
        return 10 * np.sin((points[..., [1, 2, 0]] - CENTER_MM[[1, 2, 0]]) / 45.0)

    rigid = motion(10, 0.95, (0, 20, -90), seed=4)

    def true(points: NDArray) -> NDArray:
        inverse = points.copy()
        for _ in range(40):
            inverse = points - warp(inverse)
        return rigid(inverse)

    followup = moved(rigid, warp=warp)
    found = register_affine(torso(), followup)
    body = torso().grid.index_to_mm(np.argwhere(body_mask(torso().voxels, SPACING_MM))[::41])
    body = body[followup.grid.contains(true(body))]
    best = AffineTransform.fit(body, true(body))
    floor = error_mm(best, true, torso(), followup)
    assert floor > 3.0
    assert error_mm(found.baseline_to_followup, true, torso(), followup) < floor + 1.5


def test_an_oblique_grid() -> None:
    true = motion(6, 1.0, (5, -20, 60), seed=5)
    followup = moved(true, direction=oblique(15.0))
    found = register_affine(torso(), followup)
    assert found.ok
    assert error_mm(found.baseline_to_followup, true, torso(), followup) < 1.0


@pytest.mark.parametrize("padding", [-1024, -3024])
def test_a_reconstruction_circle_that_cuts_the_body_does_not_pull(padding) -> None:
    true = motion(9, 0.95, (10, 0, 40), seed=6)
    followup = moved(true)
    y, x = np.indices(followup.voxels.shape[1:]) - np.array([35, 48])[:, None, None]
    followup.voxels[:, np.hypot(x, y) > 32] = padding
    followup.voxels[followup.voxels < padding] = padding
    level = pyramid(followup)[0]
    assert 0.3 < float(level.valid.float().mean()) < 0.7
    found = register_affine(torso(), followup)
    assert error_mm(found.baseline_to_followup, true, torso(), followup) < 1.0


def test_clean_air_is_no_padding() -> None:
    clean = Volume(np.where(torso().voxels < -950, -1000, torso().voxels), torso().grid)
    assert field_of_view(clean, clean.grid, clean.voxels).all()


def test_forth_and_back_is_nearly_the_identity() -> None:
    followup = moved(motion(10, 1.05, (30, 10, 50), seed=8))
    forth = register_affine(torso(), followup).baseline_to_followup
    back = register_affine(followup, torso()).baseline_to_followup
    assert error_mm(back.after(forth), lambda points: points, torso(), torso()) < 1.0


def test_same_result_each_time_and_for_any_number_of_threads() -> None:
    followup = moved(motion(10, 1.05, (30, 10, 50), seed=9))
    before = torch.get_num_threads()
    first = register_affine(torso(), followup)
    assert torch.get_num_threads() == before
    torch.set_num_threads(1 if before > 1 else 2)
    second = register_affine(torso(), followup)
    torch.set_num_threads(before)
    assert np.array_equal(first.baseline_to_followup.matrix, second.baseline_to_followup.matrix)
    assert first.similarity == second.similarity


def test_falls_back_to_mutual_information(monkeypatch) -> None:
    true = motion(4, 1.0, (15, -10, 200), seed=10)
    followup = moved(true, (-190, 190))
    wrong = motion(80, 1.0, (0, 0, 0))
    monkeypatch.setattr(affine, "register_l1", lambda *scans_and_start: wrong)
    found, again = (register_affine(torso(), followup) for _ in range(2))
    assert found.method == "mattes-mi"
    assert found.ok
    assert error_mm(found.baseline_to_followup, true, torso(), followup) < 3.0
    assert np.array_equal(found.baseline_to_followup.matrix, again.baseline_to_followup.matrix)


def test_mattes_gives_its_start_when_nothing_can_be_done() -> None:
    level = pyramid(
        Volume(np.full((3, 12, 12), 40, np.int16), Grid((12, 12, 3), (4.0,) * 3, (0.0,) * 3))
    )
    assert np.isfinite(register_mattes(level[0], level[0]).matrix).all()


def test_noise_is_not_ok() -> None:
    noise = np.random.default_rng(0).normal(0, 300, (60, 80, 90)).astype(np.int16)
    found = register_affine(torso(), Volume(noise, Grid((90, 80, 60), (4.0,) * 3, (0.0,) * 3)))
    assert not found.ok
    assert not found.same_region
    assert is_plausible(found.baseline_to_followup.matrix)


@pytest.mark.parametrize(
    ("shape", "value"),
    [((1, 40, 50), 40.0), ((3, 3, 3), 40.0), ((30, 40, 50), 40.0), ((30, 40, 50), np.nan)],
)
def test_images_without_content_are_answered(shape, value) -> None:
    odd = Volume(np.full(shape, value, np.float32), Grid(shape[::-1], (4.0,) * 3, (50.0, 0.0, 9.0)))
    for baseline, followup in ((odd, part((-30, 30))), (part((-30, 30)), odd), (odd, odd)):
        found = register_affine(baseline, followup)
        assert not found.ok
        assert is_plausible(found.baseline_to_followup.matrix)


def test_without_a_body_the_grid_centres_meet() -> None:
    air = Volume(np.full((9, 9, 9), -1000, np.int16), Grid((9,) * 3, (5.0,) * 3, (300.0, 0.0, 0.0)))
    found = register_affine(air, torso())
    assert (found.method, found.similarity, found.overlap) == ("none", 0.0, 0.0)
    assert found.baseline_to_followup(air.grid.center_mm) == pytest.approx(torso().grid.center_mm)


def test_a_patient_who_was_turned_over() -> None:
    tilted = motion(7, 1.0, (10, 30, -60), seed=12)
    true = AffineTransform.about(PRONE, CENTER_MM, (0, 0, 0)).after(tilted)
    followup = moved(true)
    found = register_affine(torso(), followup)
    assert found.ok
    assert error_mm(found.baseline_to_followup, true, torso(), followup) < 1.0


def test_a_thin_slab_finds_its_place() -> None:
    true = motion(5, 1.0, (10, 10, -80), seed=11)
    slab = moved(true, (20, 46))
    found = register_affine(torso(), slab)
    assert error_mm(found.baseline_to_followup, true, torso(), slab) < 3.0


def cropped(volume: Volume, low_mm: Sequence[float], high_mm: Sequence[float]) -> Volume:
    """The part of a volume between two corners about the torso's centre."""
    first = np.rint(volume.grid.mm_to_index(CENTER_MM + np.array(low_mm))).astype(int).clip(0)
    last = np.rint(volume.grid.mm_to_index(CENTER_MM + np.array(high_mm))).astype(int)
    cut = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
    part = volume.voxels[cut]
    return Volume(part, volume.grid.cropped(first, part.shape))


@pytest.mark.parametrize("seed", [21, 22])
def test_crops_within_the_body_that_lie_aside(seed: int) -> None:
    # Half of each shows what the other does not: from the bodies' centres alone it is 50 mm off.
    true = motion(4, 1.0, (5, -8, 30), seed=seed)
    baseline = cropped(torso(), (-45, -45, -45), (45, 45, 45))
    followup = cropped(moved(true), (-90, -15, -30), (0, 75, 70))
    found = register_affine(baseline, followup)
    assert found.ok
    assert error_mm(found.baseline_to_followup, true, baseline, followup) < 4.0


def test_plausible_motions() -> None:
    assert is_plausible(motion(25, 1.1, (0, 0, 0)).matrix)
    assert is_plausible(PRONE @ motion(25, 1.0, (0, 0, 0)).matrix)
    assert not is_plausible(motion(35, 1.0, (0, 0, 0)).matrix)
    assert not is_plausible(np.eye(3) * 1.3)
    assert not is_plausible(np.diag([1.0, 1.0, -1.0]))
    assert not is_plausible(np.diag([1.2, 1.0, 0.8]))


def test_what_is_made_plausible_moves_the_centre_as_before() -> None:
    sheared = AffineTransform(
        np.array([[1.1, 0.5, 0], [0, 0.8, 0], [0.1, 0, 1.3]]), np.array([3.0, 4, 5])
    )
    assert not is_plausible(sheared.matrix)
    mild = made_plausible(sheared, CENTER_MM)
    assert is_plausible(mild.matrix)
    assert mild(CENTER_MM) == pytest.approx(sheared(CENTER_MM))
    unchanged = motion(10, 1.05, (5, 6, 7))
    assert made_plausible(unchanged, CENTER_MM).matrix == pytest.approx(unchanged.matrix)


def test_parameters_and_affine_are_two_forms_of_one_map() -> None:
    true = motion(11, 1.07, (3, 4, 5))
    again = to_affine(to_theta(true, CENTER_MM), CENTER_MM)
    assert np.allclose(again(CENTER_MM), true(CENTER_MM), atol=1e-3)
    assert np.allclose(again.matrix, true.matrix, atol=1e-6)


def test_many_starts_equal_each_alone() -> None:
    fixed, moving = pyramid(torso())[2], pyramid(moved(motion(5, 1.0, (0, 0, 0))))[2]
    starts = torch.stack([to_theta(motion(d, 1.0, (0, 0, d)), CENTER_MM) for d in (0, 4, 9)])
    together, scores = refine(fixed, moving, starts, CENTER_MM, 3, 4000)
    for i in range(3):
        alone, score = refine(fixed, moving, starts[i : i + 1], CENTER_MM, 3, 4000)
        assert torch.allclose(alone[0], together[i], atol=0.05)
        assert torch.allclose(score[0], scores[i], rtol=1e-3)


def blob(shape: tuple[int, int, int], origin_mm: tuple[float, float, float]) -> Level:
    """A level of 8 mm with smooth noise; the body is all of it but the rim."""
    noise = ndimage.gaussian_filter(np.random.default_rng(5).normal(size=(24, 26, 28)), 1.5)
    start = [round(o / 8.0) for o in origin_mm[::-1]]
    cut = tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))
    image = torch.from_numpy(noise[cut].astype(np.float32))
    body = torch.zeros(shape, dtype=torch.bool)
    body[1:-1, 1:-1, 1:-1] = True
    grid = Grid(shape[::-1], (8.0,) * 3, origin_mm)
    return Level(grid, image, body, torch.ones(shape, dtype=torch.bool))


def test_the_best_shift_is_the_true_one() -> None:
    fixed, moving = blob((12, 14, 15), (0.0, 0.0, 0.0)), blob((14, 10, 13), (40.0, 24.0, 16.0))
    (cost, best), (worse, _), *_ = best_shifts(fixed, moving, np.eye(3), 5)
    assert np.allclose(best.translation_mm, 0, atol=1e-9)
    assert cost < 1e-3 < worse


def test_the_best_shift_of_a_turned_patient() -> None:
    fixed, moving = blob((12, 14, 15), (0.0, 0.0, 0.0)), blob((14, 10, 13), (40.0, 24.0, 16.0))
    image = torch.flip(moving.image, (1, 2))
    turned = Level(moving.grid, image, torch.flip(moving.body, (1, 2)), moving.valid)
    about = turned.grid.center_mm
    cost, best = best_shifts(fixed, turned, PRONE, 1)[0]
    points = fixed.grid.index_to_mm(np.argwhere(np.ones((3, 3, 3))))
    assert np.allclose(best(points), (points - about) @ PRONE + about)
    assert cost < 1e-3


def test_the_cost_of_shifts_is_that_of_a_slow_loop() -> None:
    rng = np.random.default_rng(6)
    ours, theirs = rng.normal(size=(4, 5, 6)), rng.normal(size=(5, 4, 3))
    our_mask, their_mask = rng.random(ours.shape) < 0.8, rng.random(theirs.shape) < 0.7
    cost = cost_of_shifts(ours, our_mask, theirs, their_mask)
    checked = 0
    for place in np.argwhere(np.isfinite(cost)):
        shift = place - np.array(ours.shape) + 1
        pairs = np.array(
            [
                (ours[tuple(p)], theirs[tuple(p + shift)])
                for p in np.argwhere(our_mask)
                if ((p + shift >= 0) & (p + shift < theirs.shape)).all()
                and their_mask[tuple(p + shift)]
            ]
        )
        dear = max(1.0, min(our_mask.sum(), their_mask.sum()) / len(pairs)) ** OVERLAP_COST
        expected = (1 - np.corrcoef(pairs.T)[0, 1]) * dear
        assert cost[tuple(place)] == pytest.approx(expected, abs=1e-4)
        checked += 1
    assert checked > 20


def test_scans_with_nothing_in_common_have_no_shift() -> None:
    seen = blob((12, 14, 15), (0.0, 0.0, 0.0))
    unseen = Level(seen.grid, seen.image, seen.body, torch.zeros_like(seen.valid))
    assert best_shifts(seen, unseen, np.eye(3), 3) == []


def test_mere_shifts_tell_who_was_turned_over() -> None:
    tilted = motion(7, 1.0, (10, 30, -60), seed=12)
    over = AffineTransform.about(PRONE, CENTER_MM, (0, 0, 0)).after(tilted)
    assert seems_turned_over(pyramid(torso()), pyramid(moved(over)))
    assert not seems_turned_over(pyramid(torso()), pyramid(moved(tilted)))


def test_a_linear_image_is_continued_exactly() -> None:
    slopes = np.array([0.02, -0.03, 0.05])
    level = blob((12, 14, 15), (0.0, 0.0, 0.0))
    places = level.grid.index_to_mm(np.argwhere(np.ones(level.image.shape)))
    image = torch.from_numpy((places @ slopes).reshape(level.image.shape)).float()
    level = Level(level.grid, image, level.body, level.valid)
    center = level.grid.center_mm
    points = center + np.random.default_rng(8).uniform(-30, 30, (50, 3))
    theta = to_theta(AffineTransform(np.eye(3), np.array([3.0, 1.0, -2.0])), center)[None]
    values, found, inside = extrapolated(level, theta, design_matrix(points, center))
    assert inside.all()
    assert np.allclose(values[0], (points + np.array([3.0, 1.0, -2.0])) @ slopes, atol=1e-4)
    assert np.allclose(found[0].T, slopes, atol=1e-4)


def test_the_body_has_no_holes_in_its_slices() -> None:
    voxels = np.where(
        ndimage.gaussian_filter(np.random.default_rng(9).normal(size=(6, 60, 60)), (0, 2, 2)) > 0,
        40,
        -1000,
    )
    body = body_mask(voxels, 6.0)
    assert body.any()
    for slice_ in body:
        assert np.array_equal(slice_, ndimage.binary_fill_holes(slice_))
