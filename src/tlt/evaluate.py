"""Run trackers on studies with a known truth, and keep one row a lesion."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tlt.data.dls import DLSPair, dls_row
from tlt.data.followup import Study, StudyRange, Truth, simulate_study
from tlt.data.marked import dls_groups, dls_study, folder_study, pair_folders
from tlt.errors import InputError, TltError
from tlt.io.images import ct_files, load_volume
from tlt.lesion import Lesion, Match
from tlt.metrics import LesionRow
from tlt.registration.result import Registration
from tlt.track import Tracker, register_pair
from tlt.volume import Volume


@dataclass(frozen=True, eq=False)
class Outcome:
    """A row, and the features that its confidence was computed from (None without an answer)."""

    row: LesionRow
    features: dict[str, float] | None


Report = Callable[[str], None]
Save = Callable[[dict[str, list[Outcome]]], None]


@dataclass(frozen=True, eq=False)
class Case:
    """A study with its name and its patient."""

    name: str
    patient: str
    study: Study


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
    trackers: Sequence[Tracker],
    cases: Iterable[Case],
    report: Report | None = None,
    save: Save | None = None,
) -> dict[str, list[Outcome]]:
    """Outcomes of each tracker by name, over the lesions that are in view and still there.

    All trackers of a case start from the same registration. A pair that is refused is a miss.
    ``report`` gets a line, and ``save`` all outcomes so far, after each case.
    """
    outcomes: dict[str, list[Outcome]] = {tracker.name: [] for tracker in trackers}
    for case in cases:
        study = case.study
        try:
            registration = register_pair(study.baseline, study.followup)
        except TltError as error:
            registration, line = None, f"{case.name}: {error}"
        for tracker in trackers:
            found = track_study(tracker, case, registration)
            outcomes[tracker.name] += [
                outcome
                for outcome, truth in zip(found, study.truth, strict=True)
                if truth.in_view and not truth.vanished
            ]
        if registration is not None:
            line = _line(case, outcomes, registration.similarity)
        if report is not None:
            report(line)
        if save is not None:
            save(outcomes)
    return outcomes


def track_study(tracker: Tracker, case: Case, registration: Registration | None) -> list[Outcome]:
    """One outcome for each lesion of a study, in their order; misses without a registration."""
    study = case.study
    if registration is None:
        return [Outcome(_row(case, truth, None, math.nan), None) for truth in study.truth]
    result = tracker.track_pair(
        study.baseline, study.followup, study.lesions, registration=registration
    )
    seconds = (result.seconds + registration.seconds) / len(study.lesions)
    return [
        Outcome(_row(case, truth, match, seconds), features)
        for truth, match, features in zip(study.truth, result.matches, result.features, strict=True)
    ]


def _row(case: Case, truth: Truth, match: Match | None, seconds: float) -> LesionRow:
    """The row of a lesion; without a match, its pair could not be tracked."""
    return LesionRow(
        pair=case.name,
        lesion=truth.lesion.id,
        patient=case.patient,
        kind=truth.lesion.label,
        radius_mm=truth.lesion.radius_mm,
        truth_mm=truth.center_mm,
        found_mm=None if match is None else match.center_mm,
        prior_mm=None if match is None else match.prior_center_mm,
        confidence=0.0 if match is None else match.confidence,
        seconds=seconds,
        slice_mm=case.study.followup.grid.spacing_mm[2],
    )


def folder_cases(folder: Path) -> Iterator[Case]:
    """The pairs of a folder of folders, each as ``tlt simulate`` writes it.

    A lesion without a row in truth.csv is not scored, one with a row is judged by its radius in the
    baseline. The patient is the part of the folder's name before ``--``, or the whole.

    Raises:
        InputError: no pair with a truth, or one that cannot be read.
    """
    found = False
    for place in pair_folders(folder):
        study = folder_study(place)
        if study.truth:
            found = True
            yield Case(place.name, place.name.split("--")[0], study)
    if not found:
        raise InputError(f"{folder}: no lesion of lesions.csv stands in truth.csv; compare the ids")


def evaluate_dls(
    tracker: Tracker,
    pairs: Sequence[DLSPair],
    images: Path,
    report: Report | None = None,
    save: Save | None = None,
) -> list[Outcome]:
    """Outcomes on pairs of DLS, as `tlt.data.dls` reads them; ``images`` holds the sub-volumes.

    A pair whose tracking fails, or whose image cannot be read, is a miss and is reported.

    Raises:
        InputError: none of the images is there.
    """
    outcomes: dict[str, Outcome] = {}
    for group in dls_groups(pairs, images):
        source, target = group[0].source.volume, group[0].target.volume
        try:
            found = _track_dls(tracker, group, images)
        except TltError as error:
            found = [Outcome(dls_row(pair, None, 0.0, math.nan, None), None) for pair in group]
            if report is not None:
                report(f"{source} -> {target}: {error}")
        outcomes |= {pair.name: o for pair, o in zip(group, found, strict=True)}
        if report is not None:
            errors = ", ".join(f"{o.row.error_mm:.1f}" for o in found)
            report(f"{len(outcomes)} of {len(pairs)}: {source} -> {target}: {errors} mm")
        if save is not None:
            save({tracker.name: list(outcomes.values())})
    return [outcomes[pair.name] for pair in pairs]


def _track_dls(tracker: Tracker, group: Sequence[DLSPair], images: Path) -> list[Outcome]:
    """The lesions of one pair of sub-volumes, tracked together."""
    study = dls_study(group, images)
    result = tracker.track_pair(study.baseline, study.followup, study.lesions)
    seconds = result.seconds / len(group)
    return [
        Outcome(
            dls_row(pair, match.center_mm, match.confidence, seconds, match.prior_center_mm),
            features,
        )
        for pair, match, features in zip(group, result.matches, result.features, strict=True)
    ]


def _line(case: Case, outcomes: dict[str, list[Outcome]], similarity: float) -> str:
    """Mean error of each tracker in a case, for the log."""
    parts = [f"{case.name}: similarity {similarity:.2f}"]
    for name, every in outcomes.items():
        errors = [o.row.error_mm for o in every if o.row.pair == case.name]
        finite = [e for e in errors if np.isfinite(e)]
        parts.append(f"{name} {np.mean(finite) if finite else np.nan:.1f} mm")
    return ", ".join(parts) + f" (n={len(errors)})"
