"""From a result and a reader's entries to responses: every way a lesion can go."""

from __future__ import annotations

from decimal import Decimal
from random import Random

import pytest
from recist_cases import entries, found, gone, lesion, make_result, size

from tlt.errors import InputError
from tlt.lesion import Role
from tlt.recist import assess, rules
from tlt.recist.criteria import Presence, Response
from tlt.recist.measure import State, presence
from tlt.recist.roles import Part

OTHER = Role.NON_TARGET
OPEN = Role.UNDECIDED
CR, PR, SD, PD, NE = Response.CR, Response.PR, Response.SD, Response.PD, Response.NE
NON, NA, ND = Response.NON_CR_NON_PD, Response.NOT_APPLICABLE, Response.NO_DISEASE


def overall(assessment):
    return [point.overall.response for point in assessment.time_points]


def sums(assessment):
    return [None if p.sums.sum_mm is None else float(p.sums.sum_mm) for p in assessment.time_points]


def parts(assessment):
    return {lesion.id: lesion.part for lesion in assessment.lesions}


# Sums, nadir, response


def test_sum_takes_long_axes_and_short_axes_of_nodes_even_below_10_mm():
    a = assess(make_result(lesion("L", 30, 20), lesion("N", 16, 8.5, nodal=True)))
    assert float(a.baseline_sum_mm) == 46
    assert sums(a) == [28.5]
    assert float(a.time_points[0].sums.from_baseline_percent) == pytest.approx(-38.043, abs=1e-3)


def test_the_smallest_sum_is_that_of_all_earlier_time_points():
    a = assess(make_result(lesion("L", 50, 30, 25, 28, 30, 40)))
    assert [float(p.sums.nadir_mm) for p in a.time_points] == [50, 30, 25, 25, 25]
    assert [p.sums.nadir_followup for p in a.time_points] == [0, 1, 2, 2, 2]
    assert overall(a) == [PR, PR, PR, PD, PD]  # 28 is 12 % and 3 mm up; 30 is 20 % and 5 mm
    assert a.progression == 4
    assert a.best.response is PR


def test_growth_from_a_baseline_that_is_the_smallest_sum():
    a = assess(make_result(lesion("L", 50, 60)))
    assert overall(a) == [PD]
    assert a.time_points[0].overall.rule is rules.TABLE_1_PD
    assert a.time_points[0].target.rule is rules.TARGET_PD
    assert "+20.0 %, +10.0 mm" in a.time_points[0].target.because


def test_measured_sizes_are_recorded_to_a_tenth_and_entered_ones_as_written():
    a = assess(
        make_result(lesion("A", 20.04, 20.05), lesion("B", 20, 10)),
        entries({"B": {"diameter_mm": 10.123}}),
    )
    assert a.baseline_sum_mm == Decimal("40.0")
    assert a.time_points[0].sums.sum_mm == Decimal("30.223")  # 20.05 goes up to 20.1


def test_a_lesion_with_only_a_radius_counts_with_twice_the_radius():
    followup = found(review="accepted").model_copy(update={"radius_mm": 6.0})
    a = assess(make_result(lesion("L", None, followup, radius_mm=9.5)))
    assert (float(a.baseline_sum_mm), sums(a)) == (19, [12])
    assert a.lesions[0].baseline.from_radius
    node = assess(make_result(lesion("N", None, followup, radius_mm=9.5, nodal=True)))
    assert node.baseline_sum_mm is None
    assert node.time_points[0].target.rule is rules.NO_BASELINE
    assert "N at baseline: no short axis; measure it" in node.time_points[0].needs_review


def test_a_radius_that_the_run_guessed_is_no_size():
    guess = "lesions.csv: no radius for L; 10 mm is used"
    result = make_result(lesion("L", None, 8, radius_mm=10.0, role=OPEN), warnings=[guess])
    assert assess(result).lesions[0].part is Part.NON_TARGET
    assert f"tlt track: {guess}" in assess(result).notices
    known = result.model_copy(update={"warnings": []})
    assert assess(known).lesions[0].part is Part.TARGET


# What becomes of a target


def test_what_the_tracker_does_not_find_is_not_gone():
    lost = found(status="not_found")
    a = assess(make_result(lesion("A", 20, lost), lesion("B", 20, 10)))
    point = a.time_points[0]
    assert point.measurements[0].state is State.UNCONFIRMED
    assert (point.sums.sum_mm, point.sums.counted_mm) == (None, 10)
    assert overall(a) == [NE]
    assert point.preliminary
    assert a.preliminary
    assert point.needs_review == ("A: not found by the tracker; say whether it is gone",)


def test_lost_by_a_reader_is_gone():
    a = assess(make_result(lesion("A", 20, gone()), lesion("B", 20, gone())))
    assert sums(a) == [0]
    assert overall(a) == [CR]
    assert not a.preliminary
    assert a.time_points[0].measurements[0].rule is rules.GONE


def test_a_match_of_low_confidence_counts_but_is_preliminary():
    weak = found(12, status="low_confidence")
    a = assess(make_result(lesion("A", 20, weak)))
    assert (overall(a), sums(a), a.preliminary) == ([PR], [12], True)
    seen = found(12, status="low_confidence", review="accepted")
    assert not assess(make_result(lesion("A", 20, seen))).preliminary
    unmeasured = found(status="low_confidence")
    assert overall(assess(make_result(lesion("A", 20, unmeasured)))) == [NE]


def test_a_lesion_that_was_found_but_not_measured_waits_for_the_reader():
    result = make_result(lesion("A", 20, found()))
    a = assess(result)
    assert (overall(a), a.preliminary) == ([NE], True)
    assert a.time_points[0].needs_review == ("A: no long axis; measure it",)
    measured = assess(result, entries({"A": {"diameter_mm": 14}}))
    assert (overall(measured), measured.preliminary) == ([PR], False)


def test_a_doubtful_size_is_counted_marked_and_preliminary():
    doubtful = found(12, doubtful=True, note="touches the wall", review="accepted")
    result = make_result(lesion("A", 20, doubtful, 11))
    a = assess(result)
    m = a.time_points[0].measurements[0]
    assert m.doubtful
    assert m.note == "touches the wall"
    assert [p.preliminary for p in a.time_points] == [True, True]  # the smallest sum rests on it
    assert "review of follow-up 1" in a.time_points[1].needs_review[0]
    by_reader = found(12, doubtful=True, by_reader=True)
    assert not assess(make_result(lesion("A", 20, by_reader))).preliminary
    assert not assess(result, entries({"A": {"diameter_mm": 12}})).preliminary
    at_baseline = assess(make_result(lesion("A", size(20, doubtful=True), 12)))
    assert at_baseline.preliminary


def test_out_of_view_is_not_evaluable_unless_the_others_progress():
    unseen = found(status="outside_fov")
    a = assess(make_result(lesion("A", 20, unseen, unseen, 20), lesion("B", 30, 30, 60, 30)))
    assert overall(a) == [NE, PD, SD]
    assert [p.target.rule for p in a.time_points[:2]] == [rules.MISSING] * 2
    assert a.time_points[0].measurements[0].rule is rules.OUT_OF_VIEW
    assert sums(a) == [None, None, 50]
    assert a.time_points[2].sums.nadir_followup == 0  # a sum with a gap is no smallest sum
    assert not a.preliminary  # nothing that a reader could do about it


def test_a_rejected_match_is_not_evaluable_until_it_is_placed():
    a = assess(make_result(lesion("A", 20, found(12, review="rejected"))))
    assert (overall(a), a.preliminary) == ([NE], True)
    assert a.time_points[0].measurements[0].rule is rules.REJECTED
    assert overall(assess(make_result(lesion("A", 20, found(12, review="moved"))))) == [PR]


@pytest.mark.parametrize(
    ("finding", "diameter", "state"),
    [
        ({"status": "too_small"}, 5, State.TOO_SMALL),
        ({"status": "absent"}, 0, State.GONE),
        ({"diameter_mm": 0}, 0, State.GONE),
        ({"diameter_mm": 3.5}, 3.5, State.MEASURED),
        ({"parts_mm": [7, 4.5]}, 11.5, State.SPLIT),
        ({"status": "present"}, 12, State.MEASURED),
        ({"status": "not_evaluable"}, None, State.NOT_EVALUABLE),
    ],
)
def test_the_readers_entry_goes_before_what_was_measured(finding, diameter, state):
    a = assess(make_result(lesion("A", 20, found(12))), entries({"A": finding}))
    m = a.time_points[0].measurements[0]
    assert (None if m.diameter_mm is None else float(m.diameter_mm), m.state) == (diameter, state)
    assert m.seen
    assert not a.preliminary


def test_entries_that_contradict_the_review_are_to_be_corrected():
    a = assess(make_result(lesion("A", 20, gone())), entries({"A": {"diameter_mm": 12}}))
    assert (overall(a), a.preliminary) == ([PR], True)
    a = assess(make_result(lesion("A", 20, 12)), entries({"A": {"status": "absent"}}))
    assert "contradict" in a.time_points[0].needs_review[0]


def test_merged_lesions_count_once_and_stay_merged():
    here = found(20)  # what the tracker says of a part of another lesion
    result = make_result(lesion("A", 30, 30, 20, gone()), lesion("B", 20, here, here, here))
    merged = {"A": {"diameter_mm": 45}, "B": {"status": "merged", "merged_into": "A"}}
    a = assess(result, entries(merged))
    assert sums(a) == [45, 20, 0]
    assert overall(a) == [SD, PR, CR]
    assert a.time_points[1].measurements[1].merged_into == "A"
    other = make_result(lesion("A", 30, 30), lesion("B", 9, 9, role=OTHER))
    with pytest.raises(InputError, match="enter B as merged into A instead"):
        assess(other, entries({"A": {"status": "merged", "merged_into": "B"}}))
    whole = {"A": {"diameter_mm": 45}, "B": {"status": "merged", "merged_into": "A"}}
    assert overall(assess(other, entries(whole))) == [PD]
    apart = assess(result, entries(merged, {"B": {"diameter_mm": 15}}))
    assert sums(apart) == [45, 35, 20]


def merged(into):
    return {"status": "merged", "merged_into": into}


def test_lesions_that_merged_into_each_other_are_refused():
    result = make_result(*(lesion(id_, 20, 20) for id_ in "ABC"))
    ring = {"A": merged("B"), "B": merged("C"), "C": merged("A")}
    for given in ({"A": merged("B"), "B": merged("A")}, ring):
        with pytest.raises(InputError, match=r"follow-up 1: A, B.* merged into each other"):
            assess(result, entries(given))
    chain = assess(result, entries({"A": merged("B"), "B": merged("C"), "C": {"diameter_mm": 70}}))
    assert sums(chain) == [70]


def test_the_later_word_says_which_lesion_counts_for_the_whole():
    """Merged into A, and then A into it: one of them counts, and no complete response is made."""
    result = make_result(lesion("A", 20, 45, 45), lesion("B", 20, found(20), found(45)))
    first = {"A": {"diameter_mm": 45}, "B": merged("A")}
    a = assess(result, entries(first, {"A": merged("B"), "B": {"diameter_mm": 45}}))
    assert (sums(a), overall(a)) == ([45, 45], [SD, SD])
    assert not a.preliminary
    a = assess(result, entries(first, {"A": merged("B")}))
    assert (sums(a), a.time_points[1].preliminary) == ([45, 45], True)
    assert "now a part of it; measure the whole" in a.time_points[1].needs_review[0]


def test_what_has_merged_counts_again_once_a_reader_finds_it_by_itself():
    apart = found(20, review="accepted")
    result = make_result(lesion("A", 20, 30, 20), lesion("B", 20, found(20), apart))
    a = assess(result, entries({"B": merged("A")}))
    assert sums(a) == [30, 40]
    (need,) = a.time_points[1].needs_review
    assert "was a part of A, and the review (accepted) has it by itself" in need
    said = assess(result, entries({"B": merged("A")}, {"B": {"status": "present"}}))
    assert (sums(said), said.preliminary) == ([30, 40], False)
    for other in (found(20), found(20, review="rejected")):
        still = make_result(lesion("A", 20, 30, 30), lesion("B", 20, found(20), other))
        assert sums(assess(still, entries({"B": merged("A")}))) == [30, 30]


def test_what_has_merged_goes_with_its_whole():
    unseen = found(status="outside_fov")
    a = assess(
        make_result(
            lesion("A", 20, 30, unseen, gone()), lesion("B", 9, *[found(9)] * 3, role=OTHER)
        ),
        entries({"B": merged("A")}),
    )
    assert [p.non_target.response for p in a.time_points] == [NON, NE, CR]
    assert overall(a)[2] is CR


@pytest.mark.parametrize("role", [OTHER, Role.TARGET])
def test_what_has_merged_into_a_node_goes_with_it(role):
    """A normal node is no disease, nor is what has become a part of it."""
    node = lesion("N", 16, found(15, 8), found(15), nodal=True, role=role)
    part = lesion("B", 9, found(9), found(9), role=OTHER)
    result = make_result(lesion("A", 20, gone(), gone()), node, part)
    a = assess(result, entries({"B": merged("N")}, {}))
    assert [p.non_target.response for p in a.time_points] == [CR, NE]
    assert overall(a)[0] is CR


# A lesion that comes back


def test_a_lesion_that_is_back_after_a_partial_response_is_added_to_the_sum():
    a = assess(make_result(lesion("A", 30, gone(), 4), lesion("B", 30, 20, 20)))
    assert sums(a) == [20, 24]
    assert overall(a) == [PR, PR]  # 20 % up, but 4 mm


def test_any_lesion_that_is_back_after_a_complete_response_is_progression():
    a = assess(make_result(lesion("A", 30, gone(), 3)))
    assert overall(a) == [CR, PD]
    point = a.time_points[1]
    assert point.target.response is PR  # 3 mm: less than 5 mm up, far below baseline
    assert point.overall.rule is rules.REAPPEARED
    assert "CR at follow-up 1, there again: A" in point.overall.because
    assert not point.preliminary
    other = make_result(lesion("A", 30, gone(), gone()), lesion("B", 9, gone(), 9, role=OTHER))
    assert overall(assess(other)) == [CR, PD]


def test_only_nodes_that_are_back_should_be_imaged_again():
    a = assess(make_result(lesion("A", 30, gone(), gone()), lesion("N", 16, 9, 10.5, nodal=True)))
    assert overall(a) == [CR, PD]
    assert a.time_points[1].preliminary
    still = assess(make_result(lesion("N", 16, 9, 9.9, nodal=True)))
    assert overall(still) == [CR, CR]


@pytest.mark.parametrize("match", [found(), found(review="accepted"), found(20, review="accepted")])
def test_a_node_without_a_short_axis_is_not_known_to_be_back(match):
    target = make_result(lesion("A", 30, gone(), gone()), lesion("N", 16, 9, match, nodal=True))
    other = make_result(
        lesion("A", 30, gone(), gone()), lesion("N", 12, 9, match, nodal=True, role=OTHER)
    )
    for result, response in ((target, NE), (other, PR)):
        point = assess(result).time_points[1]
        assert (point.overall.response, point.preliminary) == (response, True)
        assert point.needs_review == ("N: no short axis; measure it",)
    said = assess(other, entries({}, {"N": {"status": "present"}}))
    assert overall(said) == [CR, PD]


@pytest.mark.parametrize("role", [Role.TARGET, OTHER])
def test_a_node_in_parts_is_normal_when_each_part_is(role):
    result = make_result(lesion("N", 16, 12, nodal=True, role=role))
    assert overall(assess(result, entries({"N": {"parts_mm": [6, 6]}}))) == [CR]
    assert overall(assess(result, entries({"N": {"parts_mm": [6, 10]}}))) != [CR]


@pytest.mark.parametrize(
    ("match", "words"),
    [
        (found(35, 30), "is not now (short axis 30.0 mm); give it the role non-target, or"),
        (found(20, 10, review="accepted"), "is not now (short axis 10.0 mm)"),
        (found(19), "has grown (long axis 19.0 mm); measure its short axis"),
        (found(15, 9.9), ""),
        (found(18.9), ""),  # 14 mm at baseline: within 5 mm
        (found(status="not_found"), ""),  # a normal node is not followed
    ],
)
def test_a_normal_node_that_has_grown_is_asked_about(match, words):
    result = make_result(lesion("A", 30, 30), lesion("N", 9, match, nodal=True, role=OPEN))
    a = assess(result)
    point = a.time_points[0]
    assert (overall(a), point.preliminary, a.preliminary) == ([SD], bool(words), bool(words))
    assert [words in need for need in point.needs_review] == [True] * bool(words)
    assert not assess(result, entries({"N": {"status": "present"}})).preliminary  # it was judged
    new = {"new_lesions": [{"id": "X", "certainty": "unequivocal"}]}
    assert (overall(assess(result, entries(new))), assess(result, entries(new)).preliminary) == (
        *([PD], False),
    )


def test_unequivocal_progression_of_a_target_is_asked_about():
    result = make_result(lesion("A", 20, 20))
    for finding, response in (({}, NE), ({"diameter_mm": 21}, SD)):
        a = assess(result, entries({"A": {"status": "unequivocal_progression", **finding}}))
        assert (overall(a), a.preliminary) == ([response], True)
        assert "enter the diameter of this target" in a.time_points[0].needs_review[0]
    normal = make_result(lesion("A", 20, 20), lesion("N", 9, 9, nodal=True, role=OPEN))
    a = assess(normal, entries({"N": {"status": "unequivocal_progression"}}))
    assert "N: was a normal node, and has progressed" in a.time_points[0].needs_review[0]


def test_the_tracker_alone_does_not_bring_a_lesion_back():
    a = assess(make_result(lesion("A", 30, gone(), found(12), found(12, review="accepted"))))
    assert overall(a) == [CR, NE, PD]
    assert a.time_points[1].measurements[0].state is State.UNCONFIRMED
    assert a.time_points[1].preliminary
    unseen = found(status="outside_fov")
    for between in (found(12), unseen):
        later = assess(make_result(lesion("A", 30, gone(), between, found(12))))
        assert overall(later) == [CR, NE, NE]


# Non-targets and new lesions


@pytest.mark.parametrize(
    ("match", "finding", "expected"),
    [
        (found(8, review="accepted"), None, Presence.PRESENT),
        (found(), None, Presence.PRESENT),
        (gone(), None, Presence.ABSENT),
        (found(status="not_found"), None, Presence.NOT_EVALUABLE),
        (found(status="outside_fov"), None, Presence.NOT_EVALUABLE),
        (found(review="rejected"), None, Presence.NOT_EVALUABLE),
        (found(), {"status": "unequivocal_progression"}, Presence.PROGRESSION),
        (found(), {"status": "absent"}, Presence.ABSENT),
        (found(), {"status": "too_small"}, Presence.PRESENT),
        (gone(), {"status": "not_evaluable"}, Presence.NOT_EVALUABLE),
    ],
)
def test_what_becomes_of_a_non_target(match, finding, expected):
    result = make_result(lesion("B", 9, match, role=OTHER))
    a = assess(result, entries({"B": finding}) if finding else None)
    assert presence(a.time_points[0].measurements[0], nodal=False) is expected
    outcome = {
        Presence.PRESENT: NON,
        Presence.ABSENT: CR,
        Presence.NOT_EVALUABLE: NE,
        Presence.PROGRESSION: PD,
    }
    assert overall(a) == [outcome[expected]]


def test_a_non_target_node_is_gone_below_10_mm():
    a = assess(make_result(lesion("N", 12, 10, 9.9, nodal=True, role=OTHER)))
    assert overall(a) == [NON, CR]


def test_non_targets_hold_back_a_complete_response():
    a = assess(make_result(lesion("A", 20, gone()), lesion("B", 9, 9, role=OTHER)))
    point = a.time_points[0]
    assert (point.target.response, point.non_target.response) == (CR, NON)
    assert point.overall.response is PR


def test_a_patient_without_lesions_has_no_response_but_new_ones():
    healthy = make_result(lesion("N", 8, 8, 8, nodal=True, role=OPEN))
    new = {"new_lesions": [{"id": "X", "certainty": "unequivocal"}]}
    a = assess(healthy, entries({}, new))
    assert overall(a) == [ND, PD]
    assert (a.best.response, a.progression) == (PD, 2)


def test_a_new_lesion_is_progression_and_stays():
    result = make_result(lesion("A", 30, 15, 10, 10))
    new = {"new_lesions": [{"id": "X", "site": "bone", "certainty": "unequivocal"}]}
    a = assess(result, entries({}, new))
    assert overall(a) == [PR, PD, PD]
    assert a.time_points[1].overall.rule is rules.NEW
    taken_back = {"new_lesions": [{"id": "X", "certainty": "absent"}]}
    assert overall(assess(result, entries({}, new, taken_back))) == [PR, PD, PR]


def test_an_equivocal_lesion_changes_nothing_until_it_is_certain_and_is_then_dated_back():
    result = make_result(lesion("A", 30, 15, 10, 10))
    maybe = {"new_lesions": [{"id": "X", "certainty": "equivocal"}]}
    sure = {"new_lesions": [{"id": "X", "certainty": "unequivocal"}]}
    none = {"new_lesions": [{"id": "X", "certainty": "absent"}]}
    assert overall(assess(result, entries({}, maybe))) == [PR, PR, PR]
    dated = assess(result, entries({}, maybe, sure))
    assert overall(dated) == [PR, PD, PD]
    assert dated.time_points[1].overall.rule is rules.NEW_CONFIRMED
    assert dated.progression == 2
    refuted = assess(result, entries(maybe, none, sure))
    assert overall(refuted) == [PR, PR, PD]  # the later one is another finding


def test_a_readers_progression_is_not_preliminary_for_what_cannot_change_it():
    lost = found(status="not_found")
    new = {"new_lesions": [{"id": "X", "certainty": "unequivocal"}]}
    a = assess(make_result(lesion("A", 30, lost)), entries(new))
    assert overall(a) == [PD]
    assert a.time_points[0].needs_review
    assert not a.preliminary


# Roles


def test_targets_are_proposed_by_the_rule_and_said_to_be():
    a = assess(
        make_result(
            lesion("big1", 40, 40, role=OPEN, site="liver, segment 7"),
            lesion("big2", 39, 39, role=OPEN, site="Liver (dome)"),
            lesion("big3", 38, 38, role=OPEN, site="liver"),
            lesion("lung1", 10, 10, role=OPEN, site="left lung"),
            lesion("lung2", 9.9, 9.9, role=OPEN, site="right lung"),
            lesion("node15", 15, 15, role=OPEN, site="axilla", nodal=True),
            lesion("node14", 14.9, 14, role=OPEN, site="neck", nodal=True),
            lesion("node9", 9.9, 9, role=OPEN, site="neck", nodal=True),
        )
    )
    target = {id_ for id_, part in parts(a).items() if part is Part.TARGET}
    assert target == {"big1", "big2", "lung1", "node15"}
    assert parts(a)["node9"] is Part.NORMAL_NODE
    assert parts(a)["node14"] is Part.NON_TARGET
    assert a.targets_proposed
    assert "proposed by the rule, not chosen" in a.notices[0]
    assert {x.id: x.rule for x in a.lesions}["lung2"] is rules.MEASURABLE
    assert (
        "largest" in {x.id: x.because for x in a.lesions}["big3"]
        or "larger" in ({x.id: x.because for x in a.lesions}["big3"])
    )


def test_five_targets_at_most_the_surely_measured_ones_first():
    sizes = {"a": 30, "b": 29, "c": 28, "d": 27, "e": 26, "f": 25}
    several = [
        lesion(id_, size(mm, doubtful=id_ == "a"), mm, role=OPEN, site=f"site {id_}")
        for id_, mm in sizes.items()
    ]
    a = assess(make_result(*several))
    assert {x.id for x in a.of(Part.TARGET)} == set("bcdef")
    shuffled = list(several)
    Random(1).shuffle(shuffled)
    assert parts(assess(make_result(*shuffled))) == parts(a)


def test_unknown_sites_are_said():
    a = assess(make_result(*(lesion(id_, 20, 20, role=OPEN) for id_ in "ABC")))
    assert len(a.of(Part.TARGET)) == 3
    assert any("no site for A, B, C" in notice for notice in a.notices)


def test_thick_slices_need_larger_targets():
    def part(slice_mm, diameter):
        a = assess(make_result(lesion("A", diameter, 9, role=OPEN), slice_mm=slice_mm))
        return a.lesions[0].part

    assert part(5.0, 10) is Part.TARGET
    assert part(7.0, 13.9) is Part.NON_TARGET
    assert part(7.0, 14) is Part.TARGET


def test_chosen_targets_are_kept_and_departures_are_said():
    six = [lesion(f"T{n}", 20, 20, site="lung") for n in range(6)]
    a = assess(make_result(*six, lesion("N", 12, 12, nodal=True), lesion("O", 50, 50, role=OPEN)))
    assert len(a.of(Part.TARGET)) == 7
    assert not a.targets_proposed
    assert parts(a)["O"] is Part.NON_TARGET
    said = " ".join(a.notices)
    for words in ("at most five", "6 targets in lung", "target N has 12.0 mm"):
        assert words in said


def test_entries_give_roles_sites_nodes_and_baseline_sizes():
    result = make_result(
        lesion("A", 20, 20, role=OPEN), lesion("B", size(30, 16), found(30, 12), role=OPEN)
    )
    given = {"B": {"role": "target", "nodal": True, "site": "neck", "diameter_mm": 17}}
    a = assess(result, entries(lesions=given))
    assert parts(a) == {"B": Part.TARGET, "A": Part.NON_TARGET}
    assert (float(a.baseline_sum_mm), sums(a)) == (17, [12])


# Over time


def test_best_response_with_days_is_confirmed_and_without_said_not_to_be():
    result = make_result(lesion("A", 30, 15, 15, 30))
    without = assess(result)
    assert (without.best.response, without.confirmed) == (PR, None)
    assert any("without confirmation" in notice for notice in without.notices)
    days = assess(result, entries({"day": 56}, {"day": 84}, {"day": 112}))
    assert days.confirmed.response is PR
    assert days.progression == 3
    early = assess(result, entries({"day": 56}, {"day": 70}, {"day": 112}))
    assert early.confirmed.response is SD
    short = assess(result, entries({"day": 56}, {"day": 70}, {"day": 112}, confirmation_days=14))
    assert short.confirmed.response is PR


def test_days_come_from_dates():
    given = entries(
        {"date": "2025-03-01", "lesions": {}}, {"date": "2025-04-01", "lesions": {}},
        baseline_date="2025-01-01",
    )  # fmt: skip
    a = assess(make_result(lesion("A", 30, 15, 15)), given)
    assert [p.day for p in a.time_points] == [59, 90]


def test_diameters_that_nobody_has_seen_are_counted_out():
    a = assess(make_result(lesion("A", 30, found(20), 20, found(21))))
    assert any(notice.startswith("2 of 3 target diameters") for notice in a.notices)
    assert not a.preliminary


def test_the_order_of_the_lesions_changes_no_response():
    lesions = [
        lesion("A", 30, 10, found(status="not_found")),
        lesion("B", 18.3, gone(), 7.1),
        lesion("N", 16, 9, 11, nodal=True),
        lesion("C", 9, 9, gone(), role=OTHER),
    ]
    first = assess(make_result(*lesions))
    for seed in range(5):
        Random(seed).shuffle(lesions)
        again = assess(make_result(*lesions))
        for one, other in zip(first.time_points, again.time_points, strict=True):
            assert one.sums == other.sums
            assert (one.target, one.non_target, one.overall) == (
                other.target, other.non_target, other.overall,
            )  # fmt: skip
            assert set(one.needs_review) == set(other.needs_review)


# Entries of another study


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (entries(lesions={"Z": {"role": "target"}}), ("lesion Z", "A, B")),
        (entries({"Z": {"status": "absent"}}), ("follow-up 1", "lesion Z")),
        (entries({}, {"lesions": {}}), ("follow-up 2", "the result has 1")),
        (entries({"new_lesions": [{"id": "A", "certainty": "equivocal"}]}), ("new lesion A",)),
        (entries({"A": {"status": "merged", "merged_into": "A"}}), ("merged into A",)),
        (entries({"A": {"status": "merged", "merged_into": "Q"}}), ("merged into Q",)),
    ],
)
def test_entries_that_do_not_fit_the_result_are_refused(given, words):
    with pytest.raises(InputError) as caught:
        assess(make_result(lesion("A", 20, 20), lesion("B", 20, 20)), given)
    for word in words:
        assert word in str(caught.value)
