"""What SimpleITK passes over in NRRD and MetaImage files, whose headers are lines of text.

It puts an image without coordinates at the origin, and does not mind that compressed voxels are
damaged.
"""

from __future__ import annotations

import zlib
from pathlib import Path

from tlt.errors import InputError

PATIENT_SPACES = {
    "left-posterior-superior", "lps", "right-anterior-superior", "ras",
    "left-anterior-superior", "las",
}  # fmt: skip
META_FRAME = {"transformmatrix", "orientation", "rotation", "offset", "origin", "position"}


def check_text_header(path: Path) -> None:
    """Raise InputError for an NRRD or MetaImage without a place in the patient, or damaged."""
    nrrd = path.name.lower().endswith((".nrrd", ".nhdr"))
    header = _text_header(path, ":" if nrrd else "=")
    if ("sizes" if nrrd else "dimsize") not in header:
        return  # neither format: SimpleITK says so
    missing = None
    if nrrd and header.get("space", "").lower() not in PATIENT_SPACES:
        missing = f"its 'space' is {header.get('space', 'missing')}, not LPS, RAS or LAS"
    elif nrrd and "space directions" not in header:
        missing = "it has no 'space directions'"
    elif not nrrd and not META_FRAME & set(header):
        missing = "it has no TransformMatrix and no Offset"
    if missing:
        raise InputError(
            f"{path}: no coordinate system ({missing}); "
            "export it again with its orientation and origin"
        )
    if nrrd and header.get("encoding", "").lower() in ("gz", "gzip") and not _detached(header):
        _check_compressed(path, (b"\n", b"\r\n"), zlib.MAX_WBITS | 16)
    if header.get("compresseddata", "").lower() == "true" and not _detached(header):
        _check_compressed(path, (b"ElementDataFile",), zlib.MAX_WBITS)


def _detached(header: dict[str, str]) -> bool:
    """Whether the voxels are in another file."""
    return (
        "data file" in header
        or "datafile" in header
        or header.get("elementdatafile", "LOCAL").upper() != "LOCAL"
    )


def _text_header(path: Path, separator: str) -> dict[str, str]:
    """The fields of an NRRD or MetaImage header, keys in lower case."""
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        for raw in file.read(1 << 16).split(b"\n"):
            line = raw.decode("latin-1").strip()
            if not line or len(fields) > 1000:
                break
            key, found, value = line.partition(separator)
            if found:
                fields[key.strip().lower()] = value.strip()
            if fields.get("elementdatafile"):
                break
    return fields


def _check_compressed(path: Path, last_line: tuple[bytes, ...], wbits: int) -> None:
    """Refuse voxels that end early or do not fit their checksum; they follow ``last_line``."""
    stream = zlib.decompressobj(wbits)
    with path.open("rb") as file:
        while (line := file.readline(1 << 16)) and not line.startswith(last_line):
            pass
        try:
            while chunk := file.read(1 << 17):
                stream.decompress(chunk)
        except zlib.error:
            stream = zlib.decompressobj(wbits)
    if not stream.eof:
        raise InputError(f"{path}: its voxels are damaged or incomplete; copy the file again")
