"""Run trackers on studies with a known truth, and keep one row a lesion."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tlt.data.followup import SimulatedStudy, StudyRange, simulate_study
from tlt.io.images import ct_files, load_volume
from tlt.lesion import Lesion
from tlt.metrics import LesionRow
from tlt.registration.affine import register_affine
from tlt.track import Tracker
from tlt.volume import Volume

Report = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Outcome:
    """A row, and the features that its confidence was computed from (None out of view)."""

    row: LesionRow
    features: dict[str, float] | None


@dataclass(frozen=True, eq=False)
class Case:
    """A study with its name and its patient."""

    name: str
    patient: str
    study: SimulatedStudy


def simulated_cases(
    folder: Path, count: int, seed: int, ranges: StudyRange | None = None
) -> Iterator[Case]:
    """``count`` simulated studies of the CTs of a folder in turn, largest first; fixed by the seed.

    Raises:
        InputError: no CT in the folder.
    """
    volumes = read_cts(folder)
    known = known_lesions(folder)
    for index in range(count):
        patient, volume = volumes[index % len(volumes)]
        rng = np.random.default_rng((seed, index))
        study = simulate_study(volume, rng, known.get(patient, []), ranges)
        yield Case(f"{patient}-{index:02d}", patient, study)


def read_cts(folder: Path) -> list[tuple[str, Volume]]:
    """(patient, volume) of every CT of a folder, the largest first; label files are left out."""
    volumes = [(path.name.removesuffix(".nii.gz"), load_volume(path)) for path in ct_files(folder)]
    return sorted(volumes, key=lambda item: -float(np.prod(item[1].grid.extent_mm)))


def known_lesions(folder: Path) -> dict[str, list[Lesion]]:
    """Real lesions by CT, from ``lesions.csv`` in the folder or above it; empty without one."""
    places = [place / "lesions.csv" for place in (folder, folder.parent)]
    path = next((place for place in places if place.is_file()), None)
    lesions: dict[str, list[Lesion]] = {}
    if path is None:
        return lesions
    with path.open(newline="") as file:
        for line in csv.DictReader(file):
            center = (float(line["x"]), float(line["y"]), float(line["z"]))
            lesion = Lesion(line["lesion_id"], center, float(line["radius_mm"]), line["label"])
            lesions.setdefault(line["volume"], []).append(lesion)
    return lesions


def evaluate(
    trackers: Sequence[Tracker], cases: Iterable[Case], report: Report | None = None
) -> dict[str, list[Outcome]]:
    """Outcomes of each tracker by name, over the lesions that are in view and still there.

    All trackers of a case start from the same registration.
    """
    outcomes: dict[str, list[Outcome]] = {tracker.name: [] for tracker in trackers}
    for case in cases:
        study = case.study
        registration = register_affine(study.baseline, study.followup)
        for tracker in trackers:
            result = tracker.track_pair(
                study.baseline, study.followup, study.lesions, registration=registration
            )
            seconds = (result.seconds + registration.seconds) / len(study.lesions)
            for truth, match, features in zip(
                study.truth, result.matches, result.features, strict=True
            ):
                if not truth.in_view or truth.vanished:
                    continue
                row = LesionRow(
                    case.name,
                    truth.lesion.id,
                    case.patient,
                    truth.lesion.label,
                    truth.lesion.radius_mm,
                    truth.center_mm,
                    match.center_mm,
                    match.prior_center_mm,
                    match.confidence,
                    seconds,
                )
                outcomes[tracker.name].append(Outcome(row, features))
        if report is not None:
            report(_line(case, outcomes, registration.similarity))
    return outcomes


def _line(case: Case, outcomes: dict[str, list[Outcome]], similarity: float) -> str:
    """Mean error of each tracker in a case, for the log."""
    parts = [f"{case.name}: similarity {similarity:.2f}"]
    for name, every in outcomes.items():
        errors = [o.row.error_mm for o in every if o.row.pair == case.name]
        finite = [e for e in errors if np.isfinite(e)]
        parts.append(f"{name} {np.mean(finite) if finite else np.nan:.1f} mm")
    return ", ".join(parts) + f" (n={len(errors)})"
