"""Lesion candidates: dense outputs decoded into boxes, and boxes merged.

Anchor-free: a token says how likely a lesion's centre lies at it, and how far from it the lesion's
six faces are. Everything is in millimetres, axes in the order (x, y, z).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

CANDIDATES = 300  # peaks of one heat map that are decoded
LEAST_HALF_MM = 1.0  # of a decoded box: a face that is regressed beyond its opposite has no lesion


@dataclass(frozen=True)
class Detections:
    """N candidates, the most likely first.

    Attributes:
        center_mm: (N, 3) middle of the box.
        half_mm: (N, 3) half its sides.
        score: (N,) in [0, 1].
    """

    center_mm: Tensor
    half_mm: Tensor
    score: Tensor

    def __len__(self) -> int:
        return len(self.score)

    def __getitem__(self, which) -> Detections:
        return Detections(self.center_mm[which], self.half_mm[which], self.score[which])

    @property
    def radius_mm(self) -> Tensor:
        """(N,) of the ball that is as large as the box is on average."""
        return self.half_mm.mean(-1)

    @staticmethod
    def joined(parts: list[Detections]) -> Detections:
        """All of them, the most likely first (of equals, those of the first part)."""
        whole = Detections(
            *(torch.cat([getattr(p, name) for p in parts]) for name in Detections.__annotations__)
        )
        return whole[whole.score.sort(descending=True, stable=True).indices]


def faces_of(center_mm: Tensor, half_mm: Tensor, positions_mm: Tensor) -> Tensor:
    """Distances (..., 6) from positions to a box's faces: low x, y, z, then high x, y, z.

    They are negative where the position lies beyond the face.
    """
    offset = center_mm - positions_mm
    return torch.cat([half_mm - offset, half_mm + offset], -1)


def box_of(faces_mm: Tensor, positions_mm: Tensor) -> tuple[Tensor, Tensor]:
    """Middle and half sides (..., 3) of the box that positions see at these distances."""
    low, high = faces_mm[..., :3], faces_mm[..., 3:]
    return positions_mm + (high - low) / 2, ((high + low) / 2).clamp(min=LEAST_HALF_MM)


def decode(
    heat: Tensor, faces_mm: Tensor, origin_mm: Tensor, token_mm: float, least: float
) -> Detections:
    """The peaks of a heat map (d, h, w) of logits, as likely as ``least`` or more.

    faces_mm (6, d, h, w) as `faces_of`. A peak is no less than its 26 neighbours.
    """
    peak = heat == F.max_pool3d(heat[None, None], 3, 1, 1)[0, 0]
    score = torch.where(peak, heat.sigmoid(), -1.0).flatten()
    best = score.sort(descending=True, stable=True)
    kept = best.indices[:CANDIDATES][best.values[:CANDIDATES] >= least]
    _, height, width = heat.shape
    index = torch.stack([kept % width, kept // width % height, kept // (width * height)], -1)
    positions = origin_mm + index * token_mm
    return Detections(*box_of(faces_mm.flatten(1)[:, kept].mT, positions), score[kept])


def overlap(center_mm: Tensor, half_mm: Tensor, of: Detections) -> Tensor:
    """Intersection over union (N,) of one box, centre (3,) and half (3,), with N others."""
    low = torch.maximum(center_mm - half_mm, of.center_mm - of.half_mm)
    high = torch.minimum(center_mm + half_mm, of.center_mm + of.half_mm)
    common = (high - low).clamp(min=0).prod(-1)
    return common / ((2 * half_mm).prod() + (2 * of.half_mm).prod(-1) - common)


def suppressed(found: Detections, most: float) -> tuple[Detections, list[Tensor]]:
    """Non-maximum suppression: the kept ones, and for each the indices of those it stands for.

    Of two that overlap by more than ``most`` the less likely goes; ``found`` is in order.
    """
    left = torch.ones(len(found), dtype=torch.bool, device=found.score.device)
    kept, groups = [], []
    for index in range(len(found)):
        if not left[index]:
            continue
        same = overlap(found.center_mm[index], found.half_mm[index], found) > most
        same[index] = True
        groups.append((same & left).nonzero()[:, 0])
        kept.append(index)
        left &= ~same
    return found[torch.tensor(kept, dtype=torch.long)], groups


def fused(found: Detections, most: float) -> Detections:
    """Proposal fusion: each kept box is the mean of those it stands for, by their scores.

    Its score is that of the most likely.
    """
    kept, groups = suppressed(found, most)
    if not len(kept):
        return kept
    means = []
    for group in groups:
        share = (found.score[group] / found.score[group].sum())[:, None]
        part = found[group]
        means.append(((share * part.center_mm).sum(0), (share * part.half_mm).sum(0)))
    center, half = (torch.stack(values) for values in zip(*means, strict=True))
    return Detections(center, half, kept.score)
