"""``tlt experiment sizes``: how well sizes at follow-up are measured, by which method.

A row a lesion and method is written first (`sizes.csv`); the table is made of the rows.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from tlt import sizing
from tlt.data.followup import Study, StudyRange
from tlt.data.known import known_lesions
from tlt.data.sized import SizedLesion, label_masks, sized_lesions
from tlt.diameters import measure_extent
from tlt.errors import TltError
from tlt.evaluate import Report, simulated_cases
from tlt.growing import grow
from tlt.io.cuts import nearby
from tlt.io.files import atomic_write
from tlt.lesion import Lesion, Match
from tlt.segmentation import ball_surface
from tlt.surface import Surface
from tlt.track import Tracker
from tlt.volume import Volume, to_sitk

STUDIES = StudyRange(painted=8, structures=0, vanish=0.08)
RIGHT = 0.2  # of the true long axis, for a size to be right
LUNG_HU = -500.0  # around a lesion, below which it counts as one of the lung


@dataclass(frozen=True)
class SizeRow:
    """One lesion by one method; lengths in mm, None where there is none.

    Attributes:
        lesion: name of pair and lesion.
        kind: painted, or real (outlined by a reader in the CT).
        lung: whether its surroundings in the baseline are lung.
        method: what measured it.
        slice_mm: of the follow-up.
        before_mm, true_mm: true long axis in the baseline and the follow-up (None: vanished).
        true_short_mm: true short axis in the follow-up.
        long_mm, short_mm: as measured.
        dice: overlap with the true extent.
        doubtful: whether the method itself doubts it.
        note: what it says.
        milliseconds: CPU time, baseline included.
    """

    lesion: str
    kind: str
    lung: bool
    method: str
    slice_mm: float
    before_mm: float
    true_mm: float | None
    true_short_mm: float | None
    long_mm: float | None
    short_mm: float | None
    dice: float | None
    doubtful: bool
    note: str
    milliseconds: float

    @property
    def error(self) -> float:
        """Error of the long axis as a share of the truth; infinite for a lesion that vanished."""
        assert self.long_mm is not None  # asked of measured lesions only
        return abs(self.long_mm / self.true_mm - 1) if self.true_mm else np.inf


def run_sizes(
    data: Path, pairs: int, seed: int, tracker: Tracker, report: Report | None = None
) -> Iterator[SizeRow]:
    """The rows of simulated pairs, as they come."""
    known = known_lesions(data)
    studies = ((case.name, case.study) for case in simulated_cases(data, pairs, seed, STUDIES))

    def track(study: Study, lesions: Sequence[Lesion]) -> list[Match] | None:
        try:
            return tracker.track_pair(study.baseline, study.followup, lesions).matches
        except TltError as error:
            if report is not None:
                report(str(error))
            return None

    for lesion in sized_lesions(studies, track, label_masks(data, known)):
        if report is not None:
            report(lesion.name)
        yield from rows_of(lesion)


def rows_of(lesion: SizedLesion) -> Iterator[SizeRow]:
    """One row for each method."""
    if lesion.match.center_mm is None:
        return
    after, before = lesion.size_after, lesion.size_before
    around = lesion.match.lesion
    shell = ball_surface(lesion.baseline, np.array(around.center_mm), 1.5 * around.radius_mm)
    lung = bool(np.median(lesion.baseline.sample(shell.points_mm)) < LUNG_HU)
    for name, method in METHODS.items():
        start = time.process_time()
        found = method(lesion)
        spent = 1000 * (time.process_time() - start)
        yield SizeRow(
            lesion=lesion.name,
            kind=lesion.kind,
            lung=lung,
            method=name,
            slice_mm=round(lesion.followup.grid.spacing_mm[2], 2),
            before_mm=round(before.long_axis.length_mm, 2),
            true_mm=None if after is None else round(after.long_axis.length_mm, 2),
            true_short_mm=None
            if after is None or after.short_axis is None
            else round(after.short_axis.length_mm, 2),
            long_mm=found.long_mm,
            short_mm=found.short_mm,
            dice=_dice(found.extent, lesion.after),
            doubtful=found.doubtful,
            note=found.note,
            milliseconds=round(spent, 1),
        )


@dataclass(frozen=True)
class Found:
    """What a method makes of a lesion."""

    long_mm: float | None = None
    short_mm: float | None = None
    extent: Volume | None = None
    doubtful: bool = False
    note: str = ""


def _by_outline(lesion: SizedLesion) -> Found:
    known = sizing.study_baseline(lesion.baseline, lesion.match.lesion)
    match = sizing.measure(lesion.match, lesion.followup, known)
    size = match.size
    if size is None or size.short_axis is None:
        return Found(doubtful=True, note=match.size_note)
    long, short = size.long_axis.length_mm, size.short_axis.length_mm
    return Found(round(long, 2), round(short, 2), match.extent, size.doubtful, size.note)


def _by_growing(lesion: SizedLesion) -> Found:
    known = sizing.study_baseline(lesion.baseline, lesion.match.lesion)
    ball = _ball(lesion, known.expected_mm)
    return _of_extent(
        grow(lesion.followup, ball.center_mm, known.expected_mm, ball.hu, ball.noise_hu, known.span)
    )


def _by_confidence(lesion: SizedLesion) -> Found:
    """SimpleITK's confidence-connected region about the tracked centre."""
    expected = sizing.ROUNDER * lesion.match.lesion.radius_mm
    ball = _ball(lesion, expected)
    part = nearby(lesion.followup, ball.center_mm.tolist(), 2 * (2 * expected + 4))
    if part is None:
        return Found(doubtful=True)
    image = to_sitk(Volume(part.voxels.astype(np.float32), part.grid))
    seed = np.rint(part.grid.mm_to_index(ball.center_mm)).astype(int)
    seed = np.clip(seed, 0, np.array(part.grid.shape_zyx) - 1)
    smooth = sitk.CurvatureFlow(image, timeStep=0.05, numberOfIterations=5)
    region = sitk.ConfidenceConnected(smooth, [[int(v) for v in seed[::-1]]], 2, 2.5, 1, 1)
    return _of_extent(Volume(sitk.GetArrayFromImage(region), part.grid))


def _unchanged(lesion: SizedLesion) -> Found:
    """The size that the lesion had in the baseline."""
    size = lesion.size_before
    assert size.short_axis is not None  # true sizes have both
    ball = _ball(lesion, size.long_axis.length_mm / 2)
    return Found(
        round(size.long_axis.length_mm, 2),
        round(size.short_axis.length_mm, 2),
        ball.extent(lesion.followup.grid),
    )


METHODS: dict[str, Callable[[SizedLesion], Found]] = {
    "outline by rays": _by_outline,
    "region growing and watershed": _by_growing,
    "confidence connected": _by_confidence,
    "unchanged from baseline": _unchanged,
}


def _ball(lesion: SizedLesion, radius_mm: float) -> Surface:
    return ball_surface(lesion.followup, np.array(lesion.match.center_mm), radius_mm)


def _of_extent(extent: Volume) -> Found:
    size = measure_extent(extent)
    if size is None or size.short_axis is None:
        return Found(doubtful=True, note="nothing grown")
    long, short = size.long_axis.length_mm, size.short_axis.length_mm
    return Found(round(long, 2), round(short, 2), extent)


def _dice(extent: Volume | None, truth: Volume | None) -> float | None:
    """Overlap of an extent with the truth, by volume on the truth's grid."""
    if extent is None or truth is None:
        return None
    points = truth.grid.index_to_mm(np.moveaxis(np.indices(truth.grid.shape_zyx), 0, -1))
    index = np.rint(extent.grid.mm_to_index(points)).astype(int)
    inside = np.all((index >= 0) & (index < extent.grid.shape_zyx), axis=-1)
    held = np.zeros(truth.grid.shape_zyx, bool)
    held[inside] = extent.voxels[tuple(index[inside].T)] > 0
    voxel = float(np.prod(truth.grid.spacing_mm))
    own = float(np.count_nonzero(extent.voxels)) * float(np.prod(extent.grid.spacing_mm)) / voxel
    true = truth.voxels > 0
    # what reaches beyond the truth's grid counts too
    return round(float(2 * np.sum(held & true) / (max(own, held.sum()) + true.sum())), 3)


def write_size_rows(rows: Sequence[SizeRow], path: Path) -> None:
    """Store the rows as CSV."""
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, [f.name for f in fields(SizeRow)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    atomic_write(path, out.getvalue())


def size_table(rows: Sequence[SizeRow]) -> str:
    """A table of all rows and one for each group, a line a method, as Markdown."""
    groups: dict[str, list[SizeRow]] = {
        "All lesions": list(rows),
        "In the lung": [row for row in rows if row.lung],
        "In soft tissue": [row for row in rows if not row.lung],
        "Slices of 5 mm or more": [row for row in rows if row.slice_mm >= 5],
        "Real lesions, outlined by readers": [row for row in rows if row.kind == "real"],
    }
    return "\n".join(f"{name}\n\n{_table(part)}" for name, part in groups.items() if part)


HEADER = (
    "| method | n | error mm | error % | within 20 % | short axis % | Dice | left to reader | "
    "without doubt | of these right | ms |\n" + "| --- " * 11 + "|\n"
)


def _table(rows: Sequence[SizeRow]) -> str:
    text = HEADER
    for method in METHODS:
        part = [row for row in rows if row.method == method]
        if part:
            text += f"| {method} | {_line(part)} |\n"
    return text


def _line(rows: Sequence[SizeRow]) -> str:
    """Figures of one method; what vanished counts among "without doubt" alone, as wrong."""
    there = [row for row in rows if row.true_mm is not None]
    sized = [row for row in there if row.long_mm is not None]
    sure = [row for row in rows if row.long_mm is not None and not row.doubtful]
    apart = [abs((row.long_mm or 0) - (row.true_mm or 0)) for row in sized]
    short = [
        abs(row.short_mm / row.true_short_mm - 1)
        for row in sized
        if row.short_mm is not None and row.true_short_mm
    ]
    right = sum(row.error <= RIGHT for row in sized)
    dice = [row.dice for row in sized if row.dice is not None]
    figures = [
        f"{len(there)}",
        f"{np.median(apart):.1f}" if apart else "-",
        f"{100 * np.median([row.error for row in sized]):.0f}" if sized else "-",
        f"{100 * right / len(sized):.0f} %" if sized else "-",
        f"{100 * np.median(short):.0f}" if short else "-",
        f"{np.median(dice):.2f}" if dice else "-",
        f"{100 * (1 - len(sized) / len(there)):.0f} %" if there else "-",
        f"{len(sure)} of {len(rows)}",
        f"{sum(row.error <= RIGHT for row in sure)} ({_percent(sure)})",
        f"{np.median([row.milliseconds for row in rows]):.0f}",
    ]
    return " | ".join(figures)


def _percent(sure: Sequence[SizeRow]) -> str:
    return f"{100 * np.mean([row.error <= RIGHT for row in sure]):.0f} %" if sure else "-"
