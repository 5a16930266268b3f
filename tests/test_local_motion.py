"""The tissue about a lesion: recovers a common motion, and holds a lesion that errs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_patch import PLACES, shifted_pair

from tlt.model.losses import CONTRAST_SCALE
from tlt.model.network import TokenMap
from tlt.systems.local_motion import (
    CLOSER,
    FAR,
    LARGEST,
    LocalMotion,
    Matches,
    fit_local_motion,
    patch_matches,
    pooled,
)
from tlt.systems.patch import Texture
from tlt.systems.token_matching import token_matches

TOKEN_MM, WEIGHING = 8.0, FAR.weighing
PRIOR = torch.tensor([[72.0, 72.0, 72.0]])
CLOSE = {"near_mm": 24.0, "reach_mm": 12.0}
STILL = LocalMotion.constant(PRIOR, torch.zeros(1, 3))


def unit_map(seed: int, side: int = 19) -> TokenMap:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(48, side, side, side, generator=generator)
    return TokenMap(torch.nn.functional.normalize(features, dim=0), torch.zeros(3), TOKEN_MM)


def moved_map(tokens: TokenMap, shift_xyz: tuple[int, int, int]) -> TokenMap:
    x, y, z = shift_xyz
    return TokenMap(tokens.features.roll((z, y, x), (1, 2, 3)), tokens.origin_mm, TOKEN_MM)


def places(seed: int, count: int = 200) -> torch.Tensor:
    return PRIOR + 20 * torch.randn(1, count, 3, generator=torch.Generator().manual_seed(seed))


@given(
    shift=st.tuples(*[st.floats(-25, 25)] * 3),
    strain=st.lists(st.floats(-0.15, 0.15), min_size=9, max_size=9),
    outliers=st.integers(0, 60),
)
def test_an_affine_motion_is_recovered_from_matches_with_outliers(shift, strain, outliers) -> None:
    gradient = torch.tensor(strain).reshape(1, 3, 3)
    truth = LocalMotion(PRIOR, torch.tensor([shift]), gradient, torch.zeros(1))
    at = places(0)
    moved = truth(at)
    moved[0, :outliers] += 30 * torch.randn(outliers, 3, generator=torch.Generator().manual_seed(1))
    wrong = LocalMotion.constant(PRIOR, truth.shift_mm + torch.tensor([6.0, -5.0, 4.0]))
    fitted = fit_local_motion(Matches(at, moved, torch.ones(at.shape[:2])), wrong, WEIGHING)
    assert (fitted.moved_mm - truth.moved_mm).norm() < 1.0
    assert (fitted.gradient - truth.gradient).abs().max() < 0.05


def test_without_any_match_it_stays_with_what_was_believed() -> None:
    none = Matches(torch.zeros(1, 0, 3), torch.zeros(1, 0, 3), torch.zeros(1, 0))
    believed = LocalMotion.constant(PRIOR, torch.tensor([[3.0, -2.0, 1.0]]))
    assert torch.allclose(
        fit_local_motion(none, believed, WEIGHING).shift_mm, believed.shift_mm, atol=1e-3
    )


def test_a_common_motion_of_the_tokens_is_found_whatever_the_lesion_says() -> None:
    template = unit_map(3)
    moved = TOKEN_MM * torch.tensor([[1.0, -2.0, 1.0]])
    matches = token_matches(template, moved_map(template, (1, -2, 1)), PRIOR)
    for error in ((0.0, 0.0, 0.0), (12.0, 9.0, -8.0)):
        believed = LocalMotion.constant(PRIOR, moved + torch.tensor(error))
        fitted = fit_local_motion(matches, believed, WEIGHING)
        assert (fitted.shift_mm - moved).norm() < 1.0
        assert fitted.spread_mm < 1.5


def test_tokens_are_looked_for_within_reach() -> None:
    template = unit_map(3)
    search, moved = moved_map(template, (3, 0, 0)), torch.tensor([24.0, 0.0, 0.0])
    reached = token_matches(template, search, PRIOR, near_mm=24.0, reach_mm=24.0)
    inner = reached.weight > 0
    assert inner.all()
    assert torch.allclose(reached.moved_mm, moved.expand_as(reached.moved_mm), atol=0.5)
    missed = token_matches(template, search, PRIOR, near_mm=24.0, reach_mm=16.0)
    assert (missed.moved_mm.abs() <= 16.0 + 1e-3).all()


def obvious_matches(template: TokenMap, search: TokenMap, nearest_zyx) -> dict[tuple, tuple]:
    """Displacement and weight of each token within two, looked for one token about itself."""
    index = torch.cartesian_prod(*[torch.arange(n) for n in template.shape_zyx])
    matches = {}
    for token in index[(index - nearest_zyx).square().sum(1) <= 4]:
        near = index[((index - token).abs() <= 1).all(1)]
        own = template.features[:, token[0], token[1], token[2]]
        theirs = search.features[:, near[:, 0], near[:, 1], near[:, 2]]
        share = (CONTRAST_SCALE * own @ theirs).softmax(0)
        local = share * ((near - near[share.argmax()]).abs() <= 1).all(1)
        mean = (local[:, None] * near).sum(0) / local.sum()
        moved = (mean - token).flip(0) * TOKEN_MM
        matches[tuple((token.flip(0) * TOKEN_MM).tolist())] = moved, float(local.sum())
    return matches


def test_tokens_are_matched_as_in_an_obvious_loop() -> None:
    template, search = unit_map(3, 9), unit_map(4, 9)
    at = torch.tensor([[13.0, 27.0, 66.0]])  # at a corner of the map
    found = token_matches(template, search, at, near_mm=16.0, reach_mm=8.0)
    expected = obvious_matches(template, search, torch.tensor([8, 3, 2]))
    counted = found.weight[0] > 0
    assert int(counted.sum()) == len(expected)
    for place, moved, weight in zip(*(v[0][counted] for v in found), strict=True):
        there, share = expected[tuple(place.tolist())]
        assert torch.allclose(moved, there, atol=1e-3)
        assert float(weight) == pytest.approx(share, abs=1e-4)


def test_tokens_about_several_places_are_matched_as_one_by_one() -> None:
    template, search = unit_map(3), unit_map(4)
    centers = torch.cat([PRIOR, PRIOR + 19.0, PRIOR - 61.0])
    together = token_matches(template, search, centers, **CLOSE)
    for index in range(3):
        alone = token_matches(template, search, centers[index : index + 1], **CLOSE)
        for one, many in zip(alone, together, strict=True):
            assert torch.allclose(one[0], many[index])


def test_tokens_outside_the_map_take_no_part() -> None:
    gone = LocalMotion.constant(torch.tensor([[400.0, 72.0, 72.0]]), torch.zeros(1, 3))
    matches = token_matches(unit_map(3), unit_map(3), gone.center_mm, **CLOSE)
    assert (matches.weight == 0).all()
    assert torch.isfinite(fit_local_motion(matches, gone, WEIGHING).shift_mm).all()


def test_tokens_that_do_not_agree_are_told_by_their_spread() -> None:
    matches = token_matches(unit_map(3), unit_map(4), PRIOR)
    assert fit_local_motion(matches, STILL, WEIGHING).spread_mm > 3.0


def test_pooled_matches_weigh_the_same() -> None:
    few = Matches(places(1, 5), torch.full((1, 5, 3), 8.0), torch.full((1, 5), 0.01))
    few.places_mm[0, 0] = PRIOR
    many = Matches(places(2, 300), torch.zeros(1, 300, 3), torch.ones(1, 300))
    both = pooled(many, few, WEIGHING)
    assert both.weight.shape == (1, 305)
    away = (both.places_mm - PRIOR).square().sum(-1)
    weight = (both.weight * torch.exp(-away / (2 * WEIGHING.weight_mm**2)))[0]
    assert weight[:300].sum() == pytest.approx(float(weight[300:].sum()), rel=1e-4)
    unseen = many._replace(weight=torch.zeros(1, 300))
    assert torch.equal(pooled(unseen, few, WEIGHING).weight[:, 300:], few.weight)


def test_about_a_large_lesion_the_patches_lie_farther_out() -> None:
    motion = LocalMotion.constant(torch.zeros(3, 3), torch.zeros(3, 3))
    image = Texture.of(shifted_pair((0, 0, 0)).template)
    patches = CLOSER[1].beyond(torch.tensor([4.0, 20.0, 90.0]))
    places = patch_matches(image, image, motion, patches).places_mm
    assert places.abs().amax((1, 2)).tolist() == pytest.approx([7.0, 14.0, 7.0 * LARGEST])


def test_patches_find_the_rest_of_a_motion_to_a_fraction_of_a_voxel() -> None:
    truth = np.array([4.4, -2.2, 6.0])
    pair = shifted_pair(tuple(truth))
    images = Texture.of(pair.template), Texture.of(pair.search)
    center = torch.as_tensor(PLACES, dtype=torch.float32)
    believed = LocalMotion.constant(center, torch.tensor([[2.0, 0.0, 3.0]]).expand(2, 3))
    for patches in CLOSER:
        matches = patch_matches(*images, believed, patches)
        assert torch.equal(matches.places_mm[:, 0], center)
        assert len({tuple(place) for place in matches.places_mm[0].tolist()}) == 27
        believed = fit_local_motion(matches, believed, patches.weighing)
    assert np.linalg.norm(believed.shift_mm.numpy() - truth, axis=1).max() < 0.2
