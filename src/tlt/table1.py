"""The paper's Table 1: every system on the same simulated pairs, from the same affine prior.

What has been measured stays in the output folder: trackers are run one by one, when they are ready,
and the table is made of all rows that are there.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tlt.data.dls import read_json
from tlt.errors import InputError, UsageError
from tlt.evaluate import Outcome, Report, evaluate, simulated_cases
from tlt.experiments import chosen_trackers
from tlt.geometry import Triple
from tlt.io.files import atomic_write
from tlt.io.images import ct_files
from tlt.io.output import check_writable
from tlt.metrics import LesionRow
from tlt.peak_memory import peak_memory
from tlt.rows import read_every_row, rows_content
from tlt.scores import aligned, score
from tlt.systems import TRACKERS
from tlt.track import Tracker

FIRST = "tlt"  # the system that the others are compared with
HEADINGS = [
    *("system", "n", "CPM@10mm %", "CPM@Radius %", "MED X mm", "MED Y mm", "MED Z mm", "MED mm"),
    *("median", "p95", "s/lesion", "peak MiB", "p MED"),
    *("paper: CPM@10mm", "paper: CPM@Radius", "paper: MED"),
]
TEST_HEADINGS = [
    *(f"`{FIRST}` against", "MED mm", "p MED", "p MED, patients"),
    *("only it right", f"only `{FIRST}` right", "p CPM", "p CPM, McNemar"),
]
LANDMARK = "structure"  # the kind of a lesion that is none (`tlt.data.followup`)
BENCHMARK, ROWS, MADE = "benchmark.json", "rows.json", "trackers.json"
FILES = (BENCHMARK, ROWS, MADE, "table1.json", "table1.md")  # what an output folder holds
SAME_MM = 0.1  # by how much truth and prior of a lesion may differ between two trackers


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
PAPER["tlt-network"] = PAPER["tlt"]


def run_table1(
    names: Sequence[str],
    data: Path,
    pairs: int,
    seed: int,
    output: Path,
    report: Report | None = None,
    model: str | None = None,
    row: str | None = None,
) -> str:
    """Measure trackers, beside those measured before; the table of all as Markdown.

    With ``model``, weights that take the place of a single tracker's own, its row is called
    ``row``. The files of `FILES` in the output folder are replaced when all is measured; a run
    that is interrupted leaves them as they were.

    Raises:
        UsageError: a name that is none, or the folder holds rows of other pairs.
        InputError: no CTs, an output that cannot be written, or files there that cannot be read.
        ModelError: a tracker cannot be used.
    """
    _check_row(names, model, row)
    check_writable(output)
    ct_files(data)
    trackers = chosen_trackers(names, model, calibrated=True)
    makers = {row or tracker.name: tracker.name for tracker in trackers}
    for tracker in trackers:
        tracker.name = row or tracker.name
    benchmark = {"data": data.resolve().name, "pairs": pairs, "seed": seed}
    known, made = measured_before(output, benchmark)
    kept = {name: own for name, own in known.items() if name not in makers}

    def check(outcomes: Mapping[str, Sequence[Outcome]], whole: bool = False) -> None:
        for name, every in outcomes.items():
            check_alike(name, [outcome.row for outcome in every], kept, whole)

    outcomes = evaluate(trackers, simulated_cases(data, pairs, seed), report, check)
    check(outcomes, whole=True)
    peaks = peak_memory(makers, next(simulated_cases(data, 1, seed)), model)
    made |= {
        t.name: {"tracker": makers[t.name], "peak_mib": peaks[t.name], **made_by(t)}
        for t in trackers
    }
    return _store(output, benchmark, outcomes, made)


def _store(
    output: Path,
    benchmark: dict[str, Any],
    outcomes: Mapping[str, Sequence[Outcome]],
    made: dict[str, Any],
) -> str:
    """Write every file of a folder, its earlier rows among them; the table as Markdown."""
    atomic_write(output / BENCHMARK, _json(benchmark))
    atomic_write(output / MADE, _json(made))
    atomic_write(output / ROWS, _json(_facts(output / ROWS) | rows_content(outcomes)))
    rows = measured_rows(output)
    lines = table_lines(rows, made)
    atomic_write(output / "table1.json", _json(lines))
    patients = {one.patient for own in rows.values() for one in own}
    text = heading(benchmark, len(patients), lines) + table_text(lines)
    atomic_write(output / "table1.md", text)
    return text


def _json(content: Any) -> str:
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _check_row(names: Sequence[str], model: str | None, row: str | None) -> None:
    """Raises UsageError where a row of other weights has no name of its own, or would break it."""
    if (model is None) != (row is None) or (model is not None and len(names) != 1):
        raise UsageError("--model and --row go together, with one --tracker; give all three")
    if row is None:
        return
    if row in TRACKERS:
        raise UsageError(f"--row {row}: the name of a tracker; call the row of --model otherwise")
    if not re.fullmatch(r"[\w.+-]+", row):
        raise UsageError(f"--row '{row}': letters, digits and . _ + - only; call it otherwise")


def heading(benchmark: Mapping[str, Any], patients: int, lines: Sequence[Mapping[str, Any]]) -> str:
    """What a table is of, as Markdown: pairs, and the versions that measured its rows."""
    versions = sorted({line["tlt"] for line in lines if "tlt" in line})
    return (
        f"# Table 1\nSimulated pairs: {benchmark['pairs']}; CTs: {patients} "
        f"({benchmark['data']}, seed {benchmark['seed']}); tlt {', '.join(versions)}.\n\n"
    )


def made_by(tracker: Tracker) -> dict[str, Any]:
    """What a row comes from: version and weights, the latter by the names of their files."""
    models = None if tracker.model_name is None else tracker.model_name.split(",")
    return {
        "tlt": version("transformer-lesion-tracker"),
        "model": models and ",".join(Path(name).stem for name in models),
        "weights_sha256": tracker.weights_sha256,
    }


def measured_before(
    output: Path, benchmark: dict[str, Any]
) -> tuple[dict[str, list[LesionRow]], dict[str, Any]]:
    """The rows that a folder holds, and what each was made by.

    Raises:
        UsageError: they are of another benchmark. InputError: a file cannot be read.
    """
    rows = measured_rows(output)
    if not rows:
        return {}, {}
    there, made = (_facts(output / name) for name in (BENCHMARK, MADE))
    if there != benchmark:
        said = ", ".join(f"{key} {value}" for key, value in there.items()) or "unknown pairs"
        raise UsageError(
            f"{output}: holds rows of {said}; give the same, or choose another --output"
        )
    return rows, made


def _facts(path: Path) -> dict[str, Any]:
    """What a file of facts holds; nothing where it is not there."""
    content = read_json(path) if path.exists() else {}
    if not isinstance(content, dict):
        raise InputError(
            f"{path}: not what 'tlt experiment table1' writes; choose another --output"
        )
    return content


def check_alike(
    name: str,
    rows: Sequence[LesionRow],
    known: Mapping[str, Sequence[LesionRow]],
    whole: bool = False,
) -> None:
    """Raises UsageError where a tracker's lesions are not those that others were measured on.

    ``whole`` says that all pairs are done, so that none may be lacking. The pairs are made anew
    each time: with another version of the simulator or of the registration lesions of the same
    name have another truth or prior, and cannot be compared.
    """
    for other, every in known.items():
        before = {(row.pair, row.lesion): row for row in every}
        for row in rows:
            old = before.get((row.pair, row.lesion))
            if old is None or not (
                _same_place(row.truth_mm, old.truth_mm) and _same_place(row.prior_mm, old.prior_mm)
            ):
                raise UsageError(
                    f"{row.lesion} of {row.pair} lies elsewhere, or starts elsewhere, for '{name}' "
                    f"than for '{other}', which another version measured; choose another --output"
                )
        if whole and len(before) != len(rows):
            raise UsageError(
                f"'{other}' was measured on {len(before)} lesions, '{name}' on {len(rows)}; "
                "choose another --output"
            )


def _same_place(one: Triple | None, other: Triple | None) -> bool:
    """Whether two points are one; an unknown one may be any."""
    return one is None or other is None or math.dist(one, other) < SAME_MM


def measured_rows(output: Path) -> dict[str, list[LesionRow]]:
    """The rows of every tracker that a folder holds."""
    path = output / ROWS
    return read_every_row(path) if _facts(path) else {}


def table_lines(
    rows: Mapping[str, Sequence[LesionRow]], made: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The figures of each tracker, the best first, with tests against TLT and the paper's row.

    ``made`` is what is known of the making of each row: its ``tracker`` (the row's name where
    that is not known), ``peak_mib``, version and weights.
    ``lesions`` has the figures without landmarks, which no detector of lesions can find, and which
    DLS does not ask for; None where that is all or nothing.
    """
    lesions = {name: [r for r in own if r.kind != LANDMARK] for name, own in rows.items()}
    lines = []
    for name, own in rows.items():
        origin = made.get(name, {}).get("tracker", name)
        tested = FIRST in rows and name != FIRST
        part = lesions[name] if 0 < len(lesions[name]) < len(own) else None
        lines.append(
            {
                "name": name,
                **score(own, rows[FIRST] if tested else None),
                "lesions": part and score(part, lesions[FIRST] if tested else None),
                "peak_mib": None,
                **made.get(name, {}),
                "paper_dls": asdict(PAPER[origin]) if origin in PAPER else None,
            }
        )
    return sorted(lines, key=lambda line: -line["cpm_10mm"])


def table_text(lines: Sequence[dict[str, Any]]) -> str:
    """The figures of `table_lines` as Markdown: tables, and what a reader must know of them."""
    text = _tables(lines)
    parts = [{**line, **line["lesions"]} for line in lines if line["lesions"]]
    if parts:
        parts.sort(key=lambda line: -line["cpm_10mm"])
        text += "\nThe lesions among them alone, without landmarks:\n\n" + _tables(parts)
    return text + "\n" + "".join(f"- {note}\n" for note in _notes(lines))


def _tables(lines: Sequence[dict[str, Any]]) -> str:
    """The figures, and, where there are any, the tests against TLT."""
    text = aligned([HEADINGS, *(_cells(line) for line in lines)])
    tested = [_test_cells(line) for line in lines if line.get("comparison")]
    return text + "\n" + aligned([TEST_HEADINGS, *tested]) if tested else text


def _notes(lines: Sequence[dict[str, Any]]) -> list[str]:
    """What a reader must know of the rows that are there."""
    names = {line.get("tracker", line["name"]) for line in lines}
    found = []
    if any(line.get("comparison") for line in lines):
        found.append(
            f"p MED: paired t-test of the errors of `{FIRST}` and of the row's tracker, over "
            "lesions (as in the paper) and over the means of patients; p CPM: of CPM@10mm, the "
            "t-test over lesions and exact McNemar. Lesions of one patient are not independent: "
            "the test over patients is the careful one, and of few patients it says little. MED "
            f"mm: `{FIRST}` minus the other, where both answered."
        )
    if names & {FIRST, f"{FIRST}-network"}:
        found.append(
            f"`{FIRST}` has a last step of ours, `{FIRST}-network` lacks that. Also ours: the "
            "similarity of a learned embedding in that network. The paper's row of TLT stands "
            "beside every row of these."
        )
    if any(name.startswith(("lens-", "vuld-")) for name in names):
        found.append(
            "A detector finds lesions, and no landmarks: `lens-` and `vuld-` are to be judged by "
            "the lesions alone, as DLS does."
        )
    if any(line["paper_dls"] for line in lines):
        found.append(
            "The paper's columns are on DLS, real pairs, with networks trained on them: compare "
            "the order and the differences, not the values."
        )
    missed = {line["name"]: line["n"] - line["answered"] for line in lines}
    told = ", ".join(f"{count} of `{name}`" for name, count in missed.items() if count)
    if told:
        found.append(f"Without an answer, so wrong in CPM and not in MED: {told}.")
    weights = [f"`{line['name']}` {_weights(line)}" for line in lines if line.get("model")]
    if weights:
        found.append(f"Weights: {', '.join(weights)}.")
    return found


def _weights(line: dict[str, Any]) -> str:
    """Names and the beginnings of hashes of a row's weights."""
    files = zip(line["model"].split(","), line["weights_sha256"].split(","), strict=True)
    return " + ".join(f"{name} {sha256[:8]}" for name, sha256 in files)


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
        _told(tests and tests["p_lesions"], ".1g"),
        *(_told(paper and paper[name], ".2f") for name in ("cpm_10mm", "cpm_radius")),
        f"{paper['med_mm']} ± {paper['med_std_mm']}" if paper else "-",
    ]


def _test_cells(line: dict[str, Any]) -> list[str]:
    tests = line["comparison"]
    apart = tests["med_difference_mm"]
    return [
        *(f"`{line['name']}`", _told(apart and -apart, "+.2f")),
        *(_told(tests[name], ".2g") for name in ("p_lesions", "p_patients")),
        *(str(tests[name]) for name in ("first_only", "second_only")),
        *(_told(tests[name], ".2g") for name in ("p_cpm_lesions", "p_mcnemar")),
    ]


def _told(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
