"""Which CT series of a follow-up study is the one to track in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom

from tlt.errors import InputError
from tlt.io.dicom import MIN_SIZE
from tlt.pacs.peer import PeerSeries
from tlt.privacy import quiet_libraries

MAX_TURN_DEGREES = 25.0  # of the slices: beyond it, another plane (coronal, sagittal)
ALIKE = 1.5  # thicknesses within this factor count as the same
FULL = 0.8  # of the longest stack: a series that is shorter shows less of the body


@dataclass(frozen=True)
class Appearance:
    """What one image of a series tells about the series.

    Attributes:
        normal: unit vector at right angles to the slices.
        thickness_mm: of a slice.
        kernel: convolution kernel of the reconstruction; empty if unknown.
        is_scan: an axial or other CT, no localizer, secondary capture or projection.
    """

    normal: tuple[float, float, float]
    thickness_mm: float
    kernel: str
    is_scan: bool


def appearance_of(path: Path) -> Appearance:
    """The appearance of the series that a DICOM file belongs to; `is_scan` is False if unknown."""
    try:
        with quiet_libraries():
            header = pydicom.dcmread(path, stop_before_pixels=True)
            kinds = {str(kind).upper() for kind in header.get("ImageType") or ()}
            across, down = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
            x, y, z = (float(v) for v in np.cross(across, down))
            thickness = float(header.get("SliceThickness") or 0)
            kernel = str(header.get("ConvolutionKernel") or "")
    except Exception:  # no geometry (or no DICOM): nothing to track in
        return Appearance((0.0, 0.0, 0.0), 0.0, "", False)
    return Appearance((x, y, z), thickness, kernel, not kinds & {"LOCALIZER", "PROJECTION IMAGE"})


def choose_series(
    baseline: Appearance, offered: Sequence[tuple[PeerSeries, Appearance]]
) -> PeerSeries:
    """The series whose slices lie as the baseline's; of these the one nearest to it.

    Nearest: thickness within a factor of 1.5 first; then one that is not much shorter than the
    longest of these; then the same kernel, more slices, and the smaller difference of thickness.
    Raises InputError when none can be tracked in.
    """
    scans = [(s, a) for s, a in offered if a.is_scan and (s.images or MIN_SIZE) >= MIN_SIZE]
    if not scans:
        raise InputError("the follow-up study has no CT series but localizers; nothing to track in")
    parallel = [(s, a) for s, a in scans if _turn(a, baseline) <= MAX_TURN_DEGREES]
    if not parallel:
        raise InputError(
            f"none of the {len(scans)} CT series of the follow-up study has its slices as the "
            "baseline has; send an axial reconstruction to the PACS"
        )
    nearest = min(_steps(a, baseline) for _, a in parallel)
    alike = [(s, a) for s, a in parallel if _steps(a, baseline) == nearest]
    longest = max(_length(s, a) for s, a in alike)

    def rank(one: tuple[PeerSeries, Appearance]) -> tuple:
        series, look = one
        return (
            _length(series, look) < FULL * longest,
            look.kernel != baseline.kernel,
            -(series.images or 0),
            _apart(look, baseline),
            series.uid,
        )

    return min(alike, key=rank)[0]


def _turn(one: Appearance, other: Appearance) -> float:
    cosine = abs(float(np.dot(one.normal, other.normal)))
    return math.degrees(math.acos(min(cosine, 1.0)))


def _apart(one: Appearance, other: Appearance) -> float:
    """How far two thicknesses are apart, as a factor's logarithm; 0 where one is unknown."""
    if min(one.thickness_mm, other.thickness_mm) <= 0:
        return 0.0
    return abs(math.log(one.thickness_mm / other.thickness_mm))


def _steps(one: Appearance, other: Appearance) -> int:
    return math.floor(_apart(one, other) / math.log(ALIKE))


def _length(series: PeerSeries, look: Appearance) -> float:
    return (series.images or 0) * max(look.thickness_mm, 0.1)
