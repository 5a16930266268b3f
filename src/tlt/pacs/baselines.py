"""The baseline of a follow-up: the newest earlier study of the patient that a person has marked."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from tlt.errors import PeerError
from tlt.pacs.followup import Marked
from tlt.pacs.journal import Journal
from tlt.pacs.peer import Peer, PeerSeries, PeerStudy
from tlt.pacs.pulling import file_name, pull_series
from tlt.pacs.reports import Marks, marks_of

Note = Callable[[PeerStudy, str], None]


class Baselines:
    """Asks a PACS for them, and remembers what stands in reports; no file of them is kept.

    Args:
        peer: the PACS.
        journal: it knows since when a report cannot be fetched.
        folder: for the one report that is being read.
        patience_s: a report that cannot be fetched for as long is passed over.
    """

    def __init__(self, peer: Peer, journal: Journal, folder: Path, patience_s: float) -> None:
        self.peer, self.journal = peer, journal
        self.folder, self.patience_s = folder, patience_s
        self._read: dict[str, Marks | None] = {}  # by SOP Instance UID

    def of(self, study: PeerStudy, now: float, note: Note) -> Marked | None:
        """The baseline of a study; ``note`` is told of reports that are passed over.

        Raises PeerError when the PACS fails, and when it does not send a report: until that is
        passed over, and also then where no other one marks a baseline.
        """
        if not study.patient_id or not study.date:
            return None
        found = self.peer.studies(PatientID=study.patient_id, ModalitiesInStudy="CT")
        earlier = [one for one in found if same_patient(one, study) and one.date]
        earlier = [one for one in earlier if (one.date, one.time) < (study.date, study.time)]
        earlier.sort(key=lambda one: (one.date, one.time), reverse=True)
        unsent: list[PeerError] = []
        for between, one in enumerate(earlier):
            marks = self._marks_in(one, now, note, unsent)
            if marks:
                # Our own copy of the marks, stored beside them, is no reason to track anew.
                newest = max(marks, key=lambda one: (not one.copied, one.made_at, one.sop_uid))
                return Marked(one, marks[newest], newest, between)
        if unsent:
            raise unsent[0]
        return None

    def _marks_in(
        self, study: PeerStudy, now: float, note: Note, unsent: list[PeerError]
    ) -> dict[Marks, PeerSeries]:
        """The marks in the reports of a study, and the series of each; adds to ``unsent``."""
        found = {}
        for series in self.peer.series(study.uid):
            for uid in self.peer.instances(series) if series.modality == "SR" else ():
                try:
                    marks = self._marks_of(series, uid)
                except PeerError as error:
                    self.peer.echo()  # raises where the PACS as a whole has failed
                    since = self.journal.quiet_since(self.journal.digest(uid), "not sent", now)
                    if now - since < self.patience_s:
                        raise
                    # Others may hold the marks: the patient must not wait for this one for ever.
                    note(study, f"a report cannot be fetched and is passed over: {error}")
                    unsent.append(error)
                    continue
                if marks is not None:
                    found[marks] = series
        return found

    def _marks_of(self, series: PeerSeries, uid: str) -> Marks | None:
        if uid not in self._read:
            try:
                pull_series(self.peer, series, self.folder, [uid])
                self._read[uid] = marks_of(self.folder / file_name(uid))
            finally:
                shutil.rmtree(self.folder, ignore_errors=True)
            self.journal.forget(self.journal.digest(uid))  # it comes: what failed was passing
        return self._read[uid]


def same_patient(one: PeerStudy, other: PeerStudy) -> bool:
    """Whether two studies are of one patient: same ID, and nothing else known that differs."""
    if one.patient_id != other.patient_id:
        return False
    pairs = ((one.birth_date, other.birth_date), (one.issuer, other.issuer))
    return all(not a or not b or a == b for a, b in pairs)
