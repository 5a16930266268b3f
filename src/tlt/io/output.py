"""The folder that results go to: everything appears in it at the end, or nothing does."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tlt.errors import InputError


@contextmanager
def staged(output: Path, last: str = "result.json") -> Iterator[Path]:
    """A new folder on the same disk; its files move to ``output`` when the block succeeds.

    Raises `InputError` at once when ``output`` cannot be written, so that no work is lost later.
    The file named ``last`` is moved last: once it is there, so are all the others.
    """
    parent = _existing_folder(output)
    try:
        folder = Path(tempfile.mkdtemp(prefix=".tlt-", dir=parent))
    except OSError as error:
        raise _not_writable(output, error) from error
    try:
        yield folder
        _move(folder, output, last)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _existing_folder(output: Path) -> Path:
    """The output folder, or the nearest folder above it that exists.

    An existing output is used itself, because it may be a disk of its own (a mounted volume),
    to which files cannot be renamed from beside it.
    """
    for path in (output, *output.absolute().parents):
        if path.is_dir():
            return path
        if path.exists() or path.is_symlink():
            raise InputError(f"{output}: cannot write here, {path} is no folder; choose another")
    raise InputError(f"{output}: cannot write here, no folder above it exists; choose another")


def _move(folder: Path, output: Path, last: str) -> None:
    """Rename every file into the output, which never shows a part of a file."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.iterdir(), key=lambda path: (path.name == last, path.name)):
            os.replace(path, output / path.name)
    except OSError as error:
        raise _not_writable(output, error) from error


def _not_writable(output: Path, error: OSError) -> InputError:
    reason = error.strerror or str(error)
    return InputError(f"{output}: cannot write here ({reason}); choose another --output")
