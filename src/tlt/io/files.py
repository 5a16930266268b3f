"""Writing files so that a failure never leaves half of one."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tlt.errors import InputError


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path beside ``path``, with the same ending, to write to; it becomes ``path`` at the end.

    Missing parent folders are made. When the block raises, nothing is left and an older file at
    ``path`` is untouched. Raises InputError when the place cannot be written.
    """
    target = Path(path)
    # The ending stays last, because SimpleITK and matplotlib choose the format by it.
    beside = target.with_name(f".{uuid.uuid4().hex[:8]}.{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        os.replace(beside, target)
    except OSError as error:
        raise InputError(
            f"{target}: cannot be written ({error.strerror or error}); "
            "choose an output folder that is writable and has space"
        ) from error
    finally:
        _remove(beside)


def atomic_write(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write text (UTF-8, line ends kept) or bytes to ``path``, all of it or nothing."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    with atomic_path(path) as beside:
        beside.write_bytes(data)


def atomic_write_json(path: str | os.PathLike[str], content: dict) -> None:
    """Write a JSON object to ``path``, all of it or nothing."""
    atomic_write(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        # The folder itself is missing or closed: then there is nothing of ours in it.
        return
