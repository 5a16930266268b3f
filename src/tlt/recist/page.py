"""An assessment as HTML: the whole page, or the table alone for a page of others."""

from __future__ import annotations

import base64
from datetime import datetime, timezone
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from tlt.io.files import atomic_write
from tlt.recist import rules
from tlt.recist.assessment import Assessment
from tlt.recist.criteria import mm_text, percent_text
from tlt.recist.roles import Part
from tlt.recist.tables import RESPONSE_WORDS, cell, decisions, legend, to_csv, to_json

PART_WORDS = {
    Part.TARGET: "Target lesions",
    Part.NON_TARGET: "Non-target lesions",
    Part.NORMAL_NODE: "Normal nodes, not followed",
}


def render_page(assessment: Assessment, created: datetime | None = None) -> str:
    """The page, plots included; ``created`` is the time that it names (now by default)."""
    from tlt.recist.plot import draw_trajectories  # matplotlib takes its time

    created = created or datetime.now(timezone.utc)
    return _render(
        "recist.html.j2",
        assessment,
        light=_data_url(draw_trajectories(assessment)),
        dark=_data_url(draw_trajectories(assessment, dark=True)),
        created=created.strftime("%Y-%m-%d %H:%M %Z").strip(),
    )


def render_table(assessment: Assessment, style: bool = True) -> str:
    """The table of lesions and responses with its legend, and its own style: a part of a page.

    Everything is inside one ``<div class="recist">``, and no rule of its style reaches beyond.
    Without ``style`` the page has that of `table_style` already.
    """
    return _render("recist_fragment.html.j2", assessment, style=style)


def table_style() -> str:
    """The style of `render_table`, for a page that takes it from elsewhere."""
    return files("tlt").joinpath("templates/recist_style.css").read_text(encoding="utf-8")


def write_recist(assessment: Assessment, folder: str | Path) -> None:
    """Write ``recist.html``, ``recist.csv`` and ``recist.json``, each whole or not at all."""
    folder = Path(folder)
    atomic_write(folder / "recist.html", render_page(assessment))
    atomic_write(folder / "recist.csv", to_csv(assessment))
    atomic_write(folder / "recist.json", to_json(assessment))


def _render(name: str, assessment: Assessment, **more: object) -> str:
    environment = Environment(
        loader=PackageLoader("tlt"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["mm"] = lambda value: "-" if value is None else mm_text(value)
    environment.filters["percent"] = percent_text
    return environment.get_template(name).render(
        a=assessment,
        parts=[(part, words, assessment.of(part)) for part, words in PART_WORDS.items()],
        cell=cell,
        decisions=decisions,
        legend=legend(assessment),
        words=RESPONSE_WORDS,
        rules=rules,
        **more,
    )


def _data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
