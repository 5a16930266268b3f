"""Images: what is written is read again; what has no place or no HU is refused."""

from __future__ import annotations

import gzip
import logging
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from conftest import LAS, LPS, RAS, make_phantom, oblique, torso_grid

from tlt.errors import InputError
from tlt.geometry import Grid
from tlt.io.files import atomic_path, atomic_write
from tlt.io.images import hounsfield, load_volume, save_volume
from tlt.volume import Volume, to_sitk

CT = make_phantom(torso_grid((20, 16, 12), (16.0, 15.0, 20.0), oblique(), (5, -7, 300)))
RAW = bytes(CT.voxels.astype("<i2").tobytes())
SIZES = "20 16 12"


def refused(path: object, *words: str) -> str:
    with pytest.raises(InputError) as caught:
        load_volume(path)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    for word in words:
        assert word in message, message
    return message


def assert_same(read: Volume, truth: Volume) -> None:
    assert np.array_equal(read.voxels, truth.voxels)
    assert read.grid.size_xyz == truth.grid.size_xyz
    corners = [(0, 0, 0), np.array(truth.grid.shape_zyx) - 1, (0, 3, 0), (5, 0, 2)]
    expected = truth.grid.index_to_mm(corners)
    assert np.allclose(read.grid.index_to_mm(corners), expected, atol=1e-3)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("direction", [LPS, RAS, LAS, oblique()])
def test_round_trip(tmp_path: Path, ending: str, direction: tuple[float, ...]) -> None:
    truth = make_phantom(torso_grid((20, 16, 12), (16.0, 15.0, 20.0), direction, (5, -7, 300)))
    path = tmp_path / "new" / f"ct{ending}"
    save_volume(truth, path)
    read = load_volume(path)
    assert_same(read, truth)
    assert read.voxels.dtype == np.int16
    assert (read.path, read.series_uid, read.date) == (str(path), None, None)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_mhd_with_its_raw_file(tmp_path: Path) -> None:
    sitk.WriteImage(to_sitk(CT), str(tmp_path / "ct.mhd"))
    assert_same(load_volume(tmp_path / "ct.mhd"), CT)
    (tmp_path / "ct.raw").unlink()
    refused(tmp_path / "ct.mhd", "cannot be read")


def test_agrees_with_nibabel(tmp_path: Path) -> None:
    save_volume(CT, tmp_path / "ct.nii.gz")
    image = nib.load(tmp_path / "ct.nii.gz")
    index_zyx = np.array([3, 4, 5])
    ras = image.affine @ [*index_zyx[::-1], 1]
    assert np.allclose(CT.grid.index_to_mm(index_zyx) * (-1, -1, 1), ras[:3], atol=1e-3)
    assert np.array_equal(np.asarray(image.dataobj).T, CT.voxels)


def test_nifti_written_by_nibabel_with_a_scale(tmp_path: Path) -> None:
    affine = np.diag([-2.0, -3.0, 4.0, 1.0])
    image = nib.Nifti1Image(CT.voxels.T, affine)
    image.header.set_slope_inter(0.5, -200)
    nib.save(image, tmp_path / "ct.nii")
    read = load_volume(tmp_path / "ct.nii")
    assert np.allclose(read.voxels, CT.voxels * 0.5 - 200)
    assert np.allclose(read.grid.spacing_mm, (2, 3, 4))


def test_types(tmp_path: Path) -> None:
    values = CT.voxels.astype(np.int32)
    assert hounsfield(values, "x").dtype == np.int16
    wide = values.copy()
    wide[0, 0, 0] = 40_000
    assert hounsfield(wide, "x").dtype == np.float32
    assert hounsfield(values.astype(float), "x").dtype == np.float32


def test_missing_and_unknown_files(tmp_path: Path) -> None:
    refused(tmp_path / "no.nii.gz", "no such file")
    (tmp_path / "ct.txt").write_text("hello")
    refused(tmp_path / "ct.txt", "not an image that tlt reads", ".nrrd")
    save_volume(CT, tmp_path / "ct.nii")
    with pytest.raises(InputError, match="picks a DICOM series"):
        load_volume(f"{tmp_path / 'ct.nii'}#1.2.3")


def test_ending_in_capitals(tmp_path: Path) -> None:
    save_volume(CT, tmp_path / "ct.nii.gz")
    (tmp_path / "ct.nii.gz").rename(tmp_path / "CT.NII.GZ")
    assert_same(load_volume(tmp_path / "CT.NII.GZ"), CT)


def test_nifti_2(tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(CT.voxels.T, np.eye(4)), tmp_path / "ct.nii.gz")
    refused(tmp_path / "ct.nii.gz", "NIfTI-2")


def test_nifti_of_the_other_byte_order(tmp_path: Path) -> None:
    voxels = CT.voxels.astype(np.float32)
    voxels[3, 4, 5] = np.nan
    header = nib.Nifti1Header(endianness=">")
    image = nib.Nifti1Image(voxels.T, np.eye(4), header)
    image.set_data_dtype(">f4")
    nib.save(image, tmp_path / "ct.nii")
    read = load_volume(tmp_path / "ct.nii").voxels
    assert read[3, 4, 5] == -1000
    read[3, 4, 5] = CT.voxels[3, 4, 5]
    assert np.array_equal(read, CT.voxels)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha", ".mhd"])
def test_text_renamed_and_empty_files(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"ct{ending}"
    path.write_text("this is no image\n")
    refused(path)
    path.write_bytes(b"")
    refused(path)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_truncated_files(tmp_path: Path, ending: str, share: float) -> None:
    path = tmp_path / f"ct{ending}"
    save_volume(CT, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    refused(path)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_damaged_compression(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"ct{ending}"
    save_volume(CT, path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    refused(path, "damaged", "again")


def test_gzip_of_several_members(tmp_path: Path) -> None:
    save_volume(CT, tmp_path / "ct.nii")
    data = (tmp_path / "ct.nii").read_bytes()
    parts = [gzip.compress(data[i : i + 1000]) for i in range(0, len(data), 1000)]
    (tmp_path / "ct.nii.gz").write_bytes(b"".join(parts))
    assert_same(load_volume(tmp_path / "ct.nii.gz"), CT)


def nifti_with(tmp_path: Path, offset: int, layout: str, *values: float) -> Path:
    save_volume(CT, tmp_path / "ct.nii")
    data = bytearray((tmp_path / "ct.nii").read_bytes())
    struct.pack_into(layout, data, offset, *values)
    (tmp_path / "ct.nii").write_bytes(data)
    return tmp_path / "ct.nii"


def test_nifti_without_coordinate_system(tmp_path: Path) -> None:
    path = nifti_with(tmp_path, 252, "<2h", 0, 0)
    refused(path, "no coordinate system", "qform_code and sform_code are 0")


def test_nifti_with_zero_spacing(tmp_path: Path) -> None:
    refused(nifti_with(tmp_path, 80, "<3f", 0, 0, 0), "spacing")


def test_nifti_with_nan_affine(tmp_path: Path) -> None:
    path = nifti_with(tmp_path, 252, "<2h", 0, 1)
    data = bytearray(path.read_bytes())
    struct.pack_into("<f", data, 292, np.nan)
    path.write_bytes(data)
    refused(path)


def test_sheared_nifti(tmp_path: Path) -> None:
    affine = np.array([[2, 0, 0, 0], [0, 2, 0.8, 0], [0, 0, 3, 0], [0, 0, 0, 1.0]])
    nib.save(nib.Nifti1Image(CT.voxels.T, affine), tmp_path / "ct.nii.gz")
    refused(tmp_path / "ct.nii.gz", "right angles")


def nrrd(path: Path, *fields: str) -> Path:
    lines = ["NRRD0004", "type: short", "dimension: 3", f"sizes: {SIZES}", "endian: little"]
    path.write_bytes("\n".join([*lines, "encoding: raw", *fields, "", ""]).encode() + RAW)
    return path


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (["spacings: 1 1 2"], "'space' is missing"),
        (["space: left-posterior-superior", "spacings: 1 1 2"], "no 'space directions'"),
        (["space: scanner-xyz", "space directions: (1,0,0) (0,1,0) (0,0,2)"], "scanner-xyz"),
        (["space: LPS", "space directions: (1,0,0) (0,1,0) (0,0.8,2)"], "right angles"),
        (["space: LPS", "space directions: (1,0,0) (0,1,0) (0,0,200)"], "impossible"),
    ],
)
def test_nrrd_without_a_usable_frame(tmp_path: Path, fields: list[str], words: str) -> None:
    refused(nrrd(tmp_path / "ct.nrrd", *fields), words)


def test_nrrd_in_ras_becomes_lps(tmp_path: Path) -> None:
    fields = ("space: RAS", "space directions: (1,0,0) (0,2,0) (0,0,3)", "space origin: (5,6,7)")
    grid = load_volume(nrrd(tmp_path / "ct.nrrd", *fields)).grid
    assert np.allclose(grid.index_to_mm((1, 1, 1)), (-6, -8, 10))


def mha(path: Path, *fields: str) -> Path:
    lines = ["ObjectType = Image", "NDims = 3", "BinaryData = True", *fields]
    lines += [f"DimSize = {SIZES}", "ElementType = MET_SHORT", "ElementDataFile = LOCAL"]
    path.write_bytes("\n".join([*lines, ""]).encode() + RAW)
    return path


def test_mha_without_coordinate_system(tmp_path: Path) -> None:
    path = mha(tmp_path / "ct.mha", "ElementSpacing = 1 1 2")
    refused(path, "no TransformMatrix")
    path = mha(tmp_path / "ct.mha", "ElementSpacing = 1 1 2", "Offset = 1 2 3")
    assert load_volume(path).grid.origin_mm == (1, 2, 3)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((16, 20), "2-D"),
        ((1, 16, 20), "2-D"),
        ((3, 12, 16, 20), "4-D"),
        ((3, 16, 20), "at least 4"),
        ((12, 16, 2), "at least 4"),
    ],
)
def test_shapes_that_are_no_volume(tmp_path: Path, shape: tuple[int, ...], words: str) -> None:
    voxels = np.random.default_rng(0).integers(-1000, 500, shape).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels.T, np.eye(4)), tmp_path / "ct.nii.gz")
    refused(tmp_path / "ct.nii.gz", words)


def test_a_slab_of_four_slices_is_a_volume(tmp_path: Path) -> None:
    slab = Volume(CT.voxels[:4], CT.grid.cropped((0, 0, 0), (4, 16, 20)))
    save_volume(slab, tmp_path / "ct.nii.gz")
    assert_same(load_volume(tmp_path / "ct.nii.gz"), slab)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_colour_image(tmp_path: Path, ending: str) -> None:
    image = sitk.GetImageFromArray(np.zeros((12, 16, 20, 3), np.uint8), isVector=True)
    sitk.WriteImage(image, str(tmp_path / f"ct{ending}"))
    refused(tmp_path / f"ct{ending}", "values a voxel")


@pytest.mark.parametrize(
    ("voxels", "words"),
    [
        (np.full((9, 9, 9), -1000, np.int16), "every voxel is -1000"),
        (np.arange(1000).reshape(10, 10, 10), "smallest value is 0"),
        (np.arange(1000, dtype=np.uint16).reshape(10, 10, 10) + 31768, "smallest value is 31768"),
        (np.linspace(-1, 1, 1000).reshape(10, 10, 10), "normalised"),
        (np.linspace(-1e30, 1, 1000).reshape(10, 10, 10), "normalised"),
    ],
)
def test_values_that_are_no_hounsfield_units(voxels: np.ndarray, words: str) -> None:
    with pytest.raises(InputError, match=words):
        hounsfield(voxels, "x.nii")


def test_tight_crop_of_soft_tissue_is_a_ct() -> None:
    crop = np.random.default_rng(0).normal(60, 25, (10, 20, 20)).astype(np.int16)
    assert np.array_equal(hounsfield(crop, "x"), crop)


@pytest.mark.parametrize("name", ["ct.nii", "ct.nii.gz", "ct.nrrd", "ct.mha"])
def test_some_nan_becomes_air_with_a_warning(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    voxels = CT.voxels.astype(np.float32)
    voxels[0], voxels[1, 0, 0] = np.nan, np.inf
    save_volume(Volume(voxels, CT.grid), tmp_path / name)
    with caplog.at_level(logging.WARNING):
        read = load_volume(tmp_path / name)
    assert (read.voxels[0] == -1000).all()
    assert read.voxels[1, 0, 0] == -1000
    assert np.array_equal(read.voxels[2:], CT.voxels[2:])
    assert "321 voxels" in caplog.text


def test_mostly_nan_is_refused() -> None:
    voxels = np.full((10, 10, 10), np.nan)
    voxels[:4] = CT.voxels[:10, :10, :10][:4]
    with pytest.raises(InputError, match="60% of the voxels are NaN"):
        hounsfield(voxels, "x")


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    atomic_write(target, "old")

    def fail() -> None:
        with atomic_path(target) as beside:
            beside.write_text("half")
            assert beside.suffix == ".json"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
    atomic_write(target, b"new")
    assert target.read_bytes() == b"new"


def test_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file" / "a.json", tmp_path):
        with pytest.raises(InputError, match="cannot be written"):
            atomic_write(path, "text")
    with pytest.raises(InputError, match="cannot be written"):
        save_volume(CT, tmp_path / "file" / "ct.nii.gz")
    with pytest.raises(InputError, match="unknown image ending"):
        save_volume(CT, tmp_path / "ct.jpg")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(InputError, match="No space left on device"):
        atomic_write(tmp_path / "a.txt", "text")
    assert not list(tmp_path.iterdir())


def test_grid_of_a_deep_lesion_slab(tmp_path: Path) -> None:
    """DeepLesion stores (y, x, z) with an affine that exchanges and reverses the axes."""
    affine = np.array([[0, -2.0, 0, 0], [-3.0, 0, 0, 0], [0, 0, -5.0, 0], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(CT.voxels.T, affine), tmp_path / "slab.nii.gz")
    grid: Grid = load_volume(tmp_path / "slab.nii.gz").grid
    assert np.allclose(grid.index_to_mm((1, 1, 1)), (2, 3, -5))
