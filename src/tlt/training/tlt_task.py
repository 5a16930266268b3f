"""What TLT learns: every term of its loss for one pair (`tlt.model.losses`, docs/method.md)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from tlt.data.pairs import TrainingPair
from tlt.model import losses
from tlt.model.network import TLT, Prediction, TokenMap
from tlt.training.task import PairTask, Terms

SOFT_TARGET_MM = 6.0


class TLTTask(PairTask):
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


def predict(network: TLT, pair: TrainingPair, bf16: bool) -> tuple[Prediction, TokenMap, TokenMap]:
    """The prediction for the pair's queries, and the token maps of template and search crop."""
    images = torch.stack([pair.template, pair.search]).contiguous(
        memory_format=torch.channels_last_3d
    )
    origins = (pair.template_origin_mm, pair.search_origin_mm)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
        features = network.encode(images)
        template, search = (
            TokenMap(f, o, network.config.token_mm) for f, o in zip(features, origins, strict=True)
        )
        predicted = network(template, search, pair.centers_mm, pair.radius_mm)
    return predicted, template, search


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
        anchors = network.embedding(template.sample(pair.anchors_mm))
        with torch.autocast(pair.search.device.type, torch.bfloat16, enabled=bf16):
            everywhere = network.embedding(search.tokens())
        everywhere_mm = search.positions_mm()[None]
        goal = losses.soft_targets(everywhere_mm, pair.anchors_truth_mm, SOFT_TARGET_MM)
        scores = losses.CONTRAST_SCALE * anchors @ everywhere.mT
        terms["contrast"] = losses.token_cross_entropy(scores, goal)
    return terms
