"""Keys on the review page, pressed as a reader presses them: in haste, too often, held down."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from reviewed import make_folder, truth_mm
from test_review_page import Server, match, opened, pytestmark, saved
from test_review_page import browser as browser

from tlt.io.results import read_json

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
