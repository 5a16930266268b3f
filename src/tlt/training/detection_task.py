"""What a detector learns: where the marks of both crops lie, and how large they are.

Marks are the lesions that were painted or annotated, those that a CT is known to hold, and what was
painted to look like one (`tlt.data.pairs.TrainingPair`). A mark at the edge of the view is neither
a lesion nor background.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tlt.data.pairs import TrainingPair
from tlt.model.detection import Detector
from tlt.model.detections import Detections, faces_of
from tlt.model.losses import focal_loss
from tlt.model.network import TokenMap
from tlt.training.lesion_labels import TISSUES, tissue_about
from tlt.training.task import PairTask, Terms

CORE = 0.5  # share of a lesion's radius in which its faces are regressed
PEAK = 0.35  # of the radius: sigma of the Gaussian about a centre on the heat map
LEAST_PEAK_MM = 2.5
FALSE_POSITIVES = (1, 4)  # a crop, at which sensitivity is told
LEAST_HIT_MM = 3.0
RELATED = 0.05  # heat from which on a place belongs to a labelled lesion
TISSUES_OF = {name: index for index, name in enumerate(TISSUES)}  # heads that see one kind only


@dataclass(frozen=True)
class Marked:
    """The marks of one crop.

    Attributes:
        center_mm: (P, 3).
        radius_mm: (P,).
        seen: (P,) whether it shows as a whole; what does not is left out of the loss.
        kind: (P,) index in `TISSUES` of what lies about it.
    """

    center_mm: Tensor
    radius_mm: Tensor
    seen: Tensor
    kind: Tensor


@dataclass(frozen=True)
class Targets:
    """What one head is to say at N places.

    Attributes:
        heat: (N,) 1 at the place nearest a lesion's centre, a Gaussian about it.
        counts: (N,) whether the heat map is taught there.
        faces_mm: (M, 6) distances to the faces of the lesion at hand, at M places.
        core: (M,) indices of those places.
        weight: (M,) summing to 1 over each lesion.
        lesions: how many there are.
    """

    heat: Tensor
    counts: Tensor
    faces_mm: Tensor
    core: Tensor
    weight: Tensor
    lesions: int


class DetectionTask(PairTask):
    """Focal loss on the centres' heat maps, L1 in mm on the distances to the faces."""

    weights: ClassVar[Mapping[str, float]] = {"heat": 1.0, "faces": 0.2}
    watched = ("lesions",)
    scores = ("val_missed", "val_sensitivity_1", "val_sensitivity_4", "val_center_mm")
    criterion = "val_missed"

    def terms(self, network: Detector, sample: TrainingPair, bf16: bool) -> Terms:
        heat, faces = outputs(network, sample, bf16)
        config = network.config
        lost, off, taught, lesions = [], [], 0, 0
        for crop, places in enumerate(places_of(sample, network, heat)):
            marked = marks_of(sample, crop, config.spacing_mm)
            whole = targets_of(places, marked, config.head_mm)
            mined = missing_labels(network, heat[crop]) & (whole.heat < RELATED)
            for source, name in enumerate(config.sources):
                kind = TISSUES_OF.get(name)
                one = whole if kind is None else targets_of(places, marked, config.head_mm, kind)
                counts = one.counts & ~mined if kind is None else one.counts
                logits = heat[crop, source].flatten()[counts]
                lost.append(focal_loss(logits[None], one.heat[counts][None], beta=4.0))
                taught += one.lesions
            said = faces[crop].flatten(1)[:, whole.core].mT
            lesions += whole.lesions
            off.append(((said - whole.faces_mm).abs().mean(1) * whole.weight).sum())
        return {
            "heat": torch.stack(lost).sum() / max(1, taught),
            "faces": torch.stack(off).sum() / max(1, lesions),
            "lesions": heat.new_tensor(float(lesions)),
        }

    def judge(
        self, network: Detector, checks: Sequence[TrainingPair], bf16: bool
    ) -> dict[str, float]:
        """Sensitivity at one and at four false positives a crop, error in mm of what is found."""
        found, marked = [], []
        for pair in checks:
            heat, faces = outputs(network, pair, bf16)
            for crop, origin in enumerate(origins_of(pair)):
                found.append(network.detections(heat[crop], faces[crop], origin))
                marked.append(marks_of(pair, crop, network.config.spacing_mm))
        few, many = (sensitivity(found, marked, count) for count in FALSE_POSITIVES)
        values = (1 - many[0], few[0], many[0], many[1])
        return dict(zip(self.scores, values, strict=True))


def outputs(network: Detector, pair: TrainingPair, bf16: bool) -> tuple[Tensor, Tensor]:
    """Heat maps (2, S, d, h, w) and faces of template and search crop."""
    images = torch.stack([pair.template, pair.search]).contiguous(
        memory_format=torch.channels_last_3d
    )
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
        return network(images)


def origins_of(pair: TrainingPair) -> tuple[Tensor, Tensor]:
    """Where the first voxels of template and search crop lie."""
    return pair.template_origin_mm, pair.search_origin_mm


def places_of(pair: TrainingPair, network: Detector, heat: Tensor) -> list[Tensor]:
    """The places (N, 3) of both crops' heat maps in mm."""
    return [
        TokenMap(one, origin, network.config.head_mm).positions_mm()
        for one, origin in zip(heat, origins_of(pair), strict=True)
    ]


def marks_of(pair: TrainingPair, crop: int, spacing_mm: float) -> Marked:
    """The marks of the template (0) or of the search crop (1)."""
    centers = (pair.marks_mm, pair.marks_truth_mm)[crop]
    image = (pair.template, pair.search)[crop]
    radius = pair.marks_radius_mm[:, crop]
    there = radius > 0
    centers, radius, seen = centers[there], radius[there], pair.marks_seen[there, crop]
    kind = tissue_about(image, origins_of(pair)[crop], spacing_mm, centers, radius)
    return Marked(centers, radius, seen, kind)


def targets_of(
    places_mm: Tensor, marked: Marked, token_mm: float, kind: int | None = None
) -> Targets:
    """What a head is to say at places (N, 3); one of a ``kind`` knows no other lesions.

    Every place belongs to the lesion that it is deepest in, by share of the radius.
    """
    mine = marked.seen if kind is None else marked.seen & (marked.kind == kind)
    heat = places_mm.new_zeros(len(places_mm))
    counts = torch.ones(len(places_mm), dtype=torch.bool, device=places_mm.device)
    for center, radius in zip(
        marked.center_mm[~marked.seen], marked.radius_mm[~marked.seen], strict=True
    ):
        counts &= (places_mm - center).norm(dim=1) > radius + token_mm
    centers, radii = marked.center_mm[mine], marked.radius_mm[mine]
    if not len(centers):
        nothing = torch.zeros(0, dtype=torch.long, device=places_mm.device)
        return Targets(heat, counts, places_mm.new_zeros((0, 6)), nothing, heat[:0], 0)
    distance = torch.cdist(places_mm, centers)  # N, P
    sigma = (PEAK * radii).clamp(min=LEAST_PEAK_MM)
    heat = torch.exp(-distance.square() / (2 * sigma.square())).amax(1).clamp(max=0.999)
    nearest = distance.argmin(0)
    heat[nearest] = 1.0
    counts[nearest] = True
    depth = distance / (CORE * radii).clamp(min=0.6 * token_mm)
    depth[nearest, torch.arange(len(radii), device=depth.device)] = 0.0
    share, owner = depth.min(1)
    core = (share <= 1).nonzero()[:, 0]
    owner = owner[core]
    half = radii[owner][:, None].expand(-1, 3)
    faces = faces_of(centers[owner], half, places_mm[core])
    weight = 1 / torch.bincount(owner, minlength=len(radii))[owner].float()
    return Targets(heat, counts, faces, core, weight, len(radii))


def missing_labels(network: Detector, heat: Tensor) -> Tensor:
    """Places (N,) where a head of one kind is confident: maybe a lesion that nobody labelled."""
    if not network.mines:
        return torch.zeros(heat[0].numel(), dtype=torch.bool, device=heat.device)
    return (heat[1:].detach().sigmoid().amax(0) > network.config.mine_from).flatten()


def sensitivity(
    found: Sequence[Detections], marked: Sequence[Marked], false_positives: float
) -> tuple[float, float]:
    """Share of marks found at so many false positives an image, and their mean error in mm.

    A mark is found by a candidate within its radius, at most 10 and at least 3 mm, of its centre;
    the errors are those of the nearest one. Candidates at marks that do not show as a whole, or
    at one that another has found, are neither right nor wrong.
    """
    both = list(zip(found, marked, strict=True))
    wrong = torch.cat([one.score[~_at(one, marks, None).any(1)] for one, marks in both])
    allowed = int(false_positives * len(found))
    least = 0.0
    if len(wrong) > allowed:
        least = float(wrong.sort(descending=True).values[allowed])
    hits, errors, count = 0, [], 0
    for one, marks in both:
        at = _at(one, marks, marks.seen) & (one.score > least)[:, None]
        hit = at.any(0)
        hits, count = hits + int(hit.sum()), count + at.shape[1]
        if hit.any():
            distance = torch.cdist(one.center_mm, marks.center_mm[marks.seen])
            errors.append(distance.where(at, distance.new_tensor(torch.inf)).amin(0)[hit])
    if not count:
        return 0.0, 0.0
    return hits / count, float(torch.cat(errors).mean()) if errors else 0.0


def _at(found: Detections, marked: Marked, which: Tensor | None) -> Tensor:
    """Whether candidates (N,) lie at marks (P,): (N, P)."""
    centers, radii = marked.center_mm, marked.radius_mm
    if which is not None:
        centers, radii = centers[which], radii[which]
    return torch.cdist(found.center_mm, centers) <= radii.clamp(LEAST_HIT_MM, 10.0)
