"""``tlt experiment``: the tables and fits of docs/results.md."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Measure: benchmark, calibration.")

Data = Annotated[Path, typer.Option("--data", metavar="FOLDER", help="CTs to simulate from.")]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="PATH", help="Where it goes.")]
Trackers = Annotated[
    list[str], typer.Option("--tracker", metavar="NAME", help="Repeat for several.")
]
DEFAULT = ["affine", "patch", "tlt-network", "tlt"]
Model = Annotated[
    str | None, typer.Option("--model", metavar="NAME_OR_PATH", help="Weights; default shipped.")
]


@app.command()
def benchmark(
    data: Data,
    output: Output,
    pairs: Annotated[int, typer.Option(metavar="N", help="Simulated pairs.")] = 12,
    seed: Annotated[int, typer.Option(metavar="N", help="Version of the benchmark.")] = 2022,
    trackers: Trackers = DEFAULT,
    model: Model = None,
) -> None:
    """Trackers on the same simulated pairs: rows.json and table.md in a folder."""
    from tlt.experiments import benchmark as run
    from tlt.experiments import chosen_trackers, comparisons, tables
    from tlt.io.files import atomic_write
    from tlt.rows import write_rows

    chosen = chosen_trackers(trackers, model, calibrated=True)

    def save(outcomes) -> None:
        write_rows(outcomes, output / "rows.json")

    outcomes = run(chosen, data, pairs, seed, _say, save)
    text = tables(outcomes) + "\n" + comparisons(outcomes)
    atomic_write(output / "table.md", text)
    print(text)


@app.command()
def calibrate(
    data: Data,
    output: Output,
    pairs: Annotated[int, typer.Option(metavar="N", help="Simulated pairs.")] = 30,
    seed: Annotated[int, typer.Option(metavar="N", help="Not that of the benchmark.")] = 7,
    trackers: Trackers = DEFAULT,
    model: Model = None,
) -> None:
    """Fit each tracker's confidence on simulated pairs; goes into confidence.json."""
    from tlt.experiments import calibrate as run
    from tlt.experiments import chosen_trackers, write_calibrations

    chosen = chosen_trackers(trackers, model, calibrated=False)
    write_calibrations(run(chosen, data, pairs, seed, _say), output)
    print(output)


def _say(line: str) -> None:
    import sys

    print(line, file=sys.stderr, flush=True)
