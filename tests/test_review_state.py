"""Readers' events become a state, a state becomes a corrected result: both without any file."""

from __future__ import annotations

import math

import numpy as np
import pytest
from fakes import ball_volume
from hypothesis import given
from hypothesis import strategies as st
from reviewed import LESIONS, make_result, truth_mm

from tlt.errors import InputError
from tlt.geometry import AffineTransform
from tlt.io.results import Decision, Result, SizeFacts
from tlt.lesion import Role, Status
from tlt.review.corrected import corrected
from tlt.review.link import lesion_link, rows
from tlt.review.state import Draft, Event, Kind, checked, effective, reader_name, replay, undo_of

RESULT = make_result(ball_volume(LESIONS), ball_volume(LESIONS))


def events(*steps: tuple) -> list[Event]:
    """Events in order from (kind, lesion, value, reader)."""
    made = []
    for seq, (kind, lesion_id, value, by) in enumerate(steps, 1):
        followup = None if kind.of_lesion else 1
        value = {"center_mm": value, "size": None} if kind is Kind.MOVED else value
        made.append(
            Event(kind, lesion_id, followup, value, seq, f"2026-01-01T00:00:{seq:02d}Z", by)
        )
    return made


def match(result: Result, lesion_id: str):
    return next(one for one in result.lesions if one.id == lesion_id).followups[0]


def after(*steps: tuple) -> Result:
    return corrected(RESULT, replay(events(*steps)))


def test_without_events_the_result_is_the_trackers():
    result = corrected(RESULT, replay([]))
    assert result == RESULT
    result.warnings.append("a remark of an export")
    assert RESULT.warnings == []


def test_an_accepted_match_is_found_and_keeps_what_was_computed():
    found = match(after((Kind.ACCEPTED, "L2", None, "Ann")), "L2")
    tracked = match(RESULT, "L2")
    assert (found.status, tracked.status) == (Status.FOUND, Status.LOW_CONFIDENCE)
    assert found.review is not None
    assert (found.review.decision, found.review.by) == (Decision.ACCEPTED, "Ann")
    assert found.center_mm == tracked.center_mm
    assert found.confidence == tracked.confidence


def test_a_moved_lesion_lies_where_the_reader_put_it():
    place = truth_mm("L2")
    found = match(after((Kind.MOVED, "L2", place, "Ann")), "L2")
    assert (found.status, found.center_mm, found.confidence) == (Status.FOUND, place, 0.3)
    assert found.prior_distance_mm == pytest.approx(
        math.dist(place, found.prior_center_mm), abs=1e-3
    )
    assert found.size is None
    assert "measured again" in found.size_note


def test_a_lesion_out_of_view_can_be_accepted_moved_and_lost_but_not_rejected():
    assert match(after((Kind.ACCEPTED, "L3", None, "A")), "L3").status is Status.OUTSIDE_FOV
    assert match(after((Kind.MOVED, "L3", (1.0, 2.0, 3.0), "A")), "L3").status is Status.FOUND
    lost = match(after((Kind.LOST, "L3", None, "A")), "L3")
    assert (lost.status, lost.center_mm) == (Status.NOT_FOUND, lost.prior_center_mm)
    with pytest.raises(InputError, match="no position to reject"):
        checked(Draft(Kind.REJECTED, "L3", 1), RESULT)


@pytest.mark.parametrize("kind", [Kind.REJECTED, Kind.LOST])
def test_rejected_and_lost_keep_the_best_estimate_and_say_why_there_is_no_size(kind):
    found = match(after((kind, "L1", None, "Ann")), "L1")
    assert (found.status, found.center_mm) == (Status.NOT_FOUND, match(RESULT, "L1").center_mm)
    assert found.size is None
    assert "reader" in found.size_note
    assert found.review is not None
    assert found.review.decision.value == kind.value


def test_the_last_decision_counts_and_roles_stay_beside_it():
    result = after(
        (Kind.ACCEPTED, "L1", None, "Ann"),
        (Kind.ROLE, "L1", "target", "Ann"),
        (Kind.SITE, "L1", "lung", "Ann"),
        (Kind.NODAL, "L1", True, "Ann"),
        (Kind.LOST, "L1", None, "Bob"),
        (Kind.NOTE, "L1", "gone since March", "Bob"),
    )
    lesion = result.lesions[0]
    assert (lesion.role, lesion.site, lesion.nodal) == (Role.TARGET, "lung", True)
    review = lesion.followups[0].review
    assert review is not None
    assert (review.decision, review.by, review.note) == (Decision.LOST, "Bob", "gone since March")


def test_a_size_that_was_measured_after_the_move_comes_with_it():
    size = SizeFacts(long_axis=((0, 0, 0), (9, 0, 0)), long_mm=9.0).model_dump(mode="json")
    value = {"center_mm": (1.0, 2.0, 3.0), "size": size}
    found = match(corrected(RESULT, replay([Event(Kind.MOVED, "L2", 1, value, 1, "t", "A")])), "L2")
    assert found.size is not None
    assert (found.size.long_mm, found.radius_mm, found.size_note) == (9.0, 4.5, "")


AXES = {"long_axis": [(0.0, 0.0, 0.0), (12.0, 0.0, 0.0)], "short_axis": None}


def test_drawn_axes_count_until_the_lesion_is_moved_again_and_not_when_it_is_gone():
    drawn, moved = (Kind.SIZE, "L1", AXES, "A"), (Kind.MOVED, "L1", (1.0, 2.0, 3.0), "A")
    for steps in ([drawn], [drawn, (Kind.ACCEPTED, "L1", None, "A")], [moved, drawn]):
        found = match(after(*steps), "L1")
        assert found.size is not None
        assert (found.size.long_mm, found.radius_mm, found.size.by_reader) == (12.0, 6.0, True)
    for steps in ([drawn, moved], [drawn, (Kind.LOST, "L1", None, "A")]):
        assert match(after(*steps), "L1").size is None
    assert match(after((Kind.LOST, "L1", None, "A"), drawn), "L1").size is None
    assert match(after((Kind.SIZE, "L3", AXES, "A")), "L3").size is None  # out of view


def test_drawn_axes_belong_to_the_place_that_they_were_drawn_at():
    there, elsewhere = (1.0, 2.0, 3.0), (9.0, 9.0, 9.0)
    drawn, moved = (Kind.SIZE, "L1", AXES, "A"), (Kind.MOVED, "L1", there, "A")
    back = (Kind.ACCEPTED, "L1", None, "A")  # as an earlier version saved it: as tracked
    assert match(after(moved, drawn, back), "L1").size is None
    assert match(after(moved, drawn, (Kind.MOVED, "L1", there, "B")), "L1").size.long_mm == 12.0
    assert match(after(moved, drawn, (Kind.MOVED, "L1", elsewhere, "B")), "L1").size is None
    made = events(drawn, moved)
    made.append(Event(Kind.UNDONE, "L1", 1, 2, 3, "t", "A"))
    assert match(corrected(RESULT, replay(made)), "L1").size.long_mm == 12.0


STEP = st.tuples(
    st.sampled_from(
        [
            (Kind.ACCEPTED, None),
            (Kind.REJECTED, None),
            (Kind.LOST, None),
            (Kind.MOVED, {"center_mm": (1.0, 2.0, 3.0), "size": None}),
            (Kind.SIZE, AXES),
            (Kind.ROLE, "target"),
            (Kind.SITE, "lung"),
            (Kind.NODAL, True),
            (Kind.UNDONE, None),
        ]
    ),
    st.sampled_from(["L1", "L2"]),
    st.sampled_from(["Ann", "Bob"]),
)


def grown(steps) -> list[Event]:
    """Events as the store would take them: an undo that is refused adds none."""
    made: list[Event] = []
    for (kind, value), lesion_id, by in steps:
        draft = Draft(kind, lesion_id, None if kind.of_lesion else 1, value)
        if kind is Kind.UNDONE:
            try:
                draft = undo_of(made, by)
            except InputError:
                continue
        seq = len(made) + 1
        made.append(
            Event(draft.kind, draft.lesion_id, draft.followup, draft.value, seq, f"t{seq}", by)
        )
    return made


@given(st.lists(STEP, max_size=14))
def test_an_undo_leaves_the_state_as_if_the_event_had_never_been(steps):
    made = grown(steps)
    undone = {event.value for event in made if event.kind is Kind.UNDONE}
    kept = [e for e in made if e.kind is not Kind.UNDONE and e.seq not in undone]
    assert replay(made).last == replay(kept).last
    assert effective(made) == kept
    for event in made:  # versions grow with every event of a lesion, undo included
        assert replay(made).version(event.lesion_id) >= event.seq


@given(st.lists(STEP, max_size=14))
def test_any_history_gives_a_result_that_its_schema_accepts(steps):
    result = corrected(RESULT, replay(grown(steps)))
    assert Result.model_validate_json(result.model_dump_json()) == result
    assert [lesion.id for lesion in result.lesions] == ["L1", "L2", "L3"]


@given(st.lists(STEP, max_size=10))
def test_undoing_everything_of_everybody_gives_the_trackers_result(steps):
    made = grown(steps)
    while effective(made):
        last = effective(made)[-1]
        draft = undo_of(made, last.by)
        assert draft.value == last.seq
        seq = len(made) + 1
        made.append(
            Event(Kind.UNDONE, draft.lesion_id, draft.followup, draft.value, seq, "t", last.by)
        )
    assert corrected(RESULT, replay(made)) == RESULT


def test_an_undo_is_of_ones_own_and_not_past_another_reader():
    made = events((Kind.ACCEPTED, "L1", None, "Ann"), (Kind.LOST, "L1", None, "Bob"))
    with pytest.raises(InputError, match="Bob has changed L1 since"):
        undo_of(made, "Ann")
    assert undo_of(made, "Bob").value == 2
    with pytest.raises(InputError, match="nothing of yours"):
        undo_of(made, "Cleo")


def test_a_move_is_not_undone_under_the_axes_of_another_reader():
    moved, drawn = (Kind.MOVED, "L1", (1.0, 2.0, 3.0), "Ann"), (Kind.SIZE, "L1", AXES, "Bob")
    with pytest.raises(InputError, match=r"Bob has changed L1 since \(size\)"):
        undo_of(events(moved, drawn), "Ann")
    assert undo_of(events(moved, (Kind.SIZE, "L2", AXES, "Bob")), "Ann").value == 1
    made = [*events(moved, drawn), Event(Kind.UNDONE, "L1", 1, 2, 3, "t", "Bob")]
    assert undo_of(made, "Ann").value == 1


@pytest.mark.parametrize(
    ("draft", "words"),
    [
        (Draft(Kind.ACCEPTED, "L9", 1), "L9"),
        (Draft(Kind.ACCEPTED, "L1", 2), "follow-up 2"),
        (Draft(Kind.ACCEPTED, "L1"), "follow-up None"),
        (Draft(Kind.ROLE, "L1", 1, "target"), "role"),
        (Draft(Kind.ROLE, "L1", None, "best"), "best"),
        (Draft(Kind.MOVED, "L1", 1, (1, 2)), "three numbers"),
        (Draft(Kind.MOVED, "L1", 1, (1, 2, math.nan)), "three numbers"),
        (Draft(Kind.MOVED, "L1", 1, "abc"), "three numbers"),
        (Draft(Kind.SIZE, "L1", 1, {"long_axis": [(0, 0, 0), (0, 0, 0.5)]}), "0.5 mm"),
        (Draft(Kind.SIZE, "L1", 1, {"long_axis": [(0, 0, 0)]}), "two ends"),
        (Draft(Kind.SIZE, "L1", 1, {"width": 3}), "long_axis"),
        (Draft(Kind.NODAL, "L1", None, "yes"), "true or false"),
        (Draft(Kind.SITE, "L1", None, "x" * 501), "500"),
        (Draft(Kind.LOST, "L1", 1, 7), "no value"),
    ],
)
def test_what_makes_no_sense_is_refused(draft, words):
    with pytest.raises(InputError, match=words):
        checked(draft, RESULT)


def test_a_readers_name_is_one_line_and_not_empty():
    assert reader_name("  Dr.  Ann\nBee ") == "Dr. Ann Bee"
    for name in ("", " \n", "x" * 81, "a\x07b"):
        with pytest.raises(InputError):
            reader_name(name)


def test_the_link_is_the_registration_moved_to_meet_the_lesion():
    turn = np.array([[0.96, -0.28, 0.0], [0.28, 0.96, 0.0], [0.0, 0.0, 1.1]])
    facts = RESULT.followups[0].registration.model_copy(
        update={"matrix": [[*row, 5.0] for row in turn.tolist()] + [[0, 0, 0, 1]]}
    )
    lesion = RESULT.lesions[1]
    link = lesion_link(facts, lesion, 1)
    np.testing.assert_allclose(link(lesion.baseline.center_mm), lesion.followups[0].center_mm)
    step = np.array([3.0, -2.0, 7.0])
    moved = link(np.array(lesion.baseline.center_mm) + step) - link(lesion.baseline.center_mm)
    np.testing.assert_allclose(moved, turn @ step)
    table = np.array(rows(link))
    again = AffineTransform(table[:, :3], table[:, 3])
    np.testing.assert_allclose(again.inverse()(again((1.0, 2.0, 3.0))), (1.0, 2.0, 3.0))


def test_a_result_without_a_matrix_is_linked_by_the_lesions_own_shift():
    facts = RESULT.followups[0].registration.model_copy(update={"matrix": None})
    link = lesion_link(facts, RESULT.lesions[2], 1)  # out of view: by the prior
    np.testing.assert_allclose(
        link(RESULT.lesions[2].baseline.center_mm), RESULT.lesions[2].followups[0].prior_center_mm
    )
    np.testing.assert_allclose(link.matrix, np.eye(3))
