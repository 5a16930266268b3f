"""What is said of lesions that are gone: ``python benchmarks/vanished.py CTS``, as JSON."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

from tlt.data.followup import StudyRange
from tlt.errors import InputError
from tlt.evaluate import simulated_cases
from tlt.track import Tracker

EVERY_ONE_GONE = StudyRange(painted=8, structures=0, vanish=1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cts", type=Path)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=11)
    given = parser.parse_args()
    tracker = Tracker.load("tlt", device="cpu")
    said: Counter[str] = Counter()
    for case in simulated_cases(given.cts, given.pairs, given.seed, EVERY_ONE_GONE):
        study = case.study
        try:
            matches = tracker.track_pair(study.baseline, study.followup, study.lesions).matches
        except InputError:
            said["pair refused"] += 1
            continue
        for match, truth in zip(matches, study.truth, strict=True):
            if truth.vanished and truth.in_view:
                said[match.status.value] += 1
    print(json.dumps(said))


if __name__ == "__main__":
    main()
