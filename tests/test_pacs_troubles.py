"""A PACS that does not send everything: what `tlt pacs` does without it, and what it leaves."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest
from pacs_patients import Patient, make_patient, write_scan
from pydicom.uid import generate_uid

from tlt.errors import PeerError, UsageError
from tlt.io.images import load_volume
from tlt.pacs.contexts import receivable, storage_classes
from tlt.pacs.dimse import MAX_CONTEXTS
from tlt.pacs.followup import Tracking
from tlt.pacs.journal import Journal
from tlt.pacs.peer import Limits, PeerSeries, PeerStudy
from tlt.pacs.pulling import folder_name, pull_studies
from tlt.pacs.watch import Watch, WatchSettings

NOW = 1e9


class FakePacs:
    """A PACS of files, some of which it lists and never sends; it takes reports."""

    name, source, limits = "fake:1", "dicom://FAKE@fake:1", Limits(attempts=1, pause_s=0.0)

    def __init__(self, files: Sequence[Path]) -> None:
        self.files: dict[str, tuple[pydicom.Dataset, Path]] = {}
        self.unsent: set[str] = set()
        self.error: Exception | None = None
        self.fetched: list[str] = []
        self.stored = 0
        for path in files:
            self.add(path)

    def add(self, path: Path) -> pydicom.Dataset:
        header = pydicom.dcmread(path, stop_before_pixels=True)
        self.files[header.SOPInstanceUID] = header, path
        return header

    def echo(self) -> None:
        pass

    def studies(self, **match: str) -> list[PeerStudy]:
        found = {}
        for header, _ in self.files.values():
            uid = header.StudyInstanceUID
            given = header.StudyDate, header.StudyTime, header.PatientID, header.PatientBirthDate
            found[uid] = PeerStudy(uid, *map(str, given), "")
        return list(found.values())

    def series(self, study_uid=None, series_uid=None) -> list[PeerSeries]:
        found: dict[str, PeerSeries] = {}
        for header, _ in self.files.values():
            uid = header.SeriesInstanceUID
            if study_uid in (None, header.StudyInstanceUID) and series_uid in (None, uid):
                count = (found[uid].images or 0) if uid in found else 0
                found[uid] = PeerSeries(uid, header.StudyInstanceUID, header.Modality, count + 1)
        return list(found.values())

    def instances(self, series: PeerSeries) -> list[str]:
        return [u for u, (one, _) in self.files.items() if one.SeriesInstanceUID == series.uid]

    def fetch(self, series, sop_uids, receive) -> None:
        if self.error is not None:
            raise self.error
        for uid in sop_uids or self.instances(series):
            if uid not in self.unsent:
                self.fetched.append(uid)
                receive(self.files[uid][1].read_bytes())

    def store(self, paths: Sequence[Path]) -> None:
        for path in paths:
            kept = path.parents[3] / f"stored{self.stored}.sr"
            kept.write_bytes(path.read_bytes())
            self.add(kept)
            self.stored += 1


@pytest.fixture(scope="module")
def patient(tmp_path_factory) -> Patient:
    return make_patient(tmp_path_factory.mktemp("patient"))


@pytest.fixture
def pacs(patient) -> FakePacs:
    return FakePacs(patient.files("baseline", "followup", "report"))


@pytest.fixture
def settings(tmp_path) -> WatchSettings:
    return WatchSettings(tmp_path / "w", Tracking("affine"), quiet_s=60.0, days=0)


def copy_of(path: Path, name: Path) -> Path:
    """The object again, in a series of its own."""
    again = pydicom.dcmread(path)
    again.SOPInstanceUID = again.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    again.SeriesInstanceUID = generate_uid()
    again.save_as(name)
    return name


def polls(pacs, settings, *times: float) -> list:
    said: list[str] = []
    with Watch(pacs, settings, said.append) as watch:
        found = [watch.poll(now) for now in times]
    print(*said, sep="\n")
    return found


def failures(settings) -> list[tuple[str, str]]:
    with (settings.work / "failures.csv").open() as file:
        return [(row["state"], row["message"]) for row in csv.DictReader(file)]


def test_a_report_that_is_never_sent_is_passed_over(pacs, settings, patient, tmp_path):
    """As one that a program has made, of a kind that the PACS does not send to us."""
    pacs.unsent.add(pacs.add(copy_of(patient.report, tmp_path / "cad.dcm")).SOPInstanceUID)
    polls(pacs, settings, NOW)  # still arriving
    (first,) = polls(pacs, settings, NOW + 61)
    assert (first.done, first.failed) == (0, 1)  # the marks may be in it: asked for again
    assert [state for state, _ in failures(settings)] == ["not looked at"]
    (second,) = polls(pacs, settings, NOW + 122)  # also where a watch looks once and ends
    assert (second.done, second.failed) == (1, 0)
    ((state, message),) = failures(settings)
    assert (state, "a report cannot be fetched" in message) == ("passed over", True)
    pacs.unsent.clear()
    polls(pacs, settings, NOW + 200)
    assert failures(settings) == []


def test_a_report_that_came_once_is_waited_for_when_it_fails_again(pacs, settings, patient):
    """Else the marks of an older study would stand in for it after one failure of the network."""
    uid = pydicom.dcmread(patient.report).SOPInstanceUID
    pacs.unsent.add(uid)
    polls(pacs, settings, NOW, NOW + 61)
    pacs.unsent.clear()
    assert polls(pacs, settings, NOW + 70)[0].done == 1
    pacs.unsent.add(uid)
    polls(pacs, settings, NOW + 9000)
    assert [state for state, _ in failures(settings)] == ["not looked at"]


def test_marks_that_are_never_sent_are_no_silence(pacs, settings, patient):
    pacs.unsent.add(pydicom.dcmread(patient.report).SOPInstanceUID)
    for poll in polls(pacs, settings, NOW, NOW + 61, NOW + 122)[1:]:
        assert (poll.done, poll.failed, poll.unmarked) == (0, 1, 1)  # the baseline has none itself
    assert [state for state, _ in failures(settings)] == ["passed over", "not looked at"]


def test_a_series_too_short_to_track_in_is_not_asked_for(pacs, settings, patient, tmp_path):
    """As a secondary capture of modality CT."""
    one = next(iter(patient.followup.iterdir()))
    pacs.unsent.add(pacs.add(copy_of(one, tmp_path / "capture.dcm")).SOPInstanceUID)
    assert polls(pacs, settings, NOW, NOW + 61)[1].done == 1


def test_a_series_that_is_never_sent_is_passed_over_when_tried_again(
    pacs, settings, patient, tmp_path
):
    volume = load_volume(patient.followup)
    write_scan(volume, tmp_path / "other", patient.id, patient.followup_study, "20240405")
    for path in (tmp_path / "other").iterdir():
        pacs.unsent.add(pacs.add(path).SOPInstanceUID)
    _, first, second = polls(pacs, settings, NOW, NOW + 61, NOW + 122)
    assert (first.done, first.failed, second.done, second.failed) == (0, 1, 1, 0)


def test_a_followup_of_which_nothing_is_sent_is_tried_again_and_not_refused(
    pacs, settings, patient
):
    images = [pydicom.dcmread(path).SOPInstanceUID for path in patient.followup.iterdir()]
    pacs.unsent.update(images)
    later = polls(pacs, settings, NOW, NOW + 61, NOW + 122)
    assert [poll.failed for poll in later] == [0, 1, 1]
    assert [state for state, _ in failures(settings)] == ["failed"]
    pacs.unsent.clear()
    assert polls(pacs, settings, NOW + 400)[0].done == 1


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (UsageError("port 11112 is taken"), "port 11112 is taken"),
        (ValueError("PID-4711-ZEBRA"), "internal error ValueError in test_pacs_troubles.py"),
    ],
)
def test_no_error_ends_the_watch(pacs, settings, error, words):
    """Met while the reports of a baseline are read."""
    pacs.error = error
    said: list[str] = []
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        Watch(pacs, replace(settings, quiet_s=0.0), said.append) as watch,
    ):
        watch.run(5.0, sleep)
    assert waits == [5.0, 5.0]
    ((state, message),) = failures(settings)
    assert (state, words in message) == ("not looked at", True)
    assert "ZEBRA" not in "".join(said)


def test_an_error_of_the_search_does_not_end_the_watch_either(pacs, settings, monkeypatch):
    monkeypatch.setattr(pacs, "studies", lambda **_: (_ for _ in ()).throw(UsageError("no")))
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Watch(pacs, settings, print) as watch:
        watch.run(5.0, sleep)
    assert waits == [10.0, 20.0]


def test_a_pull_goes_on_behind_what_cannot_be_fetched(pacs, patient, tmp_path):
    pacs.unsent.add(pydicom.dcmread(next(iter(patient.baseline.iterdir()))).SOPInstanceUID)
    studies = [patient.baseline_study, patient.followup_study]
    with pytest.raises(PeerError, match=r"1 of 3 series were not fetched whole.*sent 29 of 30"):
        pull_studies(pacs, studies, tmp_path / "all")
    counts = {
        series.modality + series.study_uid[-3:]: len(
            list((tmp_path / "all" / folder_name(series)).iterdir())
        )
        for series in pacs.series()
    }
    assert sorted(counts.values()) == [1, 29, 30]


def test_every_kind_of_object_that_lies_beside_a_ct_is_taken():
    kinds = ("88.40", "88.50", "88.65", "88.69", "7.1", "7.2", "7.3", "7.4", "66")
    missing = {f"1.2.840.10008.5.1.4.1.1.{kind}" for kind in kinds} - set(storage_classes())
    assert missing == set()
    assert len(receivable()) + 1 <= MAX_CONTEXTS  # and that of C-GET


def test_reports_are_fetched_once_and_not_kept(pacs, settings, patient):
    uid = pydicom.dcmread(patient.report).SOPInstanceUID
    polls(pacs, settings, *(NOW + 61 * step for step in range(4)))
    assert pacs.fetched.count(uid) == 2  # to see the marks, and for the one job
    assert not list(settings.work.rglob("*.dcm"))


@pytest.mark.parametrize("keep", [False, True])
def test_what_an_earlier_watch_left_is_removed(pacs, settings, keep):
    """By one that was killed, or that did not remove the images of refused jobs."""
    for state in ("done", "refused", "failed"):
        folder = settings.work / "jobs" / state
        (folder / "baseline").mkdir(parents=True)
        (folder / "baseline" / "1.dcm").write_bytes(b"x")
    (settings.work / "reports" / "1").mkdir(parents=True)
    journal = Journal(settings.work)
    journal.finish("done", NOW)
    journal.refuse("refused", "no", NOW)
    journal.fail("failed", "later", NOW)
    journal.close()
    with Watch(pacs, replace(settings, keep=keep), print):
        pass
    left = {path.parents[1].name for path in settings.work.rglob("*.dcm")}
    assert left == ({"done", "refused", "failed"} if keep else {"failed"})
    assert not (settings.work / "reports").exists()


def test_the_images_of_a_refused_job_are_removed(pacs, settings, patient):
    slices = sorted(  # one in the middle of the follow-up is not in the PACS
        (header.InstanceNumber, uid)
        for uid, (header, _) in pacs.files.items()
        if header.SeriesInstanceUID == patient.followup_series
    )
    del pacs.files[slices[9][1]]
    assert polls(pacs, settings, NOW, NOW + 61)[1].failed == 1
    ((state, message),) = failures(settings)
    assert (state, "slices are missing" in message) == ("refused", True)
    assert not list(settings.work.rglob("*.dcm"))


def test_other_weights_of_the_same_name_make_another_report(tmp_path):
    path = tmp_path / "last.safetensors"
    names = set()
    for content in (b"first", b"second", b"first"):
        path.write_bytes(content)
        names.add(Tracking("tlt", str(path)).name)
    assert len(names) == 2
    (tmp_path / "copy.safetensors").write_bytes(b"first")
    assert Tracking("tlt", str(tmp_path / "copy.safetensors")).name in names
    (tmp_path / "confidence.json").write_text("{}")
    assert Tracking("tlt", str(path)).name not in names
    assert Tracking("tlt", "tlt-ct").name != Tracking("tlt", None).name
