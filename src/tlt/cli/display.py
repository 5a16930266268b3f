"""What a person sees: progress and remarks on stderr, tables on stdout."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from tlt.io.results import (
    LesionAtFollowup,
    LesionResult,
    Result,
    change_text,
    diameters_text,
    share,
)
from tlt.lesion import Status

STATUS_STYLE = {
    Status.FOUND: "green",
    Status.LOW_CONFIDENCE: "yellow",
    Status.NOT_FOUND: "red",
    Status.OUTSIDE_FOV: "magenta",
}
PLAIN_WIDTH = 120


class Display:
    """Progress of a run on stderr: a bar on a terminal, a line a finished stage elsewhere.

    It is called with the name of a stage and the fraction of it that is done.
    """

    def __init__(self, quiet: bool = False, verbose: bool = False) -> None:
        self.quiet = quiet
        self.verbose = verbose
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._stage = ""
        self._started = 0.0

    def __enter__(self) -> Display:
        if self._console.is_terminal and not self.quiet:
            columns = (TextColumn("{task.description:<28}"), BarColumn(), TimeElapsedColumn())
            self._bar = Progress(*columns, console=self._console)
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._finish(completed=kind is None)
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, stage: str, fraction: float) -> None:
        if stage != self._stage:
            self._finish()
            self._start(stage)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=fraction)

    def say(self, message: str) -> None:
        """A remark on stderr, unless the run is quiet."""
        if not self.quiet:
            self._console.print(Text(f"tlt: {message}"))

    def _start(self, stage: str) -> None:
        self._stage, self._started = stage, time.perf_counter()
        if self._bar is not None:
            self._task = self._bar.add_task(stage, total=1.0)

    def _finish(self, completed: bool = True) -> None:
        if not self._stage:
            return
        if self._bar is not None and self._task is not None:
            if completed:
                self._bar.update(self._task, completed=1.0)
            self._bar.stop_task(self._task)
        elif completed:
            self.say(f"{self._stage}: {time.perf_counter() - self._started:.1f} s")
        self._stage = ""


def out_console() -> Console:
    """stdout for tables: as wide as the terminal, or wide enough for a table in a file."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)


def print_matches(result: Result, errors_mm: Mapping[str, float] | None = None) -> None:
    """Print the table of results to stdout; ``errors_mm`` adds the true error a lesion."""
    sys.stdout.flush()
    out_console().print(match_table(result, errors_mm))


def match_table(result: Result, errors_mm: Mapping[str, float] | None = None) -> Table:
    """One row a lesion and follow-up, in LPS millimetres."""
    several = len(result.followups) > 1
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    table.add_column("Lesion", overflow="fold", min_width=8, max_width=28)
    if several:
        table.add_column("Follow-up", justify="right")
    table.add_column("Status")
    for name in ("Confidence", "x", "y", "z", "Radius", "Size", "Change", "From prior"):
        table.add_column(name, justify="right", no_wrap=True)
    if errors_mm is not None:
        table.add_column("True error", justify="right", no_wrap=True)
    for lesion in result.lesions:
        for number, found in enumerate(lesion.followups, 1):
            cells = [Text(_name(lesion)), *([Text(str(number))] if several else [])]
            cells += _cells(lesion, found)
            if errors_mm is not None:
                cells.append(_error(errors_mm.get(lesion.id), lesion.baseline.radius_mm))
            table.add_row(*cells)
    notes = _caption(result)
    if any("!" in str(cell) for cell in table.columns[-1].cells):
        notes.append("! a true error beyond 10 mm, or beyond the radius where that is smaller")
    table.caption = Text("\n".join(notes))
    table.caption_justify = "left"
    return table


def _caption(result: Result) -> list[str]:
    """What the columns mean, and which follow-up is which with its registration."""
    lines = [f"tracker {result.software.tracker}; mm; x, y, z in LPS; radius at baseline"]
    sizes = [f.size for lesion in result.lesions for f in lesion.followups]
    if any(size is not None for size in sizes):
        lines.append("size: long x short axis at follow-up, and its change from baseline")
    if any(size is not None and size.doubtful for size in sizes):
        lines.append("? a doubtful size; the report says why")
    for number, followup in enumerate(result.followups, 1):
        named = f"{number} = {followup.path}, " if len(result.followups) > 1 else ""
        similarity = share(followup.registration.similarity)
        lines.append(f"{named}similarity of the registration {similarity}")
    return lines


def _name(lesion: LesionResult) -> str:
    return f"{lesion.id} {lesion.label}".strip()


def _cells(lesion: LesionResult, found: LesionAtFollowup) -> list[Text]:
    style = STATUS_STYLE[found.status]
    unseen = found.status is Status.OUTSIDE_FOV
    center = found.center_mm or (None, None, None)
    radius = _mm(lesion.baseline.radius_mm)
    if found.radius_mm is not None and found.size is None:
        radius += f", {_mm(found.radius_mm)}"
    doubtful = found.size is not None and found.size.doubtful
    return [
        Text(found.status.value.replace("_", " "), style=style),
        Text("-" if unseen else f"{100 * found.confidence:.0f} %", style=style),
        *(Text(_mm(value)) for value in center),
        Text(radius),
        Text(diameters_text(found.size), style="yellow" if doubtful else ""),
        Text(change_text(lesion, found)),
        Text(_mm(found.prior_distance_mm)),
    ]


def _error(error_mm: float | None, radius_mm: float) -> Text:
    """A true error; red and marked where the lesion counts as missed."""
    if error_mm is None or error_mm <= min(10.0, radius_mm):
        return Text(_mm(error_mm), style="bold")
    return Text(f"! {_mm(error_mm)}", style="bold red")


def _mm(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
