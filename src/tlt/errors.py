"""The errors a user can meet, each with the exit code of the contract.

A message is one line and says what was wrong, the value, and the remedy.
"""


class TltError(Exception):
    """Base of every expected error; ``exit_code`` is what the command line returns."""

    exit_code = 3


class UsageError(TltError):
    """A command or an argument that cannot be meant."""

    exit_code = 2


class InputError(TltError):
    """Unreadable or impossible input: names the file, the rule, the value, the remedy."""

    exit_code = 3


class ModelError(TltError):
    """A model or its weights that cannot be used."""

    exit_code = 4


class PeerError(TltError):
    """A network peer (a PACS) that failed."""

    exit_code = 5
