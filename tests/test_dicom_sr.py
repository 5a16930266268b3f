"""DICOM SR: what is written is valid, read back by us and by others, and refused where wrong."""

from __future__ import annotations

import json
import logging
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from conftest import LPS, RAS, make_phantom, oblique, save_dicom, torso_grid, write_dicom_series
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import assert_valid, at, found, marked, need, ran, series
from pydicom.dataset import Dataset
from pydicom.uid import ComprehensiveSRStorage, generate_uid

from tlt.errors import InputError, UsageError
from tlt.io.dicom_sr_write import write_sr
from tlt.io.images import load_volume, save_volume
from tlt.io.lesions import read_lesions
from tlt.lesion import Lesion, Match, Status
from tlt.volume import Volume

LESIONS = [Lesion("L1", (0.0, 0.0, 300.0), 8.0)]
EVERY = pytest.mark.parametrize("direction", [LPS, RAS, oblique()], ids=["LPS", "RAS", "oblique"])


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    return series(tmp_path_factory.mktemp("ct"), oblique())


def refused(path: Path, volume: Volume, *words: str) -> None:
    with pytest.raises(InputError) as caught:
        read_lesions(path, volume)
    message = str(caught.value)
    assert "\n" not in message
    assert "SECRET" not in message
    assert "Doe" not in message
    for word in words:
        assert word in message, message


def assert_same_size(read: Lesion, truth: Lesion) -> None:
    if truth.size is None:
        assert read.size is None
        return
    assert read.size is not None
    for a, b in ((read.size.long_axis, truth.size.long_axis),
                 (read.size.short_axis, truth.size.short_axis)):  # fmt: skip
        if b is None:
            assert a is None
        else:
            assert a is not None
            assert np.allclose([a.start_mm, a.end_mm], [b.start_mm, b.end_mm], atol=1e-3)
    assert read.size.volume_mm3 == truth.size.volume_mm3
    assert read.size.by_reader == truth.size.by_reader


# Written and read back


@EVERY
@pytest.mark.parametrize("profile", ["plain", "ohif"])
def test_lesions_come_back_as_they_were(
    tmp_path: Path, direction: tuple[float, ...], profile: str
) -> None:
    volume = series(tmp_path / "ct", direction)
    truth = marked(volume.grid)
    uid = write_sr(truth, volume, tmp_path / "sr.dcm", profile, time_point=0)
    assert pydicom.dcmread(tmp_path / "sr.dcm").SOPInstanceUID == uid
    read = read_lesions(tmp_path / "sr.dcm", volume)
    for a, b in zip(read, truth, strict=True):
        assert (a.id, a.tracking_uid, a.nodal, a.role) == (b.id, b.tracking_uid, b.nodal, b.role)
        assert a.radius_mm == pytest.approx(b.radius_mm, abs=1e-3)
        assert (a.label, a.site) == (b.label, b.site)
        assert_same_size(a, b)
    exact = np.array([b.center_mm for b in truth])
    assert np.allclose([a.center_mm for a in read], exact, atol=1e-3)


def test_others_find_a_point_for_ohif_in_the_nearest_slice(tmp_path: Path, ct: Volume) -> None:
    """What is left when the exact centre, which only we know, is gone or belongs elsewhere."""
    point = marked(ct.grid)[2]
    write_sr([point], ct, tmp_path / "sr.dcm", "ohif")
    index = ct.grid.mm_to_index(point.center_mm)
    index[0] = np.round(index[0])
    for text in ("", "0.0000 0.0000 300.0000", "1.0 x"):
        report = pydicom.dcmread(tmp_path / "sr.dcm")
        (group,) = report.ContentSequence[-1].ContentSequence
        (own,) = [i for i in group.ContentSequence
                  if i.ConceptNameCodeSequence[0].CodeValue == "exact-center"]  # fmt: skip
        own.TextValue = text
        report.save_as(tmp_path / "edited.dcm")
        (read,) = read_lesions(tmp_path / "edited.dcm", ct)
        assert np.allclose(read.center_mm, ct.grid.index_to_mm(index), atol=1e-3)


def drawings(report: Dataset) -> list[Dataset]:
    """The pixels that are marked in the (one) group of a report."""
    (group,) = report.ContentSequence[-1].ContentSequence
    return [i.ContentSequence[0] for i in group.ContentSequence
            if i.ValueType == "NUM" and "ContentSequence" in i]  # fmt: skip


@pytest.mark.parametrize("way", [0.0, 0.2, 1.5])
def test_a_mark_that_was_moved_in_ohif_counts_more_than_our_centre(
    tmp_path: Path, ct: Volume, way: float
) -> None:
    """A point, and an axis whose middle is not the centre; the pixels are 8 mm wide."""
    both, _, point = marked(ct.grid)
    both = replace(both, center_mm=at(ct.grid, 10.3, 15.4, 12.6))
    for lesion in (point, both):
        write_sr([lesion], ct, tmp_path / "sr.dcm", "ohif")
        (same,) = read_lesions(tmp_path / "sr.dcm", ct)
        assert np.allclose(same.center_mm, lesion.center_mm, atol=1e-3)
        report = pydicom.dcmread(tmp_path / "sr.dcm")
        for drawn in drawings(report):
            data = np.add(np.reshape(drawn.GraphicData, (-1, 2)), (way, 0))
            drawn.GraphicData = data.ravel().tolist()
        report.save_as(tmp_path / "sr.dcm")
        (moved,) = read_lesions(tmp_path / "sr.dcm", ct)
        index = ct.grid.mm_to_index(moved.center_mm)
        truth = ct.grid.mm_to_index(lesion.center_mm)
        if way and lesion is both:
            truth = np.array((10, 15, 12.125))
        elif way:
            truth[0] = np.round(truth[0])
        assert np.allclose(index, np.add(truth, (0, 0, way)), atol=1e-3)


@pytest.mark.parametrize("profile", ["plain", "ohif"])
def test_the_expected_radius_reaches_the_next_time_point(
    tmp_path: Path, ct: Volume, profile: str
) -> None:
    """Unmeasured, and measured with a doubt: then the next one starts from the old radius."""
    both, _, point = marked(ct.grid)
    assert both.size is not None
    unsure = Match(replace(both, radius_mm=12.5), Status.FOUND, both.center_mm, 0.9, both.center_mm,
                   None, replace(both.size, doubtful=True))  # fmt: skip
    unmeasured = Match(point, Status.FOUND, point.center_mm, 0.9, point.center_mm)
    write_sr([unsure, unmeasured], ct, tmp_path / "sr.dcm", profile)
    assert_valid(tmp_path / "sr.dcm")
    read = read_lesions(tmp_path / "sr.dcm", ct)
    assert [lesion.radius_mm for lesion in read] == [12.5, point.radius_mm]
    groups = pydicom.dcmread(tmp_path / "sr.dcm").ContentSequence[-1].ContentSequence
    numbers = [i for i in groups[1].ContentSequence if i.ValueType == "NUM"]
    assert [i.ConceptNameCodeSequence[0].CodeMeaning for i in numbers] == ["Certainty of Finding"]


@pytest.mark.parametrize("profile", ["plain", "ohif"])
def test_low_confidence_is_said_once(tmp_path: Path, ct: Volume, profile: str) -> None:
    """In the plain profile by the status alone; OHIF shows nothing but the label."""
    current = marked(ct.grid)[2]
    for _ in range(2):
        here = Match(current, Status.LOW_CONFIDENCE, current.center_mm, 0.3, current.center_mm)
        write_sr([here], ct, tmp_path / "sr.dcm", profile)
        (current,) = read_lesions(tmp_path / "sr.dcm", ct)
        assert current.label == "no size"
    (group,) = pydicom.dcmread(tmp_path / "sr.dcm").ContentSequence[-1].ContentSequence
    texts = {i.ConceptNameCodeSequence[0].CodeMeaning: i.TextValue
             for i in group.ContentSequence if i.ValueType == "TEXT"}  # fmt: skip
    shown = {"plain": "no size", "ohif": "L3: no size (low confidence)"}
    assert texts["Comment"] == shown[profile]
    assert any(i.get("ConceptCodeSequence", [Dataset()])[0].get("CodeValue") == "low_confidence"
               for i in group.ContentSequence)  # fmt: skip


def test_places_far_apart_of_one_tracking_uid_are_told(
    tmp_path: Path, ct: Volume, caplog: pytest.LogCaptureFixture
) -> None:
    image = slice_at(ct, 7)
    groups = [
        ohif_group("Length", number("Length", "G-D7FE", "SRT", 16, line(image, x, 8, x + 2, 8)),
                   uid="2.25.7")
        for x in (10, 11, 30)
    ]  # fmt: skip
    assert len(read_lesions(ohif_report(tmp_path / "sr.dcm", *groups[:2]), ct)) == 1
    assert "apart" not in caplog.text
    (read,) = read_lesions(ohif_report(tmp_path / "sr.dcm", *groups), ct)
    assert read.tracking_uid == "2.25.7"
    assert "3 measurement groups of one Tracking UID mark places up to 160 mm apart" in caplog.text


@pytest.mark.parametrize("reader", ["A\\B", "line\nbreak", "A=B", "Dr. Ä^X", "x" * 100, " \n"])
def test_any_reader_has_a_name(tmp_path: Path, ct: Volume, reader: str) -> None:
    write_sr(found(marked(ct.grid)), ct, tmp_path / "sr.dcm", reader=reader)
    assert_valid(tmp_path / "sr.dcm")
    report = pydicom.dcmread(tmp_path / "sr.dcm")
    names = [str(i.PersonName) for i in report.ContentSequence if i.ValueType == "PNAME"]
    shown = {"A\\B": "A B^", "line\nbreak": "line break^", "A=B": "A B^", "Dr. Ä^X": "Dr. Ä X^"}
    expected = [] if not reader.strip() else [shown.get(reader, "x" * 63 + "^")]
    assert names == expected


@pytest.mark.parametrize("profile", ["plain", "ohif"])
def test_objects_are_valid(tmp_path: Path, ct: Volume, profile: str) -> None:
    matches = found(marked(ct.grid))
    matches.append(replace(matches[0], lesion=replace(matches[0].lesion, id="L9"),
                           status=Status.NOT_FOUND))  # fmt: skip
    write_sr(matches, ct, tmp_path / "sr.dcm", profile, 2, reader="Dr. Ä")
    assert_valid(tmp_path / "sr.dcm")
    nothing = [replace(match, status=Status.NOT_FOUND) for match in matches]
    write_sr(nothing, ct, tmp_path / "none.dcm", profile, 2)
    assert_valid(tmp_path / "none.dcm")


def test_highdicom_finds_the_same_coordinates(tmp_path: Path, ct: Volume) -> None:
    truth = marked(ct.grid)
    write_sr(found(truth), ct, tmp_path / "sr.dcm")
    report = hd.sr.srread(tmp_path / "sr.dcm").content
    (point,) = report.get_planar_roi_measurement_groups()
    assert point.tracking_uid == truth[2].tracking_uid
    assert np.allclose(point.roi.value, [truth[2].center_mm], atol=0.1)
    both, one = report.get_image_measurement_groups()
    assert (both.tracking_identifier, one.tracking_identifier) == ("L1", "L 2")
    assert both.finding_sites[0].topographical_modifier is None
    long, short = (both.get_measurements(hd.sr.CodedConcept(code, "SCT", "x"))[0]
                   for code in ("103339001", "103340004"))  # fmt: skip
    size = truth[0].size
    assert size is not None
    assert size.short_axis is not None
    for measured, axis in ((long, size.long_axis), (short, size.short_axis)):
        assert measured.value == pytest.approx(axis.length_mm, abs=1e-3)
        (line,) = measured.referenced_coordinates
        assert np.allclose(line.value, [axis.start_mm, axis.end_mm], atol=0.1)


def test_pixels_for_ohif_are_those_of_the_slice(tmp_path: Path, ct: Volume) -> None:
    """The rule of DICOM by hand: 0.5 is the centre of the first pixel, columns come first."""
    truth = marked(ct.grid)
    write_sr(found(truth), ct, tmp_path / "sr.dcm", "ohif")
    report = pydicom.dcmread(tmp_path / "sr.dcm")
    images = {d.SOPInstanceUID: d for d in map(pydicom.dcmread, Path(ct.path).iterdir())}
    groups = report.ContentSequence[-1].ContentSequence
    assert [group.ContentSequence[0].TextValue for group in groups] == [
        "Cornerstone3DTools@^0.1.0:Bidirectional:L1",
        "Cornerstone3DTools@^0.1.0:Length:L 2",
        "Cornerstone3DTools@^0.1.0:ArrowAnnotate:L3",
    ]
    for group in groups:  # OHIF takes the first number for the drawing, and fails without one
        first = next(item for item in group.ContentSequence if item.ValueType == "NUM")
        assert [i.ValueType for i in first.ContentSequence] == ["SCOORD"]
    names = [i.ConceptNameCodeSequence[0].CodeMeaning for i in groups[0].ContentSequence]
    assert {"Long Axis", "Short Axis", "Tracking Identifier"} <= set(names)
    number = next(i for i in groups[0].ContentSequence if i.ValueType == "NUM")
    scoord = number.ContentSequence[0]
    image = images[scoord.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID]
    row, column = np.reshape(image.ImageOrientationPatient, (2, 3)).astype(float)
    x, y = scoord.GraphicData[:2]
    place = (np.array(image.ImagePositionPatient, float) + row * image.PixelSpacing[1] * (x - 0.5)
             + column * image.PixelSpacing[0] * (y - 0.5))  # fmt: skip
    assert truth[0].size is not None
    assert np.allclose(place, truth[0].size.long_axis.start_mm, atol=0.01)


def test_axes_outside_a_slice_are_kept_in_space(tmp_path: Path, ct: Volume) -> None:
    first = marked(ct.grid)[0]
    assert first.size is not None
    x, y, z = first.size.long_axis.end_mm
    tilted = replace(first.size, long_axis=replace(first.size.long_axis, end_mm=(x, y, z + 8)))
    write_sr([replace(first, size=tilted)], ct, tmp_path / "sr.dcm", "ohif")
    (read,) = read_lesions(tmp_path / "sr.dcm", ct)
    assert read.size is not None
    assert np.allclose(read.size.long_axis.end_mm, (x, y, z + 8), atol=1e-3)
    assert_valid(tmp_path / "sr.dcm")
    group = pydicom.dcmread(tmp_path / "sr.dcm").ContentSequence[-1].ContentSequence[0]
    drawn = [i.ContentSequence[0].ValueType for i in group.ContentSequence
             if i.ValueType == "NUM" and "ContentSequence" in i]  # fmt: skip
    assert drawn == ["SCOORD3D", "SCOORD3D"]


def test_dcmtk_and_dcmqi_read_it(tmp_path: Path, ct: Volume) -> None:
    need("dsrdump", "tid1500reader")
    truth = marked(ct.grid)
    write_sr(found(truth), ct, tmp_path / "sr.dcm", time_point=2)
    text = ran("dsrdump", "+Pl", tmp_path / "sr.dcm")
    point = "/".join(f"{v:.4g}" for v in truth[2].center_mm).split("/")
    (line,) = [x for x in text.splitlines() if '"Image Region"' in x]
    shown = line.split("POINT,,")[1].rstrip(")>").split("/")
    assert np.allclose([float(v) for v in shown], truth[2].center_mm, atol=0.1), point
    assert '"Subject Time Point Identifier")="2"' in text
    ran("tid1500reader", "--inputDICOM", tmp_path / "sr.dcm", "--outputMetadata", tmp_path / "o")
    groups = json.loads((tmp_path / "o").read_text())["Measurements"]
    assert [g["TrackingUniqueIdentifier"] for g in groups] == [t.tracking_uid for t in truth]
    values = {m["quantity"]["CodeMeaning"]: m["value"] for m in groups[0]["measurementItems"]}
    assert float(values["Long Axis"]) == pytest.approx(34.0, abs=1e-3)
    assert float(values["Short Axis"]) == pytest.approx(18.75, abs=1e-3)
    assert float(values["Volume"]) == 1234.5


def test_lost_lesions_are_no_measurements(tmp_path: Path, ct: Volume) -> None:
    first, second, third = found(marked(ct.grid))
    lost = [first, replace(second, status=Status.NOT_FOUND),
            replace(third, status=Status.OUTSIDE_FOV, center_mm=None)]  # fmt: skip
    for profile in ("plain", "ohif"):
        write_sr(lost, ct, tmp_path / "sr.dcm", profile)
        assert [x.id for x in read_lesions(tmp_path / "sr.dcm", ct)] == ["L1"]
        report = pydicom.dcmread(tmp_path / "sr.dcm")
        remarks = [i.TextValue for i in report.ContentSequence[-1].ContentSequence]
        assert remarks[0].startswith("L 2 (Tracking UID ")
        assert remarks[0].endswith("not found")
        assert remarks[1].endswith("outside fov")


def test_an_unmeasured_followup_does_not_inherit_the_diameter(tmp_path: Path, ct: Volume) -> None:
    lesion = marked(ct.grid)[2]
    match = Match(lesion, Status.LOW_CONFIDENCE, lesion.center_mm, 0.3, lesion.center_mm)
    write_sr([match], ct, tmp_path / "sr.dcm")
    (group,) = hd.sr.srread(tmp_path / "sr.dcm").content.get_planar_roi_measurement_groups()
    assert [(m.name.meaning, m.value) for m in group.get_measurements()] == [
        ("Certainty of Finding", 30)
    ]


def test_patient_and_study_come_from_the_images(tmp_path: Path, ct: Volume) -> None:
    write_sr(marked(ct.grid), ct, tmp_path / "sr.dcm", sop_uid="1.2.3", series_uid="1.2.4")
    report = pydicom.dcmread(tmp_path / "sr.dcm")
    image = pydicom.dcmread(next(Path(ct.path).iterdir()))
    assert (report.PatientID, report.PatientName) == (image.PatientID, image.PatientName)
    assert report.StudyInstanceUID == image.StudyInstanceUID
    assert (report.SOPInstanceUID, report.SeriesInstanceUID) == ("1.2.3", "1.2.4")
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    assert study.ReferencedSeriesSequence[0].SeriesInstanceUID == ct.series_uid


def test_writing_needs_dicom(tmp_path: Path, ct: Volume) -> None:
    save_volume(ct, tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match="not read from DICOM"):
        write_sr(LESIONS, load_volume(tmp_path / "a.nii.gz"), tmp_path / "sr.dcm")
    with pytest.raises(InputError, match="no longer there"):
        write_sr(LESIONS, replace(ct, path=str(tmp_path / "gone")), tmp_path / "sr.dcm")
    with pytest.raises(UsageError, match="ohif"):
        write_sr(LESIONS, ct, tmp_path / "sr.dcm", "osirix")
    no_frame = series(tmp_path / "no", LPS, FrameOfReferenceUID="")
    with pytest.raises(InputError, match="no Frame of Reference UID"):
        write_sr(LESIONS, no_frame, tmp_path / "sr.dcm")
    assert not (tmp_path / "sr.dcm").exists()


def test_a_name_that_is_no_uid_becomes_the_same_one_each_time(tmp_path: Path, ct: Volume) -> None:
    odd = Lesion("x" * 200, marked(ct.grid)[2].center_mm, 9.0, "two\nlines \\ and more",
                 "lesion 3\n", site="über der Niere")  # fmt: skip
    uids = set()
    for name in ("a.dcm", "b.dcm"):
        write_sr([odd], ct, tmp_path / name)
        assert_valid(tmp_path / name)
        (read,) = read_lesions(tmp_path / name, ct)
        assert (read.id, read.site) == (odd.id, odd.site)
        uids.add(read.tracking_uid)
    assert len(uids) == 1


def test_without_highdicom_the_extra_is_named(
    tmp_path: Path, ct: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(UsageError, match=r"pip install 'transformer-lesion-tracker\[dicom\]'"):
        write_sr(LESIONS, ct, tmp_path / "sr.dcm")


# What OHIF writes, made by hand


def code(value: str, scheme: str, meaning: str) -> list[Dataset]:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return [item]


def item(kind: str, name: list[Dataset], **fields: object) -> Dataset:
    made = Dataset()
    made.RelationshipType, made.ValueType, made.ConceptNameCodeSequence = "CONTAINS", kind, name
    for keyword, value in fields.items():
        setattr(made, keyword, value)
    return made


def drawing(image: Dataset, kind: str, data: list[float]) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID = image.SOPClassUID
    reference.ReferencedSOPInstanceUID = image.SOPInstanceUID
    selected = Dataset()
    selected.RelationshipType, selected.ValueType = "SELECTED FROM", "IMAGE"
    selected.ReferencedSOPSequence = [reference]
    drawn = Dataset()
    drawn.RelationshipType, drawn.ValueType, drawn.GraphicType = "INFERRED FROM", "SCOORD", kind
    drawn.GraphicData, drawn.ContentSequence = data, [selected]
    return drawn


def line(image: Dataset, *data: float) -> Dataset:
    return drawing(image, "POLYLINE", list(data))


def number(meaning: str, value: str, scheme: str, length: float, drawn: Dataset) -> Dataset:
    measured = Dataset()
    measured.NumericValue = f"{length:.3f}"
    measured.MeasurementUnitsCodeSequence = code("mm", "UCUM", "millimeter")
    return item("NUM", code(value, scheme, meaning), MeasuredValueSequence=[measured],
                ContentSequence=[drawn])  # fmt: skip


def ohif_group(tool: str, *items: Dataset, uid: str = "") -> Dataset:
    tracking = [
        item("TEXT", code("112039", "DCM", "Tracking Identifier"),
             TextValue=f"Cornerstone3DTools@^0.1.0:{tool}"),
        item("UIDREF", code("112040", "DCM", "Tracking Unique Identifier"),
             UID=uid or generate_uid()),
    ]  # fmt: skip
    return item("CONTAINER", code("125007", "DCM", "Measurement Group"),
                ContentSequence=[*tracking, *items])  # fmt: skip


def ohif_report(path: Path, *groups: Dataset, **changes: object) -> Path:
    report = Dataset()
    report.SOPClassUID, report.SOPInstanceUID = ComprehensiveSRStorage, generate_uid()
    report.Modality, report.PatientID = "SR", "SECRET-ID"
    report.ContentSequence = [
        item("CONTAINER", code("126010", "DCM", "Imaging Measurements"),
             ContentSequence=list(groups))
    ]  # fmt: skip
    for keyword, value in changes.items():
        setattr(report, keyword, value)
    save_dicom(report, path)
    return path


def slice_at(volume: Volume, level: int) -> Dataset:
    images = [pydicom.dcmread(p, stop_before_pixels=True) for p in Path(volume.path).iterdir()]
    place = volume.grid.index_to_mm((level, 0, 0))
    (image,) = [i for i in images if np.allclose(np.array(i.ImagePositionPatient, float), place)]
    return image


def test_what_ohif_draws_is_read(tmp_path: Path, ct: Volume) -> None:
    image = slice_at(ct, 7)
    site = item("CODE", code("363698007", "SCT", "Finding Site"),
                ConceptCodeSequence=code("59441001", "SCT", "Lymph node"))  # fmt: skip
    comment = item("TEXT", code("121106", "DCM", "Comment"), TextValue="seg. 7")
    path = ohif_report(
        tmp_path / "sr.dcm",
        ohif_group(
            "Bidirectional",
            number("Long Axis", "G-A185", "SRT", 32, line(image, 10.5, 8, 14.5, 8)),
            number("Short Axis", "G-A186", "SRT", 15, line(image, 12, 7, 12, 9)),
            comment, uid="2.25.7",
        ),
        ohif_group("Length", number("Length", "G-D7FE", "SRT", 15,
                                    line(image, 20.5, 9.5, 20.5, 11.5)), site),
        ohif_group("ArrowAnnotate", number("Center", "111010", "DCM", 0,
                                           line(image, 5.5, 6.5, 9, 9))),
        ohif_group("CircleROI", number("Area", "42798000", "SCT", 9,
                                       drawing(image, "CIRCLE", [25.5, 12.5, 27.5, 12.5]))),
    )  # fmt: skip
    read = read_lesions(path, ct)
    index = np.round(ct.grid.mm_to_index([lesion.center_mm for lesion in read]), 4)
    assert index.tolist() == [[7, 7.5, 12], [7, 10, 20], [7, 6, 5], [7, 12, 25]]
    assert [round(lesion.radius_mm, 3) for lesion in read] == [16, 7.5, 10, 16]
    assert [lesion.id for lesion in read] == ["L1", "L2", "L3", "L4"]
    assert (read[0].label, read[0].tracking_uid) == ("seg. 7", "2.25.7")
    assert [lesion.nodal for lesion in read] == [False, True, False, False]
    assert read[0].size is not None
    assert read[0].size.short_axis is not None
    assert read[0].size.short_axis.length_mm == pytest.approx(15)
    assert read[0].size.by_reader
    assert read[2].size is read[3].size is None


def test_marks_of_another_series_are_left_out_with_a_warning(
    tmp_path: Path, ct: Volume, caplog: pytest.LogCaptureFixture
) -> None:
    image, other = slice_at(ct, 7), slice_at(ct, 7)
    other.SOPInstanceUID = "1.2.3"
    point = number("Center", "111010", "DCM", 0, drawing(image, "POINT", [5.5, 6.5]))
    away = number("Center", "111010", "DCM", 0, drawing(other, "POINT", [5.5, 6.5]))
    path = ohif_report(tmp_path / "sr.dcm", ohif_group("Probe", point), ohif_group("Probe", away))
    with caplog.at_level(logging.WARNING):
        assert len(read_lesions(path, ct)) == 1
    assert "1 measurement groups are left out: it marks images of another series" in caplog.text
    refused(ohif_report(path, ohif_group("Probe", away)), ct, "another series than the baseline")


# Refused


def test_wrong_reports(tmp_path: Path, ct: Volume) -> None:
    truth = marked(ct.grid)
    sr = tmp_path / "sr.dcm"
    write_sr(truth, ct, sr)
    stranger = series(tmp_path / "stranger", oblique(), PatientID="SECRET-2")
    refused(sr, stranger, "another PatientID")
    elsewhere = series(tmp_path / "elsewhere", oblique(), FrameOfReferenceUID="1.2.3")
    refused(sr, elsewhere, "another frame of reference")
    write_sr(truth, ct, sr, "ohif")
    refused(sr, series(tmp_path / "again", oblique(), "2"), "another series than the baseline")
    refused(ohif_report(sr), ct, "without measurement groups (TID 1500)")
    refused(ohif_report(sr, ohif_group("Length")), ct, "no coordinates")
    refused(next(Path(ct.path).iterdir()), ct, "CT Image Storage, not a SR, SEG or RTSTRUCT")


def test_a_baseline_that_is_not_dicom(
    tmp_path: Path, ct: Volume, caplog: pytest.LogCaptureFixture
) -> None:
    save_volume(ct, tmp_path / "ct.nii.gz")
    nifti = load_volume(tmp_path / "ct.nii.gz")
    write_sr(marked(ct.grid), ct, tmp_path / "sr.dcm")
    with caplog.at_level(logging.WARNING):
        read = read_lesions(tmp_path / "sr.dcm", nifti)
    assert np.allclose(read[2].center_mm, marked(ct.grid)[2].center_mm, atol=1e-3)
    assert "frame of reference is not checked" in caplog.text
    write_sr(marked(ct.grid), ct, tmp_path / "sr.dcm", "ohif")
    refused(tmp_path / "sr.dcm", nifti, "baseline is not DICOM", "DICOM series")


def test_folders_and_zips(tmp_path: Path, ct: Volume) -> None:
    """One object among the images it belongs to is found; of two, none is guessed."""
    folder = tmp_path / "study"
    volume = series(folder, oblique())
    write_sr(marked(volume.grid), volume, folder / "a.dcm")
    packed = tmp_path / "study.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, path.name)
    assert [x.id for x in read_lesions(folder, volume)] == ["L1", "L 2", "L3"]
    zipped = load_volume(packed)
    assert [x.id for x in read_lesions(packed, zipped)] == ["L1", "L 2", "L3"]
    write_sr(marked(volume.grid), zipped, tmp_path / "fromzip.dcm", "ohif")
    assert len(read_lesions(tmp_path / "fromzip.dcm", zipped)) == 3
    write_sr(marked(volume.grid), volume, folder / "b.dcm")
    refused(folder, volume, "2 objects that mark lesions", "a.dcm (SR), b.dcm (SR)")
    refused(Path(ct.path), ct, "no DICOM SR, SEG or RTSTRUCT")


def test_enhanced_ct_is_referred_to_by_frame(tmp_path: Path) -> None:
    volume = make_phantom(torso_grid((40, 32, 24), (8.0, 7.5, 5.0), RAS, (5, -7, 300)))
    write_dicom_series(volume, tmp_path / "slices")
    enhanced(tmp_path / "slices", tmp_path / "ct" / "a.dcm")
    read = load_volume(tmp_path / "ct")
    write_sr(marked(read.grid), read, tmp_path / "sr.dcm", "ohif")
    back = read_lesions(tmp_path / "sr.dcm", read)
    assert np.allclose(back[0].center_mm, marked(read.grid)[0].center_mm, atol=1e-3)
    assert np.allclose(back[1].center_mm, marked(read.grid)[1].center_mm, atol=1e-3)
    image = pydicom.dcmread(tmp_path / "ct" / "a.dcm", stop_before_pixels=True)
    drawn = drawing(image, "POINT", [20.5, 15.5])
    group = ohif_group("Probe", number("Center", "111010", "DCM", 0, drawn))
    refused(ohif_report(tmp_path / "sr.dcm", group), read, "several frames", "which")
    drawn.ContentSequence[0].ReferencedSOPSequence[0].ReferencedFrameNumber = 5
    (fifth,) = read_lesions(ohif_report(tmp_path / "sr.dcm", group), read)
    place = image.PerFrameFunctionalGroupsSequence[4].PlanePositionSequence[0].ImagePositionPatient
    level = round(read.grid.mm_to_index(np.array(place, float))[0])
    assert np.allclose(read.grid.mm_to_index(fifth.center_mm), (level, 15, 20), atol=1e-3)


def enhanced(slices: Path, target: Path) -> None:
    """The slices as frames of one Enhanced CT, in an order of their own."""
    images = [pydicom.dcmread(path) for path in sorted(slices.iterdir())]
    first = images[0]
    first.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    first.NumberOfFrames = len(images)
    frames = []
    for image in images:
        frame, plane, measures, values = (Dataset() for _ in range(4))
        plane.ImagePositionPatient = image.ImagePositionPatient
        measures.PixelSpacing, measures.SliceThickness = image.PixelSpacing, image.SliceThickness
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 1, -1024, "HU"
        frame.PlanePositionSequence = [plane]
        frame.PixelMeasuresSequence = [measures]
        frame.PixelValueTransformationSequence = [values]
        frames.append(frame)
    pixels = b"".join(image.PixelData for image in images)
    shared, axes = Dataset(), Dataset()
    axes.ImageOrientationPatient = first.ImageOrientationPatient
    shared.PlaneOrientationSequence = [axes]
    first.PerFrameFunctionalGroupsSequence = frames
    first.SharedFunctionalGroupsSequence = [shared]
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(first, keyword)
    first.PixelData = pixels
    target.parent.mkdir()
    save_dicom(first, target)


# Garbage


def read_or_refused(path: Path, volume: Volume) -> tuple[list[Lesion], str]:
    """The lesions, or why not; anything but an InputError fails the test."""
    try:
        return read_lesions(path, volume), ""
    except InputError as error:
        return [], str(error)


@settings(max_examples=60)
@given(data=st.data())
def test_damaged_reports_give_all_lesions_or_an_input_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder, volume, whole = _sample(tmp_path_factory)
    content = bytearray(whole)
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        for _ in range(data.draw(st.integers(1, 20))):
            content[data.draw(st.integers(132, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = folder / "damaged.dcm"
    path.write_bytes(content)
    read, message = read_or_refused(path, volume)
    assert "\n" not in message
    assert "SECRET" not in message
    if read and len(content) < len(whole):
        assert len(read) == 3


_MADE: list = []


def _sample(factory: pytest.TempPathFactory) -> tuple[Path, Volume, bytes]:
    if not _MADE:
        folder = factory.mktemp("garbage")
        volume = series(folder / "ct", LPS)
        write_sr(marked(volume.grid), volume, folder / "sr.dcm")
        _MADE.append((folder, volume, (folder / "sr.dcm").read_bytes()))
    return _MADE[0]


@settings(max_examples=100)
@given(content=st.binary(max_size=400), start=st.sampled_from(["preamble", "group 8", ""]))
def test_bytes_that_are_no_object_are_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, start: str
) -> None:
    folder, volume, _ = _sample(tmp_path_factory)
    starts = {"preamble": b"\0" * 128 + b"DICM", "group 8": b"\x08\x00\x05\x00", "": b""}
    (folder / "bytes.dcm").write_bytes(starts[start] + content)
    with pytest.raises(InputError):
        read_lesions(folder / "bytes.dcm", volume)


@settings(max_examples=60)
@given(
    kind=st.sampled_from(["POINT", "MULTIPOINT", "POLYLINE", "CIRCLE", "ELLIPSE", "?"]),
    values=st.lists(
        st.floats(width=32, allow_nan=True, allow_infinity=True), min_size=1, max_size=12
    ),
    tool=st.sampled_from(["Bidirectional", "Length", "ArrowAnnotate", "", "x" * 80]),
)
def test_impossible_drawings_are_refused(
    tmp_path_factory: pytest.TempPathFactory, kind: str, values: list[float], tool: str
) -> None:
    folder, volume, _ = _sample(tmp_path_factory)
    group = ohif_group(
        tool,
        number("Long Axis", "103339001", "SCT", 5, drawing(slice_at(volume, 3), kind, values)),
    )
    path = ohif_report(folder / "odd.dcm", group)
    read, message = read_or_refused(path, volume)
    assert "\n" not in message
    for lesion in read:
        assert volume.grid.contains(lesion.center_mm)
        assert 0 < lesion.radius_mm <= 300
