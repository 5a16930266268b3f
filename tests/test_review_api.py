"""The review over HTTP: who may come in, what is saved, what a damaged folder says."""

from __future__ import annotations

import csv
import json
import math
import os
import uuid
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from reviewed import make_folder, truth_mm

from tlt.cli.review import check_packages
from tlt.cli.track import FORMATS
from tlt.errors import InputError, UsageError
from tlt.io.images import load_volume, save_volume
from tlt.io.results import SizeFacts, read_json, write_json
from tlt.io.sources import SOURCES, read_sources, save_sources
from tlt.lesion import Role, Status
from tlt.review.guard import CSRF_HEADER, Guard
from tlt.review.serve import listen
from tlt.review.server import make_app
from tlt.review.service import Review
from tlt.review.state import Draft, Kind
from tlt.volume import Volume

GUARD = Guard(8123)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path)


@pytest.fixture
def review(folder: Path):
    opened = Review(folder, formats=FORMATS)
    yield opened
    opened.close()


def client(review: Review, guard: Guard = GUARD, host: str = "127.0.0.1:8123") -> TestClient:
    """A browser that has not been given the address yet."""
    return TestClient(make_app(review, guard), base_url=f"http://{host}")


@pytest.fixture
def page(review: Review) -> TestClient:
    """A browser that opened the address."""
    browser = client(review)
    assert browser.get(GUARD.url).status_code == 200
    browser.headers[CSRF_HEADER] = GUARD.csrf
    return browser


def decide(page: TestClient, kind: str, lesion_id: str, by: str = "Ann", **more):
    """The answer to a decision on the first follow-up, seen at the present version."""
    content = {"kind": kind, "lesion_id": lesion_id, "followup": 1, "by": by, **more}
    if "version" not in content:
        content["version"] = version(page, lesion_id)
    content.setdefault("request_id", uuid.uuid4().hex)
    return page.post("/api/events", json=content)


def version(page: TestClient, lesion_id: str) -> int:
    lesions = page.get("/api/state").json()["lesions"]
    return next(one["version"] for one in lesions if one["id"] == lesion_id)


def test_only_the_address_with_the_token_opens_the_page(review):
    browser = client(review)
    assert browser.get("/").status_code == 401
    assert browser.get("/api/state").status_code == 401
    assert browser.get("/static/review.js").status_code == 401
    assert browser.get("/?token=guess").status_code == 401
    answer = browser.get(GUARD.url, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "<title>Lesion review" in browser.get("/").text
    assert browser.get("/static/review.js").status_code == 200
    assert GUARD.token not in repr(GUARD)


@pytest.mark.parametrize("host", ["evil.example:8123", "127.0.0.1:9", "127.0.0.1", "8123"])
def test_a_name_that_points_here_is_refused(review, host):
    assert client(review, host=host).get(f"/?token={GUARD.token}").status_code == 403


def test_a_change_needs_the_pages_own_header_and_origin(page):
    content = {"by": "Ann", "request_id": "x" * 8}
    for headers in ({CSRF_HEADER: ""}, {CSRF_HEADER: "guess"}, {"Origin": "http://evil.example"}):
        assert page.post("/api/undo", json=content, headers=headers).status_code == 403
    own = {"Origin": "http://127.0.0.1:8123"}
    assert page.post("/api/undo", json=content, headers=own).status_code == 422  # nothing to undo


def test_every_answer_forbids_scripts_of_others_and_keeping(page):
    for path in ("/", "/api/state", "/static/review.css", "/api/nothing"):
        headers = page.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe-inline" not in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"


def test_the_page_takes_nothing_from_elsewhere():
    static = Path(__file__).parents[1] / "src/tlt/review/static"
    for path in static.glob("review.*"):
        text = path.read_text(encoding="utf-8")
        assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
        assert "https://" not in text
        assert "onclick=" not in text


def test_the_worst_comes_first_and_what_is_out_of_view_last(page):
    state = page.get("/api/state").json()
    assert state["orders"] == [["L2", "L1", "L3"]]


def test_a_decision_is_in_result_json_before_it_is_answered(page, folder):
    place = truth_mm("L2")
    assert page.get("/api/images/1/sheet").json()["status"] == "ready"
    answer = decide(page, "moved", "L2", value=list(place))
    assert (answer.status_code, answer.json()["warning"]) == (200, "")
    decide(page, "lost", "L1", by="Bob")
    decide(page, "role", "L1", followup=None, value="target")
    result = read_json(folder / "result.json")
    lost, moved, _ = result.lesions
    assert moved.followups[0].center_mm == place
    assert moved.followups[0].status is Status.FOUND
    assert (lost.followups[0].status, lost.role) == (Status.NOT_FOUND, Role.TARGET)
    assert lost.followups[0].review.by == "Bob"
    events = page.get("/api/history").json()
    assert [(event["kind"], event["by"]) for event in events] == [
        ("moved", "Ann"),
        ("lost", "Bob"),
        ("role", "Ann"),
    ]


def test_to_accept_what_was_moved_keeps_the_place_and_the_axes_there(page, folder):
    page.get("/api/images/1/sheet")
    x, y, z = place = truth_mm("L2")
    decide(page, "moved", "L2", value=list(place))
    axes = {"long_axis": [[x - 5, y, z], [x + 5, y, z]], "short_axis": None}
    decide(page, "size", "L2", value=axes)

    def found():
        match = read_json(folder / "result.json").lesions[1].followups[0]
        return match.center_mm, match.size.long_mm, match.review.decision.value, match.review.by

    for reader in ("Ann", "Bob"):
        decide(page, "accepted", "L2", by=reader)
        assert found() == (place, 10.0, "moved", reader)
    undo = {"by": "Bob", "request_id": uuid.uuid4().hex}
    assert page.post("/api/undo", json=undo).status_code == 200
    assert found() == (place, 10.0, "moved", "Ann")
    decide(page, "lost", "L2")
    decide(page, "accepted", "L2")  # the page shows it as tracked then
    assert read_json(folder / "result.json").lesions[1].followups[0].center_mm != place


def test_a_folder_tracked_anew_under_an_open_review_is_left_alone(page, folder):
    again = read_json(folder / "result.json")
    again = again.model_copy(
        update={"software": again.software.model_copy(update={"version": "2"})}
    )
    write_json(again, folder / "result.json")
    before = (folder / "result.json").read_bytes()
    answer = decide(page, "accepted", "L1")
    assert answer.status_code == 200  # it is saved
    assert "tracked anew; end tlt review and start it again" in answer.json()["warning"]
    refused = page.post("/api/export", json={"formats": ["csv"]})
    assert (refused.status_code, "tracked anew" in refused.json()["error"]) == (422, True)
    assert (folder / "result.json").read_bytes() == before
    fresh = Review(folder, formats=FORMATS)
    assert fresh.original.software.version == "2"
    assert any("1 entries about the earlier run" in one for one in fresh.notices)
    fresh.close()


def test_what_is_measured_after_a_move_is_kept_with_it(folder):
    def measure(lesion, volume, center_mm):
        """The ball's diameter along x, from the image itself."""
        x, y, z = center_mm
        row = volume.sample([(x + 0.1 * step, y, z) for step in range(-300, 301)]) > 30
        ends = ((x - row.sum() / 20, y, z), (x + row.sum() / 20, y, z))
        return SizeFacts(long_axis=ends, long_mm=row.sum() / 10)

    review = Review(folder, measure=measure)
    review.shelf.stack(1)
    review.decide(Draft(Kind.MOVED, "L2", 1, truth_mm("L2")), "Ann", 0, "request-1")
    review.close()
    size = read_json(folder / "result.json").lesions[1].followups[0].size
    assert size.long_mm == pytest.approx(24.0, abs=2.0)
    again = Review(folder)  # without a measure, and before any image is read
    assert again.result().lesions[1].followups[0].size == size
    again.close()


def test_undo_brings_back_what_was_there(page, folder):
    before = json.loads((folder / "result.json").read_text())
    decide(page, "accepted", "L1")
    decide(page, "lost", "L1")
    undo = {"by": "Ann", "request_id": uuid.uuid4().hex}
    lesion = page.post("/api/undo", json=undo).json()["state"]["lesions"][0]
    assert lesion["followups"][0]["review"]["decision"] == "accepted"
    page.post("/api/undo", json={**undo, "request_id": uuid.uuid4().hex})
    assert json.loads((folder / "result.json").read_text()) == before
    answer = page.post("/api/undo", json={**undo, "request_id": uuid.uuid4().hex})
    assert answer.status_code == 422
    assert "nothing of yours" in answer.json()["error"]
    assert len(page.get("/api/history").json()) == 4


def test_of_two_readers_the_later_sees_whose_decision_is_there(page, folder):
    seen = version(page, "L1")
    decide(page, "accepted", "L1", by="Ann", version=seen)
    answer = decide(page, "lost", "L1", by="Bob", version=seen)
    assert answer.status_code == 409
    assert (answer.json()["event"]["by"], answer.json()["event"]["kind"]) == ("Ann", "accepted")
    assert read_json(folder / "result.json").lesions[0].followups[0].review.by == "Ann"
    assert decide(page, "lost", "L1", by="Bob").status_code == 200


def test_two_servers_on_one_folder_know_of_each_other(page, folder):
    other = Review(folder, formats=FORMATS)
    other.decide(Draft(Kind.LOST, "L1", 1), "Bob", 0, "request-of-bob")
    assert decide(page, "accepted", "L1", version=0).status_code == 409
    decide(page, "accepted", "L2")
    other.close()
    kept = [one.followups[0].review for one in read_json(folder / "result.json").lesions]
    assert [None if one is None else one.by for one in kept] == ["Bob", "Ann", None]


def test_a_request_that_is_sent_again_is_saved_once(page):
    for _ in range(2):
        answer = decide(page, "accepted", "L1", version=0, request_id="the-same-one")
        assert answer.status_code == 200
    assert len(page.get("/api/history").json()) == 1


@pytest.mark.parametrize(
    ("kind", "lesion_id", "more", "words"),
    [
        ("accepted", "L9", {"version": 0}, "L9"),
        ("moved", "L1", {"value": [9999.0, 0.0, 0.0]}, "outside"),
        ("moved", "L1", {"value": "here"}, "three numbers"),
        ("rejected", "L3", {}, "no position"),
        ("burnt", "L1", {}, "kind"),
        ("accepted", "L1", {"by": "  "}, "name"),
        ("undone", "L1", {"value": 1}, "undo"),
    ],
)
def test_what_makes_no_sense_is_told_and_not_saved(page, kind, lesion_id, more, words):
    page.get("/api/images/1/sheet")
    answer = decide(page, kind, lesion_id, **more)
    assert answer.status_code == 422
    assert words in answer.json()["error"]
    assert page.get("/api/history").json() == []


def test_slices_come_as_png_and_wrong_ones_are_told(page):
    sheet = page.get("/api/images/0/sheet").json()["sheets"]["axial"]
    query = {"plane": "axial", "index": sheet["count"] // 2, "level": 40, "width": 400}
    answer = page.get("/api/images/0/slice", params=query)
    assert answer.headers["content-type"] == "image/png"
    assert answer.content.startswith(b"\x89PNG")
    assert page.get("/api/images/0/slice", params={**query, "index": 999}).status_code == 422
    assert page.get("/api/images/7/slice", params=query).status_code == 422
    assert set(page.get("/api/windows").json()) == {"L1", "L2", "L3"}


def test_an_export_has_the_corrections_in_every_format(page, folder):
    page.get("/api/images/1/sheet")
    place = truth_mm("L2")
    decide(page, "moved", "L2", value=list(place))
    assert page.get("/api/state").json()["exports"]["stale"] == ["matches.csv"]
    formats = ["html", "mrk", "nifti", "png"]
    answer = page.post("/api/export", json={"formats": formats})
    assert answer.status_code == 200, answer.text
    state = page.get("/api/state").json()["exports"]
    assert state["stale"] == []
    assert {"report.html", "followup.mrk.json", "followup_mask.nii.gz"} <= set(state["files"])
    rows = {row["lesion_id"]: row for row in csv.DictReader((folder / "matches.csv").open())}
    row = rows["L2"]
    assert (float(row["x"]), float(row["y"]), float(row["z"])) == pytest.approx(place, abs=1e-3)
    points = json.loads((folder / "followup.mrk.json").read_text())["markups"][0]["controlPoints"]
    assert any(math.dist(point["position"], place) < 1e-3 for point in points)
    assert read_sources(folder).formats == ("json", "csv", *formats)
    sent = page.get("/api/files/matches.csv")
    assert sent.text == (folder / "matches.csv").read_text()
    assert "attachment" in sent.headers["content-disposition"]


def test_an_export_removes_nothing_where_the_run_left_no_word_of_its_formats(page, folder):
    os.remove(folder / SOURCES)
    (folder / "report.html").write_text("of the run")
    (folder / ".tlt-track.json").write_text('["matches.csv", "report.html", "other.dcm"]')
    (folder / "other.dcm").write_text("of a format that is not known here")
    decide(page, "accepted", "L2")
    assert page.post("/api/export", json={"formats": ["mrk"]}).status_code == 200
    assert "of the run" not in (folder / "report.html").read_text()
    state = page.get("/api/state").json()["exports"]
    assert set(state["files"]) > {"matches.csv", "report.html", "other.dcm", "followup.mrk.json"}


def test_a_decision_during_an_export_makes_its_files_older(page, review, monkeypatch):
    from tlt.io import exports

    real = exports.write_study

    def slow(*arguments):
        assert decide(page, "accepted", "L1").status_code == 200  # it is not kept waiting
        real(*arguments)

    monkeypatch.setattr(exports, "write_study", slow)
    assert page.post("/api/export", json={"formats": ["csv"]}).status_code == 200
    assert page.get("/api/state").json()["exports"]["stale"] == ["matches.csv"]
    assert read_json(review.folder / "result.json").lesions[0].followups[0].review.by == "Ann"


@pytest.mark.parametrize("name", ["review.sqlite", SOURCES, "nothing.csv", "..%2Fbl.nii.gz"])
def test_only_files_of_the_result_are_sent(page, name):
    assert page.get(f"/api/files/{name}").status_code in (404, 422)


def test_what_was_decided_is_there_when_the_folder_is_opened_again(page, review, folder):
    decide(page, "accepted", "L1")
    review.close()
    again = Review(folder, formats=FORMATS)
    assert again.result().lesions[0].followups[0].review.by == "Ann"
    assert again.original.lesions[0].followups[0].review is None
    again.close()


def test_a_damaged_result_is_written_again_from_the_reviews_own_copy(page, review, folder):
    decide(page, "accepted", "L1")
    review.close()
    good = read_json(folder / "result.json")
    for damage in (b'{"schema_version": 1', None):
        if damage is None:
            (folder / "result.json").unlink()
        else:
            (folder / "result.json").write_bytes(damage)
        again = Review(folder)
        assert "written again" in again.state()["warnings"][0]
        again.close()
        assert read_json(folder / "result.json") == good
    assert (folder / "result.json.damaged").read_bytes() == b'{"schema_version": 1'


def test_a_folder_that_cannot_be_reviewed_says_why(tmp_path):
    folder = make_folder(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        Review(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no result\.json"):
        Review(tmp_path / "empty")
    content = json.loads((folder / "result.json").read_text())
    content["lesions"][0]["followups"][0]["center_mm"] = None
    (folder / "result.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="center_mm must be null exactly for outside_fov"):
        Review(folder)
    (folder / "result.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="damaged"):
        Review(folder)
    assert list(tmp_path.rglob("review.sqlite")) == []


def test_a_new_run_starts_anew_and_keeps_the_old_decisions(page, review, folder):
    decide(page, "accepted", "L1")
    review.close()
    anew = json.loads((folder / "result.json").read_text())
    anew["followups"][0]["seconds"] += 0.125
    anew["lesions"][0]["followups"][0]["review"] = None
    (folder / "result.json").write_text(json.dumps(anew))
    again = Review(folder)
    assert again.result().lesions[0].followups[0].review is None
    assert "1 entries about the earlier run are kept" in again.state()["warnings"][0]
    assert [len(again.store.events(study)) for study in again.store.studies()] == [1, 0]
    again.close()


def test_missing_images_are_told_and_decisions_still_saved(folder, tmp_path):
    os.remove(tmp_path / "fu.nii.gz")
    review = Review(folder, formats=FORMATS)
    browser = client(review)
    browser.get(GUARD.url)
    browser.headers[CSRF_HEADER] = GUARD.csrf
    answer = browser.get("/api/images/1/sheet")
    assert answer.status_code == 422
    assert "--followup IMAGE" in answer.json()["error"]
    assert decide(browser, "accepted", "L1").status_code == 200
    answer = decide(browser, "moved", "L1", value=[0.0, 0.0, -60.0])
    assert "not shown" in answer.json()["error"]
    assert browser.post("/api/export", json={"formats": ["csv"]}).json()["files"] == [
        "matches.csv",
        "result.json",
    ]
    answer = browser.post("/api/export", json={"formats": ["html"]})
    assert "no such file" in answer.json()["error"]
    review.close()


def test_images_that_are_not_those_of_the_result_are_refused(folder, tmp_path):
    save_sources(type(read_sources(folder))(), folder)
    review = Review(folder)
    with pytest.raises(InputError, match="not known where it lies"):
        review.shelf.stack(0)
    review.close()
    volume = load_volume(tmp_path / "bl.nii.gz")
    half = Volume(volume.voxels[:30], volume.grid.cropped((0, 0, 0), (30, 50, 60)))
    save_volume(half, tmp_path / "half.nii.gz")
    review = Review(folder, baseline=str(tmp_path / "half.nii.gz"))
    with pytest.raises(InputError, match=r"60 x 50 x 30 voxels .* 60 x 50 x 40"):
        review.shelf.stack(0)
    review.close()
    with pytest.raises(InputError, match="1 follow-ups"):
        Review(folder, followups=["a", "b"])


def test_a_decision_is_kept_where_result_json_cannot_be_written(page, review, monkeypatch):
    def full(*args):
        raise InputError("result.json: cannot be written (No space left on device)")

    monkeypatch.setattr("tlt.review.service.write_json", full)
    answer = decide(page, "accepted", "L1")
    assert answer.status_code == 200
    assert "saved in review.sqlite, but not in result.json" in answer.json()["warning"]
    monkeypatch.undo()
    decide(page, "lost", "L2")
    written = read_json(review.folder / "result.json").lesions
    assert [lesion.followups[0].review is not None for lesion in written] == [True, True, False]


def test_a_port_that_is_taken_is_told():
    with listen(0) as taken:
        assert taken.getsockname()[0] == "127.0.0.1"
        with pytest.raises(UsageError, match=f"--port {taken.getsockname()[1]}"):
            listen(taken.getsockname()[1])


def test_missing_packages_are_named_with_their_extra(monkeypatch):
    check_packages()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"fastapi.*\[review\]"):
        check_packages()
