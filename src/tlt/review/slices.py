"""Slices of a CT as PNG: every slice of a plane, in one fixed frame, whatever the image's axes are.

Planes are those of `tlt.io.cuts`: radiological, cut along the patient's axes. A sheet says where
the pictures of a plane lie in millimetres, so that the page turns a click into a point.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from PIL import Image

from tlt.errors import InputError
from tlt.geometry import Grid, Triple
from tlt.io.cuts import BONE, LUNG, NO_VOXEL, PLANES, SOFT_TISSUE, Plane, Window
from tlt.volume import Volume, to_sitk

MAX_PIXELS = 1024
KEPT = 192  # slices as HU, at most some 200 MB with those of a 512 x 512 CT
LIVER = Window("liver", 60.0, 160.0)
WINDOWS = (LUNG, SOFT_TISSUE, BONE, LIVER)


@dataclass(frozen=True)
class Sheet:
    """Where the slices of a plane lie.

    Right and down are millimetres along the picture's edges: LPS coordinates, down with its sign
    turned where the axis grows upwards.

    Attributes:
        plane: how it is cut.
        left_mm: right coordinate of the picture's left edge.
        top_mm: down coordinate of its upper edge.
        pixel_mm: side of a pixel.
        width: pixels along a row.
        height: rows.
        first_mm: LPS coordinate, along the normal, of slice 0.
        step_mm: from one slice to the next.
        count: number of slices.
    """

    plane: Plane
    left_mm: float
    top_mm: float
    pixel_mm: float
    width: int
    height: int
    first_mm: float
    step_mm: float
    count: int

    def grid(self, index: int) -> Grid:
        """The voxels of a slice, one thick; rows grow with the LPS axis, also where it is up."""
        origin, size = [0.0, 0.0, 0.0], [1, 1, 1]
        half = self.pixel_mm / 2
        right, down, normal = self.plane.right_axis, self.plane.down_axis, self.plane.normal_axis
        origin[right], size[right] = self.left_mm + half, self.width
        bottom = -(self.top_mm + self.height * self.pixel_mm) + half
        origin[down], size[down] = bottom if self.plane.flip else self.top_mm + half, self.height
        origin[normal] = self.first_mm + index * self.step_mm
        return Grid(
            (size[0], size[1], size[2]), (self.pixel_mm,) * 3, (origin[0], origin[1], origin[2])
        )

    def point_mm(self, index: int, right_mm: float, down_mm: float) -> Triple:
        """The LPS point at a place of a slice."""
        point = [0.0, 0.0, 0.0]
        point[self.plane.right_axis] = right_mm
        point[self.plane.down_axis] = -down_mm if self.plane.flip else down_mm
        point[self.plane.normal_axis] = self.first_mm + index * self.step_mm
        return point[0], point[1], point[2]


def sheet_of(grid: Grid, plane: Plane) -> Sheet:
    """The sheet that shows a whole grid in a plane: pixels as fine as its voxels."""
    low, high = grid.bounds_mm()
    right, down, normal = plane.right_axis, plane.down_axis, plane.normal_axis
    directions = np.abs(np.array(grid.direction).reshape(3, 3))
    spacing = [grid.spacing_mm[int(directions[axis].argmax())] for axis in range(3)]
    extent = high - low
    longest = max(extent[right], extent[down])
    pixel = max(min(spacing[right], spacing[down]), longest / (MAX_PIXELS - 1))
    width, height = (round(float(extent[axis] / pixel)) + 1 for axis in (right, down))
    # The row at the top of the picture is the last one where the axis grows upwards.
    top = -(low[down] + (height - 1) * pixel) if plane.flip else low[down]
    return Sheet(
        plane=plane,
        left_mm=float(low[right] - pixel / 2),
        top_mm=float(top - pixel / 2),
        pixel_mm=float(pixel),
        width=width,
        height=height,
        first_mm=float(low[normal]),
        step_mm=float(spacing[normal]),
        count=math.floor(float(extent[normal]) / spacing[normal] + 1e-3) + 1,
    )


class Stack:
    """A volume ready to be leafed through in every plane; calls may come from several threads."""

    def __init__(self, volume: Volume) -> None:
        self._image = to_sitk(volume)
        # One copy of the voxels serves the slices and whoever needs the volume.
        self.volume = replace(volume, voxels=sitk.GetArrayViewFromImage(self._image))
        self.sheets = {plane.name: sheet_of(volume.grid, plane) for plane in PLANES}
        self._hounsfield = lru_cache(KEPT)(self._cut)

    def png(self, plane: str, index: int, window: Window) -> bytes:
        """A slice as an 8-bit gray PNG; black where nothing was measured.

        Raises:
            InputError: no such plane or slice, or an impossible window.
        """
        sheet = self.sheets.get(plane)
        if sheet is None:
            raise InputError(f"plane '{plane}': use one of {', '.join(self.sheets)}")
        if not 0 <= index < sheet.count:
            raise InputError(f"slice {index}: the {plane} plane has 0 to {sheet.count - 1}")
        if not (math.isfinite(window.level) and 1 <= window.width <= 20000):
            raise InputError(f"window {window.level} / {window.width}: width from 1 to 20000 HU")
        gray = window.gray(self._hounsfield(plane, index))
        buffer = io.BytesIO()
        pixels = np.round(255 * gray).astype(np.uint8)
        Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()

    def _cut(self, plane: str, index: int) -> NDArray[np.float32]:
        """The slice in HU, its first row at the top of the picture."""
        sheet = self.sheets[plane]
        grid = sheet.grid(index)
        filter_ = sitk.ResampleImageFilter()
        filter_.SetSize(grid.size_xyz)
        filter_.SetOutputSpacing(grid.spacing_mm)
        filter_.SetOutputOrigin(grid.origin_mm)
        filter_.SetInterpolator(sitk.sitkLinear)
        filter_.SetDefaultPixelValue(NO_VOXEL)
        filter_.SetOutputPixelType(sitk.sitkFloat32)
        voxels = sitk.GetArrayFromImage(filter_.Execute(self._image))
        values = voxels.squeeze(2 - sheet.plane.normal_axis)
        return values[::-1] if sheet.plane.flip else values
