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

from tlt.data.appearance import InsertedLesion, draw_lesion, grown, paint_lesion
from tlt.data.motion import MotionRange
from tlt.data.simulate import Anatomy, PairParameters, draw_pair, render
from tlt.errors import InputError
from tlt.geometry import Grid, Points, Triple
from tlt.lesion import Lesion
from tlt.volume import Volume

EDGE_MM = 12.0
# With it the affine prior errs by about 10 mm on average on ct/val, as it does on DLS.
FOLLOWUP_MOTION = MotionRange(posture_mm=60.0, breathing_mm=30.0, local_mm=10.0)
GAP_MM = 4.0  # between the surfaces of two lesions of the follow-up
LEAST_CONTRAST_HU = 25.0  # of a painted lesion
LEAST_DISTINCT_HU, DISTINCT_REACH_MM = 8.0, 12.0  # of a structure; see `distinctness`
LEAST_MM = 30.0  # of a follow-up along each axis, for there to be something to track


@dataclass(frozen=True)
class StudyRange:
    """What a simulated study is drawn from.

    Attributes:
        painted: lesions painted into the CT.
        structures: anatomical places to find again, nothing painted.
        vanish: share of painted lesions that are gone in the follow-up.
        plane_mm: spacing in the plane, lowest and highest.
        overlap: lowest and highest share of the baseline's length that the follow-up shows.
        motion: range of motion.
        strength: range of appearance.
    """

    painted: int = 6
    structures: int = 4
    vanish: float = 0.0
    plane_mm: tuple[float, float] = (0.7, 1.2)
    overlap: tuple[float, float] = (0.6, 1.0)
    motion: MotionRange = FOLLOWUP_MOTION
    strength: float = 1.0


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
    pair = draw_pair(rng, anatomy, ranges.motion, ranges.strength)
    painted = draw_lesions(rng, anatomy, ranges.painted, known)
    gone = rng.random(len(painted)) < ranges.vanish
    later = apart([grown(lesion, rng) for lesion in painted], painted, known)
    pair = replace(
        pair,
        baseline_lesions=tuple(painted),
        followup_lesions=tuple(
            lesion for lesion, lost in zip(later, gone, strict=True) if not lost
        ),
    )
    lesions = [*known]
    lesions += [
        Lesion(f"P{i + 1}", p.center_mm, round(p.radius_mm, 2), "painted")
        for i, p in enumerate(painted)
    ]
    taken = np.array([lesion.center_mm for lesion in lesions]).reshape(-1, 3)
    for i, place in enumerate(draw_structures(rng, anatomy, ranges.structures, taken)):
        radius = float(np.exp(rng.uniform(np.log(4), np.log(15))))
        lesions.append(Lesion(f"S{i + 1}", place, round(radius, 2), "structure"))
    followup = render_followup(rng, anatomy, pair, ranges)
    if followup is None:
        return None
    lost = {f"P{i + 1}" for i in np.flatnonzero(gone)}
    truth = _truth(lesions, pair, followup, lost)
    baseline = paint_volume(volume, painted)
    return SimulatedStudy(baseline, followup, truth, pair)


def draw_lesions(
    rng: np.random.Generator, anatomy: Anatomy, count: int, known: Sequence[Lesion]
) -> list[InsertedLesion]:
    """Lesions of 3 to 25 mm radius inside the body, apart from each other and from known ones."""
    drawn: list[InsertedLesion] = []
    occupied = [(np.array(lesion.center_mm), lesion.radius_mm) for lesion in known]
    for _ in range(400 * count):
        if len(drawn) == count:
            break
        center = _inner_place(rng, anatomy)
        radius = float(np.exp(rng.uniform(np.log(3), np.log(25))))
        gaps = [np.linalg.norm(center - c) - r - radius for c, r in occupied]
        if min(gaps, default=99.0) < 12.0:
            continue
        within = torch.from_numpy(center + rng.normal(0, radius / 2, (200, 3))).float()
        local = anatomy.density_hu(within[None, None]).ravel()
        lesion = draw_lesion(rng, _triple(center), radius, float(local.median()))
        # What nobody sees in the baseline could not have been marked there.
        if float((local - lesion.hu).abs().median()) < LEAST_CONTRAST_HU:
            continue
        drawn.append(lesion)
        occupied.append((center, radius))
    return drawn


def apart(
    later: Sequence[InsertedLesion], before: Sequence[InsertedLesion], known: Sequence[Lesion]
) -> list[InsertedLesion]:
    """The follow-up's lesions, none grown into another lesion's place."""
    free = []
    fixed = [(lesion.center_mm, lesion.radius_mm) for lesion in known]
    painted = [(lesion.center_mm, lesion.radius_mm) for lesion in later]
    for index, lesion in enumerate(later):
        others = [*fixed, *painted[:index], *painted[index + 1 :]]
        gaps = [np.linalg.norm(np.subtract(lesion.center_mm, c)) - r for c, r in others]
        room = max(before[index].radius_mm, min(gaps, default=np.inf) - GAP_MM)
        free.append(replace(lesion, radius_mm=min(lesion.radius_mm, float(room))))
    return free


def draw_structures(
    rng: np.random.Generator, anatomy: Anatomy, count: int, taken_mm: Points
) -> list[Triple]:
    """Places inside the body that can be told in every direction, 25 mm from those taken."""
    places: list[Triple] = []
    taken = list(taken_mm)
    for _ in range(400 * count):
        if len(places) == count:
            break
        place = _inner_place(rng, anatomy)
        if taken and np.linalg.norm(np.array(taken) - place, axis=1).min() < 25:
            continue
        if distinctness(anatomy, place) < LEAST_DISTINCT_HU:
            continue
        places.append(_triple(place))
        taken.append(place)
    return places


def distinctness(anatomy: Anatomy, place_mm: Points) -> float:
    """Root mean square change in HU per mm about a place, along the direction of least change.

    The smallest eigenvalue of the structure tensor: a plane or a straight vessel has none.
    """
    axis = torch.arange(-DISTINCT_REACH_MM, DISTINCT_REACH_MM + 1, 2.0)
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1)
    near = anatomy.density_hu(points + torch.from_numpy(place_mm).float()).clamp(-1000, 300)
    smooth = torch.nn.functional.avg_pool3d(near[None, None], 2, 1)[0, 0]
    slopes = torch.stack([s.ravel() for s in torch.gradient(smooth, spacing=2.0)])
    return float(torch.linalg.eigvalsh(slopes @ slopes.mT / slopes.shape[1])[0].clamp(min=0).sqrt())


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
    voxels = np.clip(np.rint(scan.voxels), -1024, 3071).astype(np.int16)
    runs = [_covered(seen) for seen in scan.seen_zyx]
    planes = np.array([stop - start for start, stop in runs])
    if (planes * np.array(grid.spacing_mm)[::-1]).min() < LEAST_MM:
        return None
    cut = tuple(slice(start, stop) for start, stop in runs)
    part = grid.cropped([start for start, _ in runs], planes)
    return Volume(np.ascontiguousarray(voxels[cut]), part)


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
    return tuple(
        Truth(lesion, _triple(center), bool(seen), lesion.id in lost)
        for lesion, center, seen in zip(lesions, centers, inside, strict=True)
    )


def _inner_place(rng: np.random.Generator, anatomy: Anatomy) -> Points:
    """A point of the body, `EDGE_MM` from the CT's faces where the CT is large enough for that."""
    for _ in range(200):
        place = anatomy.body_mm[rng.integers(len(anatomy.body_mm))] + rng.uniform(-4, 4, 3)
        corners = place + EDGE_MM * np.array([[1, 1, 1], [-1, -1, -1]])
        if bool(anatomy.inside(torch.from_numpy(corners).float()).all()):
            break
    return place


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


def _triple(point: Points) -> Triple:
    x, y, z = (round(float(v), 3) for v in point)
    return x, y, z
