"""Networks of every preset's structure that are small enough for a test, and inputs for them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tlt.data.pairs import TrainingPair
from tlt.families import FAMILIES
from tlt.model.dlt import DLT
from tlt.model.network import TLT, TokenMap
from tlt.model.presets import PRESETS, ModelConfig
from tlt.model.siamrpn import SiamRPN
from tlt.model.transt import TransT

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


SIAMESE = {
    name: replace(network.presets["compact"], channels=CHANNELS, embedding=8, **fields)  # type: ignore[attr-defined]
    for name, network, fields in (
        ("siamrpn", SiamRPN, {"hidden": 4}),
        ("dlt", DLT, {"pyramid": 8}),
        ("transt", TransT, {"heads": 2, "layers": 1}),
    )
}


def tiny_siamese(name: str, seed: int = 0, **fields: Any) -> Any:
    """A network of a family that answers with a map of scores."""
    torch.manual_seed(seed)
    return FAMILIES[name].build(replace(SIAMESE[name], **fields)).eval()


def shifted_pair(shift_mm: tuple[float, float, float] = (8.0, -4.0, 4.0)) -> TrainingPair:
    """Smooth noise at 2 mm, and the same moved by even millimetres, with what is known of it."""
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn((1, 1, 40, 52, 52), generator=generator)
    smooth = F.avg_pool3d(noise, 5, 1)[0]
    image = 150 * smooth / smooth.std()
    step_zyx = [int(v / 2) for v in shift_mm[::-1]]
    search = image.roll(step_zyx, (1, 2, 3))
    origin = torch.tensor([-20.0, 10.0, 30.0])
    inner = torch.rand((40, 3), generator=generator) * torch.tensor([52.0, 52.0, 40.0]) + 18
    centers = origin + inner
    truth = centers + torch.tensor(shift_mm)
    marks = centers[:2]
    return TrainingPair(
        template=image,
        search=search,
        template_origin_mm=origin,
        search_origin_mm=origin,
        centers_mm=centers[:4],
        truth_mm=truth[:4],
        radius_mm=torch.tensor([4.0, 12.0, 8.0, 20.0]),
        anchors_mm=centers[4:],
        anchors_truth_mm=truth[4:],
        marks_mm=marks,
        marks_truth_mm=truth[:2],
        marks_radius_mm=torch.tensor([[4.0, 4.0], [12.0, 12.0]]),
        marks_seen=torch.ones((2, 2), dtype=torch.bool),
    )
