"""The Transformer Lesion Tracker on whole CTs, and its last step by the tissue about a lesion.

The search image's features are computed once for all lesions of a pair, the template's likewise,
only as far as lesions and receptive field reach; each further lesion costs the transformer and the
last step.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from tlt.model.network import Prediction, TokenMap
from tlt.model.weights import LoadedModel, inference_network
from tlt.systems.base import AlignedPair, Location, Progress
from tlt.systems.last_step import LastStep
from tlt.systems.token_matching import TOKENS_NEAR_MM, TOKENS_REACH_MM
from tlt.threads import one_thread, use_one_thread
from tlt.volume import AIR_HU, Volume

LESIONS_AT_ONCE = 8
TILE_VOXELS = 16_000_000


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
        last_step = LastStep.of(pair, self.network, template, search) if self.refine else None
        located: list[Location] = []
        centers, radii = self._tensor(pair.prior_mm), self._tensor(pair.radius_mm)
        for place, radius in zip(
            centers.split(LESIONS_AT_ONCE), radii.split(LESIONS_AT_ONCE), strict=True
        ):
            with self._precision():
                predicted = self.network(template, search, place, radius)
            if last_step is None:
                answers = predicted.center_mm, self._evidence(predicted)
            else:
                answers = _on_all_cores(last_step, place, predicted.center_mm, radius)
            for moved, evidence in zip(answers[0].double().cpu().numpy(), answers[1], strict=True):
                located.append(Location(moved, evidence))
            report("find lesions", len(located) / len(centers))
        return located

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
        with self._precision():
            return self.network.encode(image)[0].float()

    def _precision(self) -> torch.autocast:
        """What the network computes in."""
        return torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=self.bf16)

    @staticmethod
    def _evidence(predicted: Prediction) -> list[dict[str, float]]:
        """Share of the softmax within 12 mm of a centre, and spread of the regressed centres."""
        share = predicted.logits.softmax(-1)  # Q, N
        center = predicted.center_mm[:, None]
        near = (predicted.positions_mm - center).norm(dim=-1) < 12.0
        offset2 = (predicted.centers_mm - center).square().sum(-1)
        peak, spread = (share * near).sum(-1), (share * offset2).sum(-1).sqrt()
        pairs = zip(peak.tolist(), spread.tolist(), strict=True)
        return [{"peak": peak, "spread_mm": spread} for peak, spread in pairs]

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


def _on_all_cores(last_step: LastStep, *lesions: Tensor) -> tuple[Tensor, list[dict[str, float]]]:
    """The last step with an equal share of the lesions (Q, ...) on each core."""
    share = -(-len(lesions[0]) // (os.cpu_count() or 1))

    @torch.inference_mode()  # a mode is a thread's own
    def refined(*part: Tensor) -> tuple[Tensor, list[dict[str, float]]]:
        return last_step(*part)

    with one_thread(), ThreadPoolExecutor(os.cpu_count(), initializer=use_one_thread) as pool:
        parts = list(pool.map(refined, *(values.split(share) for values in lesions)))
    return torch.cat([moved for moved, _ in parts]), [row for _, rows in parts for row in rows]


def _silent(stage: str, fraction: float) -> None:
    """Progress that nobody watches."""
