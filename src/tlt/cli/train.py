"""``tlt train``: train a network on simulated or marked pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    config: Annotated[
        Path, typer.Option("--config", metavar="FILE", help="YAML file; see docs/training.md.")
    ],
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint in the output folder.")
    ] = False,
    threads: Annotated[
        int, typer.Option(metavar="N", help="Threads of the training process; 0 takes all cores.")
    ] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors on stderr.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="More on stderr, and tracebacks.")
    ] = False,
) -> None:
    """Train a network; checkpoint, log and weights go to the configuration's output folder."""
    import sys
    import time

    import torch

    from tlt.train import train as run
    from tlt.training.config import read_config

    if threads:
        torch.set_num_threads(threads)
    settings = read_config(config)
    begun = time.monotonic()
    first: int | None = None  # step at which this piece of the run began

    def report(row: dict[str, float]) -> None:
        nonlocal first
        if quiet:
            return
        step = int(row["step"])
        if first is None:
            first = (step - 1) // settings.checkpoint_every * settings.checkpoint_every
        each = (time.monotonic() - begun) / max(1, step - first)
        left = each * (settings.steps - step) / 60
        terms = ", ".join(f"{k} {v:.2f}" for k, v in row.items() if k not in ("step", "seconds"))
        print(f"step {step}/{settings.steps}, {left:.0f} min left: {terms}", file=sys.stderr)

    def say(line: str) -> None:
        if not quiet:
            print(line, file=sys.stderr)

    print(run(settings, resume, report, say))
