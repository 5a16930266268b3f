"""From files to a result folder: read, track, write. The command line and batches call this."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from tlt.io.output import staged
from tlt.io.results import Result, Software, build_result
from tlt.io.sources import write_sources
from tlt.lesion import Lesion
from tlt.pacs.source import keep_addresses, local_job
from tlt.timeline import Progress, in_time_order, track_over_time
from tlt.volume import Volume

if TYPE_CHECKING:
    from tlt.track import PairResult, Tracker

WRITTEN = ".tlt-track.json"  # in the output: the names of the files that a run left there

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrackJob:
    """What to track, with what, and where to leave the results.

    Attributes:
        baseline: image with the lesions.
        followups: images to find them in.
        lesions: file of lesions.
        output: folder of the results; None writes nothing.
        tracker: name of the tracker.
        model: weights of the tracker; None takes its own.
        device: ``auto``, ``cpu`` or ``cuda[:N]``.
        precision: ``auto``, ``fp32`` or ``bf16``.
        formats: what to write, as `tlt.io.exports.write_study` lists it.
        sr_profile: of a DICOM SR: ``plain`` or ``ohif``.
        points_in: frame of grand-challenge points, ``lps`` or ``voxel``.
        with_identifiers: keep whole paths in the results.
        sizes: measure how large each lesion is at follow-up.
    """

    baseline: str
    followups: tuple[str, ...]
    lesions: str
    output: Path | None
    tracker: str = "tlt"
    model: str | None = None
    device: str = "auto"
    precision: str = "auto"
    formats: tuple[str, ...] = ("json", "csv", "html", "png")
    sr_profile: str = "plain"
    points_in: str | None = None
    with_identifiers: bool = False
    sizes: bool = True


@dataclass(frozen=True)
class Study:
    """A tracked study: the images, what was found in each follow-up, and the result."""

    baseline: Volume
    followups: list[Volume]
    pairs: list[PairResult]
    result: Result = field(repr=False)


def run_track(job: TrackJob, progress: Progress | None = None) -> Result:
    """Track and write everything, or raise and leave no file."""
    _check_tracker(job.tracker)
    _check_formats(job)
    with local_job(job) as local:
        result = _run(local, progress or _nothing)
        keep_addresses(job, local)
    return result


def _run(job: TrackJob, report: Progress) -> Result:
    if job.output is None:
        return track_study(job, report).result
    from tlt.io.exports import write_study  # it draws with matplotlib

    with staged(job.output, listed=WRITTEN) as folder:
        study = track_study(job, report)
        write_study(study, folder, job.formats, report, job.sr_profile)
        if "json" in job.formats:
            write_sources(folder, study.baseline, study.followups, job.formats, job.sr_profile)
    return study.result


def track_study(job: TrackJob, progress: Progress) -> Study:
    """Read the images and the lesions, and track them."""
    from tlt.io.lesions import read_time_point
    from tlt.sizing import with_sizes
    from tlt.track import Tracker

    with _collected_warnings(job) as remarks:
        progress("load model", 0.0)
        tracker = Tracker.load(job.tracker, job.model, job.device, job.precision)
        baseline, followups, lesions = _read(job, progress)
        time_point = read_time_point(job.lesions)
        _check_references(job, baseline, followups)
        measure = None
        if job.sizes:
            lesions, measure = with_sizes(baseline, lesions, progress)
        pairs = track_over_time(tracker, baseline, followups, lesions, progress, measure)
    remarks += _patient_remarks(baseline, followups) + _registration_remarks(pairs)
    result = build_result(
        baseline, followups, pairs, _software(tracker), remarks, job.with_identifiers, time_point
    )
    return Study(baseline, followups, pairs, result)


def _read(job: TrackJob, progress: Progress) -> tuple[Volume, list[Volume], list[Lesion]]:
    """Baseline, follow-ups nearest in time first, and lesions."""
    from tlt.io.images import load_volume
    from tlt.io.lesions import read_lesions

    paths = (job.baseline, *job.followups)
    volumes = []
    for done, path in enumerate(paths):
        progress("read images", done / len(paths))
        volumes.append(load_volume(path))
    baseline, *given = volumes
    lesions = read_lesions(job.lesions, baseline, points_in=job.points_in)
    ordered = in_time_order(baseline, given)
    if any(a is not b for a, b in zip(ordered, given, strict=True)):
        log.warning("follow-ups are in the order of their dates, not as given")
    return baseline, ordered, lesions


def _software(tracker: Tracker) -> Software:
    return Software(
        version=version("transformer-lesion-tracker"),
        tracker=tracker.name,
        model=tracker.model_name,
        weights_sha256=tracker.weights_sha256,
    )


def _check_tracker(name: str) -> None:
    from tlt.systems import TRACKERS, unknown_tracker

    if name not in TRACKERS:
        raise unknown_tracker(name)


def _dicom_formats(job: TrackJob) -> list[str]:
    return [name for name in job.formats if name.startswith("dicom-")]


def _check_formats(job: TrackJob) -> None:
    """Refuse, before any work, DICOM formats for a follow-up that is no DICOM series."""
    formats = _dicom_formats(job)
    if formats:
        from tlt.io.dicom_references import check_dicom_output

        for path in job.followups:
            check_dicom_output(path, "--format " + " ".join(formats))


def _check_references(job: TrackJob, baseline: Volume, followups: Sequence[Volume]) -> None:
    """Refuse, before any work, images in which DICOM objects could not place a lesion."""
    if _dicom_formats(job):
        from tlt.io.dicom_references import check_frame, load_references, tell_emptied

        for followup in followups:
            check_frame(followup)
            tell_emptied(followup)
        marked = "dicom-sr" in job.formats and baseline.series_uid is not None
        if marked and load_references(baseline).frame_uid:
            tell_emptied(baseline)


def _patient_remarks(baseline: Volume, followups: Sequence[Volume]) -> list[str]:
    return [
        f"follow-up {number}: baseline and follow-up carry different PatientIDs; check that they "
        "are of one patient"
        for number, followup in enumerate(followups, 1)
        if None not in (baseline.patient, followup.patient) and baseline.patient != followup.patient
    ]


def _registration_remarks(pairs: Sequence[PairResult]) -> list[str]:
    return [
        f"follow-up {number}: registration is doubtful "
        f"(similarity {pair.registration.similarity:.2f}); check that it is the same patient "
        "and region, and look at every lesion"
        for number, pair in enumerate(pairs, 1)
        if not pair.registration.ok
    ]


@contextmanager
def _collected_warnings(job: TrackJob) -> Iterator[list[str]]:
    """What our loggers warn of while the block runs, each once; a path as its last part."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("tlt")
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
        messages[:] = dict.fromkeys(_clean(message, job) for message in messages)


def _clean(message: str, job: TrackJob) -> str:
    """The message on one line, without folders: their names can tell who the patient is."""
    if not job.with_identifiers:
        for path in (job.baseline, *job.followups, job.lesions):
            message = message.replace(str(Path(path)), Path(path).name)
    return " ".join(message.split())


def _nothing(stage: str, fraction: float) -> None:
    """Progress that nobody watches."""
