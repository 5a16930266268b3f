"""Lesions with diameters and voxels in a small DICOM series of any orientation."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import make_phantom, torso_grid, write_dicom_series

from tlt.geometry import Grid
from tlt.io.images import load_volume
from tlt.lesion import Axis, Lesion, Match, Role, Size, Status
from tlt.volume import Volume


def need(*programs: str) -> None:
    """Skip where a system program is missing, unless TLT_TEST_ALL=1 forbids it."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing and os.environ.get("TLT_TEST_ALL") != "1":
        pytest.skip(f"{missing[0]} is not installed")
    assert not missing, f"{missing} not installed, but TLT_TEST_ALL=1"


def ran(*command: object) -> str:
    """What a program printed on both streams; it must succeed."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def assert_valid(path: Path) -> None:
    """No error of dciodvfy in an object."""
    need("dciodvfy")
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
    said = (done.stdout + done.stderr).splitlines()
    assert [line for line in said if line.startswith("Error")] == []
    assert said


def series(
    folder: Path, direction: tuple[float, ...], name: str = "1", **changes: object
) -> Volume:
    """A DICOM series of 40 x 32 x 24 voxels, read back."""
    grid = torso_grid((40, 32, 24), (8.0, 7.5, 5.0), direction, (5, -7, 300))
    write_dicom_series(make_phantom(grid), folder, series=name, **changes)
    return load_volume(folder)


def at(grid: Grid, z: float, y: float, x: float) -> tuple[float, float, float]:
    x_mm, y_mm, z_mm = grid.index_to_mm((z, y, x)).tolist()
    return x_mm, y_mm, z_mm


def marked(grid: Grid) -> list[Lesion]:
    """A target with both axes in one slice, a node with one axis, a point between slices."""
    both = Size(
        Axis(at(grid, 10, 15, 10), at(grid, 10, 15, 14.25)),
        Axis(at(grid, 10, 14, 12), at(grid, 10, 16.5, 12)),
        volume_mm3=1234.5,
    )
    one = Size(Axis(at(grid, 17, 9.5, 20.25), at(grid, 17, 12, 22)), by_reader=True)
    middle = (np.add(one.long_axis.start_mm, one.long_axis.end_mm) / 2).tolist()
    return [
        Lesion("L1", at(grid, 10, 15, 12.125), both.long_axis.length_mm / 2, "Knötchen",
               size=both, site="Liver", role=Role.TARGET),
        Lesion("L 2", tuple(middle), one.long_axis.length_mm / 2, size=one, nodal=True),
        Lesion("L3", at(grid, 5.4, 10.2, 20.7), 9.0, "no size"),
    ]  # fmt: skip


def ball(grid: Grid, center_mm: tuple, radius_mm: float) -> Volume:
    """The voxels of a ball on the part of the grid that holds it."""
    middle = np.round(grid.mm_to_index(center_mm)).astype(int)
    half = np.ceil(radius_mm / np.array(grid.spacing_mm)[::-1]).astype(int)
    low = np.maximum(middle - half, 0)
    part = grid.cropped(low, np.minimum(middle + half + 1, grid.shape_zyx) - low)
    points = part.index_to_mm(np.moveaxis(np.indices(part.shape_zyx), 0, -1))
    inside = np.linalg.norm(points - np.array(center_mm), axis=-1) <= radius_mm
    return Volume(inside.astype(np.uint8), part)


def joined(grid: Grid, *parts: Volume) -> Volume:
    """The voxels of several parts of a grid on the whole of it."""
    mask = np.zeros(grid.shape_zyx, np.uint8)
    for part in parts:
        low = np.round(grid.mm_to_index(part.grid.origin_mm)).astype(int)
        mask[tuple(slice(a, a + n) for a, n in zip(low, part.voxels.shape, strict=True))] |= (
            part.voxels
        )
    return Volume(mask, grid)


def centroid(extent: Volume) -> np.ndarray:
    return extent.grid.index_to_mm(np.argwhere(extent.voxels)).mean(0)


def found(lesions: list[Lesion]) -> list[Match]:
    """The lesions at their own place as found, with their size."""
    return [
        Match(x, Status.FOUND, x.center_mm, 0.9, x.center_mm, x.radius_mm, x.size) for x in lesions
    ]


def with_extents(matches: list[Match], grid: Grid) -> list[Match]:
    return [replace(m, extent=ball(grid, m.center_mm, m.radius_mm)) for m in matches]
