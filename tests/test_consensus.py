"""The neighbourhood's consensus: recovers a common motion, and holds a lesion that errs."""

from __future__ import annotations

import torch

from tlt.model.network import TokenMap
from tlt.systems.consensus import consensus

TOKEN_MM = 8.0
PRIOR = torch.tensor([56.0, 56.0, 56.0])


def maps(shift_tokens: tuple[int, int, int]) -> tuple[TokenMap, TokenMap]:
    """Unit embeddings that are all different, and the same ones moved by whole tokens (x, y, z)."""
    generator = torch.Generator().manual_seed(3)
    features = torch.nn.functional.normalize(
        torch.randn(48, 15, 15, 15, generator=generator), dim=0
    )
    x, y, z = shift_tokens
    moved = features.roll((z, y, x), (1, 2, 3))
    return TokenMap(features, torch.zeros(3), TOKEN_MM), TokenMap(moved, torch.zeros(3), TOKEN_MM)


def test_a_common_motion_is_found_whatever_the_lesion_says() -> None:
    template, search = maps((1, -2, 1))
    moved = PRIOR + TOKEN_MM * torch.tensor([1.0, -2.0, 1.0])
    for error in ((0.0, 0.0, 0.0), (12.0, 9.0, -8.0)):
        agreed = consensus(template, search, PRIOR, moved + torch.tensor(error))
        assert (agreed.center_mm - moved).norm() < 1.0
        assert agreed.spread_mm < 1.5


def test_neighbours_that_do_not_agree_are_told_by_their_spread() -> None:
    template, _ = maps((0, 0, 0))
    generator = torch.Generator().manual_seed(4)
    other = torch.nn.functional.normalize(torch.randn(48, 15, 15, 15, generator=generator), dim=0)
    agreed = consensus(template, TokenMap(other, torch.zeros(3), TOKEN_MM), PRIOR, PRIOR)
    assert agreed.spread_mm > 3.0
