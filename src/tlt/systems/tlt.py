"""The Transformer Lesion Tracker on whole CTs, and its last step by the tissue about a lesion.

The search image's features are computed once for all lesions of a pair, the template's likewise,
only as far as lesions and receptive field reach; each further lesion costs the transformer and the
last step.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from tlt.model.network import Prediction, TokenMap
from tlt.model.weights import LoadedModel
from tlt.systems.base import AlignedPair, Location, Progress
from tlt.systems.local_motion import (
    CLOSER,
    FAR,
    TOKENS_NEAR_MM,
    TOKENS_REACH_MM,
    LocalMotion,
    embedding_map,
    fit_local_motion,
    patch_matches,
    pooled,
    token_matches,
)
from tlt.systems.network import LESIONS_AT_ONCE, NetworkSystem, evidence_of, silent
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

    @torch.inference_mode()
    def locate(self, pair: AlignedPair, progress: Progress | None = None) -> list[Location]:
        """Network prediction and, with ``refine``, the last step for each lesion."""
        report = progress or silent
        template, search = self.token_maps(pair, report)
        embedded: tuple[TokenMap, TokenMap] | None = None
        if self.refine and self.config.similarity:
            embedded = embedding_map(self.network, template), embedding_map(self.network, search)
        located: list[Location] = []
        count = len(pair.prior_mm)
        for start in range(0, count, LESIONS_AT_ONCE):
            part = slice(start, start + LESIONS_AT_ONCE)
            centers, radii = (self._tensor(v[part]) for v in (pair.prior_mm, pair.radius_mm))
            predicted = self.network(template, search, centers, radii)
            for motion, evidence in self._answers(pair, predicted, centers, radii, embedded):
                located.append(Location(motion.moved_mm.double().cpu().numpy(), evidence))
                report("find lesions", len(located) / count)
        return located

    def _answers(
        self,
        pair: AlignedPair,
        predicted: Prediction,
        centers_mm: Tensor,
        radius_mm: Tensor,
        embedded: tuple[TokenMap, TokenMap] | None,
    ) -> Iterator[tuple[LocalMotion, dict[str, float]]]:
        """The motion of each lesion with its evidence; the last step on one core a lesion."""
        motions = [
            LocalMotion.constant(center, there - center)
            for center, there in zip(centers_mm, predicted.center_mm, strict=True)
        ]
        if not self.refine:
            yield from zip(motions, evidence_of(predicted), strict=True)
            return

        @torch.inference_mode()  # a mode is a thread's own
        def refined(motion: LocalMotion, radius: float) -> tuple[LocalMotion, dict[str, float]]:
            return self._refined(pair, motion, radius, embedded)

        with one_thread(), ThreadPoolExecutor(os.cpu_count(), initializer=use_one_thread) as pool:
            yield from pool.map(refined, motions, radius_mm.tolist())

    def _refined(
        self,
        pair: AlignedPair,
        predicted: LocalMotion,
        radius_mm: float,
        embedded: tuple[TokenMap, TokenMap] | None,
    ) -> tuple[LocalMotion, dict[str, float]]:
        """What the tissue about a lesion makes of the network's answer, and how well it agrees.

        Tokens are looked for about the prior: a network that errs must not lead them astray. The
        far patches look about what the tokens say, and are pooled with them.
        """
        still = LocalMotion.constant(predicted.center_mm, torch.zeros_like(predicted.shift_mm))
        if embedded is None:
            motion = fit_local_motion(patch_matches(pair, still, FAR), predicted, FAR.weighing)
        else:
            tokens = token_matches(*embedded, still)
            first = fit_local_motion(tokens, predicted, FAR.weighing)
            matches = pooled(tokens, patch_matches(pair, first, FAR), FAR.weighing)
            motion = fit_local_motion(matches, first, FAR.weighing)
        tissue_mm = motion.spread_mm
        for patches in CLOSER:
            patches = patches.beyond(radius_mm)
            matches = patch_matches(pair, motion, patches)
            motion = fit_local_motion(matches, motion, patches.weighing)
        pulled = motion.shift_mm - predicted.shift_mm
        return motion, {
            "tissue_mm": tissue_mm,
            "patches_mm": motion.spread_mm,
            "pulled_mm": float(pulled.norm()),
            "correlation": float(matches.weight[0].sqrt()),
        }


def network_alone(model: LoadedModel, device: str, bf16: bool) -> TLTSystem:
    """The tracker without its last step: ``--tracker tlt-network``."""
    return TLTSystem(model, device, bf16, refine=False)
