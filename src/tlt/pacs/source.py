"""A series in a PACS, given where a path is expected: ``dicomweb+https://HOST/dicom-web#UID``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from tlt.errors import InputError, UsageError
from tlt.io.sources import SOURCES, read_sources, save_sources
from tlt.privacy import digest

if TYPE_CHECKING:
    from tlt.pipeline import TrackJob

STARTS = ("dicomweb+https://", "dicomweb+http://", "dicom://")


def is_peer_source(path: str) -> bool:
    """Whether a path is the address of a series in a PACS."""
    return path.startswith(STARTS)


def source_name(path: str) -> str:
    """What the source is called in messages and results: no address, no UID.

    >>> source_name("dicom://PACS@host:104#1.2.3")
    'pacs-4fd49d00'
    """
    return f"pacs-{digest(path, length=8)}"


@contextmanager
def pulled_source(path: str) -> Iterator[Path]:
    """The files of the series in a folder that only we can read, and that is removed afterwards.

    Raises UsageError for an impossible address and PeerError when the PACS fails. An InputError
    raised while the block reads the folder names the source instead of it.
    """
    from tlt.pacs.peer import checked_uid, open_peer
    from tlt.pacs.pulling import pull_series, the_series

    address, _, uid = path.removeprefix("dicomweb+").rpartition("#")
    if not address or not uid:
        raise UsageError(
            "a series in a PACS needs its UID: dicomweb+https://HOST/dicom-web#SERIES_UID or "
            "dicom://AETITLE@HOST:PORT#SERIES_UID"
        )
    uid = checked_uid(uid)
    peer = open_peer(address)
    with TemporaryDirectory(prefix="tlt-") as made:
        folder = Path(made) / source_name(path)
        pull_series(peer, the_series(peer, uid), folder)
        try:
            yield folder
        except InputError as error:
            raise InputError(str(error).replace(f"{made}/", "")) from None


@contextmanager
def local_job(job: TrackJob) -> Iterator[TrackJob]:
    """The job with folders in place of series in a PACS, for as long as the block runs."""
    with ExitStack() as stack:

        def local(path: str) -> str:
            return str(stack.enter_context(pulled_source(path))) if is_peer_source(path) else path

        yield replace(
            job,
            baseline=local(job.baseline),
            followups=tuple(map(local, job.followups)),
            lesions=local(job.lesions),
        )


def keep_addresses(job: TrackJob, local: TrackJob) -> None:
    """Let the results of a job lead to the PACS, not to the folders that are removed with it."""
    given, folders = (job.baseline, *job.followups), (local.baseline, *local.followups)
    fetched = {
        str(Path(folder).absolute()): path.rpartition("#")[0]
        for path, folder in zip(given, folders, strict=True)
        if path != folder
    }
    if job.output is not None and fetched:
        lead_to(job.output, fetched)


def lead_to(output: Path, addresses: Mapping[str, str]) -> None:
    """Name PACS in place of folders in what a result leaves for `tlt review`, where it does."""
    sources = read_sources(output)

    def renamed(path: str) -> str:
        folder, _, uid = path.rpartition("#")
        return f"{addresses[folder]}#{uid}" if folder in addresses else path

    if (output / SOURCES).is_file():
        followups = tuple(map(renamed, sources.followups))
        save_sources(
            replace(sources, baseline=renamed(sources.baseline), followups=followups), output
        )
