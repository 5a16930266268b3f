"""What a watch has done so far, in an SQLite file that survives the loss of power.

It holds digests only, keyed with a secret of its own: neither the file nor a log line that quotes a
digest tells anything about a patient without the folder that the file lies in.
"""

from __future__ import annotations

import secrets
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from tlt.errors import InputError, UsageError
from tlt.privacy import digest

FILE = "journal.sqlite"
FIRST_PAUSE_S, LONGEST_PAUSE_S = 60.0, 3600.0
MAX_ATTEMPTS = 8  # for failures that are not the peer's
SCHEMA = """
CREATE TABLE IF NOT EXISTS secret (salt BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS studies (study TEXT PRIMARY KEY, content TEXT, since REAL);
CREATE TABLE IF NOT EXISTS jobs (
    job TEXT PRIMARY KEY, state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
    next_try REAL NOT NULL DEFAULT 0, changed REAL NOT NULL, message TEXT NOT NULL DEFAULT ''
);
"""
OPEN, FAILED, REFUSED, DONE = "open", "failed", "refused", "done"


@dataclass(frozen=True)
class JobRecord:
    """A follow-up to be tracked, or tracked: ``state`` is open, failed, refused or done.

    ``next_try`` is in seconds since 1970; ``attempts`` counts those that began.
    """

    job: str
    state: str
    attempts: int
    next_try: float
    message: str


class Journal:
    """Opened by one watch at a time; every change is on disk when a method returns."""

    def __init__(self, folder: Path) -> None:
        """Open or make the journal; raises UsageError if another watch has it open."""
        path = folder / FILE
        try:
            self._base = sqlite3.connect(path, timeout=0.5, isolation_level=None)
            self._base.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._base.execute("PRAGMA synchronous = FULL")
            self._base.executescript(SCHEMA)
            self._base.execute("BEGIN EXCLUSIVE")  # from here on nobody else can open it
            self.salt = self._salt()
            self._base.execute("COMMIT")
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise UsageError(
                    f"{folder}: another watch works here; stop it or choose another --work"
                ) from error
            raise InputError(f"{path}: cannot be used ({error}); choose another --work") from error
        except sqlite3.DatabaseError as error:
            raise InputError(
                f"{path}: damaged ({error}); remove it: what the PACS has already is not sent again"
            ) from error

    def close(self) -> None:
        """Let another watch in."""
        self._base.close()

    def digest(self, *values: str) -> str:
        """A digest that only this journal can make."""
        return digest(*values, salt=self.salt, length=12)

    def quiet_since(self, study: str, content: str, now: float) -> float:
        """When a study was first seen with this content; now, if it was another before."""
        row = self._execute(
            "SELECT since FROM studies WHERE study = ? AND content = ? AND since <= ?",
            study,
            content,
            now,
        ).fetchone()
        if row is not None:
            return row[0]
        self._execute("REPLACE INTO studies VALUES (?, ?, ?)", study, content, now)
        return now

    def forget(self, study: str) -> None:
        """Nothing is known of a study any more."""
        self._execute("DELETE FROM studies WHERE study = ?", study)

    def job(self, job: str) -> JobRecord | None:
        """The record of a job."""
        return next(iter(self._records("WHERE job = ?", job)), None)

    def unfinished(self) -> list[JobRecord]:
        """Every job that is neither done nor untouched, in the order of change."""
        return self._records("WHERE state IN (?, ?) ORDER BY changed", FAILED, REFUSED)

    def begin(self, job: str, now: float) -> None:
        """Note an attempt before it is made: one that kills the process counts, too."""
        record = self.job(job)
        attempts = 1 + (record.attempts if record else 0)
        pause = min(FIRST_PAUSE_S * 2 ** min(attempts - 1, 20), LONGEST_PAUSE_S)
        self._write(JobRecord(job, OPEN, attempts, now + pause, ""), now)

    def finish(self, job: str, now: float) -> None:
        """The report is in the PACS."""
        self._change(job, DONE, "", now)

    def fail(self, job: str, message: str, now: float) -> None:
        """To be tried again later."""
        self._change(job, FAILED, message, now)

    def refuse(self, job: str, message: str, now: float) -> None:
        """Not to be tried again unless the images or the marks change."""
        self._change(job, REFUSED, message, now)

    def _change(self, job: str, state: str, message: str, now: float) -> None:
        record = self.job(job) or JobRecord(job, OPEN, 0, now, "")
        self._write(JobRecord(job, state, record.attempts, record.next_try, message), now)

    def _write(self, record: JobRecord, now: float) -> None:
        self._execute(
            "REPLACE INTO jobs (job, state, attempts, next_try, changed, message) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            record.job,
            record.state,
            record.attempts,
            record.next_try,
            now,
            record.message,
        )

    def _execute(self, statement: str, *values: str | float) -> sqlite3.Cursor:
        try:
            return self._base.execute(statement, values)
        except sqlite3.Error as error:
            raise InputError(
                f"{FILE} of the watch cannot be read or written ({error}); is the disk full?"
            ) from OSError(str(error))

    def _records(self, where: str, *values: str) -> list[JobRecord]:
        query = f"SELECT job, state, attempts, next_try, message FROM jobs {where}"
        return [JobRecord(*row) for row in self._execute(query, *values)]

    def _salt(self) -> bytes:
        row = self._base.execute("SELECT salt FROM secret").fetchone()
        if row is not None:
            return row[0]
        salt = secrets.token_bytes(32)
        self._base.execute("INSERT INTO secret VALUES (?)", (salt,))
        return salt
