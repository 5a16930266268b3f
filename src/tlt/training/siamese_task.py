"""What SiamRPN++, DLT and TransT learn: the published class and place, and dense terms beside them.

The dense terms are TLT's own here (docs/decisions/0002): without them nothing is learnt in a CPU's
schedule, and every network of the comparison gets them alike.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from tlt.data.pairs import TrainingPair
from tlt.model import losses
from tlt.model.network import Prediction
from tlt.training.pair_terms import SOFT_TARGET_MM, contrast, predict
from tlt.training.task import Terms, TrackingTask

LARGEST_SIGMA_MM = 8.0
SAME_PLACE_MM = 0.01


class SiameseTask(TrackingTask):
    """The dense terms; a network's own are `answer_terms`."""

    def centers(self, network: Any, pair: TrainingPair, bf16: bool) -> Tensor:
        return predict(network, pair, bf16)[0].center_mm

    def loss_terms(self, network: Any, pair: TrainingPair, bf16: bool) -> Terms:
        predicted, template, search = predict(network, self.prepared(network, pair), bf16)
        targets = losses.soft_targets(predicted.positions_mm, pair.truth_mm, SOFT_TARGET_MM)
        return {
            **self.answer_terms(network, predicted, pair),
            "token": losses.token_cross_entropy(predicted.logits, targets),
            "contrast": contrast(network, template, search, pair, bf16),
        }

    def prepared(self, network: Any, pair: TrainingPair) -> TrainingPair:
        """The pair as training shows it to the network."""
        return pair

    @abstractmethod
    def answer_terms(self, network: Any, predicted: Prediction, pair: TrainingPair) -> Terms:
        """The terms that are the system's own."""


class TokenTask(SiameseTask):
    """A class and a centre for each token: the focal loss, and smooth L1 in token distances.

    SiamRPN++ learns the class by cross-entropy over 16 positive and 48 negative anchors that are
    drawn, TransT by one that counts negatives a sixteenth; here both by the focal loss of TLT's
    paper over all tokens. The place is learned from the tokens in the lesion.
    """

    def answer_terms(self, network: Any, predicted: Prediction, pair: TrainingPair) -> Terms:
        labels = losses.gaussian_labels(predicted.positions_mm, pair.truth_mm, pair.radius_mm)
        place = losses.place_loss(
            predicted.centers_mm,
            predicted.positions_mm,
            pair.truth_mm,
            pair.radius_mm,
            network.config.token_mm,
        )
        return {"focal": losses.focal_loss(predicted.logits, labels), "place": place}


class SiamRPNTask(TokenTask):
    """The place counts 1.2 times the class, as published."""

    weights: ClassVar[dict[str, float]] = {
        "focal": 1.0,
        "place": 1.2,
        "token": 1.0,
        "contrast": 1.0,
    }


class TransTTask(TokenTask):
    """Class and place count alike (the published weights, 8.334 and 5, are of other losses)."""

    weights: ClassVar[dict[str, float]] = {
        "focal": 1.0,
        "place": 1.0,
        "token": 1.0,
        "contrast": 1.0,
    }


class DLTTask(SiameseTask):
    """CornerNet's focal loss of the centre heatmap (alpha 2, beta 4), sigma the lesion's radius.

    Departures: sigma is at most 8 mm, since what counts as found is never farther than 10 mm off;
    where the template's centre is jittered, the prior moves with it, for both are one point here.
    """

    weights: ClassVar[dict[str, float]] = {"focal": 1.0, "token": 1.0, "contrast": 1.0}

    def prepared(self, network: Any, pair: TrainingPair) -> TrainingPair:
        """The pair with the lesions' centres off by up to a share of their radius, as published.

        Only what is marked has a centre that is not the one given; other places stay.
        """
        if not network.training or not len(pair.marks_mm):
            return pair
        apart = torch.cdist(pair.centers_mm, pair.marks_mm).amin(1)
        reach = network.config.jitter * pair.radius_mm * (apart < SAME_PLACE_MM)
        direction = torch.nn.functional.normalize(torch.randn_like(pair.centers_mm), dim=-1)
        away = direction * (reach * torch.rand_like(reach))[:, None]
        return replace(pair, centers_mm=pair.centers_mm + away)

    def answer_terms(self, network: Any, predicted: Prediction, pair: TrainingPair) -> Terms:
        sigma = pair.radius_mm.clamp(max=LARGEST_SIGMA_MM)
        labels = losses.center_heatmap(predicted.positions_mm, pair.truth_mm, sigma)
        return {"focal": losses.focal_loss(predicted.logits, labels, beta=4.0)}
