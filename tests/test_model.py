"""The network against the paper's equations, its parameter counts, and slow obvious versions."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tlt.geometry import Grid
from tlt.model import losses
from tlt.model.anatomical_attention import anatomical_key_bias
from tlt.model.center_predictor import best_token, global_regression
from tlt.model.cross_attention import Attention, sine_encoding
from tlt.model.network import TLT, Prediction, TokenMap
from tlt.model.presets import PRESETS, ModelConfig
from tlt.model.sparse_selection import gaussian, select_tokens
from tlt.model.weights import inference_network
from tlt.volume import Volume

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


def two_maps(config: ModelConfig = TINY["compact"]) -> tuple[TokenMap, TokenMap]:
    return random_map(config, 2), random_map(config, 3)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_published_network_has_the_published_parameters_layer_by_layer() -> None:
    network = TLT(PRESETS["published"])
    stem, head = network.backbone.stem, network.head
    assert [count(part) for part in (stem.first, stem.second, stem.skip)] == [896, 27_680, 896]
    assert [count(block) for block in network.backbone.stages] == [221_376, 885_120, 2_323_008]
    assert count(network.backbone) == 3_458_976
    assert count(network.projection) == 37_056
    assert [count(layer) for layer in network.transformer.layers] == [743_424] * 3
    assert count(network.transformer.last) + count(network.transformer.output_norm) == 223_488
    assert [count(part) for part in (head.classify, head.regress, head.with_prior)] == [
        193,
        38_214,
        60,
    ]
    assert count(network) == 5_988_259


def test_paper_network_has_the_parameters_of_the_supplement() -> None:
    assert count(TLT(PRESETS["paper"])) == 7_298_916


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


def test_raam_is_the_gaussian_about_the_prior_for_each_key() -> None:
    offsets = torch.tensor([[[0.0, 0.0, 0.0], [3.0, 4.0, 12.0], [0.0, 0.0, 6.0]]])
    bias = anatomical_key_bias(offsets, torch.tensor([2.0]))
    assert bias.shape == (1, 1, 1, 3)
    assert bias[0, 0, 0].tolist() == pytest.approx([1, math.exp(-169 / 48), math.exp(-36 / 48)])


def test_raam_transposed_cancels_on_the_search_line_but_not_on_the_template_line() -> None:
    torch.manual_seed(0)
    attention = Attention(16, 2)
    template, search = torch.randn(1, 5, 16), torch.randn(1, 11, 16)
    row = 4 * torch.rand(1, 1, 1, 11)
    plain = attention.weights(search, template, None)
    assert torch.allclose(attention.weights(search, template, row.mT), plain, atol=1e-6)
    moved = attention.weights(template, search, row) - attention.weights(template, search, None)
    assert moved.abs().max() > 0.01


def test_attention_is_the_softmax_written_out() -> None:
    torch.manual_seed(0)
    attention = Attention(16, 2)
    query, key, value = torch.randn(3, 5, 16), torch.randn(3, 7, 16), torch.randn(3, 7, 16)
    bias = torch.randn(3, 1, 1, 7)
    bias[..., 2] = -math.inf
    heads = []
    for head in (slice(0, 8), slice(8, 16)):
        q, k, v = (
            part(x)[..., head]
            for part, x in zip(
                (attention.query, attention.key, attention.value), (query, key, value), strict=True
            )
        )
        shares = (q @ k.mT / math.sqrt(8) + bias[:, 0]).softmax(-1)
        assert torch.allclose(shares, attention.weights(query, key, bias)[:, len(heads)], atol=1e-6)
        heads.append(shares @ v)
    expected = attention.out(torch.cat(heads, -1))
    assert torch.allclose(attention(query, key, value, bias), expected, atol=1e-5)


@pytest.mark.parametrize("name", TINY)
def test_batched_lesions_equal_single_ones(name: str) -> None:
    network, maps = tiny_network(TINY[name]), two_maps(TINY[name])
    with torch.no_grad():
        batch = network(*maps, CENTERS, RADII)
        for i in range(len(CENTERS)):
            single = network(*maps, CENTERS[i : i + 1], RADII[i : i + 1])
            assert torch.allclose(batch.center_mm[i], single.center_mm[0], atol=1e-3)
            assert torch.allclose(batch.logits[i], single.logits[0], atol=1e-4)


def some_loss(network: TLT, predicted: Prediction) -> Tensor:
    labels = losses.gaussian_labels(predicted.positions_mm, CENTERS + 3, RADII)
    total = losses.center_loss(predicted.center_mm, CENTERS + 3)
    return total + losses.focal_loss(predicted.logits, labels)


@pytest.mark.parametrize("name", TINY)
def test_gradients_reach_every_weight(name: str) -> None:
    network = tiny_network(TINY[name]).train()
    maps = [
        TokenMap(network.encode(noise_image((41, 57, 49), seed))[0], torch.zeros(3), 8.0)
        for seed in (5, 6)
    ]
    some_loss(network, network(*maps, CENTERS, RADII)).backward()
    for path, parameter in network.named_parameters():
        assert parameter.grad is not None, path
        if not path.endswith("key.bias") and ".embed" not in path:  # softmax cancels a key bias
            assert parameter.grad.abs().max() > 0, path


@pytest.mark.parametrize(
    ("sss", "raam", "regression", "similarity"), list(product([True, False], repeat=4))
)
def test_every_ablation_runs(sss: bool, raam: bool, regression: bool, similarity: bool) -> None:
    switches = {"sss": sss, "raam": raam, "similarity": similarity}
    config = replace(TINY["compact"], global_regression=regression, **switches)
    network, maps = tiny_network(config), two_maps(config)
    predicted = network(*maps, CENTERS, RADII)
    some_loss(network, predicted).backward()
    assert torch.isfinite(predicted.center_mm).all()
    same_weights = tiny_network(replace(config, sss=not sss))
    assert not torch.equal(same_weights(*maps, CENTERS, RADII).logits, predicted.logits)
    combine = global_regression if regression else best_token
    assert torch.allclose(combine(predicted.logits, predicted.centers_mm), predicted.center_mm)


def test_global_regression_by_hand() -> None:
    logits = torch.tensor([[1.0, 3.0, 4.0]]).log()
    centers = torch.tensor([[[8.0, 0.0, 0.0], [0.0, 16.0, 0.0], [2.0, 0.0, -8.0]]])
    assert global_regression(logits, centers)[0].tolist() == pytest.approx([2.0, 6.0, -4.0])
    assert best_token(logits, centers).tolist() == [[2.0, 0.0, -8.0]]


@pytest.mark.parametrize("name", TINY)
def test_moving_everything_moves_the_prediction_along(name: str) -> None:
    network, (template, search) = tiny_network(TINY[name]), two_maps(TINY[name])
    shift = torch.tensor([113.0, -57.5, 21.25])
    moved = [TokenMap(m.features, m.origin_mm + shift, 8.0) for m in (template, search)]
    with torch.no_grad():
        here = network(template, search, CENTERS, RADII)
        there = network(*moved, CENTERS + shift, RADII)
    assert torch.allclose(there.center_mm, here.center_mm + shift, atol=1e-2)
    assert torch.allclose(there.logits, here.logits, atol=1e-3)


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


def test_position_encoding_is_as_wide_as_the_tokens() -> None:
    encoding = sine_encoding(torch.tensor([[0.0, 64.0, 1.0]]), 16, 256.0, 12.0)
    assert encoding.shape == (1, 16)
    first_waves = [0.0, 1.0, math.sin(2 * math.pi / 256)]
    assert encoding[0, [0, 4, 8]].tolist() == pytest.approx(first_waves, abs=1e-6)


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


def test_evaluation_is_deterministic_although_the_published_network_has_dropout() -> None:
    network, maps = tiny_network(TINY["published"]), two_maps(TINY["published"])
    with torch.no_grad():
        first, second = (network(*maps, CENTERS, RADII).center_mm for _ in range(2))
        assert torch.equal(first, second)
        assert not torch.equal(network.train()(*maps, CENTERS, RADII).center_mm, first)
