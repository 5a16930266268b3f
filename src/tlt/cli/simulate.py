"""``tlt simulate``: a follow-up of a CT with a known truth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tlt.data.followup import SimulatedStudy


def simulate(
    input_: Annotated[
        str, typer.Option("--input", metavar="IMAGE", help="The CT to simulate from.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="New folder.")],
    lesions: Annotated[
        str | None,
        typer.Option("--lesions", "-l", metavar="FILE", help="Its real lesions, tracked too."),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="The same seed, the same pair.")] = 0,
    painted: Annotated[int, typer.Option(metavar="N", help="Lesions to paint in.")] = 6,
    structures: Annotated[int, typer.Option(metavar="N", help="Anatomical places to find.")] = 4,
    vanish: Annotated[
        float, typer.Option(metavar="SHARE", help="Share of painted lesions that disappear.")
    ] = 0.0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors on stderr.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="More on stderr, and tracebacks.")
    ] = False,
) -> None:
    """Write baseline, follow-up, lesions and truth of a simulated pair, and what it was made of."""
    import json
    from importlib.metadata import version

    import numpy as np

    from tlt.data.followup import StudyRange, simulate_study
    from tlt.data.marked import NOTE
    from tlt.errors import UsageError
    from tlt.io.images import load_volume
    from tlt.io.lesions import read_lesions
    from tlt.io.output import staged

    if not 0 <= vanish <= 1:
        raise UsageError(f"--vanish {vanish}: a share; give a number from 0 to 1")
    if painted < 0 or structures < 0 or painted + structures + bool(lesions) == 0:
        raise UsageError("nothing to track: give --lesions, --painted or --structures")
    if (output / "truth.csv").exists():
        raise UsageError(f"{output}: holds a pair (truth.csv); choose another --output")
    with staged(output, "truth.csv") as folder:
        volume = load_volume(input_)
        known = read_lesions(lesions, volume) if lesions else []
        ranges = StudyRange(painted=painted, structures=structures, vanish=vanish)
        study = simulate_study(volume, np.random.default_rng(seed), known, ranges)
        write_study(study, folder)
        made = {
            "source": Path(input_).name,
            "lesions": lesions and Path(lesions).name,
            **{"seed": seed, "painted": painted, "structures": structures, "vanish": vanish},
            "tlt": version("transformer-lesion-tracker"),
        }
        (folder / NOTE).write_text(json.dumps(made, indent=1) + "\n")
    if not quiet:
        seen = [truth for truth in study.truth if truth.in_view]
        gone = sum(truth.vanished for truth in seen)
        print(
            f"{len(study.truth)} lesions: {len(seen) - gone} in the follow-up, {gone} gone, "
            f"{len(study.truth) - len(seen)} out of its view; in {output}: baseline, follow-up, "
            "lesions.csv, truth.csv (a row for each of the first), simulation.json"
        )


def write_study(study: SimulatedStudy, folder: Path) -> None:
    """Write the four files of a simulated pair; vanished and unseen lesions have no truth row."""
    from dataclasses import replace

    from tlt.io.images import save_volume
    from tlt.io.lesions import write_lesions_csv

    save_volume(study.baseline, folder / "baseline.nii.gz")
    save_volume(study.followup, folder / "followup.nii.gz")
    write_lesions_csv(study.lesions, folder / "lesions.csv")
    there = [t for t in study.truth if t.in_view and not t.vanished]
    rows = [replace(t.lesion, center_mm=t.center_mm) for t in there]
    write_lesions_csv(rows, folder / "truth.csv")
