"""The measurement groups of a DICOM SR: a lesion each, exact or as OHIF edits them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from tlt.io.dicom_references import References
from tlt.io.lesion_rows import without_remark
from tlt.lesion import Axis, Lesion, Match, Role

if TYPE_CHECKING:
    from highdicom import sr

CORNERSTONE = "Cornerstone3DTools@^0.1.0"


def time_point_name(time_point: int) -> str:
    """How a report calls a time point: 0 is the baseline."""
    return f"follow-up {time_point}" if time_point else "baseline"


def comment(text: str) -> sr.TextContentItem:
    """A text without a code of its own."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    return sr.TextContentItem(name=codes.DCM.Comment, value=text, relationship_type="CONTAINS")


class Groups:
    """Makes a measurement group a lesion.

    ``used`` collects the slices that lesions lie in, ``spatial`` tells whether a point had to be
    given in space rather than in a slice.
    """

    def __init__(self, references: References, profile: str, time_point: int) -> None:
        self.references = references
        self.ohif = profile == "ohif"
        self.time_point = time_point
        self.used: set[int] = set()
        self.spatial = False

    def group(self, item: Lesion | Match, lesion: Lesion) -> Any:
        """The group of a lesion at its place here; ``item`` is what it was made from."""
        from highdicom import sr
        from pydicom.sr.codedict import codes

        common = {
            "tracking_identifier": sr.TrackingIdentifier(
                lesion.tracking_uid, self._identifier(lesion)
            ),
            "time_point_context": self._time_point(),
            "finding_type": codes.SCT.Lesion,
            "finding_sites": _sites(lesion),
            "algorithm_id": _algorithm(item, lesion),
            "qualitative_evaluations": _evaluations(item, lesion),
        }
        self.used.add(self.references.plane_near(lesion.center_mm))
        group: Any
        if lesion.size is None and not self.ohif:
            group = sr.PlanarROIMeasurementsAndQualitativeEvaluations(
                referenced_region=self._space_region([lesion.center_mm]),
                measurements=_scalars(item, lesion),
                **common,
            )
        else:
            group = sr.MeasurementsAndQualitativeEvaluations(
                measurements=self._measurements(item, lesion), **common
            )
            group[0].ContentSequence.append(self._center(lesion))
        expected = _expected_radius(item)
        if expected is not None:
            group[0].ContentSequence.append(expected)
        label = self._label(lesion)
        if label:
            group[0].ContentSequence.append(comment(label))
        return group

    def _identifier(self, lesion: Lesion) -> str:
        if not self.ohif:
            return lesion.id
        if lesion.size is None:
            return f"{CORNERSTONE}:ArrowAnnotate:{lesion.id}"
        return (
            f"{CORNERSTONE}:{'Bidirectional' if lesion.size.short_axis else 'Length'}:{lesion.id}"
        )

    def _label(self, lesion: Lesion) -> str:
        """OHIF shows the comment, not identifier and status, so there the id leads it."""
        if not self.ohif:
            return without_remark(lesion.label)
        return f"{lesion.id}: {lesion.label}" if lesion.label else lesion.id

    def _time_point(self) -> sr.TimePointContext:
        from highdicom import sr

        # No order: it would be a number, which readers, OHIF among them, take for a measurement.
        return sr.TimePointContext(
            time_point=time_point_name(self.time_point),
            subject_time_point_identifier=str(self.time_point),
        )

    def _measurements(self, item: Lesion | Match, lesion: Lesion) -> list[sr.Measurement]:
        """The axes with their lines first, as OHIF looks for them; else a number at the point."""
        from tlt.io.dicom_codes import LENGTH, LONG_AXIS, SHORT_AXIS

        size = lesion.size
        if size is None:
            return _scalars(item, lesion, [self._coordinates([lesion.center_mm], self.ohif)])
        drawn = [(LENGTH, size.long_axis)]
        if size.short_axis is not None:
            drawn = [(LONG_AXIS, size.long_axis), (SHORT_AXIS, size.short_axis)]
        ends = [end for _, axis in drawn for end in (axis.start_mm, axis.end_mm)]
        # OHIF takes both axes to lie in the image of the first.
        flat = self.ohif and self.references.in_one_plane(ends)
        axes = [self._axis(name, axis, flat) for name, axis in drawn]
        return [*axes, *_scalars(item, lesion)]

    def _axis(self, name: Any, axis: Axis, flat: bool) -> sr.Measurement:
        line = self._coordinates([axis.start_mm, axis.end_mm], flat)
        return _number(name, axis.length_mm, "mm", [line])

    def _coordinates(self, points_mm: Sequence, flat: bool) -> Any:
        """A point or a line, in the nearest slice (``flat``) or in space."""
        from highdicom import sr

        kind = "POINT" if len(points_mm) == 1 else "POLYLINE"
        if not flat:
            self.spatial = True
            return sr.CoordinatesForMeasurement3D(
                kind, np.array(points_mm, float), self.references.frame_uid
            )
        near = self.references.plane_near(np.mean(points_mm, axis=0))
        self.used.add(near)
        plane = self.references.planes[near]
        source = sr.SourceImageForRegion(
            plane.sop_class_uid, plane.sop_uid, None if plane.frame is None else [plane.frame]
        )
        return sr.CoordinatesForMeasurement(kind, self.references.pixels_of(points_mm), source)

    def _space_region(self, points_mm: Sequence) -> sr.ImageRegion3D:
        from highdicom import sr

        self.spatial = True
        return sr.ImageRegion3D("POINT", np.array(points_mm, float), self.references.frame_uid)

    def _center(self, lesion: Lesion) -> Any:
        """The centre beside the axes, whose middle it need not be, or beside the nearest pixel.

        For OHIF it is a text, which it passes over: a second point it would take for the drawing.
        The middle of the long axis follows, to tell later whether somebody has moved it.
        """
        from highdicom import sr
        from pydicom.sr.codedict import codes

        from tlt.io.dicom_codes import EXACT_CENTER

        if self.ohif:
            axis = lesion.size.long_axis if lesion.size else None
            middle = np.add(axis.start_mm, axis.end_mm) / 2 if axis else ()
            text = " ".join(f"{value:.4f}" for value in (*lesion.center_mm, *middle))
            return sr.TextContentItem(EXACT_CENTER, text, relationship_type="CONTAINS")
        self.spatial = True
        return sr.Scoord3DContentItem(
            name=codes.DCM.Center,
            graphic_type="POINT",
            graphic_data=np.array([lesion.center_mm], float),
            frame_of_reference_uid=self.references.frame_uid,
            relationship_type="CONTAINS",
        )


def _number(name: Any, value: float, unit: str, coordinates: list | None = None) -> sr.Measurement:
    from highdicom import sr
    from pydicom.sr.codedict import codes

    units = {
        "mm": codes.UCUM.Millimeter,
        "mm3": codes.UCUM.CubicMillimeter,
        "%": codes.UCUM.Percent,
    }
    return sr.Measurement(
        name=name, value=round(value, 3), unit=units[unit], referenced_coordinates=coordinates
    )


def _scalars(
    item: Lesion | Match, lesion: Lesion, coordinates: list | None = None
) -> list[sr.Measurement]:
    """What is known as a number: how sure the place is, the marked diameter, the volume.

    A match without a measured size tells no diameter: that of its baseline is not its own.
    """
    from tlt.io.dicom_codes import CERTAINTY, DIAMETER, VOLUME

    volume = lesion.size.volume_mm3 if lesion.size else None
    numbers = []
    if isinstance(item, Match):
        numbers.append(_number(CERTAINTY, 100 * item.confidence, "%", coordinates))
        if lesion.size is None and item.radius_mm is not None:
            numbers.append(_number(DIAMETER, 2 * item.radius_mm, "mm"))
    elif lesion.size is None:
        numbers.append(_number(DIAMETER, 2 * lesion.radius_mm, "mm", coordinates))
    if volume is not None:
        numbers.append(_number(VOLUME, volume, "mm3"))
    return numbers


def _expected_radius(item: Lesion | Match) -> sr.TextContentItem | None:
    """The radius to look for at the next time point, where none was measured without a doubt.

    It is a text of our own, because readers would take a number for a measurement.
    """
    from highdicom import sr

    from tlt.io.dicom_codes import EXPECTED_RADIUS

    if isinstance(item, Lesion) or item.radius_mm is not None:
        return None
    text = f"{item.lesion.radius_mm:.4f}"
    return sr.TextContentItem(EXPECTED_RADIUS, text, relationship_type="CONTAINS")


def _sites(lesion: Lesion) -> list[sr.FindingSite]:
    from highdicom import sr

    from tlt.io.dicom_codes import LYMPH_NODE, site_code

    sites = [site_code(lesion.site)] if lesion.site.strip() else []
    if lesion.nodal and LYMPH_NODE not in sites:
        sites.append(LYMPH_NODE)
    return [sr.FindingSite(code) for code in sites]


def _algorithm(item: Lesion | Match, lesion: Lesion) -> sr.AlgorithmIdentification | None:
    """The program, where what the group says is its own and not a person's."""
    from highdicom import sr

    drawn = lesion.size is not None and lesion.size.by_reader
    if drawn or (isinstance(item, Lesion) and lesion.size is None):
        return None
    return sr.AlgorithmIdentification("tlt", version("transformer-lesion-tracker"))


def _evaluations(item: Lesion | Match, lesion: Lesion) -> list[sr.QualitativeEvaluation]:
    from highdicom import sr

    from tlt.io.dicom_codes import DOUBTFUL, ROLE, SIZE_QUALITY, STATUS, role_code, status_code

    evaluations = []
    if isinstance(item, Match):
        evaluations.append(sr.QualitativeEvaluation(STATUS, status_code(item.status)))
    if lesion.role is not Role.UNDECIDED:
        evaluations.append(sr.QualitativeEvaluation(ROLE, role_code(lesion.role)))
    if lesion.size is not None and lesion.size.doubtful:
        evaluations.append(sr.QualitativeEvaluation(SIZE_QUALITY, DOUBTFUL))
    return evaluations
