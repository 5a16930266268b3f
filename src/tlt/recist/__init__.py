"""RECIST 1.1: from tracked lesions and a reader's entries to a response, rule by rule.

For research, not a medical device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tlt.recist.assess import assess
from tlt.recist.assessment import Assessment
from tlt.recist.entries import Entries, read_entries
from tlt.recist.tables import to_csv, to_json

if TYPE_CHECKING:
    from tlt.recist.page import render_page, render_table, write_recist

__all__ = [
    "Assessment",
    "Entries",
    "assess",
    "read_entries",
    "render_page",
    "render_table",
    "to_csv",
    "to_json",
    "write_recist",
]


def __getattr__(name: str) -> Any:
    """Import matplotlib and jinja2 when a page is first asked for."""
    if name not in ("render_page", "render_table", "write_recist"):
        raise AttributeError(f"module 'tlt.recist' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module("tlt.recist.page"), name)
