"""Small stand-ins: a phantom with balls, and a tracker that knows where they went."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tlt.geometry import AffineTransform, Grid
from tlt.lesion import Lesion, Match, Status
from tlt.registration.result import Registration
from tlt.volume import Volume

GRID = Grid((60, 50, 40), (2.0, 2.0, 3.0), (-60.0, -50.0, -100.0))
SHIFT_MM = (4.0, -6.0, 9.0)
LESIONS = [
    Lesion("L1", (-20.0, -10.0, -50.0), 8.0, "nodule"),
    Lesion("L2", (25.0, 20.0, -30.0), 12.0),
    Lesion("L3", (30.0, -20.0, -80.0), 5.0, "near the edge"),
]


@dataclass(frozen=True)
class PairResult:
    """What a tracker hands back for a pair, without importing the real one."""

    matches: list[Match]
    registration: Registration
    seconds: float
    features: list[dict[str, float] | None]


def ball_volume(lesions, shift_mm=(0.0, 0.0, 0.0), grid=GRID, **fields) -> Volume:
    """Fat with a ball of soft tissue at each lesion, all moved by a shift; x grows brighter."""
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape_zyx), indexing="ij"), -1)
    points = grid.index_to_mm(index)
    voxels = -100.0 + 0.2 * points[..., 0]
    for lesion in lesions:
        distance = np.linalg.norm(points - np.add(lesion.center_mm, shift_mm), axis=-1)
        voxels[distance <= lesion.radius_mm] = 60.0
    return Volume(voxels.astype(np.float32), grid, **fields)


def make_match(lesion, status=Status.FOUND, shift_mm=SHIFT_MM, confidence=0.9, **fields) -> Match:
    """A match moved by a shift, whose prior is where the lesion was."""
    x, y, z = (float(v) for v in np.add(lesion.center_mm, shift_mm))
    center = None if status is Status.OUTSIDE_FOV else (x, y, z)
    return Match(lesion, status, center, confidence, lesion.center_mm, **fields)


def make_pair(matches, seconds=1.5, ok=True, similarity=0.87654321) -> PairResult:
    """A pair's outcome around some matches."""
    registration = Registration(AffineTransform.identity(), "fake", similarity, ok, 0.25)
    matches = list(matches)
    features = [{"confidence": match.confidence} for match in matches]
    return PairResult(matches, registration, seconds, features)


class FakeTracker:
    """Moves every lesion by ``SHIFT_MM``; lesions in ``lost`` are found by nobody.

    It notes each call as (baseline, followup, lesion ids).
    """

    name = "fake"
    model_name = "fake-model"
    weights_sha256 = "ab" * 32

    def __init__(self, lost: dict[int, set[str]] | None = None) -> None:
        self.lost = lost or {}
        self.calls: list[tuple[Volume, Volume, list[str]]] = []
        self.seen: list[Volume] = []

    def track_pair(self, baseline, followup, lesions, progress=None) -> PairResult:
        """Matches of the lesions in the follow-up."""
        if progress is not None:
            progress("track", 1.0)
        self.calls.append((baseline, followup, [lesion.id for lesion in lesions]))
        if not any(volume is followup for volume in self.seen):
            self.seen.append(followup)
        lost = self.lost.get(len(self.seen), set())
        return make_pair(
            make_match(x, Status.NOT_FOUND if x.id in lost else Status.FOUND) for x in lesions
        )


def oblique(grid: Grid, degrees: float = 20.0) -> Grid:
    """The grid turned about all its axes, around its own centre."""
    angle = np.radians(degrees)
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array(
        [[1, 0, 0], [0, c, -s], [0, s, c]]
    )
    turned = replace(grid, direction=tuple(turn.ravel()))
    origin = np.array(turned.origin_mm) + grid.center_mm - turned.center_mm
    return replace(turned, origin_mm=tuple(origin))
