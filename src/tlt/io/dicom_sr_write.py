"""Lesions as a DICOM SR: Comprehensive 3D SR or Comprehensive SR after TID 1500.

Two profiles. ``plain`` keeps the exact LPS points (SCOORD3D in the frame of reference). ``ohif``
is what OHIF 3.13 reads back into its own, editable measurements: pixels (SCOORD) of the slice that
holds the axes, or of the slice nearest to a point, under Cornerstone's tracking identifiers.

A lesion that was not found, or is out of view, gets no measurement group: only a remark under
"Qualitative Evaluations". (OHIF 3.13 fails on groups without coordinates.)
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from pydicom.uid import generate_uid

from tlt.errors import InputError, UsageError
from tlt.io.dicom_codes import derived_uid, plain_text
from tlt.io.dicom_references import References, check_frame, require_highdicom
from tlt.io.dicom_sr_groups import Groups, comment, time_point_name
from tlt.io.files import atomic_path
from tlt.io.lesion_rows import placed
from tlt.lesion import Lesion, Match
from tlt.privacy import quiet_libraries
from tlt.volume import Volume

if TYPE_CHECKING:
    from highdicom import sr

PROFILES = ("plain", "ohif")
MANUFACTURER = "Transformer Lesion Tracker"
OBSERVER_UID = "2.25.232839013519846123497862231460098713345"  # of the program, made once
SERIES_NUMBER = 9901


def write_sr(
    items: Sequence[Lesion | Match],
    image: Volume,
    path: str | os.PathLike[str],
    profile: str = "plain",
    time_point: int = 1,
    reader: str = "",
    sop_uid: str | None = None,
    series_uid: str | None = None,
) -> str:
    """Write the lesions of one image as a DICOM SR; returns its SOP Instance UID.

    Args:
        items: lesions of a baseline, or matches in a follow-up.
        image: the image that they lie in, read from DICOM: its headers are read again for the
            patient, the study and the references.
        path: the file.
        profile: ``plain`` or ``ohif``.
        time_point: 0 for the baseline, 1, 2, ... for the follow-ups in the order of time.
        reader: name of the person who decided, if one did.
        sop_uid, series_uid: for an object that is written again; new ones by default.

    Raises:
        InputError: no lesions; the image is not from DICOM, or lacks a frame of reference.
        UsageError: an unknown profile, or the extra ``dicom`` is not installed.
    """
    require_highdicom()
    if not items:
        raise InputError("no lesion to write into a DICOM SR; mark at least one")
    if profile not in PROFILES:
        raise UsageError(f"--sr-profile {profile}: unknown; use one of {' '.join(PROFILES)}")
    references = check_frame(image)
    sop_uid = sop_uid or generate_uid(prefix=None)
    uids = (sop_uid, series_uid or derived_uid(f"{sop_uid} series"))
    with quiet_libraries(), atomic_path(path) as beside:  # they quote the patient's name
        report = _document(items, references, profile, time_point, reader, uids)
        report.save_as(beside, enforce_file_format=True)
    return sop_uid


def _document(
    items: Sequence[Lesion | Match],
    references: References,
    profile: str,
    time_point: int,
    reader: str,
    uids: tuple[str, str],
) -> Any:
    from highdicom import sr
    from pydicom.sr.codedict import codes

    builder = Groups(references, profile, time_point)
    groups = [builder.group(items[count - 1], lesion) for count, lesion in placed(items)]
    content = sr.MeasurementReport(
        observation_context=_observers(reader),
        procedure_reported=codes.LN.CTUnspecifiedBodyRegion,
        imaging_measurements=groups or [_placeholder()],
        title=codes.DCM.ImagingMeasurementReport,
    )
    if not groups:  # highdicom makes no report without measurements
        del content[0].ContentSequence[-1]
    _add_lost(content, items)
    flat = profile == "ohif" and not builder.spatial
    document = (sr.ComprehensiveSR if flat else sr.Comprehensive3DSR)(
        evidence=[references.image(plane) for plane in sorted(builder.used or {0})],
        content=content[0],
        series_instance_uid=uids[1],
        series_number=SERIES_NUMBER,
        sop_instance_uid=uids[0],
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name="tlt",
        software_versions=version("transformer-lesion-tracker"),
        device_serial_number="1",
        is_complete=True,
        specific_character_set="ISO_IR 192",
        series_description=f"Lesions, {time_point_name(time_point)}",
    )
    return document


def _placeholder() -> sr.MeasurementsAndQualitativeEvaluations:
    from highdicom import sr

    tracking = sr.TrackingIdentifier(generate_uid(None), "none")
    return sr.MeasurementsAndQualitativeEvaluations(tracking)


def _observers(reader: str) -> sr.ObservationContext:
    from highdicom import sr
    from pydicom.sr.codedict import codes

    person = None
    name = plain_text(re.sub("[=^]", " ", reader), 63)  # these part a name; with "^" it may have 64
    if name:
        told = sr.PersonObserverIdentifyingAttributes(name=f"{name}^")
        person = sr.ObserverContext(codes.DCM.Person, told)
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=OBSERVER_UID, name="tlt", manufacturer_name=MANUFACTURER, model_name="tlt"
    )
    return sr.ObservationContext(
        observer_person_context=person,
        observer_device_context=sr.ObserverContext(codes.DCM.Device, device),
    )


def _add_lost(content: sr.MeasurementReport, items: Sequence[Lesion | Match]) -> None:
    """Say which lesions have no place here, where no viewer takes it for a measurement."""
    from highdicom import sr

    shown = {count for count, _ in placed(items)}
    lost = [m for n, m in enumerate(items, 1) if isinstance(m, Match) and n not in shown]
    if not lost:
        return
    box = sr.ContainerContentItem(
        name=sr.CodedConcept("C0034375", "UMLS", "Qualitative Evaluations"),
        relationship_type="CONTAINS",
    )
    box.ContentSequence = sr.ContentSequence(
        [
            comment(
                f"{match.lesion.id} (Tracking UID {match.lesion.tracking_uid}): "
                f"{match.status.value.replace('_', ' ')}"
            )
            for match in lost
        ]
    )
    content[0].ContentSequence.append(box)
