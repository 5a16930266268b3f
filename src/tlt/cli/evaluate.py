"""``tlt evaluate``: score stored predictions, or run a tracker and score it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tlt.evaluate import Outcome
    from tlt.metrics import LesionRow

PREDICTIONS_HELP = "Score these: predictions of the Deep Longitudinal Study (DLS), or a rows.json."
DATASET_HELP = "Pairs to track: a list of DLS, or a folder of pairs as 'tlt simulate' writes them."
FIELD_HELP = "Which centre of DLS predictions to score, or which tracker of a rows.json."


def evaluate(
    predictions: Annotated[Path | None, typer.Option(metavar="FILE", help=PREDICTIONS_HELP)] = None,
    field: Annotated[str | None, typer.Option(metavar="NAME", help=FIELD_HELP)] = None,
    against: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Compare with these rows, paired.")
    ] = None,
    against_field: Annotated[
        str | None, typer.Option(metavar="NAME", help="The same for that file.")
    ] = None,
    tracker: Annotated[
        str | None, typer.Option(metavar="NAME", help="Tracker to run (tlt).")
    ] = None,
    dataset: Annotated[Path | None, typer.Option(metavar="PATH", help=DATASET_HELP)] = None,
    images: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="NIfTI sub-volumes of a DLS list.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME_OR_PATH", help="Weights; default shipped.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where rows.json goes.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Figures as JSON on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors on stderr.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="More on stderr, and tracebacks.")
    ] = False,
) -> None:
    """Score a tracker, by size and slice distance, with 95 % intervals.

    CPM@10mm: share within 10 mm, or within the radius where that is smaller. CPM@Radius: below the
    radius. MED: mean distance, with its parts along X, Y, Z. Fixed 10 mm, in box: the TLT metric.
    """
    import json

    from tlt.errors import UsageError
    from tlt.rows import read_rows
    from tlt.scores import score, text_of

    stored = predictions is not None
    if stored == (dataset is not None):
        raise UsageError("give either --predictions FILE, or --dataset PATH (with --tracker NAME)")
    ignored = {"--tracker": tracker, "--images": images, "--model": model, "--output": output}
    for name, value in ignored.items() if stored else [("--field", field)]:
        if value is not None:
            other = "--dataset" if stored else "--predictions"
            raise UsageError(f"{name} is for {other}; leave it out")
    compared = None if against is None else read_rows(against, against_field)
    if predictions is not None:
        rows = read_rows(predictions, field)
    else:
        assert dataset is not None
        rows = _run(dataset, tracker or "tlt", model, images, output, quiet)
    scores = score(rows, compared)
    print(json.dumps(scores, indent=1) if as_json else text_of(scores))


def _run(
    dataset: Path,
    tracker: str,
    model: str | None,
    images: Path | None,
    output: Path | None,
    quiet: bool,
) -> list[LesionRow]:
    """The rows of a tracker over a dataset; a line a pair on stderr, rows.json after each."""
    import sys

    from tlt.evaluate import evaluate_data
    from tlt.rows import write_rows
    from tlt.systems import TRACKERS, unknown_tracker
    from tlt.track import Tracker

    if tracker not in TRACKERS:
        raise unknown_tracker(tracker)
    running = Tracker.load(tracker, model, device="cpu")

    def report(line: str) -> None:
        if not quiet:
            print(line, file=sys.stderr, flush=True)

    def save(outcomes: dict[str, list[Outcome]]) -> None:
        if output is not None:
            write_rows(outcomes, output)

    found = evaluate_data([running], dataset, images, report=report, save=save)
    return [outcome.row for outcome in found[running.name]]
