"""The tissue about a lesion: recovers a common motion, and holds a lesion that errs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_patch import PLACES, shifted_pair

from tlt.model.network import TokenMap
from tlt.systems.local_motion import (
    CLOSER,
    FAR,
    LocalMotion,
    Matches,
    fit_local_motion,
    patch_matches,
    pooled,
    token_matches,
)

TOKEN_MM, WEIGHING = 8.0, FAR.weighing
PRIOR = torch.tensor([72.0, 72.0, 72.0])
CLOSE = {"near_mm": 24.0, "reach_mm": 12.0}
STILL = LocalMotion.constant(PRIOR, torch.zeros(3))


def unit_map(seed: int, side: int = 19) -> TokenMap:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(48, side, side, side, generator=generator)
    return TokenMap(torch.nn.functional.normalize(features, dim=0), torch.zeros(3), TOKEN_MM)


def moved_map(tokens: TokenMap, shift_xyz: tuple[int, int, int]) -> TokenMap:
    x, y, z = shift_xyz
    return TokenMap(tokens.features.roll((z, y, x), (1, 2, 3)), tokens.origin_mm, TOKEN_MM)


def places(seed: int, count: int = 200) -> torch.Tensor:
    return PRIOR + 20 * torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))


@given(
    shift=st.tuples(*[st.floats(-25, 25)] * 3),
    strain=st.lists(st.floats(-0.15, 0.15), min_size=9, max_size=9),
    outliers=st.integers(0, 60),
)
def test_an_affine_motion_is_recovered_from_matches_with_outliers(shift, strain, outliers) -> None:
    truth = LocalMotion(PRIOR, torch.tensor(shift), torch.tensor(strain).reshape(3, 3))
    at = places(0)
    moved = truth(at)
    moved[:outliers] += 30 * torch.randn(outliers, 3, generator=torch.Generator().manual_seed(1))
    wrong = LocalMotion.constant(PRIOR, truth.shift_mm + torch.tensor([6.0, -5.0, 4.0]))
    fitted = fit_local_motion(Matches(at, moved, torch.ones(len(at))), wrong, WEIGHING)
    assert (fitted.moved_mm - truth.moved_mm).norm() < 1.0
    assert (fitted.gradient - truth.gradient).abs().max() < 0.05


def test_without_any_match_it_stays_with_what_was_believed() -> None:
    none = Matches(torch.zeros(0, 3), torch.zeros(0, 3), torch.zeros(0))
    believed = LocalMotion.constant(PRIOR, torch.tensor([3.0, -2.0, 1.0]))
    assert torch.allclose(
        fit_local_motion(none, believed, WEIGHING).shift_mm, believed.shift_mm, atol=1e-3
    )


def test_a_common_motion_of_the_tokens_is_found_whatever_the_lesion_says() -> None:
    template = unit_map(3)
    moved = TOKEN_MM * torch.tensor([1.0, -2.0, 1.0])
    matches = token_matches(template, moved_map(template, (1, -2, 1)), STILL)
    for error in ((0.0, 0.0, 0.0), (12.0, 9.0, -8.0)):
        believed = LocalMotion.constant(PRIOR, moved + torch.tensor(error))
        fitted = fit_local_motion(matches, believed, WEIGHING)
        assert (fitted.shift_mm - moved).norm() < 1.0
        assert fitted.spread_mm < 1.5


def test_tokens_are_looked_for_where_they_are_expected() -> None:
    template = unit_map(3)
    search, moved = moved_map(template, (3, 0, 0)), torch.tensor([24.0, 0.0, 0.0])
    expected = LocalMotion.constant(PRIOR, torch.tensor([20.0, 0.0, 0.0]))
    near = token_matches(template, search, expected, **CLOSE)
    assert torch.allclose(near.moved_mm, moved.expand(len(near.moved_mm), 3), atol=0.5)
    far = token_matches(template, search, STILL, **CLOSE)  # 24 mm off, it reaches 12
    assert (far.moved_mm.abs() <= CLOSE["reach_mm"] + 1e-3).all()


def test_tokens_expected_outside_the_map_take_no_part() -> None:
    template = unit_map(3)
    gone = LocalMotion.constant(PRIOR, torch.tensor([300.0, 0.0, 0.0]))
    matches = token_matches(template, template, gone, **CLOSE)
    assert len(matches.weight) == 0
    assert torch.isfinite(fit_local_motion(matches, gone, WEIGHING).shift_mm).all()


def test_tokens_that_do_not_agree_are_told_by_their_spread() -> None:
    matches = token_matches(unit_map(3), unit_map(4), STILL)
    assert fit_local_motion(matches, STILL, WEIGHING).spread_mm > 3.0


def test_pooled_matches_weigh_the_same() -> None:
    few = Matches(places(1, 5), torch.full((5, 3), 8.0), torch.full((5,), 0.01))
    few.places_mm[0] = PRIOR
    many = Matches(places(2, 300), torch.zeros(300, 3), torch.ones(300))
    both = pooled(many, few, WEIGHING)
    assert len(both.weight) == 305
    away = (both.places_mm - PRIOR).square().sum(-1)
    weight = both.weight * torch.exp(-away / (2 * WEIGHING.weight_mm**2))
    empty = Matches(torch.zeros(0, 3), torch.zeros(0, 3), torch.zeros(0))
    assert pooled(empty, few, WEIGHING) is few
    assert weight[:300].sum() == pytest.approx(float(weight[300:].sum()), rel=1e-4)


def test_patches_find_the_rest_of_a_motion_to_a_fraction_of_a_voxel() -> None:
    truth = np.array([4.4, -2.2, 6.0])
    pair = shifted_pair(tuple(truth))
    center = torch.as_tensor(PLACES[0], dtype=torch.float32)
    believed = LocalMotion.constant(center, torch.tensor([2.0, 0.0, 3.0]))
    for patches in CLOSER:
        matches = patch_matches(pair, believed, patches)
        assert torch.equal(matches.places_mm[0], center)
        assert len({tuple(place) for place in matches.places_mm.tolist()}) == 27
        believed = fit_local_motion(matches, believed, patches.weighing)
    assert np.linalg.norm(believed.shift_mm.numpy() - truth) < 0.2
