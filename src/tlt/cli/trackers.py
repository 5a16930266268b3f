"""``tlt trackers``: what can be chosen with ``--tracker``."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def trackers(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the trackers that --tracker chooses from."""
    from tlt.systems import TRACKERS

    systems = list(TRACKERS.values())
    if as_json:
        rows = [
            {"name": s.name, "summary": s.summary, "source": s.source, "learned": s.learned}
            for s in systems
        ]
        print(json.dumps(rows, indent=1))
        return

    from rich import box
    from rich.table import Table
    from rich.text import Text

    from tlt.cli.display import out_console

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for title in ("Tracker", "Learned", "What it does", "Source"):
        table.add_column(title)
    for system in systems:
        learned = "yes" if system.learned else "no"
        table.add_row(*map(Text, (system.name, learned, system.summary, system.source)))
    out_console().print(table)
