"""Training pairs: two crops of a simulated pair, and many lesions to find in them.

Both crops lie in the follow-up's frame, as at inference: the template is the baseline seen through
an affine prior, so a lesion at p in the template has its prior at p. The prior is the best affine
of the true motion with a registration error on top; where the search crop lies depends on the
prior alone, never on the truth (docs/method.md, "No leak").
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tlt.data.appearance import InsertedLesion, Scan, draw_lesion, grown
from tlt.data.motion import Motion, MotionRange
from tlt.data.placing import NEW_DECOYS, draw_decoys
from tlt.data.simulate import Anatomy, PairParameters, Rendered, draw_pair, render
from tlt.data.view import Circle, draw_box, pad_outside, within_box
from tlt.errors import InputError
from tlt.geometry import AffineTransform, Grid, Points
from tlt.lesion import Lesion


@dataclass(frozen=True)
class PairConfig:
    """How training pairs are cut.

    Attributes:
        crops_zyx: shapes in voxels to choose from, multiples of the stride.
        spacing_mm: voxel size.
        lesions: painted lesions a pair.
        queries: lesions to find a pair, painted ones included.
        anchors: places with a known counterpart for the dense contrastive loss.
        margin_mm: how far inside the template crop a query lies, along x, y, z.
        search_shift_mm: how far the search crop may be shifted from the template's, each axis.
        motion: range of motion at full difficulty.
        strength: range of appearance at full difficulty.
        cut_share: how often a field of view ends inside a crop, each image and side.
        decoys: share of painted lesions with a structure near them that looks alike.
        surroundings: share of scans with couch and arms elsewhere, gone, or another couch.
        circles: share of scans whose circle of reconstruction cuts skin and arms.
    """

    crops_zyx: tuple[tuple[int, int, int], ...] = ((48, 80, 80), (40, 88, 88), (64, 68, 68))
    spacing_mm: float = 2.0
    lesions: int = 4
    queries: int = 8
    anchors: int = 160
    margin_mm: tuple[float, float, float] = (24.0, 24.0, 16.0)
    search_shift_mm: tuple[float, float, float] = (24.0, 24.0, 16.0)
    motion: MotionRange = field(default_factory=MotionRange)
    strength: float = 1.0
    cut_share: float = 0.1
    decoys: float = 0.3
    surroundings: float = 0.5
    circles: float = 0.1

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  (an unknown key of a YAML is told)


@dataclass(frozen=True)
class TrainingPair:
    """Two crops (1, D, H, W) in HU, the place (x, y, z) of their first voxels, and what is known.

    Attributes:
        centers_mm, truth_mm, radius_mm: (Q, 3), (Q, 3), (Q,): priors of the queries (also their
            places in the template), their true places in the search crop, their radii.
        anchors_mm, anchors_truth_mm: (M, 3) places in the template and in the search crop.
        marks_mm, marks_truth_mm: (P, 3) places, in template and search crop, of all that was
            painted, lesions and what looks like one, and of the CT's own lesions that reach into
            a crop; of marked pairs the lesions, as large in both.
        marks_radius_mm, marks_seen: (P, 2) radius, and whether it shows, in each of the crops.
    """

    template: Tensor
    search: Tensor
    template_origin_mm: Tensor
    search_origin_mm: Tensor
    centers_mm: Tensor
    truth_mm: Tensor
    radius_mm: Tensor
    anchors_mm: Tensor
    anchors_truth_mm: Tensor
    marks_mm: Tensor
    marks_truth_mm: Tensor
    marks_radius_mm: Tensor
    marks_seen: Tensor

    def to(self, device: torch.device) -> TrainingPair:
        """The pair on a device."""
        return type(self)(*(getattr(self, f.name).to(device) for f in fields(self)))


# Self-supervision of DLT: one scan turned and resized by itself, instead of a patient who moved.
AUGMENTED = MotionRange(
    rotation_deg=6.0, scale=(0.75, 1.25), posture_mm=0.0, breathing_mm=0.0, local_mm=0.0,
    sliding_mm=0.0,
)  # fmt: skip


def draw_training_pair(
    rng: np.random.Generator,
    anatomy: Anatomy,
    config: PairConfig,
    difficulty: float = 1.0,
    augmented: bool = False,
) -> TrainingPair:
    """One training pair; ``difficulty`` in [0, 1] scales the displacements (a curriculum).

    An ``augmented`` pair is `AUGMENTED` instead, and its prior knows of a shift alone. Crops that
    hold too little of the body to find a query are drawn again.

    Raises:
        InputError: fifty in a row did.
    """
    for _ in range(50 if len(anatomy.body_mm) else 0):
        motion = AUGMENTED if augmented else config.motion.eased(difficulty)
        pair = draw_pair(rng, anatomy, motion, config.strength, config.surroundings, config.circles)
        cut = _draw_crops(rng, anatomy, pair.motion, config, augmented)
        drawn = _draw_from(rng, anatomy, pair, cut, config)
        if drawn is not None:
            return drawn
    raise InputError(
        f"{anatomy.name}: too small, or holds too little body, to train from; leave it out"
    )


@dataclass(frozen=True, eq=False)
class _Crops:
    """The prior that was drawn and the grids of both crops."""

    prior: AffineTransform
    template: Grid
    search: Grid


def _draw_crops(
    rng: np.random.Generator,
    anatomy: Anatomy,
    motion: Motion,
    config: PairConfig,
    augmented: bool = False,
) -> _Crops:
    middle = anatomy.body_mm[rng.integers(len(anatomy.body_mm))]
    if augmented:
        shift = AffineTransform.about(np.eye(3), middle, motion.affine(middle) - middle)
        prior = registration_error(rng, shift(middle)).after(shift)
    else:
        prior = draw_prior(rng, anatomy, motion, middle)
    return _Crops(prior, *draw_grids(rng, prior(middle), config))


def draw_grids(rng: np.random.Generator, prior_mm: Points, config: PairConfig) -> tuple[Grid, Grid]:
    """The grids of template and search crop about a prior (3,): they say nothing of the truth."""
    shape = config.crops_zyx[rng.integers(len(config.crops_zyx))]
    template = Grid.around(prior_mm + rng.uniform(-8, 8, 3), shape, config.spacing_mm)
    shift = rng.uniform(-1, 1, 3) * config.search_shift_mm
    return template, Grid.around(template.center_mm + shift, shape, config.spacing_mm)


def draw_prior(
    rng: np.random.Generator, anatomy: Anatomy, motion: Motion, about_mm: Points
) -> AffineTransform:
    """The best affine of a motion plus the error of a registration, now and then a gross one."""
    body = anatomy.body_mm[rng.integers(len(anatomy.body_mm), size=200)]
    seen = motion.affine(body)
    best = AffineTransform.fit(motion.followup_to_baseline(seen), seen)
    return registration_error(rng, best(about_mm)).after(best)


def registration_error(rng: np.random.Generator, about_mm: Points) -> AffineTransform:
    """What a registration may be wrong by about a point, now and then grossly."""
    sigma = 3.0 if rng.random() < 0.8 else 10.0
    turn = np.eye(3) + rng.normal(0, 0.02, (3, 3))
    return AffineTransform.about(turn, about_mm, rng.normal(0, sigma, 3))


def _draw_from(
    rng: np.random.Generator,
    anatomy: Anatomy,
    pair: PairParameters,
    cut: _Crops,
    config: PairConfig,
) -> TrainingPair | None:
    """Both crops and their queries; None when too few queries can be seen in both."""
    places = _inner_points(rng, cut.template, config.margin_mm, config.lesions)
    lesions = _draw_lesions(rng, anatomy, cut.prior.inverse()(places))
    later = tuple(grown(lesion, rng) for lesion in lesions)
    decoys = tuple(draw_decoys(rng, anatomy, lesions, config.decoys))
    old = tuple(decoy for decoy in decoys if rng.random() >= NEW_DECOYS)
    as_affine = Motion(cut.prior, ())
    first_scan = _seen_through(pair.baseline, cut.prior)
    template, template_seen = _acquired(
        rng, anatomy, cut.template, as_affine, first_scan, lesions + old
    )
    search, search_seen = _acquired(
        rng, anatomy, cut.search, pair.motion, pair.followup, later + decoys
    )
    _pad(template, cut.template, pair.baseline.circle, cut.prior.inverse())
    _pad(search, cut.search, pair.followup.circle, AffineTransform.identity())
    template_box = draw_box(rng, cut.template, config.cut_share)
    search_box = draw_box(rng, cut.search, config.cut_share)
    search_seen = within_box(search, search_seen, cut.search, search_box)
    # As at inference, the template loses what the follow-up's view leaves out.
    for box in (template_box, search_box):
        template_seen = within_box(template, template_seen, cut.template, box)
    sites = [np.array([lesion.center_mm for lesion in lesions]).reshape(-1, 3)]
    textured = _textured_points(rng, template, cut.template, config)
    sites.append(cut.prior.inverse()(textured))
    anchor_sites = cut.prior.inverse()(
        _inner_points(rng, cut.template, (8, 8, 8), 2 * config.anchors)
    )
    sites.append(anchor_sites[anatomy.density_hu(_as_points(anchor_sites)).ravel().numpy() > -950])
    known = np.concatenate(sites)
    try:
        truth = pair.motion.baseline_to_followup(known)
        marked = (lesions + old + anatomy.lesions, later + decoys + anatomy.lesions)
        marks = _marks(pair, cut, marked, (template_seen, search_seen))
    except ArithmeticError:
        return None
    prior = cut.prior(known)
    usable = _visible(prior, cut.template, template_seen) & _visible(truth, cut.search, search_seen)
    if pair.baseline.surroundings or pair.followup.surroundings:  # a couch has no counterpart
        usable &= ~anatomy.outside(_as_points(known)).ravel().numpy()
    usable &= _in_circle(pair.baseline.circle, known) & _in_circle(pair.followup.circle, truth)
    is_query = np.arange(len(known)) < len(sites[0]) + len(textured)
    queries, anchors = np.flatnonzero(usable & is_query), np.flatnonzero(usable & ~is_query)
    if len(queries) < config.queries // 2 or len(anchors) < config.anchors // 4:
        return None
    # Always the same count, a few twice if need be: one shape keeps the CPU's kernels cached.
    queries, anchors = np.resize(queries, config.queries), np.resize(anchors, config.anchors)
    radii = np.exp(rng.uniform(np.log(3), np.log(25), len(known)))
    radii[: len(lesions)] = [lesion.radius_mm for lesion in lesions]
    return TrainingPair(
        template=torch.from_numpy(template)[None],
        search=torch.from_numpy(search)[None],
        template_origin_mm=as_tensor(cut.template.origin_mm),
        search_origin_mm=as_tensor(cut.search.origin_mm),
        centers_mm=as_tensor(prior[queries]),
        truth_mm=as_tensor(truth[queries]),
        radius_mm=as_tensor(radii[queries]),
        anchors_mm=as_tensor(prior[anchors]),
        anchors_truth_mm=as_tensor(truth[anchors]),
        **marks,
    )


def _marks(
    pair: PairParameters,
    cut: _Crops,
    marked: tuple[tuple[InsertedLesion | Lesion, ...], ...],
    seen: tuple[tuple[NDArray[np.bool_], ...], ...],
) -> dict[str, Tensor]:
    """What is marked in template and search crop; the same baseline place is the same thing.

    A lesion that reaches into neither of the crops is left out.

    Raises:
        ArithmeticError: a place at which the motion cannot be inverted.
    """
    sizes = [{lesion.center_mm: lesion.radius_mm for lesion in one} for one in marked]
    sites = list(dict.fromkeys([*sizes[0], *sizes[1]]))
    known = np.array(sites).reshape(-1, 3)
    truth = pair.motion.baseline_to_followup(known)
    prior = cut.prior(known)
    shown = [
        _visible(prior, cut.template, seen[0]) & _in_circle(pair.baseline.circle, known),
        _visible(truth, cut.search, seen[1]) & _in_circle(pair.followup.circle, truth),
    ]
    there = np.array([[site in size for size in sizes] for site in sites], bool).reshape(-1, 2)
    radius = np.array([[size.get(site, 0.0) for size in sizes] for site in sites]).reshape(-1, 2)
    largest = radius.max(1, initial=0.0)
    near = _reaches(cut.template, prior, largest) | _reaches(cut.search, truth, largest)
    return {
        "marks_mm": as_tensor(prior[near]),
        "marks_truth_mm": as_tensor(truth[near]),
        "marks_radius_mm": as_tensor(radius[near]),
        "marks_seen": torch.from_numpy((np.stack(shown, -1) & there)[near]),
    }


def _reaches(grid: Grid, points_mm: Points, radius_mm: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Which balls, points (N, 3) and radii (N,), reach into a crop."""
    low, high = grid.bounds_mm()
    inner = np.clip(points_mm, low, high)
    return np.linalg.norm(points_mm - inner, axis=1) <= radius_mm


def _in_circle(circle: Circle | None, points_mm: Points) -> NDArray[np.bool_]:
    """Which points (N, 3) a scan's circle of reconstruction holds."""
    return np.ones(len(points_mm), bool) if circle is None else circle.holds(points_mm)


def _seen_through(scan: Scan, prior: AffineTransform) -> Scan:
    """The baseline's scan for a grid of the follow-up: its couch stands still in the baseline."""
    about = scan.surroundings
    if about is None:
        return scan
    return replace(scan, surroundings=replace(about, to_ct=about.to_ct.after(prior.inverse())))


def _pad(voxels: NDArray, grid: Grid, circle: Circle | None, to_scan: AffineTransform) -> None:
    """Pad a crop, in place, outside a scan's circle."""
    if circle is not None:
        index = np.moveaxis(np.indices(voxels.shape), 0, -1)
        pad_outside(voxels, to_scan(grid.index_to_mm(index)), circle)


def _acquired(
    rng: np.random.Generator,
    anatomy: Anatomy,
    grid: Grid,
    motion: Motion,
    scan: Scan,
    lesions: tuple[InsertedLesion, ...],
) -> tuple[NDArray[np.float32], tuple[NDArray[np.bool_], ...]]:
    """The crop as the scanner's slices give it after resampling, and the planes it covers."""
    x, y, z = grid.spacing_mm
    slice_mm = max(scan.slice_mm, z)
    low, high = grid.bounds_mm()
    start = low - np.array([0, 0, slice_mm * rng.uniform(0, 1)])
    slices = Grid.covering(start, high, (x, y, slice_mm))
    rendered: Rendered = render(anatomy, slices, motion, scan, lesions)
    place = (low[2] + np.arange(grid.size_xyz[2]) * z - start[2]) / slice_mm
    below = np.minimum(place.astype(int), len(rendered.voxels) - 2)
    share = (place - below).astype(np.float32)[:, None, None]
    voxels = rendered.voxels[below] * (1 - share) + rendered.voxels[below + 1] * share
    seen_z = rendered.seen_zyx[0][below] & rendered.seen_zyx[0][below + 1]
    return voxels, (seen_z, *rendered.seen_zyx[1:])


def _draw_lesions(
    rng: np.random.Generator, anatomy: Anatomy, sites_mm: Points
) -> tuple[InsertedLesion, ...]:
    """Lesions at those baseline points that lie in the body."""
    density = anatomy.density_hu(_as_points(sites_mm)).ravel().numpy()
    return tuple(
        draw_lesion(rng, tuple(site), float(np.exp(rng.uniform(np.log(3), np.log(22)))), float(hu))
        for site, hu in zip(sites_mm.tolist(), density, strict=True)
        if hu > -940
    )


def _textured_points(
    rng: np.random.Generator, voxels: NDArray[np.float32], grid: Grid, config: PairConfig
) -> Points:
    """Places in a crop, inside its margin, that have structure around them (some have little)."""
    image = torch.from_numpy(voxels)[None, None].clamp(-1000, 400)
    mean, square = (F.avg_pool3d(v, 4)[0, 0].numpy() for v in (image, image.square()))
    spread = np.sqrt(np.maximum(square - mean**2, 0))
    points = _inner_points(rng, grid, config.margin_mm, 40 * config.queries)
    index = np.clip(grid.mm_to_index(points) / 4, 0, np.array(mean.shape) - 1).astype(int)
    weight = np.clip(spread[tuple(index.T)], 0, 150)
    weight = np.where(mean[tuple(index.T)] > -930, weight + 10, 0)
    if np.count_nonzero(weight) < 4 * config.queries:
        return np.zeros((0, 3))
    chosen = rng.choice(len(points), 3 * config.queries, replace=False, p=weight / weight.sum())
    return points[chosen]


def _inner_points(rng: np.random.Generator, grid: Grid, margin_mm, count: int) -> Points:
    low, high = grid.bounds_mm()
    return rng.uniform(low + margin_mm, high - np.asarray(margin_mm), (count, 3))


def _visible(points_mm: Points, grid: Grid, seen_zyx: tuple[NDArray[np.bool_], ...]) -> NDArray:
    """Whether points lie in the crop, two voxels from its border, in planes the CT covers."""
    index = np.rint(grid.mm_to_index(points_mm)).astype(int)
    last = np.array(grid.shape_zyx) - 1
    inside = np.all((index >= 2) & (index <= last - 2), axis=1)
    index = np.clip(index, 0, last)
    return inside & np.all([seen_zyx[a][index[:, a]] for a in range(3)], axis=0)


def shown_in(grid: Grid, points_mm: Points) -> NDArray[np.bool_]:
    """Whether points (N, 3) lie in a crop, two voxels from its border."""
    index = grid.mm_to_index(points_mm)
    return np.all((index >= 2) & (index <= np.array(grid.shape_zyx) - 3), axis=1)


def _as_points(points_mm: Points) -> Tensor:
    return torch.from_numpy(np.asarray(points_mm, np.float32))[:, None, None]


def as_tensor(values) -> Tensor:
    """Values as a float32 tensor."""
    return torch.from_numpy(np.asarray(values, np.float32))
