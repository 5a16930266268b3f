"""``tlt trackers``: what can be chosen with ``--tracker``."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

MEASURED = (  # title, key of the measured row, form
    ("CPM@\n10mm %", "cpm_10mm", ".1f"),
    ("lesions\nalone %", "lesions_cpm_10mm", ".1f"),
    ("MED\nmm", "med_mm", ".2f"),
    ("s a\nlesion", "seconds", ".2f"),
)


def trackers(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the trackers that --tracker chooses from, with what was measured of them."""
    from tlt.systems import TRACKERS

    rows = [_facts(system) for system in TRACKERS.values()]
    if as_json:
        print(json.dumps(rows, indent=1))
        return

    from rich import box
    from rich.table import Table
    from rich.text import Text

    from tlt.cli.display import out_console

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("Tracker", no_wrap=True)
    table.add_column("What it does (source)", overflow="fold")
    for title in ("Para-\nmeters", *(title for title, _, _ in MEASURED)):
        table.add_column(title, justify="right")
    missing: dict[str, list[str]] = {}  # trackers by weights
    for row in rows:
        absent = [name for name, path in row["weights"].items() if path is None]
        for name in absent:
            missing.setdefault(name, []).append(row["name"])
        known, measured = row["parameters"], row["measured"] or {}
        numbers = ["missing" if absent else f"{known / 1e6:.2f} M" if known else "-"]
        numbers += [
            "-" if measured.get(key) is None else format(measured[key], form)
            for _, key, form in MEASURED
        ]
        what = Text.assemble(row["summary"], (f" ({row['source']})", "dim"))
        table.add_row(row["name"], what, *numbers)
    console = out_console()
    console.print(table)
    if any(row["measured"] for row in rows):
        console.print(
            "Measured on simulated follow-ups, not on patients (docs/results.md): lesions and "
            "landmarks together, and the lesions alone, which is all that a detector can find.",
            style="dim",
        )
    else:
        console.print("Nothing measured is shipped: see docs/results.md.", style="dim")
    for line in _remedies(missing):
        console.print(line, highlight=False, soft_wrap=True)


def _facts(system: Any) -> dict[str, Any]:
    """What is known of a tracker: ``weights`` has the file of each name, None where it is missing.

    ``parameters`` is None where one of them is missing; ``measured`` is its row of Table 1, None
    where there is none.
    """
    from tlt.model.shipped import count_parameters, published, shipped_path

    paths = {name: shipped_path(name) for name in system.weights.values()}
    shipped = {name: path if path.is_file() else None for name, path in paths.items()}
    counts = [count_parameters(path) for path in shipped.values() if path]
    return {
        "name": system.name,
        "summary": system.summary,
        "source": system.source,
        "learned": system.learned,
        "weights": {name: path and path.name for name, path in shipped.items()},
        "parameters": sum(counts) if len(counts) == len(shipped) else None,
        "measured": published().get(system.name),
    }


def _remedies(missing: dict[str, list[str]]) -> list[str]:
    """How to get the weights that trackers lack, a line each."""
    from tlt.model.shipped import how_made

    if not missing:
        return []
    made = [
        f"  {name} ({', '.join(trackers)}): {how_made(name)}" for name, trackers in missing.items()
    ]
    return [
        "Weights that are missing, and what makes them in a clone of the repository; give the file "
        "with --model (DETECTOR,EMBEDDING where a tracker has two):",
        *made,
    ]
