"""A CT volume: voxels in Hounsfield units together with their grid."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from tlt.geometry import AffineTransform, Grid

AIR_HU = -1000.0


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels ``(D, H, W)`` in HU and where they lie.

    Attributes:
        voxels: array (D, H, W), int16 or float32.
        grid: its grid; ``grid.shape_zyx == voxels.shape``.
        path: where it was read from, for reports; empty when made in memory.
        series_uid: DICOM Series Instance UID, if there is one.
        date: acquisition date as YYYYMMDD, if known; it only orders time points.
        patient: equal for images of one DICOM PatientID, and of no use beyond this process; None
            where there is no such ID.
    """

    voxels: NDArray
    grid: Grid
    path: str = ""
    series_uid: str | None = None
    date: str | None = None
    patient: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.voxels.shape != self.grid.shape_zyx:
            raise ValueError(
                f"voxels have shape {self.voxels.shape}, but the grid says {self.grid.shape_zyx}"
            )

    def resample(
        self,
        grid: Grid,
        pull: AffineTransform | None = None,
        fill: float = AIR_HU,
    ) -> Volume:
        """This volume on another grid, float32, by linear interpolation.

        Voxels are averaged first where the new grid is at least twice as coarse, so that noise
        does not alias. ``pull`` maps a point of the new grid to the point to read here (identity
        by default). Outside this volume the value is ``fill``.
        """
        image = _shrunk(self, grid)
        filter_ = sitk.ResampleImageFilter()
        filter_.SetSize(grid.size_xyz)
        filter_.SetOutputSpacing(grid.spacing_mm)
        filter_.SetOutputOrigin(grid.origin_mm)
        filter_.SetOutputDirection(grid.direction)
        filter_.SetInterpolator(sitk.sitkLinear)
        filter_.SetDefaultPixelValue(float(fill))
        filter_.SetOutputPixelType(sitk.sitkFloat32)
        if pull is not None:
            filter_.SetTransform(
                sitk.AffineTransform(pull.matrix.ravel().tolist(), pull.translation_mm.tolist())
            )
        voxels = sitk.GetArrayFromImage(filter_.Execute(image))
        return replace(self, voxels=voxels, grid=grid)

    def sample(self, points_mm: ArrayLike, fill: float = AIR_HU) -> NDArray[np.float64]:
        """HU (...) at LPS points (..., 3) by trilinear interpolation; ``fill`` outside."""
        points = np.asarray(points_mm, float)
        index = self.grid.mm_to_index(points.reshape(-1, 3)).T
        values = ndimage.map_coordinates(
            self.voxels, index, order=1, cval=fill, output=np.float64, mode="grid-constant"
        )
        return values.reshape(points.shape[:-1])


def to_sitk(volume: Volume) -> sitk.Image:
    """The volume as a SimpleITK image (a copy)."""
    image = sitk.GetImageFromArray(volume.voxels)
    image.SetSpacing(volume.grid.spacing_mm)
    image.SetOrigin(volume.grid.origin_mm)
    image.SetDirection(volume.grid.direction)
    return image


def grid_of(image: sitk.Image) -> Grid:
    """The grid of a three-dimensional SimpleITK image."""
    return Grid(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())


def _shrunk(volume: Volume, grid: Grid) -> sitk.Image:
    """The volume averaged over whole voxels, as far as the target spacing allows."""
    target = min(grid.spacing_mm)
    factors = [
        max(1, min(int(target / s + 1e-6), n))
        for s, n in zip(volume.grid.spacing_mm, volume.grid.size_xyz, strict=True)
    ]
    image = to_sitk(volume)
    return sitk.BinShrink(image, factors) if max(factors) > 1 else image
