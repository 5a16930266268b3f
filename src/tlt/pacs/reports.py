"""Reports of lesions (DICOM SR, TID 1500): which of them mark a baseline, and our own.

A report that `tlt` made and no reader has confirmed is never a baseline: an error would be handed
on from follow-up to follow-up without anybody having looked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, generate_uid

from tlt.io.dicom_codes import MEASUREMENT_GROUP, PERSON_OBSERVER, STATUS
from tlt.io.dicom_sr_write import MANUFACTURER, write_sr
from tlt.privacy import quiet_libraries

if TYPE_CHECKING:
    from tlt.pipeline import Study

REPORT_TITLE = "126000"  # DCM, Imaging Measurement Report
CT_CLASSES = (CTImageStorage, EnhancedCTImageStorage)


@dataclass(frozen=True)
class Marks:
    """A report with measurements.

    Attributes:
        sop_uid: its SOP Instance UID.
        series_uid: the CT series that it refers to most; None if it names none.
        made_at: date and time of its content, which sort as text.
        copied: `tlt` wrote them down again; they came from another report, or from another file.
    """

    sop_uid: str = field(repr=False)
    series_uid: str | None = field(repr=False)
    made_at: str = field(repr=False)
    copied: bool = False


@dataclass(frozen=True)
class ReportUids:
    """The UIDs of a report that we make: the same inputs give the same object."""

    sop: str = field(repr=False)
    series: str = field(repr=False)


def marks_of(path: Path) -> Marks | None:
    """The marks that a person has put into a report; None if the file is no such report."""
    try:
        with quiet_libraries():
            report = pydicom.dcmread(path)
            items = list(_items(report))
            title = report.ConceptNameCodeSequence[0].CodeValue
            if title != REPORT_TITLE or not any(_is(one, MEASUREMENT_GROUP) for one in items):
                return None
            by_person = any(_is(one, PERSON_OBSERVER) for one in items)
            ours = report.get("Manufacturer") == MANUFACTURER and not by_person
            # Marks that tlt wrote down again came from a person; what it tracked has a status.
            if ours and any(_is(one, STATUS.value) for one in items):
                return None
            made_at = f"{report.get('ContentDate') or ''}{report.get('ContentTime') or ''}"
            return Marks(str(report.SOPInstanceUID), _ct_series(report), made_at, ours)
    except Exception:  # no DICOM, no report, or a damaged one
        return None


def report_uids(
    baseline_report: str, series_uid: str, sop_uids: list[str], tracker: str
) -> ReportUids:
    """UIDs made from the marks, the images and the tracker with its version and weights."""
    inputs = [baseline_report, series_uid, *sorted(sop_uids), tracker]
    return ReportUids(
        generate_uid(entropy_srcs=[*inputs, "report"]),
        generate_uid(entropy_srcs=[*inputs, "series"]),
    )


def write_report(study: Study, path: Path, uids: ReportUids, time_point: int) -> None:
    """Write what was found in the (one) follow-up of a study."""
    with quiet_libraries():
        write_sr(
            study.pairs[0].matches,
            study.followups[0],
            path,
            time_point=time_point,
            sop_uid=uids.sop,
            series_uid=uids.series,
        )


def _items(node: Dataset) -> Iterator[Dataset]:
    for item in node.get("ContentSequence") or ():
        yield item
        yield from _items(item)


def _is(item: Dataset, code: str) -> bool:
    names = item.get("ConceptNameCodeSequence") or ()
    return any(name.get("CodeValue") == code for name in names)


def _ct_series(report: Dataset) -> str | None:
    counts: Counter[str] = Counter()
    for keyword in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence"):
        for study in report.get(keyword) or ():
            for series in study.get("ReferencedSeriesSequence") or ():
                images = series.get("ReferencedSOPSequence") or ()
                counts[str(series.SeriesInstanceUID)] += sum(
                    one.get("ReferencedSOPClassUID") in CT_CLASSES for one in images
                )
    uid, count = max(counts.items(), key=lambda one: one[1], default=("", 0))
    return uid if count else None
