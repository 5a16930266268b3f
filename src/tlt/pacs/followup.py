"""One follow-up, from the images in the PACS to the report in the PACS.

Every step leaves its result whole in the job's folder or not at all, so that the job, killed at any
moment and begun again, goes on behind the last step that was finished.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from tlt.confidence import FILE as CONFIDENCE
from tlt.errors import InputError, PeerError
from tlt.io.dicom import MIN_SIZE
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
FETCHED = ("baseline", "followup", "offered", "marks")  # folders of what the PACS has sent

log = logging.getLogger(__name__)
Say = Callable[[str], None]


@dataclass(frozen=True)
class Marked:
    """A baseline: the study, the report that marks it, and how many CT studies lie between.

    ``report`` is the series of that report.
    """

    study: PeerStudy
    report: PeerSeries
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
        weights = ",".join(_weights(one) for one in (self.model or "").split(","))
        return f"{self.tracker} {weights} {version('transformer-lesion-tracker')}"


def _weights(name_or_path: str) -> str:
    """What tells a file of weights from another; the name of those that this version ships."""
    path = Path(name_or_path)
    if not path.is_file():
        return name_or_path
    files = (path, path.with_name(CONFIDENCE))
    told = [(one, one.stat()) for one in files if one.is_file()]
    return " ".join(_digest(one, stat.st_mtime_ns, stat.st_size) for one, stat in told)


@lru_cache(maxsize=16)  # asked for with every study; the file may be replaced while we watch
def _digest(path: Path, *changed: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run_followup(
    peer: Peer,
    marked: Marked,
    study: PeerStudy,
    offered: Sequence[PeerSeries],
    tracking: Tracking,
    folder: Path,
    say: Say,
    again: bool = False,
) -> None:
    """Pull, track and push; does nothing for a report that the PACS has already.

    ``offered`` are the CT series of the follow-up study. Of them those that cannot be fetched are
    passed over when the job is tried ``again``. Raises PeerError when the PACS fails, InputError
    for images or marks that cannot be used, ModelError for the tracker.
    """
    result = folder / RESULT
    report = result / REPORT
    if not report.is_file():
        baseline = _baseline_series(peer, marked)
        chosen = _chosen(peer, baseline, offered, folder, say if again else None)
        instances = peer.instances(chosen)
        uids = report_uids(marked.marks.sop_uid, chosen.uid, instances, tracking.name)
        if uids.sop in peer.instances(PeerSeries(uids.series, study.uid, "SR", None)):
            say("the PACS has this report already")
            return
        pull_series(peer, marked.report, folder / "marks", [marked.marks.sop_uid])
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
    staging = [
        *folder.glob(".tlt-*"),
        *(folder / RESULT).glob(".tlt-*"),
    ]  # of a step that was killed
    for one in (*(folder / name for name in FETCHED), *filter(Path.is_dir, staging)):
        shutil.rmtree(one, ignore_errors=True)
    (folder / RESULT / REPORT).unlink(missing_ok=True)


def holds_images(folder: Path) -> bool:
    """Whether the folder of a job has what `forget_images` removes."""
    return any((folder / name).exists() for name in (*FETCHED, f"{RESULT}/{REPORT}"))


def _track(
    marked: Marked, tracking: Tracking, folder: Path, output: Path, uids: ReportUids
) -> Result:
    job = TrackJob(
        baseline=str(folder / "baseline"),
        followups=(str(folder / "followup"),),
        lesions=str(folder / "marks" / file_name(marked.marks.sop_uid)),
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
    number = study.result.time_points()[1] + marked.studies_between
    study.result.followups[0].time_point = number
    write_json(study.result, output / "result.json")
    write_sources(output, study.baseline, study.followups, ("json",))
    write_report(study, output / REPORT, uids, number)
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
    peer: Peer,
    baseline: PeerSeries,
    offered: Sequence[PeerSeries],
    folder: Path,
    pass_over: Say | None,
) -> PeerSeries:
    """The series to track in; with ``pass_over``, which is told, of those that can be fetched."""
    looks, failures = [], []
    for one in offered:
        if (one.images or MIN_SIZE) < MIN_SIZE:  # too short to track in: not worth a look
            continue
        try:
            looks.append((one, _look(peer, one, folder)))
        except PeerError as error:
            if pass_over is None:
                raise
            peer.echo()  # raises where the PACS as a whole has failed
            pass_over(f"a series cannot be fetched and is passed over: {error}")
            failures.append(error)
    try:
        return choose_series(_look(peer, baseline, folder), looks)
    except InputError:
        if failures:  # one of them may be the one: to be tried again, not to be refused
            raise failures[0] from None
        raise


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
