"""What can be said of a lesion from the CT alone, as labels for detectors and embeddings."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from tlt.model.network import TokenMap

TISSUES = ("lung", "fat", "soft", "bone")
TISSUE_ENDS_HU = (-500.0, -20.0, 150.0)  # between one tissue and the next
SIZE_ENDS_MM = (5.0, 10.0, 20.0)  # of the radius
RIM_MM = 5.0  # from a lesion's surface to the tissue that it is said to lie in

DIRECTIONS = torch.tensor(
    [d for d in itertools.product((-1.0, 0.0, 1.0), repeat=3) if any(d)]
)  # (26, 3)


def tissue_about(
    image_hu: Tensor, origin_mm: Tensor, spacing_mm: float, centers_mm: Tensor, radius_mm: Tensor
) -> Tensor:
    """Index in `TISSUES` (N,) of what lies about lesions (N, 3): the median HU around them.

    image_hu is (1, D, H, W), its first voxel at origin_mm.
    """
    unit = DIRECTIONS.to(centers_mm) / DIRECTIONS.norm(dim=1, keepdim=True).to(centers_mm)
    points = centers_mm[:, None] + unit * (radius_mm[:, None, None] + RIM_MM)
    image = TokenMap(image_hu, origin_mm, spacing_mm)
    around = image.sample(points.reshape(-1, 3)).reshape(points.shape[:2])
    ends = torch.tensor(TISSUE_ENDS_HU, device=around.device)
    return torch.bucketize(around.median(1).values, ends)


def size_class(radius_mm: Tensor) -> Tensor:
    """Which of the four ranges between `SIZE_ENDS_MM` radii (N,) lie in."""
    return torch.bucketize(radius_mm, torch.tensor(SIZE_ENDS_MM, device=radius_mm.device))


TYPES = ("bone", "abdomen", "mediastinum", "liver", "lung", "kidney", "soft tissue", "pelvis")
THIRDS = 3  # of the body along each axis, for the labels of a place


def labels_of(tissue: Tensor, radius_mm: Tensor, kind: Tensor, place: Tensor) -> Tensor:
    """All labels (N, 25) of lesions: 1, 0, or NaN where nobody knows.

    Tissue about it (4), size (4), type of lesion (8), place in the body (3 thirds of 3 axes).

    Args:
        tissue: (N,) index in `TISSUES`; -1 is unknown here and in ``kind``.
        radius_mm: (N,).
        kind: (N,) index in `TYPES`, as DeepLesion numbers them less one.
        place: (N, 3) share of the body's extent along x, y, z, in [0, 1]; NaN is unknown.
    """
    third = (place.nan_to_num(0.0).clamp(0, 1) * THIRDS).long().clamp(max=THIRDS - 1)
    third = torch.where(place.isnan(), -1, third)
    parts = [
        _one_hot(tissue, len(TISSUES)),
        _one_hot(size_class(radius_mm), len(SIZE_ENDS_MM) + 1),
        _one_hot(kind, len(TYPES)),
        _one_hot(third, THIRDS).flatten(1),
    ]
    return torch.cat(parts, 1)


def _one_hot(index: Tensor, count: int) -> Tensor:
    """(..., count) of indices (...); NaN for those below 0."""
    hot = torch.nn.functional.one_hot(index.clamp(min=0), count).float()
    return hot.masked_fill((index < 0)[..., None], torch.nan)
