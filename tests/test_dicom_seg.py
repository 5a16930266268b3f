"""DICOM SEG and RTSTRUCT: valid, the same voxels and outlines for other readers, and refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from conftest import LPS, RAS, oblique
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import assert_valid as valid
from marks import (
    at,
    ball,
    centroid,
    found,
    marked,
    need,
    ran,
    series,
    with_extents,
)
from test_dicom_sr import enhanced, read_or_refused, refused

from tlt.geometry import Grid
from tlt.io.dicom_rtstruct import write_rtstruct
from tlt.io.dicom_seg import write_seg
from tlt.io.images import load_volume, save_volume
from tlt.io.lesions import read_lesions, read_with_extents
from tlt.io.masks import on_grid
from tlt.lesion import Lesion, Match, Status
from tlt.volume import Volume

EVERY = pytest.mark.parametrize("direction", [LPS, RAS, oblique()], ids=["LPS", "RAS", "oblique"])


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    return series(tmp_path_factory.mktemp("ct"), oblique())


def voxels(extent: Volume) -> set[tuple[float, ...]]:
    points = extent.grid.index_to_mm(np.argwhere(extent.voxels))
    return {tuple(p) for p in np.round(points, 2) + 0.0}


# SEG


@EVERY
def test_segments_come_back_as_they_were(tmp_path: Path, direction: tuple[float, ...]) -> None:
    volume = series(tmp_path / "ct", direction)
    matches = with_extents(found(marked(volume.grid)), volume.grid)
    assert write_seg(matches, volume, tmp_path / "seg.dcm") == ["L1", "L 2", "L3"]
    valid(tmp_path / "seg.dcm")
    read = read_with_extents(tmp_path / "seg.dcm", volume)
    for (lesion, extent), match in zip(read, matches, strict=True):
        assert (lesion.id, lesion.tracking_uid) == (match.lesion.id, match.lesion.tracking_uid)
        assert (lesion.label, lesion.nodal) == (match.lesion.label, match.lesion.nodal)
        assert extent is not None
        assert match.extent is not None
        assert voxels(extent) == voxels(match.extent)
        assert np.allclose(lesion.center_mm, centroid(match.extent), atol=1e-3)
    nifti = tmp_path / "ct.nii.gz"
    save_volume(volume, nifti)
    same = read_lesions(tmp_path / "seg.dcm", load_volume(nifti))
    assert np.allclose([x.center_mm for x in same], [x.center_mm for x, _ in read], atol=1e-2)


@EVERY
def test_dcmqi_and_highdicom_see_the_same_voxels(
    tmp_path: Path, direction: tuple[float, ...]
) -> None:
    need("segimage2itkimage")
    volume = series(tmp_path / "ct", direction)
    matches = with_extents(found(marked(volume.grid)), volume.grid)
    write_seg(matches, volume, tmp_path / "seg.dcm")
    ran("segimage2itkimage", "--inputDICOM", tmp_path / "seg.dcm", "-t", "nrrd",
        "--outputDirectory", tmp_path, "--prefix", "q")  # fmt: skip
    images = [sitk.ReadImage(str(p)) for p in sorted(tmp_path.glob("q-*.nrrd"))]
    seen = {}
    for image in images:
        labels = sitk.GetArrayFromImage(image)
        for value in np.unique(labels[labels > 0]).tolist():
            index = np.argwhere(labels == value)[:, ::-1].tolist()
            seen[value] = np.array([image.TransformIndexToPhysicalPoint(i) for i in index])
    segmentation = hd.seg.segread(tmp_path / "seg.dcm")
    for number, match in enumerate(matches, 1):
        description = segmentation.get_segment_description(number)
        assert description.tracking_uid == match.lesion.tracking_uid
        assert description.tracking_id == match.lesion.id
        assert match.extent is not None
        points = match.extent.grid.index_to_mm(np.argwhere(match.extent.voxels))
        assert len(seen[number]) == len(points)
        assert np.allclose(np.sort(seen[number], 0), np.sort(points, 0), atol=0.1)
        cube = segmentation.get_volume(segment_numbers=[number])
        index = np.argwhere(np.asarray(cube.array).reshape(cube.spatial_shape))
        mine = cube.map_indices_to_reference(index)
        assert np.allclose(np.sort(mine, 0), np.sort(points, 0), atol=0.1)


def test_overlapping_segments_and_enhanced_ct(tmp_path: Path) -> None:
    volume = series(tmp_path / "slices", RAS)
    enhanced(tmp_path / "slices", tmp_path / "ct" / "a.dcm")
    for source in (volume, load_volume(tmp_path / "ct")):
        grid = source.grid
        first = Lesion("a", at(grid, 10, 15, 12), 20.0)
        second = Lesion("b", at(grid, 11, 15, 14), 20.0)
        matches = with_extents(found([first, second]), grid)
        write_seg(matches, source, tmp_path / "seg.dcm")
        valid(tmp_path / "seg.dcm")
        for (_, extent), match in zip(
            read_with_extents(tmp_path / "seg.dcm", source), matches, strict=True
        ):
            assert extent is not None
            assert match.extent is not None
            assert voxels(extent) == voxels(match.extent)


def test_without_extents_there_is_no_seg(tmp_path: Path, ct: Volume) -> None:
    matches = found(marked(ct.grid))
    assert write_seg(matches, ct, tmp_path / "seg.dcm") == []
    lost = [replace(m, status=Status.NOT_FOUND) for m in with_extents(matches, ct.grid)]
    assert write_seg(lost, ct, tmp_path / "seg.dcm") == []
    assert not (tmp_path / "seg.dcm").exists()


def test_extents_are_brought_onto_the_grid(ct: Volume) -> None:
    truth = ball(ct.grid, at(ct.grid, 12, 15, 20), 24.0)
    whole = on_grid(truth, ct.grid)
    assert whole is not None
    assert voxels(whole) == voxels(truth)
    away = Grid((4, 4, 4), (1.0, 1.0, 1.0), at(ct.grid, 60, 15, 20))
    assert on_grid(Volume(np.ones((4, 4, 4), np.uint8), away), ct.grid) is None
    step_zyx = np.array([0.5, 0.5, 0.5])
    x, y, z = truth.grid.index_to_mm(-step_zyx / 2).tolist()
    half_mm = tuple(s / 2 for s in ct.grid.spacing_mm)
    size = tuple(2 * n for n in truth.grid.size_xyz)
    fine = Grid(size, half_mm, (x, y, z), ct.grid.direction)
    doubled = Volume(truth.voxels.repeat(2, 0).repeat(2, 1).repeat(2, 2), fine)
    looked_up = on_grid(doubled, ct.grid)
    assert looked_up is not None
    assert voxels(looked_up) == voxels(truth)


def test_an_extent_that_reaches_out_of_the_volume_is_cut(tmp_path: Path, ct: Volume) -> None:
    lesion = Lesion("edge", at(ct.grid, 1, 1, 1), 20.0)
    part = ct.grid.cropped((-2, -2, -2), (6, 6, 6))
    match = Match(lesion, Status.FOUND, lesion.center_mm, 0.9, lesion.center_mm,
                  extent=Volume(np.ones((6, 6, 6), np.uint8), part))  # fmt: skip
    write_seg([match], ct, tmp_path / "seg.dcm")
    ((_, extent),) = read_with_extents(tmp_path / "seg.dcm", ct)
    assert extent is not None
    assert extent.voxels.sum() == 4 * 4 * 4


def test_wrong_segmentations(tmp_path: Path, ct: Volume) -> None:
    write_seg(with_extents(found(marked(ct.grid)), ct.grid), ct, tmp_path / "seg.dcm")
    elsewhere = series(tmp_path / "elsewhere", oblique(), FrameOfReferenceUID="1.2.3")
    refused(tmp_path / "seg.dcm", elsewhere, "another frame of reference")
    refused(tmp_path / "seg.dcm", series(tmp_path / "p", oblique(), PatientID="SECRET-2"),
            "another PatientID")  # fmt: skip
    refused(tmp_path / "seg.dcm", series(tmp_path / "ras", RAS), "another grid")
    finer = Grid((80, 64, 48), (4.0, 3.75, 2.5), ct.grid.origin_mm, ct.grid.direction)
    refused(tmp_path / "seg.dcm", ct.resample(finer), "another grid", "8 mm")
    shifted = replace(ct.grid, origin_mm=tuple(np.add(ct.grid.origin_mm, (1.0, 0, 0))))
    refused(tmp_path / "seg.dcm", Volume(ct.voxels, shifted), "another grid")
    cropped = Volume(ct.voxels[:9], ct.grid.cropped((0, 0, 0), (9, 32, 40)))
    refused(tmp_path / "seg.dcm", cropped, "outside the baseline")
    empty = pydicom.dcmread(tmp_path / "seg.dcm")
    empty.PixelData = bytes(len(empty.PixelData))
    empty.save_as(tmp_path / "empty.dcm")
    refused(tmp_path / "empty.dcm", ct, "the SEG is empty")


def test_segments_of_one_tracking_uid_are_one_lesion(tmp_path: Path, ct: Volume) -> None:
    a, b = (Lesion("a", at(ct.grid, 10, 15, x), 13.0, tracking_uid="2.25.5") for x in (10, 20))
    write_seg(with_extents(found([a, b]), ct.grid), ct, tmp_path / "seg.dcm")
    (lesion,) = read_lesions(tmp_path / "seg.dcm", ct)
    assert np.allclose(lesion.center_mm, at(ct.grid, 10, 15, 15), atol=1e-3)


# RTSTRUCT


@EVERY
def test_outlines_come_back_as_they_were(tmp_path: Path, direction: tuple[float, ...]) -> None:
    volume = series(tmp_path / "ct", direction)
    balls = found(marked(volume.grid))
    for matches in (balls, with_extents(balls, volume.grid)):
        assert write_rtstruct(matches, volume, tmp_path / "rt.dcm") == ["L1", "L 2", "L3"]
        valid(tmp_path / "rt.dcm")
        read = read_with_extents(tmp_path / "rt.dcm", volume)
        for (lesion, extent), match in zip(read, matches, strict=True):
            assert extent is not None
            shown = match.extent or ball(volume.grid, match.center_mm, match.radius_mm)
            if match.extent is None:  # the outline of a ball has corners
                assert len(voxels(extent) ^ voxels(shown)) <= 0.05 * len(voxels(shown))
            else:
                assert voxels(extent) == voxels(shown)
            assert (lesion.id, lesion.label) == (match.lesion.id, match.lesion.label)
            assert lesion.tracking_uid == match.lesion.tracking_uid
            assert np.allclose(lesion.center_mm, match.center_mm, atol=1e-3)


def others(path: Path, **changes: object) -> Path:
    """The file as another program writes it: without our description."""
    dataset = pydicom.dcmread(path)
    for region in dataset.StructureSetROISequence:
        region.ROIDescription = ""
    for note in dataset.RTROIObservationsSequence:
        for keyword, value in changes.items():
            setattr(note, keyword, value)
    dataset.save_as(path)
    return path


def test_outlines_of_others(tmp_path: Path, ct: Volume) -> None:
    """A symmetric extent outlines its own centroid; a ball's circles have its radius."""
    middle = Lesion("m", at(ct.grid, 12, 15, 20), 24.0)
    (match,) = with_extents(found([middle]), ct.grid)
    assert match.extent is not None
    write_rtstruct([match], ct, tmp_path / "rt.dcm")
    (lesion,) = read_lesions(others(tmp_path / "rt.dcm"), ct)
    assert np.allclose(lesion.center_mm, centroid(match.extent), atol=0.1)
    write_rtstruct([middle], ct, tmp_path / "rt.dcm")
    (lesion,) = read_lesions(others(tmp_path / "rt.dcm"), ct)
    assert np.allclose(lesion.center_mm, middle.center_mm, atol=0.1)
    assert lesion.radius_mm == pytest.approx(24, abs=0.1)


def test_a_hole_is_no_part_of_a_lesion(tmp_path: Path, ct: Volume) -> None:
    """A square of 7 x 7 voxels with a hole of 3 x 3 in its corner region, in one slice."""
    mask = np.ones((1, 7, 7), np.uint8)
    mask[0, 1:4, 1:4] = 0
    extent = Volume(mask, ct.grid.cropped((10, 10, 10), (1, 7, 7)))
    lesion = Lesion("h", at(ct.grid, 10, 13, 13), 10.0)
    (match,) = found([lesion])
    write_rtstruct([replace(match, extent=extent)], ct, tmp_path / "rt.dcm")
    assert len(pydicom.dcmread(tmp_path / "rt.dcm").ROIContourSequence[0].ContourSequence) == 2
    (read,) = read_lesions(others(tmp_path / "rt.dcm"), ct)
    ((_, filled),) = read_with_extents(tmp_path / "rt.dcm", ct)
    assert filled is not None
    assert voxels(filled) == voxels(extent)
    # Outlines run between voxel centres: corners are cut off (48.5 and 8.5 voxels of area).
    outer, inner = np.array([13.0, 13.0]), np.array([12.0, 12.0])
    y, x = (48.5 * outer - 8.5 * inner) / 40
    assert np.allclose(ct.grid.mm_to_index(read.center_mm), (10, y, x), atol=0.02)


def test_single_points_and_organs(
    tmp_path: Path, ct: Volume, caplog: pytest.LogCaptureFixture
) -> None:
    lesions = marked(ct.grid)
    write_rtstruct(lesions, ct, tmp_path / "rt.dcm")
    dataset = pydicom.dcmread(others(tmp_path / "rt.dcm"))
    contour = dataset.ROIContourSequence[0].ContourSequence[0]
    contour.ContourGeometricType, contour.NumberOfContourPoints = "POINT", 1
    contour.ContourData = [f"{v:.4f}" for v in lesions[0].center_mm]
    dataset.ROIContourSequence[0].ContourSequence = [contour]
    dataset.RTROIObservationsSequence[1].RTROIInterpretedType = "ORGAN"
    dataset.save_as(tmp_path / "rt.dcm")
    (first, single), (third, _) = read_with_extents(tmp_path / "rt.dcm", ct)
    assert single is None
    assert np.allclose(first.center_mm, lesions[0].center_mm, atol=1e-3)
    assert (first.radius_mm, third.id) == (10, "L3")
    assert "1 regions are organs or the like" in caplog.text


def test_wrong_structure_sets(tmp_path: Path, ct: Volume) -> None:
    write_rtstruct(marked(ct.grid), ct, tmp_path / "rt.dcm")
    elsewhere = series(tmp_path / "elsewhere", oblique(), FrameOfReferenceUID="1.2.3")
    refused(tmp_path / "rt.dcm", elsewhere, "another frame of reference")
    others(tmp_path / "rt.dcm", RTROIInterpretedType="ORGAN")
    refused(tmp_path / "rt.dcm", ct, "no outlined lesion", "3 regions are organs")
    lost = [replace(m, status=Status.NOT_FOUND) for m in found(marked(ct.grid))]
    assert write_rtstruct(lost, ct, tmp_path / "none.dcm") == []
    assert not (tmp_path / "none.dcm").exists()


# Garbage


@settings(max_examples=60)
@given(data=st.data())
def test_damaged_objects_give_an_input_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder, volume, objects = _sample(tmp_path_factory)
    whole = data.draw(st.sampled_from(objects))
    content = bytearray(whole)
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        for _ in range(data.draw(st.integers(1, 20))):
            content[data.draw(st.integers(132, len(content) - 1))] = data.draw(st.integers(0, 255))
    (folder / "damaged.dcm").write_bytes(content)
    read, message = read_or_refused(folder / "damaged.dcm", volume)
    assert "\n" not in message
    assert "SECRET" not in message
    if read and len(content) < len(whole):
        assert len(read) == 3


_MADE: list = []


def _sample(factory: pytest.TempPathFactory) -> tuple[Path, Volume, list[bytes]]:
    if not _MADE:
        folder = factory.mktemp("garbage")
        volume = series(folder / "ct", LPS)
        write_seg(with_extents(found(marked(volume.grid)), volume.grid), volume, folder / "seg")
        write_rtstruct(marked(volume.grid), volume, folder / "rt")
        objects = [(folder / name).read_bytes() for name in ("seg", "rt")]
        _MADE.append((folder, volume, objects))
    return _MADE[0]
