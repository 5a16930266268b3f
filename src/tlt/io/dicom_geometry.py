"""Whether the slices of a DICOM series make a regular volume, and which grid they make."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tlt.errors import InputError
from tlt.geometry import Grid

SIDEWAYS_MM = 0.5  # by which slices may be shifted against each other
UNEVEN, UNEVEN_MM = 0.1, 0.1  # of a step, or in mm, by which slices may lie beside even steps


@dataclass(frozen=True)
class Slice:
    """One CT image: a file, or a frame of a multi-frame file.

    Attributes:
        path, frame: where its pixels are.
        sop_uid: its SOP Instance UID.
        size_xy: columns and rows.
        spacing_xy: mm between columns and between rows.
        position_mm: LPS position of its first pixel (ImagePositionPatient).
        orientation: LPS directions of its rows' and columns' axes (ImageOrientationPatient).
        rescale: slope and intercept.
        stored_range: lowest and highest stored value that its bits allow.
        acquisition: Acquisition Number, or else Time, to tell two acquisitions apart.
    """

    path: str
    frame: int
    sop_uid: str
    size_xy: tuple[int, int]
    spacing_xy: tuple[float, float]
    position_mm: tuple[float, ...]
    orientation: tuple[float, ...]
    rescale: tuple[float, float]
    stored_range: tuple[int, int]
    acquisition: str


def sorted_stack(slices: list[Slice], name: str) -> tuple[list[Slice], Grid]:
    """The slices in order along their normal, and their grid; ``name`` is for messages.

    Raises InputError for slices that differ in size, spacing or orientation, lie twice at one
    place, leave gaps, or are shifted against each other (gantry tilt).
    """
    _check_alike(slices, name)
    row, column = np.array(slices[0].orientation).reshape(2, 3)
    if not np.allclose([row @ row, column @ column, row @ column], [1, 1, 0], atol=1e-3):
        raise InputError(f"{name}: ImageOrientationPatient is not two unit vectors; correct it")
    normal = np.cross(row, column)
    heights = np.array([s.position_mm for s in slices]) @ normal
    order = np.argsort(heights, kind="stable")
    stack, heights = [slices[i] for i in order], heights[order]
    _check_doubles(stack, heights, name)
    _check_tilt(stack, normal, name)
    _check_steps(stack, heights, name)
    step = float(heights[-1] - heights[0]) / (len(stack) - 1)
    x, y, z = stack[0].position_mm
    direction = tuple(np.stack([row, column, normal], 1).ravel().tolist())
    size = (*stack[0].size_xy, len(stack))
    return stack, Grid(size, (*stack[0].spacing_xy, step), (x, y, z), direction)


def _check_alike(slices: list[Slice], name: str) -> None:
    sizes = sorted({s.size_xy for s in slices})
    if len(sizes) > 1:
        listed = ", ".join(f"{x} x {y}" for x, y in sizes)
        raise InputError(f"{name}: slices of different size ({listed}); keep those of one scan")
    if min(v for s in slices for v in s.spacing_xy) <= 0:
        raise InputError(f"{name}: PixelSpacing must be above 0 mm; correct the headers")
    for values, what, tolerance in (
        ([s.spacing_xy for s in slices], "pixel spacing", 1e-3),
        ([s.orientation for s in slices], "orientation", 2e-3),
    ):
        table = np.array(values)
        if np.ptp(table, axis=0).max() > tolerance:
            other = table[np.abs(table - table[0]).max(1).argmax()]
            raise InputError(
                f"{name}: slices of different {what} in one series ({_list(table[0])} and "
                f"{_list(other)}); keep those of one scan"
            )


def _check_doubles(stack: list[Slice], heights: NDArray, name: str) -> None:
    doubles = int(np.count_nonzero(np.diff(heights) < 1e-2))
    if not doubles:
        return
    numbers = sorted({s.acquisition for s in stack})
    which = f"acquisitions {', '.join(numbers[:10])}" if len(numbers) > 1 else "one acquisition"
    raise InputError(
        f"{name}: {doubles} slice positions occur twice ({which}): a second scan, phase or "
        "reconstruction in one series; keep one of each position in the folder"
    )


def _check_tilt(stack: list[Slice], normal: NDArray, name: str) -> None:
    offset = np.array([s.position_mm for s in stack]) - np.array(stack[0].position_mm)
    sideways = offset - np.outer(offset @ normal, normal)
    drift = float(np.linalg.norm(sideways, axis=1).max())
    if drift > SIDEWAYS_MM:
        worst = int(np.linalg.norm(sideways, axis=1).argmax())
        along = abs(float(offset[worst] @ normal))
        angle = np.degrees(np.arctan2(drift, along))
        raise InputError(
            f"{name}: slices are shifted sideways by up to {drift:.1f} mm (gantry tilt of "
            f"{angle:.1f} degrees); resample the series to a rectangular grid, "
            "as dcm2niix does"
        )


def _check_steps(stack: list[Slice], heights: NDArray, name: str) -> None:
    steps = np.diff(heights)
    step = float(np.median(steps))
    gaps = np.flatnonzero(steps > 1.5 * step)
    if len(gaps):
        listed = ", ".join(
            f"{steps[i]:.2f} mm between {heights[i]:.2f} and {heights[i + 1]:.2f} mm"
            for i in gaps[:5]
        )
        more = f" and {len(gaps) - 5} more" if len(gaps) > 5 else ""
        raise InputError(
            f"{name}: slices are missing: {listed}{more}, where others are {step:.2f} mm apart; "
            "export the complete series"
        )
    even = np.linspace(heights[0], heights[-1], len(heights))
    off = float(np.abs(heights - even).max())
    if off > max(UNEVEN * step, UNEVEN_MM) or steps.min() < 0.8 * step or steps.max() > 1.2 * step:
        numbers = len({s.acquisition for s in stack})
        raise InputError(
            f"{name}: uneven slices: {steps.min():.2f} to {steps.max():.2f} mm apart "
            f"({numbers} acquisitions); keep one acquisition or resample the series evenly"
        )


def _list(values: NDArray) -> str:
    return "[" + ", ".join(f"{v:g}" for v in values.tolist()) + "]"
