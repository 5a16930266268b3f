"""``tlt demo``: the bundled example, tracked, beside the truth."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tlt.io.results import Result


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path(
        "demo"
    ),
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors on stderr.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="More on stderr, and tracebacks.")
    ] = False,
) -> None:
    """Track the bundled example, whose truth is known, and print the true errors."""
    from tlt.cli.display import Display, print_matches
    from tlt.pipeline import TrackJob, run_track

    with example_folder() as example, Display(quiet, verbose) as display:
        job = TrackJob(
            baseline=str(example / "baseline.nii.gz"),
            followups=(str(example / "followup.nii.gz"),),
            lesions=str(example / "lesions.csv"),
            output=output,
        )
        result = run_track(job, display)
        errors_mm = true_errors(result, example)
    print_matches(result, errors_mm)
    print("The network was trained on this CT: how it does on others is in docs/results.md.")
    print(f"\nReport:   {output / 'report.html'}\nPictures: {output / 'lesion_*.png'}")
    print(f"Data:     {output / 'result.json'}, {output / 'matches.csv'}")


def example_folder() -> AbstractContextManager[Path]:
    """The folder of the bundled example: baseline, follow-up, lesions and truth."""
    from importlib.resources import as_file, files

    return as_file(files("tlt") / "example")


def true_errors(result: Result, example: Path) -> dict[str, float]:
    """Distance in mm of each found centre from the truth; none where either is missing."""
    from tlt.io.images import load_volume
    from tlt.io.lesions import read_lesions

    followup = load_volume(example / "followup.nii.gz")
    truth = {lesion.id: lesion for lesion in read_lesions(example / "truth.csv", followup)}
    return {
        lesion.id: math.dist(lesion.followups[0].center_mm, truth[lesion.id].center_mm)
        for lesion in result.lesions
        if lesion.id in truth and lesion.followups[0].center_mm is not None
    }
