"""The Transformer Lesion Tracker on whole CTs, and its last step by the tissue about a lesion.

The search image's features are computed once for all lesions of a pair, the template's likewise,
only as far as lesions and receptive field reach; each further lesion costs the transformer and the
last step.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from tlt.model.network import Prediction, TokenMap
from tlt.model.weights import LoadedModel
from tlt.systems.base import AlignedPair
from tlt.systems.last_step import LastStep
from tlt.systems.network import Finish, NetworkSystem
from tlt.systems.token_matching import TOKENS_NEAR_MM, TOKENS_REACH_MM
from tlt.threads import one_thread, use_one_thread


class TLTSystem(NetworkSystem):
    """The network of a preset with its weights: ``--tracker tlt``."""

    name = "tlt"

    def __init__(
        self, model: LoadedModel, device: str = "cpu", bf16: bool = False, refine: bool = True
    ) -> None:
        around_mm = TOKENS_NEAR_MM + TOKENS_REACH_MM if refine else 0.0
        super().__init__(model, device, bf16, around_mm)
        self.refine = refine  # the last step: ours, not the paper's

    def finish(self, pair: AlignedPair, template: TokenMap, search: TokenMap) -> Finish:
        """With ``refine``, the last step."""
        if not self.refine:
            return super().finish(pair, template, search)
        last_step = LastStep.of(pair, self.network, template, search)

        def finished(
            predicted: Prediction, place: Tensor, radius: Tensor
        ) -> tuple[Tensor, list[dict[str, float]]]:
            return _on_all_cores(last_step, place, predicted.center_mm, radius)

        return finished


def network_alone(model: LoadedModel, device: str, bf16: bool) -> TLTSystem:
    """The tracker without its last step: ``--tracker tlt-network``."""
    return TLTSystem(model, device, bf16, refine=False)


def _on_all_cores(last_step: LastStep, *lesions: Tensor) -> tuple[Tensor, list[dict[str, float]]]:
    """The last step with an equal share of the lesions (Q, ...) on each core."""
    share = -(-len(lesions[0]) // (os.cpu_count() or 1))

    @torch.inference_mode()  # a mode is a thread's own
    def refined(*part: Tensor) -> tuple[Tensor, list[dict[str, float]]]:
        return last_step(*part)

    with one_thread(), ThreadPoolExecutor(os.cpu_count(), initializer=use_one_thread) as pool:
        parts = list(pool.map(refined, *(values.split(share) for values in lesions)))
    return torch.cat([moved for moved, _ in parts]), [row for _, rows in parts for row in rows]
