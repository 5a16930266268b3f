"""``tlt review``: the page on which a reader checks and corrects what was tracked."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from tlt.errors import UsageError

PACKAGES = ("fastapi", "uvicorn", "sqlalchemy", "alembic")


def review(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder that tlt track or tlt pacs watch wrote.")
    ],
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 takes a free one.")
    ] = 0,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Only print the address.")
    ] = False,
    reader: Annotated[
        str, typer.Option(metavar="NAME", help="Who decides; otherwise the page asks.")
    ] = "",
    baseline: Annotated[
        str | None,
        typer.Option(
            "--baseline", "-bl", metavar="IMAGE", help="The baseline, if it was moved since."
        ),
    ] = None,
    followup: Annotated[
        list[str] | None,
        typer.Option(
            "--followup",
            "-fu",
            metavar="IMAGE",
            help="The follow-up, if it was moved since; with several give all, in their order.",
        ),
    ] = None,
) -> None:
    """Check, accept and correct what was tracked, on a page in your browser.

    Every decision is saved at once in DIR/review.sqlite and in DIR/result.json. The page is for
    this machine alone. Ctrl-C ends it.
    """
    check_packages()
    from tlt.cli.track import FORMATS
    from tlt.review.outlines import Outlines
    from tlt.review.serve import serve
    from tlt.review.service import Review
    from tlt.review.state import reader_name

    name = reader_name(reader) if reader else ""
    outlines = Outlines(lambda: opened.shelf.stack(0).volume)
    formats = (*FORMATS, "recist")
    opened = Review(folder, baseline, followup or (), formats, measure=outlines.size)
    try:
        serve(opened, port, name, not no_browser, _tell)
    finally:
        opened.close()
    stale = opened.older_files()
    if stale:
        _say(f"older than the last decision, export them again: {', '.join(stale)}")
    _say("ended; every decision is saved")


def check_packages() -> None:
    """Raises `UsageError` where a package of the extra ``review`` is missing."""
    from importlib.util import find_spec

    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"tlt review needs {', '.join(missing)}: "
            "pip install 'transformer-lesion-tracker[review]'"
        )


def _tell(url: str) -> None:
    _say(f"open {url}")
    _say("this address is for you alone; Ctrl-C ends the review")


def _say(message: str) -> None:
    print(f"tlt: {message}", file=sys.stderr, flush=True)
