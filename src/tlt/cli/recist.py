"""``tlt recist``: the RECIST 1.1 assessment of a tracked study."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tlt.errors import InputError, UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from tlt.io.results import Result
    from tlt.recist.assessment import Assessment, TimePoint

WRITTEN = ".tlt-recist.json"  # in the output: the names of the files that a run left there
SCHEMAS = ("entries", "assessment")


def recist(
    study: Annotated[
        Path | None,
        typer.Argument(metavar="FOLDER_OR_JSON", help="Folder of tlt track, or its result.json."),
    ] = None,
    entries: Annotated[
        Path | None,
        typer.Option(
            "--entries",
            "-e",
            metavar="FILE",
            help="What the reader enters, as JSON or CSV; default: entries.json beside the result.",
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", metavar="FOLDER", help="Default: beside result.json; - prints JSON."
        ),
    ] = None,
    template: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write entries (.json) to fill in, and nothing else."),
    ] = None,
    schema: Annotated[
        str | None,
        typer.Option(metavar="WHICH", help="Print a JSON schema: entries or assessment."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors on stderr.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="More on stderr, and tracebacks.")
    ] = False,
) -> None:
    """Assess tracked lesions by RECIST 1.1: sums, responses, and the rule beside each decision.

    Roles, reviews and sizes come from result.json, the rest from the entries. Without chosen
    targets they are proposed. For research. Not a medical device.
    """
    if schema is not None:
        _print_schema(schema)
        return
    if study is None:
        raise UsageError("no study; give the folder that tlt track wrote, or its result.json")
    path = study / "result.json" if study.is_dir() else study
    result = _read_result(path)

    from tlt.cli.display import Display
    from tlt.recist import assess, read_entries, to_json, write_recist
    from tlt.recist.entries import ENTRIES

    found = path.parent / ENTRIES
    own = entries is None and found.is_file()
    entries = found if own else entries
    given = None if entries is None else read_entries(entries)
    assessment = assess(result, given)
    display = Display(quiet=quiet, verbose=verbose)
    if own:
        display.say(f"entries: {entries}")
    if template is not None:
        _write_template(assessment, template)
        display.say(f"fill in {template} and give it as --entries")
        return
    if output == "-":
        sys.stdout.write(to_json(assessment))
        return

    from tlt.io.output import staged

    folder = path.parent if output is None else Path(output)
    with staged(folder, last="recist.json", listed=WRITTEN) as beside:
        write_recist(assessment, beside)
    for notice in assessment.notices:
        display.say(f"note: {notice}")
    print_assessment(assessment)
    display.say(f"recist.html, recist.csv and recist.json are in {folder}")


def print_assessment(assessment: Assessment) -> None:
    """Print the responses to stdout, and what is left to do."""
    from rich.text import Text

    from tlt.cli.display import out_console

    sys.stdout.flush()
    console = out_console()
    console.print(_table(assessment))
    best = assessment.best.response.value
    confirmed = assessment.confirmed
    said = f"not computed, {assessment.confirmed_note}"
    said = said if confirmed is None else confirmed.response.value
    console.print(Text(f"Best overall response: {best}; confirmed: {said}"))
    for point in assessment.time_points:
        for need in point.needs_review:
            console.print(Text(f"  to look at in follow-up {point.followup}: {need}"))


def _table(assessment: Assessment) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("Follow-up")
    for name in ("Sum", "From baseline", "From smallest"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("Targets", "Non-targets", "New", "Overall"):
        table.add_column(name)
    baseline = assessment.baseline_sum_mm
    table.add_row("baseline", "-" if baseline is None else f"{baseline:.1f}")
    for point in assessment.time_points:
        table.add_row(*_cells(point))
    return table


def _cells(point: TimePoint) -> list[str]:
    from tlt.recist.criteria import mm_text, percent_text

    sums = point.sums
    overall = point.overall.response.value
    known = sums.sum_mm is not None
    compared = known and sums.from_nadir_mm is not None
    return [
        f"{point.followup}" + ("" if point.day is None else f" (day {point.day})"),
        mm_text(sums.sum_mm) if sums.sum_mm is not None else f"({mm_text(sums.counted_mm)})",
        percent_text(sums.from_baseline_percent) if compared else "-",
        percent_text(sums.from_nadir_percent) if compared else "-",
        point.target.response.value,
        point.non_target.response.value,
        ", ".join(new.id for new in point.new_lesions) or "no",
        overall + (", preliminary" if point.preliminary else ""),
    ]


def _read_result(path: Path) -> Result:
    from pydantic import ValidationError

    from tlt.io.results import read_json

    try:
        return read_json(path)
    except (ValidationError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not what tlt track writes; give its folder") from error
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: {reason}; give the folder that tlt track wrote") from error


def _print_schema(which: str) -> None:
    from tlt.recist.entries import entries_schema
    from tlt.recist.tables import recist_schema

    if which not in SCHEMAS:
        raise UsageError(f"--schema {which}: unknown; use one of {' '.join(SCHEMAS)}")
    schema = entries_schema() if which == "entries" else recist_schema()
    print(json.dumps(schema, indent=1))


def _write_template(assessment: Assessment, path: Path) -> None:
    """Entries with the lesions as they are, one empty time point a follow-up."""
    from tlt.io.files import atomic_write

    if path.suffix.lower() != ".json":
        raise UsageError(f"--template {path}: entries to fill in are JSON; call it .json")
    if path.exists():
        raise InputError(f"{path}: exists already; choose another name")
    content = {
        "schema_version": 1,
        "reader": "",
        "confirmation_days": assessment.confirmation_days,
        "stable_days": assessment.stable_days,
        "lesions": {
            lesion.id: {
                "role": "target" if lesion.part.value == "target" else "non_target",
                "site": lesion.site,
                "nodal": lesion.nodal,
            }
            for lesion in assessment.lesions
            if lesion.part.value != "normal_node"
        },
        "time_points": [
            {"followup": point.followup, "day": None, "lesions": {}, "new_lesions": []}
            for point in assessment.time_points
        ],
    }
    atomic_write(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
