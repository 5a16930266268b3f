"""Experiments: fixed benchmarks and the tables made of them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from tlt.confidence import Calibration, fit_calibration
from tlt.data.followup import StudyRange
from tlt.evaluate import Outcome, Report, evaluate, simulated_cases
from tlt.io.files import atomic_write
from tlt.metrics import summarise
from tlt.scores import comparison_text, strata, table
from tlt.statistics import compare
from tlt.systems import TRACKERS
from tlt.track import Tracker, make_system

VANISHED_SHARE = 0.2  # of painted lesions, in the studies that the confidence is fitted on
UNCALIBRATED = Calibration({}, 0.0)


def benchmark(
    data: Path, pairs: int, seed: int, model: str | None, report: Report | None = None
) -> dict[str, list[Outcome]]:
    """Every tracker on the same simulated pairs, from the same prior."""
    return evaluate(every_tracker(model), simulated_cases(data, pairs, seed), report)


def every_tracker(model: str | None) -> list[Tracker]:
    """All trackers, not calibrated; the learned ones with the weights of ``model``."""
    trackers = []
    for name, info in reversed(TRACKERS.items()):
        system = make_system(name, model if info.learned else None, "cpu", "auto")
        trackers.append(Tracker(system, UNCALIBRATED))
    return trackers


def calibrate(
    data: Path, pairs: int, seed: int, model: str | None, report: Report | None = None
) -> dict[str, Calibration]:
    """The confidence of each tracker, fitted on simulated pairs where some lesions vanish."""
    ranges = StudyRange(painted=8, structures=6, vanish=VANISHED_SHARE)
    cases = simulated_cases(data, pairs, seed, ranges)
    outcomes = evaluate(every_tracker(model), cases, report, with_vanished=True)
    calibrations = {}
    for name, every in outcomes.items():
        rows = [
            (o.features, o.row.within_10mm and not o.vanished)
            for o in every
            if o.features is not None
        ]
        calibrations[name] = fit_calibration([f for f, _ in rows], [c for _, c in rows])
    return calibrations


def write_calibrations(calibrations: dict[str, Calibration], path: Path) -> None:
    """Store calibrations as the JSON that `tlt.confidence.load_calibration` reads."""
    content = {name: asdict(calibration) for name, calibration in calibrations.items()}
    atomic_write(path, json.dumps(content, indent=1, sort_keys=True) + "\n")


def tables(outcomes: dict[str, list[Outcome]]) -> str:
    """One table of all lesions and one for each stratum, a line a tracker, as Markdown."""
    rows = {name: [o.row for o in every] for name, every in outcomes.items()}
    groups = {name: strata(part) for name, part in rows.items()}
    text = table({name: summarise(part) for name, part in rows.items()})
    for stratum in next(iter(groups.values())):
        part = {name: summarise(group[stratum]) for name, group in groups.items()}
        text += f"\n{stratum}\n\n{table(part)}"
    return text


def comparisons(outcomes: dict[str, list[Outcome]], first: str = "tlt") -> str:
    """``first`` against every other tracker, paired, as Markdown lines."""
    rows = {name: [o.row for o in every] for name, every in outcomes.items()}
    others = [name for name in rows if name != first]
    return "".join(
        f"- {first} - {name}: {comparison_text(asdict(compare(rows[first], rows[name])))}\n"
        for name in others
    )
