"""Experiments: fixed benchmarks and the tables made of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from tlt.confidence import Calibration, fit_calibration
from tlt.errors import UsageError
from tlt.evaluate import Outcome, Report, Save, evaluate, simulated_cases
from tlt.io.files import atomic_write
from tlt.metrics import summarise
from tlt.scores import comparison_text, strata, table
from tlt.statistics import compare
from tlt.systems import TRACKERS, unknown_tracker
from tlt.track import Tracker, calibration_of, make_system

UNCALIBRATED = Calibration({}, 0.0)


def benchmark(
    trackers: Sequence[Tracker],
    data: Path,
    pairs: int,
    seed: int,
    report: Report | None = None,
    save: Save | None = None,
) -> dict[str, list[Outcome]]:
    """Trackers on the same simulated pairs, from the same prior."""
    return evaluate(trackers, simulated_cases(data, pairs, seed), report, save=save)


def chosen_trackers(names: Sequence[str], model: str | None, calibrated: bool) -> list[Tracker]:
    """Trackers by name, each once, with the weights of ``model``: a single one, or TLT of several.

    Raises:
        UsageError: a name that is none, or ``model`` is nobody's; ModelError: one that cannot be
            used.
    """
    names = list(dict.fromkeys(names))
    unknown = [name for name in names if name not in TRACKERS]
    if unknown:
        raise unknown_tracker(unknown[0])
    takers = [name for name in names if len(names) == 1 or "tlt" in TRACKERS[name].weights]
    if model is not None and not takers:
        raise UsageError(
            f"--model {model}: none of {', '.join(names)} takes it; give one --tracker at a time"
        )
    trackers = []
    for name in names:
        own = model if name in takers else None
        system = make_system(name, own, "cpu", "auto")
        trackers.append(Tracker(system, calibration_of(name, own) if calibrated else UNCALIBRATED))
    return trackers


def calibrate(
    trackers: Sequence[Tracker], data: Path, pairs: int, seed: int, report: Report | None = None
) -> dict[str, Calibration]:
    """The confidence of each tracker, fitted on simulated pairs in which no lesion vanishes."""
    outcomes = evaluate(trackers, simulated_cases(data, pairs, seed), report)
    calibrations = {}
    for name, every in outcomes.items():
        rows = [(o.features, o.row.within_10mm) for o in every if o.features is not None]
        calibrations[name] = fit_calibration([f for f, _ in rows], [c for _, c in rows])
    return calibrations


def write_calibrations(calibrations: dict[str, Calibration], path: Path) -> None:
    """Store calibrations as the JSON that `tlt.confidence.calibration_in` reads.

    Those of other trackers that stand in the file stay.
    """
    content = json.loads(path.read_text()) if path.exists() else {}
    content |= {name: asdict(calibration) for name, calibration in calibrations.items()}
    atomic_write(path, json.dumps(content, indent=1, sort_keys=True) + "\n")


def made_of(trackers: Sequence[Tracker], data: Path, pairs: int, seed: int) -> str:
    """What a benchmark is made of, in a line: data, pairs, seed, version, weights."""
    weights = [f"{t.name} {t.weights_sha256[:12]}" for t in trackers if t.weights_sha256]
    return (
        f"{data.resolve().name}: {pairs} pairs, seed {seed}; "
        f"tlt {version('transformer-lesion-tracker')}; weights: {', '.join(weights) or 'none'}\n"
    )


def tables(outcomes: dict[str, list[Outcome]]) -> str:
    """One table of all lesions and one for each stratum, a line a tracker, as Markdown."""
    rows = {name: [o.row for o in every] for name, every in outcomes.items()}
    groups = {name: strata(part) for name, part in rows.items()}
    text = table({name: summarise(part) for name, part in rows.items()})
    for stratum in dict.fromkeys(name for own in groups.values() for name in own):
        part = {name: summarise(own[stratum]) for name, own in groups.items() if stratum in own}
        text += f"\n{stratum}\n\n{table(part)}"
    return text


def comparisons(outcomes: dict[str, list[Outcome]]) -> str:
    """``tlt``, or else the last tracker, against every other one, paired, as Markdown lines."""
    rows = {name: [o.row for o in every] for name, every in outcomes.items()}
    first = "tlt" if "tlt" in rows else list(rows)[-1]
    others = [name for name in rows if name != first]
    return "".join(
        f"- {first} - {name}: {comparison_text(asdict(compare(rows[first], rows[name])))}\n"
        for name in others
    )
