"""DICOM series: what is read equals the phantom that was written; what is wrong is refused."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from conftest import (
    LAS,
    LPS,
    RAS,
    ct_slice,
    make_phantom,
    oblique,
    save_dicom,
    torso_grid,
    write_dicom_series,
)
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedCTImageStorage, RLELossless, SecondaryCaptureImageStorage

from tlt.errors import InputError
from tlt.io.images import load_volume
from tlt.volume import Volume

CT = make_phantom(torso_grid((20, 16, 12), (16.0, 15.0, 20.0)))


def assert_same(read: Volume, truth: Volume) -> None:
    assert np.array_equal(read.voxels, truth.voxels)
    assert read.grid.size_xyz == truth.grid.size_xyz
    corners = [(0, 0, 0), np.array(truth.grid.shape_zyx) - 1, (0, 3, 0)]
    expected = truth.grid.index_to_mm(corners)
    assert np.allclose(read.grid.index_to_mm(corners), expected, atol=1e-3)


def refused(path: object, *words: str) -> str:
    with pytest.raises(InputError) as caught:
        load_volume(path)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    assert "Doe" not in message
    assert "SECRET" not in message
    for word in words:
        assert word in message, message
    return message


@pytest.mark.parametrize("direction", [LPS, RAS, LAS, oblique(), oblique(75, (1, 0.2, 0.1))])
def test_series_is_read_as_written(tmp_path: Path, direction: tuple[float, ...]) -> None:
    truth = make_phantom(torso_grid((20, 16, 12), (16.0, 15.0, 20.0), direction, (5, -7, 300)))
    uid = write_dicom_series(truth, tmp_path / "ct")
    read = load_volume(tmp_path / "ct")
    if direction == LAS:  # left-handed: DICOM's third axis is the cross product of the others
        read = Volume(read.voxels[::-1], read.grid, series_uid=read.series_uid, date=read.date)
        assert np.array_equal(read.voxels, truth.voxels)
        assert np.allclose(read.grid.center_mm, truth.grid.center_mm)
    else:
        assert_same(read, truth)
    assert read.voxels.dtype == np.int16
    assert (read.series_uid, read.date) == (uid, "20240131")


def test_a_patient_is_known_again_but_not_by_name(tmp_path: Path) -> None:
    ids = {"a": "SECRET-1", "b": "SECRET-1", "c": "SECRET-2", "none": ""}
    read = {}
    for name, patient in ids.items():
        write_dicom_series(CT, tmp_path / name, PatientID=patient)
        read[name] = load_volume(tmp_path / name)
    assert read["a"].patient == read["b"].patient != read["c"].patient
    assert read["none"].patient is None
    assert read["a"].resample(CT.grid).patient == read["a"].patient
    assert b"SECRET" not in read["a"].patient
    assert "patient=" not in repr(read["a"])


def test_other_files_and_localizers_are_passed_over(tmp_path: Path) -> None:
    write_dicom_series(CT, tmp_path / "a" / "b")
    scout = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    write_dicom_series(CT, tmp_path / "scout", series="2", ImageType=scout)
    write_dicom_series(CT, tmp_path / "pet", series="3", Modality="PT")
    (tmp_path / "readme.txt").write_text("hello")
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM" + b"junk")
    (tmp_path / "half.dcm").write_bytes(b"\0" * 100)
    capture = ct_slice(CT, 0, "1.2.3")
    capture.SOPClassUID = SecondaryCaptureImageStorage
    del capture.ImagePositionPatient
    save_dicom(capture, tmp_path / "dose.dcm")
    assert_same(load_volume(tmp_path), CT)


def test_localizer_inside_the_series_is_passed_over(tmp_path: Path) -> None:
    def edit(index: int, slice_: Dataset) -> None:
        if index == 3:
            slice_.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
            slice_.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]

    write_dicom_series(CT, tmp_path, edit)
    refused(tmp_path, "slices are missing", "40.00 mm between")


def test_several_series_are_listed_and_one_can_be_picked(tmp_path: Path) -> None:
    other = Volume(CT.voxels + np.int16(5), CT.grid)
    first = write_dicom_series(CT, tmp_path, SeriesDescription="Doe CT")
    second = write_dicom_series(other, tmp_path, series="2")
    refused(tmp_path, "2 CT series", f"{first} (CT, 12 slices)", second, "#SERIES_UID")
    assert_same(load_volume(f"{tmp_path}#{second}"), other)
    assert_same(load_volume(f"{tmp_path}#{first}"), CT)
    refused(f"{tmp_path}#1.2.3", "no series 1.2.3", first)


def test_folder_name_may_hold_a_hash(tmp_path: Path) -> None:
    write_dicom_series(CT, tmp_path / "scan#2")
    assert_same(load_volume(tmp_path / "scan#2"), CT)


def test_wrong_modality(tmp_path: Path) -> None:
    uid = write_dicom_series(CT, tmp_path, Modality="MR")
    refused(tmp_path, "no CT series", f"{uid} (MR, 12 slices)")
    refused(f"{tmp_path}#{uid}", "no CT series")


def test_only_localizer(tmp_path: Path) -> None:
    write_dicom_series(CT, tmp_path, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    refused(tmp_path, "localizer")


def test_empty_folder(tmp_path: Path) -> None:
    refused(tmp_path, "no DICOM image")


def test_missing_slices_are_listed(tmp_path: Path) -> None:
    write_dicom_series(CT, tmp_path, lambda index, _: index not in (4, 7, 8))
    low = CT.grid.index_to_mm((3, 0, 0))[2]
    refused(tmp_path, f"40.00 mm between {low:.2f} and {low + 40:.2f} mm", "60.00 mm", "20.00 mm")


def test_uneven_slices(tmp_path: Path) -> None:
    def edit(index: int, slice_: Dataset) -> None:
        x, y, z = slice_.ImagePositionPatient
        slice_.ImagePositionPatient = [x, y, float(z) + 0.4 * max(index - 5, 0) ** 1.5]

    write_dicom_series(CT, tmp_path, edit)
    refused(tmp_path, "uneven slices")


def test_small_jitter_of_positions_is_accepted(tmp_path: Path) -> None:
    def edit(index: int, slice_: Dataset) -> None:
        x, y, z = slice_.ImagePositionPatient
        slice_.ImagePositionPatient = [float(x) + 0.02, y, float(z) + 0.03 * (-1) ** index]

    write_dicom_series(CT, tmp_path, edit)
    assert np.array_equal(load_volume(tmp_path).voxels, CT.voxels)


def test_second_acquisition(tmp_path: Path) -> None:
    write_dicom_series(CT, tmp_path)

    def again(index: int, slice_: Dataset) -> None:
        slice_.SOPInstanceUID = f"1.2.3.{index}"
        slice_.SeriesInstanceUID = slice_uid
        slice_.AcquisitionNumber = 2

    slice_uid = load_volume(tmp_path).series_uid
    write_dicom_series(CT, tmp_path, again, series="2")
    refused(tmp_path, "12 slice positions occur twice", "acquisitions 1, 2")


def test_copies_of_the_same_image_count_once(tmp_path: Path) -> None:
    write_dicom_series(CT, tmp_path / "a")
    write_dicom_series(CT, tmp_path / "copy")
    assert_same(load_volume(tmp_path), CT)


def test_gantry_tilt(tmp_path: Path) -> None:
    def edit(index: int, slice_: Dataset) -> None:
        x, y, z = slice_.ImagePositionPatient
        slice_.ImagePositionPatient = [x, float(y) + index * 20 * np.tan(np.radians(10)), z]

    write_dicom_series(CT, tmp_path, edit, GantryDetectorTilt=10)
    refused(tmp_path, "gantry tilt of 10.0 degrees", "dcm2niix")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, "different orientation"),
        ({"PixelSpacing": [15, 15]}, "different pixel spacing"),
        ({"Rows": 15}, "different size (20 x 15, 20 x 16)"),
    ],
)
def test_mixed_slices(tmp_path: Path, change: dict, words: str) -> None:
    def edit(index: int, slice_: Dataset) -> None:
        for keyword, value in change.items() if index == 5 else ():
            setattr(slice_, keyword, value)

    write_dicom_series(CT, tmp_path, edit)
    refused(tmp_path, words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"RescaleType": "MGML"}, "not HU"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "unit vectors"),
        ({"PixelSpacing": [0, 0]}, "above 0"),
        ({"PixelSpacing": None}, "lacks its position"),
        ({"RescaleIntercept": 0}, "not a CT in Hounsfield units"),
        ({"SamplesPerPixel": 3, "PixelData": bytes(20 * 16 * 6)}, "colour"),
    ],
)
def test_impossible_headers(tmp_path: Path, change: dict, words: str) -> None:
    write_dicom_series(CT, tmp_path, **change)
    refused(tmp_path, words)


def test_images_without_position(tmp_path: Path) -> None:
    write_dicom_series(CT, tmp_path, lambda _, s: s.__delattr__("ImagePositionPatient"))
    refused(tmp_path, "no ImagePositionPatient")


def test_too_few_slices(tmp_path: Path) -> None:
    write_dicom_series(CT, tmp_path, lambda index, _: index < 3)
    refused(tmp_path, "3 slices")
    one = next(tmp_path.iterdir())
    refused(one, "1 slices", "whole series")


def test_incomplete_pixels(tmp_path: Path) -> None:
    write_dicom_series(CT, tmp_path)
    victim = sorted(tmp_path.iterdir())[4]
    victim.write_bytes(victim.read_bytes()[:-100])
    refused(tmp_path, "1 of 12 slices have incomplete pixel data")


def test_rescale_of_every_slice_is_applied(tmp_path: Path) -> None:
    def edit(index: int, slice_: Dataset) -> None:
        slice_.RescaleSlope, slice_.RescaleIntercept = 0.5, -1024 + index

    write_dicom_series(CT, tmp_path, edit)
    read = load_volume(tmp_path)
    shift = np.arange(12)[:, None, None]
    assert read.voxels.dtype == np.float32
    assert np.allclose(read.voxels, (CT.voxels + 1024.0) / 2 - 1024 + shift)


def test_values_beyond_int16(tmp_path: Path) -> None:
    def edit(index: int, slice_: Dataset) -> None:
        stored = CT.voxels[index].astype(int) + 1024
        stored[0, 0] = 65535
        slice_.BitsStored, slice_.HighBit = 16, 15
        slice_.PixelData = stored.astype("<u2").tobytes()

    write_dicom_series(CT, tmp_path, edit)
    read = load_volume(tmp_path)
    assert read.voxels.dtype == np.float32
    assert (read.voxels[:, 0, 0] == 65535 - 1024).all()
    assert (read.voxels[:, 1:] == CT.voxels[:, 1:]).all()


def test_compressed_pixels(tmp_path: Path) -> None:
    write_dicom_series(CT, tmp_path)
    for path in tmp_path.iterdir():
        slice_ = pydicom.dcmread(path)
        slice_.compress(RLELossless)
        slice_.save_as(path)
    assert_same(load_volume(tmp_path), CT)


def write_enhanced(volume: Volume, path: Path, order: list[int]) -> None:
    """An Enhanced CT with its frames in any order, rescale and spacing shared."""
    image = ct_slice(volume, 0, "1.2.826.0.1.3680043.8.498.1")
    image.SOPClassUID = EnhancedCTImageStorage
    shared = Dataset()
    for name, keys in (
        ("PixelMeasuresSequence", ("PixelSpacing", "SliceThickness")),
        ("PlaneOrientationSequence", ("ImageOrientationPatient",)),
        ("PixelValueTransformationSequence", ("RescaleSlope", "RescaleIntercept", "RescaleType")),
    ):
        item = Dataset()
        for key in keys:
            setattr(item, key, getattr(image, key))
            delattr(image, key)
        setattr(shared, name, [item])
    frames = []
    for index in order:
        item, groups = Dataset(), Dataset()
        item.ImagePositionPatient = volume.grid.index_to_mm((index, 0, 0)).tolist()
        groups.PlanePositionSequence = [item]
        frames.append(groups)
    del image.ImagePositionPatient
    image.SharedFunctionalGroupsSequence, image.PerFrameFunctionalGroupsSequence = [shared], frames
    image.NumberOfFrames = len(order)
    image.PixelData = (volume.voxels[order].astype(int) + 1024).astype("<u2").tobytes()
    save_dicom(image, path)


@pytest.mark.parametrize("order", [range(12), range(11, -1, -1), (3, 0, 1, 2, *range(4, 12))])
def test_enhanced_ct(tmp_path: Path, order: range) -> None:
    truth = make_phantom(torso_grid((20, 16, 12), (16.0, 15.0, 20.0), oblique()))
    write_enhanced(truth, tmp_path / "e.dcm", list(order))
    assert_same(load_volume(tmp_path / "e.dcm"), truth)
    assert_same(load_volume(tmp_path), truth)


def test_two_enhanced_files_in_one_series(tmp_path: Path) -> None:
    write_enhanced(CT, tmp_path / "a.dcm", list(range(6)))
    write_enhanced(CT, tmp_path / "b.dcm", list(range(6, 12)))
    refused(tmp_path, "2 multi-frame images")


def test_enhanced_ct_with_a_missing_frame(tmp_path: Path) -> None:
    write_enhanced(CT, tmp_path / "a.dcm", [0, 1, 2, 4, 5, 6])
    refused(tmp_path, "slices are missing")


def zipped(folder: Path, target: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in folder.iterdir():
            archive.write(path, prefix + path.name)
    return target


def test_zip_is_read_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uid = write_dicom_series(CT, tmp_path / "ct")
    archive = zipped(tmp_path / "ct", tmp_path / "ct.zip", "../../../escape/")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    read = load_volume(archive)
    assert_same(read, CT)
    assert read.path == str(archive)
    assert_same(load_volume(f"{archive}#{uid}"), CT)
    assert not list((tmp_path / "tmp").iterdir())
    assert not list(tmp_path.parent.rglob("escape"))


def test_bad_zips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dicom_series(CT, tmp_path / "ct")
    archive = zipped(tmp_path / "ct", tmp_path / "ct.zip")
    (tmp_path / "cut.zip").write_bytes(archive.read_bytes()[:-300])
    refused(tmp_path / "cut.zip", "damaged")
    with zipfile.ZipFile(tmp_path / "text.zip", "w") as text:
        text.writestr("a.txt", "hello")
    refused(tmp_path / "text.zip", "no DICOM image")
    monkeypatch.setattr("tlt.io.zips.MAX_BYTES", 1000)
    refused(archive, "GiB")
    monkeypatch.setattr("tlt.io.zips.MAX_FILES", 3)
    refused(archive, "12 files")
