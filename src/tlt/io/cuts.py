"""Slices for people: which planes, which window, and the pixels.

Planes are radiological: the patient's right is on the left, axial slices are seen from the feet,
the head is up. They are cut along the patient's axes (LPS), whatever the image's own axes are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tlt.geometry import Grid
from tlt.volume import Volume

NO_VOXEL = -32000.0


@dataclass(frozen=True)
class Plane:
    """A way to cut.

    Attributes:
        name: axial, coronal or sagittal.
        right_axis: LPS axis that grows to the right of the picture.
        down_axis: LPS axis along the rows.
        flip: whether that axis grows upwards.
        letters: where the left, right, top and bottom edge lie in the patient.
    """

    name: str
    right_axis: int
    down_axis: int
    flip: bool
    letters: str

    @property
    def normal_axis(self) -> int:
        """The LPS axis that looks out of the picture."""
        return 3 - self.right_axis - self.down_axis

    def offset(self, from_mm: ArrayLike, to_mm: ArrayLike) -> tuple[float, float]:
        """Millimetres right and down in the picture from one LPS point to another."""
        step = np.subtract(to_mm, from_mm)
        down = -step[self.down_axis] if self.flip else step[self.down_axis]
        return float(step[self.right_axis]), float(down)


PLANES = (
    Plane("axial", 0, 1, False, "RLAP"),
    Plane("coronal", 0, 2, True, "RLHF"),
    Plane("sagittal", 1, 2, True, "APHF"),
)


@dataclass(frozen=True)
class Window:
    """The HU range that a picture shows, by its middle (level) and width."""

    name: str
    level: float
    width: float

    @property
    def low(self) -> float:
        """HU that is black."""
        return self.level - self.width / 2

    @property
    def high(self) -> float:
        """HU that is white."""
        return self.level + self.width / 2

    def gray(self, hounsfield: NDArray) -> NDArray[np.float64]:
        """Brightness in [0, 1]; NaN stays NaN."""
        return np.clip((hounsfield - self.low) / self.width, 0, 1)


LUNG = Window("lung", -500.0, 1500.0)
SOFT_TISSUE = Window("soft tissue", 40.0, 400.0)
BONE = Window("bone", 400.0, 1800.0)


def choose_window(volume: Volume, center_mm: Sequence[float], radius_mm: float) -> Window:
    """The window that suits a lesion's surroundings: a ball of twice its radius."""
    reach = max(2 * radius_mm, 12.0)
    steps = np.linspace(-reach, reach, 15)
    offsets = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    points = np.asarray(center_mm) + offsets[np.linalg.norm(offsets, axis=1) <= reach]
    values = volume.sample(points[volume.grid.contains(points)])
    if not len(values):
        return SOFT_TISSUE
    # Lung lies between fat (above -200 HU) and the air around the body (-1000 HU). Where it is less
    # than half, as beside the chest wall, its window would leave all else one flat gray.
    if np.mean((values > -985) & (values < -400)) > 0.5:
        return LUNG
    return BONE if np.mean(values > 200) > 0.2 else SOFT_TISSUE


def cut(
    volume: Volume, center_mm: ArrayLike, plane: Plane, field_mm: float, pixels: int
) -> NDArray:
    """The square slice (pixels, pixels) in HU about a point; NaN where there is no voxel."""
    spacing = field_mm / pixels
    size_xyz = [pixels, pixels, pixels]
    size_xyz[plane.normal_axis] = 1
    # An even number of pixels has no middle one: half a pixel puts the point in the middle.
    center = np.array(center_mm, float)
    if pixels % 2 == 0:
        center[[plane.right_axis, plane.down_axis]] += spacing / 2
    x, y, z = size_xyz
    grid = Grid.around(center, (z, y, x), spacing)
    values = volume.resample(grid, fill=NO_VOXEL).voxels.squeeze(2 - plane.normal_axis)
    # Scanners, too, mark what they did not measure with values far below air.
    values = np.where(values < -3000, np.nan, values)
    return values[::-1] if plane.flip else values


def nearby(volume: Volume, center_mm: Sequence[float], field_mm: float) -> Volume | None:
    """The part of the volume within a field about a point, to cut quickly; None if none is."""
    signs = np.stack(np.meshgrid(*[(-1, 1)] * 3, indexing="ij"), -1).reshape(-1, 3)
    index = volume.grid.mm_to_index(np.asarray(center_mm) + field_mm / 2 * signs)
    shape = np.array(volume.grid.shape_zyx)
    start = np.clip(np.floor(index.min(0)).astype(int) - 1, 0, shape)
    stop = np.clip(np.ceil(index.max(0)).astype(int) + 2, 0, shape)
    if np.any(stop <= start):
        return None
    box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    voxels = np.ascontiguousarray(volume.voxels[box])
    return Volume(voxels, volume.grid.cropped(start, stop - start))
