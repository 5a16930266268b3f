"""Sizes and extents that a review measures anew: a ball's own, where a reader put it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from reviewed import LESIONS, make_folder, truth_mm

from tlt.errors import InputError
from tlt.io.results import read_json
from tlt.lesion import Match, Status
from tlt.review.outlines import Outlines
from tlt.review.service import Review
from tlt.review.state import Draft, Kind
from tlt.sizing import measure, study_baseline

BALL = LESIONS[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path)


def with_outlines(folder: Path) -> Review:
    """A review as the command opens it."""
    outlines = Outlines(lambda: opened.shelf.stack(0).volume)
    opened = Review(folder, measure=outlines.size)
    opened.shelf.stack(1)
    return opened


def test_a_moved_lesion_has_axes_through_its_new_place(folder):
    review = with_outlines(folder)
    review.decide(Draft(Kind.MOVED, "L2", 1, truth_mm("L2")), "Ann", 0, "request-1")
    review.close()
    found = read_json(folder / "result.json").lesions[1].followups[0]
    assert found.size.long_mm == pytest.approx(2 * BALL.radius_mm, abs=2.0)
    middle = [(a + b) / 2 for a, b in zip(*found.size.long_axis, strict=True)]
    assert math.dist(middle, truth_mm("L2")) < 4.0  # the slices are 3 mm apart
    assert not found.size.by_reader


def test_a_place_without_a_border_is_left_to_the_reader(folder):
    review = with_outlines(folder)
    x, y, z = truth_mm("L2")
    review.decide(Draft(Kind.MOVED, "L2", 1, (x - 35.0, y - 35.0, z)), "Ann", 0, "request-1")
    found = review.result().lesions[1].followups[0]
    review.close()
    assert (found.size, found.radius_mm) == (None, None)
    assert "to be measured again" in found.size_note


def test_without_the_baseline_a_lesion_is_moved_and_left_to_the_reader(folder, tmp_path):
    (tmp_path / "bl.nii.gz").unlink()
    review = with_outlines(folder)
    with pytest.raises(InputError):
        review.shelf.stack(0)
    review.decide(Draft(Kind.MOVED, "L2", 1, truth_mm("L2")), "Ann", 0, "request-1")
    found = review.result().lesions[1].followups[0]
    review.close()
    assert found.center_mm == truth_mm("L2")
    assert found.size is None


def test_the_extent_comes_with_the_size_that_is_told_and_with_no_other(folder):
    review = with_outlines(folder)
    baseline, followup = (review.shelf.stack(number).volume for number in (0, 1))
    center = truth_mm("L2")
    placed = Match(BALL, Status.FOUND, center, 1.0, center)
    sized = measure(placed, followup, study_baseline(baseline, BALL))
    bare = replace(sized, extent=None)
    outlines = Outlines(lambda: baseline)
    again = outlines.with_extent(bare, followup).extent
    assert (again.voxels == sized.extent.voxels).all()
    assert again.grid == sized.extent.grid
    by_reader = replace(bare, size=replace(bare.size, by_reader=True))
    long_axis = bare.size.long_axis
    longer = replace(long_axis, end_mm=tuple(v + 3.0 for v in long_axis.end_mm))
    other = replace(bare, size=replace(bare.size, long_axis=longer))
    for kept in (by_reader, other, placed):
        assert outlines.with_extent(kept, followup).extent is None
    review.close()
