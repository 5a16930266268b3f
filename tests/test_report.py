"""report.html: one file that needs nothing else, worst first, and safe with any text."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from html.parser import HTMLParser

import pytest
from fakes import LESIONS, ball_volume, make_match, make_pair

from tlt.io.pictures import Picture
from tlt.io.report import render_report, report_rows, write_report
from tlt.io.results import Review, Software, build_result
from tlt.lesion import Lesion, Status

PNG = b"\x89PNG not really"
SOFTWARE = Software(version="1.2.3", tracker="tlt", model="tlt-ct", weights_sha256="ab" * 32)
CREATED = datetime(2025, 1, 2, 3, 4, tzinfo=timezone.utc)


def make_result(lesions=LESIONS, confidences=(0.9, 0.1, 0.5), followups=1, **fields):
    volume = ball_volume(LESIONS, path="/data/DOE^JANE/scan.nii.gz")
    matches = [make_match(x, confidence=c) for x, c in zip(lesions, confidences, strict=False)]
    pairs = [make_pair(matches, **fields)] * followups
    return build_result(volume, [volume] * followups, pairs, SOFTWARE, ["look <twice>"])


def pictures_of(result):
    return [
        Picture(lesion.id, number, f"{lesion.id}.png", PNG)
        for lesion in result.lesions
        for number in range(1, len(result.followups) + 1)
    ]


class Page(HTMLParser):
    """Ids, links and image sources of a page; fails on tags that do not close."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.images, self.open, self.tags = [], [], [], [], set()
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.add(tag)
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag == "a":
            self.links.append(attributes["href"])
        if tag == "img":
            self.images.append(attributes["src"])
        if tag not in {"img", "meta", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_worst_confidence_comes_first():
    result = make_result()
    rows = report_rows(result, pictures_of(result))
    assert [row.lesion.id for row in rows] == ["L2", "L3", "L1"]


@pytest.mark.parametrize("followups", [1, 3])
def test_links_lead_to_pictures_that_are_in_the_page(followups):
    result = make_result(followups=followups)
    page = Page(render_report(result, pictures_of(result), CREATED))
    rows = 3 * followups
    targets = [link.removeprefix("#") for link in page.links]
    assert targets[:rows] == page.ids[1:]
    assert targets[rows:] == [page.ids[0]] * rows
    assert len(page.ids) == len(set(page.ids))
    assert len(page.images) == 3 * followups
    assert all(source.startswith("data:image/png;base64,") for source in page.images)


def test_page_needs_nothing_else_and_runs_nothing():
    result = make_result()
    text = render_report(result, pictures_of(result), CREATED)
    assert not re.search(r"https?://|@import|url\(|<link|<script", text)
    assert "prefers-color-scheme: dark" in text


def test_text_of_users_is_escaped():
    nasty = Lesion("<script>alert(1)</script>", (0.0, 0.0, -50.0), 8.0, '"><img src=x>')
    result = make_result([nasty], [0.5])
    page = Page(render_report(result, [], CREATED))
    assert "script" not in page.tags
    assert page.images == []


def test_it_says_what_a_reader_must_know():
    text = render_report(make_result(ok=False), [], CREATED)
    for part in (
        "not a medical device", "LPS", "tlt-ct", "ab" * 32, "1.2.3", "doubtful",
        "look &lt;twice&gt;", "2025-01-02 03:04 UTC", "scan.nii.gz", "60 \u00d7 50 \u00d7 40",
    ):  # fmt: skip
        assert part in text
    assert "DOE" not in text


def test_a_lesion_outside_and_a_tracker_without_model_are_shown():
    volume = ball_volume(LESIONS)
    pair = make_pair([make_match(LESIONS[0], Status.OUTSIDE_FOV, confidence=0.0)])
    software = Software(version="1", tracker="affine", model=None, weights_sha256=None)
    text = render_report(build_result(volume, [volume], [pair], software), [], CREATED)
    assert "outside the field of view" in text
    assert "None" not in text


def test_what_is_out_of_view_comes_last_and_has_no_percentage():
    volume = ball_volume(LESIONS)
    matches = [make_match(LESIONS[0], Status.OUTSIDE_FOV, confidence=0.0), make_match(LESIONS[1])]
    result = build_result(volume, [volume], [make_pair(matches)], SOFTWARE)
    assert [row.lesion.id for row in report_rows(result, [])] == ["L2", "L1"]
    text = render_report(result, [], CREATED)
    assert "90 %" in text
    assert " 0 %" not in text


def test_lesions_are_counted_in_each_of_several_followups():
    text = render_report(make_result(followups=2), [], CREATED)
    assert "1 = <b>scan.nii.gz</b>" in text
    assert "2 = <b>scan.nii.gz</b>" in text
    assert text.count("(similarity of the registration 0.88)") == 2
    assert text.count("<b>3</b>found") == 2
    assert "<b>6</b>" not in text


def test_what_a_reader_decided_stands_beside_the_status():
    result = make_result()
    assert "accepted" not in render_report(result, [], CREATED)
    at = "2025-01-02T05:04:59.123+02:00"
    review = Review(decision="accepted", by="<Ann>", at=at, note="sure")
    result.lesions[1].followups[0].review = review
    page = render_report(result, [], CREATED)
    assert "accepted by &lt;Ann&gt;, 2025-01-02 03:04 UTC: sure" in page
    result.lesions[1].followups[0].review = review.model_copy(update={"at": "yesterday"})
    assert "accepted by &lt;Ann&gt;, yesterday: sure" in render_report(result, [], CREATED)


def test_written_whole(tmp_path):
    result = make_result()
    write_report(result, pictures_of(result), tmp_path / "report.html", CREATED)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text == render_report(result, pictures_of(result), CREATED)
