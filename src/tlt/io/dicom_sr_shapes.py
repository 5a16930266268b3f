"""What a measurement group of a DICOM SR draws, in LPS millimetres.

Pixel coordinates (SCOORD) need the baseline's DICOM images; points in space (SCOORD3D) need them
only for the check of the frame of reference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from scipy.spatial.distance import pdist

from tlt.geometry import Points
from tlt.io import dicom_codes as known
from tlt.io.dicom_references import References
from tlt.io.dicom_sr_items import code_of, value_type
from tlt.io.outlines import outline_center

MAX_POINTS = 20_000
FAR = 1e6  # mm or pixels; also false for NaN


class Skipped(Exception):
    """A measurement group that does not mark the baseline, and why."""


@dataclass
class Shapes:
    """What a group draws, in LPS millimetres."""

    points: list[NDArray] = field(default_factory=list)
    lines: list[tuple[str, NDArray]] = field(default_factory=list)  # the code of its number first
    centers: list[NDArray] = field(default_factory=list)
    radii: list[float] = field(default_factory=list)

    @property
    def middle(self) -> Points:
        """The middle of all that is drawn (3,)."""
        lines = [ends.mean(0) for _, ends in self.lines]
        return np.mean([*self.points, *lines, *self.centers], axis=0)


def shapes_of(items: list[Dataset], references: References | None) -> Shapes:
    shapes = Shapes()
    reasons: list[str] = []
    for name, item in _drawn(items):
        try:
            _add(shapes, name, str(item.get("GraphicType")), _points_mm(item, references))
        except Skipped as skipped:
            reasons.append(str(skipped))
    if shapes.points or shapes.lines or shapes.centers:
        return shapes
    if reasons:
        raise Skipped(reasons[0])
    raise Skipped(
        "no coordinates in it (it may refer to a SEG); give that object, or mark the lesions"
    )


def _drawn(items: list[Dataset]) -> Iterator[tuple[str, Dataset]]:
    """The drawings of a group, each with the code of the number that is inferred from it."""
    for item in items:
        if value_type(item).startswith("SCOORD"):
            if code_of(item.get("ConceptNameCodeSequence")) not in (
                "TextPosition",
                "ControlPoints",
            ):
                yield "", item
        elif value_type(item) == "NUM":
            for inner in item.get("ContentSequence") or []:
                code = code_of(inner.get("ConceptNameCodeSequence"))
                if value_type(inner).startswith("SCOORD") and code != "ControlPoints":
                    yield code_of(item.get("ConceptNameCodeSequence")), inner


def _points_mm(item: Dataset, references: References | None) -> Points:
    """The points (N, 3) of a drawing; raises `Skipped` for one in another image or frame."""
    width = 3 if value_type(item) == "SCOORD3D" else 2
    flat = np.array(item.GraphicData, float).ravel()
    if not 0 < flat.size <= width * MAX_POINTS or flat.size % width:
        raise Skipped("coordinates that are no points; export it again")
    if not (np.abs(flat) < FAR).all():
        raise Skipped("coordinates that are not finite; export it again")
    if width == 3:
        frame = str(item.get("ReferencedFrameOfReferenceUID") or "")
        if references is not None and frame != references.frame_uid:
            raise Skipped(
                "it marks points in another frame of reference than the baseline's; "
                "give the SR that belongs to this baseline"
            )
        return flat.reshape(-1, 3)
    return _in_image(item, flat.reshape(-1, 2), references)


def _in_image(item: Dataset, pixels: NDArray, references: References | None) -> Points:
    if references is None:
        raise Skipped(
            "it marks pixels of DICOM images, but the baseline is not DICOM; "
            "give the baseline as its DICOM series"
        )
    images = [i for i in item.get("ContentSequence") or [] if "ReferencedSOPSequence" in i]
    if not images or not images[0].ReferencedSOPSequence:
        raise Skipped("pixels without the image that they lie in; export it again")
    reference = images[0].ReferencedSOPSequence[0]
    frame = reference.get("ReferencedFrameNumber")
    frame = frame[0] if isinstance(frame, Sequence) and not isinstance(frame, str) else frame
    levels = references.levels_of(
        str(reference.get("ReferencedSOPInstanceUID")), int(frame) if frame else None
    )
    if not levels:
        raise Skipped(
            "it marks images of another series than the baseline; "
            "give the series that was measured as the baseline"
        )
    if len(levels) > 1:
        raise Skipped("it marks an image of several frames and does not say which; export it again")
    return references.points_of(pixels, levels[0])


def _add(shapes: Shapes, name: str, kind: str, points: Points) -> None:
    """Sort a drawing into the shapes by what it is."""
    count = len(points)
    if kind in ("POINT", "MULTIPOINT") or count == 1:
        shapes.points.append(points.mean(0))
    elif kind == "POLYLINE" and count == 2:
        shapes.lines.append((name, points))
    elif kind == "CIRCLE":
        shapes.centers.append(points[0])
        shapes.radii.append(float(np.linalg.norm(points[1] - points[0])))
    elif kind in ("ELLIPSE", "ELLIPSOID") and count >= 4:
        ends = points[: count // 2 * 2].reshape(-1, 2, 3)
        shapes.centers.append(ends[0].mean(0))
        order = np.argsort([-np.linalg.norm(b - a) for a, b in ends])
        if kind == "ELLIPSE":
            shapes.lines.append((known.LONG_NAMES[0], ends[order[0]]))
            shapes.lines.append((known.SHORT_NAMES[0], ends[order[1]]))
        shapes.radii.append(float(np.linalg.norm(np.diff(ends[order[0]], axis=0))) / 2)
    else:
        shapes.centers.append(outline_center(points))
        shapes.radii.append(float(pdist(points[:: max(1, count // 2000)]).max()) / 2)
