"""Whole simulated studies: a baseline with lesions, its follow-up, and the truth.

The baseline is the CT itself with lesions painted in; the follow-up is the same anatomy moved,
rescanned and with lesions that grew, shrank or vanished (`tlt simulate`, the benchmark).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from tlt.data.appearance import InsertedLesion, Scan, grown, paint_lesion
from tlt.data.motion import MotionRange
from tlt.data.placing import (
    NEW_DECOYS,
    apart,
    as_triple,
    draw_decoys,
    draw_lesions,
    draw_structures,
)
from tlt.data.simulate import Anatomy, PairParameters, draw_pair, render
from tlt.data.view import pad_outside
from tlt.errors import InputError
from tlt.geometry import Grid, Triple
from tlt.lesion import Lesion
from tlt.volume import Volume

# With it the affine prior errs by about 10 mm on average on ct/val, as it does on DLS.
FOLLOWUP_MOTION = MotionRange(posture_mm=60.0, breathing_mm=30.0, local_mm=10.0)
LEAST_MM = 30.0  # of a follow-up along each axis, for there to be something to track


@dataclass(frozen=True)
class StudyRange:
    """What a simulated study is drawn from.

    Attributes:
        painted: lesions painted into the CT.
        structures: anatomical places to find again, nothing painted.
        decoys: share of painted lesions with a structure near them that looks alike; it is no
            lesion of the study, and three in ten are new in the follow-up.
        vanish: share of painted lesions that are gone in the follow-up.
        plane_mm: spacing in the plane, lowest and highest.
        overlap: lowest and highest share of the baseline's length that the follow-up shows.
        motion: range of motion.
        strength: range of appearance.
        surroundings: share of scans with couch and arms elsewhere, gone, or another couch.
        circles: share of follow-ups whose circle of reconstruction cuts skin and arms.
    """

    painted: int = 6
    structures: int = 4
    decoys: float = 0.3
    vanish: float = 0.0
    plane_mm: tuple[float, float] = (0.7, 1.2)
    overlap: tuple[float, float] = (0.3, 1.0)
    motion: MotionRange = FOLLOWUP_MOTION
    strength: float = 1.0
    surroundings: float = 0.8
    circles: float = 0.15


@dataclass(frozen=True)
class Truth:
    """What is true of a lesion in the follow-up.

    Attributes:
        lesion: it in the baseline.
        center_mm: where its place lies in the follow-up.
        in_view: whether the follow-up covers that place.
        vanished: whether the lesion is gone.
    """

    lesion: Lesion
    center_mm: Triple
    in_view: bool
    vanished: bool = False


@dataclass(frozen=True, eq=False)
class Study:
    """A pair of CTs and the truth of its lesions."""

    baseline: Volume
    followup: Volume
    truth: tuple[Truth, ...]

    @property
    def lesions(self) -> list[Lesion]:
        """The lesions of the baseline."""
        return [truth.lesion for truth in self.truth]


@dataclass(frozen=True, eq=False)
class SimulatedStudy(Study):
    """A study with the parameters that it was made of."""

    parameters: PairParameters


def simulate_study(
    volume: Volume,
    rng: np.random.Generator,
    known: Sequence[Lesion] = (),
    ranges: StudyRange | None = None,
) -> SimulatedStudy:
    """A study made from one CT; ``known`` are its real lesions, which are tracked too.

    A motion that leaves too little of a thin CT in view is drawn again, each time a little milder.

    Raises:
        InputError: the CT shows no body to place lesions in, or is too thin to move.
    """
    ranges = ranges or StudyRange()
    anatomy = Anatomy(volume)
    if len(anatomy.body_mm) < 200:
        raise InputError(f"{volume.path or 'the CT'} shows no body to simulate from; give a CT")
    for attempt in range(20):
        study = _draw_study(volume, anatomy, rng, known, _milder(ranges, 0.9**attempt))
        if study is not None:
            return study
    raise InputError(f"{volume.path or 'the CT'} is too thin to simulate from; give a longer one")


def _milder(ranges: StudyRange, share: float) -> StudyRange:
    """The ranges with rotation and displacement times ``share``."""
    motion = ranges.motion.eased(share)
    return replace(ranges, motion=replace(motion, rotation_deg=ranges.motion.rotation_deg * share))


def _draw_study(
    volume: Volume,
    anatomy: Anatomy,
    rng: np.random.Generator,
    known: Sequence[Lesion],
    ranges: StudyRange,
) -> SimulatedStudy | None:
    """One study; None when its follow-up shows too little."""
    pair = draw_pair(
        rng, anatomy, ranges.motion, ranges.strength, ranges.surroundings, ranges.circles
    )
    painted = draw_lesions(rng, anatomy, ranges.painted, known)
    decoys = draw_decoys(rng, anatomy, painted, ranges.decoys, known)
    gone = rng.random(len(painted)) < ranges.vanish
    first = [*painted, *decoys]
    later = apart([grown(lesion, rng) for lesion in first], first, known)
    new = rng.random(len(decoys)) < NEW_DECOYS
    pair = replace(
        pair,
        baseline_lesions=(*painted, *_chosen(decoys, ~new)),
        followup_lesions=(*_chosen(later[: len(painted)], ~gone), *later[len(painted) :]),
    )
    lesions = [*known]
    lesions += [
        Lesion(f"P{i + 1}", p.center_mm, round(p.radius_mm, 2), "painted")
        for i, p in enumerate(painted)
    ]
    centers = [lesion.center_mm for lesion in lesions] + [decoy.center_mm for decoy in decoys]
    taken = np.array(centers).reshape(-1, 3)
    for i, place in enumerate(draw_structures(rng, anatomy, ranges.structures, taken)):
        radius = float(np.exp(rng.uniform(np.log(4), np.log(15))))
        lesions.append(Lesion(f"S{i + 1}", place, round(radius, 2), "structure"))
    followup = render_followup(rng, anatomy, pair, ranges)
    if followup is None:
        return None
    lost = {f"P{i + 1}" for i in np.flatnonzero(gone)}
    truth = _truth(lesions, pair, followup, lost)
    baseline = paint_volume(resurrounded(volume, anatomy, pair.baseline), pair.baseline_lesions)
    return SimulatedStudy(baseline, followup, truth, pair)


def render_followup(
    rng: np.random.Generator, anatomy: Anatomy, pair: PairParameters, ranges: StudyRange
) -> Volume | None:
    """The second scan: its own grid, slices and length, whole planes only; None if too few."""
    center = pair.motion.affine(anatomy.body_mm)
    low, high = center.min(0) - 5, center.max(0) + 5
    length = (high[2] - low[2]) * rng.uniform(*ranges.overlap)
    bottom = rng.uniform(low[2], high[2] - length)
    low[2], high[2] = bottom, bottom + length
    plane = float(rng.uniform(*ranges.plane_mm))
    low[:2] -= rng.uniform(0, 20, 2)
    high[:2] += rng.uniform(0, 20, 2)
    grid = Grid.covering(low, high, (plane, plane, pair.followup.slice_mm))
    scan = render(anatomy, grid, pair.motion, pair.followup, pair.followup_lesions)
    plane_mm = grid.index_to_mm(np.moveaxis(np.indices((1, *grid.shape_zyx[1:])), 0, -1))
    pad_outside(scan.voxels, plane_mm, pair.followup.circle)
    voxels = np.clip(np.rint(scan.voxels), -1024, 3071).astype(np.int16)
    runs = [_covered(seen) for seen in scan.seen_zyx]
    planes = np.array([stop - start for start, stop in runs])
    if (planes * np.array(grid.spacing_mm)[::-1]).min() < LEAST_MM:
        return None
    cut = tuple(slice(start, stop) for start, stop in runs)
    part = grid.cropped([start for start, _ in runs], planes)
    return Volume(np.ascontiguousarray(voxels[cut]), part)


def resurrounded(volume: Volume, anatomy: Anatomy, scan: Scan) -> Volume:
    """The CT with a scan's couch and arms; the body and a rim about it are untouched."""
    if scan.surroundings is None:
        return volume
    voxels = volume.voxels.copy()
    rows = np.moveaxis(np.indices((1, *voxels.shape[1:])), 0, -1)
    for index, plane in enumerate(voxels):
        rows[..., 0] = index
        points = torch.from_numpy(volume.grid.index_to_mm(rows)).float()
        hu = torch.from_numpy(plane.astype(np.float32))[None]
        anatomy.surround(hu, points, points, scan.surroundings)
        voxels[index] = np.rint(hu[0].numpy()).astype(voxels.dtype)
    return replace(volume, voxels=voxels)


def paint_volume(volume: Volume, lesions: Sequence[InsertedLesion]) -> Volume:
    """The CT with lesions painted in, where they lie; its type and range are kept."""
    voxels = volume.voxels.copy()
    for lesion in lesions:
        reach = 1.6 * lesion.radius_mm + 5 * lesion.edge_mm
        span = reach / np.array(volume.grid.spacing_mm)[::-1]
        middle = volume.grid.mm_to_index(lesion.center_mm)
        low = np.maximum(np.floor(middle - span), 0).astype(int)
        high = np.minimum(np.ceil(middle + span) + 1, volume.grid.shape_zyx).astype(int)
        cut = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        index = np.moveaxis(np.mgrid[cut], 0, -1)
        points = torch.from_numpy(volume.grid.index_to_mm(index)).float()
        hu = torch.from_numpy(voxels[cut].astype(np.float32))
        paint_lesion(hu, points, lesion)
        voxels[cut] = np.rint(hu.numpy()).astype(voxels.dtype)
    return replace(volume, voxels=voxels)


def _truth(
    lesions: Sequence[Lesion], pair: PairParameters, followup: Volume, lost: set[str]
) -> tuple[Truth, ...]:
    centers = pair.motion.baseline_to_followup(
        np.array([lesion.center_mm for lesion in lesions]).reshape(-1, 3)
    )
    inside = followup.grid.contains(centers)
    if pair.followup.circle is not None:
        inside &= pair.followup.circle.holds(centers)
    return tuple(
        Truth(lesion, as_triple(center), bool(seen), lesion.id in lost)
        for lesion, center, seen in zip(lesions, centers, inside, strict=True)
    )


def _chosen(lesions: Sequence[InsertedLesion], which: NDArray) -> list[InsertedLesion]:
    return [lesion for lesion, chosen in zip(lesions, which, strict=True) if chosen]


def _covered(seen: NDArray[np.bool_]) -> tuple[int, int]:
    """First and last-plus-one of the longest run of covered planes; empty if there is none."""
    best, start = (0, 0), None
    for index, value in enumerate([*seen.tolist(), False]):
        if value and start is None:
            start = index
        elif not value and start is not None:
            best = max(best, (start, index), key=lambda run: run[1] - run[0])
            start = None
    return best
