"""Phantoms made on the spot: a small torso with a known truth, and its DICOM series."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, settings
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from tlt.geometry import Grid
from tlt.io.images import save_volume
from tlt.volume import Volume

# No deadline, nor a limit on drawing: the machine that runs the tests may be busy with a training.
settings.register_profile(
    "tlt",
    deadline=None,
    max_examples=40,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("tlt")

# (centre in LPS mm, radius in mm, HU): a lung nodule, a node and a lesion in the soft tissue.
SPHERES = (((-70.0, 0.0, 10.0), 14.0, 30.0), ((0.0, 30.0, -40.0), 12.0, 120.0),
           ((40.0, -60.0, -60.0), 10.0, -10.0))  # fmt: skip
# Packages bring programs along, such as those of dcmqi; the environment need not be activated.
os.environ["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))

RAS = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)
LAS = (1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)
LPS = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def oblique(degrees: float = 20.0, axis: Sequence[float] = (0.3, 0.5, 0.8)) -> tuple[float, ...]:
    """A direction matrix turned about an axis (Rodrigues)."""
    x, y, z = np.array(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.radians(degrees)
    turned = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return tuple(turned.ravel().tolist())


def torso_grid(
    size_xyz: tuple[int, int, int] = (56, 40, 30),
    spacing_mm: tuple[float, float, float] = (6.0, 6.5, 8.0),
    direction: tuple[float, ...] = LPS,
    center_mm: Sequence[float] = (0.0, 0.0, 0.0),
) -> Grid:
    """A grid of any orientation with its middle at ``center_mm``."""
    at_zero = Grid(size_xyz, spacing_mm, (0.0, 0.0, 0.0), direction)
    x, y, z = (np.array(center_mm) - at_zero.center_mm).tolist()
    return Grid(size_xyz, spacing_mm, (x, y, z), direction)


def phantom_hu(points_mm: NDArray, spheres: Sequence = SPHERES) -> NDArray:
    """HU (...) at LPS points (..., 3): body 40, lungs -850, spine 300, spheres, air."""
    x, y, z = np.moveaxis(points_mm, -1, 0)
    hu = np.where((x / 150) ** 2 + (y / 105) ** 2 <= 1, 40.0, -1000.0)
    for side in (-75, 75):
        lung = ((x - side) / 50) ** 2 + ((y + 5) / 70) ** 2 + ((z - 30) / 90) ** 2 <= 1
        hu[lung] = -850
    hu[x**2 + (y - 70) ** 2 <= 18**2] = 300
    for center_mm, radius_mm, value in spheres:
        hu[np.linalg.norm(points_mm - np.array(center_mm), axis=-1) <= radius_mm] = value
    return hu


def make_phantom(
    grid: Grid | None = None,
    spheres: Sequence = SPHERES,
    noise_hu: float = 0.0,
    seed: int = 0,
) -> Volume:
    """A torso-like CT, int16, on any grid; the same anatomy lies at the same millimetres."""
    grid = grid or torso_grid()
    index = np.moveaxis(np.indices(grid.shape_zyx), 0, -1)
    hu = phantom_hu(grid.index_to_mm(index), spheres)
    hu += np.random.default_rng(seed).normal(0, noise_hu, hu.shape) if noise_hu else 0
    return Volume(np.round(hu).astype(np.int16), grid)


def ct_slice(volume: Volume, index: int, series_uid: str) -> Dataset:
    """The DICOM CT image of one slice of a volume, stored unsigned with intercept -1024."""
    grid = volume.grid
    slice_ = Dataset()
    slice_.SOPClassUID = CTImageStorage
    slice_.SOPInstanceUID = generate_uid(entropy_srcs=[series_uid, str(index)])
    slice_.SeriesInstanceUID = series_uid
    slice_.StudyInstanceUID = generate_uid(entropy_srcs=["study"])
    slice_.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame"])
    slice_.Modality, slice_.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    slice_.PatientName, slice_.PatientID = "Doe^Jane", "SECRET-ID"
    slice_.AcquisitionDate, slice_.SeriesDate = "20240131", "20240201"
    slice_.AcquisitionNumber, slice_.InstanceNumber = 1, index + 1
    axes = np.array(grid.direction).reshape(3, 3)
    slice_.ImageOrientationPatient = [*axes[:, 0].tolist(), *axes[:, 1].tolist()]
    slice_.ImagePositionPatient = grid.index_to_mm((index, 0, 0)).tolist()
    slice_.PixelSpacing = [grid.spacing_mm[1], grid.spacing_mm[0]]
    slice_.SliceThickness = grid.spacing_mm[2]
    slice_.Columns, slice_.Rows = grid.size_xyz[:2]
    slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
    slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit = 16, 12, 11
    slice_.PixelRepresentation = 0
    slice_.RescaleSlope, slice_.RescaleIntercept, slice_.RescaleType = 1, -1024, "HU"
    slice_.PixelData = (volume.voxels[index].astype(int) + 1024).astype("<u2").tobytes()
    return slice_


def save_dicom(dataset: Dataset, path: Path) -> None:
    """Write a dataset as a DICOM file, explicit little endian."""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)


def write_dicom_series(
    volume: Volume,
    folder: Path,
    edit: Callable[[int, Dataset], bool | None] | None = None,
    series: str = "1",
    **changes: object,
) -> str:
    """Write a volume as a DICOM series and return its Series Instance UID.

    ``changes`` are set on every slice (``Modality="MR"``); ``edit(index, slice)`` changes one
    slice, and leaves it out by returning False. Files are named so that their order says nothing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    uid = generate_uid(entropy_srcs=["series", series])
    count = volume.grid.size_xyz[2]
    for index in range(count):
        slice_ = ct_slice(volume, index, uid)
        for keyword, value in changes.items():
            setattr(slice_, keyword, value)
        if edit is None or edit(index, slice_) is not False:
            save_dicom(slice_, folder / f"s{series}_{index * 7919 % 10007:05d}.dcm")
    return uid


@pytest.fixture(scope="session")
def ct_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two phantoms and a label file that must be left alone."""
    folder = tmp_path_factory.mktemp("cts")
    for seed in (0, 1):
        grid = torso_grid((70, 52, 40), (5.0, 5.0, 6.0))
        save_volume(make_phantom(grid, noise_hu=30, seed=seed), folder / f"p{seed}.nii.gz")
    (folder / "p0_label.nii.gz").write_bytes(b"no CT")
    return folder
