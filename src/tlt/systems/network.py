"""A network on whole CTs: features of both images once a pair, then its answer for each lesion.

Any network will do that encodes an image (``encode``) and maps the token maps of template and
search image, with the lesions' places and radii, to a `Prediction`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from tlt.model.network import Prediction, TokenMap
from tlt.model.weights import LoadedModel, inference_network, precision_on, tensor_on
from tlt.systems.base import AlignedPair, Location, Progress
from tlt.systems.tiles import tiled
from tlt.volume import AIR_HU, Volume

# Centres (Q, 3) and evidence of Q lesions, from their prediction, priors and radii.
Finish = Callable[[Prediction, Tensor, Tensor], tuple[Tensor, list[dict[str, float]]]]

LESIONS_AT_ONCE = 8
NEAR_MM, ELSEWHERE_MM = 12.0, 16.0


class NetworkSystem:
    """A network with its weights: ``--tracker siamrpn``, ``dlt``, ``transt`` and others."""

    name = "network"

    def __init__(
        self,
        model: LoadedModel,
        device: str = "cpu",
        bf16: bool = False,
        around_mm: float = 0.0,
    ) -> None:
        """``around_mm`` is how far from a prior the features are wanted, if beyond the search."""
        self.model_name: str | None = model.name
        self.weights_sha256: str | None = model.sha256
        self.config = model.network.config
        self.spacing_mm = self.config.spacing_mm
        reach_mm = max(self.config.features_reach_mm, around_mm)
        halo_mm = self.config.halo * self.config.spacing_mm
        self.margin_mm = reach_mm + self.config.token_mm + halo_mm
        self.network = inference_network(model.network, bf16).to(device)
        self.device, self.bf16 = device, bf16

    @torch.inference_mode()
    def locate(self, pair: AlignedPair, progress: Progress | None = None) -> list[Location]:
        """The network's prediction for each lesion, and what is made of it."""
        report = progress or silent
        template, search = self.token_maps(pair, report)
        finish = self.finish(pair, template, search)
        located: list[Location] = []
        centers, radii = (
            tensor_on(pair.prior_mm, self.device),
            tensor_on(pair.radius_mm, self.device),
        )
        for place, radius in zip(
            centers.split(LESIONS_AT_ONCE), radii.split(LESIONS_AT_ONCE), strict=True
        ):
            with precision_on(self.device, self.bf16):
                predicted = self.network(template, search, place, radius)
            there, evidence = finish(predicted, place, radius)
            located += map(Location, there.double().cpu().numpy(), evidence)
            report("find lesions", len(located) / len(centers))
        return located

    def finish(self, pair: AlignedPair, template: TokenMap, search: TokenMap) -> Finish:
        """What makes answers of predictions: here they are taken as they are."""
        return lambda predicted, place, radius: (predicted.center_mm, evidence_of(predicted))

    def token_maps(
        self, pair: AlignedPair, progress: Progress | None = None
    ) -> tuple[TokenMap, TokenMap]:
        """Features of the template and of the search image."""
        report = progress or silent
        search = self.token_map(pair.search, lambda done: report("follow-up features", done))
        template = self.token_map(
            seen_through(pair.template, pair.search),
            lambda done: report("baseline features", done),
        )
        return template, search

    def token_map(self, volume: Volume, progress=None) -> TokenMap:
        """Features of a whole volume, tile by tile along z; each tile sees its whole halo."""
        config = self.config
        token = round(config.token_mm / config.spacing_mm)  # voxels between tokens
        features = tiled(volume, self._encode, token, config.stride, config.halo, progress)
        return TokenMap(features, tensor_on(volume.grid.origin_mm, self.device), config.token_mm)

    def _encode(self, image: Tensor) -> Tensor:
        """Features (C, d, h, w), float32, of a tile (1, 1, D, H, W)."""
        image = image.to(self.device).contiguous(memory_format=torch.channels_last_3d)
        with precision_on(self.device, self.bf16):
            return self.network.encode(image)[0].float()


def evidence_of(predicted: Prediction) -> list[dict[str, float]]:
    """What speaks for each centre, from the logits of the search tokens.

    ``peak``, the share of their softmax within 12 mm of the centre; ``spread_mm`` of the centres
    that they regress; ``best`` logit; ``margin`` over the best that lies 16 mm off or more.
    """
    logits, center = predicted.logits, predicted.center_mm[:, None]
    share = logits.softmax(-1)
    distance = (predicted.positions_mm - center).norm(dim=-1)
    peak = (share * (distance < NEAR_MM)).sum(-1)
    spread = (share * (predicted.centers_mm - center).square().sum(-1)).sum(-1).sqrt()
    best = logits.amax(-1)
    elsewhere = logits.masked_fill(distance < ELSEWHERE_MM, -torch.inf).amax(-1)
    margin = (best - elsewhere).clamp(max=30)  # nothing may lie elsewhere
    values = torch.stack([peak, spread, best, margin], -1)
    names = ("peak", "spread_mm", "best", "margin")
    return [dict(zip(names, row, strict=True)) for row in values.tolist()]


def seen_through(template: Volume, search: Volume) -> Volume:
    """The template without what the follow-up's field of view leaves out.

    The edge of the view then lies at one place in both, and says nothing of a displacement.
    """
    unseen = np.isnan(search.voxels)
    return replace(template, voxels=np.where(unseen, np.float32(AIR_HU), template.voxels))


def silent(stage: str, fraction: float) -> None:
    """Progress that nobody watches."""
