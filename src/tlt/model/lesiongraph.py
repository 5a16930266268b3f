"""LesionGraph: a triplet network on RoI pools of several scales.

Source: Yan et al., *Deep Lesion Graphs in the Wild*, CVPR 2018: VGG-16, RoI pools of the later
stages and the whole patch's context, supervised by lesion type, relative body location and size
through triplets. Different here: small and from scratch, not pretrained; see
`tlt.training.embedding_task` for the triplets, `tlt.model.lesion_embedding` for the patch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from tlt.model.lesion_embedding import EmbeddingConfig, LesionEmbedding


class LesionGraph(LesionEmbedding):
    """The pools of all stages but the first, and the patch as a whole."""

    presets: ClassVar[Mapping[str, EmbeddingConfig]] = {"compact": EmbeddingConfig("compact")}
    pooled = (1, 2, 3, 4)
    whole = True
