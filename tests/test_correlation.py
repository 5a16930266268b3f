"""Correlation of a lesion's features with the search image's, against loops that are obvious."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tlt.model.correlation import correlate, cubes_about, middle
from tlt.model.network import TokenMap

ORIGIN = torch.tensor([-3.0, 5.0, 11.0])


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def by_loops(windows: Tensor, kernels: Tensor, half: tuple[int, int, int]) -> Tensor:
    """Means of products, place by place."""
    sides = kernels.shape[2:]
    start = [windows.shape[2 + a] // 2 - half[a] - sides[a] // 2 for a in range(3)]
    found = torch.zeros((*windows.shape[:2], *(2 * h + 1 for h in half)))
    for z in range(found.shape[2]):
        for y in range(found.shape[3]):
            for x in range(found.shape[4]):
                low = [s + p for s, p in zip(start, (z, y, x), strict=True)]
                box = windows[
                    :,
                    :,
                    low[0] : low[0] + sides[0],
                    low[1] : low[1] + sides[1],
                    low[2] : low[2] + sides[2],
                ]
                found[:, :, z, y, x] = (box * kernels).mean((2, 3, 4))
    return found


@pytest.mark.parametrize("sides", [(1, 5, 7), (3, 1, 7), (3, 5, 1), (3, 3, 5)])
def test_correlation_and_its_gradients_are_those_of_loops(sides: tuple[int, int, int]) -> None:
    windows, kernels = noise(2, 3, 9, 11, 11), noise(2, 3, *sides, seed=1)
    weight = noise(2, 3, 5, 7, 5, seed=2)
    gradients = []
    for way in (correlate, by_loops):
        leaves = windows.clone().requires_grad_(), kernels.clone().requires_grad_()
        found = way(*leaves, (2, 3, 2))
        (found * weight).sum().backward()
        gradients.append((found, leaves[0].grad, leaves[1].grad))
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_correlation_is_in_full_precision_whatever_surrounds_it() -> None:
    windows, kernels = noise(1, 2, 7, 7, 7), noise(1, 2, 3, 3, 3, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        found = correlate(windows, kernels, (2, 2, 2))
    assert torch.equal(found, correlate(windows, kernels, (2, 2, 2)))


def test_cubes_say_where_their_tokens_lie_and_which_the_map_has() -> None:
    shape = (6, 7, 9)
    places = TokenMap(torch.zeros((3, *shape)), ORIGIN, 4.0).positions_mm()
    tokens = TokenMap(places.mT.unflatten(1, shape), ORIGIN, 4.0)  # a feature is its position
    points = ORIGIN + torch.tensor([[13.0, 9.5, 8.0], [1.0, 23.0, 19.0], [-50.0, 9.0, 9.0]])
    cubes = cubes_about(tokens, points, (1, 2, 3))
    assert cubes.features.shape == (3, 3, 3, 5, 7)
    features = cubes.features.movedim(1, -1)
    assert torch.equal(features[cubes.seen], cubes.positions_mm[cubes.seen])
    assert features[~cubes.seen].abs().max() == 0
    assert torch.equal(cubes.center_mm, cubes.positions_mm[:, 1, 2, 3])
    assert (cubes.center_mm - points)[:2].abs().max() <= 2.0  # half a token
    assert cubes.seen[0].all()
    assert cubes.seen[1].sum() == 2 * 3 * 4  # a corner of the map: z, y, x have these inside
    assert cubes.center_mm[2, 0] == ORIGIN[0]  # beyond the map: its border


@pytest.mark.parametrize("shift", [(0, 0, 0), (2, -1, 3)])
def test_a_shift_of_the_features_is_the_peak(shift: tuple[int, int, int]) -> None:
    features = noise(6, 20, 22, 24)
    moved = features.roll(shift, (1, 2, 3))
    points = ORIGIN + 4 * torch.tensor([[11.2, 10.6, 9.1], [12.0, 11.0, 10.0]])
    lesion = cubes_about(TokenMap(features, ORIGIN, 4.0), points, (1, 2, 2))
    around = cubes_about(TokenMap(moved, ORIGIN, 4.0), lesion.center_mm, (5, 6, 6))
    score = correlate(around.features, lesion.features, (4, 4, 4)).sum(1)
    best = torch.stack(torch.unravel_index(score.flatten(1).argmax(1), score.shape[1:]), -1) - 4
    assert best.tolist() == [list(shift)] * 2


def test_the_middle_of_an_axis() -> None:
    assert middle(torch.arange(7.0).expand(3, 5, 7), (1, 2, 1))[0, 0].tolist() == [2, 3, 4]
    assert F.pad(middle(torch.ones(5, 5, 5), (1, 1, 1)), [1] * 6).sum() == 27
