"""What SimpleITK passes over in a NIfTI file: each would give a wrong image without a word.

It fills a damaged file with zeros, turns NaN into 0 HU (water), and a spacing of 0 into 1 mm.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tlt.errors import InputError

FLOATS = {16: "f4", 64: "f8"}  # NIfTI datatype codes


@dataclass(frozen=True)
class NiftiHeader:
    """The fields of a NIfTI-1 header that are checked here; ``order`` is its byte order."""

    order: str
    shape_xyz: tuple[int, ...]
    datatype: int
    bits: int
    spacing: tuple[float, ...]
    offset: int
    form_codes: tuple[int, int]


def check_nifti(path: Path) -> NiftiHeader | None:
    """The header of a NIfTI-1 file that is complete and says where it lies.

    None for a file that is no NIfTI. Raises InputError for damaged or missing data, NIfTI-2, a
    spacing that is not above 0, and for ``qform_code`` and ``sform_code`` both 0.
    """
    packed = path.name.lower().endswith(".gz")
    length = _unpacked_length(path) if packed else path.stat().st_size
    with gzip.open(path) if packed else path.open("rb") as file:
        raw = file.read(348)
    if raw[:4] in (struct.pack("<i", 540), struct.pack(">i", 540)):
        raise InputError(f"{path}: NIfTI-2; convert it to NIfTI-1")
    header = _parse(raw)
    if header is None:
        return None
    needed = header.offset + int(np.prod(header.shape_xyz)) * header.bits // 8
    if length < needed:
        raise InputError(
            f"{path}: {length} bytes, but its header asks for {needed}; copy the file again"
        )
    if header.form_codes == (0, 0):
        raise InputError(
            f"{path}: no coordinate system (qform_code and sform_code are 0); "
            "export it again with its orientation and origin"
        )
    if not all(value > 0 for value in header.spacing):
        raise InputError(f"{path}: voxel spacing {header.spacing} mm; correct the header")
    return header


def non_finite(path: Path, header: NiftiHeader) -> NDArray[np.bool_] | None:
    """Which voxels (D, H, W) of a float file are NaN or infinite; None for other types."""
    kind = FLOATS.get(header.datatype)
    if kind is None:
        return None
    count = int(np.prod(header.shape_xyz))
    with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
        file.seek(header.offset)
        values = np.frombuffer(file.read(count * int(kind[1])), header.order + kind, count)
    return ~np.isfinite(values).reshape(header.shape_xyz[2::-1])


def _parse(raw: bytes) -> NiftiHeader | None:
    for order in "<>":
        if len(raw) == 348 and struct.unpack_from(order + "i", raw)[0] == 348:
            break
    else:
        return None
    dims = struct.unpack_from(order + "8h", raw, 40)
    datatype, bits = struct.unpack_from(order + "2h", raw, 70)
    spacing = struct.unpack_from(order + "8f", raw, 76)[1:4]
    offset = max(int(struct.unpack_from(order + "f", raw, 108)[0]), 0)
    qform, sform = struct.unpack_from(order + "2h", raw, 252)
    shape = tuple(max(n, 1) for n in dims[1 : 1 + max(min(dims[0], 7), 0)])
    return NiftiHeader(order, shape, datatype, bits, spacing, offset, (qform, sform))


def _unpacked_length(path: Path) -> int:
    """Bytes in a .gz of one or more members; raises InputError when it is damaged."""
    damaged = InputError(f"{path}: the gzip data are damaged or incomplete; copy the file again")
    stream, length = zlib.decompressobj(31), 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 17):
                length += len(stream.decompress(chunk))
                while stream.eof and stream.unused_data.strip(b"\0"):
                    # A further member, as bgzip writes them.
                    rest, stream = stream.unused_data, zlib.decompressobj(31)
                    length += len(stream.decompress(rest))
    except zlib.error as error:
        raise damaged from error
    if not stream.eof:
        raise damaged
    return length
