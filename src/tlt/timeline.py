"""Tracking to several follow-ups: each time point starts from the last one that was found.

A lesion changes less from one visit to the next than from the first visit to the last, so a lesion
that was found in a follow-up is looked for in the next one from there, and not from the baseline.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tlt.errors import InputError
from tlt.geometry import AffineTransform
from tlt.lesion import Lesion, Match, Status
from tlt.volume import Volume

if TYPE_CHECKING:
    from tlt.track import PairResult, Tracker

Progress = Callable[[str, float], None]
Measure = Callable[[Match, Volume], Match]


def in_time_order(baseline: Volume, followups: Sequence[Volume]) -> list[Volume]:
    """The follow-ups nearest in time to the baseline first; as given if a date is missing.

    A baseline without a date counts as the earliest image.
    """
    days = [day_of(volume) for volume in followups]
    if any(day is None for day in days):
        return list(followups)
    start = day_of(baseline)
    distance = [abs(day - start) if start is not None else day for day in days if day is not None]
    order = sorted(range(len(followups)), key=distance.__getitem__)
    return [followups[index] for index in order]


def track_over_time(
    tracker: Tracker,
    baseline: Volume,
    followups: Sequence[Volume],
    lesions: Sequence[Lesion],
    progress: Progress | None = None,
    measure: Measure | None = None,
) -> list[PairResult]:
    """What was found in each follow-up, in the order given; matches in the order of the lesions.

    ``measure`` adds the size to a match; the next follow-up starts from it if it is not doubtful.

    Raises:
        InputError: one of them cannot be tracked; the message names it.
    """
    templates = {lesion.id: (baseline, lesion) for lesion in lesions}
    from_baseline = {id(baseline): AffineTransform.identity()}
    pairs: list[PairResult] = []
    for number, followup in enumerate(followups, 1):
        stages = _numbered(progress, number, pairs)
        try:
            pair = _track_to(tracker, followup, lesions, templates, from_baseline, stages)
        except InputError as error:
            name = Path(followup.path).name if followup.path else ""
            raise InputError(f"follow-up {number} {name}".rstrip() + f": {error}") from error
        if measure is not None:
            pair = _measured(pair, followup, measure, stages)
        for match in pair.matches:
            if match.status is Status.FOUND:
                templates[match.lesion.id] = (followup, _as_template(match))
        from_baseline[id(followup)] = pair.registration.baseline_to_followup
        pairs.append(pair)
    return pairs


def _track_to(
    tracker: Tracker,
    followup: Volume,
    lesions: Sequence[Lesion],
    templates: dict[str, tuple[Volume, Lesion]],
    from_baseline: dict[int, AffineTransform],
    progress: Progress | None,
) -> PairResult:
    """One follow-up: a call of the tracker for each image that lesions start from.

    ``from_baseline`` carries the baseline's points to each of these images.
    """
    groups: dict[int, tuple[Volume, list[Lesion]]] = {}
    for volume, lesion in templates.values():
        groups.setdefault(id(volume), (volume, []))[1].append(lesion)
    parts = [tracker.track_pair(volume, followup, own, progress) for volume, own in groups.values()]
    found = {
        match.lesion.id: (match, features)
        for part in parts
        for match, features in zip(part.matches, part.features, strict=True)
    }
    starts = [from_baseline[key] for key in groups]
    most, start = max(zip(parts, starts, strict=True), key=lambda pair: len(pair[0].matches))
    return replace(
        most,
        matches=[replace(found[lesion.id][0], lesion=lesion) for lesion in lesions],
        features=[found[lesion.id][1] for lesion in lesions],
        registration=replace(
            most.registration,
            baseline_to_followup=most.registration.baseline_to_followup.after(start),
            ok=all(part.registration.ok for part in parts),
            seconds=sum(part.registration.seconds for part in parts),
        ),
        seconds=sum(part.seconds for part in parts),
    )


def _measured(
    pair: PairResult, followup: Volume, measure: Measure, progress: Progress | None
) -> PairResult:
    """The pair with a size for every match that can have one."""
    matches = []
    for done, match in enumerate(pair.matches):
        if progress is not None:
            progress("measure", done / len(pair.matches))
        matches.append(measure(match, followup))
    return replace(pair, matches=matches)


def _as_template(match: Match) -> Lesion:
    """The lesion where and how large it was in the follow-up."""
    assert match.center_mm is not None  # only OUTSIDE_FOV has none
    radius_mm = match.radius_mm or match.lesion.radius_mm
    return replace(match.lesion, center_mm=match.center_mm, radius_mm=radius_mm)


def _numbered(progress: Progress | None, number: int, before: Sequence[object]) -> Progress | None:
    """The callback with the follow-up's number in the stage, from the second follow-up on."""
    if progress is None or not before:
        return progress
    return lambda stage, fraction: progress(f"follow-up {number}: {stage}", fraction)


def day_of(volume: Volume) -> int | None:
    """The day of acquisition as a running number, if it is known and a date."""
    try:
        return datetime.strptime(volume.date or "", "%Y%m%d").toordinal()
    except ValueError:
        return None
