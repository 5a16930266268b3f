"""The review's server: a port on the loopback address, until Ctrl-C."""

from __future__ import annotations

import logging
import socket
import threading
import webbrowser
from collections.abc import Callable

import uvicorn

from tlt.errors import UsageError
from tlt.review.guard import LOOPBACK, Guard
from tlt.review.server import make_app
from tlt.review.service import Review


def serve(
    review: Review,
    port: int = 0,
    reader: str = "",
    open_browser: bool = True,
    tell: Callable[[str], None] = print,
) -> None:
    """Serve until the user ends it; ``tell`` is called with the address once it can be opened.

    Raises:
        UsageError: the port cannot be had.
    """
    listening = listen(port)
    guard = Guard(listening.getsockname()[1])
    config = uvicorn.Config(
        make_app(review, guard, reader),
        log_config=None,  # its log of requests would hold the token
        access_log=False,
        timeout_graceful_shutdown=3,
        server_header=False,
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    server = uvicorn.Server(config)
    # The socket listens already: a browser that is faster than the server waits.
    tell(guard.url)
    review.start()
    if open_browser:
        threading.Thread(target=webbrowser.open, args=(guard.url,), daemon=True).start()
    try:
        server.run(sockets=[listening])
    except KeyboardInterrupt:
        pass  # the way to end it
    finally:
        listening.close()
        review.close()


def listen(port: int) -> socket.socket:
    """A socket on the loopback address; port 0 takes a free one."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((LOOPBACK, port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise UsageError(
            f"--port {port}: cannot be used ({error.strerror}); choose another, or leave it out"
        ) from error
    return listening
