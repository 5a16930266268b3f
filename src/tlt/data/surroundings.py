"""What lies about the patient in a scan: couch, blanket and arms, which no anatomy moves.

All that the CT shows outside the largest connected body can be left out, lie elsewhere, or give way
to a painted couch, in each scan by itself. It is rigid: it does not follow the patient's motion.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from tlt.geometry import AffineTransform, Points
from tlt.volume import AIR_HU

SHIFT_MM = np.array([25.0, 10.0, 40.0])  # largest of a couch and what lies on it
MOST_LUNG_LIKE = 0.4  # share of what lies about a body; foam and cloth make up to a third


@dataclass(frozen=True)
class Couch:
    """A painted couch: a shell about a light core, as long as the scan.

    Attributes:
        middle_mm: LPS x of its middle.
        top_mm: LPS y of its surface in the middle.
        half_width_mm: half its width.
        thickness_mm: along y.
        rise_mm: how much higher the surface is at its edges (a trough).
        shell_mm, shell_hu, core_hu: thickness of the shell, and both densities.
    """

    middle_mm: float
    top_mm: float
    half_width_mm: float
    thickness_mm: float
    rise_mm: float
    shell_mm: float
    shell_hu: float
    core_hu: float

    def hu(self, points_mm: Tensor) -> Tensor:
        """Density (N,) at points (N, 3); air beside the couch."""
        across = (points_mm[:, 0] - self.middle_mm) / self.half_width_mm
        deep = points_mm[:, 1] - self.top_mm + self.rise_mm * across.square()
        to_side = (1 - across.abs()) * self.half_width_mm
        inner = torch.minimum(torch.minimum(deep, self.thickness_mm - deep), to_side)
        solid = (inner + 0.5).clamp(0, 1)  # edges of a millimetre
        core = (inner - self.shell_mm + 0.5).clamp(0, 1)
        filled = self.shell_hu * (1 - core) + self.core_hu * core
        return AIR_HU * (1 - solid) + filled * solid


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What one scan shows outside the body.

    Attributes:
        to_ct: from points of the scan to the CT's frame, where couch and arms stand still.
        kept: whether the CT's own couch and arms are there.
        couch: a painted one.
    """

    to_ct: AffineTransform
    kept: bool = False
    couch: Couch | None = None


def draw_surroundings(rng: np.random.Generator, body_mm: Points, moved_mm: Points) -> Surroundings:
    """Couch and arms gone (one in four), elsewhere, or another couch.

    ``body_mm`` are points (N, 3) of the body in the CT, ``moved_mm`` the same in the scan: the
    couch stays below the back.
    """
    kind = rng.choice(["gone", "elsewhere", "another", "another"])
    shift = rng.uniform(-1, 1, 3) * SHIFT_MM
    shift[1] = -abs(shift[1])  # down, away from the back
    to_ct = AffineTransform(np.eye(3), _rest(body_mm) - _rest(moved_mm) + shift)
    couch = _draw_couch(rng, _rest(body_mm)) if kind == "another" else None
    return Surroundings(to_ct, bool(kind == "elsewhere"), couch)


def _rest(body_mm: Points) -> Points:
    """The point where a body lies on its couch."""
    low, high = body_mm.min(0), body_mm.max(0)
    return np.array([(low[0] + high[0]) / 2, high[1], (low[2] + high[2]) / 2])


def _draw_couch(rng: np.random.Generator, rest_mm: Points) -> Couch:
    return Couch(
        middle_mm=float(rest_mm[0] + rng.normal(0, 10)),
        top_mm=float(rest_mm[1] + rng.uniform(2, 12)),
        half_width_mm=float(rng.uniform(200, 265)),
        thickness_mm=float(rng.uniform(15, 45)),
        rise_mm=float(rng.choice([0.0, rng.uniform(10, 60)])),
        shell_mm=float(rng.uniform(1.5, 4)),
        shell_hu=float(rng.uniform(-350, 60)),
        core_hu=float(rng.uniform(-980, -880)),
    )


def body_mask(hu: NDArray, grid_mm: float) -> NDArray[np.bool_]:
    """The body with a rim of one voxel about its skin, in a CT (D, H, W) of some 4 mm.

    A first opening takes off thin couches and leaves chest walls, a second one, after the lungs are
    filled, what bridges couch and body; the skin that both round off is grown back.
    """
    tissue = hu > -350
    reach = max(1, round(8.0 / grid_mm))
    solid = _opened(_filled(_opened(tissue, max(1, reach // 2))), reach)
    labels, count = ndimage.label(solid)
    if not count:
        return np.zeros(hu.shape, bool)
    body = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    body = _filled(ndimage.binary_dilation(body, iterations=reach, mask=body | tissue))
    body = ndimage.binary_dilation(body)
    around = hu[~body]
    # A crop within the chest is open to lung, not to air: all of it is body.
    lung_like = np.count_nonzero((around > -950) & (around < -600))
    return body | (lung_like > MOST_LUNG_LIKE * len(around))


def _opened(mask: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """Binary opening that leaves the faces of the CT alone."""
    padded = ndimage.binary_opening(np.pad(mask, reach, mode="edge"), iterations=reach)
    return padded[reach:-reach, reach:-reach, reach:-reach]


def _filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.stack([ndimage.binary_fill_holes(plane) for plane in mask])
