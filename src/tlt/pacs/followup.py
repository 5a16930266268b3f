"""One follow-up, from the images in the PACS to the report in the PACS.

Every step leaves its result whole in the job's folder or not at all, so that the job, killed at any
moment and begun again, goes on behind the last step that was finished.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from tlt.errors import InputError, PeerError
from tlt.io.output import staged
from tlt.io.results import Result, write_json
from tlt.io.sources import write_sources
from tlt.lesion import Status
from tlt.pacs.choose import Appearance, appearance_of, choose_series
from tlt.pacs.peer import Peer, PeerSeries, PeerStudy
from tlt.pacs.pulling import file_name, folder_name, pull_series
from tlt.pacs.reports import Marks, ReportUids, report_uids, write_report
from tlt.pacs.source import lead_to
from tlt.pipeline import TrackJob, track_study

RESULT, REPORT = "result", "report.dcm"

log = logging.getLogger(__name__)
Say = Callable[[str], None]


@dataclass(frozen=True)
class Marked:
    """A baseline: the study, the report that marks it, and how many CT studies lie between."""

    study: PeerStudy
    marks: Marks
    studies_between: int


@dataclass(frozen=True)
class Tracking:
    """With what to track; see `tlt.pipeline.TrackJob`."""

    tracker: str = "tlt"
    model: str | None = None
    device: str = "auto"

    @property
    def name(self) -> str:
        """Tells apart what may give other answers: tracker, weights, version."""
        return f"{self.tracker} {self.model or ''} {version('transformer-lesion-tracker')}"


def run_followup(
    peer: Peer,
    marked: Marked,
    study: PeerStudy,
    offered: Sequence[PeerSeries],
    tracking: Tracking,
    folder: Path,
    say: Say,
) -> None:
    """Pull, track and push; does nothing for a report that the PACS has already.

    ``offered`` are the CT series of the follow-up study. Raises PeerError when the PACS fails,
    InputError for images or marks that cannot be used, ModelError for the tracker.
    """
    result = folder / RESULT
    report = result / REPORT
    if not report.is_file():
        baseline = _baseline_series(peer, marked)
        chosen = _chosen(peer, baseline, offered, folder)
        instances = peer.instances(chosen)
        uids = report_uids(marked.marks.sop_uid, chosen.uid, instances, tracking.name)
        if uids.sop in peer.instances(PeerSeries(uids.series, study.uid, "SR", None)):
            say("the PACS has this report already")
            return
        first = pull_series(peer, baseline, folder / "baseline")
        second = pull_series(peer, chosen, folder / "followup", instances)
        say(f"pulled {first.images} + {second.images} images")
        with staged(result, last=REPORT) as beside:
            found = _track(marked, tracking, folder, beside, uids)
        say(_summary(found))
    peer.store([report])
    say("report stored")


def forget_images(peer: Peer, folder: Path) -> None:
    """Remove what identifies the patient from the folder of a job; result.json stays.

    A review fetches the images from the PACS again.
    """
    lead_to(
        folder / RESULT,
        {str((folder / name).absolute()): peer.source for name in ("baseline", "followup")},
    )
    for name in ("baseline", "followup", "offered"):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / RESULT / REPORT).unlink(missing_ok=True)


def _track(
    marked: Marked, tracking: Tracking, folder: Path, output: Path, uids: ReportUids
) -> Result:
    job = TrackJob(
        baseline=str(folder / "baseline"),
        followups=(str(folder / "followup"),),
        lesions=str(marked.marks.path),
        output=None,
        tracker=tracking.tracker,
        model=tracking.model,
        device=tracking.device,
    )
    study = track_study(job, lambda stage, fraction: None)
    patients = {study.baseline.patient, study.followups[0].patient}
    if None in patients or len(patients) > 1:
        raise InputError(
            "the images of baseline and follow-up do not carry one and the same PatientID; "
            "let the PACS's administrator look"
        )
    write_json(study.result, output / "result.json")
    write_sources(output, study.baseline, study.followups, ("json",))
    write_report(study, output / REPORT, uids, marked.studies_between + 1)
    return study.result


def _baseline_series(peer: Peer, marked: Marked) -> PeerSeries:
    """The series that the marks refer to; the largest where they name none."""
    series = [one for one in peer.series(marked.study.uid) if one.modality == "CT"]
    if marked.marks.series_uid is not None:
        series = [one for one in series if one.uid == marked.marks.series_uid]
    if not series:
        raise InputError("the images that the baseline's report refers to are not in the PACS")
    return max(series, key=lambda one: (one.images or 0, one.uid))


def _chosen(
    peer: Peer, baseline: PeerSeries, offered: Sequence[PeerSeries], folder: Path
) -> PeerSeries:
    looks = [(one, _look(peer, one, folder)) for one in offered]
    return choose_series(_look(peer, baseline, folder), looks)


def _look(peer: Peer, series: PeerSeries, folder: Path) -> Appearance:
    """The appearance of a series after one of its images, from the middle of the list."""
    instances = peer.instances(series)
    if not instances:
        raise PeerError(f"{peer.name}: lists a series without images; is it still arriving?")
    one = sorted(instances)[len(instances) // 2]
    place = folder / "offered" / folder_name(series)
    pull_series(peer, series, place, [one])
    return appearance_of(place / file_name(one))


def _summary(result: Result) -> str:
    states = [lesion.followups[0].status for lesion in result.lesions]
    parts = [
        f"{states.count(status)} {status.value.replace('_', ' ')}"
        for status in Status
        if status in states
    ]
    return f"tracked {len(states)} lesions: {', '.join(parts)}"
