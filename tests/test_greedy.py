"""The tracker `greedy`, beyond what it shares with its siblings (`test_warp`)."""

from __future__ import annotations

import pytest
from test_warp import moved_pair

from tlt.errors import TltError
from tlt.systems.greedy import GreedySystem


def test_what_greedy_refuses_is_told_in_one_line() -> None:
    pair = moved_pair()
    with pytest.raises(TltError, match=r"greedy could not .* -bogus; take another") as caught:
        GreedySystem("-m NCC 2x2x2 -bogus 1").locate(pair)
    assert "\n" not in str(caught.value)
