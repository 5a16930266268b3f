"""Content items of a DICOM SR, as pydicom hands them out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydicom.dataset import Dataset

from tlt.io import dicom_codes as known


def with_inner(items: list[Dataset]) -> Iterator[Dataset]:
    """The items of a group and what they contain."""
    for item in items:
        yield item
        yield from item.get("ContentSequence") or []


def tracking_uid(items: list[Dataset]) -> str:
    found = (str(i.get("UID") or "") for i in items if name_code(i) == known.TRACKING_UID)
    return next(found, "")


def text_of(items: list[Dataset], code: str) -> str:
    texts = (str(i.get("TextValue") or "").strip() for i in items if name_code(i) == code)
    return next((text for text in texts if text), "")


def value_type(item: Dataset) -> str:
    return str(item.get("ValueType") or "")


def name_code(item: Dataset) -> str:
    return code_of(item.get("ConceptNameCodeSequence"))


def code_of(sequence: Sequence[Dataset] | None) -> str:
    """The value of a coded name, whichever length its scheme needs."""
    if not sequence:
        return ""
    code = sequence[0]
    return str(code.get("CodeValue") or code.get("LongCodeValue") or code.get("URNCodeValue") or "")


def meaning_of(item: Dataset) -> str:
    sequence = item.get("ConceptCodeSequence")
    return str(sequence[0].get("CodeMeaning") or "").strip() if sequence else ""
