"""Networks of every preset's structure that are small enough for a test, and inputs for them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from tlt.model.network import TLT, TokenMap
from tlt.model.presets import PRESETS, ModelConfig

CHANNELS = (4, 4, 8, 16)
TINY = {
    name: replace(PRESETS[name], channels=CHANNELS, heads=2, layers=1, embedding=8)
    for name in PRESETS
}
CENTERS = torch.tensor([[21.0, 35.0, 12.3], [40.2, 18.0, 30.0], [2.0, 60.0, 47.0]])
RADII = torch.tensor([3.0, 12.0, 25.0])


def tiny_network(config: ModelConfig = TINY["compact"], seed: int = 0) -> TLT:
    torch.manual_seed(seed)
    return TLT(config).eval()


def noise_image(shape_zyx: tuple[int, int, int], seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((1, 1, *shape_zyx), generator=generator) * 500 - 400


def random_map(config: ModelConfig, seed: int, shape_zyx: tuple = (7, 9, 8)) -> TokenMap:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn((config.width, *shape_zyx), generator=generator)
    return TokenMap(features, torch.tensor([-1.0, 2.0, -3.0]), 8.0)
