"""LesaNet: labels and embedding from the RoI pools of all stages.

Source: Yan et al., *Holistic and Comprehensive Annotation of Clinically Significant Findings on
Diverse CT Images*, CVPR 2019: VGG-16 with batch norm, RoI pools of its five stages, an embedding
of 256 numbers from which 171 labels are told, trained by weighted cross-entropy, relational hard
example mining and triplets. Different here: small and from scratch; the labels of
`tlt.training.lesion_labels`, few as they are, need no score propagation between them. DeepLesion's
text-mined labels are not in ``DL_info.csv``, its types and places are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from tlt.model.lesion_embedding import EmbeddingConfig, LesionEmbedding

LABELS = 25  # of `tlt.training.lesion_labels.labels_of`


class LesaNet(LesionEmbedding):
    """The pools of all five stages, and the labels that the embedding tells."""

    presets: ClassVar[Mapping[str, EmbeddingConfig]] = {
        "compact": EmbeddingConfig("compact", embedding=256)
    }
    pooled = (0, 1, 2, 3, 4)
    whole = False

    def __init__(self, config: EmbeddingConfig) -> None:
        super().__init__(config)
        self.classify = nn.Linear(config.embedding, LABELS)

    def labels(self, embedded: Tensor) -> Tensor:
        """Logits (N, L) of the labels, from unit vectors (N, E)."""
        return self.classify(embedded * self.config.embedding**0.5)
