"""`tlt pacs watch` against a real Orthanc: the whole way, restarts, and what it may not say."""

from __future__ import annotations

import contextlib
import csv
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from conftest import make_phantom, torso_grid
from orthanc import PASSWORD, USER, Orthanc, running_orthanc
from pacs_patients import LESIONS, SHIFT_MM, Patient, make_patient, write_scan

from tlt.cli.main import main
from tlt.errors import InputError, PeerError, UsageError
from tlt.io.dicom_sr_write import write_sr
from tlt.io.images import load_volume
from tlt.io.lesions import read_lesions
from tlt.io.sources import read_sources
from tlt.pacs.dicomweb import DicomWebPeer
from tlt.pacs.followup import Tracking
from tlt.pacs.peer import Limits, OurSide, Peer, open_peer
from tlt.pacs.source import is_peer_source
from tlt.pacs.watch import Poll, Watch, WatchSettings
from tlt.review.service import Review

PROTOCOLS = ("dicomweb", "dimse")
LIMITS = Limits(connect_s=2.0, read_s=10.0, attempts=2, pause_s=0.01)


@pytest.fixture
def orthanc(tmp_path) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path / "orthanc") as one:
        yield one


@pytest.fixture(scope="module")
def patient(tmp_path_factory) -> Patient:
    """A patient's files, in no PACS yet."""
    return make_patient(tmp_path_factory.mktemp("patient"))


def connect(orthanc: Orthanc, protocol: str = "dicomweb") -> Peer:
    ours = OurSide(user=USER, password=PASSWORD, store_port=orthanc.store_port)
    return open_peer(orthanc.url if protocol == "dicomweb" else orthanc.dicom, LIMITS, ours)


def settings(work: Path, **changes) -> WatchSettings:
    return replace(WatchSettings(work, Tracking("affine"), quiet_s=0.0, days=0), **changes)


def look(orthanc: Orthanc, work: Path, said: list[str] | None = None, **changes) -> Poll:
    """One look by a watch of its own."""
    notes = said if said is not None else []
    with Watch(connect(orthanc), settings(work, **changes), notes.append) as watch:
        return watch.poll(time.time())


def our_reports(orthanc: Orthanc, study: str) -> list[str]:
    """SOP Instance UIDs of the reports in a study."""
    found = orthanc.find("Instance", Modality="SR", StudyInstanceUID=study)
    return [orthanc.get(f"/instances/{one}/simplified-tags")["SOPInstanceUID"] for one in found]


def the_report(orthanc: Orthanc, study: str, path: Path) -> Path:
    """The file of the one report in a study."""
    (found,) = orthanc.find("Instance", Modality="SR", StudyInstanceUID=study)
    path.write_bytes(orthanc.get(f"/instances/{found}/file"))
    return path


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_followup_gets_its_report(
    orthanc, patient, protocol, tmp_path, monkeypatch, capsys, caplog
):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("TLT_PACS_USER", USER)
    monkeypatch.setenv("TLT_PACS_PASSWORD", PASSWORD)
    monkeypatch.setenv("TLT_PACS_PEER", orthanc.url if protocol == "dicomweb" else orthanc.dicom)
    work = tmp_path / "work"
    arguments = [
        "pacs", "watch", "--work", str(work), "--once", "--quiet-seconds", "0", "--days", "0",
        "--tracker", "patch",
    ]  # fmt: skip
    orthanc.add(patient.files("baseline", "report"))
    assert main(arguments) == 0
    assert len(orthanc.find("Instance", Modality="SR")) == 1
    orthanc.add(patient.files("followup"))
    assert main(arguments) == 0
    report = the_report(orthanc, patient.followup_study, tmp_path / "found.dcm")
    found = read_lesions(report, load_volume(patient.followup))
    for lesion, truth in zip(found, LESIONS, strict=True):
        moved = np.add(truth.center_mm, SHIFT_MM)
        assert np.linalg.norm(np.subtract(lesion.center_mm, moved)) < 2.0
    marked = read_lesions(patient.report, load_volume(patient.baseline))
    assert [one.tracking_uid for one in found] == [one.tracking_uid for one in marked]
    header = pydicom.dcmread(report)
    assert (header.PatientID, header.StudyInstanceUID) == (patient.id, patient.followup_study)

    assert main(arguments) == 0  # nothing is left to do
    assert len(orthanc.find("Instance", Modality="SR")) == 2
    text = capsys.readouterr()
    assert text.err.count("report stored") == 1
    assert "tracked 3 lesions: 3 found" in text.err
    for secret in patient.secrets:
        assert secret not in text.out + text.err + caplog.text
        assert secret.encode() not in (work / "journal.sqlite").read_bytes()
    assert not list(work.rglob("*.dcm"))
    (result,) = (work / "jobs").rglob("result.json")
    assert json.loads(result.read_text())["followups"][0]["path"] == "followup"
    assert work.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_review_finds_the_images(orthanc, patient, keep, protocol, tmp_path, monkeypatch):
    """In the job's folder where they are kept, else in the PACS."""
    for name, value in (("USER", USER), ("PASSWORD", PASSWORD), ("STORE_PORT", orthanc.store_port)):
        monkeypatch.setenv(f"TLT_PACS_{name}", str(value))
    orthanc.add(patient.files("baseline", "report", "followup"))
    said: list[str] = []
    kept = settings(tmp_path / "w", keep=keep)
    with Watch(connect(orthanc, protocol), kept, said.append) as watch:
        assert watch.poll(time.time()).done == 1
    (path,) = (tmp_path / "w" / "jobs").rglob("result.json")
    sources = read_sources(path.parent)
    assert f"tlt review {path.parent}" in said[-1]
    for image in (sources.baseline, *sources.followups):
        assert is_peer_source(image) != keep
    review = Review(path.parent, formats=("json", "dicom-sr"))
    try:
        assert review.shelf.stack(0).volume.grid.size_xyz == (56, 40, 30)
        assert "followup_sr.dcm" in review.export(["dicom-sr"])
        fetched = Path(review.shelf.stack(1).volume.path)
        assert fetched.is_dir()
    finally:
        review.close()
    assert fetched.is_dir() == keep


def test_a_study_that_still_arrives_waits(orthanc, patient, tmp_path):
    orthanc.add(patient.files("baseline", "report"))
    files = sorted(patient.files("followup"))
    orthanc.add(files[:10])
    now = time.time()
    with Watch(connect(orthanc), settings(tmp_path / "w", quiet_s=60.0), print) as watch:
        assert watch.poll(now).arriving == 2
        assert watch.poll(now + 50).arriving == 2
        orthanc.add(files[10:])
        assert watch.poll(now + 61).arriving == 1  # the follow-up begins to wait anew
    with Watch(connect(orthanc), settings(tmp_path / "w", quiet_s=60.0), print) as watch:
        poll = watch.poll(now + 122)  # a restart does not begin the waiting anew
    assert (poll.arriving, poll.done) == (0, 1)


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import tlt.pacs.baselines as baselines, tlt.pacs.followup as followup, tlt.pacs.pulling as pulling
from tlt.pacs.journal import Journal
from tlt.pacs.dicomweb import DicomWebPeer
from test_pacs_watch import connect, settings
from tlt.pacs.watch import Watch

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

phase, left = {phase!r}, 45
if phase == "pulling":
    write = pulling.atomic_write
    def counted(*given):
        global left
        left -= 1
        write(*given) if left else die()
    pulling.atomic_write = counted
elif phase == "pulled":
    followup.track_study = die
elif phase == "tracked":
    followup.write_report = die
elif phase == "written":
    DicomWebPeer.store = die
elif phase == "stored":
    store = DicomWebPeer.store
    DicomWebPeer.store = lambda *given: (store(*given), die())
elif phase == "reading":
    baselines.marks_of = die
elif phase == "forgetting":
    lead = followup.lead_to
    followup.lead_to = lambda *given: (lead(*given), die())
elif phase == "forgotten":
    Journal.finish = die

class Running:
    url, store_port = {url!r}, 1

import time
with Watch(connect(Running), settings(Path({work!r})), print) as watch:
    watch.poll(time.time())
"""


LATE = ("stored", "forgetting", "forgotten")


@pytest.mark.parametrize("phase", ["reading", "pulling", "pulled", "tracked", "written", *LATE])
def test_a_watch_that_is_killed_goes_on_where_it_was(orthanc, patient, phase, tmp_path):
    orthanc.add(patient.files("baseline", "report", "followup"))
    work = tmp_path / "work"
    script = KILLED.format(
        tests=str(Path(__file__).parent), phase=phase, url=orthanc.url, work=str(work)
    )
    died = subprocess.run([sys.executable, "-c", script], env=os.environ, timeout=60, check=False)
    assert died.returncode == -signal.SIGKILL
    before = our_reports(orthanc, patient.followup_study)
    assert len(before) == (phase in LATE)

    said: list[str] = []
    poll = look(orthanc, work, said)
    assert (poll.done, poll.failed) == (1, 0)
    (uid,) = our_reports(orthanc, patient.followup_study)
    assert before in ([], [uid])
    tracked_again = any("tracked 3 lesions" in one for one in said)
    assert tracked_again == (phase in ("reading", "pulling", "pulled", "tracked"))
    assert not list(work.rglob("*.dcm"))
    (path,) = work.rglob("result.json")
    assert all(map(is_peer_source, read_sources(path.parent).followups))
    assert look(orthanc, work).done == 0
    assert our_reports(orthanc, patient.followup_study) == [uid]


def test_what_is_on_disk_is_not_fetched_again(orthanc, patient, tmp_path, monkeypatch):
    orthanc.add(patient.files("baseline", "report", "followup"))
    error = PeerError("the line broke")
    with monkeypatch.context() as patch:
        patch.setattr("tlt.pacs.dicomweb.DicomWebPeer.store", raising(error))
        with Watch(connect(orthanc), settings(tmp_path), print) as watch:
            assert watch.poll(1e9).failed == 1
            assert watch.poll(1e9 + 30).failed == 0  # not yet due
    rows = list(csv.DictReader((tmp_path / "failures.csv").open()))
    assert [(row["state"], row["attempts"], row["message"]) for row in rows] == [
        ("failed", "1", "the line broke")
    ]
    fetch = DicomWebPeer.fetch

    def no_images(self, series, *given):
        assert series.modality == "SR"  # reports are read again: none is kept
        fetch(self, series, *given)

    monkeypatch.setattr(DicomWebPeer, "fetch", no_images)
    monkeypatch.setattr("tlt.pacs.followup.track_study", raising(error))
    with Watch(connect(orthanc), settings(tmp_path), print) as watch:
        assert watch.poll(1e9 + 61).done == 1
    assert len(list(csv.DictReader((tmp_path / "failures.csv").open()))) == 0


def raising(error: Exception):
    def function(*_, **__):
        raise error

    return function


def test_a_lost_working_folder_repeats_nothing(orthanc, patient, tmp_path):
    orthanc.add(patient.files("baseline", "report", "followup"))
    look(orthanc, tmp_path / "first")
    before = our_reports(orthanc, patient.followup_study)
    said: list[str] = []
    look(orthanc, tmp_path / "second", said)
    assert our_reports(orthanc, patient.followup_study) == before
    assert any("has this report already" in one for one in said)


def test_an_orthanc_that_goes_and_comes_back(orthanc, patient, tmp_path):
    orthanc.add(patient.files("baseline", "report", "followup"))
    said: list[str] = []
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 1:  # after the first look: its report is there
            orthanc.stop()
        elif len(waits) == 3:
            orthanc.start()
        elif len(waits) == 4:
            raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        Watch(connect(orthanc), settings(tmp_path / "w"), said.append) as watch,
    ):
        watch.run(5.0, sleep)
    assert waits == [5.0, 10.0, 20.0, 5.0]
    assert sum("is the PACS up" in one for one in said) == 2
    assert sum("report stored" in one for one in said) == 1
    assert len(our_reports(orthanc, patient.followup_study)) == 1


def test_a_pacs_that_stops_in_the_middle_of_a_job(orthanc, patient, tmp_path, monkeypatch):
    orthanc.add(patient.files("baseline", "report", "followup"))
    from tlt.pacs import followup

    track = followup.track_study

    def stopping(*given):
        orthanc.stop()
        return track(*given)

    monkeypatch.setattr(followup, "track_study", stopping)
    said: list[str] = []
    with (
        Watch(connect(orthanc), settings(tmp_path / "w"), said.append) as watch,
        contextlib.suppress(PeerError),  # where Orthanc lists the baseline after the follow-up
    ):
        watch.poll(time.time() - 100)
    (row,) = csv.DictReader((tmp_path / "w" / "failures.csv").open())
    assert (row["state"], row["attempts"]) == ("failed", "1")
    assert any("attempt 1 failed" in one and "is the PACS up" in one for one in said)
    monkeypatch.setattr(followup, "track_study", raising(AssertionError("it is tracked already")))
    orthanc.start()
    assert look(orthanc, tmp_path / "w").done == 1
    assert len(our_reports(orthanc, patient.followup_study)) == 1


def test_one_patient_that_fails_does_not_stop_the_others(orthanc, patient, tmp_path):
    """Two bad follow-ups: one with a missing slice, one whose marks lie outside its baseline."""
    bad = make_patient(tmp_path / "bad", "PID-0815-YAK")
    sorted(bad.files("followup"), key=lambda p: pydicom.dcmread(p).InstanceNumber)[9].unlink()
    odd = make_patient(tmp_path / "odd", "PID-1234-GNU")
    far = replace(LESIONS[0], center_mm=(900.0, 0.0, 0.0))
    write_sr([far], load_volume(odd.baseline), odd.report, time_point=0, reader="Doe")
    for one in (bad, odd, patient):
        orthanc.add(one.files("baseline", "report", "followup"))
    said: list[str] = []
    poll = look(orthanc, tmp_path / "w", said)
    assert (poll.done, poll.failed) == (1, 2)
    assert len(our_reports(orthanc, patient.followup_study)) == 1
    rows = list(csv.DictReader((tmp_path / "w" / "failures.csv").open()))
    assert [row["state"] for row in rows] == ["refused", "refused"]
    text = "\n".join(said) + (tmp_path / "w" / "failures.csv").read_text()
    assert "slices are missing" in text
    assert "outside the baseline" in text
    assert not [s for one in (bad, odd, patient) for s in one.secrets if s in text]
    assert look(orthanc, tmp_path / "w").failed == 0  # refused for good, as long as nothing changes
    write_sr(LESIONS, load_volume(odd.baseline), odd.report, time_point=0, reader="Doe")
    orthanc.add([odd.report])
    assert look(orthanc, tmp_path / "w").done == 1


def test_only_marks_of_a_person_make_a_baseline(orthanc, patient, tmp_path):
    """Our own report of the first follow-up does not mark the second one's baseline."""
    orthanc.add(patient.files("baseline", "report", "followup"))
    look(orthanc, tmp_path / "w")
    volume = load_volume(patient.followup)
    third = f"{patient.followup_study[:-4]}.77"
    write_scan(
        replace(volume, voxels=volume.voxels), tmp_path / "third", patient.id, third, "20240901"
    )
    orthanc.add(sorted((tmp_path / "third").iterdir()))
    look(orthanc, tmp_path / "w")
    first = pydicom.dcmread(the_report(orthanc, patient.followup_study, tmp_path / "1.dcm"))
    second = pydicom.dcmread(the_report(orthanc, third, tmp_path / "2.dcm"))
    assert (first.SeriesDescription, second.SeriesDescription) == (
        "Lesions, follow-up 1", "Lesions, follow-up 2",
    )  # fmt: skip
    (result,) = [
        json.loads(path.read_text())
        for path in (tmp_path / "w" / "jobs").rglob("result.json")
        if json.loads(path.read_text())["followups"][0]["series_uid"]
        == second_series(orthanc, third)
    ]
    assert result["baseline"]["series_uid"] == patient.baseline_series


def second_series(orthanc: Orthanc, study: str) -> str:
    (found,) = orthanc.find("Series", Modality="CT", StudyInstanceUID=study)
    return orthanc.get(f"/series/{found}")["MainDicomTags"]["SeriesInstanceUID"]


def test_our_copy_of_the_marks_is_no_new_baseline(orthanc, patient, tmp_path):
    """`tlt track --format dicom-sr` writes the marks down again; alone they count."""
    copy = tmp_path / "baseline_sr.dcm"
    write_sr(LESIONS, load_volume(patient.baseline), copy, time_point=0)
    orthanc.add(patient.files("baseline", "report", "followup"))
    assert look(orthanc, tmp_path / "w").done == 1
    orthanc.add([copy])
    assert look(orthanc, tmp_path / "w").done == 0
    orthanc.remove("Instance", SOPInstanceUID=pydicom.dcmread(patient.report).SOPInstanceUID)
    assert look(orthanc, tmp_path / "w").done == 1


def test_the_series_like_the_baseline_is_chosen(orthanc, patient, tmp_path):
    """Beside a localizer, a coronal reformat and a coarse series."""
    orthanc.add(patient.files("baseline", "report", "followup"))
    study, date = patient.followup_study, "20240405"
    coarse = make_phantom(torso_grid((40, 30, 12), (8.0, 8.0, 20.0)))
    coronal = make_phantom(torso_grid((40, 40, 60), (8.0, 8.0, 5.0), (1, 0, 0, 0, 0, 1, 0, -1, 0)))
    scout = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    write_scan(coarse, tmp_path / "coarse", patient.id, study, date)
    write_scan(coronal, tmp_path / "coronal", patient.id, study, date)
    write_scan(coarse, tmp_path / "scout", patient.id, study, date, ImageType=scout)
    for name in ("coarse", "coronal", "scout"):
        orthanc.add(sorted((tmp_path / name).iterdir()))
    assert look(orthanc, tmp_path / "w").done == 1
    (path,) = (tmp_path / "w" / "jobs").rglob("result.json")
    followup = json.loads(path.read_text())["followups"][0]
    assert followup["series_uid"] == patient.followup_series


def test_two_watches_do_not_share_a_folder(orthanc, tmp_path):
    with (
        Watch(connect(orthanc), settings(tmp_path), print),
        pytest.raises(UsageError, match="another watch"),
    ):
        Watch(connect(orthanc), settings(tmp_path), print)
    with Watch(connect(orthanc), settings(tmp_path), print):
        pass


def test_errors_that_nobody_expected_are_tried_again_and_quote_nothing(
    orthanc, patient, tmp_path, monkeypatch
):
    orthanc.add(patient.files("baseline", "report", "followup"))
    monkeypatch.setattr("tlt.pacs.followup.track_study", raising(KeyError(patient.id)))
    said: list[str] = []
    with Watch(connect(orthanc), settings(tmp_path), said.append) as watch:
        now = 1e9
        for _ in range(8):
            assert watch.poll(now).failed == 1
            now += 3601
        assert watch.poll(now).failed == 0
    assert "internal error KeyError" in said[-1]
    assert "refused" in said[-1]
    assert not [one for one in patient.secrets if one in "\n".join(said)]


def test_a_full_disk_is_no_fault_of_the_images(orthanc, patient, tmp_path, monkeypatch):
    orthanc.add(patient.files("baseline", "report", "followup"))
    full = InputError("cannot be written (No space left on device)")
    full.__cause__ = OSError(28, "No space left on device")
    monkeypatch.setattr("tlt.pacs.followup.track_study", raising(full))
    with Watch(connect(orthanc), settings(tmp_path), print) as watch:
        assert watch.poll(1e9).failed == 1
        monkeypatch.undo()
        assert watch.poll(1e9 + 61).done == 1
