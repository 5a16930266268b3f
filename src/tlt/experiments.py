"""Experiments: fixed benchmarks and the tables made of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tlt.confidence import Calibration, fit_calibration
from tlt.data.followup import StudyRange
from tlt.evaluate import Outcome, Report, evaluate, simulated_cases
from tlt.io.files import atomic_write
from tlt.metrics import Summary, summarise
from tlt.systems import TRACKERS
from tlt.track import Tracker, make_system

BENCHMARK_SEED, CALIBRATION_SEED = 2022, 7
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
    ranges = StudyRange(painted=8, structures=6)
    outcomes = evaluate(every_tracker(model), simulated_cases(data, pairs, seed, ranges), report)
    calibrations = {}
    for name, every in outcomes.items():
        rows = [(o.features, o.row.within_10mm) for o in every if o.features is not None]
        calibrations[name] = fit_calibration([f for f, _ in rows], [c for _, c in rows])
    return calibrations


def write_calibrations(calibrations: dict[str, Calibration], path: Path) -> None:
    """Store calibrations as the JSON that `tlt.confidence.load_calibration` reads."""
    content = {name: asdict(calibration) for name, calibration in calibrations.items()}
    atomic_write(path, json.dumps(content, indent=1, sort_keys=True) + "\n")


def write_rows(outcomes: dict[str, list[Outcome]], path: Path) -> None:
    """Store every row and its features as JSON: all figures can be computed from it again."""
    content = {
        name: [{**asdict(o.row), "features": o.features} for o in every]
        for name, every in outcomes.items()
    }
    atomic_write(path, json.dumps(content, indent=1) + "\n")


def markdown_table(outcomes: dict[str, list[Outcome]]) -> str:
    """One line a tracker with the DLS metrics, as Markdown."""
    head = (
        "| tracker | n | CPM@10mm % | CPM@Radius % | MED mm | median | p95 | X | Y | Z | s/lesion |"
    )
    lines = [head, "|" + " --- |" * 11]
    for name, every in outcomes.items():
        lines.append(_line(name, summarise([o.row for o in every])))
    return "\n".join(lines) + "\n"


def strata(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """The outcomes by kind of lesion and by size."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        row = outcome.row
        kind = row.kind if row.kind in ("painted", "structure") else "real lesion"
        size = "radius < 5 mm" if row.radius_mm < 5 else "radius >= 5 mm"
        for name in (kind, size):
            groups.setdefault(name, []).append(outcome)
    return dict(sorted(groups.items()))


def _line(name: str, s: Summary) -> str:
    return (
        f"| {name} | {s.n} | {s.cpm_10mm:.1f} | {s.cpm_radius:.1f} | "
        f"{s.med_mm:.2f} ± {s.med_std_mm:.2f} | {s.median_mm:.2f} | {s.p95_mm:.1f} | "
        f"{s.med_x_mm:.1f} | {s.med_y_mm:.1f} | {s.med_z_mm:.1f} | {s.seconds:.2f} |"
    )
