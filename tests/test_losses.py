"""The losses by hand: exact numbers, and what must sum to what."""

from __future__ import annotations

import math

import pytest
import torch

from tlt.model import losses

POSITIONS = torch.tensor([[[0.0, 0.0, 0.0], [8.0, 0.0, 0.0], [0.0, 16.0, 0.0], [8.0, 8.0, 8.0]]])


def test_labels_are_the_gaussian_stretched_to_zero_and_one() -> None:
    centers, radii = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([5.0])
    raw = [math.exp(-squares / 300) for squares in (4, 36, 260, 164)]
    expected = [(value - raw[2]) / (raw[0] - raw[2]) for value in raw]
    labels = losses.gaussian_labels(POSITIONS, centers, radii)[0]
    assert labels.tolist() == pytest.approx(expected, abs=1e-6)
    assert labels[0] == 1  # exactly: this is what makes a token positive
    assert labels[2] == 0


def test_each_lesion_has_its_own_highest_label() -> None:
    positions = POSITIONS.expand(2, -1, -1)
    centers = torch.tensor([[0.0, 0.0, 0.0], [90.0, 90.0, 90.0]])
    labels = losses.gaussian_labels(positions, centers, torch.tensor([3.0, 40.0]))
    assert labels.amax(1).tolist() == [1.0, 1.0]
    assert labels.argmax(1).tolist() == [0, 3]


def test_focal_loss_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3.0), -math.log(3.0)]])  # p = 1/2, 3/4, 1/4
    labels = torch.tensor([[1.0, 0.5, 0.0]])
    positive = 0.5**2 * math.log(1 / 2)
    halfway = 0.5**2 * 0.75**2 * math.log(1 / 4)
    negative = 1.0 * 0.25**2 * math.log(3 / 4)
    expected = -(positive + halfway + negative)
    assert float(losses.focal_loss(logits, labels)) == pytest.approx(expected, rel=1e-6)


def test_focal_loss_is_a_mean_over_lesions_and_has_its_exponents() -> None:
    logits = torch.tensor([[0.0], [math.log(3.0)]])
    labels = torch.tensor([[1.0], [0.25]])
    positive, negative = -math.log(1 / 2) / 2, -(0.75**3) * 0.75 * math.log(1 / 4)
    loss = losses.focal_loss(logits, labels, alpha=1.0, beta=3.0)
    assert float(loss) == pytest.approx((positive + negative) / 2, rel=1e-6)


def test_focal_loss_stays_finite_at_extreme_logits() -> None:
    logits = torch.tensor([[-200.0, 200.0]], requires_grad=True)
    loss = losses.focal_loss(logits, torch.tensor([[1.0, 0.0]]))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(400.0)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_center_loss_is_the_l1_distance_averaged_over_lesions() -> None:
    predicted = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    truth = torch.tensor([[0.0, 4.0, 3.5], [0.0, 0.0, -0.5]])
    assert float(losses.center_loss(predicted, truth)) == (3.5 + 0.5) / 2


def test_soft_targets_are_a_normalised_gaussian() -> None:
    centers = torch.tensor([[1.0, 2.0, 3.0]])
    targets = losses.soft_targets(POSITIONS, centers, 6.0)[0]
    raw = [math.exp(-squares / 72) for squares in (14, 62, 206, 110)]
    assert float(targets.sum()) == pytest.approx(1.0)
    assert targets.tolist() == pytest.approx([value / sum(raw) for value in raw], rel=1e-5)


def test_soft_targets_sum_to_one_however_far_the_center() -> None:
    targets = losses.soft_targets(POSITIONS, torch.tensor([[4000.0, 0.0, 0.0]]), 6.0)
    assert float(targets.sum()) == pytest.approx(1.0)


def test_token_cross_entropy_is_least_where_the_softmax_is_the_target() -> None:
    targets = torch.tensor([[0.5, 0.25, 0.25]])
    entropy = 0.5 * math.log(2) + 0.5 * math.log(4)
    fitting = losses.token_cross_entropy(targets.log() + 7.0, targets)
    assert float(fitting) == pytest.approx(entropy)
    uniform = losses.token_cross_entropy(torch.zeros(1, 3), targets)
    assert float(uniform) == pytest.approx(math.log(3))
