"""An HTTP session that waits and reads no longer than agreed, and errors that say no UID."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import requests
from requests.auth import AuthBase, HTTPBasicAuth
from requests.exceptions import (
    ChunkedEncodingError,
    ConnectionError,
    ConnectTimeout,
    HTTPError,
    ReadTimeout,
    SSLError,
    TooManyRedirects,
)

from tlt.errors import PeerError
from tlt.pacs.peer import Limits, OurSide, PassingError

BUSY = (429, 502, 503, 504)
TAIL = 512
JSON = ("application/dicom+json", "application/json")


class BoundedSession(requests.Session):
    """Bounds every answer in size and time; follows no redirect, which could lead elsewhere."""

    def __init__(self, name: str, our_side: OurSide, limits: Limits) -> None:
        super().__init__()
        self.name, self.limits = name, limits
        self.max_redirects = 0
        self.partial = False  # the last search gave only a part of its results
        if our_side.token is not None:
            self.auth = _Bearer(our_side.token)
        elif our_side.user is not None and our_side.password is not None:
            self.auth = HTTPBasicAuth(our_side.user.encode(), our_side.password.encode())

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        """The response, whose body is read within the bounds."""
        streamed = options.pop("stream", False)
        images = "multipart" in request.headers.get("Accept", "")
        limit = self.limits.series_bytes if images else self.limits.answer_bytes
        response = super().send(request, stream=True, **options)
        _bound(response, self.name, limit, time.monotonic() + self.limits.total_s)
        kind = response.headers.get("Content-Type", "").split(";")[0].strip().lower()
        self.partial = "Warning" in response.headers
        if kind in JSON:  # dicomweb-client knows them only without parameters
            response.headers["Content-Type"] = kind
        if not streamed:
            _ = response.content
        return response


class _Bearer(AuthBase):
    def __init__(self, token: str) -> None:
        self.token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self.token}"
        return request


def _bound(response: requests.Response, name: str, limit: int, deadline: float) -> None:
    """Make the response's body raise PeerError beyond a size or a time, or if its end is missing.

    The end of a multipart answer is a mark of its own: without it a connection that was closed
    half way would pass for a whole answer, and a cut report for one with fewer lesions.
    """
    chunks = response.iter_content
    mark = _end_mark(response)

    def iter_content(*arguments: Any, **options: Any) -> Iterator[Any]:
        size, tail = 0, b""
        for chunk in chunks(*arguments, **options):
            size += len(chunk)
            tail = (tail + chunk)[-TAIL:]
            if size > limit:
                response.close()
                raise PeerError(
                    f"{name}: its answer is larger than {limit >> 20} MiB; ask for less at a time"
                )
            if time.monotonic() > deadline:
                response.close()
                raise PeerError(f"{name}: its answer takes too long; ask for less at a time")
            yield chunk
        if mark is not None and mark not in tail:
            raise PassingError(f"{name}: broke off in the middle of its answer; try again")

    response.iter_content = iter_content  # type: ignore[method-assign]


def _end_mark(response: requests.Response) -> bytes | None:
    """What a multipart answer ends with; None for any other answer."""
    kind, _, parameters = response.headers.get("Content-Type", "").partition(";")
    boundary = re.search(r'boundary="?([^";]+)', parameters, re.IGNORECASE)
    if not kind.strip().lower().startswith("multipart/") or boundary is None:
        return None
    return b"--" + boundary.group(1).strip().encode() + b"--"


def explained(name: str, limits: Limits, error: Exception) -> PeerError | None:
    """What an error of requests means for a user; None for errors that are not of the transport."""
    if isinstance(error, ConnectTimeout):
        return PassingError(
            f"{name}: no connection within {limits.connect_s:g} s; is the PACS up, is it reachable?"
        )
    if isinstance(error, ReadTimeout) or "ReadTimeoutError" in repr(error.args):
        return PeerError(f"{name}: has been silent for {limits.read_s:g} s; try again later")
    if isinstance(error, SSLError):
        return PeerError(
            f"{name}: its TLS certificate is not trusted; "
            "set REQUESTS_CA_BUNDLE to the certificate of your hospital's authority"
        )
    if isinstance(error, ChunkedEncodingError):
        return PassingError(f"{name}: broke off in the middle of its answer; try again")
    if isinstance(error, ConnectionError):
        return PassingError(
            f"{name}: refuses or breaks the connection; is the PACS up, is the port right?"
        )
    if isinstance(error, TooManyRedirects):
        return PeerError(f"{name}: sends us elsewhere (redirect); give its final address")
    if isinstance(error, HTTPError) and error.response is not None:
        return _status(name, error.response.status_code)
    return None


def _status(name: str, code: int) -> PeerError:
    if code in (401, 403):
        return PeerError(
            f"{name}: does not accept us (HTTP {code}); set TLT_PACS_USER and TLT_PACS_PASSWORD, "
            "or TLT_PACS_TOKEN"
        )
    if code == 404:
        return PeerError(f"{name}: has nothing there (HTTP 404); check the address and the UID")
    if code in BUSY:
        return PassingError(f"{name}: is busy or starting (HTTP {code}); try again later")
    return PeerError(f"{name}: answered with an error (HTTP {code}); look into the log of the PACS")
