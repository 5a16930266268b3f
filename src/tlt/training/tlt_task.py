"""What TLT learns: every term of its loss for one pair (`tlt.model.losses`, docs/method.md)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from tlt.data.pairs import TrainingPair
from tlt.model import losses
from tlt.model.network import TLT
from tlt.training.pair_terms import SOFT_TARGET_MM, contrast, predict
from tlt.training.task import Terms, TrackingTask


class TLTTask(TrackingTask):
    """The first two weights are the paper's (Eq. 4, Eq. 5)."""

    weights: ClassVar[dict[str, float]] = {
        "center": 0.1,
        "focal": 0.02,
        "token": 1.0,
        "contrast": 1.0,
    }

    def centers(self, network: TLT, pair: TrainingPair, bf16: bool) -> Tensor:
        return predict(network, pair, bf16)[0].center_mm

    def loss_terms(self, network: TLT, pair: TrainingPair, bf16: bool) -> Terms:
        return loss_terms(network, pair, bf16)


def loss_terms(network: TLT, pair: TrainingPair, bf16: bool) -> dict[str, Tensor]:
    """Every term of the loss for one pair, not yet weighted."""
    predicted, template, search = predict(network, pair, bf16)
    positions = predicted.positions_mm
    labels = losses.gaussian_labels(positions, pair.truth_mm, pair.radius_mm)
    targets = losses.soft_targets(positions, pair.truth_mm, SOFT_TARGET_MM)
    terms = {
        "center": losses.center_loss(predicted.center_mm, pair.truth_mm),
        "focal": losses.focal_loss(predicted.logits, labels),
        "token": losses.token_cross_entropy(predicted.logits, targets),
    }
    if network.config.similarity:
        terms["contrast"] = contrast(network, template, search, pair, bf16)
    return terms
