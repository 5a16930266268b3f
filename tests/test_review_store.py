"""review.sqlite: saved at once, only ever added to, and nobody overwrites another unseen."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fakes import ball_volume
from reviewed import LESIONS, make_result

from tlt.errors import InputError
from tlt.review.state import Draft, Kind
from tlt.review.store import Conflict, Store, fingerprint

RESULT = make_result(ball_volume(LESIONS), ball_volume(LESIONS))
ACCEPT = Draft(Kind.ACCEPTED, "L1", 1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "review.sqlite"


def test_events_are_there_after_the_file_is_opened_again(path):
    store = Store(path)
    study = store.open_study(RESULT)
    moved = Draft(Kind.MOVED, "L2", 1, (1.5, -2.25, 3.0))
    first = store.add(study, ACCEPT, "Ann", 0, "request-1")
    second = store.add(study, moved, "Bob", 0, "request-2")
    store.close()
    again = Store(path)
    assert again.open_study(RESULT) == study
    assert again.events(study) == [first, second]
    assert again.original(study) == RESULT
    assert second.value == (1.5, -2.25, 3.0)
    assert first.at.endswith("+00:00")


def test_an_event_survives_a_process_that_is_killed(path):
    code = (
        "import os, sys; sys.path.insert(0, 'tests')\n"
        "from test_review_store import *\n"
        f"store = Store(Path({str(path)!r})); study = store.open_study(RESULT)\n"
        "store.add(study, ACCEPT, 'Ann', 0, 'request-1'); os._exit(9)\n"
    )
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "tests"), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env=environment, check=False)
    assert done.returncode == 9
    store = Store(path)
    assert [event.kind for event in store.events(store.studies()[0])] == [Kind.ACCEPTED]


@pytest.mark.parametrize("statement", ["UPDATE events SET by = 'x'", "DELETE FROM events"])
def test_the_database_itself_refuses_to_change_an_event(path, statement):
    store = Store(path)
    store.add(store.open_study(RESULT), ACCEPT, "Ann", 0, "request-1")
    with sqlite3.connect(path) as connection, pytest.raises(sqlite3.DatabaseError, match="never"):
        connection.execute(statement)


def test_the_second_of_two_readers_is_told_whose_decision_is_there(path):
    one, two = Store(path), Store(path)
    study = one.open_study(RESULT)
    first = one.add(study, ACCEPT, "Ann", 0, "request-1")
    with pytest.raises(Conflict, match="Ann has changed L1") as caught:
        two.add(study, Draft(Kind.LOST, "L1", 1), "Bob", 0, "request-2")
    assert caught.value.event == first
    assert two.events(study) == [first]
    later = two.add(study, Draft(Kind.LOST, "L1", 1), "Bob", first.seq, "request-3")
    assert [event.seq for event in one.events(study)] == [first.seq, later.seq]
    two.add(study, Draft(Kind.LOST, "L2", 1), "Bob", 0, "request-4")  # another lesion: no conflict


def test_a_reader_is_in_nobodys_way_but_a_name_for_a_new_lesion_is_free_once(path):
    store = Store(path)
    study = store.open_study(RESULT)
    store.add(study, Draft(Kind.SITE, "L1", None, "lung"), "Ann", 0, "request-1")
    store.add(study, ACCEPT, "Ann", 0, "request-2")  # pressed before the first was answered
    of_bob = store.add(study, Draft(Kind.NODAL, "L1", None, True), "Bob", 2, "request-3")
    store.undo(study, "Ann", "request-4")
    with pytest.raises(Conflict) as caught:  # what Bob said she has not seen
        store.add(study, Draft(Kind.LOST, "L1", 1), "Ann", 2, "request-5")
    assert caught.value.event == of_bob
    new = Draft(Kind.NEW_LESION, "X1", 1, {"certainty": "equivocal"})
    first = store.add(study, new, "Ann", 0, "request-6")
    with pytest.raises(Conflict):
        store.add(study, new, "Ann", 0, "request-7")
    store.add(study, new, "Ann", first.seq, "request-8")
    with pytest.raises(InputError, match="reload"):
        store.add(study, ACCEPT, "Ann", 99, "request-9")


def test_of_many_at_once_exactly_one_wins(path):
    study = Store(path).open_study(RESULT)

    def decide(number: int) -> bool:
        try:
            Store(path).add(study, ACCEPT, f"reader {number}", 0, f"request-{number}")
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(decide, range(12))) == 1
    assert len(Store(path).events(study)) == 1


def test_a_request_sent_twice_is_saved_once(path):
    store = Store(path)
    study = store.open_study(RESULT)
    first = store.add(study, ACCEPT, "Ann", 0, "request-1")
    assert store.add(study, ACCEPT, "Ann", 0, "request-1") == first
    undone = store.undo(study, "Ann", "request-2")
    assert store.undo(study, "Ann", "request-2") == undone
    assert len(store.events(study)) == 2


def test_a_new_run_is_another_study_and_a_corrected_result_the_same(path):
    store = Store(path)
    study = store.open_study(RESULT)
    lesion = RESULT.lesions[0].model_copy(update={"site": "lung"})
    followups = [
        one.model_copy(
            update={"registration": one.registration.model_copy(update={"matrix": None})}
        )
        for one in RESULT.followups
    ]
    reviewed = RESULT.model_copy(
        update={"lesions": [lesion, *RESULT.lesions[1:]], "followups": followups}
    )
    assert fingerprint(reviewed) == fingerprint(RESULT)
    assert store.open_study(reviewed) == study
    other = RESULT.lesions[0].model_copy(update={"tracking_uid": "2.25.1"})
    anew = RESULT.model_copy(update={"lesions": [other, *RESULT.lesions[1:]]})
    assert store.open_study(anew) != study
    assert store.studies() == [1, 2]


def test_a_damaged_file_and_a_newer_one_are_told_and_left_alone(path):
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(InputError, match="damaged"):
        Store(path)
    assert path.read_bytes().startswith(b"no database")
    path.unlink()
    Store(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(InputError, match="newer tlt"):
        Store(path)
