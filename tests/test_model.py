"""The network against the paper's equations, its parameter counts, and slow obvious versions."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from tiny import CENTERS, RADII, TINY, noise_image, random_map, tiny_network
from torch import Tensor, nn

from tlt.model import losses
from tlt.model.anatomical_attention import anatomical_key_bias
from tlt.model.center_predictor import best_token, global_regression
from tlt.model.cross_attention import Attention, sine_encoding
from tlt.model.network import TLT, Prediction, TokenMap
from tlt.model.presets import PRESETS, ModelConfig


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
    attention.maps = []  # the path that keeps its map gives the same
    assert torch.allclose(attention(query, key, value, bias), expected, atol=1e-5)
    assert torch.equal(attention.maps[0], attention.weights(query, key, bias))


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


def test_position_encoding_is_as_wide_as_the_tokens() -> None:
    encoding = sine_encoding(torch.tensor([[0.0, 64.0, 1.0]]), 16, 256.0, 12.0)
    assert encoding.shape == (1, 16)
    first_waves = [0.0, 1.0, math.sin(2 * math.pi / 256)]
    assert encoding[0, [0, 4, 8]].tolist() == pytest.approx(first_waves, abs=1e-6)


def test_evaluation_is_deterministic_although_the_published_network_has_dropout() -> None:
    network, maps = tiny_network(TINY["published"]), two_maps(TINY["published"])
    with torch.no_grad():
        first, second = (network(*maps, CENTERS, RADII).center_mm for _ in range(2))
        assert torch.equal(first, second)
        assert not torch.equal(network.train()(*maps, CENTERS, RADII).center_mm, first)
