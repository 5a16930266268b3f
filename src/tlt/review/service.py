"""A review of one folder: what the page asks for and what it may change, without any network."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tlt.errors import InputError, TltError
from tlt.geometry import Triple
from tlt.io.cuts import choose_window
from tlt.io.dicom_sr_write import PROFILES as SR_PROFILES
from tlt.io.output import names_in
from tlt.io.results import LesionResult, Result, SizeFacts, read_json, write_json
from tlt.io.sources import read_sources
from tlt.lesion import Status
from tlt.pipeline import WRITTEN
from tlt.recist.entries import ENTRIES, Judgement
from tlt.recist.roles import Part
from tlt.review.corrected import corrected
from tlt.review.entries import entries_by_hand
from tlt.review.export import CONTENT, RECIST_FILES, TEXT_FORMATS, write_reviewed
from tlt.review.link import lesion_link, rows
from tlt.review.recist import assessed, entered, shown
from tlt.review.shelf import Shelf, image_paths
from tlt.review.slices import WINDOWS
from tlt.review.state import Draft, Event, Kind, checked, reader_name, replay, subject
from tlt.review.store import STORE, Store, fingerprint
from tlt.timeline import day_of
from tlt.volume import Volume

log = logging.getLogger(__name__)

# The size of a lesion about an LPS centre in a follow-up; None leaves it to the reader.
Measure = Callable[[LesionResult, Volume, Triple], SizeFacts | None]


class Review:
    """The review of a folder that `tlt track` wrote.

    Args:
        folder: it holds ``result.json``; ``review.sqlite`` is kept in it.
        baseline: the baseline image, where the run's own word of it does not hold.
        followups: likewise, all of them in the result's order.
        formats: what can be exported.
        measure: the size of a lesion that a reader moved; None leaves it to the reader.

    Raises:
        InputError: no folder, no result that can be read, or a damaged ``review.sqlite``.
    """

    def __init__(
        self,
        folder: Path,
        baseline: str | None = None,
        followups: Sequence[str] = (),
        formats: Sequence[str] = ("json", "csv"),
        measure: Measure | None = None,
    ) -> None:
        self.folder, self.formats, self.measure = folder, tuple(formats), measure
        self.notices: list[str] = []
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; give one that tlt track wrote")
        result = _result_in(folder)
        self.store = Store(folder / STORE) if result else _store_alone(folder)
        self.study = self._open(result)
        self.original = self.store.original(self.study)
        images = [self.original.baseline, *self.original.followups]
        paths = image_paths(self.original, read_sources(folder), baseline, followups)
        self.shelf = Shelf(paths, images)
        self._write_lock, self._export_lock = threading.Lock(), threading.Lock()
        if entries_by_hand(folder):
            self.notices.append(
                f"{ENTRIES} in this folder is not of this review: tlt recist uses it, this page "
                "does not; enter here what it says and rename it, or assess by tlt recist alone"
            )
        self.publish()

    def start(self) -> None:
        """Begin to read the images that are shown first."""
        for number in range(min(2, len(self.shelf))):
            self.shelf.want(number)

    def close(self) -> None:
        """Let go of files."""
        self.shelf.close()
        self.store.close()

    def decide(
        self, draft: Draft, by: str, expected_version: int, request_id: str
    ) -> tuple[Event, str]:
        """Save a draft; the event, and a warning if ``result.json`` could not be written.

        Raises:
            Conflict: another reader was faster.
            InputError: it makes no sense.
        """
        draft = checked(draft, self.original)
        if draft.kind is Kind.UNDONE:
            raise InputError("an undo is asked for by itself")
        self._check_inside(draft)
        if draft.kind.for_recist:
            self._check_entry(draft)
        draft = self._kept(draft) or self._measured(draft)
        event = self.store.add(self.study, draft, reader_name(by), expected_version, request_id)
        return event, self._published()

    def undo(self, by: str, request_id: str) -> tuple[Event, str]:
        """Undo a reader's last event that stands; raises `InputError` where there is none."""
        event = self.store.undo(self.study, reader_name(by), request_id)
        return event, self._published()

    def result(self) -> Result:
        """The result with what readers decided up to now."""
        return corrected(self.original, replay(self.store.events(self.study)))

    def recist(self) -> dict[str, Any]:
        """RECIST 1.1 of what is decided and entered up to now, or the ``error`` why there is none.

        ``head`` is the number of the event that it knows last.
        """
        events = self.store.events(self.study)
        result = corrected(self.original, replay(events))
        head = events[-1].seq if events else 0
        try:
            return {"head": head, "error": "", **shown(assessed(result, events))}
        except InputError as error:
            return {"head": head, "error": str(error)}

    def publish(self) -> None:
        """Write ``result.json`` from what is saved.

        Raises:
            InputError: that fails, or the file is of another run of the tracker.
        """
        with self._write_lock, self.store.locked_events(self.study) as events:
            self._check_same_run()
            if events or not (self.folder / "result.json").is_file():
                result = corrected(self.original, replay(events))
                write_json(result, self.folder / "result.json")

    def export(self, formats: Sequence[str], sr_profile: str | None = None) -> list[str]:
        """Write the formats, and anew what the folder has of others; the names of the files.

        ``sr_profile`` is that of the DICOM SR; by default the one that the folder has.
        """
        if sr_profile not in (None, *SR_PROFILES):
            raise InputError(f"SR profile '{sr_profile}': use one of {', '.join(SR_PROFILES)}")
        unknown = [name for name in formats if name not in self.formats]
        if unknown:
            raise InputError(f"format '{unknown[0]}': use some of {', '.join(self.formats)}")
        with self._export_lock:
            self._check_same_run()
            # Pictures take their time: decisions are saved meanwhile, and make these files older.
            as_of = time.time()
            events = self.store.events(self.study)
            result = corrected(self.original, replay(events))
            names = write_reviewed(
                result, events, self.shelf, self.folder, formats, as_of, sr_profile
            )
        self.publish()
        return names

    def exported_file(self, name: str) -> Path:
        """A file of the last export, to be sent; raises `InputError` for any other."""
        if name not in self.files():
            raise InputError(f"{name}: no file of this result; export it first")
        return self.folder / name

    def files(self) -> list[str]:
        """The names of the result's files, without hidden ones and those of the review."""
        listed = names_in(self.folder / WRITTEN) | {"result.json"}
        shown = [name for name in listed if not name.startswith(".")]
        return sorted(name for name in shown if (self.folder / name).is_file())

    def older_files(self) -> list[str]:
        """The files that do not know the last decision; result.json always does."""
        return self._older(self.files(), self.store.events(self.study))

    def state(self) -> dict[str, Any]:
        """Everything that the page shows, except pictures."""
        events = self.store.events(self.study)
        state = replay(events)
        result = corrected(self.original, state)
        return {
            "study": self.study,
            "head": events[-1].seq if events else 0,
            "tracker": result.software.tracker,
            "warnings": [*self.notices, *result.warnings],
            "images": [self.image(number) for number in range(len(self.shelf))],
            "windows": [asdict(window) for window in WINDOWS],
            "lesions": [
                {**_lesion(result, place, self.original), "version": state.version(lesion.id)}
                for place, lesion in enumerate(result.lesions)
            ],
            "orders": [_worst_first(self.original, n) for n in range(len(result.followups))],
            "exports": self._exports(events),
            "recist": {**entered(state, len(result.followups)), "days_told": self._days_told()},
        }

    def windows(self) -> dict[str, str]:
        """The name of the window that suits each lesion in the baseline."""
        stack = self.shelf.stack(0)
        return {
            lesion.id: choose_window(
                stack.volume, lesion.baseline.center_mm, lesion.baseline.radius_mm
            ).name
            for lesion in self.original.lesions
        }

    def history(self) -> list[dict[str, Any]]:
        """Every event, the first first."""
        return [asdict(event) for event in self.store.events(self.study)]

    def _open(self, result: Result | None) -> int:
        """The number of the study; its own remarks are noted."""
        known = self.store.studies()
        if result is None:
            number = known[-1]
            self.notices.append(
                "result.json was missing or damaged and was written again from review.sqlite"
            )
            return number
        number = self.store.open_study(result)
        earlier = [study for study in known if study != number]
        if earlier and number not in known:
            count = sum(len(self.store.events(study)) for study in earlier)
            self.notices.append(
                f"this folder was tracked anew: {count} entries about the earlier run are kept in "
                "review.sqlite, but do not apply to this one"
            )
        return number

    def _published(self) -> str:
        try:
            self.publish()
        except TltError as error:
            log.warning("%s", error)
            return f"saved in review.sqlite, but not in result.json: {error}"
        return ""

    def _check_same_run(self) -> None:
        """Refuse to replace what `tlt track` has written since the review began."""
        try:
            there = read_json(self.folder / "result.json")
        except (OSError, ValueError):
            return  # missing or damaged: there is nothing to spare
        if fingerprint(there) != fingerprint(self.original):
            raise InputError(
                "this folder was tracked anew; end tlt review and start it again to see that"
            )

    def _check_inside(self, draft: Draft) -> None:
        """Refuse a centre outside the image, where that is known."""
        if draft.kind is not Kind.MOVED or draft.followup is None:
            return
        if self.shelf.status(draft.followup)[0] != "ready":
            raise InputError("the follow-up's image is not shown, so nothing can be moved in it")
        if not self.shelf.stack(draft.followup).volume.grid.contains(draft.value["center_mm"]):
            raise InputError("this point is outside the follow-up's image; click inside it")

    def _check_entry(self, draft: Draft) -> None:
        """Refuse an entry that cannot stand beside the others."""
        events = self.store.events(self.study)
        seq = events[-1].seq + 1 if events else 1
        after = [*events, Event(**asdict(draft), seq=seq)]
        assessment = assessed(corrected(self.original, replay(after)), after)
        worse = (draft.value or {}).get("status") if draft.kind is Kind.FINDING else None
        targets = {lesion.id for lesion in assessment.of(Part.TARGET)}
        if worse == Judgement.UNEQUIVOCAL_PROGRESSION.value and draft.lesion_id in targets:
            raise InputError(f"{draft.lesion_id} is a target; enter its diameter instead")

    def _kept(self, draft: Draft) -> Draft | None:
        """To accept a match that was moved is to say that it belongs there; None for all else."""
        standing = replay(self.store.events(self.study)).last.get(subject(draft))
        if draft.kind is not Kind.ACCEPTED or standing is None or standing.kind is not Kind.MOVED:
            return None
        return replace(draft, kind=Kind.MOVED, value=standing.value)

    def _days_told(self) -> list[int | None]:
        """Days from baseline by the dates of the images, for each follow-up that is read."""
        days = [
            day_of(self.shelf.stack(number).volume)
            if self.shelf.status(number)[0] == "ready"
            else None
            for number in range(len(self.shelf))
        ]
        first = days[0]
        return [None if day is None or first is None else day - first for day in days[1:]]

    def _measured(self, draft: Draft) -> Draft:
        """The draft with the size about a new centre, measured once and kept with the event."""
        if self.measure is None or draft.kind is not Kind.MOVED or draft.followup is None:
            return draft
        lesion = next(one for one in self.original.lesions if one.id == draft.lesion_id)
        volume = self.shelf.stack(draft.followup).volume
        size = self.measure(lesion, volume, draft.value["center_mm"])
        told = None if size is None else size.model_dump(mode="json")
        return replace(draft, value={**draft.value, "size": told})

    def image(self, number: int) -> dict[str, Any]:
        """What the page needs to know of an image, as soon as it is read."""
        facts = (self.original.baseline, *self.original.followups)[number]
        status, message = self.shelf.status(number)
        sheets = {}
        if status == "ready":
            sheets = {
                name: {**asdict(sheet), "normal_axis": sheet.plane.normal_axis}
                for name, sheet in self.shelf.stack(number).sheets.items()
            }
        registration = None
        if number:
            told = self.original.followups[number - 1].registration
            registration = told.model_dump(mode="json", exclude={"matrix"})
        return {
            "path": facts.path,
            "status": status,
            "message": message,
            "sheets": sheets,
            "registration": registration,
        }

    def _older(self, files: Sequence[str], events: Sequence[Event]) -> list[str]:
        """Entries for RECIST make only its own files older."""
        entries = {event.seq for event in events if event.kind.for_recist}
        about = [event.value if event.kind is Kind.UNDONE else event.seq for event in events]
        decisions = [e for e, seq in zip(events, about, strict=True) if seq not in entries]
        newest = {True: _time(events), False: _time(decisions)}
        others = [name for name in files if name != "result.json"]
        return [
            name
            for name in others
            if (self.folder / name).stat().st_mtime < newest[name in RECIST_FILES]
        ]

    def _exports(self, events: Sequence[Event]) -> dict[str, Any]:
        sources = read_sources(self.folder)
        there = sources.formats
        files = self.files()
        return {
            "formats": [
                {"name": name, "title": title, "content": content, "there": name in there}
                for name in self.formats
                for title, content in [CONTENT.get(name, (name, ""))]
            ],
            "stale": self._older(files, events),
            "files": files,
            "text_formats": TEXT_FORMATS,
            "sr_profiles": SR_PROFILES,
            "sr_profile": sources.sr_profile,
        }


def _time(events: Sequence[Event]) -> float:
    """When the last event was, in seconds; 0 without one."""
    return datetime.fromisoformat(events[-1].at).timestamp() if events else 0.0


def _lesion(result: Result, place: int, original: Result) -> dict[str, Any]:
    lesion = result.lesions[place]
    told = lesion.model_dump(mode="json")
    for number, (followup, tracked) in enumerate(
        zip(told["followups"], original.lesions[place].followups, strict=True), 1
    ):
        # The link follows a correction: the reader knows better than the tracker where it is.
        link = lesion_link(result.followups[number - 1].registration, lesion, number)
        followup["link"], followup["back"] = rows(link), rows(link.inverse())
        followup["tracked"] = {
            "status": tracked.status.value,
            "center_mm": tracked.center_mm,
        }
    return told


def _worst_first(original: Result, followup: int) -> list[str]:
    """Lesions by confidence, the least first; those out of view last, as in the report.

    The order is that of the tracker's own words, so that the list does not jump while it is worked
    through.
    """

    def key(lesion: LesionResult) -> tuple[bool, float]:
        found = lesion.followups[followup]
        return found.status is Status.OUTSIDE_FOV, found.confidence

    return [lesion.id for lesion in sorted(original.lesions, key=key)]


def _result_in(folder: Path) -> Result | None:
    """The folder's result; None where it is missing or damaged but the review's own copy is there.

    A damaged file is kept beside as ``result.json.damaged``. Raises `InputError` without a copy.
    """
    path = folder / "result.json"
    try:
        return read_json(path)
    except FileNotFoundError:
        if (folder / STORE).is_file():
            return None
        raise InputError(
            f"{folder}: no result.json in it; give a folder that tlt track wrote"
        ) from None
    except (ValidationError, ValueError) as error:
        if (folder / STORE).is_file():
            os.replace(path, path.with_suffix(".json.damaged"))
            return None
        raise InputError(
            f"{path}: {_first(error)}; it is damaged or no result of tlt: track again"
        ) from None


def _store_alone(folder: Path) -> Store:
    store = Store(folder / STORE)
    if not store.studies():
        store.close()
        raise InputError(f"{folder}: no result.json that can be read; run tlt track again")
    return store


def _first(error: ValueError) -> str:
    """The first thing that is wrong, without the input's own text."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        return f"{place}: {first['msg']}" if place else str(first["msg"])
    return "not JSON" if isinstance(error, json.JSONDecodeError) else "not text"
