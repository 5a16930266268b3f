"""The Transformer Lesion Tracker on whole CTs, and its last step by the tissue about a lesion.

The search image's features are computed once for all lesions of a pair, the template's likewise,
only as far as lesions and receptive field reach; each further lesion costs the transformer alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from tlt.model.network import Prediction, TokenMap
from tlt.model.weights import LoadedModel, inference_network, load_weights
from tlt.systems.base import AlignedPair, Location, Progress
from tlt.systems.local_motion import (
    FINE_TOKENS,
    PATCH_ROUNDS,
    TOKENS,
    LocalMotion,
    embedding_map,
    fit_local_motion,
    patch_matches,
    token_matches,
)
from tlt.volume import AIR_HU, Volume

LESIONS_AT_ONCE = 8
TILE_VOXELS = 3_000_000


@dataclass(frozen=True)
class Maps:
    """All that the network computes once for an image.

    Attributes:
        tokens: features, for the transformer.
        fine: the fine embedding; None where the preset has none.
    """

    tokens: TokenMap
    fine: TokenMap | None


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
        around_mm = TOKENS.near_mm + TOKENS.reach_mm if refine else 0.0
        reach_mm = max(self.config.search_reach_mm, around_mm)
        halo_mm = self.config.halo * self.config.spacing_mm
        self.margin_mm = reach_mm + self.config.token_mm + halo_mm
        self.network = inference_network(model.network, bf16).to(device)
        self.device, self.bf16 = device, bf16
        self.refine = refine  # the last step: ours, not the paper's

    @staticmethod
    def load(name: str, device: str, bf16: bool, refine: bool = True) -> TLTSystem:
        """The system with shipped or given weights (`tlt.model.weights.load_weights`)."""
        return TLTSystem(load_weights(name), device, bf16, refine)

    @torch.inference_mode()
    def locate(self, pair: AlignedPair, progress: Progress | None = None) -> list[Location]:
        """Network prediction and, with ``refine``, the last step for each lesion."""
        report = progress or _silent
        search = self.maps(pair.search, lambda done: report("follow-up features", done))
        template = self.maps(
            seen_through(pair.template, pair.search),
            lambda done: report("baseline features", done),
        )
        levels = self._levels(template, search) if self.refine else []
        located: list[Location] = []
        count = len(pair.prior_mm)
        for start in range(0, count, LESIONS_AT_ONCE):
            part = slice(start, start + LESIONS_AT_ONCE)
            centers, radii = (self._tensor(v[part]) for v in (pair.prior_mm, pair.radius_mm))
            predicted = self.network(template.tokens, search.tokens, centers, radii)
            for index in range(len(centers)):
                evidence = self._evidence(predicted, index)
                shift = predicted.center_mm[index] - centers[index]
                motion = LocalMotion.constant(centers[index], shift)
                if self.refine:
                    motion = self._refined(pair, motion, levels, evidence)
                located.append(Location(motion.moved_mm.double().cpu().numpy(), evidence))
                report("find lesions", len(located) / count)
        return located

    def maps(self, volume: Volume, progress=None) -> Maps:
        """Features of a whole volume, tile by tile along z; each tile sees its whole halo."""
        step, halo = self.config.stride, self.config.halo
        halo += -halo % step + step  # between two tokens the fine embedding needs both
        depth, height, width = volume.voxels.shape
        thick = max(step, int(TILE_VOXELS / (height * width)) // step * step)
        tiles: list[list[Tensor]] = [[], []]
        for start in range(0, depth, thick):
            low, high = max(0, start - halo), min(depth, start + thick + halo)
            part = np.nan_to_num(volume.voxels[low:high], nan=AIR_HU)
            image = torch.from_numpy(part)[None, None].to(self.device)
            for kept, features, stride in zip(
                tiles, self._encode(image), (step, step // 2), strict=True
            ):
                if features is not None:
                    first = (start - low) // stride
                    count = -(-min(thick, depth - start) // stride)
                    kept.append(features[:, first : first + count])
            if progress is not None:
                progress(min(1.0, (start + thick) / depth))
        origin, token_mm = self._tensor(volume.grid.origin_mm), self.config.token_mm
        coarse, fine = tiles
        return Maps(
            TokenMap(torch.cat(coarse, 1), origin, token_mm),
            TokenMap(torch.cat(fine, 1), origin, token_mm / 2) if fine else None,
        )

    def _encode(self, image: Tensor) -> list[Tensor | None]:
        """Features (C, d, h, w) and fine embedding, float32, of a tile (1, 1, D, H, W)."""
        image = image.contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=self.bf16):
            encoded = self.network.encode(image)
        return [None if part is None else part[0].float() for part in encoded]

    def _levels(self, template: Maps, search: Maps) -> list[tuple[TokenMap, TokenMap]]:
        """Embeddings of both images that tissue is matched by, the coarser first."""
        levels = []
        if self.config.similarity:
            levels.append(
                (
                    embedding_map(self.network, template.tokens),
                    embedding_map(self.network, search.tokens),
                )
            )
        if template.fine is not None and search.fine is not None:
            levels.append((template.fine, search.fine))
        return levels

    def _refined(
        self,
        pair: AlignedPair,
        predicted: LocalMotion,
        levels: list[tuple[TokenMap, TokenMap]],
        evidence: dict[str, float],
    ) -> LocalMotion:
        """What the tissue about a lesion makes of the network's answer; adds to the evidence."""
        motion = predicted
        # The first round looks about the prior: a network that errs must not lead it astray.
        expected = LocalMotion.constant(motion.center_mm, torch.zeros_like(motion.shift_mm))
        for maps, near in zip(levels, (TOKENS, FINE_TOKENS), strict=False):
            motion = fit_local_motion(token_matches(*maps, expected, near), motion, near)
            expected = motion
        evidence["tissue_mm"] = motion.spread_mm
        for near, step in PATCH_ROUNDS:
            matches = patch_matches(pair, motion, near, step)
            motion = fit_local_motion(matches, motion, near)
        pulled = motion.shift_mm - predicted.shift_mm
        evidence |= {
            "patches_mm": motion.spread_mm,
            "pulled_mm": float(pulled.norm()),
            "correlation": float(matches.weight[0].sqrt()),
        }
        return motion

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


def seen_through(template: Volume, search: Volume) -> Volume:
    """The template without what the follow-up's field of view leaves out.

    The edge of the view then lies at one place in both, and says nothing of a displacement.
    """
    unseen = np.isnan(search.voxels)
    return replace(template, voxels=np.where(unseen, np.float32(AIR_HU), template.voxels))


def _silent(stage: str, fraction: float) -> None:
    """Progress that nobody watches."""
