"""The same coordinates through every format, read by other libraries; and lesions converted."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import slicerio
from conftest import LPS, RAS, oblique, write_dicom_series
from fakes import FakeTracker, PairResult
from marks import assert_valid, at, ball, centroid, found, marked, series, with_extents

from tlt.cli.main import main
from tlt.cli.track import FORMATS
from tlt.errors import InputError
from tlt.io.dicom_rtstruct import write_rtstruct
from tlt.io.dicom_sr_write import write_sr
from tlt.io.exports import write_lesions
from tlt.io.images import load_volume, save_volume
from tlt.io.lesions import read_lesions, write_lesions_csv, write_mrk_json
from tlt.io.lesions_convert import FORMATS as CONVERTED
from tlt.io.lesions_convert import convert_lesions
from tlt.io.results import read_json
from tlt.lesion import Axis, Lesion, Size, Status
from tlt.volume import Volume

EVERY = pytest.mark.parametrize("direction", [LPS, RAS, oblique()], ids=["LPS", "RAS", "oblique"])
LESION_FORMATS = ("mrk", "nifti", "points", "dicom-sr", "dicom-seg", "dicom-rtstruct")


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    return series(tmp_path_factory.mktemp("ct"), oblique())


@EVERY
def test_every_format_tells_the_same_place(tmp_path: Path, direction: tuple[float, ...]) -> None:
    """Lesions at voxel centres with symmetric extents, so that outlines and masks can be exact."""
    volume = series(tmp_path / "ct", direction)
    lesions = [Lesion("1", at(volume.grid, 10, 15, 12), 20.0),
               Lesion("2", at(volume.grid, 6, 20, 25), 13.0)]  # fmt: skip
    truth = np.array([lesion.center_mm for lesion in lesions])
    matches = with_extents(found(lesions), volume.grid)
    assert np.allclose([centroid(m.extent) for m in matches if m.extent], truth, atol=0.1)
    assert write_lesions(volume, [volume], [matches], tmp_path, LESION_FORMATS) == []
    files = ["followup_sr.dcm", "followup_seg.dcm", "followup_rtstruct.dcm", "followup.mrk.json",
             "followup_points.json", "followup_points.csv", "followup_mask.nii.gz"]  # fmt: skip
    for name in files:
        read = read_lesions(tmp_path / name, volume, "lps")
        assert [lesion.id for lesion in read] == ["1", "2"], name
        assert np.allclose([lesion.center_mm for lesion in read], truth, atol=0.1), name
    mask = nibabel.load(tmp_path / "followup_mask.nii.gz")
    for value, place in enumerate(truth, 1):
        index = np.argwhere(np.asarray(mask.dataobj) == value).mean(0)
        assert np.allclose(nibabel.affines.apply_affine(mask.affine, index), place * (-1, -1, 1),
                           atol=0.1)  # fmt: skip
    points = json.loads((tmp_path / "followup_points.json").read_text())["points"]
    assert np.allclose([p["point"] for p in points], truth, atol=0.1)
    uids = {lesion.tracking_uid for lesion in lesions}
    for name in ("baseline_sr.dcm", "followup_sr.dcm", "followup_seg.dcm"):
        assert {x.tracking_uid for x in read_lesions(tmp_path / name, volume)} == uids, name


def test_points_and_diameters_for_slicer(tmp_path: Path, ct: Volume) -> None:
    lesions = marked(ct.grid)
    write_mrk_json(found(lesions), tmp_path / "l.mrk.json")
    markups = json.loads((tmp_path / "l.mrk.json").read_text())["markups"]
    assert [m["type"] for m in markups] == ["Fiducial", "Line", "Line", "Line"]
    assert [m.get("name") for m in markups[1:]] == ["L1", "L1 short axis", "L 2"]
    assert all(m["coordinateSystem"] == "LPS" for m in markups)
    points = [p["position"] for p in markups[0]["controlPoints"]]
    assert np.allclose(points, [x.center_mm for x in lesions], atol=0.1)
    assert lesions[0].size is not None
    ends = [p["position"] for p in markups[1]["controlPoints"]]
    axis = lesions[0].size.long_axis
    assert np.allclose(ends, [axis.start_mm, axis.end_mm], atol=0.1)
    back = read_lesions(tmp_path / "l.mrk.json", ct)
    for a, b in zip(back, lesions, strict=True):
        assert (a.id, a.label, a.tracking_uid) == (b.id, b.label, b.tracking_uid)
        assert (a.size is None) == (b.size is None)
        if a.size and b.size:
            assert a.size.by_reader == b.size.by_reader
            assert a.size.long_axis.length_mm == pytest.approx(b.size.long_axis.length_mm, abs=1e-3)
            assert (a.size.short_axis is None) == (b.size.short_axis is None)


def test_what_slicerio_writes_is_read(tmp_path: Path, ct: Volume) -> None:
    """slicerio reads no .mrk.json itself, but makes them from Slicer 4's lists of points."""
    lesions = marked(ct.grid)
    rows = [
        f"vtkMRMLMarkupsFiducialNode_{n},{-x.center_mm[0]},{-x.center_mm[1]},{x.center_mm[2]},"
        f"0,0,0,1,1,1,0,{x.id},,"
        for n, x in enumerate(lesions)
    ]
    head = [
        "# Markups fiducial file version = 4.11",
        "# CoordinateSystem = RAS",
        "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID",
    ]
    (tmp_path / "l.fcsv").write_text("\n".join(head + rows) + "\n")
    path = slicerio.fcsv_to_markups_json(tmp_path / "l.fcsv")
    path = path.rename(tmp_path / "l.mrk.json")
    read = read_lesions(path, ct)
    assert [x.id for x in read] == [x.id for x in lesions]
    truth = [x.center_mm for x in lesions]
    assert np.allclose([x.center_mm for x in read], truth, atol=0.1)


def test_a_drawn_line_is_the_diameter(tmp_path: Path, ct: Volume) -> None:
    start, end = at(ct.grid, 10, 15, 10), at(ct.grid, 10, 15, 13)
    mark = {"type": "Line", "coordinateSystem": "LPS", "name": "A",
            "controlPoints": [{"position": start}, {"position": end}]}  # fmt: skip
    (tmp_path / "l.mrk.json").write_text(json.dumps({"markups": [mark]}))
    (lesion,) = read_lesions(tmp_path / "l.mrk.json", ct)
    assert lesion.size == Size(Axis(start, end), by_reader=True)
    assert lesion.radius_mm == pytest.approx(12)
    far = {"type": "Fiducial", "coordinateSystem": "LPS",
           "controlPoints": [{"label": "A", "position": at(ct.grid, 10, 15, 35)}]}  # fmt: skip
    (tmp_path / "l.mrk.json").write_text(json.dumps({"markups": [mark, far]}))
    with pytest.raises(InputError, match="lesion id A occurs twice"):
        read_lesions(tmp_path / "l.mrk.json", ct)


def edited(path: Path, change: Callable[[list[dict]], None]) -> Path:
    """A list of markups as somebody saved it after a change."""
    content = json.loads(path.read_text())
    change(content["markups"])
    path.write_text(json.dumps(content))
    return path


def move(markup: dict, point: int, *way_mm: float) -> None:
    place = markup["controlPoints"][point]
    place["position"] = np.add(place["position"], way_mm).tolist()


def test_a_line_that_was_corrected_in_slicer_is_the_readers(tmp_path: Path, ct: Volume) -> None:
    first = replace(marked(ct.grid)[0], radius_mm=15.0)
    assert first.size is not None
    path = tmp_path / "l.mrk.json"
    write_mrk_json([first], path)
    (same,) = read_lesions(path, ct)
    assert same.size is not None
    assert (same.radius_mm, same.size.by_reader) == (15.0, False)
    (longer,) = read_lesions(edited(path, lambda m: move(m[1], 1, 20, 0, 0)), ct)
    assert longer.size is not None
    assert longer.size.by_reader
    assert longer.size.long_axis.length_mm > first.size.long_axis.length_mm + 5
    assert longer.radius_mm == pytest.approx(longer.size.long_axis.length_mm / 2)
    write_mrk_json([first], path)
    (wider,) = read_lesions(edited(path, lambda m: move(m[2], 1, 0, 0, 4)), ct)
    assert wider.size is not None
    assert wider.size.by_reader


@pytest.mark.parametrize("told", ["1,2,", "--", "1.2.3,1,1,1,1,1,1,1,1", "1,2,3", ""])
def test_a_line_whose_description_was_damaged_is_the_readers(
    tmp_path: Path, ct: Volume, told: str
) -> None:
    path = tmp_path / "l.mrk.json"
    write_mrk_json(marked(ct.grid)[:1], path)
    path.write_text(re.sub(r"at_mm=[-\d.,]+", f"at_mm={told}", path.read_text()))
    (read,) = read_lesions(path, ct)
    assert read.size is not None
    assert read.size.by_reader


def test_a_point_that_was_moved_in_slicer_leaves_its_diameters(
    tmp_path: Path, ct: Volume, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "l.mrk.json"
    first = marked(ct.grid)[0]  # a long axis of 34 mm
    beside = replace(first, center_mm=at(ct.grid, 10, 15, 15.5), radius_mm=15.0)
    for lesion, way_mm, kept in ((first, 12, True), (first, 20, False), (first, 60, False),
                                 (beside, 0, True), (beside, 9, False)):  # fmt: skip
        write_mrk_json([lesion], path)
        caplog.clear()
        (read,) = read_lesions(edited(path, lambda m, way=way_mm: move(m[0], 0, way, 0, 0)), ct)
        assert (read.size is not None) == kept, way_mm
        assert read.radius_mm == pytest.approx(lesion.radius_mm, abs=1e-3)
        assert ("L1 was moved away from the diameters" in caplog.text) != kept
    drawn = marked(ct.grid)[1]
    write_mrk_json([drawn], path)
    (read,) = read_lesions(edited(path, lambda m: move(m[0], 0, 25, 0, 0)), ct)
    assert read.size is not None, "a reader drew them"


def test_doubts_and_labels_survive_slicer(tmp_path: Path, ct: Volume) -> None:
    first, second, third = found(marked(ct.grid))
    assert first.size is not None
    unsure = replace(first, size=replace(first.size, doubtful=True), radius_mm=None,
                     lesion=replace(first.lesion, label="a; b=c", radius_mm=11.0))  # fmt: skip
    write_mrk_json([unsure, second, third], tmp_path / "l.mrk.json")
    a, b, c = read_lesions(tmp_path / "l.mrk.json", ct)
    assert a.size is not None
    assert b.size is not None
    assert (a.size.doubtful, b.size.doubtful, c.size) == (True, False, None)
    assert (a.label, a.radius_mm) == ("a; b=c", 11.0)


def test_corrected_matches_of_two_followups(tmp_path: Path, ct: Volume) -> None:
    first = found(marked(ct.grid))
    second = [replace(first[0], status=Status.NOT_FOUND), *first[1:]]
    other = series(tmp_path / "other", oblique(), "2")
    remarks = write_lesions(
        ct, [ct, other], [first, second], tmp_path / "out", ("dicom-sr", "dicom-seg"), "ohif", "X"
    )
    assert [r.split(":")[0] for r in remarks] == ["follow-up 1", "follow-up 2"]
    assert all("no DICOM SEG, because no lesion has an extent" in r for r in remarks)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["baseline_sr.dcm", "followup1_sr.dcm", "followup2_sr.dcm"]
    reports = [pydicom.dcmread(tmp_path / "out" / name) for name in names]
    observers = [i.PersonName for i in reports[2].ContentSequence if i.ValueType == "PNAME"]
    assert observers == ["X^"]
    assert [x.id for x in read_lesions(tmp_path / "out" / names[2], other)] == ["L 2", "L3"]
    moved = {names[0]: "0", names[1]: "1", names[2]: "2"}
    for name, report in zip(names, reports, strict=True):
        (group, *_) = report.ContentSequence[-1 if name != names[2] else -2].ContentSequence
        (point,) = [i.TextValue for i in group.ContentSequence
                    if i.ConceptNameCodeSequence[0].CodeValue == "126070"]  # fmt: skip
        assert point == moved[name]


# The command line


@pytest.fixture
def study(tmp_path: Path, ct: Volume, monkeypatch: pytest.MonkeyPatch) -> Path:
    """DICOM and NIfTI of one image, lesions of it, and a tracker that moves them."""
    monkeypatch.setattr("tlt.track.Tracker.load", lambda *args: FakeTracker())
    write_dicom_series(ct, tmp_path / "bl")
    write_dicom_series(ct, tmp_path / "fu", series="2")
    save_volume(ct, tmp_path / "fu.nii.gz")
    write_lesions_csv(marked(ct.grid), tmp_path / "l.csv", tracking_uids=True)
    return tmp_path


def track(study: Path, followup: str, *more: str) -> list[str]:
    return ["track", "-bl", f"{study}/bl", "-fu", f"{study}/{followup}", "-l", f"{study}/l.csv",
            "-o", f"{study}/out", *more]  # fmt: skip


def test_track_writes_dicom(study: Path, ct: Volume, capsys: pytest.CaptureFixture) -> None:
    formats = ("json", "dicom-sr", "dicom-seg", "dicom-rtstruct", "points")
    assert main(track(study, "fu", "--format", *formats, "--sr-profile", "ohif")) == 0
    names = sorted(p.name for p in (study / "out").iterdir() if not p.name.startswith("."))
    assert names == ["baseline_sr.dcm", "followup_points.csv", "followup_points.json",
                     "followup_rtstruct.dcm", "followup_sr.dcm", "result.json"]  # fmt: skip
    result = read_json(study / "out" / "result.json")
    assert any("no DICOM SEG" in warning for warning in result.warnings)
    assert "no DICOM SEG" in capsys.readouterr().err
    read = read_lesions(study / "out" / "followup_rtstruct.dcm", ct)
    truth = [lesion.followups[0].center_mm for lesion in result.lesions]
    assert np.allclose([lesion.center_mm for lesion in read], truth, atol=0.01)
    assert [x.tracking_uid for x in read] == [x.tracking_uid for x in result.lesions]
    for name in ("result.json", "followup_points.json", "followup_points.csv"):
        assert b"SECRET" not in (study / "out" / name).read_bytes()


def test_a_lesion_that_the_seg_lacks_is_told_in_the_result(
    study: Path, ct: Volume, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Two lesions that were tracked to one place: the SEG has room for one of them."""

    class OnePlace(FakeTracker):
        def track_pair(self, *args: Any, **more: Any) -> PairResult:
            pair = super().track_pair(*args, **more)
            places = [pair.matches[n].center_mm for n in (0, 0, 2)]
            extents = [ball(ct.grid, place, 20.0) for place in places if place]
            pairs = zip(pair.matches, extents, strict=True)
            return replace(pair, matches=[replace(m, extent=extent) for m, extent in pairs])

    monkeypatch.setattr("tlt.track.Tracker.load", lambda *args: OnePlace())
    assert main(track(study, "fu", "--format", "json", "dicom-seg", "--no-size")) == 0
    told = "follow-up 1: the DICOM SEG lacks L1: all voxels there are other lesions' too"
    assert any(told in w for w in read_json(study / "out" / "result.json").warnings)
    assert capsys.readouterr().err.count("lacks L1") == 1
    assert {x.id for x in read_lesions(study / "out" / "followup_seg.dcm", ct)} == {"L 2", "L3"}


def test_a_lesion_that_a_converted_seg_lacks_is_told(
    study: Path, ct: Volume, caplog: pytest.LogCaptureFixture
) -> None:
    twins = [Lesion(name, at(ct.grid, 10, 15, 12), 20.0) for name in ("a", "b")]
    write_rtstruct(with_extents(found(twins), ct.grid), ct, study / "rt.dcm")
    assert main(convert(study, "rt.dcm", "seg.dcm", "--format", "dicom-seg")) == 0
    assert "seg.dcm: the DICOM SEG lacks a: all voxels" in caplog.text


def test_dicom_of_a_nifti_followup_is_refused_before_tracking(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("tlt.io.images.load_volume", lambda path: pytest.fail("was read"))
    for name in ("dicom-sr", "dicom-seg", "dicom-rtstruct"):
        assert main(track(study, "fu.nii.gz", "--format", name)) == 3
        assert f"fu.nii.gz: no DICOM series, but --format {name}" in capsys.readouterr().err
    assert not (study / "out").exists()
    assert main(track(study, "fu", "--sr-profile", "ohif")) == 2
    assert main(track(study, "fu", "--format", "dicom-sr", "--sr-profile", "x")) == 2


def test_a_followup_without_frame_of_reference_is_refused_before_tracking(
    study: Path, ct: Volume, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    write_dicom_series(ct, study / "frameless", series="3", FrameOfReferenceUID="")
    monkeypatch.setattr(FakeTracker, "track_pair", lambda *args: pytest.fail("was tracked"))
    assert main(track(study, "frameless", "--format", "dicom-sr")) == 3
    assert "no Frame of Reference UID" in capsys.readouterr().err


ODD = {
    "PatientSex": "U", "PatientBirthDate": "1970-01-01", "StudyTime": "12:00:00",
    "StudyDate": "20210231", "PatientName": "Doe", "AccessionNumber": "A" * 20,
    "ReferringPhysicianName": "Roe\\Poe",
}  # fmt: skip


@pytest.mark.parametrize("where", ["bl", "fu"])
def test_headers_that_break_the_standard_are_emptied_and_no_reason_to_fail(
    study: Path, ct: Volume, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture,
    recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture, where: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(pydicom.config.settings, "_writing_validation_mode", pydicom.config.IGNORE)
    write_dicom_series(ct, study / where, series="1" if where == "bl" else "2", **ODD)
    monkeypatch.undo()
    recwarn.clear()
    monkeypatch.setattr("tlt.track.Tracker.load", lambda *args: FakeTracker())
    formats = ("json", "dicom-sr", "dicom-rtstruct")
    assert main(track(study, "fu", "--format", *formats)) == 0
    caplog.clear()
    assert main(convert(study, "l.csv", "rt.dcm", "--format", "dicom-rtstruct")) == 0
    assert main(convert(study, "rt.dcm", "seg.dcm", "--format", "dicom-seg")) == 0
    assert caplog.text.count("break the DICOM standard") == (2 if where == "bl" else 0)
    said = capfd.readouterr()
    quoted = [str(one.message) for one in recwarn]
    for text in (said.out, said.err, *quoted, (study / "out" / "result.json").read_text()):
        assert not any(value in text for value in ("1970", "12:00:00", "Doe", "Roe", "AAAA"))
    told = ("PatientBirthDate, PatientSex, ReferringPhysicianName, StudyDate, StudyTime break the "
            "DICOM standard in the images")  # fmt: skip
    assert any(told in remark for remark in read_json(study / "out" / "result.json").warnings)
    assert said.err.count(told) == 1
    assert main([*track(study, "fu", "--format", *formats), "-o", f"{study}/again"]) == 0
    again = read_json(study / "again" / "result.json").warnings  # of a second run in one process
    assert sum(told in remark for remark in again) == 1
    files = [study / "out" / "baseline_sr.dcm", study / "rt.dcm", study / "seg.dcm"]
    if where == "fu":
        files = [study / "out" / name for name in ("followup_sr.dcm", "followup_rtstruct.dcm")]
    for path in files:
        written = pydicom.dcmread(path)
        assert (written.PatientSex, written.PatientBirthDate, written.StudyTime) == ("", "", "")
        assert (written.PatientName, written.AccessionNumber) == ("Doe", "A" * 20)


def test_a_baseline_without_frame_of_reference_has_no_report_but_a_remark(
    study: Path, ct: Volume
) -> None:
    write_dicom_series(ct, study / "bl", FrameOfReferenceUID="")
    assert main(track(study, "fu", "--format", "json", "dicom-sr")) == 0
    names = {path.name for path in (study / "out").iterdir()}
    assert "followup_sr.dcm" in names
    assert "baseline_sr.dcm" not in names
    remarks = read_json(study / "out" / "result.json").warnings
    assert "baseline: no DICOM SR, because it has no Frame of Reference UID" in remarks


@pytest.mark.parametrize("missing", ["SOPInstanceUID", "StudyInstanceUID"])
@pytest.mark.parametrize("where", ["bl", "fu"])
def test_images_without_their_uids_are_refused_before_tracking(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture,
    missing: str, where: str,
) -> None:  # fmt: skip
    for path in (study / where).iterdir():
        image = pydicom.dcmread(path)
        delattr(image, missing)
        image.save_as(path, enforce_file_format=False)
    monkeypatch.setattr(FakeTracker, "track_pair", lambda *args: pytest.fail("was tracked"))
    assert main(track(study, "fu", "--format", "dicom-sr")) == 3
    assert "lacks its own UID" in capsys.readouterr().err


def test_time_points_go_on_from_those_of_the_report(study: Path) -> None:
    """What was the second follow-up is the next baseline, and its follow-up the third."""
    assert main(convert(study, "l.csv", "first.dcm")) == 0
    assert time_points(study / "first.dcm") == {"0"}
    write_sr(found(marked(load_volume(study / "bl").grid)), load_volume(study / "bl"),
             study / "l.dcm", time_point=2)  # fmt: skip
    arguments = track(study, "fu", "--format", "json", "dicom-sr")
    arguments[arguments.index(f"{study}/l.csv")] = f"{study}/l.dcm"
    assert main(arguments) == 0
    assert time_points(study / "out" / "baseline_sr.dcm") == {"2"}
    assert time_points(study / "out" / "followup_sr.dcm") == {"3"}
    result = read_json(study / "out" / "result.json")
    assert result.time_points() == [2, 3]
    result.followups[0].time_point = 5  # two CT studies that were not tracked lie between
    assert result.time_points() == [2, 5]
    assert main(convert(study, "l.dcm", "ohif.dcm", "--sr-profile", "ohif")) == 0
    assert time_points(study / "ohif.dcm") == {"2"}


def time_points(path: Path) -> set[str]:
    groups = pydicom.dcmread(path).ContentSequence[-1].ContentSequence
    items = [item for group in groups for item in group.ContentSequence]
    return {i.TextValue for i in items if i.ConceptNameCodeSequence[0].CodeValue == "126070"}


def convert(study: Path, source: str, output: str, *more: str) -> list[str]:
    return ["convert", "lesions", "--input", f"{study}/{source}", "--baseline", f"{study}/bl",
            "--output", f"{study}/{output}", *more]  # fmt: skip


def test_lesions_are_converted_from_any_format_into_any_other(study: Path, ct: Volume) -> None:
    truth = np.array([lesion.center_mm for lesion in marked(ct.grid)])
    outputs = {"csv": "a.csv", "mrk": "a.mrk.json", "points": "a.json", "prompts": "b.json",
               "dicom-sr": "a.dcm", "dicom-rtstruct": "rt.dcm"}  # fmt: skip
    for to, name in outputs.items():
        assert main(convert(study, "l.csv", name, "--format", to)) == 0
        for again, other in outputs.items():
            converted = f"from_{to}_{other}"
            frame = ("--points-in", "lps") if to == "points" else ()
            assert main(convert(study, name, converted, "--format", again, *frame, "-q")) == 0
            read = read_lesions(study / converted, ct, "lps")
            assert np.allclose([x.center_mm for x in read], truth, atol=0.01), converted
    assert set(outputs) | {"nifti", "dicom-seg"} == set(CONVERTED)


def test_voxels_survive_from_mask_to_seg_and_back(study: Path, ct: Volume) -> None:
    assert main(convert(study, "l.csv", "a.nii.gz")) == 0
    assert main(convert(study, "a.nii.gz", "a.dcm", "--format", "dicom-seg")) == 0
    assert main(convert(study, "a.dcm", "b.nii.gz")) == 0
    first, second = (np.asarray(nibabel.load(study / n).dataobj) for n in ("a.nii.gz", "b.nii.gz"))
    assert first.max() == 3
    assert np.array_equal(first, second)
    assert main(convert(study, "a.nii.gz", "rt.dcm", "--format", "dicom-rtstruct")) == 0
    assert main(convert(study, "rt.dcm", "c.nii.gz")) == 0
    assert np.array_equal(first, np.asarray(nibabel.load(study / "c.nii.gz").dataobj))


def kinds(path: Path) -> set[str]:
    dataset = pydicom.dcmread(path)
    if "SegmentSequence" in dataset:
        return {s.SegmentAlgorithmType for s in dataset.SegmentSequence}
    return {r.ROIGenerationAlgorithm for r in dataset.StructureSetROISequence}


def test_who_drew_a_lesion_is_told(study: Path, ct: Volume) -> None:
    """A person's mask stays a person's through every format, a program's a program's."""
    assert main(convert(study, "l.csv", "m.nii.gz")) == 0
    assert main(convert(study, "m.nii.gz", "seg.dcm", "--format", "dicom-seg")) == 0
    assert main(convert(study, "seg.dcm", "rt.dcm", "--format", "dicom-rtstruct")) == 0
    assert main(convert(study, "rt.dcm", "again.dcm", "--format", "dicom-seg")) == 0
    for name in ("seg.dcm", "rt.dcm", "again.dcm"):
        assert kinds(study / name) == {"MANUAL"}, name
        assert_valid(study / name)
    (segment, *_) = pydicom.dcmread(study / "seg.dcm").SegmentSequence
    assert "SegmentAlgorithmName" not in segment
    assert "SegmentationAlgorithmIdentificationSequence" not in segment
    matches = with_extents(found(marked(ct.grid)), ct.grid)
    write_lesions(ct, [ct], [matches], study, ("dicom-seg", "dicom-rtstruct", "dicom-sr"))
    both = {"AUTOMATIC", "SEMIAUTOMATIC"}  # a reader drew the axes of one
    for name in ("followup_seg.dcm", "followup_rtstruct.dcm"):
        assert kinds(study / name) == both
        assert_valid(study / name)
    (segment, *_) = pydicom.dcmread(study / "followup_seg.dcm").SegmentSequence
    assert segment.SegmentAlgorithmName == "tlt"
    for source in ("followup_seg.dcm", "followup_rtstruct.dcm", "followup_sr.dcm"):
        assert main(convert(study, source, "to.dcm", "--format", "dicom-rtstruct")) == 0
        assert kinds(study / "to.dcm") == both, source


@pytest.mark.parametrize(
    ("output", "more", "code", "words"),
    [
        ("a.json", [], 2, "say --format points"),
        ("a.txt", [], 2, "an ending of no lesion format"),
        ("a.csv", ["--format", "dicom-sr"], 2, "needs the ending .dcm"),
        ("a.csv", ["--format", "excel"], 2, "unknown"),
        ("a.dcm", ["--sr-profile", "x"], 2, "unknown"),
        ("a.dcm", ["--format", "dicom-seg"], 3, "no voxels of their own"),
    ],
)
def test_what_cannot_be_converted(
    study: Path, capsys: pytest.CaptureFixture, output: str, more: list[str], code: int, words: str
) -> None:
    assert main(convert(study, "l.csv", output, *more)) == code
    assert words in capsys.readouterr().err
    assert not (study / output).exists()
    with pytest.raises(InputError, match="no DICOM series"):
        convert_lesions(study / "l.csv", study / "fu.nii.gz", study / "x.dcm")


def test_every_format_of_the_contract_can_be_asked_for() -> None:
    assert {"dicom-sr", "dicom-seg", "dicom-rtstruct", "points"} <= set(FORMATS)
