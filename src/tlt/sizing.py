"""How large a tracked lesion is at follow-up: measured, doubtful, or left to the reader.

The lesion is outlined in the baseline first, by the same method and with its radius known. What
this teaches (how far its densities spread, whether it can be outlined at all) goes into the outline
in the follow-up. How often a size without a doubt is right: docs/sizes.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from tlt.lesion import Lesion, Match, Size, Status
from tlt.segmentation import Span, ball_surface, find_surface, span_within
from tlt.surface import Surface
from tlt.volume import Volume

KNOWN, UNKNOWN = 1.0, 0.15  # cost of an e-fold change of the radius, squared: baseline, follow-up
ROUNDER = 0.92  # mean radius of a lesion, over half its long axis
WIDER_HU = 90.0  # most that a lesion's densities may newly spread by, from baseline to follow-up
BETTER = 0.1  # clearer border for which the wider spread is believed
OFF_CENTER = 0.3  # doubtful: the outline's centre lies as many radii from the tracked one
SEEN = 0.6  # doubtful: less of the border is seen
UNLIKE = 0.93  # doubtful: the baseline, with its radius unknown, gives a volume that overlaps less
BASELINE = 0.2  # doubtful: the baseline's long axis comes out as much too long or short
LEAST_SEEN, MOST_OFF_CENTER = 0.35, 0.8  # left to the reader: less of the border, more than that
BEYOND_MM, UNMEASURED_HU, TOUCH = 1.5, -1100.0, 0.02  # see `_cut_off`
GROWN = (0.35, 2.3)  # left to the reader: a radius that changed by more

Progress = Callable[[str, float], None]


@dataclass(frozen=True, eq=False)
class Known:
    """What the baseline teaches of a lesion.

    Attributes:
        lesion: it.
        surface: its outline there.
        span: how far its densities spread.
        size: by that outline; None where this does not confirm the radius that was given, where the
            same outline is not found without knowing it, or where the view cuts the lesion off.
    """

    lesion: Lesion
    surface: Surface
    span: Span
    size: Size | None

    @property
    def expected_mm(self) -> float:
        """Its mean radius."""
        return ROUNDER * self.lesion.radius_mm


def study_baseline(baseline: Volume, lesion: Lesion) -> Known:
    """What the baseline teaches of a lesion marked in it."""
    center = np.asarray(lesion.center_mm, float)
    expected = ROUNDER * lesion.radius_mm
    ball = ball_surface(baseline, center, expected)
    surface = find_surface(baseline, center, expected, span_within(baseline, ball, 0.75), KNOWN)
    span = span_within(baseline, surface)
    blind = find_surface(baseline, center, expected, span, UNKNOWN)
    low, high = sorted((surface.volume_mm3, blind.volume_mm3))
    size = surface.size(baseline.grid)
    confirmed = all(
        abs(s.long_axis.length_mm / (2 * lesion.radius_mm) - 1) <= BASELINE
        for s in (size, blind.size(baseline.grid))
    )
    sound = confirmed and 2 * low / (low + high) >= UNLIKE and not _cut_off(surface, baseline)
    return Known(lesion, surface, span, size if sound else None)


def measure(match: Match, followup: Volume, known: Known) -> Match:
    """The match with size, extent and radius, or with a note why there is none.

    The radius is filled only where the size is not doubtful: the next time point starts from it.
    """
    reason = _not_to_measure(match)
    if reason:
        return replace(match, size_note=reason)
    assert match.center_mm is not None  # only of a lesion out of view
    surface = outline(followup, match.center_mm, known)
    reason = _left_to_reader(surface, match, known)
    if reason:
        return replace(match, size_note=reason)
    doubts = _doubts(surface, match, known, followup)
    size = replace(surface.size(followup.grid), doubtful=bool(doubts), note="; ".join(doubts))
    radius = None if doubts else round(size.long_axis.length_mm / 2, 3)
    return replace(match, size=size, extent=surface.extent(followup.grid), radius_mm=radius)


def outline(volume: Volume, center_mm: ArrayLike, known: Known) -> Surface:
    """The outline of a known lesion about a point of a follow-up.

    A lesion may have become necrotic, or started to be: the outline with densities that spread more
    is taken where its border is clearer.
    """
    expected = known.expected_mm
    usual = find_surface(volume, center_mm, expected, known.span, UNKNOWN)
    own = span_within(volume, ball_surface(volume, center_mm, expected), 0.8)
    wide = Span(
        max(known.span.below, min(own.below, WIDER_HU)),
        max(known.span.above, min(own.above, WIDER_HU)),
    )
    if wide == known.span:
        return usual
    other = find_surface(volume, center_mm, expected, wide, UNKNOWN)
    clearer = _clearness(other, expected) - _clearness(usual, expected)
    return other if clearer > BETTER else usual


def _clearness(surface: Surface, expected_mm: float) -> float:
    change = np.log(surface.mean_radius_mm / expected_mm)
    return float((surface.weight * surface.edge).sum() - UNKNOWN * change**2)


def _not_to_measure(match: Match) -> str:
    """Why a match has no size; empty if it can have one."""
    if match.status is Status.OUTSIDE_FOV:
        return "outside the field of view"
    if match.status is Status.NOT_FOUND:
        return "the lesion was not found"
    return ""


def _left_to_reader(surface: Surface, match: Match, known: Known) -> str:
    """Why the outline is no size at all; empty if it may be one."""
    low, high = GROWN
    if surface.seen < LEAST_SEEN:
        return "no border was seen; measure by hand"
    if not low < surface.mean_radius_mm / known.expected_mm < high:
        return "the outline is far from the baseline's size; measure by hand"
    if _off_center(surface, match) > MOST_OFF_CENTER:
        return "the outline is that of something beside the lesion; measure by hand"
    return ""


def _doubts(surface: Surface, match: Match, known: Known, followup: Volume) -> list[str]:
    """What speaks against the size, in words for a reader."""
    doubts = []
    if match.status is not Status.FOUND:
        doubts.append("the position is unsure")
    if _cut_off(surface, followup):
        doubts.append("cut off by the border of the view")
    if surface.seen < SEEN:
        doubts.append(f"only {100 * surface.seen:.0f} % of the border was seen")
    if _off_center(surface, match) > OFF_CENTER:
        doubts.append("the outline is not centred on the tracked position")
    if known.size is None:
        doubts.append("the baseline's outline does not confirm its radius")
    return doubts


def _off_center(surface: Surface, match: Match) -> float:
    """Distance of the outline's centre from the tracked one, in radii of the outline."""
    away = np.linalg.norm(surface.centroid_mm - np.asarray(match.center_mm))
    return float(away / surface.mean_radius_mm)


def _cut_off(surface: Surface, volume: Volume) -> bool:
    """Whether more than a touch of the outline lies at or beyond the border of the view.

    Scanners fill what their circle of reconstruction leaves out with values below air.
    """
    beyond = surface.center_mm + (surface.radius_mm + BEYOND_MM)[..., None] * surface.directions
    outside = ~volume.grid.contains(surface.points_mm)
    outside |= volume.sample(beyond, fill=0.0) < UNMEASURED_HU
    return float((surface.weight * outside).sum()) > TOUCH


def with_sizes(
    baseline: Volume, lesions: Sequence[Lesion], progress: Progress | None = None
) -> tuple[list[Lesion], Callable[[Match, Volume], Match]]:
    """The lesions, each with its size in the baseline where that can be told, and `measure`.

    The baseline is studied once, whatever the number of follow-ups. A size that was given stays.
    """
    known = {}
    for done, lesion in enumerate(lesions):
        if progress is not None:
            progress("measure baseline", done / len(lesions))
        known[lesion.id] = study_baseline(baseline, lesion)
    sized = [
        lesion if lesion.size is not None else replace(lesion, size=known[lesion.id].size)
        for lesion in lesions
    ]
    return sized, lambda match, followup: measure(match, followup, known[match.lesion.id])
