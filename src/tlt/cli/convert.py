"""``tlt convert``: other people's data into what tlt reads, and lesions into any format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Convert data: lesion files, DeepLesion.")


@app.callback()
def _every_command() -> None:
    """Convert data into what tlt, or another program, reads."""


@app.command()
def lesions(
    source: Annotated[
        str,
        typer.Option(
            "--input", "-l", metavar="LESIONS", help="Lesions in any format of tlt track."
        ),
    ],
    baseline: Annotated[
        str, typer.Option("--baseline", "-bl", metavar="IMAGE", help="Image that they lie in.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="File to write; .dcm is a SR.")
    ],
    to: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="NAME",
            help="Where the ending of the file leaves it "
            "open: points, prompts, dicom-sr, dicom-seg, dicom-rtstruct.",
        ),
    ] = None,
    points_in: Annotated[
        str | None,
        typer.Option(metavar="FRAME", help="Frame of grand-challenge points: lps or voxel."),
    ] = None,
    sr_profile: Annotated[
        str, typer.Option(metavar="NAME", help="DICOM SR: plain (exact) or ohif (editable).")
    ] = "plain",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors on stderr.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="More on stderr, and tracebacks.")
    ] = False,
) -> None:
    """Lesions of one format in another: CSV, Slicer, JSON, masks, DICOM SR, SEG and RTSTRUCT.

    The output's format is that of its ending (.csv, .mrk.json, .nii.gz, .nrrd, .mha, .dcm).
    """
    from tlt.cli.track import FRAMES, SR_PROFILES, check_choice
    from tlt.io.lesions_convert import convert_lesions

    if points_in is not None:
        check_choice("--points-in", points_in, FRAMES)
    check_choice("--sr-profile", sr_profile, SR_PROFILES)
    count = convert_lesions(source, baseline, output, to, points_in, sr_profile)
    if not quiet:
        print(f"{count} lesions in {output}")


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
