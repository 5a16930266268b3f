"""``tlt track``: the lesions of a baseline, found in one or several follow-ups."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperCommand

from tlt.errors import UsageError

FORMATS = (
    "json", "csv", "html", "png", "mrk", "nifti", "points", "dicom-sr", "dicom-seg",
    "dicom-rtstruct",
)  # fmt: skip
DEFAULT_FORMATS = ("json", "csv", "html", "png")
SR_PROFILES = ("plain", "ohif")
PRECISIONS = ("auto", "fp32", "bf16")
FRAMES = ("lps", "voxel")


class TrackCommand(TyperCommand):
    """A command whose ``--format`` takes several words: ``--format json csv``."""

    def parse_args(self, ctx, args):
        """Parse after joining the words behind ``--format`` with commas."""
        return super().parse_args(ctx, join_formats(args))


def join_formats(arguments: list[str]) -> list[str]:
    """The arguments with the words that follow ``--format`` as one word.

    >>> join_formats(["--format", "json", "csv", "-q"])
    ['--format', 'json,csv', '-q']
    """
    joined: list[str] = []
    is_format = False
    for argument in arguments:
        if is_format and not argument.startswith("-") and joined[-1] != "--format":
            joined[-1] += f",{argument}"
            continue
        if argument.startswith("-"):
            is_format = argument == "--format" or argument.startswith("--format=")
        joined.append(argument)
    return joined


def track(
    baseline: Annotated[
        str,
        typer.Option(
            "--baseline",
            "-bl",
            metavar="IMAGE",
            help="Image with the lesions: file, DICOM folder or zip; FOLDER#SERIES_UID; a series "
            "in a PACS as dicomweb+https://HOST/dicom-web#UID or dicom://AE@HOST:PORT#UID.",
        ),
    ],
    followup: Annotated[
        list[str],
        typer.Option(
            "--followup", "-fu", metavar="IMAGE", help="Image to find them in; may be repeated."
        ),
    ],
    lesions: Annotated[
        str,
        typer.Option(
            "--lesions",
            "-l",
            metavar="FILE",
            help="Lesions: CSV, .mrk.json, JSON, mask image, DICOM SR, SEG, RTSTRUCT.",
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="FOLDER", help="Folder for the results; - prints JSON."
        ),
    ],
    tracker: Annotated[
        str, typer.Option(metavar="NAME", help="Which tracker; see tlt trackers.")
    ] = "tlt",
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME_OR_PATH", help="Weights of the tracker; with a comma where it has two."
        ),
    ] = None,
    device: Annotated[
        str, typer.Option("--device", "-d", metavar="NAME", help="auto, cpu, cuda or cuda:N.")
    ] = "auto",
    precision: Annotated[str, typer.Option(metavar="NAME", help="auto, fp32 or bf16.")] = "auto",
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            metavar="FORMAT ...",
            help=f"What to write, out of: {' '.join(FORMATS)}. "
            f"Default: {' '.join(DEFAULT_FORMATS)}.",
        ),
    ] = None,
    points_in: Annotated[
        str | None,
        typer.Option(metavar="FRAME", help="Frame of grand-challenge points: lps or voxel."),
    ] = None,
    sr_profile: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="DICOM SR: plain (exact points) or ohif (editable in OHIF)."
        ),
    ] = None,
    with_identifiers: Annotated[
        bool, typer.Option("--with-identifiers", help="Keep whole paths in the results.")
    ] = False,
    no_size: Annotated[
        bool, typer.Option("--no-size", help="Do not measure the lesions' diameters.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors on stderr.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="More on stderr, and tracebacks.")
    ] = False,
) -> None:
    """Find each lesion of a baseline CT again in follow-up CTs.

    Several follow-ups are tracked nearest in time first, each from the last one that was found.
    """
    chosen = chosen_formats(formats, output)
    _check_paths(baseline=baseline, followup=followup, lesions=lesions, output=output)
    check_choice("--precision", precision, PRECISIONS)
    if points_in is not None:
        check_choice("--points-in", points_in, FRAMES)
    if sr_profile is not None:
        check_choice("--sr-profile", sr_profile, SR_PROFILES)
        if "dicom-sr" not in chosen:
            raise UsageError("--sr-profile: only with --format dicom-sr; add it")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise UsageError(f"--device {device}: unknown; use auto, cpu, cuda or cuda:N")
    if quiet and verbose:
        raise UsageError("--quiet and --verbose contradict each other; give one")

    from tlt.cli.display import Display, print_matches
    from tlt.io.results import to_json
    from tlt.pipeline import TrackJob, run_track

    job = TrackJob(
        baseline=baseline,
        followups=tuple(followup),
        lesions=lesions,
        output=None if output == "-" else Path(output),
        tracker=tracker,
        model=model,
        device=device,
        precision=precision,
        formats=chosen,
        sr_profile=sr_profile or "plain",
        points_in=points_in,
        with_identifiers=with_identifiers,
        sizes=not no_size,
    )
    with Display(quiet=quiet, verbose=verbose) as display:
        result = run_track(job, display)
    for remark in result.warnings:
        display.say(f"warning: {remark}")
    if job.output is None:
        sys.stdout.write(to_json(result))
        return
    print_matches(result)
    display.say(f"results are in {job.output}")
    if "json" in chosen:
        display.say(f"to check and correct them: tlt review {shlex.quote(str(job.output))}")


def chosen_formats(given: list[str] | None, output: str) -> tuple[str, ...]:
    """The formats to write, each once; raises `UsageError` for one that cannot be written."""
    words = [word.lower() for text in given or () for word in text.split(",") if word]
    for word in words:
        check_choice("--format", word, FORMATS)
    if given and not words:
        raise UsageError(f"--format: empty; use some of {' '.join(FORMATS)}")
    if output == "-" and set(words) - {"json"}:
        raise UsageError("--output - prints JSON; other formats need a folder as --output")
    if output == "-":
        return ()
    return tuple(dict.fromkeys(words or DEFAULT_FORMATS))


def _check_paths(**given: str | list[str]) -> None:
    """Refuse empty paths, which would mean the current folder."""
    for name, paths in given.items():
        if not all(path.strip() for path in ([paths] if isinstance(paths, str) else paths)):
            raise UsageError(f"--{name}: empty; give a path")


def check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{option} {value}: unknown; use one of {' '.join(choices)}")
