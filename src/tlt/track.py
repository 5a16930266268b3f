"""The single inference path: register, align, locate, judge.

The command line, the evaluation and every experiment call `Tracker`; the systems differ only in
`System.locate`.
"""

from __future__ import annotations

import filecmp
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tlt.confidence import (
    UNSURE,
    Calibration,
    calibration_in,
    features_of,
    load_calibration,
    status_of,
)
from tlt.errors import InputError, ModelError, UsageError
from tlt.families import found
from tlt.geometry import Triple
from tlt.lesion import Lesion, Match, Status
from tlt.model.shipped import shipped_path
from tlt.model.weights import load_weights, weights_path
from tlt.registration.affine import register_affine
from tlt.registration.result import SIMILARITY_SAME_REGION, Registration
from tlt.systems import TRACKERS
from tlt.systems.base import Location, Progress, System, align
from tlt.volume import Volume

FOV_TOLERANCE_MM = 8.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class PairResult:
    """What became of the lesions in one follow-up: one match each, in their order.

    Attributes:
        matches: one a lesion.
        registration: the affine prior.
        seconds: wall time of the pair, registration included.
        features: what each confidence was computed from; None for a lesion out of view.
    """

    matches: list[Match]
    registration: Registration
    seconds: float
    features: list[dict[str, float] | None]


class Tracker:
    """A system with its calibration, ready to track any number of pairs."""

    def __init__(self, system: System, calibration: Calibration) -> None:
        self.system, self.calibration = system, calibration
        self.name = system.name
        self.model_name, self.weights_sha256 = system.model_name, system.weights_sha256

    @staticmethod
    def load(
        name: str = "tlt", model: str | None = None, device: str = "auto", precision: str = "auto"
    ) -> Tracker:
        """A tracker by name (`tlt trackers`), or ``tlt`` with the weights that ``name`` names.

        Raises:
            ModelError: weights or device cannot be used.
        """
        if name not in TRACKERS:
            name, model = "tlt", name
        system = make_system(name, model, device, precision)
        return Tracker(system, calibration_of(name, model))

    def track(self, baseline: Volume, followup: Volume, lesions: Sequence[Lesion]) -> list[Match]:
        """One match for each lesion, in their order; a doubtful registration is logged."""
        result = self.track_pair(baseline, followup, lesions)
        if not result.registration.ok:
            log.warning(
                "registration is doubtful (similarity %.2f): check every position",
                result.registration.similarity,
            )
        return result.matches

    def track_pair(
        self,
        baseline: Volume,
        followup: Volume,
        lesions: Sequence[Lesion],
        progress: Progress | None = None,
        registration: Registration | None = None,
    ) -> PairResult:
        """Matches, registration and time; a registration that is known already is not repeated.

        Raises:
            InputError: the follow-up shows another part of the body, or another body.
        """
        start = time.perf_counter()
        if progress is not None:
            progress("register", 0.0)
        known = registration or register_pair(baseline, followup)
        priors = known.baseline_to_followup(np.array([lesion.center_mm for lesion in lesions]))
        inside = np.flatnonzero(near_field_of_view(followup, priors, FOV_TOLERANCE_MM))
        seen = [lesions[int(i)] for i in inside]
        located: dict[int, tuple[Location, dict[str, float]]] = {}
        if seen:
            system = self.system
            pair = align(baseline, followup, seen, known, system.spacing_mm, system.margin_mm)
            for k, location in enumerate(system.locate(pair, progress)):
                located[int(inside[k])] = location, features_of(pair, k, location)
        matches = [
            self._match(lesion, _triple(prior), followup, located.get(i), known.ok)
            for i, (lesion, prior) in enumerate(zip(lesions, priors, strict=True))
        ]
        features = [located[i][1] if i in located else None for i in range(len(lesions))]
        return PairResult(matches, known, time.perf_counter() - start, features)

    def _match(
        self,
        lesion: Lesion,
        prior: Triple,
        followup: Volume,
        found: tuple[Location, dict[str, float]] | None,
        registered: bool,
    ) -> Match:
        """What is said of a lesion.

        A centre that had to be drawn to the border of the view, and one after a doubtful
        registration, is never `FOUND`: its confidence is at most `UNSURE`, whatever the tracker
        makes of it.
        """
        if found is None or not near_field_of_view(
            followup, found[0].center_mm[None], FOV_TOLERANCE_MM
        ):
            return Match(lesion, Status.OUTSIDE_FOV, None, 0.0, prior)
        location, features = found
        confidence = self.calibration.probability(features)
        if not (registered and followup.grid.contains(location.center_mm)):
            confidence = min(confidence, UNSURE)
        center = _triple(into_field_of_view(followup, location.center_mm))
        return Match(lesion, status_of(confidence), center, confidence, prior)


def register_pair(baseline: Volume, followup: Volume) -> Registration:
    """The affine prior of two scans that show the same part of a body.

    Raises:
        InputError: they do not seem to.
    """
    found = register_affine(baseline, followup)
    if not found.same_region:
        raise InputError(
            f"the follow-up does not show the baseline's part of the body (similarity "
            f"{found.similarity:.2f}, at least {SIMILARITY_SAME_REGION} is needed; overlap "
            f"{100 * found.overlap:.0f} %); check that both are CTs of one patient and region"
        )
    return found


def make_system(name: str, model: str | None, device: str, precision: str) -> System:
    """The system of a tracker's name; ``model`` takes the place of its weights.

    A tracker of several networks takes as many, with commas between them.

    Raises:
        ModelError: weights, device or an optional package cannot be used.
        UsageError: ``model`` where none is learned, or not as many as there are networks.
    """
    info = TRACKERS[name]
    make = found(info.made_by)
    if not info.learned:
        if model is not None:
            raise UsageError(f"--model {model}: the tracker '{name}' has no weights; leave it out")
        return make()
    chosen = list(info.weights.values()) if model is None else model.split(",")
    if len(chosen) != len(info.weights):
        if len(info.weights) == 1:
            raise UsageError(f"--model {model}: the tracker '{name}' takes one file; give one")
        wanted = ",".join(family.upper() for family in info.weights)
        raise UsageError(
            f"--model {model}: the tracker '{name}' has {len(info.weights)} networks; give a file "
            f"or shipped name for each, a comma between: --model {wanted}"
        )
    place = usable_device(device)
    bf16 = precision == "bf16" or (precision == "auto" and has_fast_bf16(place))
    models = [load_weights(one, of) for one, of in zip(chosen, info.weights, strict=True)]
    system = make(*models, place, bf16)
    system.name = name
    return system


def calibration_of(name: str, model: str | None) -> Calibration:
    """The calibration of a tracker: that beside the weights of ``model``, else the shipped one.

    Where that was fitted for other weights, a warning is logged.

    Raises:
        ModelError: no such weights, or no calibration that can be read.
    """
    shipped = TRACKERS[name].weights.values()
    given = [weights_path(one) for one in (model.split(",") if model is not None else shipped)]
    for path in given:
        beside = calibration_in(path.parent, name)
        if beside is not None:
            return beside
    for path, own in zip(given, shipped, strict=True):
        if not (shipped_path(own).is_file() and filecmp.cmp(path, shipped_path(own), False)):
            log.warning(
                "the confidence was fitted for the weights %s, not for %s, and may be off; fit it "
                "with 'tlt experiment calibrate --tracker %s --model %s --data FOLDER "
                "--output confidence.json', in the folder of the weights",
                *(own, path.name, name, path.name),
            )
    return load_calibration(name)


def usable_device(device: str) -> str:
    """``cpu`` or ``cuda[:N]``, with ``auto`` resolved.

    Raises:
        ModelError: the device is not there.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    count = torch.cuda.device_count()
    number = int(device.split(":")[1]) if ":" in device else 0
    if device.startswith("cuda") and number >= count:
        raise ModelError(f"--device {device}: {count} CUDA devices are here; use --device cpu")
    return device


def has_fast_bf16(device: str) -> bool:
    """Whether bf16 pays: on a GPU, and on CPUs with AVX-512 BF16 or AMX."""
    import torch

    if device != "cpu":
        return True
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def near_field_of_view(volume: Volume, points_mm: np.ndarray, tolerance_mm: float) -> np.ndarray:
    """Whether points (N, 3) lie in a volume or at most ``tolerance_mm`` outside it."""
    index = volume.grid.mm_to_index(points_mm)
    slack = 0.5 + tolerance_mm / np.array(volume.grid.spacing_mm)[::-1]
    last = np.array(volume.grid.shape_zyx) - 1
    return np.all((index >= -slack) & (index <= last + slack), axis=-1)


def into_field_of_view(volume: Volume, point_mm: np.ndarray) -> np.ndarray:
    """The point (3,), moved to the nearest voxel centre if it lies outside."""
    if volume.grid.contains(point_mm):
        return point_mm
    index = volume.grid.mm_to_index(point_mm)
    last = np.array(volume.grid.shape_zyx) - 1
    return volume.grid.index_to_mm(np.clip(index, 0, last))


def _triple(point: np.ndarray) -> Triple:
    x, y, z = (float(v) for v in point)
    return x, y, z
