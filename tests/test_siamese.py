"""What SiamRPN++, DLT and TransT have in common: training, weights, and many lesions at once."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tiny import SIAMESE, shifted_pair, tiny_siamese

from tlt.families import FAMILIES
from tlt.model.network import Prediction, TokenMap
from tlt.model.siamese import UNSEEN_LOGIT, windowed_best
from tlt.model.weights import load_weights, save_weights
from tlt.systems.network import evidence_of
from tlt.training.config import read_config
from tlt.training.pair_terms import predict
from tlt.training.task import Objective

CONFIGS = Path(__file__).parents[1] / "configs" / "table1"


def maps_of(network) -> tuple[TokenMap, TokenMap]:
    """Token maps of noise, other for template and search."""
    generator = torch.Generator().manual_seed(3)
    features = network.encode(torch.randn((2, 1, 48, 56, 60), generator=generator) * 300)
    origin, token = torch.tensor([4.0, -7.0, 30.0]), network.config.token_mm
    return TokenMap(features[0], origin, token), TokenMap(features[1], origin + 8, token)


@pytest.mark.parametrize("name", SIAMESE)
@torch.no_grad()
def test_many_lesions_are_answered_as_one_by_one(name: str) -> None:
    network = tiny_siamese(name, search_reach_mm=24.0)
    template, search = maps_of(network)
    centers = torch.tensor([[50.0, 51.0, 70.3], [14.0, 30.0, 40.0], [119.0, 96.0, 120.0]])
    radii = torch.tensor([3.0, 11.0, 24.0])
    together = network(template, search, centers, radii)
    for index in range(3):
        part = slice(index, index + 1)
        alone = network(template, search, centers[part], radii[part])
        assert torch.allclose(alone.logits[0], together.logits[index], atol=1e-4)
        assert torch.allclose(alone.center_mm[0], together.center_mm[index], atol=1e-3)
    assert (together.positions_mm[0] - centers[0]).abs().max() <= 24 + network.config.token_mm


@pytest.mark.parametrize("name", SIAMESE)
def test_features_are_read_no_farther_than_is_said(name: str) -> None:
    """Beyond it the images are not resampled: what lies there would depend on other lesions."""
    network = tiny_siamese(name, search_reach_mm=24.0)
    token = network.config.token_mm
    origin, center = torch.tensor([4.0, -7.0, 30.0]), torch.tensor([[99.0, 85.0, 123.3]])
    channels = network.embed.in_features
    features = [
        torch.randn(
            (channels, *(int(200 / token),) * 3), generator=torch.Generator().manual_seed(k)
        )
        for k in (0, 1)
    ]
    maps = [TokenMap(values.requires_grad_(), origin, token) for values in features]
    found = network(*maps, center, torch.tensor([20.0]))
    (found.logits.sum() + found.centers_mm.sum()).backward()
    farthest = []
    for tokens in maps:
        read = tokens.features.grad.abs().amax(0).flatten() > 0  # type: ignore[union-attr]
        farthest.append(float((tokens.positions_mm()[read] - center).abs().max()))
    limit = network.config.features_reach_mm + token / 2
    assert limit - 2 * token < max(farthest) <= limit


@pytest.mark.parametrize("name", SIAMESE)
def test_the_loss_falls_and_its_gradients_reach_every_weight(name: str) -> None:
    network, task, pair = tiny_siamese(name).train(), FAMILIES[name].new_task(), shifted_pair()
    objective = Objective(network, task, task.weights, bf16=False)
    optimizer = torch.optim.Adam(network.parameters(), 0.003)
    losses = []
    for _ in range(6):
        loss, terms = objective(pair)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        assert set(terms) == {*task.weights, "prior"}
    assert losses[-1] < 0.9 * losses[0]
    lacking = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert lacking == []


@pytest.mark.parametrize("name", SIAMESE)
@torch.no_grad()
def test_weights_rebuild_the_network(name: str, tmp_path: Path) -> None:
    network, pair = tiny_siamese(name, seed=1), shifted_pair()
    save_weights(network, tmp_path / "w.safetensors", {}, name)
    loaded = load_weights(str(tmp_path / "w.safetensors"), name)
    assert (loaded.family, loaded.network.config) == (name, SIAMESE[name])
    before, after = (predict(n, pair, False)[0].center_mm for n in (network, loaded.network))
    assert torch.equal(before, after)


@pytest.mark.parametrize("name", ["siamrpn", "dlt", "dlt-mix", "transt"])
def test_all_are_trained_on_the_pairs_of_tlt(name: str) -> None:
    config, tlt = read_config(CONFIGS / f"{name}.yaml"), read_config(CONFIGS / "tlt.yaml")
    assert config.system == name.removesuffix("-mix")
    same = {"seed", "data", "validation", "cache", "pairs", "steps", "accumulate", "learning_rate"}
    assert config.model_dump(include=same) == tlt.model_dump(include=same)
    assert config.cut == tlt.cut
    assert config.augmented_share == (0.5 if name == "dlt-mix" else 0)


def test_the_cosine_window_decides_between_equals() -> None:
    offsets = torch.tensor([[[30.0, 0.0, 0.0], [10.0, 0.0, 0.0], [0.0, 0.0, 50.0]]])
    equal = torch.zeros(1, 3)
    assert windowed_best(equal, offsets, 48.0, 0.4).tolist() == [1]
    clear = torch.tensor([[6.0, -6.0, 0.0]])  # probability 1, 0 and 0.5
    assert windowed_best(clear, offsets, 48.0, 0.4).tolist() == [0]
    assert windowed_best(clear, offsets, 48.0, 0.9).tolist() == [1]


def test_no_token_that_is_unseen_is_chosen_because_it_is_near() -> None:
    offsets = torch.tensor([[[0.0, 0.0, 0.0], [30.0, 0.0, 0.0], [40.0, 0.0, 0.0]]])
    logits = torch.tensor([[UNSEEN_LOGIT, -6.0, -5.0]])
    assert windowed_best(logits, offsets, 48.0, 0.4).tolist() == [1]
    nothing = torch.full((1, 3), UNSEEN_LOGIT)
    assert windowed_best(nothing, offsets, 48.0, 0.4).tolist() == [0]  # at least near the prior


def test_evidence_by_hand() -> None:
    """Two tokens near the centre and one 20 mm off, of equal and of half the weight."""
    positions = torch.tensor([[[0.0, 0.0, 0.0], [0.0, 3.0, 0.0], [20.0, 0.0, 0.0]]])
    logits = torch.tensor([[2.0, 2.0, 2.0]]) + torch.log(torch.tensor([2.0, 2.0, 1.0]))
    (found,) = evidence_of(Prediction(torch.zeros(1, 3), logits, positions, positions))
    assert found["peak"] == pytest.approx(0.8)
    assert found["spread_mm"] == pytest.approx((0.4 * 9 + 0.2 * 400) ** 0.5)
    assert found["best"] == pytest.approx(2 + math.log(2))
    assert found["margin"] == pytest.approx(math.log(2))
    near = Prediction(torch.zeros(1, 3), logits[:, :2], positions[:, :2], positions[:, :2])
    assert evidence_of(near)[0]["margin"] == 30  # nothing lies elsewhere
