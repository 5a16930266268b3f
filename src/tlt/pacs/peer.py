"""A PACS as the rest of the package sees it, whichever protocol it speaks.

Addresses: ``https://host/dicom-web`` (DICOMweb; ``http`` too) and ``dicom://AETITLE@host:port``
(DIMSE). User and password, or a token, come from the environment or from ``~/.netrc``, never from
an address or an argument, which other users of the machine can see.
"""

from __future__ import annotations

import importlib.util
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import unquote, urlsplit

import pydicom
from pydicom.dataset import Dataset

from tlt.errors import InputError, PeerError, TltError, UsageError
from tlt.privacy import quiet_libraries

MAX_RESULTS = 20_000  # of a search; more is no search for one patient
LOCAL = ("localhost", "127.0.0.1", "::1")
UID_FORM = re.compile(r"[0-9]+(\.[0-9]+)*")
T = TypeVar("T")

Receive = Callable[[bytes], None]


@dataclass(frozen=True)
class Limits:
    """How long and how much we wait for, so that no peer can hold or fill this machine.

    Attributes:
        connect_s: until a connection stands.
        read_s: silence in the middle of an answer.
        total_s: one whole answer.
        attempts: how often a request is made when the connection breaks or the peer is busy.
        pause_s: before the second attempt; doubles with each.
        answer_bytes: one answer to a search.
        series_bytes: one series.
    """

    connect_s: float = 10.0
    read_s: float = 60.0
    total_s: float = 3600.0
    attempts: int = 3
    pause_s: float = 0.5
    answer_bytes: int = 64 << 20
    series_bytes: int = 8 << 30


@dataclass(frozen=True)
class OurSide:
    """How we appear to a peer.

    Attributes:
        ae_title: our application entity title (DIMSE).
        store_port: where we receive what a C-MOVE sends; the peer must know it.
        user, password, token: for DICOMweb.
    """

    ae_title: str = "TLT"
    store_port: int = 11112
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)

    @staticmethod
    def from_environment() -> OurSide:
        """What the variables ``TLT_PACS_AET, _STORE_PORT, _USER, _PASSWORD, _TOKEN`` say."""
        port = os.environ.get("TLT_PACS_STORE_PORT", "11112")
        if not port.isdigit() or not 0 < int(port) < 65536:
            raise UsageError("TLT_PACS_STORE_PORT: not a port; give 1 to 65535")
        user, password = (os.environ.get(f"TLT_PACS_{name}") for name in ("USER", "PASSWORD"))
        if (user is None) != (password is None):
            raise UsageError("TLT_PACS_USER and TLT_PACS_PASSWORD: give both or none")
        ae_title = os.environ.get("TLT_PACS_AET", "TLT")
        token = os.environ.get("TLT_PACS_TOKEN")
        return OurSide(checked_ae_title(ae_title), int(port), user, password, token)


@dataclass(frozen=True)
class PeerStudy:
    """A study that a peer has; of the patient no more than tells two patients apart."""

    uid: str = field(repr=False)
    date: str = field(repr=False)
    time: str = field(repr=False)
    patient_id: str = field(repr=False)
    birth_date: str = field(repr=False)
    issuer: str = field(repr=False)


@dataclass(frozen=True)
class PeerSeries:
    """A series that a peer has; ``images`` is None where the peer does not count them."""

    uid: str = field(repr=False)
    study_uid: str = field(repr=False)
    modality: str
    images: int | None


class Peer(Protocol):
    """What both protocols can do. Every method raises PeerError when the peer fails."""

    name: str  # host and port: safe to log
    source: str  # with #UID behind it the address of a series, as `load_volume` takes it
    limits: Limits

    def echo(self) -> None:
        """Return when the peer answers and accepts us."""
        ...

    def studies(self, **match: str) -> list[PeerStudy]:
        """The studies that match DICOM keywords (``PatientID="7"``, ``StudyDate="20240101-"``)."""
        ...

    def series(
        self, study_uid: str | None = None, series_uid: str | None = None
    ) -> list[PeerSeries]:
        """The series of a study, or the one series."""
        ...

    def instances(self, series: PeerSeries) -> list[str]:
        """The SOP Instance UIDs of a series."""
        ...

    def fetch(self, series: PeerSeries, sop_uids: Sequence[str] | None, receive: Receive) -> None:
        """Hand the DICOM files of the named instances, or of all, to ``receive``, one by one."""
        ...

    def store(self, paths: Sequence[Path]) -> None:
        """Return when the peer has confirmed every file."""
        ...


class PassingError(PeerError):
    """A failure that another attempt may mend: a broken connection, a busy peer."""


def open_peer(address: str, limits: Limits | None = None, our_side: OurSide | None = None) -> Peer:
    """The peer at an address; nothing is sent yet. Raises UsageError for an impossible address."""
    limits, our_side = limits or Limits(), our_side or OurSide.from_environment()
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError as error:
        raise UsageError("the address of the PACS has an impossible port or host") from error
    if parts.scheme == "dicom":
        _need("pynetdicom")
        from tlt.pacs.dimse import DimsePeer

        if not (parts.username and parts.hostname and port) or parts.password or parts.path:
            raise UsageError(
                "the address of the PACS is incomplete; give dicom://AETITLE@HOST:PORT"
            )
        title = checked_ae_title(unquote(parts.username))
        return DimsePeer(parts.hostname, port, title, our_side, limits)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(
            "the address of the PACS is not one that tlt knows; "
            "give https://HOST/dicom-web or dicom://AETITLE@HOST:PORT"
        )
    if parts.username or parts.password:
        raise UsageError(
            "the address of the PACS holds a user or a password, which others can see; "
            "set TLT_PACS_USER and TLT_PACS_PASSWORD, or use ~/.netrc"
        )
    if parts.query or parts.fragment:
        raise UsageError("the address of the PACS ends in ?... or #...; give it without")
    _need("dicomweb_client")
    from tlt.pacs.dicomweb import DicomWebPeer

    return DicomWebPeer(address.rstrip("/"), our_side, limits)


def _need(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise UsageError(
            f"a PACS needs the package {package}: pip install 'transformer-lesion-tracker[dicom]'"
        )


def checked_ae_title(title: str) -> str:
    """The title; raises UsageError unless it has 1 to 16 printable characters."""
    title = title.strip()
    if not re.fullmatch(r"[ -\[\]-~]{1,16}", title):
        raise UsageError("an AE title must have 1 to 16 printable ASCII characters, no backslash")
    return title


def checked_uid(uid: str) -> str:
    """The UID; raises UsageError, without quoting it, if it cannot be one."""
    uid = uid.strip()
    if len(uid) > 64 or not UID_FORM.fullmatch(uid):
        raise UsageError("not a DICOM UID; give digits and dots, at most 64")
    return uid


def read_dicom(path: Path, header_only: bool = False) -> Dataset:
    """The DICOM file; raises InputError if it cannot be read or lacks its UIDs."""
    try:
        with quiet_libraries():
            dataset = pydicom.dcmread(path, stop_before_pixels=header_only)
            for keyword in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID"):
                dataset[keyword]
            dataset["StudyInstanceUID"], dataset.file_meta["TransferSyntaxUID"]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check it") from error
    except Exception:  # pydicom raises whatever a damaged file makes its parsers raise
        raise InputError(f"{path}: a damaged or incomplete DICOM file; export it again") from None
    return dataset


def is_uid(text: str) -> bool:
    """Whether a peer's answer can be a UID: it goes into addresses."""
    return len(text) <= 64 and UID_FORM.fullmatch(text) is not None


def persistently(limits: Limits, request: Callable[[], T]) -> T:
    """What the request returns, after as many attempts as the limits allow."""
    for attempt in range(1, limits.attempts):
        try:
            return request()
        except PassingError:
            time.sleep(limits.pause_s * 2 ** (attempt - 1))
    return request()


@contextmanager
def guarded(name: str, explain: Callable[[Exception], PeerError | None]) -> Iterator[None]:
    """Silence the libraries, and turn whatever they raise into a PeerError without identifiers.

    ``explain`` knows the protocol's own errors; any other means an answer that cannot be read.
    """
    try:
        with quiet_libraries():
            yield
    except TltError:
        raise
    except Exception as error:
        # "from None": the messages and the causes of the libraries' errors quote UIDs.
        raise (
            explain(error)
            or PeerError(
                f"{name}: answered something that is not DICOM ({type(error).__name__}); "
                "check that the address is that of a PACS"
            )
        ) from None
