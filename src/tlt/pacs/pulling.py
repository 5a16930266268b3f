"""From a PACS into folders: every file whole or not there, and none fetched twice."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from tlt.errors import InputError, PeerError
from tlt.io.dicom_files import read_header
from tlt.io.files import atomic_write
from tlt.pacs.peer import Peer, PeerSeries, persistently
from tlt.privacy import digest, quiet_libraries

LEFT_OVER = re.compile(r"\.[0-9a-f]{8}\.[0-9a-f]{32}\.dcm")  # of `atomic_path`, after a kill
NAME_LENGTH = 10


@dataclass(frozen=True)
class Pulled:
    """A series that is on disk: its folder, how many files it has, how many of them are new."""

    folder: Path
    modality: str
    images: int
    fetched: int


def pull_series(
    peer: Peer, series: PeerSeries, folder: Path, sop_uids: Sequence[str] | None = None
) -> Pulled:
    """Fetch a series, or some of its instances, into a folder.

    Files that are there and whole are not fetched again, so that an interrupted pull is finished
    by repeating it. Files are named by digests of their UIDs. Raises PeerError when the peer fails
    or does not send everything, InputError when the folder cannot be written.
    """
    expected = peer.instances(series) if sop_uids is None else list(sop_uids)
    if not expected:
        raise PeerError(f"{peer.name}: has no images in that series; check the UID")
    if sop_uids is None and len(expected) < (series.images or 0):
        raise PeerError(
            f"{peer.name}: lists {len(expected)} of {series.images} images of a series; try again"
        )
    _clear(folder)
    missing = [uid for uid in expected if not _is_whole(folder / file_name(uid), uid)]
    inbox = _Inbox(folder, set(missing))

    def fetch() -> None:
        everything = sop_uids is None and len(inbox.wanted) == len(expected)
        peer.fetch(series, None if everything else sorted(inbox.wanted), inbox.put)

    if missing:
        persistently(peer.limits, fetch)
    if inbox.wanted:
        raise PeerError(
            f"{peer.name}: sent {len(missing) - len(inbox.wanted)} of {len(missing)} files whole; "
            "repeat the command to fetch the rest"
        )
    return Pulled(folder, series.modality, len(expected), len(missing))


def pull_studies(peer: Peer, study_uids: Sequence[str], output: Path) -> list[Pulled]:
    """Fetch every series of the studies, each into its own folder of ``output``.

    Raises PeerError at the end where some could not be fetched; the others are there then.
    """
    found = [series for uid in study_uids for series in peer.series(uid)]
    if not found:
        raise PeerError(f"{peer.name}: does not have that study; check the UID")
    pulled, failures = [], []
    for series in found:
        try:
            pulled.append(pull_series(peer, series, output / folder_name(series)))
        except PeerError as error:
            peer.echo()  # raises where the PACS as a whole has failed
            failures.append(str(error).removeprefix(f"{peer.name}: "))
    if failures:
        raise PeerError(
            f"{peer.name}: {len(failures)} of {len(found)} series were not fetched whole; the "
            f"others are there. The first: {failures[0]}"
        )
    return pulled


def the_series(peer: Peer, series_uid: str, study_uid: str | None = None) -> PeerSeries:
    """The series with that UID; raises PeerError if the peer has none."""
    found = peer.series(study_uid, series_uid)
    if len(found) != 1:
        hint = "" if study_uid else ", or name its study, too, if the PACS searches by study only"
        raise PeerError(f"{peer.name}: does not have that series; check the UID{hint}")
    return found[0]


def file_name(sop_uid: str) -> str:
    """The name of an instance's file; it does not tell the UID."""
    return f"{digest(sop_uid)}.dcm"


def folder_name(series: PeerSeries) -> str:
    """The name of a series' folder, such as ``CT-1f0a7c22b3``."""
    modality = re.sub(r"[^A-Z0-9]", "", series.modality.upper())[:16] or "OT"
    return f"{modality}-{digest(series.uid, length=NAME_LENGTH)}"


class _Inbox:
    """Writes the files that are wanted, and lets go of those that are cut or not asked for."""

    def __init__(self, folder: Path, wanted: set[str]) -> None:
        self.folder, self.wanted = folder, wanted

    def put(self, data: bytes) -> None:
        uid = _whole_uid(data)
        if uid in self.wanted:
            atomic_write(self.folder / file_name(uid), data)
            self.wanted.discard(uid)


def _whole_uid(data: bytes) -> str:
    """The SOP Instance UID of a DICOM file; empty for anything else and for cut files."""
    try:
        with quiet_libraries():
            header, complete = read_header(BytesIO(data), len(data))
            return str(header.SOPInstanceUID) if complete else ""
    except Exception:  # pydicom raises whatever a damaged file makes its parsers raise
        return ""


def _is_whole(path: Path, uid: str) -> bool:
    try:
        return path.is_file() and _whole_uid(path.read_bytes()) == uid
    except OSError as error:
        raise InputError(f"{path.parent}: cannot be read ({error.strerror}); choose another") from (
            error
        )


def _clear(folder: Path) -> None:
    """Remove the halves that a killed pull has left."""
    for path in folder.glob(".*.dcm") if folder.is_dir() else ():
        if LEFT_OVER.fullmatch(path.name):
            path.unlink(missing_ok=True)
