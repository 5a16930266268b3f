"""The bundled example as a patient in a PACS: real CT, known truth, marked by another program.

One of the three lesions has gone in the follow-up. The report that marks the baseline is made with
highdicom alone, as lines in slices, the way most workstations write them.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from email.parser import BytesParser
from email.policy import HTTP
from pathlib import Path

import httpx
import numpy as np
import pydicom
from orthanc import PASSWORD, USER, Orthanc
from pacs_patients import BIRTH_DATE, NAME, write_scan
from pydicom.uid import generate_uid

from tlt.cli.demo import example_folder
from tlt.geometry import Triple
from tlt.io.images import load_volume
from tlt.io.lesions import read_lesions
from tlt.lesion import Lesion
from tlt.volume import Volume

PATIENT_ID = "PID-2206-OKAPI"
# A real nodule, a structure whose true centre lies in a slice of the follow-up (so that a click
# can hit it), and one that is painted over in the follow-up.
ACCEPTED, CORRECTED, LOST = IDS = ("N1", "S1", "P4")
READER = "Dr. Ann Reader"


@dataclass(frozen=True)
class Story:
    """The files, the marks of the baseline and where they are in the follow-up."""

    baseline: Path
    report: Path
    followup: Path
    studies: tuple[str, str]
    series: tuple[str, str]
    marks: dict[str, Lesion]
    tracking_uids: dict[str, str]
    truth_mm: dict[str, Triple]

    patient_id: str = PATIENT_ID

    @property
    def of_the_patient(self) -> tuple[str, ...]:
        """What may not stand in any file that is no DICOM object."""
        return (PATIENT_ID, *NAME.split("^"), BIRTH_DATE)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What may not stand in any log."""
        uids = (*self.studies, *self.series, *self.tracking_uids.values())
        return (*self.of_the_patient, *uids)


def make_story(folder: Path) -> Story:
    """Write both scans as DICOM series, and the report of the first."""
    studies = [generate_uid(entropy_srcs=[PATIENT_ID, name]) for name in "12"]
    with example_folder() as example:
        baseline = load_volume(example / "baseline.nii.gz")
        followup = load_volume(example / "followup.nii.gz")
        marks = _by_id(read_lesions(example / "lesions.csv", baseline))
        truth = _by_id(read_lesions(example / "truth.csv", followup))
    series = (
        write_scan(_stored(baseline), folder / "bl", PATIENT_ID, studies[0], "20240105"),
        write_scan(
            _stored(without(followup, truth[LOST])), folder / "fu", PATIENT_ID, studies[1],
            "20240405",
        ),
    )  # fmt: skip
    uids = {name: str(generate_uid(entropy_srcs=[PATIENT_ID, name])) for name in IDS}
    write_marks(marks, uids, folder / "bl", folder / "marks.dcm")
    places = {name: truth[name].center_mm for name in IDS}
    return Story(
        folder / "bl", folder / "marks.dcm", folder / "fu", (studies[0], studies[1]), series,
        marks, uids, places,
    )  # fmt: skip


def without(volume: Volume, lesion: Lesion) -> Volume:
    """The volume with the tissue around a lesion in its place."""
    voxels, grid = volume.voxels.astype(float), volume.grid
    points = grid.index_to_mm(np.moveaxis(np.indices(grid.shape_zyx), 0, -1))
    distance = np.linalg.norm(points - np.array(lesion.center_mm), axis=-1)
    inside = distance < lesion.radius_mm + 4
    around = voxels[(distance > lesion.radius_mm + 4) & (distance < lesion.radius_mm + 10)]
    voxels[inside] = np.random.default_rng(1).choice(around, inside.sum())
    return Volume(voxels, grid)


def write_marks(marks: dict[str, Lesion], uids: dict[str, str], images: Path, path: Path) -> None:
    """A TID 1500 report with the long axis of each lesion in the slice nearest to its centre."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    slices = [pydicom.dcmread(one) for one in sorted(images.iterdir())]
    groups = []
    for name in IDS:
        lesion = marks[name]
        image = min(slices, key=lambda s: abs(s.ImagePositionPatient[2] - lesion.center_mm[2]))
        x, y = np.subtract(lesion.center_mm[:2], image.ImagePositionPatient[:2])
        column, row = x / image.PixelSpacing[1] + 0.5, y / image.PixelSpacing[0] + 0.5
        half = lesion.radius_mm / image.PixelSpacing[1]
        line = sr.CoordinatesForMeasurement(
            "POLYLINE", np.array([[column - half, row], [column + half, row]]),
            sr.SourceImageForRegion(image.SOPClassUID, image.SOPInstanceUID),
        )  # fmt: skip
        length = sr.Measurement(
            name=codes.SCT.Length, value=round(2 * lesion.radius_mm, 2),
            unit=codes.UCUM.Millimeter, referenced_coordinates=[line],
        )  # fmt: skip
        groups.append(
            sr.MeasurementsAndQualitativeEvaluations(
                tracking_identifier=sr.TrackingIdentifier(uids[name], name),
                finding_type=codes.SCT.Lesion,
                measurements=[length],
            )
        )
    observer = sr.ObserverContext(
        codes.DCM.Person, sr.PersonObserverIdentifyingAttributes(name="Elsewhere^Reader")
    )
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_person_context=observer),
        procedure_reported=codes.LN.CTUnspecifiedBodyRegion,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    sr.ComprehensiveSR(
        evidence=slices, content=content[0], series_instance_uid=generate_uid(), series_number=50,
        sop_instance_uid=generate_uid(), instance_number=1, manufacturer="Another workstation",
    ).save_as(path)  # fmt: skip


def reports_in(orthanc: Orthanc, study: str) -> list[pydicom.Dataset]:
    """The reports of a study over DICOMweb, by plain HTTP."""
    found = []
    with httpx.Client(auth=(USER, PASSWORD), base_url=f"{orthanc.url}/", timeout=20) as client:
        query = {"Modality": "SR", "includefield": "SOPInstanceUID"}
        for one in client.get(f"studies/{study}/instances", params=query).json():
            series, uid = (one[tag]["Value"][0] for tag in ("0020000E", "00080018"))
            answer = client.get(
                f"studies/{study}/series/{series}/instances/{uid}",
                headers={"Accept": 'multipart/related; type="application/dicom"'},
            )
            kind = answer.headers["content-type"].encode()
            parts = BytesParser(policy=HTTP).parsebytes(
                b"Content-Type: " + kind + b"\r\n\r\n" + answer.content
            )
            (part,) = parts.iter_parts()
            found.append(pydicom.dcmread(pydicom.filebase.DicomBytesIO(part.get_content())))
    return found


def measured(report: pydicom.Dataset) -> dict[str, tuple[str, Triple]]:
    """By tracking identifier: the Tracking UID and the point of each measurement group.

    Read by highdicom, which knows nothing of tlt. Lesions without a measurement group are missing.
    """
    from highdicom.sr import Comprehensive3DSR

    content = Comprehensive3DSR.from_dataset(report).content
    found = {}
    for group in (
        *content.get_planar_roi_measurement_groups(),
        *content.get_image_measurement_groups(),
    ):
        points = [
            (item.name.value, np.array(item.GraphicData).reshape(-1, 3))
            for item in _all_items(group)
            if item.ValueType == "SCOORD3D" and item.GraphicType == "POINT"
        ]
        ((_, point),) = points
        x, y, z = map(float, point[0])
        found[group.tracking_identifier] = (str(group.tracking_uid), (x, y, z))
    return found


def parsed_by_dcmqi(path: Path, folder: Path, ran) -> dict[str, str]:
    """Tracking UIDs by tracking identifier, as ``tid1500reader`` understands the report."""
    ran("tid1500reader", "--inputDICOM", path, "--outputMetadata", folder / "dcmqi.json")
    groups = json.loads((folder / "dcmqi.json").read_text())["Measurements"]
    return {one["TrackingIdentifier"]: one["TrackingUniqueIdentifier"] for one in groups}


def off_mm(one: Triple, other: Triple) -> float:
    """The distance of two points."""
    return math.dist(one, other)


def _all_items(node):
    for item in node if isinstance(node, list) or not hasattr(node, "get") else ():
        yield item
        yield from _all_items(item.get("ContentSequence") or [])


def _stored(volume: Volume) -> Volume:
    """As a scanner stores it: 12 bits from -1024."""
    return Volume(np.clip(np.round(volume.voxels), -1024, 3071).astype(np.int16), volume.grid)


def _by_id(lesions: list[Lesion]) -> dict[str, Lesion]:
    return {lesion.id: lesion for lesion in lesions}
