"""A tracked study of balls in a folder, whose truth is known, for the tests of the review."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import fakes
import numpy as np
from conftest import write_dicom_series
from fakes import GRID, SHIFT_MM, ball_volume, make_match, make_pair

from tlt.geometry import AffineTransform, Grid
from tlt.io.images import load_volume, save_volume
from tlt.io.matches_csv import write_csv
from tlt.io.results import Result, Software, build_result, write_json
from tlt.io.sources import write_sources
from tlt.lesion import Status
from tlt.pipeline import WRITTEN
from tlt.registration.result import Registration
from tlt.volume import Volume

# In the middle of slices, so that a click in a slice can hit them.
LESIONS = [
    replace(lesion, center_mm=(*lesion.center_mm[:2], z))
    for lesion, z in zip(fakes.LESIONS, (-49.0, -31.0, -79.0), strict=True)
]
STATUSES = (Status.FOUND, Status.LOW_CONFIDENCE, Status.OUTSIDE_FOV)
CONFIDENCES = (0.9, 0.3, 0.0)
SOFTWARE = Software(version="1", tracker="fake", model=None, weights_sha256=None)
# The registration is 3 mm off everywhere: the lesions know better.
TRANSFORM = AffineTransform(np.eye(3), np.array(SHIFT_MM) + 3.0)


def make_folder(
    root: Path, visits: int = 1, dicom: bool = False, grid: Grid = GRID, suffix: str = ".nii.gz"
) -> Path:
    """Images in ``root`` and a folder of results of them: L1 found, L2 doubtful, L3 out of view.

    The same follow-up image serves for several visits. On another grid they are noisy.
    """
    paths = [root / name for name in (("bl", "fu") if dicom else (f"bl{suffix}", f"fu{suffix}"))]
    for path, shift in zip(paths, ((0.0, 0.0, 0.0), SHIFT_MM), strict=True):
        balls = ball_volume(LESIONS, shift, GRID)
        if grid is not GRID:
            balls = noisy(balls.resample(grid, fill=-1000.0))
        if dicom:
            number, date = ("1", "20240101") if path.name == "bl" else ("2", "20240226")
            write_dicom_series(balls, path, series=number, AcquisitionDate=date)
        else:
            save_volume(balls, path)
    baseline, followup = map(load_volume, paths)
    folder = root / "out"
    folder.mkdir()
    result = make_result(baseline, followup, visits)
    write_json(result, folder / "result.json")
    write_csv(result, folder / "matches.csv")
    (folder / WRITTEN).write_text('["matches.csv", "result.json"]')
    write_sources(folder, baseline, [followup] * visits, ("json", "csv"))
    return folder


def noisy(volume: Volume) -> Volume:
    """The volume with the noise of a CT, which compresses badly."""
    noise = np.random.default_rng(0).normal(0, 15, volume.voxels.shape).astype(np.float32)
    return replace(volume, voxels=np.rint(volume.voxels + noise).astype(np.int16))


def make_result(baseline, followup, visits: int = 1) -> Result:
    """What a tracker said of the balls: L2 is 6 mm beside its place."""
    beside = np.add(SHIFT_MM, (6.0, 0.0, 0.0))
    matches = [
        make_match(lesion, status, beside if lesion.id == "L2" else SHIFT_MM, confidence)
        for lesion, status, confidence in zip(LESIONS, STATUSES, CONFIDENCES, strict=True)
    ]
    pair = make_pair(matches)
    pair = type(pair)(matches, Registration(TRANSFORM, "fake", 0.9, True, 0.1), 1.0, pair.features)
    return build_result(baseline, [followup] * visits, [pair] * visits, SOFTWARE)


def truth_mm(lesion_id: str) -> tuple[float, float, float]:
    """Where a ball lies in the follow-up."""
    lesion = next(one for one in LESIONS if one.id == lesion_id)
    x, y, z = np.add(lesion.center_mm, SHIFT_MM).tolist()
    return x, y, z
