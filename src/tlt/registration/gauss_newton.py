"""Gauss-Newton for the L1 norm of an affine difference image, many starts at once.

arg min over the affine A of sum_x |M(A x) - F(x)|, by iteratively reweighted least squares: each
residual r weighs 1 / max(|r|, floor), which also makes air, contrast and couch harmless. A set of
parameters theta (3, 4) maps a fixed point x to ``theta @ ((x - center) / 100 mm, 1)``.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F

from tlt.geometry import AffineTransform, Points
from tlt.registration.pyramid import Level, tones

UNIT_MM = 100.0  # a matrix entry is the motion (mm) at this distance from the centre
RESIDUAL_FLOOR = 0.1  # 10 HU of soft tissue; below it L1 is rounded to least squares
PRIOR = 0.03  # weight of "rotation and one scale", part of the mean curvature of the data term
DAMPING = 1e-4
ORGAN_TONES = tuple(float(t) for t in tones(np.array([-10.0, 150.0])))
CONTRAST_MAX = 1.0  # 90 HU
PAIRS = [(i, j) for i in range(4) for j in range(i + 1)]  # entries of a symmetric 4x4 matrix
OVERLAP_COST = 0.5  # the mean residual counts (points / points inside) to this power dearer


def to_theta(transform: AffineTransform, center_mm: Points) -> torch.Tensor:
    """Parameters (3, 4) of an affine map."""
    shift = torch.from_numpy(transform(center_mm))
    return torch.cat([torch.from_numpy(transform.matrix) * UNIT_MM, shift[:, None]], 1).float()


def to_affine(theta: torch.Tensor, center_mm: Points) -> AffineTransform:
    """The affine map of parameters (3, 4)."""
    matrix, shift = theta[:, :3].double().numpy() / UNIT_MM, theta[:, 3].double().numpy()
    return AffineTransform(matrix, shift - matrix @ center_mm)


def design_matrix(points_mm: Points, center_mm: Points) -> torch.Tensor:
    """Homogeneous coordinates (N, 4) that parameters act on, of LPS points (N, 3)."""
    unit = torch.from_numpy((points_mm - center_mm) / UNIT_MM).float()
    return torch.cat([unit, torch.ones(len(unit), 1)], 1)


def refine(
    fixed: Level,
    moving: Level,
    theta: torch.Tensor,
    center_mm: Points,
    iterations: int,
    max_points: int,
    prior: float = PRIOR,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The best parameters (K, 3, 4) met on the way from K starts, and their scores (K,).

    The residual is taken over the fixed body and the air around it, where the moving scan sees.
    """
    where = torch.nonzero(fixed.near_body)
    where = where[:: 1 + (len(where) - 1) // max_points]
    design = design_matrix(fixed.grid.index_to_mm(where.numpy()), center_mm)
    values, *slopes = fixed.features[_flat(where.T, fixed)].T[:4]
    soft = (values > ORGAN_TONES[0]) & (values < ORGAN_TONES[1])
    products = torch.stack([design[:, i] * design[:, j] for i, j in PAIRS], 1)  # (N, 10)
    best, best_score = theta, torch.full((len(theta),), torch.inf)
    for step in range(iterations + 1):
        theirs, their_slopes, inside = extrapolated(moving, theta, design)
        residual = _without_contrast(theirs - values, inside & soft)
        score = _score(residual, inside)
        better = score < best_score
        best = torch.where(better[:, None, None], theta, best)
        best_score = torch.where(better, score, best_score)
        if step < iterations:
            # ESM: the mean of both images' slopes makes the step second order
            back = torch.linalg.inv_ex(theta[:, :, :3] / UNIT_MM).inverse
            slope = (their_slopes + back.mT @ torch.stack(slopes)) / 2  # (K, 3, N)
            theta = theta + _step(design, products, slope, residual, inside, theta, prior)
    return best, best_score


def extrapolated(
    level: Level, theta: torch.Tensor, design: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Values (K, N) and slopes (K, 3, N) at mapped points, and which lie in view (K, N).

    The nearest voxel's, with the value continued along its slopes: one place to read instead of
    eight.
    """
    spacing = level.grid.spacing_mm[0]
    size = torch.tensor(level.grid.size_xyz)[:, None]
    place = theta.clone()
    place[:, :, 3] -= torch.tensor(level.grid.origin_mm)
    place = (place / spacing) @ design.T  # (K, 3, N), voxels
    # beyond the outer voxel centres the values only repeat, unless there is but a voxel or two
    edge = torch.where(size > 2, 0.0, 0.5)
    inside = ((place >= -edge) & (place <= size - 1 + edge)).all(1)
    nearest = place.round().clamp(torch.zeros(3, 1), size - 1.0)
    x, y, z = nearest.long().unbind(1)
    found = level.features[_flat((z, y, x), level)].movedim(-1, 1)  # (K, 5, N)
    slopes = found[:, 1:4]
    values = found[:, 0] + (slopes * (place - nearest)).sum(1) * spacing
    return values, slopes, inside & (found[:, 4] > 0.5)


def _flat(index_zyx: Iterable[torch.Tensor], level: Level) -> torch.Tensor:
    """Rows of `Level.features` of voxels."""
    z, y, x = index_zyx
    return (z * level.grid.size_xyz[1] + y) * level.grid.size_xyz[0] + x


def _without_contrast(residual: torch.Tensor, soft: torch.Tensor) -> torch.Tensor:
    """Residuals (K, N) less their median in soft tissue: what contrast medium adds on average.

    A shift of all organs would otherwise be most of the L1 norm and hide how they lie.
    """
    shift = torch.nanmedian(residual.masked_fill(~soft, torch.nan), 1, keepdim=True).values
    return residual - soft * shift.nan_to_num().clamp(-CONTRAST_MAX, CONTRAST_MAX)


def _score(residual: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Mean |r| of K candidates over their overlap (K,), dearer where the overlap is small."""
    count, total = inside.sum(1), inside.shape[1]
    mean = (residual.abs() * inside).sum(1) / count.clamp(min=1)
    score = mean * (total / count.clamp(min=1)) ** OVERLAP_COST
    return score.where(count > 8 + 0.002 * total, torch.inf)


def _step(
    design: torch.Tensor,
    products: torch.Tensor,
    slope: torch.Tensor,
    residual: torch.Tensor,
    inside: torch.Tensor,
    theta: torch.Tensor,
    prior: float,
) -> torch.Tensor:
    """The change (K, 3, 4) that minimises the reweighted squares of the linearised residual.

    Each row of the Jacobian is slope x design, so the Hessian is made of the products of both.
    """
    K = len(residual)
    weighted = slope * (inside / residual.abs().clamp(min=RESIDUAL_FLOOR))[:, None]
    gradient = ((weighted * residual[:, None]) @ design).double().reshape(K, 12, 1)
    hessian = torch.empty((K, 3, 4, 3, 4), dtype=torch.double)
    rows, columns = (list(side) for side in zip(*PAIRS, strict=True))
    for i in range(3):
        for j in range(i + 1):
            block = ((weighted[:, i] * slope[:, j]) @ products).double()
            hessian[:, i, rows, j, columns] = hessian[:, i, columns, j, rows] = block
            hessian[:, j, :, i, :] = hessian[:, i, :, j, :]
    hessian = hessian.reshape(K, 12, 12)
    curvature = hessian.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] + 1e-9
    pull = F.pad(_strain(theta[:, :, :3].double()), (0, 1)).reshape(K, 12, 1)
    held = torch.tensor([prior, prior, prior, 0.0], dtype=torch.double).repeat(3)
    hessian = hessian + curvature * torch.diag(held + DAMPING)
    gradient = gradient + curvature * prior * pull
    return -torch.linalg.solve_ex(hessian, gradient).result.reshape(K, 3, 4).float()


def _strain(matrix: torch.Tensor) -> torch.Tensor:
    """What keeps matrices (K, 3, 3) from being a rotation times one scale."""
    u, stretches, vt = torch.linalg.svd(matrix)
    return matrix - (u @ vt) * stretches.mean(1)[:, None, None]


def sample(
    channels: torch.Tensor, level: Level, points_mm: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Channels (C, D, H, W) at LPS points (K, N, 3): values (C, K, N), and which lie inside."""
    size = torch.tensor(level.grid.size_xyz)
    index = (points_mm - torch.tensor(level.grid.origin_mm)) / level.grid.spacing_mm[0]
    # beyond the outer voxel centres the values only repeat, unless there is but a voxel or two
    edge = torch.where(size > 2, 0.0, 0.5)
    inside = ((index >= -edge) & (index <= size - 1 + edge)).all(-1)
    place = (2 * index + 1) / size - 1
    values = F.grid_sample(
        channels[None], place[None, :, :, None], padding_mode="border", align_corners=False
    )
    return values[0, ..., 0], inside
