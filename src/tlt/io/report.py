"""``report.html``: the whole result in one file that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from tlt.io.files import atomic_write
from tlt.io.pictures import STATUS_WORDS, Picture
from tlt.io.results import (
    LesionAtFollowup,
    LesionResult,
    Result,
    change_text,
    diameters_text,
    share,
)
from tlt.lesion import Status


@dataclass(frozen=True)
class Row:
    """A lesion in one follow-up (numbered from 1), as the report shows it."""

    anchor: str
    lesion: LesionResult
    number: int
    found: LesionAtFollowup
    picture: str

    @property
    def status(self) -> str:
        """The status in words."""
        return STATUS_WORDS[self.found.status]

    @property
    def has_size(self) -> bool:
        """Whether there is a size, or a word on why there is none."""
        return bool(self.found.size or self.found.size_note)

    @property
    def change(self) -> str:
        """Change of the size from baseline."""
        return change_text(self.lesion, self.found)

    @property
    def size_note(self) -> str:
        """What to know of the size: why it is doubtful, or why there is none."""
        return self.found.size_note if self.found.size is None else self.found.size.note

    @property
    def decision(self) -> str:
        """What a reader made of it, who and when; empty until one has decided."""
        review = self.found.review
        if review is None:
            return ""
        return f"{review.decision.value} by {review.by}, {_minute(review.at)}"


def write_report(
    result: Result, pictures: Sequence[Picture], path: str | Path, created: datetime | None = None
) -> None:
    """Write the report: whole or not at all."""
    atomic_write(path, render_report(result, pictures, created))


def render_report(
    result: Result, pictures: Sequence[Picture], created: datetime | None = None
) -> str:
    """The HTML of a result; ``created`` is the time that it names (now by default)."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["mm"] = _mm
    environment.filters["point"] = _point
    environment.filters["share"] = share
    environment.filters["diameters"] = diameters_text
    source = files("tlt").joinpath("templates/report.html.j2").read_text(encoding="utf-8")
    rows = report_rows(result, pictures)
    created = created or datetime.now(timezone.utc)
    return environment.from_string(source).render(
        result=result,
        rows=rows,
        counts=_counts(result),
        several=len(result.followups) > 1,
        created=created.strftime("%Y-%m-%d %H:%M %Z").strip(),
    )


def report_rows(result: Result, pictures: Sequence[Picture]) -> list[Row]:
    """Every lesion in every follow-up, the most doubtful first, those out of view last."""
    urls = {(picture.lesion_id, picture.followup): _data_url(picture.png) for picture in pictures}
    rows = [
        Row(f"lesion-{place}-{number}", lesion, number, found, urls.get((lesion.id, number), ""))
        for place, lesion in enumerate(result.lesions, 1)
        for number, found in enumerate(lesion.followups, 1)
    ]
    unseen = Status.OUTSIDE_FOV
    return sorted(rows, key=lambda row: (row.found.status is unseen, row.found.confidence))


def _counts(result: Result) -> list[tuple[str, list[tuple[Status, str, int]]]]:
    """For each follow-up its name (empty for a single one) and how many lesions have each status.

    Only what occurs.
    """
    several, counts = len(result.followups) > 1, []
    for number in range(len(result.followups)):
        found = [lesion.followups[number].status for lesion in result.lesions]
        numbers = [(s, STATUS_WORDS[s], found.count(s)) for s in Status if s in found]
        counts.append((f"Follow-up {number + 1}" if several else "", numbers))
    return counts


def _data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _minute(at: str) -> str:
    """A time to the minute; as it is told where it is no time."""
    try:
        told = datetime.fromisoformat(at.replace("Z", "+00:00")).astimezone(timezone.utc)
    except ValueError:
        return at
    return f"{told:%Y-%m-%d %H:%M} UTC"


def _mm(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _point(values: Sequence[float] | None) -> str:
    return "-" if values is None else ", ".join(f"{value:.1f}" for value in values)
