"""Couch, arms, circle and decoys: what changes about the patient, and what may not."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from conftest import make_phantom, torso_grid
from test_simulate import COARSE, ball

from tlt.data.appearance import Scan
from tlt.data.followup import resurrounded, simulate_study
from tlt.data.motion import Motion
from tlt.data.pairs import PairConfig, draw_training_pair
from tlt.data.placing import DECOY_MM, GAP_MM, draw_decoys
from tlt.data.simulate import Anatomy, draw_pair, render
from tlt.data.surroundings import Couch, Surroundings, draw_surroundings
from tlt.data.view import Circle, draw_circle
from tlt.geometry import AffineTransform, Grid
from tlt.lesion import Lesion
from tlt.volume import Volume

ARM_MM, TABLE_MM = (-185.0, 20.0), 140.0  # x and y of an arm; y of a table's top
FLAT = Couch(0.0, 125.0, 150.0, 30.0, 0.0, 3.0, 0.0, -950.0)


@cache
def lying() -> Volume:
    """The phantom on a thin table, with an arm beside it."""
    grid = torso_grid((134, 94, 40), (3.0, 3.5, 5.0), center_mm=(0.0, 10.0, 0.0))
    torso = make_phantom(grid)
    index = np.moveaxis(np.indices(grid.shape_zyx), 0, -1)
    x, y, _ = np.moveaxis(grid.index_to_mm(index), -1, 0)
    voxels = torso.voxels.copy()
    voxels[np.hypot(x - ARM_MM[0], y - ARM_MM[1]) < 16] = 50
    voxels[(y > TABLE_MM) & (y < TABLE_MM + 8)] = 100
    return Volume(voxels, grid)


@cache
def anatomy() -> Anatomy:
    return Anatomy(lying())


def places(volume: Volume) -> tuple[np.ndarray, ...]:
    index = np.moveaxis(np.indices(volume.grid.shape_zyx), 0, -1)
    return tuple(np.moveaxis(volume.grid.index_to_mm(index), -1, 0))


def in_body(volume: Volume) -> np.ndarray:
    x, y, _ = places(volume)
    return (x / 150) ** 2 + (y / 105) ** 2 <= 1


def shifted(*shift_mm: float) -> AffineTransform:
    return AffineTransform(np.eye(3), np.array(shift_mm))


@pytest.mark.parametrize("seed", range(4))
def test_nothing_inside_the_body_changes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    about = draw_surroundings(rng, anatomy().body_mm, anatomy().body_mm)
    changed = resurrounded(lying(), anatomy(), Scan(2.0, surroundings=about))
    body = in_body(lying())
    assert np.array_equal(changed.voxels[body], lying().voxels[body])
    assert not np.array_equal(changed.voxels, lying().voxels)
    assert changed.voxels.dtype == lying().voxels.dtype


def test_couch_and_arm_can_be_gone_or_elsewhere() -> None:
    x, y, _ = places(lying())
    arm, table = np.hypot(x - ARM_MM[0], y - ARM_MM[1]) < 12, (y > TABLE_MM) & (y < TABLE_MM + 8)
    gone = Scan(2.0, surroundings=Surroundings(AffineTransform.identity()))
    voxels = resurrounded(lying(), anatomy(), gone).voxels
    assert (voxels[arm | table] == -1000).all()
    # A point of the scan shows what lay 14 mm higher and 9 mm to the right: 4 and 3 voxels.
    there = Scan(2.0, surroundings=Surroundings(shifted(-9.0, -14.0, 0.0), kept=True))
    voxels = resurrounded(lying(), anatomy(), there).voxels
    moved_arm = np.hypot(x - ARM_MM[0] - 9, y - ARM_MM[1] - 14) < 10
    assert (voxels[moved_arm] == 50).all()
    moved_table = (y > TABLE_MM + 16) & (y < TABLE_MM + 20) & (np.abs(x) < 150)
    assert (voxels[moved_table] == 100).all()
    assert (voxels[table & (y < TABLE_MM + 7)] == -1000).all()


def test_a_couch_by_hand() -> None:
    at = torch.tensor(
        [[0.0, 124, 0], [0, 126.5, 0], [0, 140, 0], [0, 153.5, 0], [0, 156, 0], [152, 140, 0]]
    )
    assert FLAT.hu(at).tolist() == pytest.approx([-1000, 0, -950, 0, -1000, -1000])
    trough = replace(FLAT, rise_mm=20.0)
    assert trough.hu(torch.tensor([[75.0, 121.5, 0.0]])).item() == pytest.approx(0)  # 5 mm up


def test_a_couch_stands_still_while_the_patient_turns() -> None:
    turn = np.array([[1, 0.1, 0], [-0.1, 1, 0], [0, 0, 1.0]])
    motion = Motion(AffineTransform.about(turn, (0, 0, 0), (0, 0, 0)), ())
    about = Surroundings(shifted(0, -8.0, 0), couch=FLAT)
    grid = Grid((100, 90, 2), (2.0, 2.0, 5.0), (-99.0, -10.0, 0.0))
    image = render(anatomy(), grid, motion, Scan(5.0, surroundings=about)).voxels
    top = np.round((125.0 + 8.0 + 1.5 + 10.0) / 2).astype(int)
    assert np.allclose(image[:, top], 0, atol=1)


def test_surroundings_of_a_crop_within_the_body_are_left_alone() -> None:
    lung = np.full((30, 40, 40), -850, np.int16)
    lung[10:20, 10:30, 10:30] = 40
    inner = Anatomy(Volume(lung, torso_grid((40, 40, 30), (4.0,) * 3)))
    points = torch.from_numpy(inner.grid.index_to_mm(np.moveaxis(np.indices((30, 40, 40)), 0, -1)))
    assert not inner.outside(points.float()).any()


def test_outside_the_circle_is_padding_and_out_of_view() -> None:
    cut = 0
    for seed in range(3):
        ranges = replace(COARSE, circles=1.0, structures=6)
        study = simulate_study(lying(), np.random.default_rng(seed), (), ranges)
        circle = study.parameters.followup.circle
        assert circle is not None
        x, y, _ = places(study.followup)
        outside = np.hypot(x - circle.middle_mm[0], y - circle.middle_mm[1]) > circle.radius_mm
        assert (study.followup.voxels[outside] == circle.padding_hu).all()
        cut += outside.sum()
        for truth in study.truth:
            held = bool(circle.holds(np.array(truth.center_mm)))
            seen = bool(study.followup.grid.contains(truth.center_mm))
            assert truth.in_view == (held and seen)
    assert cut > 1000
    beside = Circle((0.0, 0.0), 10.0, -1024.0).holds(np.array([[9.9, 0, 500.0], [8, 8, 0]]))
    assert beside.tolist() == [True, False]


def test_a_circle_cuts_little_of_the_body() -> None:
    for seed in range(20):
        circle = draw_circle(np.random.default_rng(seed), anatomy().body_mm)
        assert circle.holds(anatomy().body_mm).mean() > 0.88


def test_decoys_lie_near_their_lesion_and_apart_from_all() -> None:
    lesions = [ball((60.0, -40.0, -50.0), 8.0, 200.0), ball((-60.0, 60.0, -60.0), 6.0, -60.0)]
    known = [Lesion("K", (60.0, -10.0, -50.0), 12.0)]
    found = 0
    for seed in range(8):
        decoys = draw_decoys(np.random.default_rng(seed), anatomy(), lesions, 1.0, known)
        found += len(decoys)
        others = [(d.center_mm, d.radius_mm) for d in (*lesions, *known)]
        for decoy in decoys:
            home = min(lesions, key=lambda each: abs(each.hu - decoy.hu))
            distance = np.linalg.norm(np.subtract(decoy.center_mm, home.center_mm))
            assert DECOY_MM[0] - 0.01 <= distance <= DECOY_MM[1] + 0.01
            assert abs(decoy.hu - home.hu) < 50
            assert 0.7 < decoy.radius_mm / home.radius_mm < 1.35
            for center, radius in others:
                gap = np.linalg.norm(np.subtract(decoy.center_mm, center)) - radius
                assert gap - decoy.radius_mm > GAP_MM - 0.01
            others.append((decoy.center_mm, decoy.radius_mm))
    assert found >= 12
    assert draw_decoys(np.random.default_rng(0), anatomy(), lesions, 0.0) == []


def test_decoys_are_in_both_scans_at_their_place_and_not_in_the_list() -> None:
    old = new = later = 0
    for seed in range(5):
        ranges = replace(COARSE, decoys=1.0, strength=0.0)
        study = simulate_study(lying(), np.random.default_rng(seed), (), ranges)
        first = {lesion.center_mm for lesion in study.parameters.baseline_lesions}
        listed = {lesion.center_mm for lesion in study.lesions}
        assert len(listed) == 5
        decoys = [d for d in study.parameters.followup_lesions if d.center_mm not in listed]
        centers = [decoy.center_mm for decoy in decoys]
        there = study.parameters.motion.baseline_to_followup(np.reshape(centers, (-1, 3)))
        for decoy, place in zip(decoys, there, strict=True):
            shown = study.baseline.sample(np.array([decoy.center_mm]))[0]
            is_old = decoy.center_mm in first
            old, new = old + is_old, new + (not is_old)
            if is_old:
                assert shown == pytest.approx(decoy.hu + decoy.core_hu, abs=60)
            inner = study.followup.grid.contains(place + np.array([[-8.0] * 3, [8.0] * 3])).all()
            if inner and decoy.radius_mm > 10:
                later += 1
                seen = study.followup.sample(place[None])[0]
                assert seen == pytest.approx(decoy.hu + decoy.core_hu, abs=60)
    assert old > 2
    assert new > 0
    assert later > 0


def test_features_at_zero_draw_nothing() -> None:
    pair = draw_pair(np.random.default_rng(0), anatomy(), COARSE.motion)
    for scan in (pair.baseline, pair.followup):
        assert scan.surroundings is None
        assert scan.circle is None


def test_training_pairs_with_everything_on_are_finite_and_repeat() -> None:
    config = PairConfig(
        crops_zyx=((32, 44, 40),), queries=6, anchors=40, margin_mm=(16.0, 16.0, 12.0),
        search_shift_mm=(12.0, 12.0, 8.0), decoys=1.0, surroundings=1.0, circles=1.0,
    )  # fmt: skip
    for seed in range(4):
        pair = draw_training_pair(np.random.default_rng(seed), anatomy(), config)
        assert torch.isfinite(pair.template).all()
        assert torch.isfinite(pair.search).all()
        again = draw_training_pair(np.random.default_rng(seed), anatomy(), config)
        assert pair.search.equal(again.search)
        assert pair.truth_mm.equal(again.truth_mm)
