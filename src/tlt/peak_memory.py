"""How much memory a tracker needs at most, each measured in a process of its own."""

from __future__ import annotations

import multiprocessing
import resource
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from tlt.errors import InputError
from tlt.evaluate import Case
from tlt.io.images import load_volume, save_volume
from tlt.lesion import Lesion
from tlt.track import Tracker


def peak_memory(
    makers: Mapping[str, str], case: Case, model: str | None = None
) -> dict[str, float | None]:
    """Peak resident memory, in MiB, of reading and tracking a pair, each tracker in a process.

    ``makers`` are the trackers by the names of their rows; ``model`` takes the place of weights.
    None for one whose process was ended, as for want of memory, or where the pair is refused: what
    is measured beside it stays.
    """
    study = case.study
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("baseline.nii.gz", "followup.nii.gz")]
        for volume, path in zip((study.baseline, study.followup), paths, strict=True):
            save_volume(volume, path)
        found: dict[str, float | None] = {}
        for row, name in makers.items():
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                peak = pool.submit(_track_peak, name, model, paths, study.lesions)
                try:
                    found[row] = peak.result()
                except (BrokenProcessPool, InputError):
                    found[row] = None
    return found


def _track_peak(
    name: str, model: str | None, paths: Sequence[Path], lesions: Sequence[Lesion]
) -> float:
    """What this process needed at most, in MiB, once a pair is tracked."""
    baseline, followup = (load_volume(path) for path in paths)
    Tracker.load(name, model, device="cpu").track_pair(baseline, followup, lesions)
    return own_peak_mib()


def own_peak_mib() -> float:
    """What this process had in memory at most, in MiB, since its program was started.

    Not `resource.getrusage` where there is better: on Linux a new process inherits the peak of the
    one that started it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        peaks = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        if peaks:
            return int(peaks[0].split()[1]) / 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
