"""Watching a PACS: every finished follow-up of a patient with a marked baseline gets its report.

The PACS is asked again and again; nothing needs to be set up there. What was done is in a journal,
so that neither a restart of this side nor one of the other loses or repeats anything.
"""

from __future__ import annotations

import csv
import io
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from shlex import quote

from tlt.errors import InputError, PeerError, TltError
from tlt.io.files import atomic_write
from tlt.pacs.baselines import Baselines
from tlt.pacs.followup import (
    RESULT,
    Marked,
    Say,
    Tracking,
    forget_images,
    holds_images,
    run_followup,
)
from tlt.pacs.journal import DONE, FAILED, MAX_ATTEMPTS, OPEN, REFUSED, JobRecord, Journal
from tlt.pacs.peer import Peer, PeerSeries, PeerStudy
from tlt.privacy import without_identifiers

LONGEST_WAIT_S = 600.0
REPORTS = "reports"  # folder of the report that is being read


@dataclass(frozen=True)
class WatchSettings:
    """What to watch for.

    Attributes:
        work: folder of the journal, of what is being worked on, and of the results.
        tracking: with what to track.
        quiet_s: a study is finished when no image has come for as long.
        days: studies of the last so many days are looked at; 0 means all.
        keep: keep the images of jobs that are done.
    """

    work: Path
    tracking: Tracking = field(default_factory=Tracking)
    quiet_s: float = 120.0
    days: int = 7
    keep: bool = False


@dataclass
class Poll:
    """What one look at the PACS has found: numbers of studies, and of jobs by outcome.

    ``troubles`` are the studies that could not be looked at, and the reports that were passed over:
    digest, state and message.
    """

    studies: int = 0
    arriving: int = 0
    unmarked: int = 0
    done: int = 0
    failed: int = 0
    troubles: list[tuple[str, str, str]] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.studies} CT studies: {self.arriving} still arriving, {self.unmarked} without "
            f"an earlier marked CT; {self.done} done now, {self.failed} failures"
        )


class Watch:
    """Holds the journal of a working folder; close it, or use it as a context."""

    def __init__(self, peer: Peer, settings: WatchSettings, say: Say) -> None:
        self.peer, self.settings, self.say = peer, settings, say
        settings.work.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.journal = Journal(settings.work)
        self.baselines = Baselines(peer, self.journal, settings.work / REPORTS, settings.quiet_s)
        self._sweep()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.journal.close()

    def run(self, interval_s: float, sleep: Callable[[float], None] = time.sleep) -> None:
        """Look until interrupted; after a failure of the PACS or the disk ever less often."""
        wait = interval_s
        while True:
            try:
                poll = self.poll(time.time())
                wait = interval_s
                if poll.done or poll.failed:
                    self.say(str(poll))
            except TltError as error:
                wait = min(2 * wait, max(LONGEST_WAIT_S, interval_s))
                self.say(f"{error} (next look in {wait:.0f} s)")
            sleep(wait)

    def poll(self, now: float) -> Poll:
        """Look once and do what there is to do. Raises PeerError if the PACS cannot be asked."""
        poll = Poll()
        match = {"ModalitiesInStudy": "CT"}
        if self.settings.days:
            first = date.fromtimestamp(now) - timedelta(days=self.settings.days)
            match["StudyDate"] = f"{first:%Y%m%d}-"
        try:
            for study in self.peer.studies(**match):
                self._look_safely(study, poll, now)
        finally:
            self._list_failures(poll)
        return poll

    def _look_safely(self, study: PeerStudy, poll: Poll, now: float) -> None:
        """Look at a study so that one that cannot be looked at does not hold up the others."""
        try:
            self._look_at(study, poll, now)
        except Exception as error:
            if isinstance(error, PeerError):
                self.peer.echo()  # raises where the PACS as a whole has failed
            poll.failed += 1
            self._trouble(poll, study, "not looked at", _told(error))

    def _trouble(self, poll: Poll, study: PeerStudy, state: str, text: str) -> None:
        digest = self.journal.digest(study.uid)
        text = without_identifiers(text, study.patient_id, study.birth_date)
        poll.troubles.append((digest, state, text))
        self.say(f"study {digest}: {text}")

    def _look_at(self, study: PeerStudy, poll: Poll, now: float) -> None:
        images = [self._counted(one) for one in self.peer.series(study.uid) if one.modality == "CT"]
        if not images:
            return
        poll.studies += 1
        content = self.journal.digest(*(f"{one.uid} {one.images}" for one in sorted_by_uid(images)))
        since = self.journal.quiet_since(self.journal.digest(study.uid), content, now)
        if now - since < self.settings.quiet_s:
            poll.arriving += 1
            return
        marked = self.baselines.of(
            study, now, lambda one, text: self._trouble(poll, one, "passed over", text)
        )
        if marked is None:
            poll.unmarked += 1
            return
        job = self.journal.digest(marked.marks.sop_uid, content, self.settings.tracking.name)
        if self._is_due(job, now):
            self._work(job, marked, study, images, poll, now)

    def _counted(self, series: PeerSeries) -> PeerSeries:
        if series.images is not None:
            return series
        count = len(self.peer.instances(series))
        return PeerSeries(series.uid, series.study_uid, series.modality, count)

    def _is_due(self, job: str, now: float) -> bool:
        record = self.journal.job(job)
        if record is None:
            return True
        if record.state == OPEN:  # it was interrupted, or it ended the program
            if record.attempts < MAX_ATTEMPTS:
                return True
            message = f"ended the program {record.attempts} times; look into its log"
            self.journal.refuse(job, message, now)
            self._sweep_job(self.settings.work / "jobs" / job)
            return False
        return record.state == FAILED and record.next_try <= now

    def _work(
        self,
        job: str,
        marked: Marked,
        study: PeerStudy,
        images: list[PeerSeries],
        poll: Poll,
        now: float,
    ) -> None:
        folder = self.settings.work / "jobs" / job
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        before = self.journal.job(job)
        again = before is not None and before.state == FAILED
        self.journal.begin(job, now)
        try:
            run_followup(
                self.peer, marked, study, images, self.settings.tracking, folder,
                lambda text: self.say(f"job {job}: {without_identifiers(text)}"), again,
            )  # fmt: skip
            if not self.settings.keep:  # before it is done: killed in between, it is done again
                forget_images(self.peer, folder)
        except Exception as error:
            poll.failed += 1
            self._failed(job, error, (study.patient_id, study.birth_date), folder, now)
            return
        self.journal.finish(job, now)
        poll.done += 1
        if (folder / RESULT / "result.json").is_file():  # not where the report was there before
            self.say(f"job {job}: to review it: tlt review {quote(str(folder / RESULT))}")

    def _failed(
        self, job: str, error: Exception, identifiers: tuple[str, ...], folder: Path, now: float
    ) -> None:
        """Write down a failure: final where trying again cannot help."""
        record = self.journal.job(job)
        attempts = record.attempts if record else 1
        text = without_identifiers(_told(error).replace(f"{folder}/", ""), *identifiers)
        if _is_final(error) or (attempts >= MAX_ATTEMPTS and not isinstance(error, PeerError)):
            self.journal.refuse(job, text, now)
            self.say(f"job {job}: refused: {text}")
            self._sweep_job(folder)
            return
        self.journal.fail(job, text, now)
        pause = max(record.next_try - now, 0.0) if record else 0.0
        self.say(f"job {job}: attempt {attempts} failed: {text} (again in {pause:.0f} s)")

    def _sweep(self) -> None:
        """Remove what a watch that was killed, or of an earlier version, has left of patients."""
        shutil.rmtree(self.settings.work / REPORTS, ignore_errors=True)
        for folder in (self.settings.work / "jobs").glob("*"):
            record = self.journal.job(folder.name)
            if record is not None and record.state in (DONE, REFUSED):
                self._sweep_job(folder)

    def _sweep_job(self, folder: Path) -> None:
        if not self.settings.keep and holds_images(folder):
            forget_images(self.peer, folder)

    def _list_failures(self, poll: Poll) -> None:
        """Keep ``failures.csv`` in the working folder up to date."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["job", "state", "attempts", "next_try", "message"])
        for record in self.journal.unfinished():
            writer.writerow(
                [record.job, record.state, record.attempts, _when(record), record.message]
            )
        for digest, state, message in poll.troubles:
            writer.writerow([f"study {digest}", state, "", "", message])
        atomic_write(self.settings.work / "failures.csv", text.getvalue())


def sorted_by_uid(series: list[PeerSeries]) -> list[PeerSeries]:
    """The series in an order that does not hang on the PACS."""
    return sorted(series, key=lambda one: one.uid)


def _is_final(error: Exception) -> bool:
    """Whether the same inputs would fail again; a full disk is no fault of theirs."""
    return isinstance(error, InputError) and not isinstance(error.__cause__, OSError)


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, TltError) else f"internal error {_kind(error)}"


def _kind(error: Exception) -> str:
    """The error's type and place: its message may quote a patient."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" in {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else ""
    return f"{type(error).__name__}{place}"


def _when(record: JobRecord) -> str:
    if record.state == REFUSED:
        return ""
    return datetime.fromtimestamp(record.next_try, timezone.utc).isoformat(timespec="seconds")
