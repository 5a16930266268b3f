"""Draw simulated pairs side by side: ``python benchmarks/gallery.py CT --output FOLDER``.

``gallery.png``: a row a seed, baseline and follow-up, coronal and axial, through one lesion
(cross-hairs at its true place), drawn as they are stored, without registration. ``features.png``: a
row for each thing that a whole pair shows only here and there, alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from tlt.data.appearance import Scan
from tlt.data.followup import (
    SimulatedStudy,
    StudyRange,
    Truth,
    paint_volume,
    resurrounded,
    simulate_study,
)
from tlt.data.motion import Motion, MotionRange
from tlt.data.placing import draw_decoys, draw_lesions
from tlt.data.simulate import Anatomy, render
from tlt.data.sliding import Slide
from tlt.data.surroundings import draw_surroundings
from tlt.geometry import AffineTransform, Grid
from tlt.io.images import load_volume
from tlt.volume import Volume

CORONAL, AXIAL = 1, 2  # the LPS axis that a plane is perpendicular to
HALF_MM = 150.0
NAMES = {CORONAL: "coronal", AXIAL: "axial"}
TITLE_LETTERS = 40  # that fit above an image
LOW_HU, HIGH_HU = -1000.0, 300.0
CROSS, LOOKALIKE = "#4cf", "#fb3"
View = tuple[Volume, np.ndarray, int, str]


def plane(volume: Volume, center_mm: np.ndarray, normal: int) -> np.ndarray:
    """HU (301, 301) of a plane through a point at 1 mm, the patient's right on the left."""
    steps = np.arange(-HALF_MM, HALF_MM + 1)
    points = np.zeros((len(steps), len(steps), 3)) + center_mm
    down = 1 if normal == AXIAL else 2
    points[..., 0] += steps[None, :]
    points[..., down] += steps[:, None] if down == 1 else -steps[:, None]
    return volume.sample(points, fill=np.nan)


def shown(truths: tuple[Truth, ...]) -> Truth:
    """The largest painted lesion that is in view."""
    there = [t for t in truths if t.in_view and t.lesion.label == "painted"]
    return max(there, key=lambda t: t.lesion.radius_mm)


def draw(place, view: View, low_hu: float = LOW_HU) -> None:
    """One image with its title."""
    volume, center, normal, title = view
    place.imshow(plane(volume, center, normal), "gray", vmin=low_hu, vmax=HIGH_HU)
    lines = [part for line in title.splitlines() for part in wrap(line, TITLE_LETTERS)]
    place.set_title("\n".join(lines), color="white", fontsize=8)
    place.set_facecolor("#1d2530")
    place.set_xticks([])
    place.set_yticks([])


def cross(place, offset_mm: Sequence[float] = (0.0, 0.0), color: str = CROSS) -> None:
    """Cross-hairs at a place (right, down) from the middle."""
    x, y = HALF_MM + offset_mm[0], HALF_MM + offset_mm[1]
    for a, b in ((-30, -14), (14, 30)):
        place.plot([x + a, x + b], [y, y], color=color, lw=0.8)
        place.plot([x, x], [y + a, y + b], color=color, lw=0.8)


def drawn(study: SimulatedStudy) -> str:
    """What of a follow-up's parameters a picture may show."""
    pair = study.parameters
    words = [f"{study.followup.grid.spacing_mm[2]:g} mm slices"]
    if pair.motion.slide is not None:
        words.append(f"sliding {round(pair.motion.slide.amplitude_mm, 1) + 0.0:g} mm")  # no -0
    about = pair.followup.surroundings
    if about is not None:
        words.append("another couch" if about.couch else "couch moved" if about.kept else "bare")
    if pair.followup.circle is not None:
        words.append("circle")
    return ", ".join(words)


def pairs_figure(volume: Volume, seeds: Sequence[int]):
    """Whole pairs, a row a seed."""
    figure, axes = plt.subplots(len(seeds), 4, figsize=(12, 3 * len(seeds)), facecolor="black")
    for seed, row in zip(seeds, axes, strict=True):
        study = simulate_study(volume, np.random.default_rng(seed), (), StudyRange())
        truth = shown(study.truth)
        here, there = np.array(truth.lesion.center_mm), np.array(truth.center_mm)
        views = [
            (image, center, normal, title)
            for normal in (CORONAL, AXIAL)
            for image, center, title in (
                (study.baseline, here, f"{NAMES[normal]}, baseline\nseed {seed}"),
                (study.followup, there, f"{NAMES[normal]}, follow-up\n{drawn(study)}"),
            )
        ]
        for place, view in zip(row, views, strict=True):
            draw(place, view)
            cross(place)
    return figure


def features_figure(volume: Volume):
    """Sliding, surroundings, look-alikes and the circle, a row each."""
    anatomy = Anatomy(volume)
    figure, axes = plt.subplots(4, 4, figsize=(12, 12), facecolor="black")
    for row, views in zip(
        axes, (sliding(volume, anatomy), couches(volume, anatomy), [], circles(volume)), strict=True
    ):
        for place, view in zip(row, views, strict=False):
            draw(place, view)
    decoys(volume, anatomy, axes[2])
    return figure


def sliding(volume: Volume, anatomy: Anatomy) -> list[View]:
    """The lungs as they are, slid down and up along the chest wall, and the first difference."""
    if anatomy.pleura is None:
        return []
    grid, unit = anatomy.pleura.grid, anatomy.pleura.unit[0, 2].numpy()
    most = int(unit.sum((0, 2)).argmax())
    center = grid.index_to_mm(((unit.shape[0] - 1) / 2, most, (unit.shape[2] - 1) / 2))
    low, high = volume.grid.bounds_mm()
    low[1], high[1] = center[1] - 4, center[1] + 4
    fine = Grid.covering(low, high, (1.0, 2.0, 1.0))
    images = []
    for amplitude in (0.0, 12.0, -12.0):
        motion = Motion(AffineTransform.identity(), (), Slide(anatomy.pleura, amplitude))
        images.append(Volume(render(anatomy, fine, motion, Scan(1.0)).voxels, fine))
    change = Volume(images[1].voxels - images[0].voxels - 350, fine)
    names = ("as it is", "lungs slid 12 mm down", "12 mm up", "first minus second")
    return [(i, center, CORONAL, n) for i, n in zip((*images, change), names, strict=True)]


def couches(volume: Volume, anatomy: Anatomy) -> list[View]:
    """The CT itself and the first draw of each kind of surroundings."""
    middle = anatomy.body_mm.mean(0) + np.array([0.0, 20.0, 0.0])
    views: dict[str, View] = {"": (volume, middle, AXIAL, "as it is")}
    for seed in range(30):
        rng = np.random.default_rng(seed)
        about = draw_surroundings(rng, anatomy.body_mm, anatomy.body_mm)
        name = "another" if about.couch else "moved" if about.kept else "gone"
        if name not in views:
            image = resurrounded(volume, anatomy, Scan(1.0, surroundings=about))
            views[name] = (image, middle, AXIAL, f"couch and arms: {name}")
    return list(views.values())


def decoys(volume: Volume, anatomy: Anatomy, row) -> None:
    """Lung lesions and what looks like them near by, in a plane that holds both."""
    rng = np.random.default_rng(4)
    places = iter(row)
    for lesion in (each for _ in range(12) for each in draw_lesions(rng, anatomy, 8, [])):
        here = np.array(lesion.center_mm)
        if volume.sample(here[None])[0] > -600 or lesion.hu < -300:
            continue  # soft tissue shows little in this window
        normal, alike = CORONAL, []
        for _ in range(20):
            alike = draw_decoys(rng, anatomy, [lesion], 1.0)
            offset = alike[0].center_mm - here if alike else np.full(3, 99.0)
            normal = AXIAL if abs(offset[2]) < abs(offset[1]) else CORONAL
            if abs(offset[normal]) < 0.6 * lesion.radius_mm:
                break
        else:
            continue  # no plane shows both
        place = next(places, None)
        if place is None:
            return
        image = paint_volume(volume, [lesion, *alike])
        draw(place, (image, here, normal, "a lesion and a look-alike"))
        cross(place)
        cross(place, (offset[0], offset[1] if normal == AXIAL else -offset[2]), LOOKALIKE)
        place.set_xlim(HALF_MM - 70, HALF_MM + 70)
        place.set_ylim(HALF_MM + 70, HALF_MM - 70)


def circles(volume: Volume) -> list[View]:
    """Follow-ups whose circle of reconstruction is too small."""
    views = []
    still = MotionRange(2.0, 5.0, (1.0, 1.0), 3.0, 3.0, 1.0)
    for seed in range(4):
        ranges = StudyRange(overlap=(0.9, 1.0), motion=still, surroundings=0.8, circles=1.0)
        study = simulate_study(volume, np.random.default_rng(seed), (), ranges)
        views.append((study.followup, study.followup.grid.center_mm, AXIAL, drawn(study)))
    return views


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ct")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--only", choices=["gallery", "features"], help="draw one of the two")
    given = parser.parse_args()
    volume = load_volume(given.ct)
    for name in [given.only] if given.only else ["gallery", "features"]:
        figure = (
            features_figure(volume) if name == "features" else pairs_figure(volume, given.seeds)
        )
        figure.tight_layout()
        figure.savefig(given.output / f"{name}.png", dpi=70, facecolor="black")


if __name__ == "__main__":
    main()
