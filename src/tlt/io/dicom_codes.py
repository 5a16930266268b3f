"""The codes with which DICOM objects name what tlt writes and reads."""

from __future__ import annotations

import hashlib
import re
import uuid
import warnings

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import UID

from tlt.lesion import Role, Status

OWN = "99TLT"  # private, for what no public scheme names

FINDING_SITE = ("363698007", "G-C0E3")  # SNOMED CT, and the older SNOMED RT
TRACKING_ID, TRACKING_UID = "112039", "112040"
MEASUREMENTS, MEASUREMENT_GROUP = "126010", "125007"
TIME_POINT = "126070"  # Subject Time Point Identifier
ALGORITHM = "111001"
PERSON_OBSERVER = "121008"  # Person Observer Name
COMMENT, FINDING, CENTER, IMAGE_REGION = "121106", "121071", "111010", "111030"

# As OHIF looks for them: it goes by the meaning, letter case included.
LONG_AXIS = Code("103339001", "SCT", "Long Axis")
SHORT_AXIS = Code("103340004", "SCT", "Short Axis")
LENGTH = codes.SCT.Length
DIAMETER = codes.SCT.Diameter
VOLUME = codes.SCT.Volume
CERTAINTY = codes.DCM.CertaintyOfFinding
LYMPH_NODE = codes.SCT.LymphNode
NODE_CODES = ("59441001", "T-C4000", "C0024204")  # SNOMED CT, SNOMED RT, UMLS

STATUS = Code("status", OWN, "Tracking status")
ROLE = Code("role", OWN, "Role of the lesion in RECIST 1.1")
EXACT_CENTER = Code("exact-center", OWN, "Exact center, LPS mm")
EXPECTED_RADIUS = Code("expected-radius", OWN, "Radius in mm expected here, not measured")
SIZE_QUALITY = Code("size-quality", OWN, "Quality of the size")
DOUBTFUL = Code("doubtful", OWN, "Doubtful: look at it before it is used")
LONG_NAMES = ("103339001", "G-A185", "410668003", "G-D7FE", "121206")
SHORT_NAMES = ("103340004", "G-A186")
DIAMETER_NAMES = ("81827009", "M-02550")
VOLUME_NAMES = ("118565006", "G-D705")


def status_code(status: Status) -> Code:
    """What the tracker says of a lesion."""
    return Code(status.value, OWN, status.value.replace("_", " "))


def role_code(role: Role) -> Code:
    """The role that a reader gave a lesion."""
    return Code(role.value, OWN, role.value.replace("_", " "))


def site_code(site: str) -> Code:
    """A site as SNOMED CT names it, where one word of its dictionary is meant; else a private code.

    >>> site_code("upper lobe of left lung").scheme_designator, site_code("liver").value
    ('99TLT', '10200004')
    """
    words = re.findall(r"[A-Za-z]+", site)
    known = getattr(codes.SCT, "".join(word.capitalize() for word in words), None)
    if isinstance(known, Code) and known.meaning.lower() == " ".join(words).lower():
        return known
    digest = hashlib.blake2b(site.encode(), digest_size=7).hexdigest()
    return Code(digest, OWN, plain_text(site))


def valid_uid(text: str) -> UID:
    """The text where it is a UID; else one made from it, always the same.

    >>> valid_uid("1.2.3"), valid_uid("no UID") == valid_uid("no UID"), valid_uid("no UID").is_valid
    ('1.2.3', True, True)
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, of a UID that is none
        valid = bool(text) and UID(text).is_valid
    return UID(text) if valid else derived_uid(text)


def derived_uid(text: str) -> UID:
    """The UID that a text always leads to, by way of a UUID of version 5."""
    return UID(f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, text).int}")


def plain_text(text: str, length: int = 64) -> str:
    """The text on one line, without what DICOM's short texts forbid, cut to a length."""
    printable = "".join(c if c.isprintable() and c != "\\" else " " for c in text)
    return " ".join(printable.split())[:length].strip()
