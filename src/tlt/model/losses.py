"""The training losses: those of the paper (Eq. 4, 5), and two that make a CPU schedule learn."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tlt.model.sparse_selection import gaussian

CONTRAST_SCALE = 16.0  # inverse temperature of the embedding's similarities, training and after


def gaussian_labels(positions_mm: Tensor, centers_mm: Tensor, radius_mm: Tensor) -> Tensor:
    """Y (Q, N): the Gaussian of Eq. 1 at the tokens (Q, N, 3), min-max normalised a lesion."""
    label = gaussian(positions_mm - centers_mm[:, None], radius_mm)
    low, high = label.amin(1, keepdim=True), label.amax(1, keepdim=True)
    return (label - low) / (high - low).clamp(min=1e-6)


def focal_loss(logits: Tensor, labels: Tensor, alpha: float = 2.0, beta: float = 2.0) -> Tensor:
    """L_c of Eq. 5, a mean over lesions; the minus sign that the paper leaves out is here."""
    log_p, log_not_p = F.logsigmoid(logits), F.logsigmoid(-logits)
    p = logits.sigmoid()
    positive = (1 - p) ** alpha * log_p
    negative = (1 - labels) ** beta * p**alpha * log_not_p
    return -torch.where(labels == 1, positive, negative).sum(1).mean()


def center_loss(predicted_mm: Tensor, truth_mm: Tensor) -> Tensor:
    """L_r of Eq. 4: the L1 distance in mm, a mean over lesions (the same for every axis)."""
    return (predicted_mm - truth_mm).abs().sum(-1).mean()


def place_loss(
    centers_mm: Tensor, positions_mm: Tensor, truth_mm: Tensor, radius_mm: Tensor, unit_mm: float
) -> Tensor:
    """Smooth L1 of the centres (Q, N, 3) that tokens in the lesion regress, a mean over lesions.

    In multiples of ``unit_mm``, summed over the axes. The token nearest to the truth (Q, 3) always
    counts: a lesion may lie between tokens (Q, N, 3).
    """
    distance = (positions_mm - truth_mm[:, None]).norm(dim=-1)
    reach = torch.maximum(radius_mm[:, None], distance.amin(1, keepdim=True))
    positive = (distance <= reach).float()
    error = F.smooth_l1_loss(
        centers_mm / unit_mm, (truth_mm / unit_mm)[:, None].expand_as(centers_mm), reduction="none"
    )
    return ((error.sum(-1) * positive).sum(1) / positive.sum(1)).mean()


def center_heatmap(positions_mm: Tensor, centers_mm: Tensor, sigma_mm: Tensor) -> Tensor:
    """CornerNet's target (Q, N): a Gaussian about each centre (Q, 3), exactly 1 at its next place.

    positions_mm (Q, N, 3); sigma_mm (Q,).
    """
    distance2 = (positions_mm - centers_mm[:, None]).square().sum(-1)
    beyond = distance2 - distance2.amin(1, keepdim=True)
    return torch.exp(-beyond / (2 * sigma_mm.square()[:, None]))


def soft_targets(positions_mm: Tensor, centers_mm: Tensor, sigma_mm: float) -> Tensor:
    """Probabilities (Q, N) of tokens (Q, N, 3): a normalised Gaussian about each centre (Q, 3)."""
    distance2 = (positions_mm - centers_mm[:, None]).square().sum(-1)
    return (-distance2 / (2 * sigma_mm**2)).softmax(-1)


def token_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of the softmax over search tokens with soft targets (Q, N). Not the paper's.

    With dense queries it is an InfoNCE loss, which teaches the backbone to match (docs/method.md).
    """
    return -(targets * logits.log_softmax(-1)).sum(-1).mean()
