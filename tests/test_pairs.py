"""Training pairs: what is said to be true is, and where the crops lie says nothing about it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_phantom, torso_grid
from scipy import ndimage

from tlt.data.motion import MotionRange, draw_motion
from tlt.data.pairs import PairConfig, TrainingPair, _draw_crops, draw_prior, draw_training_pair
from tlt.data.simulate import Anatomy
from tlt.errors import InputError
from tlt.geometry import Grid
from tlt.lesion import Lesion
from tlt.training.config import TrainConfig
from tlt.training.samples import TrainingPairs
from tlt.volume import AIR_HU, Volume

SMALL = PairConfig(
    crops_zyx=((32, 44, 40),),
    queries=6,
    anchors=40,
    margin_mm=(16.0, 16.0, 12.0),
    search_shift_mm=(12.0, 12.0, 8.0),
)
EASY = replace(
    SMALL, lesions=1, strength=0.0, motion=MotionRange(4.0, 50.0, (0.95, 1.06), 3.0, 3.0, 1.0)
)


@cache
def textured_torso() -> Anatomy:
    """A phantom whose tissues have smooth structure, so that places can be told apart."""
    volume = make_phantom(torso_grid((112, 80, 60), (3.0, 3.25, 4.0)))
    noise = np.random.default_rng(0).normal(size=volume.voxels.shape)
    smooth = ndimage.gaussian_filter(noise, (1.5, 2.0, 2.0))
    voxels = volume.voxels + (volume.voxels > -990) * 120 * smooth / smooth.std()
    return Anatomy(Volume(voxels.astype(np.int16), volume.grid))


def pair_of(seed: int, config: PairConfig = SMALL, difficulty: float = 1.0) -> TrainingPair:
    return draw_training_pair(np.random.default_rng(seed), textured_torso(), config, difficulty)


def as_volume(image, origin_mm) -> Volume:
    """A crop of a pair with its grid."""
    voxels = image[0].numpy()
    x, y, z = (float(v) for v in origin_mm)
    return Volume(voxels, Grid(voxels.shape[::-1], (2.0, 2.0, 2.0), (x, y, z)))


def motion_of(seed: int, config: PairConfig = SMALL):
    anatomy = textured_torso()
    low, high = anatomy.body_mm.min(0), anatomy.body_mm.max(0)
    rng = np.random.default_rng(seed)
    return draw_motion(rng, config.motion.eased(0.7), low, high, anatomy.lung_share)


@pytest.mark.parametrize("seed", range(3))
def test_counts_are_fixed_and_everything_known_lies_in_its_crop(seed: int) -> None:
    pair = pair_of(seed)
    assert pair.template.shape == pair.search.shape == (1, 32, 44, 40)
    assert pair.centers_mm.shape == pair.truth_mm.shape == (6, 3)
    assert pair.radius_mm.shape == (6,)
    assert pair.anchors_mm.shape == pair.anchors_truth_mm.shape == (40, 3)
    template = as_volume(pair.template, pair.template_origin_mm).grid
    search = as_volume(pair.search, pair.search_origin_mm).grid
    for priors, truths in (
        (pair.centers_mm, pair.truth_mm),
        (pair.anchors_mm, pair.anchors_truth_mm),
    ):
        assert template.contains(priors.numpy()).all()
        index = search.mm_to_index(truths.numpy())
        assert np.all((index >= 1.4) & (index <= np.array(search.shape_zyx) - 2.4))


def test_the_same_seed_gives_the_same_pair() -> None:
    first, again, other = pair_of(3), pair_of(3), pair_of(4)
    assert first.search.equal(again.search)
    assert first.truth_mm.equal(again.truth_mm)
    assert not first.search.equal(other.search)


def test_template_at_the_prior_and_search_at_the_truth_look_alike() -> None:
    at_prior, at_truth, unmoved, away = [], [], [], []
    for seed in range(6):
        pair = pair_of(seed, EASY)
        template = as_volume(pair.template, pair.template_origin_mm)
        search = as_volume(pair.search, pair.search_origin_mm)
        prior, truth = pair.anchors_mm.numpy(), pair.anchors_truth_mm.numpy()
        at_prior.append(template.sample(prior))
        at_truth.append(search.sample(truth))
        unmoved.append(search.sample(prior))
        away.append(search.sample(np.add(truth, (0.0, 8.0, 0.0))))
    reference = np.concatenate(at_prior)
    likeness = [np.corrcoef(reference, np.concatenate(v))[0, 1] for v in (at_truth, unmoved, away)]
    assert likeness[0] > 0.9
    assert likeness[0] > max(likeness[1:]) + 0.03


def test_a_lesion_that_the_ct_holds_is_marked_where_it_lies_in_both_crops() -> None:
    """A ball of metal in the CT: nothing else is as bright, and nothing was painted."""
    volume = make_phantom(torso_grid((112, 80, 60), (3.0, 3.25, 4.0)))
    middle = np.add(volume.grid.center_mm, (20.0, -10.0, 0.0))
    zyx = np.moveaxis(np.indices(volume.voxels.shape), 0, -1)
    ball = np.linalg.norm(volume.grid.index_to_mm(zyx) - middle, axis=-1) < 30
    lesion = Lesion("L", tuple(middle.tolist()), 30.0)
    elsewhere = Lesion("far", tuple((middle + 900).tolist()), 15.0)
    metal = Volume(np.where(ball, 3000, volume.voxels).astype(np.int16), volume.grid)
    anatomy = Anatomy(metal, (lesion, elsewhere))
    config, met = replace(EASY, lesions=0, decoys=0.0, surroundings=0.0, circles=0.0), 0
    for seed in range(40):
        pair = draw_training_pair(np.random.default_rng(seed), anatomy, config)
        assert len(pair.marks_mm) <= 1  # the other reaches into no crop
        crops = (pair.template, pair.template_origin_mm), (pair.search, pair.search_origin_mm)
        for crop, centers in enumerate((pair.marks_mm, pair.marks_truth_mm)):
            bright = as_volume(*crops[crop])
            if not len(centers):
                assert bright.voxels.max() < 2000
            elif pair.marks_seen[0, crop]:
                met += 1
                around = centers.numpy() + 20 * np.array([*np.eye(3), *-np.eye(3)])
                here = bright.sample(np.concatenate([centers.numpy(), around]))
                assert here[0] > 2000
                assert np.all((here > 2000) | (here == AIR_HU))  # the view may end nearby
                assert pair.marks_radius_mm[0, crop] == 30
    assert met >= 2


def test_the_crops_place_says_nothing_about_the_truth() -> None:
    shifts, errors = [], []
    rng = np.random.default_rng(0)
    for seed in range(12):
        motion = motion_of(seed)
        for _ in range(30):
            cut = _draw_crops(rng, textured_torso(), motion, SMALL)
            place = cut.template.center_mm
            truth = motion.followup_to_baseline(place[None])[0]
            errors.append(place - cut.prior(truth))  # from a prior to what is seen there
            shifts.append(cut.search.center_mm - place)
    shifts, errors = np.array(shifts), np.array(errors)
    assert errors.std(0).min() > 2  # there is something to leak
    reach = SMALL.search_shift_mm
    assert np.all(np.abs(shifts).max(0) <= np.add(reach, 1.001))  # and half a voxel
    for axis in range(3):
        for other in range(3):
            assert abs(np.corrcoef(shifts[:, axis], errors[:, other])[0, 1]) < 0.16
    half = np.abs(shifts - shifts.mean(0)).mean(0) / np.array(reach)
    assert half == pytest.approx((0.5, 0.5, 0.5), abs=0.06)  # uniform
    assert np.abs(shifts.mean(0)).max() < 2  # on both sides


def test_the_prior_is_the_best_affine_within_a_registrations_error() -> None:
    rng, anatomy = np.random.default_rng(1), textured_torso()
    errors = []
    for seed in range(8):
        motion = motion_of(seed, EASY)
        for _ in range(10):
            middle = anatomy.body_mm[rng.integers(len(anatomy.body_mm))]
            prior = draw_prior(rng, anatomy, motion, middle)
            seen = motion.baseline_to_followup(middle[None])[0]
            errors.append(np.linalg.norm(prior(middle) - seen))
    assert 3 < np.median(errors) < 8
    assert np.max(errors) > 12  # now and then a gross one


def test_difficulty_scales_the_displacements() -> None:
    config = replace(SMALL, motion=MotionRange(0.0, 0.0, (1.0, 1.0), 14.0, 25.0, 5.0))
    spread = []
    for difficulty in (0.1, 1.0):
        pairs = [pair_of(seed, config, difficulty) for seed in range(4)]
        moved = [(p.anchors_truth_mm - p.anchors_mm).numpy() for p in pairs]
        spread.append(np.mean([m.std(0).mean() for m in moved]))
    assert spread[0] < 0.6 * spread[1]


def empty_planes(image: np.ndarray, axis: int) -> np.ndarray:
    """Which planes along an array axis hold nothing but air."""
    others = tuple(a for a in range(3) if a != axis)
    return (image == AIR_HU).all(others)


def test_a_field_of_view_ends_inside_the_crops_and_the_template_loses_it_too() -> None:
    cut = 0
    for seed in range(4):
        pair = pair_of(seed, replace(SMALL, cut_share=0.5))
        template = as_volume(pair.template, pair.template_origin_mm)
        search = as_volume(pair.search, pair.search_origin_mm)
        whole = pair_of(seed, replace(SMALL, cut_share=0.0))
        assert not any(empty_planes(whole.search[0].numpy(), a).any() for a in range(3))
        for axis_zyx in range(3):
            gone = empty_planes(search.voxels, axis_zyx)
            place = search.grid.origin_mm[2 - axis_zyx] + 2.0 * np.arange(len(gone))
            cut += gone.sum()
            for points in (pair.truth_mm, pair.anchors_truth_mm):
                nearest = np.rint((points[:, 2 - axis_zyx].numpy() - place[0]) / 2.0).astype(int)
                assert not gone[nearest].any()  # what is to be found is in view
            lost = empty_planes(template.voxels, axis_zyx)
            start = template.grid.origin_mm[2 - axis_zyx]
            deep = ndimage.binary_erosion(gone, border_value=True)  # the grids lie between voxels
            there = np.rint((place[deep] - start) / 2.0).astype(int)
            inside = there[(there >= 1) & (there < len(lost) - 1)]
            assert lost[inside].all()
    assert cut > 20


def test_a_ct_without_a_body_is_refused() -> None:
    voxels = np.full((24, 24, 24), -1000, np.int16)
    voxels[6:9, 6:9, 6:9] = 40  # a couch screw
    empty = Anatomy(Volume(voxels, torso_grid((24, 24, 24), (3.0, 3.0, 3.0))))
    with pytest.raises(InputError, match="too small"):
        draw_training_pair(np.random.default_rng(0), empty, SMALL)


@pytest.mark.parametrize("seed", range(3))
def test_an_augmented_pair_is_turned_and_resized_and_its_prior_knows_of_a_shift(seed: int) -> None:
    pair = draw_training_pair(np.random.default_rng(seed), textured_torso(), SMALL, augmented=True)
    known = torch.cat([pair.centers_mm, pair.anchors_mm]).double()
    truth = torch.cat([pair.truth_mm, pair.anchors_truth_mm]).double()
    design = torch.cat([known, torch.ones(len(known), 1)], 1)
    fitted = torch.linalg.lstsq(design, truth).solution
    assert (design @ fitted - truth).abs().max() < 0.05  # exactly affine
    sizes = torch.linalg.svdvals(fitted[:3])
    assert 0.6 < sizes.min() < sizes.max() < 1.5
    assert (sizes - 1).abs().max() > 0.08  # more than a registration's error


def test_what_augmentations_are_mixed_with_stays_the_same(ct_folder: Path, tmp_path: Path) -> None:
    config = TrainConfig(data=ct_folder, output=tmp_path, pairs=SMALL)
    mixed = TrainingPairs(config.model_copy(update={"augmented_share": 0.5}))
    plain = TrainingPairs(config)
    same = [torch.equal(mixed[i].search, plain[i].search) for i in range(12)]
    assert 2 < sum(same) < 10
    assert torch.equal(mixed[same.index(False)].search, mixed[same.index(False)].search)
    with pytest.raises(ValueError, match="augmented_share needs data"):
        TrainConfig(marked={"pairs": tmp_path}, output=tmp_path, augmented_share=0.5)  # type: ignore[arg-type]
