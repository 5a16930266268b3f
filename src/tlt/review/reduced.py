"""A CT small enough for a 3-D view in a browser without a graphics card."""

from __future__ import annotations

import tempfile
from pathlib import Path

import SimpleITK as sitk

from tlt.volume import Volume, to_sitk

MAX_VOXELS = 4_000_000  # WebGL in software takes over 100 s for a pair of 512 x 512 x 300


def reduced_nifti(volume: Volume, limit: int = MAX_VOXELS) -> bytes:
    """The volume as an uncompressed int16 NIfTI of at most ``limit`` voxels, in the same place."""
    spacing = min(volume.grid.spacing_mm)
    while _count(volume, spacing) > limit:
        spacing *= 1.1
    small = volume.resample(volume.grid.resampled(spacing))
    image = sitk.Cast(sitk.Clamp(to_sitk(small), sitk.sitkFloat32, -1024, 3071), sitk.sitkInt16)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "reduced.nii"
        sitk.WriteImage(image, str(path))
        return path.read_bytes()


def _count(volume: Volume, spacing_mm: float) -> int:
    x, y, z = volume.grid.resampled(spacing_mm).size_xyz
    return x * y * z
