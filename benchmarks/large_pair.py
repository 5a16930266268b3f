"""Time and peak memory of ``tlt track`` on a 512 x 512 x 400 pair, as JSON.

    python benchmarks/large_pair.py CT.nii.gz [--tracker tlt]

The CT is resampled to that size, shifted for the follow-up, and tracked by the command line in a
process of its own: start-up, reading, registration, pictures and report included.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from tlt.geometry import Grid
from tlt.io.images import load_volume, save_volume
from tlt.lesion import Lesion
from tlt.volume import Volume

SIZE_XYZ = (512, 512, 400)
LESIONS = 5


def enlarged(volume: Volume) -> Volume:
    """The volume on its own extent with 512 x 512 x 400 voxels, int16."""
    low, high = volume.grid.bounds_mm()
    spacing = (high - low) / (np.array(SIZE_XYZ) - 1)
    x, y, z = (float(v) for v in spacing)
    grid = Grid(SIZE_XYZ, (x, y, z), tuple(low.tolist()))
    return Volume(volume.resample(grid).voxels.astype(np.int16), grid)


def write_pair(volume: Volume, folder: Path) -> None:
    """The pair and a few lesions in soft tissue, as files."""
    from tlt.io.lesions import write_lesions_csv

    big = enlarged(volume)
    save_volume(big, folder / "baseline.nii.gz")
    shifted = np.array(big.grid.origin_mm) + np.array([7.0, -5.0, 9.0])
    origin = tuple(shifted.tolist())
    save_volume(Volume(big.voxels, replace(big.grid, origin_mm=origin)), folder / "followup.nii.gz")
    rng = np.random.default_rng(0)
    inside = np.argwhere(big.voxels[::20, ::20, ::20] > 0) * 20
    chosen = big.grid.index_to_mm(inside[rng.choice(len(inside), LESIONS, replace=False)])
    lesions = [Lesion(f"L{i}", tuple(point.tolist()), 8.0) for i, point in enumerate(chosen)]
    write_lesions_csv(lesions, folder / "lesions.csv")


def main() -> None:
    """Make the pair, track it in a child process and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ct")
    parser.add_argument("--tracker", default="tlt")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pair(load_volume(arguments.ct), folder)
        names = {"baseline": "baseline.nii.gz", "followup": "followup.nii.gz"}
        names |= {"lesions": "lesions.csv", "output": "out"}
        files = [f"--{option}={folder / file}" for option, file in names.items()]
        command = [sys.executable, "-m", "tlt.cli.main", "track", *files]
        start = time.perf_counter()
        subprocess.run([*command, "--tracker", arguments.tracker], check=True)
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(
        json.dumps({"size_xyz": SIZE_XYZ, "seconds": round(seconds, 1), "peak_gib": round(peak, 2)})
    )


if __name__ == "__main__":
    main()
