"""Tokens: how far they see, where they lie, and which of them belong to a lesion."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import CENTERS, TINY, noise_image, random_map, tiny_network
from torch import nn

from tlt.geometry import Grid
from tlt.model.network import TokenMap
from tlt.model.presets import PRESETS
from tlt.model.sparse_selection import gaussian, select_tokens
from tlt.model.weights import inference_network
from tlt.volume import Volume


@pytest.mark.parametrize("name", PRESETS)
def test_halo_is_exactly_the_reach_of_a_token(name: str) -> None:
    config = replace(TINY[name], channels=(3, 4, 5, 6))
    backbone = tiny_network(replace(config, layers=0, heads=1)).backbone.double()
    tokens = -(-config.halo // config.stride) + 1
    shape = [9, 9, 9]
    for axis in range(3):
        shape[axis] = 2 * tokens * config.stride + 1
        image = noise_image(tuple(shape)).double().requires_grad_()
        place = [1, 1, 1]
        place[axis], shape[axis] = tokens, 9
        backbone(image)[(0, slice(None), *place)].sum().backward()
        others = tuple(a for a in range(3) if a != axis)
        assert image.grad is not None
        reached = torch.nonzero(image.grad[0, 0].abs().sum(others)).ravel()
        middle = tokens * config.stride
        assert (int(reached[0]), int(reached[-1])) == (middle - config.halo, middle + config.halo)


def test_features_of_a_crop_with_halo_are_those_of_the_whole() -> None:
    network = tiny_network()
    step, halo = network.config.stride, network.config.halo + -network.config.halo % 4
    image = noise_image((2 * halo + 17, 24, 24))
    with torch.no_grad():
        whole = network.encode(image)
        part = network.encode(image[:, :, 8 : 8 + 2 * halo + 4])
    kept = part[:, :, halo // step : halo // step + 1]
    first = (8 + halo) // step
    assert torch.allclose(kept, whole[:, :, first : first + 1], atol=1e-5)
    assert not torch.allclose(part[:, :, :1], whole[:, :, 2:3], atol=1e-5)  # no halo, not equal


@pytest.mark.parametrize("radius_mm", [1.0, 6.0, 12.0])
def test_sparse_selection_keeps_what_the_written_out_equation_keeps(radius_mm: float) -> None:
    maps = random_map(TINY["compact"], 0)
    center = torch.tensor([[20.0, 31.0, 17.5]])
    radius = torch.tensor([radius_mm])
    chosen = select_tokens(maps.tokens(), maps.positions_mm(), center, radius, 0.7, 100.0)
    expected, best = set(), (-1.0, -1)
    for token, (x, y, z) in enumerate(maps.positions_mm().tolist()):
        squares = (x - 20.0) ** 2 + (y - 31.0) ** 2 + (z - 17.5) ** 2
        value = math.exp(-squares / (3 * (2 * radius_mm**2) * 2))
        best = max(best, (value, token))
        if value > 0.7:
            expected.add(token)
    kept = chosen.tokens[0][chosen.valid[0]]
    found = {int((maps.tokens() == row).all(1).nonzero()) for row in kept}
    assert found == (expected or {best[1]})
    assert len(kept) == len(found) >= 1


def test_gaussian_at_tokens_is_the_interpolated_voxelwise_gaussian() -> None:
    config = TINY["compact"]
    grid = Grid((29, 33, 25), (2.0,) * 3, (-7.0, 3.0, 11.0))
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape_zyx), indexing="ij"), -1)
    center, radius = np.array([20.0, 31.0, 33.0]), 9.0
    squares = ((grid.index_to_mm(index) - center) ** 2).sum(-1)
    voxelwise = Volume(np.exp(-squares / (12 * radius**2)), grid)
    features = tiny_network().encode(noise_image(grid.shape_zyx))[0]
    tokens = TokenMap(features, torch.tensor(grid.origin_mm), config.token_mm).positions_mm()
    offsets = tokens[None] - torch.tensor(center).float()
    at_tokens = gaussian(offsets, torch.tensor([radius]))[0]
    assert np.allclose(voxelwise.sample(tokens.numpy()), at_tokens, atol=1e-5)


@given(
    st.tuples(*[st.integers(1, 9)] * 3),
    st.tuples(*[st.floats(-40, 120)] * 3),
    st.floats(0, 40),
)
def test_windows_are_those_of_an_obvious_loop(shape_zyx, center_mm, reach_mm: float) -> None:
    numbers = torch.arange(math.prod(shape_zyx)).reshape(1, *shape_zyx).float()
    maps = TokenMap(numbers, torch.tensor([-1.0, 2.0, -3.0]), 8.0)
    center = torch.tensor([center_mm, (10.0, 20.0, 30.0)])
    tokens, positions = maps.windows(center, reach_mm)
    runs = []
    for axis, length in enumerate(shape_zyx[::-1]):
        nearest = round(float((center[0, axis] - maps.origin_mm[axis]) / 8.0))
        side = min(2 * int(reach_mm / 8.0) + 1, length)
        start = min(range(length - side + 1), key=lambda s: abs(s + side // 2 - nearest))
        runs.append(range(start, start + side))
    expected = [numbers[0, z, y, x] for z in runs[2] for y in runs[1] for x in runs[0]]
    assert tokens[0, :, 0].tolist() == expected
    assert torch.equal(positions, maps.positions_mm()[tokens[..., 0].long()])


def test_sampling_a_map_between_tokens_is_linear() -> None:
    maps = random_map(TINY["compact"], 0)
    ramp = TokenMap(maps.positions_mm().mT.unflatten(1, (7, 9, 8)), maps.origin_mm, 8.0)
    last = maps.positions_mm().amax(0)
    assert (last < CENTERS).any()  # where the border's value is repeated
    assert torch.allclose(ramp.sample(CENTERS), CENTERS.minimum(last), atol=1e-4)


def test_a_map_stays_on_its_device() -> None:
    maps = TokenMap(torch.zeros(4, 5, 6, 7, device="meta"), torch.zeros(3, device="meta"), 8.0)
    points = torch.zeros(2, 3, device="meta")
    assert maps.positions_mm().device == maps.sample(points).device == points.device
    assert maps.windows(points, 16.0)[1].shape == (2, 125, 3)


@pytest.mark.parametrize("name", ["paper", "compact"])
def test_folding_batch_norms_keeps_the_features(name: str) -> None:
    network = tiny_network(TINY[name]).train()
    for seed in range(3):
        network.encode(noise_image((24, 24, 24), seed))  # moves the running statistics
    image = noise_image((24, 24, 24), 9)
    with torch.no_grad():
        before = network.eval().encode(image)
        folded = inference_network(network, bf16=False)
        assert not any(isinstance(m, nn.BatchNorm3d) for m in folded.modules())
        assert torch.allclose(folded.encode(image), before, atol=1e-4)
