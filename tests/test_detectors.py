"""Detectors: boxes and faces by hand, what a head is taught, and a ball in noise that is found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tlt.data.pairs import PairConfig, TrainingPair
from tlt.families import FAMILIES
from tlt.model.backbone import fold_batch_norms
from tlt.model.detection import Detector, DetectorConfig
from tlt.model.detections import Detections, box_of, decode, faces_of, fused, overlap, suppressed
from tlt.model.lens import LENS
from tlt.model.shipped import count_parameters
from tlt.model.vuld import VULD
from tlt.model.weights import save_weights
from tlt.training.detection_task import (
    DetectionTask,
    Marked,
    marks_of,
    missing_labels,
    sensitivity,
    targets_of,
)
from tlt.training.task import Objective

TOKEN_MM = 4.0
BALLS = (((-6.0, 8.0, 2.0), 6.0), ((14.0, -10.0, -4.0), 9.0))


def tiny_detector(name: str, seed: int = 0, **fields) -> Detector:
    """A detector of a family with few channels."""
    network = FAMILIES[name].network_class()
    preset = network.presets["compact"]
    torch.manual_seed(seed)
    return network(replace(preset, channels=(8, 8, 12, 16), head=12, **fields))


def boxes(*rows: tuple[float, float, float]) -> Detections:
    """Cubes on the x axis: (middle, half side, score)."""
    middle, half, score = (torch.tensor(values) for values in zip(*rows, strict=True))
    center = torch.stack([middle, torch.zeros_like(middle), torch.zeros_like(middle)], -1)
    return Detections(center, half[:, None].expand(-1, 3), score)


def grid_of(shape_zyx=(10, 12, 14), origin=(-26.0, -22.0, -18.0)) -> tuple[Tensor, Tensor]:
    """Places (N, 3) of a map, x fastest, and its origin."""
    z, y, x = (torch.arange(n, dtype=torch.float32) for n in shape_zyx)
    index = torch.stack(torch.meshgrid(z, y, x, indexing="ij"), -1).flip(-1).reshape(-1, 3)
    return torch.tensor(origin) + index * TOKEN_MM, torch.tensor(origin)


def marked_balls(seen=(True, True), kind=(0, 2)) -> Marked:
    centers, radii = zip(*BALLS, strict=True)
    return Marked(
        torch.tensor(centers), torch.tensor(radii), torch.tensor(seen), torch.tensor(kind)
    )


def ball_pair(seed: int = 0, shape=(24, 32, 32)) -> TrainingPair:
    """Two noisy crops, 2 mm voxels, with bright balls; the second lies 4 mm to the left."""
    generator = torch.Generator().manual_seed(seed)
    z, y, x = (torch.arange(n, dtype=torch.float32) for n in shape)
    index = torch.stack(torch.meshgrid(z, y, x, indexing="ij"), -1).flip(-1)
    crops, origins = [], []
    for left in (0.0, 4.0):
        origin = torch.tensor([-32.0 - left, -32.0, -24.0])
        hu = 20 * torch.randn(shape, generator=generator) - 100
        for center, radius in BALLS:
            inside = (origin + 2 * index - torch.tensor(center)).norm(dim=-1) <= radius
            hu = torch.where(inside, 120.0, hu)
        crops.append(hu[None])
        origins.append(origin)
    centers = torch.tensor([center for center, _ in BALLS])
    radius = torch.tensor([radius for _, radius in BALLS])
    places = centers[:1] + torch.tensor([[0.0, 0.0, 14.0], [0.0, -30.0, 0.0], [30.0, 8.0, 10.0]])
    return TrainingPair(
        *crops, *origins, centers, centers, radius, places, places, centers, centers,
        torch.stack([radius, radius], -1), torch.ones((2, 2), dtype=torch.bool),
    )  # fmt: skip


def test_faces_and_box_are_each_others_inverse() -> None:
    center, half = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[4.0, 5.0, 6.0]])
    position = torch.tensor([[0.0, 4.0, 11.0]])  # the last lies 2 mm above the box
    faces = faces_of(center, half, position)
    assert faces.tolist() == [[3.0, 7.0, 14.0, 5.0, 3.0, -2.0]]
    again = box_of(faces, position)
    assert torch.equal(again[0], center)
    assert torch.equal(again[1], half)


def test_overlap_by_hand() -> None:
    two = boxes((0.0, 1.0, 0.9), (1.0, 1.0, 0.8), (5.0, 1.0, 0.7))
    assert overlap(two.center_mm[0], two.half_mm[0], two).tolist() == pytest.approx([1, 1 / 3, 0])


def test_suppression_and_fusion_by_hand() -> None:
    found = boxes((0.0, 2.0, 0.6), (1.0, 2.0, 0.3), (20.0, 2.0, 0.2), (2.4, 2.0, 0.1))
    kept, groups = suppressed(found, 0.5)  # 1.0 overlaps 0.0 by 0.6, 2.4 by 0.25 alone
    assert kept.center_mm[:, 0].tolist() == pytest.approx([0.0, 20.0, 2.4])
    assert [group.tolist() for group in groups] == [[0, 1], [2], [3]]
    mean = fused(found, 0.5)
    assert mean.center_mm[:, 0].tolist() == pytest.approx([1 / 3, 20.0, 2.4])
    assert mean.score.tolist() == pytest.approx([0.6, 0.2, 0.1])
    assert len(fused(found[:0], 0.5)) == 0


def test_sources_are_joined_in_order_of_their_scores() -> None:
    both = Detections.joined([boxes((0.0, 1.0, 0.5)), boxes((9.0, 1.0, 0.7), (4.0, 1.0, 0.5))])
    assert both.center_mm[:, 0].tolist() == [9.0, 0.0, 4.0]


def test_what_is_taught_is_what_decoding_finds() -> None:
    places, origin = grid_of()
    targets = targets_of(places, marked_balls(), TOKEN_MM)
    assert (targets.heat == 1).sum() == 2
    assert targets.weight.sum() == pytest.approx(2.0)
    assert targets.lesions == 2
    faces = torch.zeros((len(places), 6))
    faces[targets.core] = targets.faces_mm
    shape = (10, 12, 14)
    heat = torch.logit(targets.heat.clamp(1e-4, 1 - 1e-4)).view(shape)
    found = decode(heat, faces.mT.reshape(6, *shape), origin, TOKEN_MM, 0.9)
    order = found.radius_mm.argsort()
    assert torch.allclose(found.center_mm[order], marked_balls().center_mm, atol=1e-4)
    assert torch.allclose(found.radius_mm[order], marked_balls().radius_mm, atol=1e-4)


def test_a_lesion_at_the_edge_of_the_view_is_neither_lesion_nor_background() -> None:
    places, _ = grid_of()
    targets = targets_of(places, marked_balls(seen=(True, False)), TOKEN_MM)
    distance = (places - torch.tensor(BALLS[1][0])).norm(dim=1)
    assert torch.equal(~targets.counts, distance <= BALLS[1][1] + TOKEN_MM)
    assert targets.lesions == 1
    assert targets.heat[distance < 6].max() < 0.5


def test_a_head_of_one_kind_knows_no_other_lesions() -> None:
    places, _ = grid_of()
    lung, fat, soft = (targets_of(places, marked_balls(), TOKEN_MM, k) for k in (0, 1, 2))
    assert (lung.lesions, fat.lesions, soft.lesions) == (1, 0, 1)
    assert fat.heat.max() == 0
    assert fat.counts.all()
    assert places[lung.heat.argmax()].tolist() == pytest.approx(BALLS[0][0], abs=TOKEN_MM / 2)


def test_sensitivity_by_hand() -> None:
    marks = marked_balls()
    at = marks.center_mm + torch.tensor([[3.0, 0.0, 0.0], [0.0, 4.0, 0.0]])
    wrong = torch.tensor([[60.0, 0.0, 0.0], [0.0, 60.0, 0.0]])
    half = torch.full((4, 3), 5.0)
    score = torch.tensor([0.9, 0.8, 0.5, 0.3])
    found = Detections(torch.stack([wrong[0], at[0], wrong[1], at[1]]), half, score)
    assert sensitivity([found], [marks], 0) == (0.0, 0.0)
    assert sensitivity([found], [marks], 1) == (0.5, pytest.approx(3.0))
    assert sensitivity([found], [marks], 4) == (1.0, pytest.approx(3.5))
    hidden = replace(marks, seen=torch.tensor([True, False]))
    assert sensitivity([found], [hidden], 4) == (1.0, pytest.approx(3.0))


@pytest.mark.parametrize("name", ["vuld", "lens"])
def test_shapes_at_sides_that_are_no_multiples_of_the_stride(name: str) -> None:
    network = tiny_detector(name).eval()
    heat, faces = network(torch.randn((2, 1, 13, 22, 25)) * 100)
    sources = len(network.config.sources)
    assert heat.shape == (2, sources, 7, 11, 13)
    assert faces.shape == (2, 6, 7, 11, 13)


@pytest.mark.parametrize("name", ["vuld", "lens"])
def test_a_place_sees_its_halo_and_no_more(name: str) -> None:
    network = tiny_detector(name).eval()
    halo, step = network.config.halo, network.config.head_stride
    halo += -halo % network.config.stride
    image = torch.randn((1, 1, 3 * halo, 8, 8), generator=torch.Generator().manual_seed(0)) * 300
    whole, _ = network(image)
    part, _ = network(image[:, :, : 2 * halo + 4])  # cut a halo behind what is compared
    seen = (halo + 4) // step
    assert torch.allclose(whole[:, :, :seen], part[:, :, :seen], atol=1e-4)


def test_the_convolutions_of_vuld_are_flat_or_across_and_fold() -> None:
    network = tiny_detector("vuld").eval()
    kernels = {m.kernel_size for m in network.modules() if isinstance(m, torch.nn.Conv3d)}
    assert kernels == {(1, 5, 5), (5, 1, 1), (1, 3, 3), (3, 1, 1), (1, 1, 1)}
    image = torch.randn((1, 1, 16, 16, 16)) * 300
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_mean.uniform_(-1, 1)
    before = network(image)[0]
    fold_batch_norms(network)
    assert not any(isinstance(m, torch.nn.BatchNorm3d) for m in network.modules())
    assert torch.allclose(network(image)[0], before, atol=1e-4)


@pytest.mark.parametrize("name", ["vuld", "lens"])
def test_a_ball_in_noise_is_found_after_seconds(name: str) -> None:
    network, task = tiny_detector(name), DetectionTask()
    objective = Objective(network, task, task.weights, bf16=False)
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    losses = []
    for step in range(40):
        loss, _ = objective(ball_pair(seed=step))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.4 * losses[0]
    network.eval()
    with torch.no_grad():
        scores = task.judge(network, [ball_pair(seed=100), ball_pair(seed=101)], bf16=False)
    assert scores["val_sensitivity_1"] == 1.0
    assert scores["val_missed"] == 0.0
    assert scores["val_center_mm"] < 3.0


@pytest.mark.parametrize("name", ["vuld", "lens"])
def test_gradients_reach_every_weight(name: str) -> None:
    network, task = tiny_detector(name), DetectionTask()
    Objective(network, task, task.weights, bf16=False)(ball_pair())[0].backward()
    for key, weight in network.named_parameters():
        assert weight.grad is not None, key
        assert weight.grad.abs().sum() > 0, key


@pytest.mark.parametrize("name", ["vuld", "lens"])
def test_what_was_not_learned_is_not_counted(name: str, tmp_path: Path) -> None:
    network = tiny_detector(name)
    save_weights(network, tmp_path / "w.safetensors", {}, name)
    learned = sum(p.numel() for p in network.parameters())
    assert count_parameters(tmp_path / "w.safetensors") == learned


def test_missing_labels_are_mined_once_it_has_learned_for_long_enough() -> None:
    network = tiny_detector("lens", mine_after=2)
    heat = torch.full((4, 2, 2, 2), -4.0)
    heat[2, 0, 0, 1] = 3.0  # a head of one kind is sure of a place
    heat[0, 1, 1, 1] = 3.0  # what the head of all kinds says counts for nothing
    assert not missing_labels(network, heat).any()
    for _ in range(2):
        network(torch.zeros((1, 1, 8, 8, 8)))
    assert missing_labels(network, heat).nonzero().tolist() == [[1]]
    again = tiny_detector("lens", mine_after=2)
    again.load_state_dict(network.state_dict())
    assert again.mines  # a resumed run goes on counting
    network.eval()(torch.zeros((1, 1, 8, 8, 8)))
    assert int(network.passes) == 2
    assert not tiny_detector("vuld").mines


def test_the_tissue_about_a_mark_is_its_kind() -> None:
    pair = ball_pair()
    assert marks_of(pair, 1, 2.0).kind.tolist() == [1, 1]  # fat
    lung = replace(pair, search=torch.where(pair.search > 50, pair.search, -850.0))
    assert marks_of(lung, 1, 2.0).kind.tolist() == [0, 0]
    assert marks_of(lung, 0, 2.0).kind.tolist() == [1, 1]


def test_presets_take_the_pairs_of_every_network() -> None:
    crops = PairConfig().crops_zyx
    for network in (VULD, LENS):
        config = network.presets["compact"]
        assert isinstance(config, DetectorConfig)
        assert all(side % config.stride == 0 for crop in crops for side in crop)
        assert config.head_mm == TOKEN_MM
