"""The Deep Longitudinal Study: DeepLesion pairs as Cai et al. published them (DLT, CVPR 2021).

Traps that are handled here: the diameters in the JSON are pixels; centres are pixels (x, y, slice)
of a sub-volume; both directions of a pair are listed, so none is added. DeepLesion tells neither
origin nor orientation: `pixels_to_mm` fixes a frame (slices run from head to feet), in which the
NIfTI sub-volumes of the authors and those of ``tlt convert deeplesion`` both lie.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tlt.errors import InputError
from tlt.geometry import Triple
from tlt.metrics import LesionRow

PREDICTION, PRIOR = "predict target center", "initial center"
PATIENT_DIGITS = 6


@dataclass(frozen=True)
class DLSLesion:
    """One lesion in one sub-volume.

    Attributes:
        volume: file name, ``PatientID_StudyID_ScanID_first-last.nii.gz``.
        center_px: (x, y, slice), from 0 within the sub-volume.
        spacing_mm: (x, y, slice).
        diameters_px: the two RECIST diameters in pixels.
    """

    volume: str
    center_px: Triple
    spacing_mm: Triple
    diameters_px: tuple[float, ...]

    @property
    def radius_mm(self) -> float:
        """Half the longer RECIST diameter."""
        return max(self.diameters_px) * self.spacing_mm[0] / 2

    @property
    def center_mm(self) -> Triple:
        """The centre in the frame of `pixels_to_mm`."""
        return pixels_to_mm(self.center_px, self.spacing_mm)


@dataclass(frozen=True)
class DLSPair:
    """A directed pair: the lesion at the first time, and where it is at the second.

    Attributes:
        name: number in the list.
        source, target: the lesion in baseline and follow-up.
        target_box_px: lower corner and size (x, y, slice) of its 3D box in the follow-up.
        record: everything the file says of it.
    """

    name: str
    source: DLSLesion
    target: DLSLesion
    target_box_px: tuple[float, ...]
    record: dict[str, Any]

    @property
    def patient(self) -> str:
        """DeepLesion's anonymous patient number."""
        return self.source.volume[:PATIENT_DIGITS]


def read_dls(path: Path) -> list[DLSPair]:
    """The pairs of a published list, or of a file of predictions, in their order.

    Raises:
        InputError: unreadable, or a pair lacks a field.
    """
    return dls_pairs(read_json(path), path)


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        InputError: unreadable.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read as JSON ({error}); give a list of DLS, or a rows.json"
        ) from error


def dls_pairs(content: Any, path: Path) -> list[DLSPair]:
    """The pairs in the content of a file, which is named in errors.

    Raises:
        InputError: no list of pairs, or a pair lacks a field.
    """
    if isinstance(content, dict) and isinstance(content.get("results"), list):
        content = {f"{i + 1:04d}": record for i, record in enumerate(content["results"])}
    if not isinstance(content, dict) or not content:
        raise InputError(f"{path}: holds no pairs; a list of DLS is an object of numbered pairs")
    return [_pair(path, name, record) for name, record in content.items()]


def _pair(path: Path, name: str, record: dict[str, Any]) -> DLSPair:
    if not isinstance(record, dict):
        raise InputError(
            f"{path}: neither a rows.json nor a list of DLS: '{name}' is no pair; give one of them"
        )
    try:
        source, target = (_lesion(record, side) for side in ("source", "target"))
        box = tuple(float(v) for v in record["target box"])
        if len(box) != 6:
            raise ValueError(f"target box has {len(box)} numbers, not 6")
        if not (source.diameters_px and target.diameters_px):
            raise ValueError("a recist diameter holds no number")
    except (KeyError, TypeError, ValueError) as error:
        what = f"no field {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{path}: pair {name}: {what}; give a list as DLS publishes it") from error
    return DLSPair(name, source, target, box, record)


def _lesion(record: dict[str, Any], side: str) -> DLSLesion:
    return DLSLesion(
        record[side],
        _triple(record[f"{side} center"]),
        _triple(record[f"{side} spacing"]),
        tuple(float(v) for v in record[f"{side} recist diameter"]),
    )


def _triple(values: Sequence[float]) -> Triple:
    x, y, z = (float(v) for v in values)
    return x, y, z


def pixels_to_mm(pixels: Triple, spacing_mm: Triple) -> Triple:
    """LPS-like millimetres of (x, y, slice): the slices of DeepLesion run from head to feet."""
    x, y, z = (p * s for p, s in zip(pixels, spacing_mm, strict=True))
    return x, y, -z


def dls_row(
    pair: DLSPair,
    found_mm: Triple | None,
    confidence: float,
    seconds: float,
    prior_mm: Triple | None,
) -> LesionRow:
    """The row of a pair for an answer in the frame of `pixels_to_mm`; None is a miss."""
    spacing = pair.target.spacing_mm
    low = pair.target_box_px[:3]
    high = tuple(a + b for a, b in zip(low, pair.target_box_px[3:], strict=True))
    corners = np.array([pixels_to_mm(_triple(p), spacing) for p in (low, high)])
    return LesionRow(
        pair=f"{pair.source.volume} -> {pair.target.volume}",
        lesion=pair.name,
        patient=pair.patient,
        kind="lesion",
        radius_mm=pair.target.radius_mm,
        truth_mm=pair.target.center_mm,
        found_mm=found_mm,
        prior_mm=prior_mm,
        confidence=confidence,
        seconds=seconds,
        slice_mm=spacing[2],
        box_mm=(_triple(corners.min(0)), _triple(corners.max(0))),
    )


def predicted_rows(pairs: Sequence[DLSPair], field: str = PREDICTION) -> list[LesionRow]:
    """Rows of the predictions that a file carries in ``field``, a centre in pixels.

    A pair without it, or with null, is a miss.

    Raises:
        InputError: no pair has the field.
    """
    if not any(field in pair.record for pair in pairs):
        centers = sorted(
            key
            for key in pairs[0].record
            if "center" in key and not key.startswith(("source", "target"))
        )
        raise InputError(
            f"no pair has a centre '{field}'; the file holds {', '.join(repr(c) for c in centers)}"
        )
    return [_predicted_row(pair, field) for pair in pairs]


def _predicted_row(pair: DLSPair, field: str) -> LesionRow:
    record = pair.record
    confidence, seconds = (
        float(math.nan if record.get(name) is None else record[name])
        for name in ("predict confidence", "processing time")
    )
    found, prior = (_stored_center(pair, name) for name in (field, PRIOR))
    return dls_row(pair, found, confidence, seconds, prior)


def _stored_center(pair: DLSPair, field: str) -> Triple | None:
    """A centre of the record in mm; None where there is none."""
    pixels = pair.record.get(field)
    if pixels is None:
        return None
    try:
        center = _triple(pixels)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"pair {pair.name}: '{field}' is {pixels!r}; a centre is three numbers x, y, slice"
        ) from error
    finite = all(math.isfinite(v) for v in center)
    return pixels_to_mm(center, pair.target.spacing_mm) if finite else None
