"""Where lesions, decoys and structures lie: inside the body and apart from each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from tlt.data.appearance import InsertedLesion, draw_lesion, draw_lobes
from tlt.data.simulate import Anatomy
from tlt.geometry import Points, Triple
from tlt.lesion import Lesion

EDGE_MM = 12.0  # of a place from the CT's faces
GAP_MM = 4.0  # between the surfaces of two lesions of the follow-up
LEAST_CONTRAST_HU = 25.0  # of a painted lesion
LEAST_DISTINCT_HU, DISTINCT_REACH_MM = 8.0, 12.0  # of a structure; see `distinctness`
NEW_DECOYS = 0.3  # share of decoys that only the follow-up shows
LIKE_TISSUE_HU = 120.0  # between the tissue about a lesion and about its decoy
DECOY_MM = (15.0, 50.0)  # from a lesion's centre to that of what looks like it


def draw_lesions(
    rng: np.random.Generator, anatomy: Anatomy, count: int, known: Sequence[Lesion]
) -> list[InsertedLesion]:
    """Lesions of 3 to 25 mm radius inside the body, apart from each other and from known ones."""
    drawn: list[InsertedLesion] = []
    occupied = [(np.array(lesion.center_mm), lesion.radius_mm) for lesion in known]
    for _ in range(400 * count):
        if len(drawn) == count:
            break
        center = _inner_place(rng, anatomy)
        radius = float(np.exp(rng.uniform(np.log(3), np.log(25))))
        gaps = [np.linalg.norm(center - c) - r - radius for c, r in occupied]
        if min(gaps, default=99.0) < 12.0:
            continue
        within = torch.from_numpy(center + rng.normal(0, radius / 2, (200, 3))).float()
        local = anatomy.density_hu(within[None, None]).ravel()
        lesion = draw_lesion(rng, as_triple(center), radius, float(local.median()))
        # What nobody sees in the baseline could not have been marked there.
        if float((local - lesion.hu).abs().median()) < LEAST_CONTRAST_HU:
            continue
        drawn.append(lesion)
        occupied.append((center, radius))
    return drawn


def apart(
    later: Sequence[InsertedLesion], before: Sequence[InsertedLesion], known: Sequence[Lesion]
) -> list[InsertedLesion]:
    """The follow-up's lesions, none grown into another lesion's place."""
    free = []
    fixed = [(lesion.center_mm, lesion.radius_mm) for lesion in known]
    painted = [(lesion.center_mm, lesion.radius_mm) for lesion in later]
    for index, lesion in enumerate(later):
        others = [*fixed, *painted[:index], *painted[index + 1 :]]
        gaps = [np.linalg.norm(np.subtract(lesion.center_mm, c)) - r for c, r in others]
        room = max(before[index].radius_mm, min(gaps, default=np.inf) - GAP_MM)
        free.append(replace(lesion, radius_mm=min(lesion.radius_mm, float(room))))
    return free


def draw_structures(
    rng: np.random.Generator, anatomy: Anatomy, count: int, taken_mm: Points
) -> list[Triple]:
    """Places inside the body that can be told in every direction, 25 mm from those taken."""
    places: list[Triple] = []
    taken = list(taken_mm)
    for _ in range(400 * count):
        if len(places) == count:
            break
        place = _inner_place(rng, anatomy)
        if taken and np.linalg.norm(np.array(taken) - place, axis=1).min() < 25:
            continue
        if distinctness(anatomy, place) < LEAST_DISTINCT_HU:
            continue
        places.append(as_triple(place))
        taken.append(place)
    return places


def distinctness(anatomy: Anatomy, place_mm: Points) -> float:
    """Root mean square change in HU per mm about a place, along the direction of least change.

    The smallest eigenvalue of the structure tensor: a plane or a straight vessel has none.
    """
    axis = torch.arange(-DISTINCT_REACH_MM, DISTINCT_REACH_MM + 1, 2.0)
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1)
    near = anatomy.density_hu(points + torch.from_numpy(place_mm).float()).clamp(-1000, 300)
    smooth = torch.nn.functional.avg_pool3d(near[None, None], 2, 1)[0, 0]
    slopes = torch.stack([s.ravel() for s in torch.gradient(smooth, spacing=2.0)])
    return float(torch.linalg.eigvalsh(slopes @ slopes.mT / slopes.shape[1])[0].clamp(min=0).sqrt())


def draw_decoys(
    rng: np.random.Generator,
    anatomy: Anatomy,
    lesions: Sequence[InsertedLesion],
    share: float,
    known: Sequence[Lesion] = (),
) -> list[InsertedLesion]:
    """One decoy for about a share of the lesions, apart from all lesions and each other."""
    taken = [(np.array(lesion.center_mm), lesion.radius_mm) for lesion in lesions]
    taken += [(np.array(lesion.center_mm), lesion.radius_mm) for lesion in known]
    decoys = []
    for lesion in lesions if share else ():
        decoy = draw_decoy(rng, anatomy, lesion, taken) if rng.random() < share else None
        if decoy is not None:
            decoys.append(decoy)
            taken.append((np.array(decoy.center_mm), decoy.radius_mm))
    return decoys


def draw_decoy(
    rng: np.random.Generator,
    anatomy: Anatomy,
    lesion: InsertedLesion,
    taken: Sequence[tuple[Points, float]],
) -> InsertedLesion | None:
    """What looks like a lesion, in like tissue 15 to 50 mm from it; None where nothing fits.

    ``taken`` are centres and radii in mm, the lesion's own among them, that it keeps off.
    """
    home = float(_density(anatomy, np.array([lesion.center_mm]))[0])
    for _ in range(60):
        way = rng.normal(0, 1, 3)
        center = lesion.center_mm + way / np.linalg.norm(way) * rng.uniform(*DECOY_MM)
        radius = lesion.radius_mm * float(rng.uniform(0.75, 1.3))
        if min(np.linalg.norm(center - c) - r - radius for c, r in taken) < GAP_MM:
            continue
        around = center + rng.normal(0, radius / 2, (60, 3))
        local = float(np.median(_density(anatomy, around)))
        seen = abs(local - lesion.hu) > LEAST_CONTRAST_HU
        if not seen or abs(local - home) > LIKE_TISSUE_HU or not _far_from_faces(anatomy, center):
            continue
        hu = lesion.hu + float(rng.normal(0, 10))
        lobes = draw_lobes(rng)
        return replace(lesion, center_mm=as_triple(center), radius_mm=radius, hu=hu, lobes=lobes)
    return None


def _density(anatomy: Anatomy, points_mm: Points) -> NDArray:
    """HU (N,) at points (N, 3)."""
    at = torch.from_numpy(np.asarray(points_mm, np.float32))[None, None]
    return anatomy.density_hu(at).ravel().numpy()


def _inner_place(rng: np.random.Generator, anatomy: Anatomy) -> Points:
    """A point of the body, `EDGE_MM` from the CT's faces where the CT is large enough for that."""
    for _ in range(200):
        place = anatomy.body_mm[rng.integers(len(anatomy.body_mm))] + rng.uniform(-4, 4, 3)
        if _far_from_faces(anatomy, place):
            break
    return place


def _far_from_faces(anatomy: Anatomy, place_mm: Points) -> bool:
    corners = place_mm + EDGE_MM * np.array([[1, 1, 1], [-1, -1, -1]])
    return bool(anatomy.inside(torch.from_numpy(corners).float()).all())


def as_triple(point: Points) -> Triple:
    """The point to a thousandth of a millimetre."""
    x, y, z = (round(float(v), 3) for v in point)
    return x, y, z
