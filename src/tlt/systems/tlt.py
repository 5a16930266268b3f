"""The Transformer Lesion Tracker on whole CTs, and its last step by the tissue about a lesion.

The search image's features are computed once for all lesions of a pair, the template's likewise,
only as far as lesions and receptive field reach; each further lesion costs the transformer and the
last step.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from tlt.model.network import Prediction, TokenMap
from tlt.model.weights import LoadedModel, inference_network
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
from tlt.threads import one_thread, use_one_thread
from tlt.volume import AIR_HU, Volume

LESIONS_AT_ONCE = 8
TILE_VOXELS = 3_000_000


class TLTSystem:
    """The network of a preset with its weights: ``--tracker tlt``."""

    name = "tlt"

    def __init__(
        self, model: LoadedModel, device: str = "cpu", bf16: bool = False, refine: bool = True
    ) -> None:
        self.model_name: str | None = model.name
        self.weights_sha256: str | None = model.sha256
        self.config = model.network.config
        self.spacing_mm = self.config.spacing_mm
        around_mm = TOKENS_NEAR_MM + TOKENS_REACH_MM if refine else 0.0
        reach_mm = max(self.config.search_reach_mm, around_mm)
        halo_mm = self.config.halo * self.config.spacing_mm
        self.margin_mm = reach_mm + self.config.token_mm + halo_mm
        self.network = inference_network(model.network, bf16).to(device)
        self.device, self.bf16 = device, bf16
        self.refine = refine  # the last step: ours, not the paper's

    @torch.inference_mode()
    def locate(self, pair: AlignedPair, progress: Progress | None = None) -> list[Location]:
        """Network prediction and, with ``refine``, the last step for each lesion."""
        report = progress or _silent
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
            for index, motion in enumerate(motions):
                yield motion, self._evidence(predicted, index)
            return

        @torch.inference_mode()  # a mode is a thread's own
        def refined(motion: LocalMotion, radius: float) -> tuple[LocalMotion, dict[str, float]]:
            return self._refined(pair, motion, radius, embedded)

        with one_thread(), ThreadPoolExecutor(os.cpu_count(), initializer=use_one_thread) as pool:
            yield from pool.map(refined, motions, radius_mm.tolist())

    def token_maps(
        self, pair: AlignedPair, progress: Progress | None = None
    ) -> tuple[TokenMap, TokenMap]:
        """Features of the template and of the search image."""
        report = progress or _silent
        search = self.token_map(pair.search, lambda done: report("follow-up features", done))
        template = self.token_map(
            seen_through(pair.template, pair.search),
            lambda done: report("baseline features", done),
        )
        return template, search

    def token_map(self, volume: Volume, progress=None) -> TokenMap:
        """Features of a whole volume, tile by tile along z; each tile sees its whole halo."""
        step, halo = self.config.stride, self.config.halo
        halo += -halo % step
        depth, height, width = volume.voxels.shape
        thick = max(step, int(TILE_VOXELS / (height * width)) // step * step)
        tiles = []
        for start in range(0, depth, thick):
            low, high = max(0, start - halo), min(depth, start + thick + halo)
            part = np.nan_to_num(volume.voxels[low:high], nan=AIR_HU)
            image = torch.from_numpy(part)[None, None].to(self.device)
            features = self._encode(image)
            first = (start - low) // step
            tiles.append(features[:, first : first + -(-min(thick, depth - start) // step)])
            if progress is not None:
                progress(min(1.0, (start + thick) / depth))
        origin = self._tensor(volume.grid.origin_mm)
        return TokenMap(torch.cat(tiles, 1), origin, self.config.token_mm)

    def _encode(self, image: Tensor) -> Tensor:
        """Features (C, d, h, w), float32, of a tile (1, 1, D, H, W)."""
        image = image.contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=self.bf16):
            return self.network.encode(image)[0].float()

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

    @staticmethod
    def _evidence(predicted: Prediction, index: int) -> dict[str, float]:
        """Share of the softmax within 12 mm of the centre, and spread of the regressed centres."""
        share = predicted.logits[index].softmax(-1)
        near = (predicted.positions_mm[index] - predicted.center_mm[index]).norm(dim=-1) < 12.0
        offset = predicted.centers_mm[index] - predicted.center_mm[index]
        spread = (share * offset.square().sum(-1)).sum().sqrt()
        return {"peak": float(share[near].sum()), "spread_mm": float(spread)}

    def _tensor(self, values) -> Tensor:
        return torch.as_tensor(np.asarray(values, np.float32), device=self.device)


def network_alone(model: LoadedModel, device: str, bf16: bool) -> TLTSystem:
    """The tracker without its last step: ``--tracker tlt-network``."""
    return TLTSystem(model, device, bf16, refine=False)


def seen_through(template: Volume, search: Volume) -> Volume:
    """The template without what the follow-up's field of view leaves out.

    The edge of the view then lies at one place in both, and says nothing of a displacement.
    """
    unseen = np.isnan(search.voxels)
    return replace(template, voxels=np.where(unseen, np.float32(AIR_HU), template.voxels))


def _silent(stage: str, fraction: float) -> None:
    """Progress that nobody watches."""
