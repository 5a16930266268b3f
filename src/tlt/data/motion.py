"""How a patient moves between two scans: an analytic map with an exact inverse.

The map is written in the pull direction, from a follow-up point to the baseline point that is seen
there: a smooth displacement (breathing, posture), then an affine (position on the couch, size),
then the sliding of the lungs along the chest wall.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from tlt.data.sliding import LARGEST_MM, Pleura, Slide
from tlt.geometry import AffineTransform, Points


@dataclass(frozen=True, eq=False)
class SplineField:
    """A smooth displacement: cubic B-splines on a regular lattice of knots.

    Attributes:
        origin_mm: LPS position of the first knot.
        knot_mm: distance of the knots.
        coefficients_mm: (nz, ny, nx, 3) displacement (x, y, z) of each knot.
    """

    origin_mm: NDArray[np.float64]
    knot_mm: float
    coefficients_mm: NDArray[np.float32]

    def __call__(self, points_mm: ArrayLike) -> Points:
        """Displacement (N, 3) at points (N, 3)."""
        place = (np.asarray(points_mm, float) - self.origin_mm) / self.knot_mm
        first = np.floor(place).astype(int) - 1  # the first of the four knots that reach a point
        counts = np.array(self.coefficients_mm.shape[2::-1])
        knots = first[:, None] + np.arange(4)[:, None]  # N, 4, 3
        weights = _cubic(place[:, None] - knots) * ((knots >= 0) & (knots < counts))
        x, y, z = np.moveaxis(np.clip(knots, 0, counts - 1), 2, 0)  # each N, 4
        near = self.coefficients_mm[z[:, :, None, None], y[:, None, :, None], x[:, None, None, :]]
        wx, wy, wz = np.moveaxis(weights, 2, 0)
        return np.einsum("nzyxc,nz,ny,nx->nc", near, wz, wy, wx, optimize=True)

    def on_axes(self, x_mm: NDArray, y_mm: NDArray, z_mm: NDArray) -> Tensor:
        """Displacement (D, H, W, 3) on the lattice of three LPS axes; separable, hence fast."""
        x, y, z = (self._basis(a, i) for i, a in enumerate((x_mm, y_mm, z_mm)))
        coefficients = torch.from_numpy(self.coefficients_mm)
        along_x = torch.tensordot(x, coefficients, ([1], [2]))  # W, nz, ny, 3
        along_y = torch.tensordot(y, along_x, ([1], [2]))  # H, W, nz, 3
        return torch.tensordot(z, along_y, ([1], [2]))  # D, H, W, 3

    def _basis(self, values_mm: NDArray, axis: int) -> Tensor:
        """Weight (N, knots) of each knot at coordinates (N,) along an axis (0 is x)."""
        knots = np.arange(self.coefficients_mm.shape[2 - axis])
        place = (values_mm[:, None] - self.origin_mm[axis]) / self.knot_mm
        return torch.from_numpy(_cubic(place - knots).astype(np.float32))


def _cubic(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """The cubic B-spline at distances in knots."""
    t = np.abs(t)
    return np.where(t < 1, 2 / 3 - t**2 + t**3 / 2, np.maximum(2 - t, 0) ** 3 / 6)


@dataclass(frozen=True, eq=False)
class Motion:
    """The map between the two scans of a simulated pair.

    Attributes:
        affine: baseline to follow-up, the rigid and size part.
        fields: displacements u_k; a follow-up point y shows the baseline point
            slide(affine^-1(y + sum u_k(y))).
        slide: of the lungs, in the baseline's frame; None for none.
    """

    affine: AffineTransform
    fields: tuple[SplineField, ...]
    slide: Slide | None = None

    def followup_to_baseline(self, points_mm: ArrayLike) -> Points:
        """Baseline points (N, 3) seen at follow-up points (N, 3)."""
        points = np.asarray(points_mm, float)
        smooth = self.affine.inverse()(points + self._displacement(points))
        return smooth if self.slide is None else self.slide(smooth)

    def baseline_to_followup(self, points_mm: ArrayLike, tolerance_mm: float = 0.01) -> Points:
        """Follow-up points (N, 3) where baseline points (N, 3) are seen.

        Undoes the slide, then solves y + u(y) = affine(x), both by fixed-point iteration.

        Raises:
            ArithmeticError: when the residual stays above the tolerance (the map folds).
        """
        points = np.asarray(points_mm, float)
        target = self.affine(points if self.slide is None else self.slide.undone(points))
        solution = target.copy()
        for _ in range(100):
            residual = target - solution - self._displacement(solution)
            solution = solution + residual
            if len(residual) == 0 or np.abs(residual).max() < tolerance_mm:
                return solution
        raise ArithmeticError(f"the motion folds: residual {np.abs(residual).max():.2f} mm")

    def pulled_axes(self, x_mm: NDArray, y_mm: NDArray, z_mm: NDArray) -> Tensor:
        """Baseline points (D, H, W, 3), float32, seen on the lattice of three follow-up axes."""
        z, y, x = torch.meshgrid(
            *(torch.from_numpy(np.asarray(a, np.float32)) for a in (z_mm, y_mm, x_mm)),
            indexing="ij",
        )
        points = torch.stack([x, y, z], -1)
        for field in self.fields:
            points += field.on_axes(x_mm, y_mm, z_mm)
        back = self.affine.inverse()
        matrix, shift = (torch.from_numpy(v).float() for v in (back.matrix.T, back.translation_mm))
        smooth = points @ matrix + shift
        return smooth if self.slide is None else smooth + self.slide.displacement(smooth)

    def _displacement(self, points_mm: Points) -> Points:
        total = np.zeros_like(points_mm)
        for field in self.fields:
            total += field(points_mm)
        return total


@dataclass(frozen=True)
class MotionRange:
    """From what a motion is drawn; the defaults are what training draws from.

    Attributes:
        rotation_deg: standard deviation of the rotation about each axis.
        shift_mm: largest shift of the patient along each axis.
        scale: lowest and highest change of size along each axis.
        posture_mm: standard deviation of the coarse displacement's coefficients.
        breathing_mm: largest extra displacement along z inside the lungs.
        local_mm: standard deviation of the fine displacement's coefficients.
        sliding_mm: largest sliding of the lungs along the chest wall, up to 12.
        sliding_share: how often they slide at all.
    """

    rotation_deg: float = 4.0
    shift_mm: float = 50.0
    scale: tuple[float, float] = (0.95, 1.06)
    posture_mm: float = 14.0
    breathing_mm: float = 25.0
    local_mm: float = 5.0
    sliding_mm: float = LARGEST_MM
    sliding_share: float = 0.6

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  (an unknown key of a YAML is told)

    def eased(self, share: float) -> MotionRange:
        """The same with displacements times ``share``: for a curriculum."""
        return replace(
            self,
            posture_mm=self.posture_mm * share,
            breathing_mm=self.breathing_mm * share,
            local_mm=self.local_mm * share,
            sliding_mm=self.sliding_mm * share,
        )


def draw_motion(
    rng: np.random.Generator,
    motion: MotionRange,
    low_mm: Points,
    high_mm: Points,
    lung_share,
    pleura: Pleura | None = None,
) -> Motion:
    """A motion of a body that lies between two LPS corners.

    ``lung_share`` maps baseline points (N, 3) to the share of lung around them, (N,) in [0, 1]:
    breathing moves the lungs most, and moves them along z. ``pleura`` is where they slide.
    """
    center = (low_mm + high_mm) / 2
    angles = np.deg2rad(np.clip(rng.normal(0, motion.rotation_deg, 3), -15, 15))
    matrix = _rotation(angles) @ np.diag(rng.uniform(*motion.scale, 3))
    shift = rng.uniform(-motion.shift_mm, motion.shift_mm, 3)
    affine = AffineTransform.about(matrix, center, shift)
    corners = affine(
        np.array(
            [
                [x, y, z]
                for x in (low_mm[0], high_mm[0])
                for y in (low_mm[1], high_mm[1])
                for z in (low_mm[2], high_mm[2])
            ]
        )
    )
    low, high = corners.min(0), corners.max(0)
    amount = rng.uniform(0.4, 1.6)
    coarse = _draw_field(rng, low, high, rng.uniform(60, 90), motion.posture_mm * amount)
    fine = _draw_field(rng, low, high, rng.uniform(28, 45), motion.local_mm * amount)
    breath = _draw_field(rng, low, high, 60.0, 0.0)
    lungs = lung_share(affine.inverse()(_knots(breath))).reshape(breath.coefficients_mm.shape[:3])
    depth = rng.uniform(-1, 1) * motion.breathing_mm
    breath.coefficients_mm[..., 2] = depth * lungs * rng.uniform(0.7, 1.0, lungs.shape)
    return Motion(affine, (coarse, breath, fine), _draw_slide(rng, motion, pleura))


def _draw_slide(rng, motion: MotionRange, pleura: Pleura | None) -> Slide | None:
    """How far the lungs slide; without sliding nothing is drawn, so seeds keep their pairs."""
    if pleura is None or motion.sliding_mm == 0 or motion.sliding_share == 0:
        return None
    slides, amplitude = rng.random() < motion.sliding_share, rng.uniform(-1, 1)
    return Slide(pleura, float(amplitude * min(motion.sliding_mm, LARGEST_MM))) if slides else None


def _draw_field(rng, low, high, knot_mm: float, sigma_mm: float) -> SplineField:
    """Normal coefficients, held below what could fold the map (0.3 knots each way)."""
    count = np.ceil((high - low) / knot_mm).astype(int) + 5
    coefficients = rng.normal(0, sigma_mm, (*count[::-1], 3))
    bounded = np.clip(coefficients, -0.3 * knot_mm, 0.3 * knot_mm).astype(np.float32)
    return SplineField(low - 2 * knot_mm, knot_mm, bounded)


def _knots(field: SplineField) -> Points:
    """LPS positions (N, 3) of a field's knots, in the order of its coefficients."""
    index = np.moveaxis(np.indices(field.coefficients_mm.shape[:3]), 0, -1).reshape(-1, 3)
    return field.origin_mm + index[:, ::-1] * field.knot_mm


def _rotation(angles_rad: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation about x, then y, then z."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles_rad):
        i, j = [a for a in range(3) if a != axis]
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix
