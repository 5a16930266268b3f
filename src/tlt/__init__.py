"""Transformer Lesion Tracker: find each lesion of a baseline CT again in the follow-up CT.

For research, not a medical device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tlt.errors import InputError, ModelError, TltError
from tlt.lesion import Lesion, Match, Status

if TYPE_CHECKING:
    from tlt.io.images import load_volume
    from tlt.io.lesions import read_lesions
    from tlt.track import Tracker

__all__ = [
    "InputError",
    "Lesion",
    "Match",
    "ModelError",
    "Status",
    "TltError",
    "Tracker",
    "load_volume",
    "read_lesions",
]

_HOMES = {
    "Tracker": "tlt.track",
    "load_volume": "tlt.io.images",
    "read_lesions": "tlt.io.lesions",
}


def __getattr__(name: str) -> Any:
    """Import torch and SimpleITK when they are first asked for, not with the package."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module 'tlt' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
