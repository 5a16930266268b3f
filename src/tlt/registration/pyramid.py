"""The coarse images that registration works on: clipped HU, the body and the field of view."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage

from tlt.geometry import Grid
from tlt.volume import Volume

HU_RANGE = (-1000.0, 400.0)
SOFT_TISSUE_HU = (-100.0, 300.0)
SOFT_TISSUE_GAIN = 10.0  # organs differ by 50 HU, lung and muscle by 900: let both count
BODY_HU = -500.0
PADDING_HU = -1200.0  # no tissue or air is darker
CIRCLE_MISFIT_MM = 3.0


@dataclass(frozen=True, eq=False)
class Level:
    """One CT at one coarse isotropic spacing.

    Attributes:
        grid: its axis-aligned grid.
        image: (D, H, W) float32 tensor, `tones` of the HU, what the L1 norm compares.
        body: (D, H, W) bool tensor, the patient with lungs and bowel gas, without the couch.
        valid: (D, H, W) bool tensor, what the scanner saw.
    """

    grid: Grid
    image: torch.Tensor
    body: torch.Tensor
    valid: torch.Tensor

    def points_mm(self, where: torch.Tensor) -> NDArray[np.float64]:
        """LPS points (N, 3) of the voxels where a mask (D, H, W) is true."""
        return self.grid.index_to_mm(torch.nonzero(where).numpy())

    @cached_property
    def near_body(self) -> torch.Tensor:
        """(D, H, W) bool: body and the air at the skin, which shows where the body ends."""
        return F.max_pool3d(self.body[None].float(), 3, 1, 1)[0].bool() & self.valid

    @cached_property
    def features(self) -> torch.Tensor:
        """(D * H * W, 5): image, its slopes along x, y, z (per mm), and 1 where it is valid."""
        padded = F.pad(self.image[None, None], (1, 1, 1, 1, 1, 1), "replicate")[0, 0]
        inner, step = slice(1, -1), 2 * self.grid.spacing_mm[0]
        found = torch.empty((*self.image.shape, 5))
        found[..., 0] = self.image
        found[..., 1] = (padded[inner, inner, 2:] - padded[inner, inner, :-2]) / step
        found[..., 2] = (padded[inner, 2:, inner] - padded[inner, :-2, inner]) / step
        found[..., 3] = (padded[2:, inner, inner] - padded[:-2, inner, inner]) / step
        found[..., 4] = self.valid
        return found.flatten(0, 2)


def pyramid(volume: Volume, finest_mm: float = 4.0, levels: int = 3) -> list[Level]:
    """Levels of the volume, finest first; each doubles the spacing of the one before."""
    grid = volume.grid.resampled(finest_mm)
    fill = min(HU_RANGE[0], float(np.fmin.reduce(volume.voxels, axis=None)))  # NaN loses
    voxels = np.nan_to_num(volume.resample(grid, fill=fill).voxels, nan=HU_RANGE[0])
    valid = torch.from_numpy(field_of_view(volume, grid, voxels))
    body = torch.from_numpy(body_mask(voxels, finest_mm)) & valid
    found = [Level(grid, torch.from_numpy(tones(voxels)), body, valid)]
    while len(found) < levels:
        found.append(_halved(found[-1]))
    return found


def tones(voxels: NDArray) -> NDArray[np.float32]:
    """Clipped HU in thousands, with the range from fat to bone stretched."""
    soft = np.clip(voxels, *SOFT_TISSUE_HU) * SOFT_TISSUE_GAIN
    return ((np.clip(voxels, *HU_RANGE) + soft) / 1000.0).astype(np.float32)


def body_mask(voxels: NDArray, spacing_mm: float) -> NDArray[np.bool_]:
    """The patient (D, H, W): the largest part above -500 HU, slices filled, couch opened away."""
    tissue = voxels > BODY_HU
    cross = ndimage.generate_binary_structure(3, 1)
    cross[0] = cross[2] = False  # in plane: thin slabs must survive
    steps = max(1, round(6.0 / spacing_mm))
    opened = ndimage.binary_opening(tissue, cross, iterations=steps)
    labels, count = ndimage.label(opened)
    if count == 0:
        return np.zeros(voxels.shape, bool)
    body = labels == np.argmax(np.bincount(labels.ravel())[1:]) + 1
    return _filled(body, cross)


def _filled(body: NDArray[np.bool_], cross: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The body with what it encloses in each slice; ``cross`` are neighbours in plane."""
    outside, _ = ndimage.label(~body, cross)
    open_ = np.zeros(outside.max() + 1, bool)
    for edge in (outside[:, 0], outside[:, -1], outside[:, :, 0], outside[:, :, -1]):
        open_[edge] = True
    return body | ~open_[outside]


def field_of_view(volume: Volume, grid: Grid, voxels: NDArray) -> NDArray[np.bool_]:
    """What the scanner saw (D, H, W): no padding, no corners of an oblique grid, in the circle."""
    unseen = (voxels < PADDING_HU) | _outside_circle(voxels, grid.spacing_mm[0])
    if not volume.grid.is_axis_aligned:
        index = np.moveaxis(np.indices(grid.shape_zyx), 0, -1)
        unseen |= ~volume.grid.contains(grid.index_to_mm(index))
    # the voxels beside are partly padding
    return ~ndimage.binary_dilation(unseen, np.ones((1, 3, 3))) if unseen.any() else ~unseen


def _outside_circle(voxels: NDArray, spacing_mm: float) -> NDArray[np.bool_]:
    """Where (H, W) a reconstruction circle ends: columns of padding that a circle bounds.

    Padding may have the value of air, so only the shape tells: a body's outline is no circle.
    """
    padded = voxels.max(0) <= voxels.min() + 0.5
    seen = ndimage.binary_fill_holes(~padded)
    edge = seen & ndimage.binary_dilation(padded)
    y, x = np.nonzero(edge)
    nothing = np.zeros_like(padded)
    if len(x) < 16:
        return nothing
    # Kasa's fit: x^2 + y^2 = 2 a x + 2 b y + c
    design = np.stack([2 * x, 2 * y, np.ones(len(x))], 1)
    (a, b, c), *_ = np.linalg.lstsq(design, x**2 + y**2, rcond=None)
    radius = np.sqrt(max(c + a * a + b * b, 0.0))
    misfit = np.sqrt(np.mean((np.hypot(x - a, y - b) - radius) ** 2)) * spacing_mm
    return padded if misfit < CIRCLE_MISFIT_MM else nothing


def _halved(level: Level) -> Level:
    """The level averaged over blocks of 2 x 2 x 2 voxels (an odd last slice is repeated)."""
    pad = [n % 2 for n in reversed(level.grid.shape_zyx)]
    spacing = level.grid.spacing_mm[0]

    def mean(voxels: torch.Tensor) -> torch.Tensor:
        whole = F.pad(voxels[None, None].float(), (0, pad[0], 0, pad[1], 0, pad[2]), "replicate")
        return F.avg_pool3d(whole, 2)[0, 0]

    x, y, z = level.grid.origin_mm
    image = mean(level.image)
    depth, height, width = image.shape
    grid = Grid(
        (width, height, depth),
        (2 * spacing,) * 3,
        (x + spacing / 2, y + spacing / 2, z + spacing / 2),
    )
    return Level(grid, image, mean(level.body) > 0.5, mean(level.valid) > 0.99)
