"""All shifts of one scan over another at once: masked normalised cross-correlation by FFT.

Source: Padfield, Masked object registration in the Fourier domain, IEEE TIP 2012. What differs:
correlation counts less where the scans overlap little.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import fft

from tlt.geometry import AffineTransform
from tlt.registration.pyramid import Level

OVERLAP_COST = 0.5  # 1 - correlation counts (voxels / common voxels) to this power dearer
LEAST_OVERLAP = 0.05  # of the smaller scan


def best_shifts(
    fixed: Level, moving: Level, turn: NDArray[np.float64], count: int
) -> list[tuple[float, AffineTransform]]:
    """The least cost and a turn with its shift, best first; each is better than those beside it.

    ``turn`` is a diagonal of ones and minus ones (3, 3); both levels have one spacing. Empty when
    the scans have nothing in common.
    """
    flipped = [2 - axis for axis in range(3) if turn[axis, axis] < 0]  # axes of (z, y, x)
    image, seen = (torch.flip(part, flipped).numpy() for part in (moving.image, moving.valid))
    cost = cost_of_shifts(fixed.image.numpy(), fixed.near_body.numpy(), image, seen)
    lowest = -F.max_pool3d(-torch.from_numpy(cost)[None], 3, 1, 1)[0].numpy()
    places = np.argwhere((cost == lowest) & np.isfinite(cost))
    places = places[np.argsort(cost[tuple(places.T)], kind="stable")][:count]
    # where in the moving scan the first voxel of the fixed one comes to lie
    index = places - np.array(fixed.image.shape) + 1
    index[:, flipped] = np.array(moving.image.shape)[flipped] - 1 - index[:, flipped]
    first = turn @ fixed.grid.index_to_mm(np.zeros(3))
    return [
        (float(cost[tuple(place)]), AffineTransform(turn, shift))
        for place, shift in zip(places, moving.grid.index_to_mm(index) - first, strict=True)
    ]


def cost_of_shifts(
    fixed: NDArray, fixed_mask: NDArray, moving: NDArray, moving_mask: NDArray
) -> NDArray[np.float32]:
    """(1 - correlation) times the price of a small overlap, for each shift (D, H, W).

    Entry ``shape of fixed - 1`` is no shift; infinite where the scans have little in common.
    """
    shape = np.array(fixed.shape) + moving.shape - 1
    fast = [fft.next_fast_len(int(n), real=True) for n in shape]
    whole = tuple(slice(n) for n in shape)

    def spectra(image: NDArray, mask: NDArray) -> list[NDArray]:
        mean = image[mask].mean() if mask.any() else 0.0
        masked = np.where(mask, image - mean, 0).astype(np.float32)
        return [fft.rfftn(part, fast) for part in (mask.astype(np.float32), masked, masked**2)]

    f, m = (
        spectra(fixed[::-1, ::-1, ::-1], fixed_mask[::-1, ::-1, ::-1]),
        spectra(moving, moving_mask),
    )

    def sums(i: int, j: int) -> NDArray:
        return fft.irfftn(f[i] * m[j], fast)[whole]

    common = np.maximum(sums(0, 0), 0.5)
    ours, theirs = sums(1, 0), sums(0, 1)
    our_power = sums(2, 0) - ours**2 / common
    their_power = sums(0, 2) - theirs**2 / common
    power = np.sqrt(np.maximum(our_power, 0) * np.maximum(their_power, 0))
    correlation = (sums(1, 1) - ours * theirs / common) / np.maximum(power, 1e-3 * common)
    total = min(fixed_mask.sum(), moving_mask.sum())
    cost = (1 - correlation) * np.maximum(total / common, 1.0) ** OVERLAP_COST
    return np.where(common < max(8, LEAST_OVERLAP * total), np.inf, cost).astype(np.float32)
