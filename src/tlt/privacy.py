"""What may be said of a patient in a log: nothing but digests.

The libraries below us log requests, which carry UIDs and patients' identifiers, and warn of odd
values by quoting them; they are silenced for as long as we use them.
"""

from __future__ import annotations

import hashlib
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

LIBRARIES = ("dicomweb_client", "pynetdicom", "pydicom", "highdicom", "urllib3", "requests")
UID = re.compile(r"(?<![\w.])(?:2\.25\.\d+|\d+(?:\.\d+){4,})(?!\w)")
SILENT = logging.CRITICAL + 1


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """No log lines and no warnings of the network and DICOM libraries while the block runs."""
    loggers = [logging.getLogger(name) for name in LIBRARIES]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(SILENT)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def digest(*values: str, salt: bytes = b"", length: int = 32) -> str:
    """A hexadecimal digest of values; with a secret salt it tells nothing to others."""
    joined = "\0".join(values).encode()
    return hashlib.blake2b(joined, key=salt, digest_size=32).hexdigest()[:length]


def without_identifiers(text: str, *known: str) -> str:
    """The text on one line, without UIDs and without those identifiers that are known.

    >>> without_identifiers("series 1.2.840.113619.2.55 of DOE-7 is 2.5 mm thick", "DOE-7")
    'series (UID) of (identifier) is 2.5 mm thick'
    """
    for identifier in sorted(filter(None, known), key=len, reverse=True):
        pattern = rf"(?<!\w){re.escape(identifier)}(?!\w)"
        text = re.sub(pattern, "(identifier)", text, flags=re.IGNORECASE)
    return " ".join(UID.sub("(UID)", text).split())
