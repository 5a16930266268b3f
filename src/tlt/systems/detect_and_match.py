"""Detector and similarity: ``lens-lesiongraph``, ``vuld-lesiongraph`` and the two with LesaNet.

As Cai et al. (DLT, CVPR 2021) ran them, and Table 1 repeats: every lesion candidate of the
follow-up is detected, candidates and template lesions are embedded, and a lesion is where the
candidate nearest to it in the embedding is. The whole follow-up is searched, with no regard to
where registration puts the lesion.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tlt.errors import ModelError
from tlt.model.detections import Detections
from tlt.model.weights import LoadedModel, inference_network, precision_on, tensor_on
from tlt.systems.base import WHOLE_MM, AlignedPair, Location, Progress
from tlt.systems.network import seen_through
from tlt.systems.tiles import tiled
from tlt.volume import AIR_HU, Volume

NOTHING_ELSE = -1.0  # cosine of the second best candidate where there is one alone


class DetectAndMatch:
    """A detector and an embedding with their weights; both models are called by turns."""

    name = "detect-and-match"

    def __init__(
        self,
        detector: LoadedModel,
        embedding: LoadedModel,
        device: str = "cpu",
        bf16: bool = False,
    ) -> None:
        """Raises ModelError where the two networks want voxels of different sizes."""
        voxels = [model.network.config.spacing_mm for model in (detector, embedding)]
        if voxels[0] != voxels[1]:
            raise ModelError(
                f"{detector.name} was trained on voxels of {voxels[0]} mm, {embedding.name} on "
                f"{voxels[1]} mm; give two networks of one voxel size"
            )
        self.model_name: str | None = f"{detector.name},{embedding.name}"
        self.weights_sha256: str | None = f"{detector.sha256},{embedding.sha256}"
        self.spacing_mm = voxels[0]
        self.margin_mm = WHOLE_MM
        self.detector = inference_network(detector.network, bf16).to(device)
        self.embedding = inference_network(embedding.network, bf16).to(device)
        self.device, self.bf16 = device, bf16

    @torch.inference_mode()
    def locate(self, pair: AlignedPair, progress: Progress | None = None) -> list[Location]:
        """The most similar candidate of each lesion; its prior where there is no candidate."""

        def report(stage: str, done: float) -> None:
            if progress is not None:
                progress(stage, done)

        found = self.detect(pair.search, lambda done: report("detect lesions", done))
        if not len(found):
            return [Location(prior, _evidence(0.0, 0.0, 0.0)) for prior in pair.prior_mm]
        report("compare lesions", 0.0)
        prior = tensor_on(pair.prior_mm, self.device)
        lesions = self.embed(
            seen_through(pair.template, pair.search), prior, tensor_on(pair.radius_mm, self.device)
        )
        likeness = lesions @ self.embed(pair.search, found.center_mm, found.radius_mm).mT
        located = [_answer(found, row) for row in likeness]
        report("compare lesions", 1.0)
        return located

    @torch.inference_mode()
    def detect(self, volume: Volume, progress: Callable[[float], None] | None = None) -> Detections:
        """All candidates in what a volume shows; it has the detector's spacing."""
        config = self.detector.config

        def encode(image: Tensor) -> Tensor:
            image = image.to(self.device).contiguous(memory_format=torch.channels_last_3d)
            with precision_on(self.device, self.bf16):
                heat, faces = self.detector(image)
            return torch.cat([heat[0], faces[0]])

        said = tiled(volume, encode, config.head_stride, config.stride, config.halo, progress)
        sources, step = len(config.sources), config.head_stride
        unseen = torch.from_numpy(np.isnan(volume.voxels[::step, ::step, ::step]))
        said[:sources, unseen] = -torch.inf  # where nobody looked nothing was found
        origin = tensor_on(volume.grid.origin_mm, self.device)
        found = self.detector.detections(said[:sources], said[sources:], origin)
        return found[torch.from_numpy(shown(volume, found.center_mm.cpu().numpy()))]

    def embed(self, volume: Volume, centers_mm: Tensor, radius_mm: Tensor) -> Tensor:
        """Unit vectors (N, E) of lesions (N, 3) of a volume, float32."""
        image = tensor_on(np.nan_to_num(volume.voxels, nan=AIR_HU), self.device)[None]
        origin = tensor_on(volume.grid.origin_mm, self.device)
        with precision_on(self.device, self.bf16):
            return self.embedding.embedded(image, origin, centers_mm, radius_mm)


def shown(volume: Volume, points_mm: np.ndarray) -> NDArray[np.bool_]:
    """Whether points (N, 3) lie in a voxel that the volume shows (not NaN)."""
    index = np.rint(volume.grid.mm_to_index(points_mm)).astype(int)
    last = np.array(volume.grid.shape_zyx) - 1
    inside = np.all((index >= 0) & (index <= last), axis=1)
    return inside & ~np.isnan(volume.voxels[tuple(np.clip(index, 0, last).T)])


def _answer(found: Detections, likeness: Tensor) -> Location:
    """The candidate that is most like a lesion, by the cosines (N,) of all candidates."""
    best = int(likeness.argmax())
    others = torch.cat([likeness[:best], likeness[best + 1 :], likeness.new_tensor([NOTHING_ELSE])])
    second = max(float(others.max()), NOTHING_ELSE)
    own = float(likeness[best])
    center = found.center_mm[best].double().cpu().numpy()
    return Location(center, _evidence(own, own - second, float(found.score[best])))


def _evidence(likeness: float, margin: float, score: float) -> dict[str, float]:
    """What the confidence rests on; all 0 where nothing was detected.

    Cosine of the lesion and its candidate, less that of the second best, the detector's score.
    """
    return {"likeness": likeness, "likeness_margin": margin, "detection_score": score}
