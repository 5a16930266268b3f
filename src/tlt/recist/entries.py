"""What the reader enters: roles, diameters, judgements and new lesions, as JSON or CSV.

JSON is the whole format (``tlt recist --schema`` prints its schema); CSV has a row a lesion and
time point for those who keep a spreadsheet. Fields that are not known are refused, so that a
misspelt one is not silently without effect.
"""

from __future__ import annotations

import csv
import datetime
import io
import os
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tlt.errors import InputError
from tlt.geometry import Triple
from tlt.lesion import Role

ENTRIES = "entries.json"  # beside result.json it is found by itself

Diameter = Annotated[float, Field(ge=0, le=1000)]
Above0 = Annotated[float, Field(gt=0, le=1000)]
Name = Annotated[str, Field(min_length=1)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Judgement(str, Enum):
    """A reader's word on a lesion at a time point, where it is not a diameter."""

    PRESENT = "present"
    TOO_SMALL = "too_small"
    ABSENT = "absent"
    UNEQUIVOCAL_PROGRESSION = "unequivocal_progression"
    MERGED = "merged"
    NOT_EVALUABLE = "not_evaluable"


class Certainty(str, Enum):
    """How sure the reader is of a new lesion; ``absent`` takes an earlier entry back."""

    UNEQUIVOCAL = "unequivocal"
    EQUIVOCAL = "equivocal"
    ABSENT = "absent"


class LesionEntry(_Model):
    """A lesion at baseline; what is left out is taken from the result.

    ``diameter_mm`` is the long axis, or the short axis of a node.
    """

    role: Role | None = None
    site: str | None = None
    nodal: bool | None = None
    diameter_mm: Above0 | None = None
    note: str = ""


class Finding(_Model):
    """A lesion at a time point: a diameter, the diameters of its parts, or a judgement.

    ``diameter_mm`` is the long axis, or the short axis of a node; 0 says that it is gone.
    ``merged_into`` names the lesion that this one has grown together with, whose diameter is then
    that of the whole.
    """

    diameter_mm: Diameter | None = None
    parts_mm: list[Above0] | None = Field(default=None, min_length=2)
    status: Judgement | None = None
    merged_into: Name | None = None
    note: str = ""

    @model_validator(mode="after")
    def _says_one_thing(self) -> Finding:
        if (self.status is Judgement.MERGED) != (self.merged_into is not None):
            raise ValueError("status merged and merged_into belong together; give both")
        said = (self.diameter_mm is not None, self.parts_mm is not None, self.status is not None)
        measured = self.status in (Judgement.PRESENT, Judgement.UNEQUIVOCAL_PROGRESSION)
        if sum(said) == 2 and measured:
            return self
        if sum(said) != 1:
            raise ValueError("give one of diameter_mm, parts_mm and status")
        return self


class NewLesionEntry(_Model):
    """A lesion that was not there at baseline; it stays until it is entered again as absent.

    ``center_mm`` says where it is in that follow-up (LPS), if that was marked; no rule needs it.
    """

    id: Name
    site: str = ""
    certainty: Certainty
    center_mm: Triple | None = None
    note: str = ""


class TimePointEntry(_Model):
    """What the reader saw in a follow-up, numbered from 1 as in ``result.json``.

    ``day`` counts from baseline; a ``date`` needs the date of the baseline, and is written to the
    assessment. Give days where dates must not be.
    """

    followup: Annotated[int, Field(ge=1)]
    day: Annotated[int, Field(ge=0)] | None = None
    date: datetime.date | None = None
    lesions: dict[str, Finding] = {}
    new_lesions: list[NewLesionEntry] = []
    note: str = ""


class Entries(_Model):
    """Everything that a reader enters for one patient.

    ``confirmation_days`` and ``stable_days`` are the protocol's minimum intervals: until CR or PR
    is confirmed, and from baseline until stable disease counts.
    """

    schema_version: Literal[1] = 1
    reader: str = ""
    confirmation_days: Annotated[int, Field(ge=0)] = 28
    stable_days: Annotated[int, Field(ge=0)] = 42
    baseline_date: datetime.date | None = None
    lesions: dict[str, LesionEntry] = {}
    time_points: list[TimePointEntry] = []

    @model_validator(mode="after")
    def _one_entry_a_time_point(self) -> Entries:
        numbers = [point.followup for point in self.time_points]
        double = sorted({n for n in numbers if numbers.count(n) > 1})
        if double:
            raise ValueError(f"follow-up {double[0]} occurs twice; keep one")
        for point in self.time_points:
            ids = [new.id for new in point.new_lesions]
            if len(set(ids)) < len(ids):
                raise ValueError(f"follow-up {point.followup} names a new lesion twice; keep one")
        self.days()
        return self

    def at(self, followup: int) -> TimePointEntry:
        """The entry of a follow-up; an empty one where there is none."""
        found = (point for point in self.time_points if point.followup == followup)
        return next(found, TimePointEntry(followup=followup))

    def days(self) -> dict[int, int]:
        """The day from baseline of each follow-up that has one.

        Raises ValueError where a day and a date contradict each other or the order.
        """
        days: dict[int, int] = {}
        for point in sorted(self.time_points, key=lambda point: point.followup):
            day = point.day
            if point.date is not None and self.baseline_date is not None:
                by_date = (point.date - self.baseline_date).days
                if day not in (None, by_date):
                    raise ValueError(
                        f"follow-up {point.followup}: day {day}, but its date is day {by_date}; "
                        "correct one"
                    )
                day = by_date
            elif point.date is not None and day is None:
                raise ValueError(
                    f"follow-up {point.followup} has a date, but there is no baseline_date; "
                    "give it, or a day"
                )
            if day is None:
                continue
            if days and day <= max(days.values()):
                raise ValueError(
                    f"follow-up {point.followup}: day {day} is not after the one before; "
                    "follow-ups are numbered in the order of time"
                )
            if day < 0:
                raise ValueError(f"follow-up {point.followup} lies before the baseline")
            days[point.followup] = day
        return days


def entries_schema() -> dict[str, Any]:
    """The JSON schema of the entries."""
    schema = Entries.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "tlt RECIST entries, schema version 1"
    return schema


def read_entries(path: str | os.PathLike[str]) -> Entries:
    """The entries of a ``.json`` or ``.csv`` file; raises InputError that says what is wrong."""
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text; save it as UTF-8") from error
    try:
        if path.suffix.lower() == ".csv":
            return Entries.model_validate(_from_csv(text, str(path)))
        return Entries.model_validate_json(text)
    except ValidationError as error:
        raise InputError(f"{path}: {_first(error)}") from error


def to_json(entries: Entries) -> str:
    """The text of an entries file."""
    return entries.model_dump_json(indent=1, exclude_defaults=True) + "\n"


def _first(error: ValidationError) -> str:
    """The first thing that is wrong, and where."""
    every = error.errors(include_url=False)
    # An unknown field at the top says that it is another kind of file.
    first = next((e for e in every if e["type"] == "extra_forbidden"), every[0])
    where = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = "no such field; tlt recist --schema lists them"
    return f"{where}: {message}" if where else message


CSV_COLUMNS = (
    "followup", "lesion_id", "role", "site", "nodal", "diameter_mm", "status", "merged_into",
    "day", "date", "note",
)  # fmt: skip
NEW = "new_"


def _from_csv(text: str, name: str) -> dict[str, Any]:
    """The entries of a CSV, to be checked; follow-up 0 is the baseline."""
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    columns = [column.strip().lower() for column in reader.fieldnames or ()]
    unknown = [column for column in columns if column not in CSV_COLUMNS]
    missing = [column for column in ("followup", "lesion_id") if column not in columns]
    if unknown or missing:
        what = f"no column {missing[0]}" if missing else f"unknown column {unknown[0]!r}"
        raise InputError(f"{name}: line 1: {what}; the columns are {','.join(CSV_COLUMNS)}")
    reader.fieldnames = columns
    content: dict[str, Any] = {"lesions": {}, "time_points": {}}
    try:
        for row in reader:
            where = f"{name}: line {reader.line_num}"
            if None in row:
                raise InputError(f"{where}: more fields than columns; quote text with commas")
            given = {k: v.strip() for k, v in row.items() if k and v and v.strip()}
            if given:
                _add_row(content, given, where)
    except csv.Error as error:
        raise InputError(f"{name}: line {reader.line_num}: not CSV ({error})") from error
    return {**content, "time_points": list(content["time_points"].values())}


def _add_row(content: dict[str, Any], row: dict[str, str], where: str) -> None:
    """Put a row where JSON would have it."""
    try:
        followup = int(row.pop("followup", ""))
    except ValueError as error:
        raise InputError(f"{where}: followup must be 0 (baseline), 1, 2, ...") from error
    id_ = row.pop("lesion_id", "")
    if followup == 0:
        if "date" in row:
            content["baseline_date"] = row.pop("date")
        if row.pop("day", "0") != "0":
            raise InputError(f"{where}: the baseline is day 0")
        rows = content["lesions"]
    else:
        empty = {"followup": followup, "lesions": {}, "new_lesions": []}
        point = content["time_points"].setdefault(followup, empty)
        for key in ("day", "date"):
            if row.get(key, point.get(key)) != point.get(key) and key in point:
                raise InputError(f"{where}: another {key} for follow-up {followup}; keep one")
            point.update({key: row.pop(key)} if key in row else {})
        rows = point["lesions"]
        if row.get("status", "").startswith(NEW):
            row["certainty"] = row.pop("status").removeprefix(NEW)
            point["new_lesions"].append({"id": id_, **row})
            return
    if not id_:
        if row:
            raise InputError(f"{where}: no lesion_id; only day and date may stand without one")
        return
    if id_ in rows:
        raise InputError(f"{where}: lesion {id_} occurs twice for follow-up {followup}; keep one")
    rows[id_] = _parts(row)


def _parts(row: dict[str, str]) -> dict[str, Any]:
    """The row, with ``12+7`` as the diameters of parts."""
    if "+" not in row.get("diameter_mm", ""):
        return dict(row)
    parts = row["diameter_mm"].split("+")
    return {**{k: v for k, v in row.items() if k != "diameter_mm"}, "parts_mm": parts}
