"""The cost of every displacement of every control point, by codes of MIND-SSC.

Source: Heinrich et al., *MRF-Based Deformable Registration and Ventilation Estimation of Lung CT*,
IEEE TMI 2013, Section III: dense displacement sampling. The Hamming distance is that of the MICCAI
2013 paper. Nothing else takes as long, hence machine code (numba).
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tlt.registration.mind import UNSEEN

# What a voxel costs that a scanner did not see: as much as unrelated tissue (measured 25 bits; the
# same tissue in both scans 9). Less would draw control points out of the view.
UNRELATED_BITS = 25


def displacement_costs(
    fixed: NDArray[np.int64],
    moving: NDArray[np.int64],
    cell: int,
    radius: int,
    step: int,
    stride: int,
) -> NDArray[np.float32]:
    """Mean Hamming distance (Z, Y, X, n, n, n) of each cell at n = 2 * radius + 1 shifts an axis.

    The codes (D, H, W) are cut into cells of ``cell`` voxels a side, the last ones padded; of each
    every ``stride``-th voxel counts along each axis. Shifts are ``step`` voxels apart, and go from
    a voxel of the fixed image to one of the moving image. `UNSEEN` marks what costs the same
    everywhere.
    """
    planes, rows, kept = (-(-size // cell) for size in fixed.shape)
    reach = radius * step
    behind = -(-2 * reach // cell)  # cells that the padding adds along an axis
    columns = kept + behind
    own = _by_phase(fixed, cell, (planes, rows, columns), 0)
    # one row more: the last one, shifted, runs over its end
    other = _by_phase(moving, cell, (planes + behind, rows + behind + 1, columns), reach)
    side = 2 * radius + 1
    costs = np.empty((planes, rows, kept, side, side, side), np.float32)
    _fill(own, other, cell, step, stride, columns, np.uint64(UNRELATED_BITS), costs)
    return costs


def _by_phase(
    words: NDArray[np.int64], cell: int, cells: tuple[int, int, int], before: int
) -> NDArray[np.uint64]:
    """Codes as (planes of voxels, phase of y, phase of x, cells of y times those of x).

    Voxels that are at the same place of their cells lie side by side, also after a shift.
    """
    depth, rows, columns = cells
    padding = [(before, n * cell - before - s) for n, s in zip(cells, words.shape, strict=True)]
    wide = np.pad(words, padding, constant_values=UNSEEN).view(np.uint64)
    apart = wide.reshape(depth * cell, rows, cell, columns, cell).transpose(0, 2, 4, 1, 3)
    return apart.reshape(depth * cell, cell, cell, rows * columns)


@njit(nogil=True, cache=True)
def _ones(word):
    """How many bits of a word are set; the compiler knows this as one instruction."""
    pairs = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    low = np.uint64(0x3333333333333333)
    fours = (pairs & low) + ((pairs >> np.uint64(2)) & low)
    bytes_ = (fours + (fours >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (bytes_ * np.uint64(0x0101010101010101)) >> np.uint64(56)


@njit(nogil=True, cache=True)
def _add_distances(own, other, unseen, total):
    """Add the Hamming distances of two rows of codes."""
    for k in range(own.size):
        a, b = own[k], other[k]
        total[k] += unseen if (a | b) >> np.uint64(63) else _ones(a ^ b)


@njit(nogil=True, cache=True)
def _fill(own, other, cell, step, stride, columns, unseen, costs):
    """Compute `displacement_costs`, all cells of a plane at a time."""
    planes, rows, kept, side = costs.shape[:4]
    total = np.empty(own.shape[3], np.uint64)
    share = np.float32(1.0 / len(range(0, cell, stride)) ** 3)
    for plane in range(planes):
        for shift in range(side**3):
            dz, dy, dx = shift // side**2, shift // side % side, shift % side
            total[:] = 0
            for z in range(plane * cell, (plane + 1) * cell, stride):
                for y in range(0, cell, stride):
                    over, there = divmod(y + dy * step, cell)
                    for x in range(0, cell, stride):
                        beside, here = divmod(x + dx * step, cell)
                        start = over * columns + beside
                        row = other[z + dz * step, there, here, start : start + total.size]
                        _add_distances(own[z, y, x], row, unseen, total)
            for line in range(rows):
                for column in range(kept):
                    value = np.float32(total[line * columns + column]) * share
                    costs[plane, line, column, dz, dy, dx] = value
