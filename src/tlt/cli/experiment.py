"""``tlt experiment``: the tables and fits of docs/results.md."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    help="Measure: benchmark, calibration, the paper's ablations, attention maps.",
)

Data = Annotated[Path, typer.Option("--data", metavar="FOLDER", help="CTs to simulate from.")]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="PATH", help="Where it goes.")]
Trackers = Annotated[
    list[str], typer.Option("--tracker", metavar="NAME", help="Repeat for several.")
]
DEFAULT = ["affine", "patch", "tlt-network", "tlt"]
Model = Annotated[
    str | None, typer.Option("--model", metavar="NAME_OR_PATH", help="Weights; default shipped.")
]
Config = Annotated[
    Path, typer.Option("--config", metavar="FILE", help="Training of every variant; YAML.")
]
AnyData = Annotated[
    Path,
    typer.Option(
        "--data", metavar="PATH", help="CTs to simulate from, a folder of pairs, or a list of DLS."
    ),
]
Images = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="NIfTI sub-volumes of a DLS list.")
]
Pairs = Annotated[int, typer.Option(metavar="N", min=1, help="Simulated pairs.")]
Seed = Annotated[int, typer.Option(metavar="N", help="Version of the simulated pairs.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with variants whose training was interrupted.")
]
Jobs = Annotated[
    int, typer.Option(metavar="N", min=1, help="Variants trained at a time, a thread each.")
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
    """Trackers on the same simulated pairs: rows.json and table.md in a new folder.

    What the columns mean: docs/evaluation.md.
    """
    from tlt.errors import UsageError
    from tlt.experiments import benchmark as run
    from tlt.experiments import chosen_trackers, comparisons, made_of, tables
    from tlt.io.files import atomic_write
    from tlt.io.output import check_writable
    from tlt.rows import write_rows

    if (output / "rows.json").exists():
        raise UsageError(f"{output}: holds a benchmark (rows.json); choose another --output")
    check_writable(output)
    chosen = chosen_trackers(trackers, model, calibrated=True)

    def save(outcomes) -> None:
        write_rows(outcomes, output / "rows.json")

    outcomes = run(chosen, data, pairs, seed, _say, save)
    text = f"{made_of(chosen, data, pairs, seed)}\n{tables(outcomes)}\n{comparisons(outcomes)}"
    atomic_write(output / "table.md", text)
    print(text)


@app.command()
def table1(
    data: Data,
    output: Output,
    pairs: Pairs = 40,
    seed: Seed = 2022,
    trackers: Annotated[
        list[str] | None,
        typer.Option("--tracker", metavar="NAME", help="Only this one; repeat for several."),
    ] = None,
    model: Model = None,
    row: Annotated[
        str | None, typer.Option(metavar="NAME", help="Row of the weights that --model gives.")
    ] = None,
) -> None:
    """Table 1: every tracker on the same simulated pairs; those measured before are kept.

    What the columns mean: docs/experiments.md.
    """
    from tlt.systems import TRACKERS
    from tlt.table1 import run_table1

    chosen = trackers or list(TRACKERS)
    print(run_table1(chosen, data, pairs, seed, output, _say, model, row))


@app.command()
def calibrate(
    data: Data,
    output: Output,
    pairs: Annotated[int, typer.Option(metavar="N", help="Simulated pairs.")] = 30,
    seed: Annotated[int, typer.Option(metavar="N", help="Not that of the benchmark.")] = 7,
    trackers: Trackers = DEFAULT,
    model: Model = None,
) -> None:
    """Fit each tracker's confidence on simulated pairs; --output is a file, confidence.json.

    Beside the weights that --model names, it is used whenever they are.
    """
    from tlt.experiments import calibrate as run
    from tlt.experiments import chosen_trackers, write_calibrations

    chosen = chosen_trackers(trackers, model, calibrated=False)
    write_calibrations(run(chosen, data, pairs, seed, _say), output)
    print(output)


@app.command()
def sizes(
    data: Data,
    output: Output,
    pairs: Annotated[int, typer.Option(metavar="N", min=1, help="Simulated pairs.")] = 20,
    seed: Seed = 2022,
    tracker: Annotated[str, typer.Option(metavar="NAME", help="What finds the lesions.")] = "tlt",
    model: Model = None,
) -> None:
    """Sizes at follow-up against the truth: sizes.csv and sizes.md in a new folder."""
    from tlt.errors import UsageError
    from tlt.io.files import atomic_write
    from tlt.io.output import check_writable
    from tlt.size_experiment import SizeRow, run_sizes, size_table, write_size_rows
    from tlt.track import Tracker

    if (output / "sizes.csv").exists():
        raise UsageError(f"{output}: holds sizes (sizes.csv); choose another --output")
    check_writable(output)
    rows: list[SizeRow] = []
    for row in run_sizes(data, pairs, seed, Tracker.load(tracker, model, "cpu"), _say):
        rows.append(row)
        write_size_rows(rows, output / "sizes.csv")
    atomic_write(output / "sizes.md", size_table(rows))
    print(size_table(rows))


@app.command()
def attention(
    baseline: Annotated[Path, typer.Option(metavar="PATH", help="CT with the lesions.")],
    lesions: Annotated[Path, typer.Option(metavar="FILE", help="The lesions in it.")],
    followup: Annotated[Path, typer.Option(metavar="PATH", help="CT to find them in.")],
    output: Output,
    lesion: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Only this one; repeat for several.")
    ] = None,
    model: Model = None,
) -> None:
    """Figure S1: where the network looks, a PNG a lesion."""
    from tlt.attention_maps import draw_attention

    for path in draw_attention(baseline, lesions, followup, output, lesion, model):
        print(path)


def _variants_command(experiment: str) -> Callable[..., None]:
    """The command that runs one of `tlt.ablation.EXPERIMENTS` and prints its table."""

    def command(
        config: Config,
        data: AnyData,
        output: Output,
        images: Images = None,
        pairs: Pairs = 12,
        seed: Seed = 2022,
        resume: Resume = False,
        jobs: Jobs = 1,
    ) -> None:
        from tlt.ablation import run_experiment
        from tlt.training.config import read_config

        settings = read_config(config)
        print(
            run_experiment(
                experiment, settings, data, output, images, pairs, seed, resume, jobs, report=_say
            )
        )

    return command


for _name, _help in {
    "ablation": "Table 2: none, SSS, SSS + RAAM, all; trained alike, on the same pairs.",
    "threshold": "Table 2: the threshold Tr of sparse selection, 0.9 to 0.4.",
    "leave-one-out": "Table S1: without SSS, without RAAM, without global regression, all.",
}.items():
    app.command(_name, help=_help)(_variants_command(_name))


def _say(line: str) -> None:
    import sys

    print(line, file=sys.stderr, flush=True)
