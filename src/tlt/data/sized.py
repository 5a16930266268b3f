"""Lesions of simulated studies whose true extent is known in both scans, found by a tracker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from tlt.data.extents import STILL, Inside, inside_mask, inside_painted, true_extent
from tlt.data.followup import SimulatedStudy, Study, Truth
from tlt.diameters import measure_extent
from tlt.io.images import read_image
from tlt.lesion import Lesion, Match, Size
from tlt.volume import Volume, grid_of

SAME_MM = 3.0  # between a known lesion and the centroid of its label


@dataclass(frozen=True, eq=False)
class SizedLesion:
    """A lesion with the truth of its size, and what a tracker said of it.

    Attributes:
        name: of the lesion in its study.
        kind: painted or real.
        baseline, followup: the scans.
        before, after: its true extent in each; ``after`` is None where it vanished.
        match: where it was found; its lesion's radius is half the true long axis.
    """

    name: str
    kind: str
    baseline: Volume
    followup: Volume
    before: Volume
    after: Volume | None
    match: Match

    @property
    def size_before(self) -> Size:
        """Its true size in the baseline."""
        return _size(self.before)

    @property
    def size_after(self) -> Size | None:
        """Its true size in the follow-up."""
        return None if self.after is None else _size(self.after)


def with_true_radius(
    study: SimulatedStudy, masks: dict[str, Volume]
) -> list[tuple[Truth, Volume, Volume | None]]:
    """The lesions in view whose extents are known: truth, extent in the baseline, in the follow-up.

    The radius of a truth's lesion is half its true long axis in the baseline, as the contract has
    it. ``masks`` are those of real lesions, by id.
    """
    motion, found = study.parameters.motion, []
    for truth in study.truth:
        first, later = _insides(study, truth.lesion, masks)
        if first is None or not truth.in_view:
            continue
        reach = 2.2 * truth.lesion.radius_mm + 6
        before = true_extent(first, STILL, truth.lesion.center_mm, reach)
        if before is None:
            continue
        after = None if later is None else true_extent(later, motion, truth.center_mm, 1.3 * reach)
        radius = _size(before).long_axis.length_mm / 2
        lesion = replace(truth.lesion, radius_mm=round(radius, 2))
        found.append((replace(truth, lesion=lesion), before, after))
    return found


def _insides(
    study: SimulatedStudy, lesion: Lesion, masks: dict[str, Volume]
) -> tuple[Inside | None, Inside | None]:
    """What is inside the lesion at baseline and at follow-up; None where it is not."""
    if lesion.id in masks:
        inside = inside_mask(masks[lesion.id])
        return inside, inside
    pair = study.parameters
    first = [p for p in pair.baseline_lesions if p.center_mm == lesion.center_mm]
    later = [p for p in pair.followup_lesions if p.center_mm == lesion.center_mm]
    if lesion.label != "painted" or not first:
        return None, None
    return inside_painted(first[0]), inside_painted(later[0]) if later else None


def label_masks(folder: Path, known: dict[str, list[Lesion]]) -> dict[str, Volume]:
    """Masks (0 and 1) of real lesions by id, from the ``_label`` files beside the CTs.

    A lesion's label is the one whose centroid lies at its centre.
    """
    masks = {}
    for patient, lesions in known.items():
        path = folder / f"{patient}_label.nii.gz"
        if not path.is_file():
            continue
        image = read_image(path)
        labels = Volume(sitk.GetArrayFromImage(image), grid_of(image))
        for lesion in lesions:
            mask = _label_at(labels, lesion)
            if mask is not None:
                masks[lesion.id] = mask
    return masks


def _label_at(labels: Volume, lesion: Lesion) -> Volume | None:
    for value in np.unique(labels.voxels)[1:]:
        mask = labels.voxels == value
        middle = labels.grid.index_to_mm(np.argwhere(mask).mean(0))
        if np.linalg.norm(middle - lesion.center_mm) < SAME_MM:
            return Volume(mask.astype(np.uint8), labels.grid)
    return None


def _size(extent: Volume) -> Size:
    size = measure_extent(extent)
    assert size is not None  # an extent without voxels is None
    return size


def sized_lesions(
    studies: Iterable[tuple[str, Study]],
    track: Callable[[Study, list[Lesion]], Sequence[Match] | None],
    masks: dict[str, Volume],
) -> Iterator[SizedLesion]:
    """Every lesion of known extent of named studies; ``track`` finds them, or gives None."""
    for study_name, study in studies:
        if not isinstance(study, SimulatedStudy):
            continue  # nothing is known of its extents
        known = with_true_radius(study, masks)
        matches = track(study, [truth.lesion for truth, _, _ in known]) if known else None
        if matches is None:
            continue
        for (truth, before, after), match in zip(known, matches, strict=True):
            kind = "real" if truth.lesion.id in masks else "painted"
            name = f"{study_name} {truth.lesion.id}"
            yield SizedLesion(name, kind, study.baseline, study.followup, before, after, match)
