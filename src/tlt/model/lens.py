"""LENS: one head a source of labels, proposals fused, missing labels mined.

Source: Yan et al., *Learning from Multiple Datasets with Heterogeneous and Partial Labels for
Universal Lesion Detection in CT*, TMI 2021. Its sources are DeepLesion and fully labelled sets of
one kind of lesion (lung nodules, liver tumours, nodes). Here the kinds are told by the tissue
about the lesion, "all" sees every one, and the single-kind heads say where "all" may miss labels:
from ``mine_after`` on, a place without a label of which one of them is confident is no longer
taught to be background. Different besides: one stage, without the second that classifies
proposals; the small 3D backbone of all networks of this table, its finest levels half as wide (16
channels), instead of a pretrained 2.5D DenseNet-121; no labels from other time points.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from tlt.model.detection import Detector, DetectorConfig
from tlt.model.presets import COMPACT


class LENS(Detector):
    """The detector with a head for all lesions and one for each kind."""

    presets: ClassVar[Mapping[str, DetectorConfig]] = {
        "compact": DetectorConfig(
            "compact",
            **(COMPACT | {"channels": (16, 16, 64, 96)}),
            sources=("all", "lung", "fat", "soft"),
            mine_after=3000,
        ),
    }
