"""Reading a CT from a file or a DICOM series, and writing one.

SimpleITK reads the voxels. It also makes up a coordinate system where a file has none, so that
what it takes on trust is checked first, here and in `nifti` and `text_headers`.
"""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from tlt.errors import InputError
from tlt.io.dicom import MIN_SIZE, read_series
from tlt.io.dicom_files import is_dicom
from tlt.io.files import atomic_path
from tlt.io.nifti import check_nifti, non_finite
from tlt.io.text_headers import check_text_header
from tlt.pacs.source import is_peer_source, pulled_source
from tlt.volume import AIR_HU, Volume, grid_of, to_sitk

ENDINGS = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")

log = logging.getLogger(__name__)


def load_volume(path: str | os.PathLike[str]) -> Volume:
    """The CT at ``path``, in HU, with the orientation that the file has.

    ``path`` is a NIfTI, NRRD or MHA/MHD file, or a folder or zip of one DICOM series;
    ``FOLDER#SERIES_UID`` picks one series of several. Voxels are int16 where the file holds
    integers that fit, otherwise float32. Raises InputError for anything that is not a CT volume
    with a known place in the patient. A series in a PACS is named by its address and UID
    (``dicomweb+https://HOST/dicom-web#UID``, ``dicom://AETITLE@HOST:PORT#UID``); PeerError is
    raised when the PACS fails.
    """
    if is_peer_source(os.fspath(path)):
        with pulled_source(os.fspath(path)) as folder:
            return replace(load_volume(folder), path=folder.name)
    try:
        return _load(*_split_series(os.fspath(path)))
    except OSError as error:
        raise InputError(
            f"{os.fspath(path)}: cannot be read ({error.strerror or error}); check its permissions"
        ) from error


def _load(source: Path, series_uid: str | None) -> Volume:
    if not source.exists():
        raise InputError(f"{source}: no such file or folder; check the path")
    if source.is_dir() or source.suffix.lower() == ".zip" or is_dicom(source):
        volume = read_series(source, series_uid)
    elif series_uid:
        raise InputError(f"{source}: '#{series_uid}' picks a DICOM series, but this is one file")
    else:
        image = read_image(source)
        volume = Volume(sitk.GetArrayFromImage(image), grid_of(image), str(source))
    _check_size(source, volume.grid.size_xyz)
    voxels = hounsfield(volume.voxels, str(source))
    return replace(volume, voxels=voxels, path=str(source))


def ct_files(folder: Path) -> list[Path]:
    """The NIfTI files of a folder by name, without those that end in ``_label.nii.gz``.

    Raises InputError when there is none.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give one that holds CTs (*.nii.gz)")
    files = sorted(p for p in folder.glob("*.nii.gz") if not p.name.endswith("_label.nii.gz"))
    if not files:
        raise InputError(f"{folder}: no *.nii.gz CT in it; give a folder that has some")
    return files


def ct_name(path: Path) -> str:
    """What a file of `ct_files` is called in lists: its name without the ending."""
    return path.name.removesuffix(".nii.gz")


def read_image(path: str | os.PathLike[str]) -> sitk.Image:
    """The 3-D, one-channel image of a NIfTI, NRRD or MHA/MHD file, of whatever modality.

    Raises InputError when the file is missing, damaged, not three-dimensional, of several
    channels, or does not say where it lies in the patient.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; check the path")
    if not path.name.lower().endswith(ENDINGS):
        raise InputError(f"{path}: not an image that tlt reads; give one of {', '.join(ENDINGS)}")
    nifti = check_nifti(path) if path.name.lower().endswith((".nii", ".nii.gz")) else None
    if nifti is None:
        check_text_header(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        _check_kind(path, reader)
        image = reader.Execute()
    except RuntimeError as error:
        raise _unreadable(path, error) from error
    image = image[..., 0] if image.GetDimension() == 4 else image
    _check_axes(path, image)
    bad = non_finite(path, nifti) if nifti else None
    if bad is not None and bad.any():
        voxels = sitk.GetArrayFromImage(image)
        voxels[bad.reshape(voxels.shape)] = np.nan
        restored = sitk.GetImageFromArray(voxels)
        restored.CopyInformation(image)
        return restored
    return image


def save_volume(volume: Volume, path: str | os.PathLike[str]) -> None:
    """Write the volume, compressed, as the ending says (.nii, .nii.gz, .nrrd, .mha); atomic."""
    target = Path(path)
    if not target.name.lower().endswith((".nii", ".nii.gz", ".nrrd", ".mha")):
        raise InputError(f"{target}: unknown image ending; use .nii.gz, .nrrd or .mha")
    write_image(to_sitk(volume), target)


def write_image(image: sitk.Image, path: str | os.PathLike[str]) -> None:
    """Write a SimpleITK image beside ``path`` and rename it; raises InputError if that fails."""
    with atomic_path(path) as beside:
        try:
            sitk.WriteImage(image, str(beside), not str(path).lower().endswith(".nii"))
        except RuntimeError as error:
            raise InputError(
                f"{path}: the image cannot be written; "
                "choose an output folder that is writable and has space"
            ) from error


def hounsfield(voxels: NDArray, name: str) -> NDArray:
    """The voxels as int16 or float32 HU; ``name`` is the file that messages name.

    Up to half of the voxels may be NaN or infinite (padding): they become air, with a warning.
    Raises InputError for a constant image or values that cannot be Hounsfield units.
    """
    if voxels.dtype.kind == "f":
        voxels = _finite(voxels, name)
    low, high = float(voxels.min()), float(voxels.max())
    if low == high:
        raise InputError(f"{name}: every voxel is {low:g}: an empty image; export it again")
    # A CT holds air, lung or fat, all below 0 HU, however tight the crop; MR, PET, masks, stored
    # values without their rescale and images scaled to [0, 1] do not.
    if low >= 0:
        raise InputError(
            f"{name}: not a CT in Hounsfield units: the smallest value is {low:g}, but fat and "
            "air are negative; apply rescale slope and intercept, or give a CT"
        )
    if high - low < 50 or max(-low, high) > 1e5:
        raise InputError(
            f"{name}: not a CT in Hounsfield units: values run from {low:g} to {high:g}; "
            "give the image as reconstructed, not normalised"
        )
    fits = voxels.dtype.kind in "iu" and low >= -32768 and high <= 32767
    return voxels.astype(np.int16 if fits else np.float32, copy=False)


def _finite(voxels: NDArray, name: str) -> NDArray:
    good = np.isfinite(voxels)
    bad = voxels.size - int(np.count_nonzero(good))
    if bad == 0:
        return voxels
    share = bad / voxels.size
    if share > 0.5:
        raise InputError(f"{name}: {share:.0%} of the voxels are NaN or infinite; export it again")
    log.warning("%s: %d voxels are NaN or infinite and are read as air (-1000 HU)", name, bad)
    return np.where(good, voxels, voxels.dtype.type(AIR_HU))


def _split_series(text: str) -> tuple[Path, str | None]:
    if "#" in text and not Path(text).exists():
        folder, uid = text.rsplit("#", 1)
        return Path(folder), uid.strip() or None
    return Path(text), None


def _unreadable(path: Path, error: RuntimeError) -> InputError:
    if "orthonormal" in str(error):
        return InputError(
            f"{path}: its axes are not at right angles (sheared affine); "
            "resample it to a rectangular grid"
        )
    return InputError(
        f"{path}: cannot be read as an image: damaged, incomplete, or not what its ending says; "
        "export it again"
    )


def _check_kind(path: Path, reader: sitk.ImageFileReader) -> None:
    size = reader.GetSize()
    while len(size) > 3 and size[-1] == 1:
        size = size[:-1]
    if len(size) > 3:
        raise InputError(f"{path}: {len(size)}-D image {size}; give one 3-D volume")
    if len(size) < 3 or size[2] == 1:
        raise InputError(f"{path}: 2-D image {size}; give a 3-D volume")
    channels = reader.GetNumberOfComponents()
    if channels != 1:
        raise InputError(f"{path}: {channels} values a voxel (colour or vectors); give one channel")


def _check_size(path: Path, size_xyz: tuple[int, int, int]) -> None:
    if min(size_xyz) < MIN_SIZE:
        raise InputError(
            f"{path}: {' x '.join(map(str, size_xyz))} voxels; at least {MIN_SIZE} along each axis "
            "are needed to find anything again; give a whole volume"
        )


def _check_axes(path: Path, image: sitk.Image) -> None:
    axes = np.array(image.GetDirection()).reshape(3, 3)
    spacing = np.array(image.GetSpacing())
    if not np.isfinite([*axes.flat, *image.GetOrigin()]).all():
        raise InputError(f"{path}: orientation or origin is not finite; export it again")
    if not np.allclose(axes.T @ axes, np.eye(3), atol=1e-3):
        raise InputError(
            f"{path}: its axes are not at right angles (sheared directions); "
            "resample it to a rectangular grid"
        )
    if not ((spacing >= 0.02) & (spacing <= 50)).all():
        raise InputError(
            f"{path}: voxel spacing {tuple(spacing.tolist())} mm is impossible for a CT; "
            "correct the header (units must be mm)"
        )
