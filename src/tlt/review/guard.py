"""Who may talk to the review: only the browser that was given the address, on this machine.

* The server listens on the loopback address alone.
* The address carries a token of this run; it becomes a cookie that no other site's page can send
  (SameSite=Strict) and no script can read.
* A request must name this server as its host, or a page elsewhere whose name was made to point to
  127.0.0.1 (DNS rebinding) could ask for the images.
* What changes something must carry a second token in a header, which only our own page knows.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

LOOPBACK = "127.0.0.1"
CSRF_HEADER = "x-tlt-csrf"

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; "
        "img-src 'self' blob: data:; connect-src 'self' blob: data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    # Images of patients do not belong in the browser's cache on disk.
    "Cache-Control": "no-store",
}


def _token() -> str:
    return secrets.token_urlsafe(24)


@dataclass(frozen=True)
class Guard:
    """The secrets of one run of the server on one port."""

    port: int
    token: str = field(default_factory=_token, repr=False)
    csrf: str = field(default_factory=_token, repr=False)

    @property
    def url(self) -> str:
        """The address to open; it holds the token."""
        return f"http://{LOOPBACK}:{self.port}/?token={self.token}"

    @property
    def cookie(self) -> str:
        """The cookie's name: cookies do not tell ports apart, so that it names the port."""
        return f"tlt_review_{self.port}"

    def right_host(self, host: str) -> bool:
        """Whether a Host header names this server."""
        return host in {f"{name}:{self.port}" for name in (LOOPBACK, "localhost", "[::1]")}

    def right_origin(self, origin: str | None) -> bool:
        """Whether an Origin header, where there is one, is this server's."""
        return origin is None or self.right_host(origin.removeprefix("http://"))

    def right_token(self, token: str | None) -> bool:
        """Whether it is the token of this run."""
        return _same(token, self.token)

    def right_csrf(self, value: str | None) -> bool:
        """Whether it is what our own page sends with every change."""
        return _same(value, self.csrf)


def _same(given: str | None, secret: str) -> bool:
    return given is not None and secrets.compare_digest(given.encode(), secret.encode())
