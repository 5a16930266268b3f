"""The whole round trip, against a real Orthanc and in a real Chromium, with the commands alone.

A baseline with the report of another workstation lies in the PACS; the follow-up arrives;
`tlt pacs watch` tracks it; a reader accepts, corrects and gives up lesions on the page of
`tlt review`; `tlt recist` makes the table; `tlt pacs push` brings the reader's report back.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from marks import assert_valid, need, ran
from orthanc import PASSWORD, USER, Orthanc, running_orthanc
from pacs_patients import write_scan
from pydicom.uid import generate_uid
from story import (
    ACCEPTED,
    CORRECTED,
    IDS,
    LOST,
    READER,
    Story,
    make_story,
    measured,
    off_mm,
    parsed_by_dcmqi,
    reports_in,
)
from test_review_page import Server, drawn, leaf_to, opened, saved
from test_review_page import browser as browser  # the fixture
from test_review_page import pytestmark as pytestmark  # Chromium is needed here, too

from tlt.geometry import Triple
from tlt.io.images import load_volume
from tlt.volume import Volume

LONG_MM, SHORT_MM = 26.0, 18.0  # what the reader measures of the corrected lesion
LATER_MM = (5.0, -7.0, 4.0)  # how the patient lies in the scan after


class Commands:
    """``tlt`` as a person runs it, in processes of their own; keeps all that they said."""

    def __init__(self, orthanc: Orthanc, folder: Path) -> None:
        self.folder, self.said = folder, ""
        home = folder / "home"
        home.mkdir()
        self.environment = os.environ | {
            "TLT_PACS_PEER": orthanc.url,
            "TLT_PACS_USER": USER,
            "TLT_PACS_PASSWORD": PASSWORD,
            "HOME": str(home),
        }

    def run(self, *arguments: object) -> str:
        """Run one to its end, which must be a good one; what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "tlt", *map(str, arguments)],
            env=self.environment, cwd=self.folder, capture_output=True, text=True, check=False,
            timeout=300,
        )  # fmt: skip
        self.said += done.stdout + done.stderr
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def watch(self) -> str:
        """One look of the watch at the PACS."""
        return self.run(
            "pacs", "watch", "--once", "--work", "work", "--keep", "--quiet-seconds", 0, "--days", 0
        )


def test_from_a_marked_baseline_to_the_readers_report_in_the_pacs(browser, tmp_path) -> None:
    need("tid1500reader", "dciodvfy", "dsrdump")
    story = make_story(tmp_path / "patient")
    with running_orthanc(tmp_path / "orthanc") as orthanc:
        tlt = Commands(orthanc, tmp_path)
        orthanc.add([*story.baseline.iterdir(), story.report])
        assert "1 without an earlier marked CT; 0 done now" in tlt.watch()

        orthanc.add([*story.followup.iterdir()])
        said = tlt.watch()
        assert "report stored" in said
        folder = tmp_path / re.search(r"tlt review (\S+)", said).group(1)
        (ours,) = reports_in(orthanc, story.studies[1])
        tracked = points_of(ours)
        assert set(tracked) == set(IDS)  # the one that is gone, too: nobody has looked yet
        assert off_mm(tracked[ACCEPTED], story.truth_mm[ACCEPTED]) < 5.0
        assert off_mm(tracked[CORRECTED], story.truth_mm[CORRECTED]) > 1.0

        review(browser, folder, story, tlt)
        check_recist(tlt.run("recist", folder), folder)

        tlt.run("pacs", "push", folder / "followup_sr.dcm")
        both = reports_in(orthanc, story.studies[1])
        (report,) = [one for one in both if one.SOPInstanceUID != ours.SOPInstanceUID]
        check_report(report, story, tracked, tmp_path)

        check_next_followup(orthanc, story, tlt, tmp_path)
    assert [secret for secret in story.secrets if secret in tlt.said] == []
    assert [secret for secret in story.of_the_patient if secret in result_files(folder)] == []


def review(browser, folder: Path, story: Story, tlt: Commands) -> None:
    """Correct one lesion by a click, accept one, give one up, export: as a reader does."""
    server = Server(folder)
    try:
        page = opened(browser, server.url, READER)
        select(page, CORRECTED)
        for _ in range(4):
            page.keyboard.press("+")
        page.keyboard.press("m")
        leaf_to(page, story.truth_mm[CORRECTED][2])
        page.mouse.click(*drawn(page, story.truth_mm[CORRECTED]))
        saved(page, f"{CORRECTED} moved")
        page.keyboard.press("d")
        x, y, z = story.truth_mm[CORRECTED]
        for dx, dy in ((-LONG_MM / 2, 0), (LONG_MM / 2, 0), (0, -SHORT_MM / 2), (0, SHORT_MM / 2)):
            page.mouse.click(*drawn(page, (x + dx, y + dy, z)))
        saved(page, f"{CORRECTED} size")
        select(page, ACCEPTED)
        page.keyboard.press("a")
        saved(page, f"{ACCEPTED} accepted")
        select(page, LOST)
        page.keyboard.press("l")
        saved(page, f"{LOST} lost")
        for name in IDS:
            select(page, name)
            page.select_option("#role", "target")
            saved(page, f"{name} role")
        page.click("#open-export")
        page.click("#formats button[aria-label^='Export DICOM SR']")
        page.wait_for_selector("#export-state:has-text('Written')")
        assert page.errors == []
    finally:
        code, said = server.end()
        tlt.said += said
    assert code == 0


def select(page, lesion_id: str) -> None:
    page.locator("#lesions button", has_text=lesion_id).click()
    page.wait_for_selector(f"#name:has-text('{lesion_id}')")


def points_of(report) -> dict:
    return {name: point for name, (_, point) in measured(report).items()}


def check_recist(said: str, folder: Path) -> None:
    """The table: one as tlt measured it, one as the reader did, and the lost one as 0 mm."""
    assessment = json.loads((folder / "recist.json").read_text())
    (point,) = assessment["time_points"]
    told = {one["lesion_id"]: one for one in point["measurements"]}
    assert float(told[CORRECTED]["diameter_mm"]) == pytest.approx(LONG_MM, abs=1.0)
    assert (told[LOST]["state"], float(told[LOST]["diameter_mm"])) == ("gone", 0)
    total = sum(float(one["diameter_mm"]) for one in told.values())
    assert float(point["sums"]["sum_mm"]) == pytest.approx(total)
    assert point["overall"]["response"] == "SD"
    assert "preliminary" not in said
    for name in ("recist.html", "recist.csv"):
        assert all(lesion in (folder / name).read_text() for lesion in IDS)


def check_report(report, story: Story, tracked: dict[str, Triple], folder: Path) -> None:
    """The reader's report as others read it."""
    found = measured(report)
    assert set(found) == {ACCEPTED, CORRECTED}  # a lost lesion is no measured point
    assert off_mm(found[CORRECTED][1], story.truth_mm[CORRECTED]) < 0.5
    assert off_mm(found[ACCEPTED][1], tracked[ACCEPTED]) < 0.01
    uids = {name: uid for name, (uid, _) in found.items()}
    assert uids == {name: story.tracking_uids[name] for name in uids}
    assert (report.PatientID, report.StudyInstanceUID) == (
        pydicom.dcmread(story.report).PatientID, story.studies[1],
    )  # fmt: skip
    path = folder / "fetched.dcm"
    report.save_as(path)
    assert parsed_by_dcmqi(path, folder, ran) == uids
    assert_valid(path)
    text = ran("dsrdump", "+Pl", path)
    assert READER in text
    assert f"{LOST} (Tracking UID {story.tracking_uids[LOST]}): not found" in text


def check_next_followup(orthanc: Orthanc, story: Story, tlt: Commands, folder: Path) -> None:
    """The reader's report is the baseline of what comes later: only what is still there."""
    before = load_volume(story.followup)
    x, y, z = np.add(before.grid.origin_mm, LATER_MM).tolist()
    later = Volume(before.voxels.astype(np.int16), replace(before.grid, origin_mm=(x, y, z)))
    study = generate_uid()
    write_scan(later, folder / "later", story.patient_id, study, "20240705")
    orthanc.add([*(folder / "later").iterdir()])
    assert "tracked 2 lesions: 2 found" in tlt.watch()
    (report,) = reports_in(orthanc, study)
    found = measured(report)
    assert {name: uid for name, (uid, _) in found.items()} == {
        name: story.tracking_uids[name] for name in (ACCEPTED, CORRECTED)
    }
    moved = np.add(story.truth_mm[CORRECTED], LATER_MM)
    assert off_mm(found[CORRECTED][1], moved) < 3.0


def result_files(folder: Path) -> str:
    """All that may be handed on: what is in the texts of a folder."""
    names = ("result.json", "recist.json", "recist.csv", "recist.html")
    return "".join((folder / name).read_text() for name in names)
