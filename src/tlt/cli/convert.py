"""``tlt convert``: other people's data into what tlt reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Convert data: DeepLesion.")


@app.callback()
def _every_command() -> None:
    """Keeps the name of the one command there is."""


@app.command()
def deeplesion(
    images: Annotated[
        Path, typer.Option("--input", metavar="FOLDER", help="Images_png of DeepLesion.")
    ],
    info: Annotated[Path, typer.Option(metavar="FILE", help="DL_info.csv.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="For the NIfTI files.")
    ],
    only: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Only the volumes of this list of DLS.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors on stderr.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="More on stderr, and tracebacks.")
    ] = False,
) -> None:
    """DeepLesion's PNG slices as NIfTI sub-volumes; what is missing is reported, the rest goes on.

    Run again, it goes on where it stopped.
    """
    import sys

    from tlt.data.deeplesion import convert_deeplesion
    from tlt.data.dls import read_dls
    from tlt.errors import InputError

    names = None
    if only is not None:
        names = {lesion.volume for p in read_dls(only) for lesion in (p.source, p.target)}
    done, problems = 0, 0
    for volume, problem in convert_deeplesion(images, info, output, names):
        done += (output / volume.name).exists()
        if problem:
            problems += 1
            print(f"{volume.name}: {problem}", file=sys.stderr)
    if not done:
        raise InputError(f"{images}: no volume could be made from it; give Images_png and its csv")
    if not quiet:
        print(f"{done} volumes in {output}, {problems} with missing or damaged slices")
