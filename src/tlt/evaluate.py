"""Run trackers on studies with a known truth, and keep one row a lesion."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tlt.data.dls import DLSPair, dls_row, read_dls
from tlt.data.followup import Study, StudyRange, Truth, simulate_study
from tlt.data.known import known_lesions
from tlt.data.marked import (
    dls_groups,
    dls_study,
    folder_study,
    has_pairs,
    pair_folders,
    pair_patient,
)
from tlt.errors import InputError, ModelError, TltError, UsageError
from tlt.io.images import ct_files, ct_name, load_volume
from tlt.lesion import Match
from tlt.metrics import LesionRow
from tlt.registration.result import Registration
from tlt.track import PairResult, Tracker, register_pair
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


def evaluate_data(
    trackers: Sequence[Tracker],
    data: Path,
    images: Path | None = None,
    simulated: tuple[int, int] | None = None,
    report: Report | None = None,
    save: Save | None = None,
) -> dict[str, list[Outcome]]:
    """Outcomes of each tracker by name, on whatever ``data`` is.

    A file is a list of DLS, whose sub-volumes lie in ``images``; a folder holds pairs as
    ``tlt simulate`` writes them or, where ``simulated`` (number of pairs, seed) is given and it
    holds none, CTs to simulate from.

    Raises:
        InputError: nothing usable is there; UsageError: a list of DLS without ``images``.
    """
    listed = check_data(data, images, simulated is not None)
    if images is not None:
        return evaluate_dls(trackers, listed, images, report, save)
    if simulated is None or has_pairs(data):
        return evaluate(trackers, folder_cases(data), report, save)
    return evaluate(trackers, simulated_cases(data, *simulated), report, save)


def check_data(data: Path, images: Path | None, simulate: bool) -> list[DLSPair]:
    """The pairs of ``data`` where it is a list of DLS, none otherwise.

    Raises what `evaluate_data` would at once, for a command that has hours of work before it.
    """
    if not data.exists():
        raise InputError(f"{data}: no such file or folder; check the path")
    if images is not None:
        listed = read_dls(data)
        dls_groups(listed, images)
        return listed
    if data.is_file():
        raise UsageError("--images FOLDER: a list of DLS needs the folder of its sub-volumes")
    if data.is_dir() and simulate and not has_pairs(data):
        ct_files(data)
    return []


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
    volumes = [(ct_name(path), load_volume(path)) for path in ct_files(folder)]
    return sorted(volumes, key=lambda item: -float(np.prod(item[1].grid.extent_mm)))


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
            found = track_study(tracker, case, registration, report)
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


def track_study(
    tracker: Tracker, case: Case, registration: Registration | None, report: Report | None = None
) -> list[Outcome]:
    """One outcome for each lesion of a study, in their order; misses where tracking fails."""
    study = case.study
    result = _result(tracker, study, registration, report)
    if registration is None or result is None:
        return [Outcome(_row(case, truth, None, math.nan), None) for truth in study.truth]
    seconds = (result.seconds + registration.seconds) / len(study.lesions)
    return [
        Outcome(_row(case, truth, match, seconds), features)
        for truth, match, features in zip(study.truth, result.matches, result.features, strict=True)
    ]


def _result(
    tracker: Tracker, study: Study, registration: Registration | None, report: Report | None
) -> PairResult | None:
    """What a tracker says of a study; None, and a line in the report, when it fails on it.

    Raises:
        ModelError: the tracker cannot be used at all.
    """
    if registration is None:
        return None
    try:
        return tracker.track_pair(
            study.baseline, study.followup, study.lesions, registration=registration
        )
    except ModelError:
        raise
    except TltError as error:
        if report is not None:
            report(f"{tracker.name}: {error}")
        return None


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
    baseline. The patient is that of `tlt.data.marked.pair_patient`.

    Raises:
        InputError: no pair with a truth, or one that cannot be read.
    """
    found = False
    for place in pair_folders(folder):
        study = folder_study(place)
        if study.truth:
            found = True
            yield Case(place.resolve().name, pair_patient(place), study)
    if not found:
        raise InputError(f"{folder}: no lesion of lesions.csv stands in truth.csv; compare the ids")


def evaluate_dls(
    trackers: Sequence[Tracker],
    pairs: Sequence[DLSPair],
    images: Path,
    report: Report | None = None,
    save: Save | None = None,
) -> dict[str, list[Outcome]]:
    """Outcomes of each tracker by name, on pairs of DLS as `tlt.data.dls` reads them.

    ``images`` holds the sub-volumes. All trackers start from the same registration. A pair whose
    tracking fails, or whose image cannot be read, is a miss and is reported.

    Raises:
        InputError: none of the images is there.
    """
    outcomes: dict[str, dict[str, Outcome]] = {tracker.name: {} for tracker in trackers}
    for group in dls_groups(pairs, images):
        source, target = group[0].source.volume, group[0].target.volume
        try:
            study = dls_study(group, images)
            registration = register_pair(study.baseline, study.followup)
        except TltError as error:
            found = [_missed(group) for _ in trackers]
            if report is not None:
                report(f"{source} -> {target}: {error}")
        else:
            found = [_track_dls(t, group, study, registration, report) for t in trackers]
        for tracker, part in zip(trackers, found, strict=True):
            done = outcomes[tracker.name]
            done |= {pair.name: o for pair, o in zip(group, part, strict=True)}
            if report is not None:
                errors = ", ".join(f"{o.row.error_mm:.1f}" for o in part)
                named = f"{tracker.name}: " if len(trackers) > 1 else ""
                report(f"{len(done)} of {len(pairs)}: {source} -> {target}: {named}{errors} mm")
        if save is not None:
            save({name: list(done.values()) for name, done in outcomes.items()})
    return {name: [done[pair.name] for pair in pairs] for name, done in outcomes.items()}


def _track_dls(
    tracker: Tracker,
    group: Sequence[DLSPair],
    study: Study,
    registration: Registration,
    report: Report | None,
) -> list[Outcome]:
    """The lesions of one pair of sub-volumes, tracked together."""
    result = _result(tracker, study, registration, report)
    if result is None:
        return _missed(group)
    seconds = (registration.seconds + result.seconds) / len(group)
    rows = zip(group, result.matches, result.features, strict=True)
    return [Outcome(_dls_row(pair, match, seconds), f) for pair, match, f in rows]


def _missed(group: Sequence[DLSPair]) -> list[Outcome]:
    return [Outcome(dls_row(pair, None, 0.0, math.nan, None), None) for pair in group]


def _dls_row(pair: DLSPair, match: Match, seconds: float) -> LesionRow:
    return dls_row(pair, match.center_mm, match.confidence, seconds, match.prior_center_mm)


def _line(case: Case, outcomes: dict[str, list[Outcome]], similarity: float) -> str:
    """Mean error of each tracker in a case, for the log."""
    parts = [f"{case.name}: similarity {similarity:.2f}"]
    for name, every in outcomes.items():
        errors = [o.row.error_mm for o in every if o.row.pair == case.name]
        finite = [e for e in errors if np.isfinite(e)]
        parts.append(f"{name} {np.mean(finite) if finite else np.nan:.1f} mm")
    return ", ".join(parts) + f" (n={len(errors)})"
