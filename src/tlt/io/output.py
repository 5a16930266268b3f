"""The folder that results go to: everything appears in it at the end, or nothing does."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tlt.errors import InputError
from tlt.io.files import atomic_write


@contextmanager
def staged(output: Path, last: str = "result.json", listed: str | None = None) -> Iterator[Path]:
    """A new folder on the same disk; its files move to ``output`` when the block succeeds.

    Raises `InputError` at once when ``output`` cannot be written, so that no work is lost later.
    The file named ``last`` is moved last: once it is there, so are all the others. ``listed`` names
    a file in which the names are kept: what an earlier run wrote and this one does not goes then,
    and nothing else.
    """
    folder = _staging(output)
    try:
        yield folder
        _move(folder, output, last, listed)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_writable(output: Path) -> None:
    """Raises `InputError` where a folder cannot be written, before any work."""
    _staging(output).rmdir()


def _staging(output: Path) -> Path:
    """A new folder on the disk of an output."""
    try:
        return Path(tempfile.mkdtemp(prefix=".tlt-", dir=_existing_folder(output)))
    except OSError as error:
        raise _not_writable(output, error) from error


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


def _move(folder: Path, output: Path, last: str, listed: str | None) -> None:
    """Rename every file into the output, which never shows a part of a file."""
    names = sorted((path.name for path in folder.iterdir()), key=lambda name: (name == last, name))
    try:
        output.mkdir(parents=True, exist_ok=True)
        if listed is not None:
            earlier = names_in(output / listed)
            # Both, for as long as both may be there.
            atomic_write(output / listed, json.dumps(sorted(earlier.union(names))))
        for name in names:
            os.replace(folder / name, output / name)
        if listed is not None:
            for name in earlier.difference(names):
                (output / name).unlink()
            atomic_write(output / listed, json.dumps(sorted(names)))
    except OSError as error:
        raise _not_writable(output, error) from error


def names_in(path: Path) -> set[str]:
    """The files, in its own folder and no other, that a list names; none without a list."""
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return set()
    return {p.name for p in path.parent.iterdir() if p.name in listed and p.is_file()}


def _not_writable(output: Path, error: OSError) -> InputError:
    reason = error.strerror or str(error)
    return InputError(f"{output}: cannot write here ({reason}); choose another --output")
