"""A patient for a PACS: a marked baseline CT and a follow-up in which everything has moved."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from conftest import SPHERES, make_phantom, torso_grid, write_dicom_series
from pydicom.uid import generate_uid

from tlt.io.dicom_sr_write import write_sr
from tlt.io.images import load_volume
from tlt.lesion import Lesion
from tlt.volume import Volume

SHIFT_MM = (6.0, -4.0, 8.0)
NAME, BIRTH_DATE = "Quixote^Distinctive", "19470511"
LESIONS = [
    Lesion(f"L{number}", tuple(center), radius)  # type: ignore[arg-type]
    for number, (center, radius, _) in enumerate(SPHERES, 1)
]


@dataclass(frozen=True)
class Patient:
    """Files of a patient, and the UIDs that no log may hold."""

    id: str
    baseline: Path
    followup: Path
    report: Path
    baseline_series: str
    followup_series: str
    baseline_study: str
    followup_study: str

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must never show up in a log or in the output of a command."""
        return (
            self.id, *NAME.split("^"), BIRTH_DATE, self.baseline_series, self.followup_series,
            self.baseline_study, self.followup_study,
        )  # fmt: skip

    def files(self, *folders: str) -> list[Path]:
        """The files of the named parts (``baseline``, ``followup``, ``report``)."""
        places = [getattr(self, name) for name in folders]
        return [p for place in places for p in ([place] if place.is_file() else place.iterdir())]


def make_patient(folder: Path, patient_id: str = "PID-4711-ZEBRA") -> Patient:
    """Write baseline, follow-up (moved by ``SHIFT_MM``) and the report that marks the baseline."""
    volume = make_phantom(torso_grid((56, 40, 30), (6.0, 6.5, 8.0)), noise_hu=8)
    origin = np.add(volume.grid.origin_mm, SHIFT_MM)
    x, y, z = origin.tolist()
    moved = Volume(volume.voxels, replace(volume.grid, origin_mm=(x, y, z)))
    studies = [generate_uid(entropy_srcs=[patient_id, name]) for name in ("study1", "study2")]
    baseline = write_scan(volume, folder / "baseline", patient_id, studies[0], "20240105")
    followup = write_scan(moved, folder / "followup", patient_id, studies[1], "20240405")
    report = folder / "report.dcm"
    write_sr(LESIONS, load_volume(folder / "baseline"), report, time_point=0, reader="Doe^Jane")
    return Patient(
        patient_id, folder / "baseline", folder / "followup", report, baseline, followup, *studies
    )


def write_scan(
    volume: Volume, folder: Path, patient_id: str, study: str, date: str, **changes: object
) -> str:
    """Write a volume as a series of a study; returns its UID."""
    tags = {
        "PatientID": patient_id, "PatientName": NAME, "PatientBirthDate": BIRTH_DATE,
        "PatientSex": "O", "StudyInstanceUID": study, "StudyDate": date, "StudyTime": "101500",
        "StudyID": "1", "AccessionNumber": "", "ReferringPhysicianName": "", "SeriesDate": date,
        "AcquisitionDate": date, "FrameOfReferenceUID": generate_uid(entropy_srcs=[study]),
        "SeriesNumber": 1,
    }  # fmt: skip
    return write_dicom_series(volume, folder, series=f"{study} {folder.name}", **tags | changes)
