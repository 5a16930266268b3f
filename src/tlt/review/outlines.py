"""What of a lesion is measured anew during a review: its size where a reader put it, its extent.

What the baseline teaches of a lesion is learnt when it is first asked for, and kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from threading import Lock

from tlt.errors import InputError
from tlt.geometry import Triple
from tlt.io.results import LesionResult, SizeFacts, size_facts
from tlt.lesion import Lesion, Match, Status
from tlt.review.told import lesion_of
from tlt.sizing import Known, measure, study_baseline
from tlt.volume import Volume

SAME_MM = 0.5  # an outline whose long axis differs by more is not that of the size that is told


class Outlines:
    """The outlines of the lesions of one study; for several threads."""

    def __init__(self, baseline: Callable[[], Volume]) -> None:
        """``baseline`` gives the image, or raises `InputError` where it cannot be read."""
        self._baseline = baseline
        self._known: dict[str, Known] = {}
        self._lock = Lock()

    def size(self, told: LesionResult, followup: Volume, center_mm: Triple) -> SizeFacts | None:
        """The size about an LPS centre that a reader set; None where it is left to the reader."""
        lesion = lesion_of(told)
        try:
            known = self._study(lesion)
        except InputError:
            return None  # without the baseline a lesion can still be moved
        placed = Match(lesion, Status.FOUND, center_mm, 1.0, center_mm)
        size = measure(placed, followup, known).size
        return None if size is None else size_facts(size)

    def with_extent(self, match: Match, followup: Volume) -> Match:
        """The match with its voxels, where its size is the program's own; else as it is."""
        if match.size is None or match.size.by_reader or match.center_mm is None:
            return match
        again = measure(match, followup, self._study(match.lesion))
        if again.size is None:
            return match
        off_mm = again.size.long_axis.length_mm - match.size.long_axis.length_mm
        return match if abs(off_mm) > SAME_MM else replace(match, extent=again.extent)

    def _study(self, lesion: Lesion) -> Known:
        baseline = self._baseline()
        with self._lock:
            if lesion.id not in self._known:
                self._known[lesion.id] = study_baseline(baseline, lesion)
            return self._known[lesion.id]
