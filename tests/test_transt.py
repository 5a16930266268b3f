"""TransT: what it is without, and how its token is chosen."""

from __future__ import annotations

import torch
from tiny import CENTERS, RADII, SIAMESE, random_map, tiny_siamese

from tlt.model.transt import TransT


def test_it_is_tlt_without_its_modules() -> None:
    config = TransT.presets["compact"]
    assert (config.sss, config.raam, config.global_regression) == (False, False, False)
    assert (config.self_attention, config.layers, config.similarity) == (True, 4, False)
    assert config.width // config.heads == 32
    network = tiny_siamese("transt")
    chosen = network.select(random_map(config=SIAMESE["transt"], seed=1), CENTERS, RADII)
    assert chosen.valid.sum(1).max() <= 5**3  # a cube of fixed size, whatever the radius
    assert chosen.valid[0].sum() > 3**3


@torch.no_grad()
def test_the_centre_is_that_of_the_best_token_under_the_window() -> None:
    template, search = (random_map(SIAMESE["transt"], seed) for seed in (1, 2))
    free = tiny_siamese("transt", window_influence=0.0)(template, search, CENTERS, RADII)
    best = free.logits.argmax(1)
    assert torch.equal(free.center_mm, free.centers_mm[torch.arange(3), best])
    tied = tiny_siamese("transt", window_influence=1.0)(template, search, CENTERS, RADII)
    nearest = (tied.positions_mm - CENTERS[:, None]).norm(dim=-1).argmin(1)
    assert torch.equal(tied.center_mm, tied.centers_mm[torch.arange(3), nearest])


@torch.no_grad()
def test_the_radius_and_the_prior_are_not_in_its_attention() -> None:
    network = tiny_siamese("transt")
    template, search = (random_map(SIAMESE["transt"], seed) for seed in (1, 2))
    one, other = (network(template, search, CENTERS, r).logits for r in (RADII, RADII.flip(0)))
    assert torch.equal(one, other)
