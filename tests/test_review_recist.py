"""RECIST on the review page: what is entered is saved, undone, assessed and exported."""

from __future__ import annotations

import json
import sqlite3
import uuid
from pathlib import Path

import pytest
from reviewed import make_folder
from test_review_api import decide
from test_review_api import page as page

from tlt.cli.main import main
from tlt.errors import InputError
from tlt.io.results import read_json
from tlt.recist import assess, read_entries
from tlt.recist import to_json as assessment_json
from tlt.review.entries import entries_of
from tlt.review.service import Review
from tlt.review.state import STUDY, Draft, Event, Kind, checked
from tlt.review.store import STORE, Store

FORMATS = ("json", "csv", "recist")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path, visits=2)


@pytest.fixture
def review(folder: Path):
    opened = Review(folder, formats=FORMATS)
    yield opened
    opened.close()


def enter(page, kind: str, lesion_id: str, value, followup: int | None = 1, by: str = "Ann"):
    """The answer to an entry, made at the present version."""
    known = page.get("/api/state").json()["recist"]["versions"].get(lesion_id, 0)
    answer = decide(page, kind, lesion_id, by, followup=followup, value=value, version=known)
    return answer


def undo(page, by: str = "Ann"):
    return page.post("/api/undo", json={"by": by, "request_id": uuid.uuid4().hex})


def responses(page) -> list[str]:
    return [point["overall"]["response"] for point in page.get("/api/recist").json()["points"]]


def test_the_assessment_follows_each_decision(page):
    for lesion_id in ("L1", "L2"):
        decide(page, "role", lesion_id, followup=None, value="target")
        for followup in (1, 2):
            decide(page, "lost", lesion_id, followup=followup)
    decide(page, "role", "L3", followup=None, value="non_target")
    enter(page, "finding", "L3", {"status": "absent"})
    enter(page, "finding", "L3", {"status": "absent"}, followup=2)
    assert responses(page) == ["CR", "CR"]
    told = page.get("/api/recist").json()
    assert 'data-lesion="L1"' in told["table"]
    assert "<style" not in told["table"]  # the page forbids it; /recist.css has it
    assert ".recist .scroll" in page.get("/recist.css").text
    assert told["parts"] == {"L1": "target", "L2": "target", "L3": "non_target"}
    undo(page)
    assert responses(page)[0] == "CR"
    assert responses(page)[1] != "CR"


def test_a_new_lesion_is_progression_until_it_is_taken_back(page):
    new = {"certainty": "unequivocal", "site": "left  adrenal", "center_mm": [1.0, 2.0, 3.0]}
    answer = enter(page, "new_lesion", "X1", new)
    assert answer.status_code == 200, answer.text
    assert responses(page) == ["PD", "PD"]
    told = answer.json()["state"]["recist"]["new_lesions"]
    assert told == [{"X1": {**new, "site": "left adrenal", "by": "Ann"}}, {}]
    undo(page)
    assert "PD" not in responses(page)
    enter(page, "new_lesion", "X1", {"certainty": "equivocal"})
    assert "PD" not in responses(page)
    enter(page, "new_lesion", "X1", {"certainty": "unequivocal"}, followup=2)
    assert responses(page) == ["PD", "PD"]  # dated back to when it was first seen
    enter(page, "new_lesion", "X1", {"certainty": "absent"}, followup=2)
    enter(page, "new_lesion", "X1", None)
    assert page.get("/api/state").json()["recist"]["new_lesions"][0] == {}
    kinds = [event["kind"] for event in page.get("/api/history").json()]
    assert kinds.count("new_lesion") == 5  # nothing is ever removed


def test_days_are_entered_and_confirm_a_response(page):
    for lesion_id in ("L1", "L2", "L3"):
        decide(page, "role", lesion_id, followup=None, value="target")
        for followup in (1, 2):
            decide(page, "lost", lesion_id, followup=followup)
    assert page.get("/api/recist").json()["confirmed"] is None
    enter(page, "day", STUDY, 56)
    wrong = enter(page, "day", STUDY, 40, followup=2)
    assert wrong.status_code == 422
    assert "not after the one before" in wrong.json()["error"]
    enter(page, "day", STUDY, 112, followup=2)
    assert page.get("/api/state").json()["recist"]["days"] == [56, 112]
    assert page.get("/api/recist").json()["confirmed"]["response"] == "CR"


def test_a_diameter_that_is_too_small_and_one_at_baseline_count_as_entered(page):
    decide(page, "role", "L1", followup=None, value="target")
    for other in ("L2", "L3"):
        decide(page, "role", other, followup=None, value="non_target")
    enter(page, "diameter", "L1", 20.0, followup=None)
    enter(page, "finding", "L1", {"status": "too_small"})
    enter(page, "finding", "L1", {"parts_mm": [6, 4.5]}, followup=2)
    first, second = page.get("/api/recist").json()["points"]
    assert (first["from_baseline"], second["from_baseline"]) == ("-75.0 %", "-47.5 %")
    enter(page, "finding", "L1", None)
    assert page.get("/api/recist").json()["points"][0]["from_baseline"] != "-75.0 %"


def test_progression_of_a_target_is_entered_as_its_diameter(page):
    decide(page, "role", "L1", followup=None, value="target")
    answer = enter(page, "finding", "L1", {"status": "unequivocal_progression"})
    assert (answer.status_code, answer.json()["error"]) == (
        *(422, "L1 is a target; enter its diameter instead"),
    )
    decide(page, "role", "L1", followup=None, value="non_target")
    assert enter(page, "finding", "L1", {"status": "unequivocal_progression"}).status_code == 200
    assert responses(page)[0] == "PD"
    decide(page, "role", "L1", followup=None, value="target")  # the entry stays, and is asked about
    first = page.get("/api/recist").json()["points"][0]
    assert (first["overall"]["response"], first["preliminary"]) == ("NE", True)
    assert any("enter the diameter of this target" in need for need in first["needs_review"])
    assert enter(page, "finding", "L1", {"diameter_mm": 60}).status_code == 200
    assert responses(page)[0] == "PD"


@pytest.mark.parametrize(
    ("kind", "lesion_id", "value", "words"),
    [
        ("finding", "L1", {"status": "tiny"}, "status"),
        ("finding", "L1", {"status": "absent", "diameter_mm": 3}, "give one of"),
        ("finding", "L1", {"diameter_mm": -1}, "diameter_mm"),
        ("finding", "L1", {"status": "merged", "merged_into": "L9"}, "no other lesion"),
        ("finding", "L9", {"status": "absent"}, "not in this study"),
        ("new_lesion", "L1", {"certainty": "equivocal"}, "is a lesion of the baseline"),
        ("new_lesion", " ", {"certainty": "equivocal"}, "1 to 40 letters"),
        ("new_lesion", "X1", {"site": "lung"}, "certainty"),
        ("new_lesion", "X1", {"certainty": "equivocal", "color": "red"}, "color"),
        ("new_lesion", "X1", {"certainty": "equivocal", "site": 5}, "text"),
        ("new_lesion", "X1", "here", "certainty"),
        ("day", "", 1.5, "whole number"),
        ("day", "", True, "whole number"),
    ],
)
def test_an_entry_that_makes_no_sense_is_told_and_not_saved(page, kind, lesion_id, value, words):
    answer = enter(page, kind, lesion_id, value)
    assert answer.status_code == 422
    assert words in answer.json()["error"]
    assert page.get("/api/history").json() == []


def test_of_two_readers_with_one_name_for_a_new_lesion_the_later_is_told(page):
    value = {"certainty": "equivocal", "site": "lung"}
    assert decide(page, "new_lesion", "X1", value=value, version=0).status_code == 200
    answer = decide(page, "new_lesion", "X1", "Bob", value=value, version=0)
    assert answer.status_code == 409
    assert answer.json()["event"]["by"] == "Ann"


def test_tlt_recist_finds_what_the_page_exported(page, folder, capsys):
    decide(page, "lost", "L1")
    enter(page, "finding", "L2", {"status": "not_evaluable"}, by="Bob")
    enter(page, "new_lesion", "X1", {"certainty": "equivocal", "site": "bone"}, followup=2)
    assert page.post("/api/export", json={"formats": ["recist"]}).status_code == 200
    entries = read_entries(folder / "entries.json")
    assert entries.reader == "Ann, Bob"
    expected = assessment_json(assess(read_json(folder / "result.json"), entries))
    assert (folder / "recist.json").read_text() == expected
    assert "X1" in (folder / "recist.html").read_text()
    (folder / "recist.json").unlink()
    assert main(["recist", str(folder)]) == 0
    assert "entries.json" in capsys.readouterr().err
    assert (folder / "recist.json").read_text() == expected


def test_an_entry_makes_the_files_of_recist_older_and_no_others(page):
    page.post("/api/export", json={"formats": ["csv", "recist"]})
    assert page.get("/api/state").json()["exports"]["stale"] == []
    enter(page, "day", STUDY, 56)
    recist = ["entries.json", "recist.csv", "recist.html", "recist.json"]
    assert page.get("/api/state").json()["exports"]["stale"] == recist
    undo(page)
    assert page.get("/api/state").json()["exports"]["stale"] == recist
    page.post("/api/export", json={"formats": ["json"]})  # brings all that are there up to date
    assert page.get("/api/state").json()["exports"]["stale"] == []
    decide(page, "accepted", "L1")
    assert page.get("/api/state").json()["exports"]["stale"] == [
        *("entries.json", "matches.csv", "recist.csv", "recist.html", "recist.json"),
    ]


def test_entries_that_somebody_wrote_by_hand_are_not_replaced(page, folder):
    (folder / "entries.json").write_text("{}")
    answer = page.post("/api/export", json={"formats": ["recist"]})
    assert answer.status_code == 422
    assert "rename it" in answer.json()["error"]
    assert (folder / "entries.json").read_text() == "{}"
    assert not (folder / "recist.json").exists()


def test_entries_that_somebody_changed_by_hand_are_not_replaced(page, folder):
    export = {"formats": ["recist"]}
    assert page.post("/api/export", json=export).status_code == 200
    assert page.post("/api/export", json=export).status_code == 200  # our own are
    changed = (folder / "entries.json").read_text().replace("{", '{"confirmation_days": 56,', 1)
    (folder / "entries.json").write_text(changed)
    decide(page, "lost", "L1")
    assert page.post("/api/export", json=export).status_code == 422
    assert page.post("/api/export", json={"formats": ["csv"]}).status_code == 200
    assert (folder / "entries.json").read_text() == changed
    stale = page.get("/api/state").json()["exports"]["stale"]
    assert "matches.csv" not in stale
    assert "recist.json" in stale
    (folder / "entries.json").unlink()
    assert page.post("/api/export", json={"formats": ["csv"]}).status_code == 200
    assert page.get("/api/state").json()["exports"]["stale"] == []


def test_entries_that_the_page_does_not_use_are_told(folder):
    def notices() -> list[str]:
        review = Review(folder, formats=FORMATS)
        if not (folder / "entries.json").is_file():
            review.export(["recist"])
        review.close()
        return [one for one in review.notices if "entries.json" in one]

    assert notices() == []
    assert notices() == []  # of the review itself
    (folder / "entries.json").write_text('{"reader": "Ann"}')
    (told,) = notices()
    assert "tlt recist uses it, this page does not" in told


def test_recist_is_exported_without_the_images(page, folder, tmp_path):
    for name in ("bl.nii.gz", "fu.nii.gz"):
        (tmp_path / name).unlink()
    assert page.post("/api/export", json={"formats": ["recist"]}).status_code == 200
    assert json.loads((folder / "recist.json").read_text())["schema_version"] == 1


def test_entries_are_what_stands_after_undo_and_later_words(review):
    events = [
        Event(Kind.DAY, STUDY, 1, 10, seq=1, by="Ann"),
        Event(Kind.DAY, STUDY, 1, 20, seq=2, by="Bob"),
        Event(Kind.FINDING, "L1", 1, {"status": "present"}, seq=3, by="Cy"),
        Event(Kind.UNDONE, "L1", 1, 3, seq=4, by="Cy"),
        Event(Kind.UNDONE, STUDY, 1, 2, seq=5, by="Bob"),
    ]
    entries = entries_of(review.original, events)
    assert (entries.days(), entries.reader, entries.at(1).lesions) == ({1: 10}, "Ann", {})
    later = Event(Kind.DAY, STUDY, 2, 5, seq=6, by="Ann")
    with pytest.raises(InputError, match="not after the one before"):
        entries_of(review.original, [*events, later])


def test_an_entry_of_a_store_of_the_first_form(folder, review):
    """Brought up to date, it takes entries and keeps what was decided."""
    study = review.study
    review.decide(Draft(Kind.LOST, "L1", 1), "Ann", 0, "request-1")
    review.close()
    with sqlite3.connect(folder / STORE) as connection:
        connection.execute("DELETE FROM lesions WHERE lesion_id = ''")
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
    connection.close()
    store = Store(folder / STORE)
    day = checked(Draft(Kind.DAY, STUDY, 1, 7), review.original)
    store.add(study, day, "Ann", 0, "request-2")
    assert [event.kind for event in store.events(study)] == [Kind.LOST, Kind.DAY]
    store.close()
