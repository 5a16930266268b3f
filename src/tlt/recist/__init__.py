"""RECIST 1.1: from tracked lesions and a reader's entries to a response, rule by rule.

For research, not a medical device.
"""

from tlt.recist.assess import assess
from tlt.recist.assessment import Assessment
from tlt.recist.entries import Entries, read_entries

__all__ = ["Assessment", "Entries", "assess", "read_entries"]
