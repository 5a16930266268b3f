"""The parts of `tlt.pacs` that need no peer: choice of series, journal, reports, privacy."""

from __future__ import annotations

import io
import logging
import sqlite3
import warnings
from dataclasses import replace

import pydicom
import pytest
from pacs_patients import LESIONS, Patient, make_patient

from tlt.cli.main import main
from tlt.errors import InputError, UsageError
from tlt.io.dicom_sr_write import write_sr
from tlt.io.images import load_volume
from tlt.io.lesions import read_lesions, read_rows
from tlt.io.lesions_convert import convert_lesions
from tlt.lesion import Axis, Match, Size, Status
from tlt.pacs.baselines import same_patient
from tlt.pacs.choose import Appearance, appearance_of, choose_series
from tlt.pacs.journal import DONE, FAILED, OPEN, REFUSED, Journal
from tlt.pacs.peer import OurSide, PeerSeries, PeerStudy, checked_uid
from tlt.pacs.reports import marks_of, report_uids
from tlt.privacy import digest, quiet_libraries, without_identifiers

AXIAL = Appearance((0.0, 0.0, 1.0), 2.0, "B30f", True)


@pytest.fixture(scope="module")
def patient(tmp_path_factory) -> Patient:
    return make_patient(tmp_path_factory.mktemp("patient"))


def offer(images: int | None, **changes) -> tuple[PeerSeries, Appearance]:
    name = f"1.2.3.{images}.{len(changes)}.{hash(str(changes)) % 999}"
    return PeerSeries(name, "1.2", "CT", images), replace(AXIAL, **changes)


@pytest.mark.parametrize(
    ("best", "others"),
    [
        (offer(100), [offer(3), offer(300, is_scan=False)]),
        (offer(100), [offer(500, normal=(0.0, 1.0, 0.0))]),  # coronal
        (offer(100, normal=(0.0, 0.17, -0.98)), [offer(99)]),  # 10 degrees, other sense
        (offer(100, thickness_mm=2.5), [offer(40, thickness_mm=5.0), offer(300, thickness_mm=1)]),
        (offer(200), [offer(60)]),  # shows more of the body
        (offer(200), [offer(200, kernel="B70f"), offer(190)]),
        (offer(170), [offer(200, kernel="B70f")]),
        (offer(None), []),
    ],
)
def test_the_nearest_series_is_chosen(best, others):
    assert choose_series(AXIAL, [*others, best]) == best[0]
    assert choose_series(AXIAL, [best, *others]) == best[0]


def test_no_series_is_refused():
    with pytest.raises(InputError, match="no CT series but localizers"):
        choose_series(AXIAL, [offer(3), offer(50, is_scan=False)])
    with pytest.raises(InputError, match="none of the 1 CT series"):
        choose_series(AXIAL, [offer(100, normal=(1.0, 0.0, 0.0))])


def test_the_appearance_of_a_series(patient, tmp_path):
    look = appearance_of(next(iter(patient.baseline.iterdir())))
    assert look == Appearance((0.0, 0.0, 1.0), 8.0, "", True)
    assert not appearance_of(patient.report).is_scan
    (tmp_path / "x").write_text("x")
    assert not appearance_of(tmp_path / "x").is_scan


def test_a_journal_remembers(tmp_path):
    journal = Journal(tmp_path)
    assert journal.job("a") is None
    journal.begin("a", 1000.0)
    journal.close()
    journal = Journal(tmp_path)
    assert journal.job("a").state == OPEN
    journal.fail("a", "no line", 1001.0)
    record = journal.job("a")
    assert (record.state, record.attempts, record.next_try) == (FAILED, 1, 1060.0)
    journal.begin("a", 2000.0)
    assert journal.job("a").next_try == 2120.0
    for _ in range(20):
        journal.begin("a", 3000.0)
    assert journal.job("a").next_try == 3000.0 + 3600.0
    journal.refuse("b", "no", 1.0)
    assert [(one.job, one.state) for one in journal.unfinished()] == [("b", REFUSED)]
    journal.finish("a", 4000.0)
    assert journal.job("a").state == DONE
    digests = {journal.digest("1.2.3"), digest("1.2.3")}
    journal.close()
    assert len({*digests, Journal(tmp_path).digest("1.2.3")}) == 2


def test_the_clock_of_a_study(tmp_path):
    journal = Journal(tmp_path)
    assert journal.quiet_since("s", "10 images", 100.0) == 100.0
    assert journal.quiet_since("s", "10 images", 150.0) == 100.0
    assert journal.quiet_since("s", "12 images", 160.0) == 160.0
    assert journal.quiet_since("s", "12 images", 50.0) == 50.0  # the clock was set back


def test_a_damaged_journal_is_said(tmp_path):
    (tmp_path / "journal.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(InputError, match="remove it"):
        Journal(tmp_path)
    good = Journal(tmp_path / "..")
    good._base = sqlite3.connect(":memory:")
    with pytest.raises(InputError, match="disk full"):
        good.job("x")


def test_marks_are_those_of_a_person(patient, tmp_path):
    marks = marks_of(patient.report)
    assert marks is not None
    assert marks.series_uid == patient.baseline_series
    assert marks.sop_uid == pydicom.dcmread(patient.report).SOPInstanceUID
    assert "1.2" not in repr(marks)

    followup = load_volume(patient.followup)
    matches = [Match(one, Status.FOUND, one.center_mm, 0.9, one.center_mm) for one in LESIONS]
    write_sr(matches, followup, tmp_path / "ours.dcm", time_point=1)
    assert marks_of(tmp_path / "ours.dcm") is None
    write_sr(matches, followup, tmp_path / "read.dcm", time_point=1, reader="Jones")
    assert marks_of(tmp_path / "read.dcm") is not None
    write_sr(LESIONS, load_volume(patient.baseline), tmp_path / "bl.dcm", time_point=0)
    assert marks_of(tmp_path / "bl.dcm") is not None


@pytest.mark.parametrize("profile", ["plain", "ohif"])
def test_marks_that_were_written_down_again_are_marks_at_any_time_point(patient, tmp_path, profile):
    """A reviewed report that was converted, and the baseline of a run that goes on from it."""
    followup = load_volume(patient.followup)
    matches = [Match(one, Status.FOUND, one.center_mm, 0.9, one.center_mm) for one in LESIONS]
    matches[0] = replace(matches[0], status=Status.LOW_CONFIDENCE, confidence=0.25)
    x, y, z = LESIONS[1].center_mm
    matches[1] = replace(matches[1], size=Size(Axis((x - 4, y, z), (x + 4, y, z))), radius_mm=4.0)
    for reader in ("Jones", ""):
        source, copy = tmp_path / f"read{reader}.dcm", tmp_path / f"copy{reader}.dcm"
        write_sr(matches, followup, source, time_point=2, reader=reader)
        convert_lesions(source, patient.followup, copy, "dicom-sr", sr_profile=profile)
        assert pydicom.dcmread(copy).SeriesDescription == "Lesions, follow-up 2"
        marks = marks_of(copy)
        assert (marks is not None) == bool(reader)  # what nobody has read stays so
        assert marks is None or (marks.copied and marks.series_uid == patient.followup_series)
        first, second = read_lesions(source, followup), read_lesions(copy, followup)
        assert [x.radius_mm for x in second] == pytest.approx([x.radius_mm for x in first])
    told = [row for _, row in read_rows(tmp_path / "copy.dcm", followup)]
    assert [row.status for row in told] == [match.status for match in matches]
    assert [row.confidence for row in told] == pytest.approx([m.confidence for m in matches])
    write_sr(LESIONS, followup, tmp_path / "bl.dcm", profile, time_point=2)
    marks = marks_of(tmp_path / "bl.dcm")
    assert marks is not None
    assert marks.copied


def test_other_files_hold_no_marks(patient, tmp_path):
    assert marks_of(next(iter(patient.baseline.iterdir()))) is None
    (tmp_path / "x.dcm").write_bytes(b"junk")
    assert marks_of(tmp_path / "x.dcm") is None
    dose = pydicom.dcmread(patient.report)
    dose.ConceptNameCodeSequence[0].CodeValue = "113701"
    dose.save_as(tmp_path / "dose.dcm")
    assert marks_of(tmp_path / "dose.dcm") is None


def test_uids_of_a_report_hang_on_everything_that_went_in():
    first = report_uids("1.2", "1.3", ["1.4", "1.5"], "tlt")
    assert first == report_uids("1.2", "1.3", ["1.5", "1.4"], "tlt")
    others = [
        report_uids("1.9", "1.3", ["1.4", "1.5"], "tlt"),
        report_uids("1.2", "1.9", ["1.4", "1.5"], "tlt"),
        report_uids("1.2", "1.3", ["1.4"], "tlt"),
        report_uids("1.2", "1.3", ["1.4", "1.5"], "patch"),
    ]
    assert len({first.sop, first.series, *(one.sop for one in others)}) == 6


def test_patients_are_told_apart():
    one = PeerStudy("1.2", "20240101", "", "7", "19500101", "A")
    assert same_patient(one, replace(one, issuer="", birth_date=""))
    assert not same_patient(one, replace(one, patient_id="8"))
    assert not same_patient(one, replace(one, birth_date="19500102"))
    assert not same_patient(one, replace(one, issuer="B"))


def test_identifiers_are_taken_out():
    text = "7/CT: 12 slices of series 1.2.840.113619.2.55.3 and 2.25.123\nat 12.5 mm of doe"
    assert without_identifiers(text, "DOE", "", "7") == (
        "(identifier)/CT: 12 slices of series (UID) and (UID) at 12.5 mm of (identifier)"
    )


def test_libraries_are_silent_only_while_we_use_them(caplog):
    caplog.set_level(logging.DEBUG)
    with quiet_libraries(), warnings.catch_warnings(record=True) as caught:
        logging.getLogger("pynetdicom.assoc").critical("SECRET")
        warnings.warn("SECRET", stacklevel=1)
    assert "SECRET" not in caplog.text
    assert not caught
    logging.getLogger("pynetdicom.assoc").warning("again")
    assert "again" in caplog.text


def test_our_side_from_the_environment(monkeypatch):
    monkeypatch.setenv("TLT_PACS_USER", "me")
    with pytest.raises(UsageError, match="both or none"):
        OurSide.from_environment()
    monkeypatch.setenv("TLT_PACS_PASSWORD", "hidden-word")
    monkeypatch.setenv("TLT_PACS_AET", "MINE")
    ours = OurSide.from_environment()
    assert (ours.user, ours.ae_title, ours.store_port) == ("me", "MINE", 11112)
    assert "hidden-word" not in repr(ours)
    monkeypatch.setenv("TLT_PACS_STORE_PORT", "x")
    with pytest.raises(UsageError):
        OurSide.from_environment()


@pytest.mark.parametrize("bad", ["", "1.2.x", "1..2", "../1.2", "1." * 40])
def test_what_is_no_uid_is_not_quoted(bad):
    with pytest.raises(UsageError) as caught:
        checked_uid(bad)
    assert not bad or bad not in str(caught.value)


def test_a_patient_id_may_come_from_stdin(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    pull = ["pacs", "pull", "--peer", "http://127.0.0.1:9/x", "--output", str(tmp_path / "o")]
    assert main([*pull, "--patient-id", "-"]) == 2
    monkeypatch.setattr("sys.stdin", io.StringIO("PID-4711\n"))
    assert main([*pull, "--patient-id", "-", "--connect-timeout", "1"]) == 5
    assert main([*pull, "--patient-id", "PID-4711", "--study", "1.2.3"]) == 2
    text = capsys.readouterr()
    assert "4711" not in text.err + text.out
    assert not (tmp_path / "o").exists()


def test_a_watch_with_an_unknown_tracker_ends_at_once(tmp_path, capsys):
    watch = ["pacs", "watch", "--peer", "http://127.0.0.1:9/x", "--work", str(tmp_path / "w")]
    assert main([*watch, "--tracker", "nonsense", "--once"]) == 2
    assert main([*watch, "--tracker", "affine", "--once", "--connect-timeout", "1"]) == 5
    assert "is the PACS up" in capsys.readouterr().err
