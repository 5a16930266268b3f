"""How many threads torch may use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread, for small kernels.

    Threads that wait for each other on a busy machine cost ten times what they save. The result no
    longer depends on their number either.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def use_one_thread() -> None:
    """The same for a thread of its own, which does not inherit the setting."""
    torch.set_num_threads(1)
