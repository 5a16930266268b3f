"""A PACS over DIMSE: C-ECHO, C-FIND, C-GET (or C-MOVE where a peer has no C-GET) and C-STORE."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from pydicom.dataset import Dataset
from pynetdicom import AE, Association, build_context, build_role, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from tlt.errors import PeerError, UsageError
from tlt.pacs.contexts import UNCOMPRESSED, receivable, storage_classes
from tlt.pacs.peer import (
    LOCAL,
    MAX_RESULTS,
    Limits,
    OurSide,
    PassingError,
    PeerSeries,
    PeerStudy,
    Receive,
    guarded,
    is_uid,
    persistently,
    read_dicom,
)

FIND = StudyRootQueryRetrieveInformationModelFind
GET = StudyRootQueryRetrieveInformationModelGet
MOVE = StudyRootQueryRetrieveInformationModelMove
UIDS_A_REQUEST = 100
MAX_CONTEXTS = 128
PENDING, SUCCESS, OUT_OF_RESOURCES = (0xFF00, 0xFF01), 0x0000, 0xA700

T = TypeVar("T")


class DimsePeer:
    """See `tlt.pacs.peer.Peer`."""

    def __init__(
        self, host: str, port: int, ae_title: str, our_side: OurSide, limits: Limits
    ) -> None:
        self.name = f"{ae_title}@{host}:{port}"
        bracketed = f"[{host}]" if ":" in host else host
        self.source = f"dicom://{quote(ae_title)}@{bracketed}:{port}"
        self.host, self.port, self.ae_title = host, port, ae_title
        self.our_side, self.limits = our_side, limits

    def echo(self) -> None:
        """C-ECHO."""

        def request() -> None:
            with self._associated([build_context(Verification)]) as association:
                self._check(association.send_c_echo(), "echo")

        self._ask(request)

    def studies(self, **match: str) -> list[PeerStudy]:
        """C-FIND of studies."""
        keys = ("StudyInstanceUID", "StudyDate", "StudyTime", "PatientID", "PatientBirthDate",
                "IssuerOfPatientID")  # fmt: skip
        found = self._find("STUDY", dict.fromkeys(keys, "") | match)
        return [
            PeerStudy(*(_text(one, key) for key in keys))
            for one in found
            if is_uid(_text(one, keys[0]))
        ]

    def series(
        self, study_uid: str | None = None, series_uid: str | None = None
    ) -> list[PeerSeries]:
        """C-FIND of series; without a study only where the peer allows relational queries."""
        found = self._find(
            "SERIES",
            {
                "StudyInstanceUID": study_uid or "",
                "SeriesInstanceUID": series_uid or "",
                "Modality": "",
                "NumberOfSeriesRelatedInstances": "",
            },
        )
        series = [
            PeerSeries(
                _text(one, "SeriesInstanceUID"),
                study_uid or _text(one, "StudyInstanceUID"),
                _text(one, "Modality"),
                _count(one),
            )
            for one in found
        ]
        return [one for one in series if is_uid(one.uid) and is_uid(one.study_uid)]

    def instances(self, series: PeerSeries) -> list[str]:
        """C-FIND of the images of a series."""
        found = self._find("IMAGE", _of(series) | {"SOPInstanceUID": ""})
        return [uid for one in found if is_uid(uid := _text(one, "SOPInstanceUID"))]

    def fetch(self, series: PeerSeries, sop_uids: Sequence[str] | None, receive: Receive) -> None:
        """C-GET, or C-MOVE to ourselves where the peer does not accept C-GET."""
        queries = [_query("SERIES", _of(series))]
        if sop_uids is not None:
            parts = range(0, len(sop_uids), UIDS_A_REQUEST)
            queries = [
                _query(
                    "IMAGE", _of(series) | {"SOPInstanceUID": list(sop_uids[i:][:UIDS_A_REQUEST])}
                )
                for i in parts
            ]
        with guarded(self.name, _explain):
            for query in queries:
                if not self._get(query, receive):
                    self._move(query, receive)

    def store(self, paths: Sequence[Path]) -> None:
        """C-STORE."""
        headers = [read_dicom(path, header_only=True) for path in paths]
        kinds = {(one.SOPClassUID, one.file_meta.TransferSyntaxUID) for one in headers}
        pairs = {
            (kind, other)
            for kind, syntax in kinds
            for other in (UNCOMPRESSED if syntax in UNCOMPRESSED else (syntax,))
        }
        if len(pairs) > MAX_CONTEXTS:
            raise UsageError("too many kinds of files for one association; push fewer at a time")
        contexts = [build_context(kind, syntax) for kind, syntax in sorted(pairs)]
        for path in paths:
            self._ask(partial(self._store, contexts, path))

    def _store(self, contexts: list, path: Path) -> None:
        with self._associated(contexts) as association:
            try:
                status = association.send_c_store(path)
            except ValueError:
                raise PeerError(
                    f"{self.name}: accepts no files of this kind (SOP class and transfer syntax); "
                    "let its administrator allow them"
                ) from None
            self._check(status, "store")

    def _find(self, level: str, keys: dict[str, Any]) -> list[Dataset]:
        def request() -> list[Dataset]:
            found: list[Dataset] = []
            with self._associated([build_context(FIND)]) as association:
                for status, one in association.send_c_find(_query(level, keys), FIND):
                    if status.get("Status") not in PENDING:
                        self._check(status, "search")
                    elif one is None:
                        raise ValueError("unreadable result")
                    elif len(found) == MAX_RESULTS:
                        association.abort()
                        raise PeerError(
                            f"{self.name}: more than {MAX_RESULTS} results; narrow the search"
                        )
                    else:
                        found.append(one)
            return found

        return self._ask(request)

    def _get(self, query: Dataset, receive: Receive) -> bool:
        """Whether the peer does C-GET; if it does, all that it has was received."""
        storage = receivable()
        roles = [build_role(uid, scp_role=True) for uid in storage_classes()]
        inbox = _Inbox(receive)
        handlers = [(evt.EVT_C_STORE, inbox.put)]
        limit = self.limits.series_bytes
        with self._associated([build_context(GET), *storage], limit, roles, handlers) as one:
            if GET not in {context.abstract_syntax for context in one.accepted_contexts}:
                return False
            status = self._last(one.send_c_get(query, GET))
        inbox.check()
        code = status.get("Status")
        if code != SUCCESS and not inbox.received:
            return False  # as it is with peers that accept C-GET but send nothing to us
        self._check(status, "fetch", partly=True)
        return True

    def _move(self, query: Dataset, receive: Receive) -> None:
        inbox = _Inbox(receive)
        server = AE(self.our_side.ae_title)
        server.require_called_aet = True
        server.maximum_pdu_size = 0
        server.network_timeout = server.dimse_timeout = self.limits.read_s
        bound = self.host if self.host in LOCAL else ""
        try:
            listening = server.start_server(
                (bound, self.our_side.store_port),
                block=False,
                contexts=receivable(accepting=True),
                evt_handlers=[(evt.EVT_C_STORE, inbox.put)],
            )
        except OSError:
            raise PassingError(
                f"port {self.our_side.store_port} for receiving images (C-MOVE) is taken; "
                "set TLT_PACS_STORE_PORT, and tell the PACS"
            ) from None
        try:
            with self._associated([build_context(MOVE)]) as association:
                status = self._last(association.send_c_move(query, self.our_side.ae_title, MOVE))
        finally:
            server.shutdown()
            if listening is not None:
                listening.server_close()
        inbox.check()
        if not inbox.received and status.get("Status") != SUCCESS:
            raise PeerError(
                f"{self.name}: sends no images to us, neither by C-GET nor by C-MOVE "
                f"{_code(status)}; register AE title {self.our_side.ae_title} with port "
                f"{self.our_side.store_port} there"
            )
        self._check(status, "fetch", partly=True)

    def _last(self, responses: Iterator[tuple[Dataset, Dataset | None]]) -> Dataset:
        *_, (status, _) = responses
        return status

    def _check(self, status: Dataset, what: str, partly: bool = False) -> None:
        """Raise PeerError unless a final status is success or a warning.

        What is missing after a fetch that went well only ``partly`` is counted by the caller.
        """
        if "Status" not in status:
            raise PassingError(
                f"{self.name}: broke off or was silent for {self.limits.read_s:g} s; try again"
            )
        code = int(status.Status)
        if code == SUCCESS or code >> 12 == 0xB or code in (0x0001, 0x0107, 0x0116) or partly:
            return
        raise PeerError(
            f"{self.name}: refused to {what} {_code(status)}; look into the log of the PACS"
        )

    def _ask(self, request: Callable[[], T]) -> T:
        def attempt() -> T:
            with guarded(self.name, _explain):
                return request()

        return persistently(self.limits, attempt)

    @contextmanager
    def _associated(
        self,
        contexts: list,
        limit: int | None = None,
        roles: Sequence[Any] = (),
        handlers: Sequence[tuple] = (),
    ) -> Iterator[Association]:
        """An established association, released at the end; bounded in bytes and time."""
        entity = AE(self.our_side.ae_title)
        entity.connection_timeout = self.limits.connect_s
        entity.acse_timeout = entity.dimse_timeout = self.limits.read_s
        entity.network_timeout = self.limits.read_s
        meter = _Meter(limit or self.limits.answer_bytes, self.limits.total_s)
        association = entity.associate(
            self.host,
            self.port,
            contexts,
            self.ae_title,
            ext_neg=list(roles),
            evt_handlers=[
                *handlers,
                (evt.EVT_CONN_OPEN, meter.opened),
                (evt.EVT_DATA_RECV, meter.count),
            ],
        )
        if not association.is_established:
            raise self._not_established(association, meter)
        try:
            if not meter.full:  # it has been aborted
                yield association
        finally:
            if association.is_established:
                association.release()
            if meter.full:
                raise PeerError(f"{self.name}: its answer is too large or too slow") from None

    def _not_established(self, association: Association, meter: _Meter) -> PeerError:
        if association.is_rejected:
            return PeerError(
                f"{self.name}: rejects the association; register our AE title "
                f"{self.our_side.ae_title} there, and check the title in the address"
            )
        waited = time.monotonic() - meter.started
        if not meter.is_open:
            return PassingError(
                f"{self.name}: no connection within {self.limits.connect_s:g} s, or refused; "
                "is the PACS up, is the port right?"
            )
        if waited >= self.limits.read_s:
            return PeerError(f"{self.name}: silent for {self.limits.read_s:g} s; try again later")
        return PeerError(
            f"{self.name}: answered something that is not DICOM, or accepts nothing of what we "
            "ask for; check that the port is the PACS's DICOM port"
        )


class _Meter:
    """Counts what an association receives, and aborts it when it is too much or too slow."""

    def __init__(self, limit: int, total_s: float) -> None:
        self.started = time.monotonic()
        self.deadline, self.limit = self.started + total_s, limit
        self.size, self.is_open, self.full = 0, False, False

    def opened(self, event: evt.Event) -> None:
        self.is_open, self.started = True, time.monotonic()

    def count(self, event: evt.Event) -> None:
        self.size += len(event.data)
        if not self.full and (self.size > self.limit or time.monotonic() > self.deadline):
            self.full = True
            event.assoc.abort(block=False)
            event.assoc.dimse.msg_queue.put((None, None))  # who waits for a message need not


class _Inbox:
    """Takes files that a peer sends, and keeps the first error of the receiver."""

    def __init__(self, receive: Receive) -> None:
        self.receive, self.received = receive, 0
        self.error: Exception | None = None

    def put(self, event: evt.Event) -> int:
        """Status of a C-STORE: refused once the receiver has failed, as with a full disk."""
        if self.error is None:
            try:
                self.receive(event.encoded_dataset())
                self.received += 1
                return SUCCESS
            except Exception as error:
                self.error = error
        return OUT_OF_RESOURCES

    def check(self) -> None:
        if self.error is not None:
            raise self.error


def _query(level: str, keys: dict[str, Any]) -> Dataset:
    query = Dataset()
    query.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(query, keyword, value)
    return query


def _of(series: PeerSeries) -> dict[str, Any]:
    return {"StudyInstanceUID": series.study_uid, "SeriesInstanceUID": series.uid}


def _code(status: Dataset) -> str:
    return f"(status 0x{int(status.get('Status', 0)):04X})"


def _text(found: Dataset, keyword: str) -> str:
    return str(found.get(keyword) or "").strip()


def _count(found: Dataset) -> int | None:
    value = _text(found, "NumberOfSeriesRelatedInstances")
    return int(value) if value.isdigit() else None


def _explain(error: Exception) -> PeerError | None:
    return None
