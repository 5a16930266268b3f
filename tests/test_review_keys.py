"""Keys on the review page, pressed as a reader presses them: in haste, too often, held down."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from reviewed import make_folder, truth_mm
from test_review_page import Server, match, opened, pytestmark, saved
from test_review_page import browser as browser

from tlt.io.results import read_json, write_json

__all__ = ["pytestmark"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path)


@pytest.fixture
def page(browser, folder) -> Iterator:
    """The page of Dr. Ann, with the doubtful L2 chosen."""
    server = Server(folder)
    made = opened(browser, server.url)
    yield made
    assert made.errors == []
    made.context.close()
    server.end()


def history(page) -> list[tuple]:
    """Every event: what, of which lesion, with which value."""
    events = page.evaluate("fetch('/api/history').then((answer) => answer.json())")
    return [(event["kind"], event["lesion_id"], event["value"]) for event in events]


def test_the_key_after_a_choice_from_a_list_is_no_second_choice(page):
    page.focus("#role")
    page.keyboard.press("t")  # target, as typed into the list
    saved(page, "L2 role")
    page.keyboard.press("n")  # the next lesion, and no non-target
    page.wait_for_selector("#name:has-text('L1')")
    page.keyboard.press("t")
    page.focus("#finding")
    page.keyboard.press("g")  # gone
    saved(page, "L1 RECIST entry")
    page.keyboard.press("u")  # undo, and no unequivocal progression
    saved(page, "L1 decision undone")
    assert [event[:2] for event in history(page)] == [
        *(("role", "L2"), ("finding", "L1"), ("undone", "L1")),
    ]
    assert history(page)[0][2] == "target"


def hold(page, path: str) -> list:
    """Requests wait, each as an entry of the list, until `let_go`."""
    held: list = []
    page.route(path, lambda route: held.append(route))
    return held


def let_go(page, held: list) -> None:
    """Let the request that waits go on, and hold no other."""
    while not held:
        page.wait_for_timeout(20)
    held.pop().continue_()
    page.unroute_all()


def test_a_held_key_decides_once(page):
    def press_long(key: str) -> None:
        for _ in range(15):  # a key that is down already repeats itself
            page.keyboard.down(key)
            page.wait_for_timeout(30)
        page.keyboard.up(key)

    press_long("Enter")
    saved(page, "L2 accepted")
    page.wait_for_selector("#name:has-text('L1')")
    page.focus("#accept")
    press_long("Enter")
    saved(page, "L1 accepted")
    page.wait_for_timeout(300)
    assert [event[:2] for event in history(page)] == [("accepted", "L2"), ("accepted", "L1")]


def test_what_is_typed_belongs_to_the_lesion_that_is_shown(page):
    held = hold(page, "**/api/events")
    page.keyboard.press("Enter")
    page.focus("#site")
    page.keyboard.type("liver")
    let_go(page, held)
    saved(page, "L2 accepted")
    assert page.inner_text("#name").startswith("L2")  # nothing moves under the fingers
    page.keyboard.press("Tab")
    saved(page, "L2 site")

    page.keyboard.press("n")
    page.wait_for_selector("#name:has-text('L1')")
    held = hold(page, "**/api/undo")
    page.focus("#accept")
    page.keyboard.press("u")
    page.focus("#site")
    page.keyboard.type("lung")
    let_go(page, held)  # its answer leads back to L2
    page.wait_for_selector("#name:has-text('L2')")
    saved(page, "L1 site")
    assert history(page)[-2:] == [("undone", "L2", 2), ("site", "L1", "lung")]
    assert page.input_value("#site") == ""


def test_a_reader_in_haste_is_in_no_conflict_with_himself(page):
    page.fill("#site", "lung")
    page.click("#accept")  # which leaves the field: two entries at once
    saved(page, "L2 accepted")
    assert not page.is_visible("#alert")
    assert [event[0] for event in history(page)] == ["site", "accepted"]


def test_an_older_state_does_not_replace_a_newer_one(page):
    held = hold(page, "**/api/state")
    while not held:
        page.wait_for_timeout(50)
    poll = held.pop()
    old = poll.fetch()
    page.keyboard.press("a")
    saved(page, "L2 accepted")
    poll.fulfill(response=old)
    page.unroute_all()
    page.wait_for_timeout(300)
    assert page.inner_text("#decided") == "1 of 3 decided"
    assert page.get_attribute("#lesions button >> nth=0", "aria-label").endswith("by Dr. Ann")


def test_a_new_lesion_that_is_taken_back_leaves_the_page(page):
    page.keyboard.press("t")
    page.click("#add-new")
    page.keyboard.press("Enter")
    saved(page, "X1 new lesion")
    page.click("#new-lesions button")
    page.wait_for_selector("#new-none:visible")
    assert page.locator("#new-lesions li").count() == 0


def test_a_lesion_that_was_moved_stays_there_when_the_reader_goes_on(page, folder):
    page.keyboard.press("m")
    for key in ("ArrowLeft",) * 6 + ("Enter",):
        page.keyboard.press(key)
    saved(page, "L2 moved")
    page.keyboard.press("a")
    page.wait_for_selector("#saved:has-text('L2 stays where you moved it')")
    page.keyboard.press("Enter")
    page.wait_for_selector("#name:has-text('L1')")
    moved = match(read_json(folder / "result.json"), "L2")
    assert (moved.review.decision.value, math.dist(moved.center_mm, truth_mm("L2")) < 0.1) == (
        *("moved", True),
    )
    assert [event[0] for event in history(page)] == ["moved"]


def test_a_page_of_an_earlier_run_is_loaded_anew(browser, folder):
    server = Server(folder)
    page = opened(browser, server.url)
    page.evaluate("window.earlier = true")
    server.end()
    again = read_json(folder / "result.json")
    software = again.software.model_copy(update={"version": "2"})
    write_json(again.model_copy(update={"software": software}), folder / "result.json")
    port = server.url.partition("127.0.0.1:")[2].partition("/")[0]
    server = Server(folder, "--port", port)
    page.context.new_page().goto(server.url)
    page.wait_for_function("() => !window.earlier")
    server.end()
