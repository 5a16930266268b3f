"""``tlt``: registers the commands and turns errors into one line and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from tlt.cli import convert, experiment, pacs
from tlt.cli.demo import demo
from tlt.cli.evaluate import evaluate
from tlt.cli.info import info
from tlt.cli.recist import recist
from tlt.cli.review import review
from tlt.cli.simulate import simulate
from tlt.cli.track import TrackCommand, track
from tlt.cli.trackers import trackers
from tlt.cli.train import train
from tlt.errors import InputError, TltError, UsageError

# Not in the contract: a fault of the program itself, told apart from a batch with failures (1).
INTERNAL_ERROR = 70
INTERRUPTED = 130
BROKEN_PIPE = 141

app = typer.Typer(
    name="tlt",
    help="Transformer Lesion Tracker: find each lesion of a baseline CT again in the follow-up.",
    epilog="For research. Not a medical device.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("track", cls=TrackCommand)(track)
app.command("review")(review)
app.command("simulate")(simulate)
app.command("train")(train)
app.command("evaluate")(evaluate)
app.add_typer(experiment.app, name="experiment")
app.add_typer(convert.app, name="convert")
app.command("recist")(recist)
app.add_typer(pacs.app, name="pacs")
app.command("trackers")(trackers)
app.command("info")(info)
app.command("demo")(demo)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    verbose = "--verbose" in given or "-v" in given
    try:
        code = app(args=given, prog_name="tlt", standalone_mode=False) or 0
        sys.stdout.flush()
        # Newer typers hand an interrupt back as this code, older ones as Abort.
        return _report("interrupted", code) if code == INTERRUPTED else code
    except (KeyboardInterrupt, typer.Abort):
        return _report("interrupted", INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output has gone; keep Python from complaining when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except Exception as error:
        if verbose:
            traceback.print_exc()
        expected = _as_expected(error)
        if expected is not None:
            return _report(str(expected), expected.exit_code)
        hint = "" if verbose else "; run again with --verbose for details"
        return _report(f"internal error, {type(error).__name__}: {error}{hint}", INTERNAL_ERROR)


@app.callback(invoke_without_command=True)
def _every_command(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as version_of

        print(f"tlt {version_of('transformer-lesion-tracker')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(UsageError.exit_code)


def _as_expected(error: Exception) -> TltError | None:
    """The error as one that a user can meet, if it is one."""
    if isinstance(error, TltError):
        return error
    if hasattr(error, "format_message"):  # every usage error of click, whoever vendors it
        return UsageError(error.format_message())
    if isinstance(error, OSError):
        name = f"{error.filename}: " if error.filename else ""
        return InputError(f"{name}{error.strerror or error}")
    if isinstance(error, MemoryError):
        return InputError("not enough memory for these images; close programs or crop the images")
    return None


def _report(message: str, exit_code: int) -> int:
    """Say on one line of stderr what was wrong."""
    print("tlt: error:", " ".join(message.split()), file=sys.stderr)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
