"""What a run found, as ``result.json`` (schema version 1).

Points are LPS millimetres. A field may be added within a schema version, never renamed; readers
therefore ignore fields that they do not know.

It holds no patient's name, identifier or birth date. A path can hold one, so images are
stored by the last part of their path unless ``with_identifiers`` is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tlt.geometry import AffineTransform, Triple
from tlt.io.files import atomic_write
from tlt.lesion import Axis, Lesion, Match, Role, Size, Status
from tlt.volume import Volume

if TYPE_CHECKING:
    from tlt.track import PairResult

SCHEMA_VERSION: Literal[1] = 1

Fraction = Annotated[float, Field(ge=0, le=1)]
Row4 = tuple[float, float, float, float]
Length = Annotated[float, Field(ge=0)]


class _Model(BaseModel):
    # NaN is no JSON; a field called model must not clash with pydantic's own names
    model_config = ConfigDict(
        allow_inf_nan=False,
        protected_namespaces=(),
        json_schema_serialization_defaults_required=True,
    )


class Software(_Model):
    """What computed the result; ``model`` and its checksum are null for a tracker without one."""

    name: Literal["tlt"] = "tlt"
    version: str
    tracker: str
    model: str | None
    weights_sha256: str | None


class Image(_Model):
    """An image of the study: its size, spacing and where it was read from.

    ``time_point`` is its number among the patient's, 0 the first baseline; earlier files lack it.
    """

    path: str
    size_xyz: tuple[int, int, int]
    spacing_mm: Triple
    series_uid: str | None
    time_point: int | None = None


class RegistrationFacts(_Model):
    """How the two images were aligned; ``similarity`` is null where it could not be measured.

    ``matrix`` (rows of a 4x4) carries LPS millimetres of the baseline to the follow-up.
    """

    method: str
    seconds: Length
    similarity: float | None
    ok: bool
    matrix: tuple[Row4, Row4, Row4, Row4] | None = None


class Followup(Image):
    """A follow-up image, its registration, and the seconds that tracking to it took."""

    registration: RegistrationFacts
    seconds: Length


class SizeFacts(_Model):
    """Diameters in one axial slice, each as two points and as a length, and the volume."""

    long_axis: tuple[Triple, Triple]
    short_axis: tuple[Triple, Triple] | None = None
    long_mm: Length
    short_mm: Length | None = None
    volume_mm3: Length | None = None
    by_reader: bool = False
    doubtful: bool = False
    note: str = ""


class Decision(str, Enum):
    """What a reader made of a match."""

    ACCEPTED = "accepted"
    MOVED = "moved"
    REJECTED = "rejected"
    LOST = "lost"


class Review(_Model):
    """A reader's word on a match: what, who, and when (ISO 8601, UTC)."""

    decision: Decision
    by: str
    at: str
    note: str = ""


class LesionAtBaseline(_Model):
    """The lesion as it was marked."""

    center_mm: Triple
    radius_mm: Length
    size: SizeFacts | None = None


class LesionAtFollowup(_Model):
    """The lesion as it was found; no centre (null) means outside the field of view.

    Without a ``size``, ``size_note`` says why it is left to the reader. ``review`` is null until a
    reader has decided.
    """

    status: Status
    center_mm: Triple | None
    radius_mm: Length | None
    confidence: Fraction
    prior_center_mm: Triple
    prior_distance_mm: Length | None
    size: SizeFacts | None = None
    size_note: str = ""
    review: Review | None = None

    @model_validator(mode="after")
    def _center_unless_outside(self) -> LesionAtFollowup:
        if (self.center_mm is None) != (self.status is Status.OUTSIDE_FOV):
            raise ValueError(
                f"center_mm must be null exactly for outside_fov, got {self.center_mm} "
                f"for {self.status.value}"
            )
        return self


class LesionResult(_Model):
    """One lesion at baseline and, in the order of the result's follow-ups, at each of them."""

    id: str
    label: str
    tracking_uid: str
    site: str = ""
    nodal: bool = False
    role: Role = Role.UNDECIDED
    baseline: LesionAtBaseline
    followups: list[LesionAtFollowup]


class Result(_Model):
    """Everything that ``result.json`` says."""

    schema_version: Literal[1]
    coordinate_system: Literal["LPS"]
    software: Software
    baseline: Image
    followups: list[Followup]
    lesions: list[LesionResult]
    warnings: list[str]

    def time_points(self) -> list[int]:
        """The number of the baseline and of each follow-up among the patient's time points."""
        numbers = [self.baseline.time_point or 0]
        for followup in self.followups:
            known = followup.time_point
            numbers.append(numbers[-1] + 1 if known is None else known)
        return numbers


def build_result(
    baseline: Volume,
    followups: Sequence[Volume],
    pairs: Sequence[PairResult],
    software: Software,
    warnings: Sequence[str] = (),
    with_identifiers: bool = False,
    time_point: int = 0,
) -> Result:
    """The result of tracking the same lesions, in the same order, to each follow-up.

    Args:
        baseline: the image that the lesions were marked in.
        followups: the follow-up images, nearest in time first.
        pairs: what was found in each of them.
        software: what computed it.
        warnings: remarks for the reader.
        with_identifiers: keep whole paths instead of their last part; follow-ups that have this
            in common keep the folder above it as well, where it tells them apart.
        time_point: of the baseline, among all time points of the patient.
    """
    columns = zip(*(pair.matches for pair in pairs), strict=True)
    return Result(
        schema_version=SCHEMA_VERSION,
        coordinate_system="LPS",
        software=software,
        baseline=Image(
            path=_path(baseline, with_identifiers), **_image_fields(baseline, time_point)
        ),
        followups=[
            _followup(volume, _path(volume, with_identifiers, followups), pair, number)
            for number, (volume, pair) in enumerate(
                zip(followups, pairs, strict=True), time_point + 1
            )
        ],
        lesions=[_lesion_result(matches[0].lesion, matches) for matches in columns],
        warnings=list(warnings),
    )


def result_schema() -> dict[str, Any]:
    """The JSON schema of ``result.json``."""
    schema = Result.model_json_schema(mode="serialization")
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "tlt result, schema version 1"
    return schema


def to_json(result: Result) -> str:
    """The text of ``result.json``, checked once more against its own schema."""
    text = result.model_dump_json(indent=1)
    Result.model_validate_json(text)
    return text + "\n"


def write_json(result: Result, path: str | Path) -> None:
    """Write ``result.json``: whole or not at all."""
    atomic_write(path, to_json(result))


def read_json(path: str | Path) -> Result:
    """The result that a ``result.json`` holds; raises pydantic's ValidationError if it is none."""
    return Result.model_validate_json(Path(path).read_text(encoding="utf-8"))


def diameters_text(size: SizeFacts | None) -> str:
    """Long x short axis in mm as people read it; ``?`` marks what is doubtful."""
    if size is None:
        return "-"
    short = "" if size.short_mm is None else f" x {size.short_mm:.1f}"
    return f"{size.long_mm:.1f}{short}{' ?' if size.doubtful else ''}"


def change_text(lesion: LesionResult, found: LesionAtFollowup) -> str:
    """Change of the long axis from baseline in percent; of the short axis for a node."""
    before, after = lesion.baseline.size, found.size
    if before is None or after is None:
        return "-"
    old, new = before.long_mm, after.long_mm
    if lesion.nodal and before.short_mm and after.short_mm:
        old, new = before.short_mm, after.short_mm
    return f"{100 * (new / old - 1):+.0f} %" if old else "-"


def _path(volume: Volume, whole: bool, among: Sequence[Volume] = ()) -> str:
    """The path as results tell it: its last part, two of them to tell it from the others."""
    path = Path(volume.path)
    above = {Path(v.path).parent.name for v in among if Path(v.path).name == path.name}
    return volume.path if whole else "/".join(path.parts[-2 if len(above) > 1 else -1 :])


def _image_fields(volume: Volume, time_point: int) -> dict[str, Any]:
    return {
        "size_xyz": volume.grid.size_xyz,
        "spacing_mm": _rounded(volume.grid.spacing_mm, 6),
        "series_uid": volume.series_uid,
        "time_point": time_point,
    }


def _followup(volume: Volume, path: str, pair: PairResult, time_point: int) -> Followup:
    registration = pair.registration
    similarity = float(registration.similarity)
    facts = RegistrationFacts(
        method=registration.method,
        seconds=round(registration.seconds, 3),
        similarity=round(similarity, 4) if math.isfinite(similarity) else None,
        ok=registration.ok,
        matrix=_rows4(registration.baseline_to_followup),
    )
    seconds = round(pair.seconds, 3)
    image = _image_fields(volume, time_point)
    return Followup(path=path, registration=facts, seconds=seconds, **image)


def _lesion_result(lesion: Lesion, matches: Sequence[Match]) -> LesionResult:
    others = {match.lesion.id for match in matches} - {lesion.id}
    if others:
        raise ValueError(f"follow-ups hold matches of different lesions: {lesion.id} and {others}")
    return LesionResult(
        id=lesion.id,
        label=lesion.label,
        tracking_uid=lesion.tracking_uid,
        site=lesion.site,
        nodal=lesion.nodal,
        role=lesion.role,
        baseline=LesionAtBaseline(
            center_mm=_rounded(lesion.center_mm),
            radius_mm=round(lesion.radius_mm, 3),
            size=None if lesion.size is None else size_facts(lesion.size),
        ),
        followups=[_lesion_at_followup(match) for match in matches],
    )


def _lesion_at_followup(match: Match) -> LesionAtFollowup:
    distance = match.prior_distance_mm
    return LesionAtFollowup(
        status=match.status,
        center_mm=None if match.center_mm is None else _rounded(match.center_mm),
        radius_mm=None if match.radius_mm is None else round(match.radius_mm, 3),
        confidence=round(float(match.confidence), 4),
        prior_center_mm=_rounded(match.prior_center_mm),
        prior_distance_mm=None if distance is None else round(distance, 3),
        size=None if match.size is None else size_facts(match.size),
        size_note=match.size_note,
    )


def size_facts(size: Size) -> SizeFacts:
    """A size as the result tells it."""
    short, volume = size.short_axis, size.volume_mm3
    return SizeFacts(
        long_axis=_ends(size.long_axis),
        short_axis=None if short is None else _ends(short),
        long_mm=round(size.long_axis.length_mm, 3),
        short_mm=None if short is None else round(short.length_mm, 3),
        volume_mm3=None if volume is None else round(volume, 1),
        by_reader=size.by_reader,
        doubtful=size.doubtful,
        note=size.note,
    )


def size_of(facts: SizeFacts) -> Size:
    """The size that a result tells."""
    return Size(
        long_axis=Axis(*facts.long_axis),
        short_axis=None if facts.short_axis is None else Axis(*facts.short_axis),
        volume_mm3=facts.volume_mm3,
        by_reader=facts.by_reader,
        doubtful=facts.doubtful,
        note=facts.note,
    )


def _ends(axis: Axis) -> tuple[Triple, Triple]:
    return _rounded(axis.start_mm), _rounded(axis.end_mm)


def _rows4(transform: AffineTransform) -> tuple[Row4, Row4, Row4, Row4]:
    """The affine as a 4x4; seven digits keep a point a metre away within a thousandth of a mm."""
    rows = [
        (round(float(a), 7), round(float(b), 7), round(float(c), 7), round(float(shift), 4))
        for (a, b, c), shift in zip(transform.matrix, transform.translation_mm, strict=True)
    ]
    return rows[0], rows[1], rows[2], (0.0, 0.0, 0.0, 1.0)


def share(value: float | None) -> str:
    """A similarity as people read it."""
    return "not measured" if value is None else f"{value:.2f}"


def _rounded(values: Triple, digits: int = 3) -> Triple:
    """The values without digits that mean nothing: a thousandth of a millimetre is enough."""
    x, y, z = (round(float(value), digits) for value in values)
    return x, y, z
