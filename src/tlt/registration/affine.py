"""Affine registration of two CTs of a patient: arg min ||T_aff(I_t) - I_s||_1.

Source: TLT paper, RAAM, Eq. 2 (I_t baseline, I_s follow-up). The paper names no optimiser. Here the
L1 norm is minimised by Gauss-Newton with iteratively reweighted least squares over a 16-8-4 mm
pyramid. The scans may share as little as a third of their length, so every shift along z is tried
at 16 mm and the best few are refined.
"""

from __future__ import annotations

import time

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from tlt.geometry import AffineTransform
from tlt.registration.pyramid import Level, pyramid
from tlt.registration.result import OVERLAP_OK, SIMILARITY_OK, Registration, is_plausible
from tlt.volume import Volume

UNIT_MM = 100.0  # matrix entries are solved as mm of motion at this distance from the centre
RESIDUAL_FLOOR = 0.02  # 20 HU: below it L1 is rounded to least squares
PRIOR = 3e-3  # weight of "no rotation, no scale", part of the mean curvature of the data term
MAX_POINTS = 60_000


def register_affine(baseline: Volume, followup: Volume) -> Registration:
    """The affine map of baseline points to the follow-up, with its similarity and an honest flag.

    Works from the images alone: the scans' frames may differ by any shift. Never raises on odd
    images: without a body in both, the grid centres are aligned and ``ok`` is False.
    """
    start = time.perf_counter()
    fixed, moving = pyramid(baseline), pyramid(followup)
    if not (fixed[2].body.sum() > 8 and moving[2].body.sum() > 8):
        shift = followup.grid.center_mm - baseline.grid.center_mm
        return _report(AffineTransform(np.eye(3), shift), "none", fixed, moving, start)
    best = _gauss_newton_pyramid(fixed, moving)
    return _report(best, "l1-gauss-newton", fixed, moving, start)


def _report(
    transform: AffineTransform, method: str, fixed: list[Level], moving: list[Level], start: float
) -> Registration:
    similarity, overlap = compare(fixed[1], moving[1], transform)
    ok = similarity >= SIMILARITY_OK and overlap >= OVERLAP_OK and is_plausible(transform.matrix)
    seconds = time.perf_counter() - start
    return Registration(transform, method, similarity, ok and method != "none", seconds, overlap)


def compare(fixed: Level, moving: Level, transform: AffineTransform) -> tuple[float, float]:
    """Pearson correlation over the common body, and the part of the smaller body that is common."""
    points = torch.from_numpy(transform(fixed.points_mm(fixed.body))).float()
    channels = torch.stack([moving.image, moving.body.float()])
    (values, body), inside = _sample(channels, moving, points[None])
    common = inside[0] & (body[0] > 0.5)
    smaller = min(float(fixed.body.sum()), float(moving.body.sum()) / abs(np.linalg.det(transform.matrix)))
    if common.sum() < 8:
        return 0.0, 0.0
    pair = torch.stack([fixed.image[fixed.body][common], values[0][common]]).double()
    deviation = pair - pair.mean(1, keepdim=True)
    norms = deviation.norm(dim=1).prod()
    ncc = float(deviation.prod(0).sum() / norms) if norms > 1e-6 else 0.0
    return ncc, min(1.0, float(common.sum()) / smaller)


def _gauss_newton_pyramid(fixed: list[Level], moving: list[Level]) -> AffineTransform:
    """The best of all starts along z, refined from coarse to fine."""
    center = fixed[1].points_mm(fixed[1].body).mean(0)
    shifts = _starts(fixed[2], moving[2])
    theta = torch.zeros(len(shifts), 3, 4)
    theta[:, :, :3] = torch.eye(3) * UNIT_MM
    theta[:, :, 3] = torch.from_numpy(shifts + center).float()
    for level, iterations, keep in ((2, 0, 16), (2, 10, 3), (1, 8, 1), (0, 5, 1)):
        theta, score = _refine(fixed[level], moving[level], theta, center, iterations)
        theta = theta[torch.argsort(score, stable=True)[:keep]]
    matrix = theta[0, :, :3].double().numpy() / UNIT_MM
    return AffineTransform(matrix, theta[0, :, 3].double().numpy() - matrix @ center)


def _starts(fixed: Level, moving: Level, step_mm: float = 16.0) -> NDArray[np.float64]:
    """Shifts (K, 3) in mm: along z all with some overlap, in plane the centres of that overlap."""
    fixed_mm, moving_mm = fixed.points_mm(fixed.body), moving.points_mm(moving.body)
    f_low, f_high = fixed_mm[:, 2].min(), fixed_mm[:, 2].max()
    m_low, m_high = moving_mm[:, 2].min(), moving_mm[:, 2].max()
    least = min(48.0, 0.5 * min(f_high - f_low, m_high - m_low))
    shifts = []
    middle = (m_low + m_high - f_low - f_high) / 2
    reach = max(0.0, (f_high - f_low + m_high - m_low) / 2 - least)
    steps = int(reach / step_mm)
    for z in middle + step_mm * np.arange(-steps, steps + 1):
        low, high = max(f_low + z, m_low) - 8.0, min(f_high + z, m_high) + 8.0
        ours = fixed_mm[(fixed_mm[:, 2] + z >= low) & (fixed_mm[:, 2] + z <= high)]
        theirs = moving_mm[(moving_mm[:, 2] >= low) & (moving_mm[:, 2] <= high)]
        if len(ours) and len(theirs):
            x, y, _ = theirs.mean(0) - ours.mean(0)
            shifts.append((x, y, z))
    return np.array(shifts)


def _refine(
    fixed: Level, moving: Level, theta: torch.Tensor, center: NDArray, iterations: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gauss-Newton from K parameter sets (K, 3, 4) at once; their best sets and scores (K,)."""
    where = _dilated(fixed.body) & fixed.valid
    points = fixed.points_mm(where)
    stride = max(1, len(points) // MAX_POINTS)
    unit = torch.from_numpy((points[::stride] - center) / UNIT_MM).float()
    design = torch.cat([unit, torch.ones(len(unit), 1)], 1)  # (N, 4)
    values = fixed.image[where][::stride]
    slopes = _slopes(fixed)[:, where][:, ::stride].mT  # (N, 3)
    channels = torch.cat([moving.image[None], _slopes(moving), moving.valid[None].float()])
    best, best_score = theta, torch.full((len(theta),), torch.inf)
    for step in range(iterations + 1):
        mapped = design @ theta.mT  # (K, N, 3)
        sampled, inside = _sample(channels, moving, mapped)  # (5, K, N), (K, N)
        inside &= sampled[4] > 0.99
        residual = sampled[0] - values
        score = _score(residual, inside)
        better = score < best_score
        best = torch.where(better[:, None, None], theta, best)
        best_score = torch.where(better, score, best_score)
        if step < iterations:
            matrix = theta[:, :, :3] / UNIT_MM
            # ESM: the mean of both images' slopes makes the step second order
            slope = (sampled[1:4].permute(1, 2, 0) + slopes @ torch.linalg.inv(matrix)) / 2
            theta = theta + _step(design, slope, residual, inside, theta)
    return best, best_score


def _score(residual: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Mean |r| of K candidates over their overlap (K,), dearer where the overlap is small."""
    count = inside.sum(1).clamp(min=1)
    mean = (residual.abs() * inside).sum(1) / count
    return mean * (inside.shape[1] / count) ** 0.25


def _step(
    design: torch.Tensor,
    slope: torch.Tensor,
    residual: torch.Tensor,
    inside: torch.Tensor,
    theta: torch.Tensor,
) -> torch.Tensor:
    """The change (K, 3, 4) that minimises the reweighted squares of the linearised residual."""
    K, N = residual.shape
    jacobian = (slope[..., None] * design[:, None, :]).reshape(K, N, 12)
    weight = inside / residual.abs().clamp(min=RESIDUAL_FLOOR)
    weighted = (jacobian * weight[..., None]).mT  # (K, 12, N)
    hessian = (weighted @ jacobian).double()
    gradient = (weighted @ residual[..., None]).double()
    curvature = hessian.diagonal(dim1=1, dim2=2).mean(1) + 1e-9
    pull = torch.zeros(K, 3, 4, dtype=torch.double)
    pull[:, :, :3] = theta[:, :, :3] - torch.eye(3) * UNIT_MM
    prior = torch.tensor([1.0, 1.0, 1.0, 0.0]).repeat(3).double() * PRIOR
    damping = prior + 1e-4
    hessian = hessian + curvature[:, None, None] * torch.diag(damping)
    gradient = gradient + curvature[:, None, None] * (prior * pull.reshape(K, 12))[..., None]
    return -torch.linalg.solve(hessian, gradient).reshape(K, 3, 4).float()


def _sample(
    channels: torch.Tensor, level: Level, points_mm: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Channels (C, D, H, W) at LPS points (K, N, 3): values (C, K, N) and which lie inside."""
    size = torch.tensor(level.grid.size_xyz)
    index = (points_mm - torch.tensor(level.grid.origin_mm)) / level.grid.spacing_mm[0]
    inside = ((index >= -0.5) & (index <= size - 0.5)).all(-1)
    place = (2 * index + 1) / size - 1
    values = F.grid_sample(
        channels[None], place[None, :, :, None], padding_mode="border", align_corners=False
    )
    return values[0, ..., 0], inside


def _slopes(level: Level) -> torch.Tensor:
    """Central differences (3, D, H, W) of the image along x, y, z, per mm."""
    padded = F.pad(level.image[None, None], (1, 1, 1, 1, 1, 1), "replicate")[0, 0]
    inner = slice(1, -1)
    x = padded[inner, inner, 2:] - padded[inner, inner, :-2]
    y = padded[inner, 2:, inner] - padded[inner, :-2, inner]
    z = padded[2:, inner, inner] - padded[:-2, inner, inner]
    return torch.stack([x, y, z]) / (2 * level.grid.spacing_mm[0])


def _dilated(mask: torch.Tensor) -> torch.Tensor:
    """The mask and its neighbours: the air at the skin shows where the body ends."""
    return F.max_pool3d(mask[None, None].float(), 3, 1, 1)[0, 0] > 0.5
