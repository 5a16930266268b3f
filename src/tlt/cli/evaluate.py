"""``tlt evaluate``: score stored predictions, or run a tracker and score it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tlt.evaluate import Outcome

PREDICTIONS_HELP = "Rows to score: predictions of DLS, or rows.json of an evaluation."
DATASET_HELP = "Pairs to track: a list of DLS, or a folder of pairs as 'tlt simulate' writes them."


def evaluate(
    predictions: Annotated[Path | None, typer.Option(metavar="FILE", help=PREDICTIONS_HELP)] = None,
    field: Annotated[
        str | None, typer.Option(metavar="NAME", help="The centre to score, in DLS predictions.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Compare with these rows, paired.")
    ] = None,
    against_field: Annotated[
        str | None, typer.Option(metavar="NAME", help="The centre in that file.")
    ] = None,
    tracker: Annotated[str | None, typer.Option(metavar="NAME", help="Tracker to run.")] = None,
    dataset: Annotated[Path | None, typer.Option(metavar="PATH", help=DATASET_HELP)] = None,
    images: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Sub-volumes of a list of DLS.")
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
    """Score a tracker: CPM and MED, by size and slice distance, with 95 % intervals."""
    import json

    from tlt.errors import UsageError
    from tlt.rows import read_rows, write_rows
    from tlt.scores import score, text_of

    if (predictions is None) == (dataset is None):
        raise UsageError("give either --predictions FILE, or --tracker NAME with --dataset PATH")
    if predictions is not None:
        rows = read_rows(predictions, field)
    else:
        assert dataset is not None
        name = tracker or "tlt"
        outcomes = _run(dataset, name, model, images, quiet)
        if output is not None:
            write_rows({name: outcomes}, output)
        rows = [outcome.row for outcome in outcomes]
    other = None if against is None else read_rows(against, against_field)
    scores = score(rows, other)
    print(json.dumps(scores, indent=1) if as_json else text_of(scores))


def _run(
    dataset: Path, tracker: str, model: str | None, images: Path | None, quiet: bool
) -> list[Outcome]:
    """A tracker over a dataset; a line a pair on stderr."""
    import sys

    from tlt.data.dls import read_dls
    from tlt.errors import UsageError
    from tlt.evaluate import evaluate, evaluate_dls, folder_cases
    from tlt.systems import TRACKERS
    from tlt.track import Tracker

    if tracker not in TRACKERS:
        raise UsageError(f"--tracker {tracker}: none of {', '.join(TRACKERS)}")
    running = Tracker.load(tracker, model, device="cpu")

    def report(line: str) -> None:
        if not quiet:
            print(line, file=sys.stderr, flush=True)

    if dataset.is_dir():
        return evaluate([running], folder_cases(dataset), report)[running.name]
    if images is None:
        raise UsageError("--images FOLDER: a list of DLS needs the folder of its sub-volumes")
    return evaluate_dls(running, read_dls(dataset), images, report)
