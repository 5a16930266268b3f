"""``review.sqlite``: the studies of a folder and every event, saved before anything is answered.

The file is the truth; `result.json` is written from it. Events are only ever added (the database
itself refuses more). Each lesion carries the number of its last event: who decides says which
number they saw, and is refused when it is no longer the last, so that two readers at once cannot
overwrite each other unseen.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import URL, ForeignKey, create_engine, event, select
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from tlt.errors import InputError, TltError
from tlt.io.results import Result, to_json
from tlt.review.state import STUDY, Draft, Event, Kind, undo_of

STORE = "review.sqlite"
BUSY_SECONDS = 10


class Conflict(TltError):
    """Somebody else has changed the lesion meanwhile; ``event`` is their last word on it."""

    def __init__(self, event: Event) -> None:
        self.event = event
        about = event.lesion_id or "the days"
        super().__init__(f"{event.by} has changed {about} meanwhile ({event.kind.value})")


class _Base(DeclarativeBase):
    """The tables as the last migration leaves them."""


class _Study(_Base):
    __tablename__ = "studies"
    id: Mapped[int] = mapped_column(primary_key=True)
    fingerprint: Mapped[str]
    opened_at: Mapped[str]
    result_json: Mapped[str]


class _Lesion(_Base):
    __tablename__ = "lesions"
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), primary_key=True)
    lesion_id: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int]


class _Event(_Base):
    __tablename__ = "events"
    seq: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int]
    lesion_id: Mapped[str]
    followup: Mapped[int | None]
    kind: Mapped[str]
    value_json: Mapped[str]
    by: Mapped[str]
    at: Mapped[str]
    request_id: Mapped[str]


class Store:
    """The database of one folder of results."""

    def __init__(self, path: Path) -> None:
        """Open the file, make it where it is missing, and bring it up to date.

        Raises:
            InputError: it is damaged, of a newer version, or cannot be written.
        """
        self.path = path
        url = URL.create("sqlite+pysqlite", database=str(path))
        self._engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS})
        event.listen(self._engine, "connect", _prepare)
        event.listen(self._engine, "begin", _begin_immediate)
        with _readable(path):
            self._upgrade()

    def close(self) -> None:
        """Let go of the file."""
        self._engine.dispose()

    def open_study(self, result: Result) -> int:
        """The number of the study of a result, which is added where it is new."""
        key = fingerprint(result)
        with self.session() as session:
            known = session.scalar(select(_Study).where(_Study.fingerprint == key))
            if known is not None:
                return known.id
            study = _Study(fingerprint=key, opened_at=_now(), result_json=to_json(result))
            session.add(study)
            session.flush()
            session.add_all(
                _Lesion(study_id=study.id, lesion_id=lesion_id, version=0)
                for lesion_id in (STUDY, *(lesion.id for lesion in result.lesions))
            )
            return study.id

    def original(self, study_id: int) -> Result:
        """The result as the tracker left it."""
        with self.session() as session:
            return Result.model_validate_json(session.get_one(_Study, study_id).result_json)

    def studies(self) -> list[int]:
        """The numbers of all studies that this folder has held, the oldest first."""
        with self.session() as session:
            return list(session.scalars(select(_Study.id).order_by(_Study.id)))

    def events(self, study_id: int) -> list[Event]:
        """Every event of a study, in order."""
        with self.session() as session:
            return _events(session, study_id)

    @contextmanager
    def locked_events(self, study_id: int) -> Iterator[list[Event]]:
        """Every event of a study; no other process adds one, nor is here, until the block ends."""
        with self.session() as session:
            yield _events(session, study_id)

    def add(
        self, study_id: int, draft: Draft, by: str, expected_version: int, request_id: str
    ) -> Event:
        """Save a draft. The same request sent again is saved once.

        Raises:
            Conflict: the lesion has an event of another reader later than ``expected_version``, or,
                where that is 0 and the draft a new lesion, any event.
        """
        with self.session() as session:
            return _sent_before(session, request_id) or _insert(
                session, study_id, draft, by, expected_version, request_id
            )

    def undo(self, study_id: int, by: str, request_id: str) -> Event:
        """Save the undoing of a reader's last event; raises `InputError` where that cannot be."""
        with self.session() as session:
            before = _sent_before(session, request_id)
            if before is not None:
                return before
            draft = undo_of(_events(session, study_id), by)
            lesion = session.get_one(_Lesion, (study_id, draft.lesion_id))
            return _insert(session, study_id, draft, by, lesion.version, request_id)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A transaction; no other process writes to the file until it ends."""
        with _readable(self.path), Session(self._engine) as session, session.begin():
            yield session

    def _upgrade(self) -> None:
        config = Config()
        config.set_main_option("script_location", "tlt.review:migrations")
        config.set_main_option("path_separator", "os")
        with self._engine.connect() as connection, connection.begin():
            config.attributes["connection"] = connection
            # To look first spares a folder that is up to date from being written to.
            command.upgrade(config, ScriptDirectory.from_config(config).get_current_head() or "")


def fingerprint(result: Result) -> str:
    """A text that tells one run of a tracker from another, whatever readers have changed since."""
    content: dict[str, Any] = result.model_dump(
        mode="json", include={"software", "baseline", "followups"}
    )
    for followup in content["followups"]:
        followup["registration"].pop("matrix")  # a field that older results lack
    content["lesions"] = [
        [lesion.id, lesion.tracking_uid, *lesion.baseline.center_mm] for lesion in result.lesions
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _insert(
    session: Session, study_id: int, draft: Draft, by: str, expected: int, request_id: str
) -> Event:
    lesion = session.get(_Lesion, (study_id, draft.lesion_id))
    if lesion is None and draft.kind is Kind.NEW_LESION:
        lesion = _Lesion(study_id=study_id, lesion_id=draft.lesion_id, version=0)
        session.add(lesion)
        session.flush()
    if lesion is None or lesion.version < expected:
        raise InputError("the page is older than the study; reload it")
    _check_seen(session, study_id, draft, by, expected)
    row = _Event(
        study_id=study_id,
        lesion_id=draft.lesion_id,
        followup=draft.followup,
        kind=draft.kind.value,
        value_json=json.dumps(draft.value),
        by=by,
        at=_now(),
        request_id=request_id,
    )
    session.add(row)
    session.flush()
    lesion.version = row.seq
    return _event(row)


def _check_seen(session: Session, study_id: int, draft: Draft, by: str, expected: int) -> None:
    """Raise Conflict where a reader has not seen what another one has said of the lesion.

    One's own words are known: they may still be on their way when the next ones are sent. But of
    two new lesions of one name the second is another lesion.
    """
    unseen = session.scalars(
        select(_Event)
        .where(
            _Event.study_id == study_id,
            _Event.lesion_id == draft.lesion_id,
            _Event.seq > expected,
        )
        .order_by(_Event.seq.desc())
    )
    is_new = draft.kind is Kind.NEW_LESION and expected == 0
    stranger = next((row for row in unseen if is_new or row.by != by), None)
    if stranger is not None:
        raise Conflict(_event(stranger))


def _sent_before(session: Session, request_id: str) -> Event | None:
    row = session.scalar(select(_Event).where(_Event.request_id == request_id))
    return None if row is None else _event(row)


def _events(session: Session, study_id: int) -> list[Event]:
    rows = session.scalars(select(_Event).where(_Event.study_id == study_id).order_by(_Event.seq))
    return [_event(row) for row in rows]


def _event(row: _Event) -> Event:
    value = json.loads(row.value_json)
    return Event(
        kind=Kind(row.kind),
        lesion_id=row.lesion_id,
        followup=row.followup,
        value=tuple(value) if isinstance(value, list) else value,
        seq=row.seq,
        at=row.at,
        by=row.by,
    )


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def _prepare(connection: Any, record: object) -> None:
    """Transactions are begun by us, saved events survive a power cut, readers do not block."""
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_immediate(connection: Any) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Errors of the database as one line that says what to do."""
    try:
        yield
    except CommandError as error:
        raise InputError(f"{path}: written by a newer tlt ({error}); use that one") from error
    except OperationalError as error:
        raise InputError(
            f"{path}: cannot be written ({error.orig}); check permissions and space"
        ) from error
    except DatabaseError as error:
        raise InputError(
            f"{path}: not a database, or damaged ({error.orig}); keep a copy of it, restore it "
            "from a backup, or move it away to begin anew (result.json has the decisions)"
        ) from error
