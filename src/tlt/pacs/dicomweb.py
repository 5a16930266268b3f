"""A PACS over DICOMweb: QIDO-RS to search, WADO-RS to fetch, STOW-RS to store."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pydicom
from dicomweb_client.web import DICOMwebClient
from pydicom.dataset import Dataset

from tlt.errors import PeerError
from tlt.pacs.peer import (
    LOCAL,
    MAX_RESULTS,
    Limits,
    OurSide,
    PeerSeries,
    PeerStudy,
    Receive,
    guarded,
    is_uid,
    persistently,
    read_dicom,
)
from tlt.pacs.session import BoundedSession, explained

ORIGINAL = (("application/dicom", "*"),)  # as it was stored, compressed or not
PAGE = 500
STUDY_FIELDS = ("PatientBirthDate", "IssuerOfPatientID", "StudyTime")
SERIES_FIELDS = ("NumberOfSeriesRelatedInstances",)

log = logging.getLogger(__name__)


class DicomWebPeer:
    """See `tlt.pacs.peer.Peer`."""

    def __init__(self, url: str, our_side: OurSide, limits: Limits) -> None:
        parts = urlsplit(url)
        self.name, self.source = parts.netloc, f"dicomweb+{url}"
        self.limits = limits
        timeouts = (limits.connect_s, limits.read_s)
        self._session = session = BoundedSession(self.name, our_side, limits)
        with guarded(self.name, self._explain):
            self._client = DICOMwebClient(url, session, timeout=timeouts)
            self._client.set_http_retry_params(retry=False)
        if parts.scheme == "http" and session.auth and parts.hostname not in LOCAL:
            log.warning("%s: the password and all images travel unencrypted; use https", self.name)

    def echo(self) -> None:
        """Search for one study: DICOMweb has no echo."""
        self._ask(lambda: self._checked(self._client.search_for_studies(limit=1)))

    def studies(self, **match: str) -> list[PeerStudy]:
        """The studies that match."""

        def search(offset: int) -> list[dict]:
            return self._client.search_for_studies(
                limit=PAGE, offset=offset, fields=list(STUDY_FIELDS), search_filters=match
            )

        return [
            PeerStudy(
                _text(found, "StudyInstanceUID"),
                _text(found, "StudyDate"),
                _text(found, "StudyTime"),
                _text(found, "PatientID"),
                _text(found, "PatientBirthDate"),
                _text(found, "IssuerOfPatientID"),
            )
            for found in self._all(search, "StudyInstanceUID")
        ]

    def series(
        self, study_uid: str | None = None, series_uid: str | None = None
    ) -> list[PeerSeries]:
        """The series of a study, or the one series."""
        match = {"SeriesInstanceUID": series_uid} if series_uid else {}

        def search(offset: int) -> list[dict]:
            return self._client.search_for_series(
                study_instance_uid=study_uid,
                limit=PAGE,
                offset=offset,
                fields=[*SERIES_FIELDS, *([] if study_uid else ["StudyInstanceUID"])],
                search_filters=match,
            )

        found = [
            PeerSeries(
                _text(one, "SeriesInstanceUID"),
                study_uid or _text(one, "StudyInstanceUID"),
                _text(one, "Modality"),
                _count(one),
            )
            for one in self._all(search, "SeriesInstanceUID")
        ]
        return [one for one in found if is_uid(one.study_uid) and series_uid in (None, one.uid)]

    def instances(self, series: PeerSeries) -> list[str]:
        """The SOP Instance UIDs of a series."""

        def search(offset: int) -> list[dict]:
            return self._client.search_for_instances(
                series.study_uid, series.uid, limit=PAGE, offset=offset
            )

        return [_text(found, "SOPInstanceUID") for found in self._all(search, "SOPInstanceUID")]

    def fetch(self, series: PeerSeries, sop_uids: Sequence[str] | None, receive: Receive) -> None:
        """Hand the files to ``receive``: the whole series in one answer, or one by one."""
        with guarded(self.name, self._explain):
            if sop_uids is None:
                for dataset in self._client.iter_series(
                    series.study_uid, series.uid, media_types=ORIGINAL
                ):
                    receive(_encoded(dataset))
        for uid in sop_uids or ():

            def one(uid: str = uid) -> bytes:
                return _encoded(
                    self._client.retrieve_instance(
                        series.study_uid, series.uid, uid, media_types=ORIGINAL
                    )
                )

            receive(self._ask(one))

    def store(self, paths: Sequence[Path]) -> None:
        """Send the files one by one; each must be confirmed, or be there afterwards."""
        for path in paths:
            self._ask(partial(self._store, path))

    def _store(self, path: Path) -> None:
        dataset = read_dicom(path)
        uid = str(dataset.SOPInstanceUID)
        answer = self._client.store_instances([dataset])
        stored = [str(item.ReferencedSOPInstanceUID) for item in _items(answer, "Referenced")]
        failed = [item.get("FailureReason") for item in _items(answer, "Failed")]
        if failed:
            raise PeerError(
                f"{self.name}: refused to store a file (reason {failed[0]}); "
                "look into the log of the PACS"
            )
        series = PeerSeries(str(dataset.SeriesInstanceUID), str(dataset.StudyInstanceUID), "", None)
        if uid not in stored and uid not in self.instances(series):
            raise PeerError(f"{self.name}: did not confirm that a file was stored; try again")

    def _ask(self, request: Callable[[], Any]) -> Any:
        def attempt() -> Any:
            with guarded(self.name, self._explain):
                return request()

        return persistently(self.limits, attempt)

    def _all(self, search: Callable[[int], list[dict]], key: str) -> list[Dataset]:
        """Every result, page by page, each once; those without a usable UID are passed over."""
        found: dict[str, Dataset] = {}
        offset = 0
        while offset < MAX_RESULTS:
            page = self._ask(partial(self._page, search, offset))
            offset += len(page)
            known = len(found)
            found.update((_text(one, key), one) for one in page if is_uid(_text(one, key)))
            is_last = len(page) < PAGE and not self._session.partial
            if is_last or len(found) == known:
                return list(found.values())
        raise PeerError(f"{self.name}: more than {MAX_RESULTS} results; narrow the search")

    def _page(self, search: Callable[[int], list[dict]], offset: int) -> list[Dataset]:
        return self._checked(search(offset))

    def _checked(self, answer: Any) -> list[Dataset]:
        """The results of a search as datasets."""
        if not isinstance(answer, list):
            raise ValueError("no list")
        return [Dataset.from_json(item) for item in answer]

    def _explain(self, error: Exception) -> PeerError | None:
        return explained(self.name, self.limits, error)


def _encoded(dataset: Dataset) -> bytes:
    """The dataset as the file it came as: elements that nobody looked at are written as read."""
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, dataset)
    return buffer.getvalue()


def _items(answer: Dataset, kind: str) -> list[Dataset]:
    return list(answer.get(f"{kind}SOPSequence") or [])


def _text(found: Dataset, keyword: str) -> str:
    return str(found.get(keyword) or "").strip()


def _count(found: Dataset) -> int | None:
    value = _text(found, "NumberOfSeriesRelatedInstances")
    return int(value) if value.isdigit() else None
