"""Taking DICOM files out of a zip that anybody may have made."""

from __future__ import annotations

import shutil
import zipfile
import zlib
from pathlib import Path

from tlt.errors import InputError

MAX_BYTES = 8 << 30
MAX_FILES = 20_000


def starts_as_dicom(start: bytes) -> bool:
    """Whether the first 132 bytes are DICOM's: its preamble, or an early group without one."""
    return start[128:] == b"DICM" or start[:4] in (
        b"\x02\x00\x00\x00", b"\x08\x00\x00\x00", b"\x08\x00\x05\x00"
    )  # fmt: skip


def extract_dicom(path: Path, folder: Path) -> None:
    """Write the DICOM files of the zip into ``folder`` under numbers, never under their own names.

    So no name can lead outside the folder, and none shows up in a log. Raises InputError for a
    damaged, encrypted or oversized zip.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if not m.is_dir()]
            _check_bounds(path, members, folder)
            for number, member in enumerate(members):
                _extract(archive, member, folder / f"{number:06d}.dcm")
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise InputError(f"{path}: damaged or not a zip; pack the series again") from error
    except RuntimeError as error:
        raise InputError(f"{path}: the zip is encrypted; unpack it yourself") from error


def _check_bounds(path: Path, members: list[zipfile.ZipInfo], folder: Path) -> None:
    if len(members) > MAX_FILES:
        raise InputError(f"{path}: {len(members)} files, more than {MAX_FILES}; give one series")
    total = sum(member.file_size for member in members)
    room = min(MAX_BYTES, shutil.disk_usage(folder).free)
    if total > room:
        raise InputError(
            f"{path}: {total / 2**30:.1f} GiB unpacked, more than {room / 2**30:.1f} GiB; "
            "give a folder of one series"
        )


def _extract(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    # zipfile reads no more than the size it has declared, so the bound above holds.
    with archive.open(member) as source:
        start = source.read(132)
        if not starts_as_dicom(start):
            return
        with target.open("wb") as file:
            file.write(start)
            shutil.copyfileobj(source, file, 1 << 20)
