"""Pairs with marked lesions: folders as ``tlt simulate`` lays them out, and DLS.

Evaluation tracks them whole; training cuts crops from them (`cut_marked_pair`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from tlt.data.dls import DLSPair
from tlt.data.followup import Study, Truth
from tlt.data.pairs import (
    PairConfig,
    TrainingPair,
    as_tensor,
    draw_grids,
    registration_error,
    shown_in,
)
from tlt.errors import InputError
from tlt.io.images import load_volume
from tlt.io.lesions import read_lesions
from tlt.lesion import Lesion
from tlt.registration.result import Registration
from tlt.volume import AIR_HU, Volume

TRIES = 10
NOTE = "simulation.json"  # what ``tlt simulate`` made a pair of


def pair_folders(folder: Path) -> list[Path]:
    """The folders of pairs in a folder (or itself), in order of their names.

    Raises:
        InputError: there is none.
    """
    if not has_pairs(folder):
        raise InputError(f"{folder}: no pair in it; make some with 'tlt simulate --output'")
    places = sorted(path.parent for path in folder.glob("*/truth.csv"))
    return [folder, *places] if (folder / "truth.csv").is_file() else places


def has_pairs(folder: Path) -> bool:
    """Whether a folder holds, or is, a pair with a truth."""
    return (folder / "truth.csv").is_file() or any(folder.glob("*/truth.csv"))


def folder_study(place: Path) -> Study:
    """The pair of a folder; a lesion without a row in truth.csv is left out.

    Raises:
        InputError: one of its files cannot be read.
    """
    baseline, followup = _image(place, "baseline"), _image(place, "followup")
    if len((place / "truth.csv").read_text().split("\n", 1)[-1].strip()) == 0:
        return Study(baseline, followup, ())  # all of its lesions may be gone or out of view
    lesions = read_lesions(place / "lesions.csv", baseline)
    known = {lesion.id: lesion for lesion in read_lesions(place / "truth.csv", followup)}
    truth = tuple(
        Truth(lesion, known[lesion.id].center_mm, True) for lesion in lesions if lesion.id in known
    )
    return Study(baseline, followup, truth)


def pair_patient(place: Path) -> str:
    """Whose pair a folder holds: the CT that it was simulated from, else its name before ``--``.

    Raises:
        InputError: its simulation.json names no source.
    """
    note = place / NOTE
    if not note.is_file():
        return place.resolve().name.split("--")[0]
    try:
        return str(json.loads(note.read_text(encoding="utf-8"))["source"]).removesuffix(".nii.gz")
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(f"{note}: names no source; write it again, or remove it") from error


def _image(place: Path, name: str) -> Volume:
    """The CT of a name in a folder, whatever its format."""
    found = [p for p in sorted(place.glob(f"{name}*")) if not p.name.endswith(".csv")]
    if len(found) != 1:
        raise InputError(f"{place}: {len(found)} images named {name}*; there must be one")
    return load_volume(found[0])


def dls_groups(pairs: Sequence[DLSPair], images: Path) -> list[list[DLSPair]]:
    """The pairs by sub-volumes: those of one baseline and one follow-up together, in their order.

    Raises:
        InputError: none of the images is there.
    """
    names = {lesion.volume for pair in pairs for lesion in (pair.source, pair.target)}
    if not any((images / name).is_file() for name in names):
        raise InputError(f"{images}: none of {len(names)} sub-volumes is here; check --images")
    groups: dict[tuple[str, str], list[DLSPair]] = {}
    for pair in pairs:
        groups.setdefault((pair.source.volume, pair.target.volume), []).append(pair)
    return list(groups.values())


def dls_study(group: Sequence[DLSPair], images: Path) -> Study:
    """The two sub-volumes of a group of `dls_groups`, with its lesions.

    Raises:
        InputError: an image cannot be read, or a lesion lies outside its own.
    """
    source = images / group[0].source.volume
    baseline, followup = load_volume(source), load_volume(images / group[0].target.volume)
    truth = []
    for pair in group:
        lesion = Lesion(pair.name, pair.source.center_mm, pair.source.radius_mm, "lesion")
        if not baseline.grid.contains(np.array(lesion.center_mm)):
            raise InputError(
                f"{source}: the lesion of pair {lesion.id} at {lesion.center_mm} mm lies outside; "
                "make the sub-volumes with 'tlt convert deeplesion'"
            )
        truth.append(Truth(lesion, pair.target.center_mm, True))
    return Study(baseline, followup, tuple(truth))


def cut_marked_pair(
    rng: np.random.Generator, study: Study, registration: Registration, config: PairConfig
) -> TrainingPair | None:
    """Crops about one lesion of a study, and all its lesions that both crops show.

    As for simulated pairs, the crops lie about the prior, whatever the truth: a lesion that the
    search crop misses is none to learn from, and None comes back when no crop shows one.
    """
    marked = [t for t in study.truth if t.in_view and not t.vanished]
    centers = np.array([t.lesion.center_mm for t in marked]).reshape(-1, 3)
    truth = np.array([t.center_mm for t in marked]).reshape(-1, 3)
    radius = np.array([t.lesion.radius_mm for t in marked])
    for _ in range(TRIES if len(marked) else 0):
        one = rng.integers(len(marked))
        about = registration.baseline_to_followup(centers[one])
        move = registration_error(rng, about).after(registration.baseline_to_followup)
        prior = move(centers)
        template, search = draw_grids(rng, prior[one], config)
        shown = shown_in(template, prior) & shown_in(search, truth)
        seen = np.flatnonzero(shown & study.followup.grid.contains(prior))
        if len(seen) == 0:
            continue
        queries = np.resize(seen, config.queries)
        unseen = np.isnan(study.followup.resample(template, fill=np.nan).voxels)
        earlier = study.baseline.resample(template, pull=move.inverse(), fill=AIR_HU).voxels
        later = study.followup.resample(search, fill=AIR_HU).voxels
        # As at inference, the template loses what the follow-up's view leaves out.
        earlier = np.where(unseen, AIR_HU, earlier)
        return TrainingPair(
            template=torch.from_numpy(earlier.astype(np.float32))[None],
            search=torch.from_numpy(later.astype(np.float32))[None],
            template_origin_mm=as_tensor(template.origin_mm),
            search_origin_mm=as_tensor(search.origin_mm),
            centers_mm=as_tensor(prior[queries]),
            truth_mm=as_tensor(truth[queries]),
            radius_mm=as_tensor(radius[queries]),
            anchors_mm=as_tensor(prior[queries]),
            anchors_truth_mm=as_tensor(truth[queries]),
            marks_mm=as_tensor(prior[seen]),
            marks_truth_mm=as_tensor(truth[seen]),
            marks_radius_mm=as_tensor(np.stack([radius[seen]] * 2, -1)),
            marks_seen=torch.ones((len(seen), 2), dtype=torch.bool),
        )
    return None
