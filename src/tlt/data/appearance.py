"""What differs between two scans of the same anatomy besides its place.

Everything is drawn first (`draw_scan`), then applied by deterministic functions: slice profile,
kernel, noise with texture, an HU offset, tissue-wise contrast, and the lesions themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tlt.data.motion import SplineField
from tlt.data.surroundings import Surroundings
from tlt.data.view import Circle
from tlt.geometry import Triple

CURVE_HU = (-1000.0, -850.0, -120.0, -20.0, 40.0, 110.0, 250.0, 600.0, 3000.0)
PLANES_AT_ONCE = 16  # of a blur


@dataclass(frozen=True)
class InsertedLesion:
    """A lesion that the simulator paints into the anatomy.

    Attributes:
        center_mm: LPS centre in the baseline.
        radius_mm: radius at the time of the scan it is painted into.
        hu: its mean density.
        edge_mm: width of its margin.
        lobes: three (direction x 3, amplitude, phase) waves on its surface, 15 numbers.
        core_hu: density change in its middle (necrosis, calcification).
    """

    center_mm: Triple
    radius_mm: float
    hu: float
    edge_mm: float
    lobes: tuple[float, ...]
    core_hu: float = 0.0


@dataclass(frozen=True, eq=False)
class Scan:
    """How one scan sees the anatomy.

    Attributes:
        slice_mm: slice distance, and thickness of the slice profile.
        blur_mm: sigma of the kernel in the plane.
        sharpen: share of unsharp masking (an edge-enhancing kernel).
        noise_hu: standard deviation of the noise, after its texture filter.
        noise_mm: sigma of the texture filter.
        curve_hu: what becomes of each of `CURVE_HU` (offset and tissue contrast).
        enhancement: a smooth field whose x component is added to soft tissue in HU (organs take
            up contrast differently); None for no change.
        seed: of the noise.
        surroundings: couch and arms; None for those of the CT, which then move with the patient.
        circle: of reconstruction; None when it holds all.
    """

    slice_mm: float
    blur_mm: float = 0.0
    sharpen: float = 0.0
    noise_hu: float = 0.0
    noise_mm: float = 1.0
    curve_hu: tuple[float, ...] = CURVE_HU
    enhancement: SplineField | None = None
    seed: int = 0
    surroundings: Surroundings | None = None
    circle: Circle | None = None


def draw_scan(rng: np.random.Generator, strength: float = 1.0) -> Scan:
    """A scanner, protocol and contrast phase; ``strength`` scales how unusual they may be."""
    slice_mm = float(rng.choice([1.0, 1.25, 2.0, 2.5, 3.0, 5.0, 5.0, 5.0, 7.0, 8.0]))
    curve = np.array(CURVE_HU) + rng.normal(0, 8) * strength
    curve[1] += rng.normal(0, 30) * strength  # inspiration changes the density of the lung
    curve[2:4] += rng.normal(0, 8, 2) * strength
    curve[4:7] += np.array([0.15, 0.6, 1.0]) * rng.normal(0, 45) * strength  # blood pool
    sharp = rng.random() < 0.3
    return Scan(
        slice_mm,
        blur_mm=0.0 if sharp else float(rng.uniform(0, 1.4)),
        sharpen=float(rng.uniform(0, 0.8)) if sharp else 0.0,
        noise_hu=float(rng.gamma(2.0, 8.0)) * strength,
        noise_mm=float(rng.uniform(0.6, 1.8)),
        curve_hu=tuple(np.maximum.accumulate(curve).tolist()),
        seed=int(rng.integers(2**31)),
    )


def draw_enhancement(
    rng: np.random.Generator, low_mm: NDArray, high_mm: NDArray, sigma_hu: float
) -> SplineField:
    """A smooth change of soft-tissue density over a region."""
    knot = float(rng.uniform(40, 70))
    count = np.ceil((high_mm - low_mm) / knot).astype(int) + 5
    coefficients = rng.normal(0, sigma_hu, (*count[::-1], 3)).astype(np.float32)
    return SplineField(low_mm - 2 * knot, knot, coefficients)


def draw_lesion(
    rng: np.random.Generator, center_mm: Triple, radius_mm: float, local_hu: float
) -> InsertedLesion:
    """A lesion that suits the tissue around it: a nodule in lung, else a darker or lighter mass."""
    if local_hu < -500:
        hu = float(rng.uniform(-50, 80) if rng.random() < 0.8 else rng.uniform(-650, -300))
    elif local_hu < -20:
        hu = float(rng.uniform(10, 90))
    else:
        hu = local_hu + float(rng.choice([-1, -1, 1]) * rng.uniform(25, 70))
    core = float(rng.uniform(-60, 20)) if rng.random() < 0.25 else 0.0
    return InsertedLesion(
        center_mm, radius_mm, hu, float(rng.uniform(0.8, 2.0)), draw_lobes(rng), core
    )


def grown(lesion: InsertedLesion, rng: np.random.Generator) -> InsertedLesion:
    """The same lesion months later: growth 0.5 to 2, another density, sometimes a dead core."""
    factor = float(np.exp(rng.uniform(np.log(0.5), np.log(2.0))))
    core = float(rng.uniform(-80, 0)) if rng.random() < 0.2 else lesion.core_hu
    hu = lesion.hu + float(rng.normal(0, 12))
    radius = min(max(lesion.radius_mm * factor, 2.0), 45.0)
    return replace(lesion, radius_mm=radius, hu=hu, core_hu=core)


def paint_lesion(hu: Tensor, points_mm: Tensor, lesion: InsertedLesion) -> None:
    """Blend a lesion, in place, into voxels (...,) seen at baseline points (..., 3)."""
    offset = points_mm - torch.tensor(lesion.center_mm, dtype=points_mm.dtype)
    reach = 1.5 * lesion.radius_mm + 4 * lesion.edge_mm
    near = offset.abs().amax(-1) < reach
    if not near.any():
        return
    offset = offset[near]
    distance = offset.norm(dim=-1)
    share = torch.sigmoid(2 * (surface_mm(lesion, offset) - distance) / lesion.edge_mm)
    core = torch.sigmoid((0.5 * lesion.radius_mm - distance) / lesion.edge_mm)
    density = lesion.hu + lesion.core_hu * core
    hu[near] = hu[near] * (1 - share) + density * share


def surface_mm(lesion: InsertedLesion, offset_mm: Tensor) -> Tensor:
    """How far from its centre the surface of a lesion lies towards offsets (..., 3): (...,) mm."""
    direction = offset_mm / offset_mm.norm(dim=-1).clamp(min=1e-3)[..., None]
    surface = torch.ones(direction.shape[:-1])
    for *axis, amplitude, phase in np.reshape(lesion.lobes, (3, 5)).tolist():
        surface += amplitude * torch.sin(direction @ torch.tensor(axis) + phase)
    return lesion.radius_mm * surface


def contrasted(hu: Tensor, scan: Scan, enhancement_hu: Tensor | None) -> Tensor:
    """Tissue densities as this scan's phase and calibration show them."""
    knots, values = torch.tensor(CURVE_HU), torch.tensor(scan.curve_hu)
    clamped = hu.clamp(CURVE_HU[0], CURVE_HU[-1])
    right = torch.bucketize(clamped, knots).clamp(1, len(CURVE_HU) - 1)
    share = (clamped - knots[right - 1]) / (knots[right] - knots[right - 1])
    mapped = values[right - 1] + share * (values[right] - values[right - 1])
    if enhancement_hu is not None:
        soft = ((hu + 20) / 40).clamp(0, 1) * ((300 - hu) / 100).clamp(0, 1)
        mapped = mapped + soft * enhancement_hu
    return mapped


def filtered(hu: Tensor, scan: Scan, spacing_mm: float) -> Tensor:
    """The image (D, H, W) after kernel and noise; ``spacing_mm`` is that of the plane."""
    if scan.blur_mm > 0.3 * spacing_mm:
        hu = _blurred_in_plane(hu, scan.blur_mm / spacing_mm)
    if scan.sharpen:
        hu = hu + scan.sharpen * (hu - _blurred_in_plane(hu, 1.2 / spacing_mm))
    if scan.noise_hu:
        noise = torch.randn(hu.shape, generator=torch.Generator().manual_seed(scan.seed))
        noise = _blurred_in_plane(noise, scan.noise_mm / spacing_mm)
        hu = hu + noise * (scan.noise_hu / noise.std().clamp(min=1e-6))
    return hu


def _blurred_in_plane(image: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (D, H, W) along H and W; sigma in voxels."""
    if sigma < 0.2:
        return image
    reach = max(1, int(3 * sigma + 0.5))
    taps = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-(taps**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    parts = []
    for planes in image[:, None].split(PLANES_AT_ONCE):  # on one thread torch unfolds its input
        down = F.pad(planes, (0, 0, reach, reach), mode="replicate")
        along = F.conv2d(down, kernel[None, None, :, None])
        along = F.pad(along, (reach, reach, 0, 0), mode="replicate")
        parts.append(F.conv2d(along, kernel[None, None, None])[:, 0])
    return torch.cat(parts)


def draw_lobes(rng: np.random.Generator) -> tuple[float, ...]:
    """Three waves for the surface of a lesion; see `InsertedLesion`."""
    waves = [
        (*(rng.normal(0, 1, 3) * (1.5 + k)), rng.uniform(0, 0.14), rng.uniform(0, 6.3))
        for k in range(3)
    ]
    return tuple(float(v) for wave in waves for v in wave)
