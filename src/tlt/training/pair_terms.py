"""What the losses of all pair networks share: the prediction, and the dense contrastive term."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tlt.data.pairs import TrainingPair
from tlt.model import losses
from tlt.model.network import Prediction, TokenMap

SOFT_TARGET_MM = 6.0


def predict(network: Any, pair: TrainingPair, bf16: bool) -> tuple[Prediction, TokenMap, TokenMap]:
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


def contrast(
    network: Any, template: TokenMap, search: TokenMap, pair: TrainingPair, bf16: bool
) -> Tensor:
    """Cross-entropy of which search token shows each of the pair's anchors (InfoNCE)."""
    anchors = network.embedding(template.sample(pair.anchors_mm))
    with torch.autocast(pair.search.device.type, torch.bfloat16, enabled=bf16):
        everywhere = network.embedding(search.tokens())
    goal = losses.soft_targets(search.positions_mm()[None], pair.anchors_truth_mm, SOFT_TARGET_MM)
    scores = losses.CONTRAST_SCALE * anchors @ everywhere.mT
    return losses.token_cross_entropy(scores, goal)
