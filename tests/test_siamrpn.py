"""SiamRPN++: the correlation finds what moved, and a token's regression moves the centre."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_siamese
from torch import Tensor, nn

from tlt.model.network import TokenMap
from tlt.model.siamrpn import SiamRPN

ORIGIN = torch.tensor([5.0, -20.0, 8.0])


class Sum(nn.Module):
    """A head that has learned nothing: the sum of the correlations of all channels."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.sum(1, keepdim=True)


class Constant(nn.Module):
    """A head that moves every centre by the same share of a token."""

    def forward(self, maps: Tensor) -> Tensor:
        step = torch.tensor([0.25, -0.5, 0.0])[None, :, None, None, None]
        return step.expand(len(maps), 3, *maps.shape[2:])


def untrained(**fields) -> SiamRPN:
    network = tiny_siamese("siamrpn", **fields)
    network.classify, network.regress = Sum(), Constant()
    return network


def same_role(features: Tensor) -> Tensor:
    """The same features as kernel and as window, for class and place."""
    return features.repeat(4, 1, 1, 1)


@pytest.mark.parametrize("shift_zyx", [(0, 0, 0), (1, -2, 3)])
def test_the_centre_is_the_shift_of_the_features_and_what_a_token_regresses(
    shift_zyx: tuple[int, int, int],
) -> None:
    generator = torch.Generator().manual_seed(2)
    features = torch.randn((4, 16, 18, 20), generator=generator)
    moved = features.roll(shift_zyx, (1, 2, 3))
    template = TokenMap(same_role(features), ORIGIN, 8.0)
    search = TokenMap(same_role(moved), ORIGIN, 8.0)
    centers = ORIGIN + torch.tensor([[80.0, 72.0, 64.0], [77.3, 69.0, 60.5]])
    found = untrained(window_influence=0.0)(template, search, centers, torch.ones(2)).center_mm
    shift = 8.0 * torch.tensor(shift_zyx[::-1]) + torch.tensor([2.0, -4.0, 0.0])
    assert torch.allclose(found - centers, shift.expand(2, 3), atol=1e-4)  # off the lattice, too


@pytest.mark.parametrize("influence", [0.0, 0.42, 1.0])
def test_tokens_that_the_search_image_lacks_are_never_chosen(influence: float) -> None:
    network = tiny_siamese("siamrpn", window_influence=influence)
    network.regress = Constant()
    channels = 4 * network.config.hidden
    template = TokenMap(torch.randn((channels, 12, 12, 12)), ORIGIN, 8.0)
    slab = TokenMap(torch.randn((channels, 2, 12, 12)), ORIGIN + torch.tensor([0, 0, 40.0]), 8.0)
    centers = ORIGIN + torch.tensor([[40.0, 40.0, 44.0], [3.0, 80.0, 24.0]])
    found = network(template, slab, centers, torch.full((2,), 5.0))
    z = found.center_mm[:, 2] - slab.origin_mm[2]
    assert ((z > -4.1) & (z < 12.1)).all()
    assert (found.logits > -30).sum(1).tolist() == [2 * 11 * 11, 2 * 7 * 6]
