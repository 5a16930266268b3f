"""DICOM SEG and RTSTRUCT: valid, the same voxels and outlines for other readers, and refusals."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from conftest import LPS, RAS, make_phantom, oblique, torso_grid, write_dicom_series
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import assert_valid as valid
from marks import (
    at,
    ball,
    centroid,
    found,
    joined,
    marked,
    need,
    ran,
    series,
    with_extents,
)
from test_dicom_sr import enhanced, read_or_refused, refused

from tlt.geometry import Grid
from tlt.io.dicom_rtstruct import write_rtstruct
from tlt.io.dicom_seg import what_seg_lacks, write_seg
from tlt.io.images import load_volume, save_volume
from tlt.io.lesions import read_lesions, read_with_extents
from tlt.io.masks import on_grid
from tlt.io.outlines import ball_outlines, fill_outlines
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


def test_shared_voxels_are_those_of_the_smaller_lesion(tmp_path: Path) -> None:
    volume = series(tmp_path / "slices", RAS)
    enhanced(tmp_path / "slices", tmp_path / "ct" / "a.dcm")
    for source in (volume, load_volume(tmp_path / "ct")):
        grid = source.grid
        first = Lesion("a", at(grid, 10, 15, 12), 20.0)
        second = Lesion("b", at(grid, 11, 15, 14), 14.0)
        matches = with_extents(found([first, second]), grid)
        larger, smaller = (voxels(match.extent) for match in matches if match.extent)
        assert larger & smaller
        assert larger - smaller
        assert write_seg(matches, source, tmp_path / "seg.dcm") == ["a", "b"]
        valid(tmp_path / "seg.dcm")
        (_, one), (_, other) = read_with_extents(tmp_path / "seg.dcm", source)
        assert one is not None
        assert other is not None
        assert voxels(one) == larger - smaller
        assert voxels(other) == smaller


def test_a_lesion_whose_voxels_are_all_shared_is_told(tmp_path: Path, ct: Volume) -> None:
    twins = [Lesion(name, at(ct.grid, 10, 15, 12), 20.0) for name in ("a", "b")]
    away = Lesion("c", at(ct.grid, 10, 15, 30), 20.0)
    matches = with_extents(found([*twins, away]), ct.grid)
    written = write_seg(matches, ct, tmp_path / "seg.dcm")
    assert written == ["b", "c"]
    assert "the DICOM SEG lacks a: all voxels there are" in what_seg_lacks(matches, written)
    assert what_seg_lacks(matches[1:], written) == ""
    lost = replace(matches[0], status=Status.NOT_FOUND)
    assert what_seg_lacks([lost, replace(matches[0], extent=None)], written) == ""
    assert [x.id for x in read_lesions(tmp_path / "seg.dcm", ct)] == ["b", "c"]


def test_the_memory_of_a_seg_does_not_grow_with_its_lesions(tmp_path: Path) -> None:
    """Of 36 lesions two touch; once this meant an array of all voxels for each of the lesions."""
    grid = torso_grid((96, 96, 24), (2.0, 2.0, 5.0), LPS, (0, 0, 300))
    write_dicom_series(make_phantom(grid), tmp_path / "ct")
    volume = load_volume(tmp_path / "ct")
    places = [(z, y, x) for z in (4, 12, 19) for y in (20, 50, 80) for x in (10, 35, 60, 85)]
    lesions = [Lesion(str(n), at(grid, *place), 9.0) for n, place in enumerate(places)]
    lesions[1] = replace(lesions[1], center_mm=at(grid, 4, 20, 13))
    matches = with_extents(found(lesions), grid)
    write_seg(matches[:1], volume, tmp_path / "seg.dcm")  # what is imported does not count
    tracemalloc.start()
    write_seg(matches, volume, tmp_path / "seg.dcm")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(read_lesions(tmp_path / "seg.dcm", volume)) == 36
    assert peak < 36 * volume.voxels.size / 2


def _drift(index: int, image: pydicom.Dataset, way_mm: float = 0.45) -> None:
    x, y, z = image.ImagePositionPatient
    image.ImagePositionPatient = [x + way_mm * index / 23, y, z]


def _slight_drift(index: int, image: pydicom.Dataset) -> None:
    _drift(index, image, 0.1)


def _jitter(index: int, image: pydicom.Dataset) -> None:
    x, y, z = image.ImagePositionPatient
    image.ImagePositionPatient = [x, y, z + 0.08 * np.sin(index / 3.6)]


def _on_even_steps(path: Path, grid: Grid) -> None:
    """The SEG as programs write it that resample onto even steps: Slicer and ITK, for instance."""
    dataset = pydicom.dcmread(path)
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        plane = frame.PlanePositionSequence[0]
        z = round(float(grid.mm_to_index([float(v) for v in plane.ImagePositionPatient])[0]))
        plane.ImagePositionPatient = [f"{v:.4f}" for v in at(grid, z, 0, 0)]
    dataset.save_as(path)


@pytest.mark.parametrize("even", [False, True], ids=["own positions", "even steps"])
@pytest.mark.parametrize(
    ("edit", "pixel", "step", "level"),
    [
        (_drift, 0.7, 2.0, 20),
        (_drift, 0.46, 2.0, 20),  # a whole pixel in the last slices
        (_slight_drift, 0.7, 2.0, 20),
        (_jitter, 0.7, 0.6, 20),
        (_jitter, 0.7, 0.6, 10),
    ],
)
def test_slices_a_little_beside_the_grid_keep_their_voxels(
    tmp_path: Path, edit: Callable, pixel: float, step: float, level: int, even: bool
) -> None:
    """As far beside as a series may be; for a baseline that is NIfTI, too."""
    grid = torso_grid((40, 32, 24), (pixel, pixel, step), LPS, (5, -7, 300))
    phantom = make_phantom(grid, spheres=[(tuple(grid.center_mm), 3.0, 90.0)])
    phantom.voxels[..., 0] = -1000
    write_dicom_series(phantom, tmp_path / "ct", edit)
    volume = load_volume(tmp_path / "ct")
    (match,) = with_extents(found([Lesion("a", at(volume.grid, level, 15, 12), 4.0)]), volume.grid)
    write_seg([match], volume, tmp_path / "seg.dcm")
    if even:
        _on_even_steps(tmp_path / "seg.dcm", volume.grid)
    ((_, extent),) = read_with_extents(tmp_path / "seg.dcm", volume)
    assert extent is not None
    assert match.extent is not None
    assert voxels(extent) == voxels(match.extent)
    save_volume(volume, tmp_path / "ct.nii.gz")
    (same,) = read_lesions(tmp_path / "seg.dcm", load_volume(tmp_path / "ct.nii.gz"))
    assert np.allclose(same.center_mm, centroid(match.extent), atol=0.71)


def untracked(path: Path) -> Path:
    """The SEG as programs write it that know no Tracking UID."""
    dataset = pydicom.dcmread(path)
    for segment in dataset.SegmentSequence:
        del segment.TrackingUID, segment.TrackingID
    dataset.save_as(path)
    return path


def test_two_tumours_in_one_segment(
    tmp_path: Path, ct: Volume, caplog: pytest.LogCaptureFixture
) -> None:
    """Split where the file says nothing else; else one lesion, which is told."""
    places = [at(ct.grid, 10, 15, 8), at(ct.grid, 10, 15, 30)]
    parts = [ball(ct.grid, place, 13.0) for place in places]
    (match,) = found([Lesion("T", places[0], 10.0, "tumour")])
    match = replace(match, extent=joined(ct.grid, *parts))
    write_seg([match], ct, tmp_path / "seg.dcm")
    (whole,) = read_lesions(tmp_path / "seg.dcm", ct)
    assert whole.tracking_uid == match.lesion.tracking_uid
    assert "in unconnected parts, but taken as one lesion each: T; mark" in caplog.text
    read = read_with_extents(untracked(tmp_path / "seg.dcm"), ct)
    write_rtstruct([match], ct, tmp_path / "rt.dcm")
    outlined = read_with_extents(others(tmp_path / "rt.dcm"), ct)
    for found_there in (read, outlined):
        assert [lesion.id for lesion, _ in found_there] == ["L1", "L2"]
        assert len({lesion.tracking_uid for lesion, _ in found_there}) == 2
        for (lesion, extent), part in zip(found_there, parts, strict=True):
            assert extent is not None
            assert voxels(extent) == voxels(part)
            assert np.allclose(lesion.center_mm, centroid(part), atol=1e-3)
    other = found([Lesion("O", at(ct.grid, 18, 20, 20), 9.0)])
    write_seg([match, *with_extents(other, ct.grid)], ct, tmp_path / "seg.dcm")
    caplog.clear()
    assert len(read_lesions(untracked(tmp_path / "seg.dcm"), ct)) == 2
    assert "taken as one lesion each: T tumour;" in caplog.text


def test_a_segment_as_large_as_an_organ_is_told(
    tmp_path: Path, ct: Volume, caplog: pytest.LogCaptureFixture
) -> None:
    (match,) = with_extents(found([Lesion("liver", at(ct.grid, 12, 15, 20), 66.0)]), ct.grid)
    write_seg([match], ct, tmp_path / "seg.dcm")
    read_lesions(tmp_path / "seg.dcm", ct)
    assert "a radius above 60 mm: liver (" in caplog.text
    caplog.clear()
    write_rtstruct([match], ct, tmp_path / "rt.dcm")
    read_lesions(others(tmp_path / "rt.dcm"), ct)
    assert "a radius above 60 mm: liver (" in caplog.text


def test_a_doubtful_size_stays_doubtful(tmp_path: Path, ct: Volume) -> None:
    first, second, _ = with_extents(found(marked(ct.grid)), ct.grid)
    assert first.size is not None
    unsure = replace(first, size=replace(first.size, doubtful=True, note="cut off"), radius_mm=None)
    for write, name in ((write_seg, "seg.dcm"), (write_rtstruct, "rt.dcm")):
        write([unsure, second], ct, tmp_path / name)
        valid(tmp_path / name)
        a, b = read_lesions(tmp_path / name, ct)
        assert a.size is not None
        assert b.size is not None
        assert (a.size.doubtful, b.size.doubtful) == (True, False)
    described = pydicom.dcmread(tmp_path / "seg.dcm").SegmentSequence[0].SegmentDescription
    assert described == "(doubtful) cut off"


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


def test_outlines_that_were_moved_count_more_than_our_notes(tmp_path: Path, ct: Volume) -> None:
    lesions = [replace(x, size=None) for x in marked(ct.grid)]
    write_rtstruct([*with_extents(found(lesions[:1]), ct.grid), *found(lesions[1:])], ct,
                   tmp_path / "rt.dcm")  # fmt: skip
    dataset = pydicom.dcmread(tmp_path / "rt.dcm")
    for region in dataset.ROIContourSequence[:2]:
        for contour in region.ContourSequence:
            points = np.array(contour.ContourData, float).reshape(-1, 3) + np.array([24, 0, 0])
            contour.ContourData = [f"{v:.2f}" for v in points.ravel()]
    grown = dataset.ROIContourSequence[2]
    for contour in grown.ContourSequence:
        points = np.array(contour.ContourData, float).reshape(-1, 3)
        points += 0.5 * (points - points.mean(0))
        contour.ContourData = [f"{v:.2f}" for v in points.ravel()]
    dataset.save_as(tmp_path / "rt.dcm")
    first, second, third = read_lesions(tmp_path / "rt.dcm", ct)
    for read, was in ((first, lesions[0]), (second, lesions[1])):
        assert np.allclose(np.subtract(read.center_mm, was.center_mm), (24, 0, 0), atol=4)
        assert (read.tracking_uid, read.label) == (was.tracking_uid, was.label)
    assert third.radius_mm == pytest.approx(1.5 * lesions[2].radius_mm, rel=0.1)


def test_a_label_may_hold_anything(tmp_path: Path, ct: Volume) -> None:
    odd = replace(marked(ct.grid)[0], label="a; b=c; radius_mm=3")
    write_rtstruct([odd], ct, tmp_path / "rt.dcm")
    (read,) = read_lesions(tmp_path / "rt.dcm", ct)
    assert (read.label, read.radius_mm) == (odd.label, pytest.approx(odd.radius_mm, abs=1e-3))


@pytest.mark.parametrize(("spacing", "shift"), [(2.0, 0.0), (4.0, 1.0), (4.0, 2.0), (8.0, 0.0)])
def test_outlines_of_another_reconstruction_have_no_voxels(
    tmp_path: Path, ct: Volume, spacing: float, shift: float
) -> None:
    """Drawn in slices of 4 mm; read on these, on half as thick and on shifted ones."""
    slices = torso_grid((64, 64, 24), (1.0, 1.0, 4.0), LPS, (0, 0, 300))
    lesion = Lesion("a", at(slices, 12, 32, 32), 14.0)
    drawn = [points for _, points in ball_outlines(lesion, slices)]
    there = fill_outlines(drawn, slices)
    assert there is not None
    assert np.prod(slices.spacing_mm) * there.voxels.sum() == pytest.approx(
        4 / 3 * np.pi * 14**3, rel=0.05
    )
    x, y, z = slices.origin_mm
    size = (64, 64, int(24 * 4 / spacing))
    elsewhere = Grid(size, (1.0, 1.0, spacing), (x, y, z - shift))
    assert fill_outlines(drawn, elsewhere) is None


def test_two_tumours_outlined_in_another_reconstruction_are_told(
    tmp_path: Path, ct: Volume, caplog: pytest.LogCaptureFixture
) -> None:
    places = [at(ct.grid, 10, 15, 8), at(ct.grid, 10, 15, 30)]
    extent = joined(ct.grid, *(ball(ct.grid, place, 13.0) for place in places))
    (match,) = found([Lesion("T", places[0], 10.0)])
    write_rtstruct([replace(match, extent=extent)], ct, tmp_path / "rt.dcm")
    x, y, z = ct.grid.index_to_mm((-0.5, 0, 0)).tolist()
    shifted = Volume(ct.voxels, replace(ct.grid, origin_mm=(x, y, z)))
    ((_, nothing),) = read_with_extents(others(tmp_path / "rt.dcm"), shifted)
    assert nothing is None
    assert "ROI 1: its centre lies far from all of its outlines" in caplog.text


def test_a_slice_that_was_not_outlined_does_not_part_a_lesion(tmp_path: Path, ct: Volume) -> None:
    (match,) = with_extents(found([Lesion("a", at(ct.grid, 12, 15, 20), 24.0)]), ct.grid)
    write_rtstruct([match], ct, tmp_path / "rt.dcm")
    dataset = pydicom.dcmread(others(tmp_path / "rt.dcm"))
    contours = dataset.ROIContourSequence[0].ContourSequence
    assert len(contours) == 9
    del contours[3]
    dataset.save_as(tmp_path / "rt.dcm")
    assert len(read_lesions(tmp_path / "rt.dcm", ct)) == 1


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
