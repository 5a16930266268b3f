"""The page in a real Chromium: what a reader clicks and types is in result.json afterwards."""

from __future__ import annotations

import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from reviewed import make_folder, truth_mm

import tlt
from tlt.cli.main import main
from tlt.io.results import Result, read_json
from tlt.lesion import Role, Status
from tlt.recist import read_entries

CHROMIUM = shutil.which("chromium")
FLAGS = [
    *("--headless", "--no-sandbox", "--no-first-run", "--disable-quic", "--disable-sync"),
    *("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
    *("--ignore-gpu-blocklist", "--disable-background-networking", "--disable-component-update"),
]
VIEW_3D = Path(tlt.__file__).parent / "review" / "static" / "niivue" / "view3d.js"
TIMEOUT_MS = 20_000  # the machine may be busy
pytestmark = pytest.mark.skipif(
    CHROMIUM is None and os.environ.get("TLT_TEST_ALL") != "1", reason="needs chromium"
)


class Server:
    """``tlt review`` in a process of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        command = [sys.executable, "-m", "tlt", "review", str(folder), "--no-browser", *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        found = (re.search(r"http://\S+", line) for line in self.process.stderr)
        self.url = next(match.group(0) for match in found if match)

    def end(self) -> tuple[int, str]:
        """Ctrl-C: the exit code and what it said last."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        _, said = self.process.communicate(timeout=20)
        return self.process.returncode, said


@pytest.fixture(scope="module")
def browser() -> Iterator:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path)


def opened(browser, url: str, reader: str | None = "Dr. Ann"):
    """The page as a reader finds it, pictures drawn; errors of its scripts fail the test."""
    page = browser.new_context(viewport={"width": 1366, "height": 768}).new_page()
    page.set_default_timeout(TIMEOUT_MS)
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("console", lambda m: page.errors.append(m.text) if "Security" in m.text else None)
    page.goto(url)
    for name in ("baseline", "followup"):
        page.wait_for_selector(f"[data-image={name}][data-first-picture]")
    if reader:
        page.fill("#reader-name", reader)
        page.keyboard.press("Enter")
        page.wait_for_selector(f"#open-reader:has-text('{reader}')")
    return page


def saved(page, words: str) -> None:
    page.wait_for_selector(f"#saved:has-text('{words}, saved')")


def drawn(page, point_mm) -> tuple[float, float]:
    """Where a point of the axial follow-up is on the screen, by the marks' own coordinates."""
    svg = page.locator("[data-image=followup] svg")
    left, top, width, height = map(float, svg.get_attribute("viewBox").split())
    box = svg.bounding_box()
    return (
        box["x"] + (point_mm[0] - left) * box["width"] / width,
        box["y"] + (point_mm[1] - top) * box["height"] / height,
    )


def leaf_to(page, z_mm: float) -> None:
    """Leaf the follow-up to the slice of a height, as a reader does with the wheel."""
    pane = page.locator("[data-image=followup] .stage")
    pane.hover()
    for _ in range(60):
        text = page.inner_text("[data-image=followup] .corner.tr")
        off = z_mm - float(re.search(r"z (-?[\d.]+) mm", text).group(1))
        if abs(off) < 0.1:
            return
        page.mouse.wheel(0, -100 if off > 0 else 100)
        page.wait_for_timeout(60)
    raise AssertionError(f"the wheel does not reach {z_mm}")


def match(result: Result, lesion_id: str):
    return next(one for one in result.lesions if one.id == lesion_id).followups[0]


def test_a_reader_accepts_moves_and_loses_and_finds_it_all_again(browser, folder, tmp_path):
    server = Server(folder)
    page = opened(browser, server.url)
    assert "token" not in page.url
    # The doubtful one comes first; the reader clicks where the ball is.
    assert page.get_attribute("#lesions button >> nth=0", "aria-current") == "true"
    assert page.inner_text("#name").startswith("L2")
    page.keyboard.press("m")
    truth = truth_mm("L2")
    leaf_to(page, truth[2])
    page.mouse.click(*drawn(page, truth))
    saved(page, "L2 moved")
    moved = match(read_json(folder / "result.json"), "L2")
    assert moved.center_mm is not None
    # In the slice by the click, across by the slice: the truth lies in the middle of one.
    assert math.dist(moved.center_mm, truth) < 0.5
    page.keyboard.press("n")
    page.keyboard.press("a")
    saved(page, "L1 accepted")
    page.select_option("#role", "target")
    saved(page, "L1 role")
    page.locator("#lesions button", has_text="L3").click()
    assert page.is_disabled("#reject")
    page.keyboard.press("l")
    saved(page, "L3 lost")
    assert page.inner_text("#decided") == "3 of 3 decided"

    page.reload()
    page.wait_for_selector("[data-image=followup][data-first-picture]")
    assert page.inner_text("#decided") == "3 of 3 decided"
    assert not page.is_visible("#ask-reader")
    page.keyboard.press("u")
    saved(page, "L3 decision undone")
    page.keyboard.press("l")
    saved(page, "L3 lost")

    page.click("#open-export")
    page.click("#export-all")
    page.wait_for_selector("#saved:has-text('written')")
    with page.expect_download() as download:
        page.click("#files a >> text=result.json")
    download.value.save_as(tmp_path / "sent.json")
    sent = Result.model_validate(json.loads((tmp_path / "sent.json").read_text()))
    assert [match(sent, name).review.decision.value for name in ("L1", "L2", "L3")] == [
        "accepted",
        "moved",
        "lost",
    ]
    assert sent.lesions[0].role is Role.TARGET
    assert match(sent, "L3").status is Status.NOT_FOUND
    assert f"L2,{moved.center_mm[0]}" in (folder / "matches.csv").read_text()
    assert page.errors == []
    code, said = server.end()
    assert code == 0
    assert "every decision is saved" in said
    assert "Traceback" not in said


def test_the_images_are_leafed_through_together_by_the_registration(browser, folder):
    server = Server(folder, "--reader", "Ann")
    page = opened(browser, server.url, reader=None)

    def heights() -> list[float]:
        texts = [page.inner_text(f"[data-image={n}] .corner.tr") for n in ("baseline", "followup")]
        return [float(re.search(r"z (-?[\d.]+) mm", text).group(1)) for text in texts]

    before = heights()
    page.locator("[data-image=baseline] .stage").hover()
    for _ in range(3):
        page.mouse.wheel(0, -100)
    page.wait_for_selector("[data-image=baseline] .corner.tr:has-text('slice 27 ')")
    page.wait_for_timeout(300)
    after = heights()
    assert after[0] - before[0] == pytest.approx(9.0)
    assert after[1] - before[1] == pytest.approx(9.0)
    page.keyboard.press("k")  # unlinked
    page.mouse.wheel(0, -100)
    page.wait_for_timeout(300)
    assert heights()[1] == after[1]
    server.end()


def test_two_readers_at_once_and_neither_loses_a_word(browser, folder):
    server = Server(folder)
    ann, bob = (opened(browser, server.url, name) for name in ("Ann", "Bob"))
    ann.keyboard.press("a")
    saved(ann, "L2 accepted")
    bob.keyboard.press("l")  # before his page has heard of it
    bob.wait_for_selector("#alert:has-text('Ann changed L2')")
    assert match(read_json(folder / "result.json"), "L2").review.by == "Ann"
    bob.click("text=Save mine after theirs")
    saved(bob, "L2 lost")
    ann.wait_for_selector("#lesions button >> text=Bob")
    assert match(read_json(folder / "result.json"), "L2").review.by == "Bob"
    server.end()


def test_a_browser_closed_while_a_lesion_is_moved_changes_nothing(browser, folder):
    before = (folder / "result.json").read_bytes()
    server = Server(folder)
    page = opened(browser, server.url)
    page.keyboard.press("m")
    page.wait_for_selector(".pane.moving")
    page.context.close()
    assert (folder / "result.json").read_bytes() == before
    again = opened(browser, server.url)
    assert again.inner_text("#decided") == "0 of 3 decided"
    server.end()


def test_a_decision_waits_for_a_server_that_was_ended_and_started_again(browser, folder):
    server = Server(folder)
    page = opened(browser, server.url)
    port = re.search(r":(\d+)/", server.url).group(1)
    server.end()
    page.keyboard.press("a")
    page.wait_for_selector("#saved:has-text('not saved yet')")
    server = Server(folder, "--port", port)
    # The new address, opened in the same browser, lets the waiting page in as well.
    page.context.new_page().goto(server.url)
    page.wait_for_selector("#saved:has-text('L2 accepted, saved')")
    assert match(read_json(folder / "result.json"), "L2").review.by == "Dr. Ann"
    server.end()


def test_axes_are_drawn_by_clicks_and_shown_with_their_length(browser, folder):
    server = Server(folder)
    page = opened(browser, server.url)
    page.keyboard.press("n")
    x, y, z = truth_mm("L1")
    leaf_to(page, z)  # the slice is there before it is clicked
    page.keyboard.press("d")
    # The short one first: the longer of the two is the long axis.
    for dx, dy in ((0.0, -5.0), (0.0, 5.0), (-8.0, 0.0), (8.0, 0.0)):
        page.mouse.click(*drawn(page, (x + dx, y + dy, z)))
    saved(page, "L1 size")
    page.wait_for_selector("[data-image=followup] svg text:has-text('16.')")
    size = match(read_json(folder / "result.json"), "L1").size
    assert (size.long_mm, size.short_mm) == pytest.approx((16.0, 10.0), abs=0.8)
    assert size.by_reader
    page.keyboard.press("u")
    saved(page, "L1 decision undone")
    assert match(read_json(folder / "result.json"), "L1").size is None
    assert page.errors == []
    server.end()


def test_the_second_visit_is_decided_by_itself_and_moved_by_keys_alone(browser, tmp_path):
    folder = make_folder(tmp_path, visits=2)
    server = Server(folder)
    page = opened(browser, server.url)
    page.keyboard.press("]")
    page.wait_for_selector("[data-image=followup] .corner.tl:has-text('Follow-up 2')")
    page.wait_for_selector("#move:enabled")
    page.keyboard.press("m")
    for key in ("ArrowLeft",) * 6 + ("Enter",):
        page.keyboard.press(key)
    saved(page, "L2 moved")
    first, second = next(
        one for one in read_json(folder / "result.json").lesions if one.id == "L2"
    ).followups
    assert first.review is None
    # It was 6 mm too far to the patient's left, and the slice is that of the ball.
    assert math.dist(second.center_mm, truth_mm("L2")) < 0.1
    page.keyboard.press("[")
    page.wait_for_selector("#decided:has-text('0 of 3')")
    assert page.errors == []
    server.end()


@pytest.mark.skipif(
    not VIEW_3D.is_file() and os.environ.get("TLT_TEST_ALL") != "1", reason="needs make web"
)
def test_three_planes_show_both_images_with_the_patients_right_on_the_left(browser, folder):
    server = Server(folder)
    page = opened(browser, server.url)
    page.keyboard.press("n")
    page.click("#open-3d")
    page.wait_for_selector("#view3d-state:has-text('Reduced in size')")
    page.wait_for_timeout(500)
    for name in ("baseline", "followup"):
        picture = Image.open(io.BytesIO(page.locator(f"#gl-{name}").screenshot())).convert("L")
        voxels = np.asarray(picture)
        assert 0.1 < (voxels > 20).mean() < 0.9  # the body, and black around it
        # Below lies the axial slice; tissue grows brighter to the patient's left.
        row = voxels[int(0.9 * len(voxels))]
        tissue = row[row > 20]
        assert tissue[-40:].mean() > tissue[:40].mean() + 5
    assert page.errors == []
    server.end()


def test_recist_is_assessed_as_it_is_entered_and_found_by_the_command(browser, tmp_path):
    folder = make_folder(tmp_path, visits=2)
    server = Server(folder)
    page = opened(browser, server.url)
    page.keyboard.press("w")  # a new lesion, clicked in the follow-up
    place = truth_mm("L1")
    leaf_to(page, place[2])
    page.mouse.click(*drawn(page, place))
    page.fill("#new-site", "liver")
    page.keyboard.press("Enter")
    saved(page, "X1 new lesion")
    page.wait_for_selector("[data-image=followup] svg text:has-text('new: X1')")
    page.wait_for_selector("#recist-now:has-text('PD')")

    page.keyboard.press("t")
    page.wait_for_selector("#recist-table tr:has-text('New lesions') >> text=liver")
    page.keyboard.press("a")  # nothing is decided where no image is seen
    page.select_option("#new-lesions select", "equivocal")
    saved(page, "X1 new lesion")
    page.wait_for_selector("#recist-now:not(:has-text('PD'))")

    # The second follow-up of L1, chosen in the table: too small to measure, then taken back.
    page.locator("#recist-table tr[data-lesion=L1] td").nth(2).click()
    page.wait_for_selector("#entry-title:has-text('L1 in follow-up 2')")
    page.select_option("#finding", "too_small")
    saved(page, "L1 RECIST entry")
    page.wait_for_selector("#recist-table tr[data-lesion=L1] td.here:has-text('5.0')")
    page.keyboard.press("u")
    saved(page, "L1 decision undone")
    page.wait_for_selector("#recist-table tr[data-lesion=L1] td.here:not(:has-text('5.0'))")
    page.fill("#finding-mm", "6 + 4,5")
    page.keyboard.press("Enter")
    saved(page, "L1 RECIST entry")
    page.wait_for_selector("#recist-table tr[data-lesion=L1] td.here:has-text('10.5')")
    page.fill("#day-2", "20")
    page.keyboard.press("Enter")
    saved(page, "study: day")
    page.fill("#day-1", "30")
    page.keyboard.press("Enter")
    page.wait_for_selector("#alert:has-text('not after the one before')")
    page.click("#alert button")

    page.click("#recist-export")
    page.wait_for_selector("#recist-written:has-text('Written')")
    entries = read_entries(folder / "entries.json")
    (new,) = entries.at(1).new_lesions
    assert (new.certainty.value, new.site) == ("equivocal", "liver")
    assert math.dist(new.center_mm, place) < 0.5
    assert entries.at(2).lesions["L1"].parts_mm == [6.0, 4.5]
    assert (entries.days(), entries.reader) == ({2: 20}, "Dr. Ann")
    written = (folder / "recist.json").read_text()
    assert main(["recist", str(folder)]) == 0
    assert (folder / "recist.json").read_text() == written
    assert all(m.review is None for m in read_json(folder / "result.json").lesions[1].followups)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 1366
    page.keyboard.press("Escape")
    page.wait_for_selector("#accept:visible")
    assert page.errors == []
    server.end()


def test_a_missing_image_is_told_in_its_place(browser, folder, tmp_path):
    os.remove(tmp_path / "bl.nii.gz")
    server = Server(folder)
    page = browser.new_context().new_page()
    page.goto(server.url)
    page.wait_for_selector("[data-image=baseline] .message:has-text('--baseline IMAGE')")
    page.wait_for_selector("[data-image=followup][data-first-picture]")
    server.end()


def test_every_control_has_a_name_for_a_screen_reader(browser, folder):
    server = Server(folder)
    page = opened(browser, server.url)
    for control in page.query_selector_all("button, input, select"):
        named = (
            control.inner_text().strip()
            or control.get_attribute("aria-label")
            or page.query_selector(f"label[for='{control.get_attribute('id')}']")
        )
        assert named, control.get_attribute("id")
    assert "confidence 30 %" in page.get_attribute("#lesions button >> nth=0", "aria-label")
    width = page.evaluate("() => document.documentElement.scrollWidth")
    assert width <= 1366
    server.end()
