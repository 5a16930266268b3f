"""What a lesion embedding learns: to know a lesion again among all else in its pair.

Items are the marks of a pair, and places with a known counterpart (its queries and anchors),
which stand for what a detector finds by mistake. Positives are an item in template and search
crop; all items elsewhere are negatives, lesions that look alike among them. Both papers compare
lesions of many patients; here triplets lie within a pair, since that is what is asked at
inference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from tlt.data.annotated import AnnotatedPair
from tlt.data.pairs import TrainingPair
from tlt.model.lesion_embedding import LesionEmbedding
from tlt.training.lesion_labels import TISSUES, labels_of, tissue_about
from tlt.training.task import PairTask, Terms

ITEMS = 48  # of a pair: always as many, so that one shape keeps the CPU's kernels cached
APART_MM = 8.0  # items that are closer, or within each other's radius, are not told apart
MARGIN = 0.2  # of the squared distances of a triplet
NEAR_MM, LIKE_SIZE = 40.0, 1.5  # what counts as the same location, and as the same size
JITTER_MM, JITTER_SHARE = 1.0, 0.15  # error of a detection's centre, plus a share of the radius
MOST_WEIGHT = 10.0  # of a label that is rarely true
HARD_SHARE = 0.25  # of the labels, in hard example mining
LEAST_MM, MOST_MM = 3.0, 25.0  # radius that an item without a size is given
PLAIN_MM = 8.0  # the same where nothing is drawn
RIGHT_MM = 6.0  # from the truth to the candidate that is right


@dataclass(frozen=True)
class Items:
    """N items of a pair; index 0 of the last axis but one is the template, 1 the search crop.

    Attributes:
        center_mm: (2, N, 3).
        radius_mm: (2, N).
        shown: (2, N) whether it is there and shows.
        marked: (N,) whether it is a mark.
    """

    center_mm: Tensor
    radius_mm: Tensor
    shown: Tensor
    marked: Tensor


class EmbeddingTask(PairTask):
    """Samples and scores of both embeddings; their terms differ."""

    scores = ("val_wrong", "val_right", "val_marks_right", "val_margin")
    criterion = "val_wrong"

    def judge(
        self, network: LesionEmbedding, checks: Sequence[TrainingPair], bf16: bool
    ) -> dict[str, float]:
        """Share of items whose nearest one in the search crop is right, of all and of the marks.

        The margin is the cosine of the right one less that of the best other, on average.
        """
        right, marked, margin = [], [], []
        for pair in checks:
            items = items_of(pair)
            template, search = embed_items(network, pair, items, bf16)
            likeness = (template @ search.mT).masked_fill(~items.shown[1], -2.0)
            truth = items.center_mm[1]
            same = torch.cdist(truth, truth) <= RIGHT_MM
            best = likeness.argmax(1, keepdim=True)
            asked = items.shown.all(0)
            right.append(same.gather(1, best)[asked, 0])
            marked.append(items.marked[asked])
            other = likeness.masked_fill(same, -2.0).amax(1)
            margin.append((likeness.diagonal() - other)[asked])
        hits, marks = torch.cat(right).float(), torch.cat(marked)
        share = float(hits.mean())
        of_marks = float(hits[marks].mean()) if marks.any() else 0.0
        values = (1 - share, share, of_marks, float(torch.cat(margin).mean()))
        return dict(zip(self.scores, values, strict=True))


class LesionGraphTask(EmbeddingTask):
    """Triplets: the same lesion first, then what is alike in type, location and size."""

    weights: ClassVar[Mapping[str, float]] = {"same": 1.0, "alike": 0.3}
    watched = ("right",)

    def terms(self, network: Any, sample: TrainingPair, bf16: bool) -> Terms:
        items = drawn(items_of(sample))
        template, search = embed_items(network, sample, items, bf16)
        level = likeness_levels(sample, items, network.config.spacing_mm)
        distance = squared_distance(template, search)
        return {
            "same": same_loss(distance, items),
            "alike": ranked_triplets(distance, level),
            "right": share_right(distance, items),
        }


class LesaNetTask(EmbeddingTask):
    """Labels by weighted cross-entropy, the hardest of them once more, and triplets."""

    weights: ClassVar[Mapping[str, float]] = {"labels": 1.0, "hard": 1.0, "same": 5.0}
    watched = ("right",)

    def terms(self, network: Any, sample: TrainingPair, bf16: bool) -> Terms:
        items = drawn(items_of(sample))
        template, search = embed_items(network, sample, items, bf16)
        distance = squared_distance(template, search)
        labels = known_labels(sample, items, network.config.spacing_mm)  # 2, N, L
        logits = network.labels(torch.stack([template, search]))
        plain, hard = label_losses(logits[items.shown], labels[items.shown])
        return {
            "labels": plain,
            "hard": hard,
            "same": same_loss(distance, items),
            "right": share_right(distance, items),
        }


def items_of(pair: TrainingPair) -> Items:
    """`ITEMS` items: marks first, then queries that are no marks, then anchors."""
    marks, radius = (pair.marks_mm, pair.marks_truth_mm), pair.marks_radius_mm.T
    radius = torch.where(radius > 0, radius, radius.flip(0))  # of one that is not there yet
    plain = torch.ones(len(pair.centers_mm), dtype=torch.bool, device=radius.device)
    if len(marks[0]):
        plain = torch.cdist(pair.centers_mm, marks[0]).amin(1) > RIGHT_MM
    places = (
        (pair.centers_mm[plain], pair.anchors_mm),
        (pair.truth_mm[plain], pair.anchors_truth_mm),
    )
    center = torch.stack([torch.cat([m, *p]) for m, p in zip(marks, places, strict=True)])
    count, lesions = center.shape[1], len(marks[0])
    sizes = torch.full((2, count), PLAIN_MM, device=radius.device)
    sizes[:, :lesions] = radius
    shown = torch.ones((2, count), dtype=torch.bool, device=radius.device)
    shown[:, :lesions] = pair.marks_seen.T
    marked = torch.arange(count, device=radius.device) < lesions
    # The pair may hold fewer places: then some come twice, which nobody is asked to tell apart.
    chosen = torch.arange(ITEMS, device=radius.device) % count
    return Items(center[:, chosen], sizes[:, chosen], shown[:, chosen], marked[chosen])


def drawn(items: Items) -> Items:
    """The items as a detector would give them: places of all sizes, centres and sizes in error.

    The chance is torch's own, which a checkpoint keeps.
    """
    spread = torch.empty_like(items.radius_mm[0]).uniform_(0, 1)
    free = LEAST_MM * (MOST_MM / LEAST_MM) ** spread
    radius = torch.where(items.marked, items.radius_mm, free)
    error = torch.randn_like(items.center_mm) * (JITTER_MM + JITTER_SHARE * radius / 2)[..., None]
    factor = torch.exp(JITTER_SHARE * torch.randn_like(radius))
    moved = torch.stack([items.center_mm[0], (items.center_mm + error)[1]])
    return Items(moved, torch.stack([radius[0], (radius * factor)[1]]), items.shown, items.marked)


def embed_items(
    network: LesionEmbedding, pair: TrainingPair, items: Items, bf16: bool
) -> tuple[Tensor, Tensor]:
    """Unit vectors (N, E) of the items in the template and in the search crop."""
    crops = ((pair.template, pair.template_origin_mm), (pair.search, pair.search_origin_mm))
    patches = [
        network.patches(image, origin, centers)
        for (image, origin), centers in zip(crops, items.center_mm, strict=True)
    ]
    with torch.autocast(pair.template.device.type, torch.bfloat16, enabled=bf16):
        embedded = network(torch.cat(patches), items.radius_mm.flatten())
    template, search = embedded.chunk(2)
    return template, search


def squared_distance(one: Tensor, other: Tensor) -> Tensor:
    """Squared distances (N, M) of unit vectors (N, E) and (M, E)."""
    return 2 - 2 * one @ other.mT


def apart(items: Items) -> Tensor:
    """Which items (N, N) are surely two: those that do not overlap in the search crop."""
    centers, radius = items.center_mm[1], items.radius_mm[1]
    reach = torch.maximum(radius[:, None], radius[None]).clamp(min=APART_MM)
    return torch.cdist(centers, centers) > reach


def same_loss(distance: Tensor, items: Items) -> Tensor:
    """Triplets of an item, itself in the other crop, and another one there; both ways."""
    asked, others = items.shown.all(0), apart(items)
    both = []
    for way, shown in ((distance, items.shown[1]), (distance.mT, items.shown[0])):
        lost = way.diagonal()[:, None] - way + MARGIN  # N, M
        counted = asked[:, None] & shown & others
        both.append(active_mean(lost, counted))
    return torch.stack(both).mean()


def ranked_triplets(distance: Tensor, level: Tensor) -> Tensor:
    """Triplets of an item with two others, one of a higher level than the other.

    distance, level (N, M); a level below 0 takes no part.
    """
    lost = distance[:, :, None] - distance[:, None, :] + MARGIN  # N, nearer, farther
    ranked = (level[:, :, None] > level[:, None, :]) & (level[:, None, :] >= 0)
    return active_mean(lost, ranked)


def active_mean(lost: Tensor, counted: Tensor) -> Tensor:
    """Mean of the positive ones among those that count; 0 where there is none."""
    lost = lost.clamp(min=0) * counted
    return lost.sum() / (lost > 0).sum().clamp(min=1)


def share_right(distance: Tensor, items: Items) -> Tensor:
    """Share of the items that are nearest to themselves."""
    asked = items.shown.all(0)
    far = distance.detach().masked_fill(~items.shown[1], torch.inf)
    best = far.argmin(1)
    same = ~apart(items)
    right = same.gather(1, best[:, None])[:, 0]
    return right[asked].float().mean()


def tissues_of(pair: TrainingPair, items: Items, spacing_mm: float) -> Tensor:
    """The tissue (2, N) about each item in each crop."""
    crops = ((pair.template, pair.template_origin_mm), (pair.search, pair.search_origin_mm))
    found = [
        tissue_about(image, origin, spacing_mm, items.center_mm[k], items.radius_mm[k])
        for k, (image, origin) in enumerate(crops)
    ]
    return torch.stack(found)


def annotations_of(pair: TrainingPair, items: Items) -> tuple[Tensor, Tensor]:
    """Type (N,) and place (N, 3) of the items as annotated; -1 and NaN where nobody says."""
    kind = torch.full_like(items.marked, -1, dtype=torch.long)
    place = torch.full_like(items.center_mm[0], torch.nan)
    if isinstance(pair, AnnotatedPair):
        count = min(len(pair.marks_type), ITEMS)
        kind[:count], place[:count] = pair.marks_type[:count], pair.marks_place[:count]
    return kind, place


def likeness_levels(pair: TrainingPair, items: Items, spacing_mm: float) -> Tensor:
    """How alike two items (N, N) of template and search crop are; -1 where that is not asked.

    0: of another type (where none is annotated, in another tissue); 1: the type is the same; 2: and
    the location; 3: and the size.
    """
    tissue = tissues_of(pair, items, spacing_mm)
    kind, _ = annotations_of(pair, items)
    kind = torch.where(kind < 0, tissue, kind + len(TISSUES))
    type_alike = kind[0][:, None] == kind[1][None]
    near = torch.cdist(items.center_mm[0], items.center_mm[1]) < NEAR_MM
    log_size = items.radius_mm.log()
    size_alike = (log_size[0][:, None] - log_size[1][None]).abs() < math.log(LIKE_SIZE)
    level = type_alike.long()
    level = level + (type_alike & near) + (type_alike & near & size_alike)
    asked = items.shown[0][:, None] & items.shown[1][None] & apart(items)
    return torch.where(asked, level, -1)


def known_labels(pair: TrainingPair, items: Items, spacing_mm: float) -> Tensor:
    """Labels (2, N, L) of the items in both crops; NaN where nobody knows."""
    kind, place = annotations_of(pair, items)
    tissue = tissues_of(pair, items, spacing_mm)
    return torch.stack([labels_of(tissue[k], items.radius_mm[k], kind, place) for k in (0, 1)])


def label_losses(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted cross-entropy of labels (N, L), NaN unknown, and the mean of its hardest share.

    A label counts as much where it is true as where it is false, over the items at hand.
    """
    known = ~labels.isnan()
    truth = labels.nan_to_num(0.0)
    plain = F.binary_cross_entropy_with_logits(logits.float(), truth, reduction="none")
    true, false = ((truth == v) & known for v in (1, 0))
    rare = false.sum(0) / true.sum(0).clamp(min=1)
    weighted = plain * torch.where(true, rare.clamp(1, MOST_WEIGHT), 1.0)
    hard = plain[known].sort(descending=True).values
    hard = hard[: max(1, int(HARD_SHARE * len(hard)))]
    return weighted[known].mean(), hard.mean()
