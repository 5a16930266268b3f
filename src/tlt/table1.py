"""The paper's Table 1: every system on the same simulated pairs, from the same affine prior.

What has been measured stays in the output folder: trackers are run one by one, when they are ready,
and the table is made of all rows that are there.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tlt.errors import UsageError
from tlt.evaluate import Case, Outcome, Report, evaluate, simulated_cases
from tlt.experiments import chosen_trackers
from tlt.io.files import atomic_write
from tlt.io.images import load_volume, save_volume
from tlt.lesion import Lesion
from tlt.metrics import LesionRow
from tlt.rows import read_rows, write_rows
from tlt.scores import aligned, score
from tlt.track import Tracker

FIRST = "tlt"  # the system that the others are compared with
HEADINGS = [
    *("system", "n", "CPM@10mm %", "CPM@Radius %", "MED X mm", "MED Y mm", "MED Z mm", "MED mm"),
    *("median", "p95", "s/lesion", "peak MiB", "p MED", "p CPM"),
    *("paper: CPM@10mm", "CPM@Radius", "MED"),
]


@dataclass(frozen=True)
class PaperRow:
    """A row of the paper's Table 1, on DLS: CPM in %, MED in mm as mean and deviation."""

    cpm_10mm: float
    cpm_radius: float
    med_mm: float
    med_std_mm: float


PAPER = {
    "affine": PaperRow(48.33, 65.21, 11.2, 9.9),
    "voxelmorph": PaperRow(49.90, 65.59, 10.9, 10.9),
    "lens-lesiongraph": PaperRow(63.85, 80.42, 8.0, 10.1),
    "vuld-lesiongraph": PaperRow(64.69, 76.56, 9.3, 10.9),
    "vuld-lesanet": PaperRow(65.00, 77.81, 9.1, 10.8),
    "siamrpn": PaperRow(68.85, 80.31, 8.3, 9.2),
    "lens-lesanet": PaperRow(70.00, 84.58, 7.8, 10.3),
    "deeds": PaperRow(71.88, 85.52, 7.4, 8.1),
    "dlt-mix": PaperRow(78.65, 88.75, 7.1, 9.2),
    "dlt": PaperRow(78.85, 86.88, 7.0, 8.9),
    "transt": PaperRow(79.59, 88.99, 7.6, 7.9),
    "tlt": PaperRow(87.37, 95.32, 6.0, 7.7),
}


def run_table1(
    names: Sequence[str],
    data: Path,
    pairs: int,
    seed: int,
    output: Path,
    report: Report | None = None,
) -> str:
    """Measure trackers, beside those measured before; the table of all as Markdown.

    ``rows.json``, ``memory.json``, ``table1.json`` and ``table1.md`` go into the output folder.

    Raises:
        UsageError: a name that is none, or the folder holds rows of other pairs.
        ModelError: a tracker cannot be used.
    """
    trackers = chosen_trackers(names, None, calibrated=True)
    _the_same_pairs(output, {"data": data.resolve().name, "pairs": pairs, "seed": seed})
    known = measured_rows(output)

    def save(outcomes: dict[str, list[Outcome]]) -> None:
        write_rows(outcomes, output / "rows.part.json")

    outcomes = evaluate(trackers, simulated_cases(data, pairs, seed), report, save)
    write_rows(outcomes, output / "rows.part.json")
    fresh = json.loads((output / "rows.part.json").read_text())
    old = json.loads((output / "rows.json").read_text()) if known else {}
    atomic_write(output / "rows.json", json.dumps(old | fresh, indent=1) + "\n")
    (output / "rows.part.json").unlink()
    memory = peak_memory(names, next(simulated_cases(data, 1, seed)))
    path = output / "memory.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    atomic_write(path, json.dumps(before | memory, indent=1) + "\n")
    lines = table_lines(measured_rows(output), before | memory)
    atomic_write(output / "table1.json", json.dumps(lines, indent=1) + "\n")
    text = table_text(lines)
    atomic_write(output / "table1.md", text)
    return text


def _the_same_pairs(output: Path, benchmark: dict[str, Any]) -> None:
    """Rows of one folder are of the same pairs."""
    path, text = output / "benchmark.json", json.dumps(benchmark, indent=1) + "\n"
    if path.exists() and path.read_text() != text:
        raise UsageError(f"{output}: holds rows of other pairs (benchmark.json); choose another")
    atomic_write(path, text)


def measured_rows(output: Path) -> dict[str, list[LesionRow]]:
    """The rows of every tracker that a folder holds."""
    path = output / "rows.json"
    if not path.exists():
        return {}
    return {name: read_rows(path, name) for name in json.loads(path.read_text())}


def peak_memory(names: Sequence[str], case: Case) -> dict[str, float]:
    """Peak resident memory, in MiB, of reading and tracking a pair, each tracker in a process."""
    study = case.study
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("baseline.nii.gz", "followup.nii.gz")]
        for volume, path in zip((study.baseline, study.followup), paths, strict=True):
            save_volume(volume, path)
        found = {}
        for name in names:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                found[name] = pool.submit(_peak_mib, name, paths, study.lesions).result()
    return found


def _peak_mib(name: str, paths: Sequence[Path], lesions: Sequence[Lesion]) -> float:
    """What this process needed at most, once a pair is tracked."""
    baseline, followup = (load_volume(path) for path in paths)
    Tracker.load(name).track_pair(baseline, followup, lesions)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def table_lines(
    rows: dict[str, list[LesionRow]], memory_mib: dict[str, float]
) -> list[dict[str, Any]]:
    """The figures of each tracker, the best first, with tests against TLT and the paper's row."""
    lines = []
    for name, own in rows.items():
        tested = FIRST in rows and name != FIRST
        lines.append(
            {
                "name": name,
                **score(own, rows[FIRST] if tested else None),
                "peak_mib": memory_mib.get(name),
                "paper_dls": asdict(PAPER[name]) if name in PAPER else None,
            }
        )
    return sorted(lines, key=lambda line: -line["cpm_10mm"])


def table_text(lines: Sequence[dict[str, Any]]) -> str:
    """The figures of `table_lines` as a Markdown table."""
    return aligned([HEADINGS, *(_cells(line) for line in lines)])


def _cells(line: dict[str, Any]) -> list[str]:
    def mean(name: str) -> str:
        return f"{_told(line[f'{name}_mm'], '.2f')} ± {_told(line[f'{name}_std_mm'], '.2f')}"

    tests, paper = line.get("comparison"), line["paper_dls"]
    return [
        *(line["name"], str(line["n"])),
        *(_told(line[name], ".2f") for name in ("cpm_10mm", "cpm_radius")),
        *(mean(name) for name in ("med_x", "med_y", "med_z", "med")),
        *(_told(line["median_mm"], ".2f"), _told(line["p95_mm"], ".1f")),
        *(_told(line["seconds"], ".2f"), _told(line["peak_mib"], ".0f")),
        *(_told(tests and tests[name], ".1g") for name in ("p_lesions", "p_mcnemar")),
        *(_told(paper and paper[name], ".2f") for name in ("cpm_10mm", "cpm_radius")),
        f"{paper['med_mm']} ± {paper['med_std_mm']}" if paper else "-",
    ]


def _told(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
