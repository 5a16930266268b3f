"""Draw simulated pairs side by side: ``python benchmarks/gallery.py CT --output FILE.png``.

A row a seed: baseline and follow-up, coronal and axial, through one lesion (cross-hairs at its true
place). Both are drawn as they are stored, without registration.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from tlt.data.followup import StudyRange, Truth, simulate_study
from tlt.io.images import load_volume
from tlt.volume import Volume

CORONAL, AXIAL = 1, 2  # the LPS axis that a plane is perpendicular to
HALF_MM = 150.0
LOW_HU, HIGH_HU = -1000.0, 300.0


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ct")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    volume = load_volume(given.ct)
    figure, axes = plt.subplots(given.seeds, 4, figsize=(12, 3 * given.seeds), facecolor="black")
    for seed, row in zip(range(given.seeds), axes, strict=True):
        study = simulate_study(volume, np.random.default_rng(seed), (), StudyRange())
        truth = shown(study.truth)
        views = (
            (study.baseline, truth.lesion.center_mm, CORONAL, "baseline"),
            (study.followup, truth.center_mm, CORONAL, "follow-up"),
            (study.baseline, truth.lesion.center_mm, AXIAL, "baseline"),
            (study.followup, truth.center_mm, AXIAL, "follow-up"),
        )
        slices = study.followup.grid.spacing_mm[2]
        for place, (image, center, normal, name) in zip(row, views, strict=True):
            place.imshow(plane(image, np.array(center), normal), "gray", vmin=LOW_HU, vmax=HIGH_HU)
            middle = HALF_MM
            for a, b in ((-30, -14), (14, 30)):
                place.plot([middle + a, middle + b], [middle] * 2, color="#4cf", lw=0.8)
                place.plot([middle] * 2, [middle + a, middle + b], color="#4cf", lw=0.8)
            text = f"{name}, seed {seed}"
            text += f", {slices:g} mm slices" if name == "follow-up" else ""
            place.set_title(text, color="white", fontsize=8)
            place.set_facecolor("#1d2530")
            place.set_xticks([])
            place.set_yticks([])
    figure.tight_layout()
    figure.savefig(given.output, dpi=70, facecolor="black")


if __name__ == "__main__":
    main()
