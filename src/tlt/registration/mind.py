"""MIND-SSC: what a place looks like, told by how its neighbours resemble one another.

Source: Heinrich et al., *Towards Realtime Multimodal Fusion for Image-Guided Interventions Using
Self-similarities*, MICCAI 2013, Section 2: patch distances of the twelve pairs of the six
neighbours that lie at right angles, over their own mean, made binary for the Hamming distance. Box
filters as patches, the subtraction of the least distance and the code are those of deedsBCV.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from numba import njit
from torch import Tensor

CHANNELS = 12
LEVELS = 6  # of similarity; n of them take n - 1 bits
UNSEEN = -(2**63)  # the topmost bit, which no code uses
REACH = 3  # steps: to a neighbour, to its neighbour, and half a patch
SLAB = 16  # planes at a time: what they need stays in the cache
LEAST_SPREAD = 1e-6


def mind_ssc(image: Tensor, step: int) -> Tensor:
    """Descriptors (12, D, H, W) in [0, 1] of an image (D, H, W); 1 for the pair most alike.

    A linear change of the intensities leaves them as they are. ``step`` is the distance of the six
    neighbours in voxels, and half the side of their patches; beyond the border the image repeats.
    """
    return _descriptors(_padded(image, step), step)


def codes(image: Tensor, step: int) -> Tensor:
    """`mind_ssc` of an image (D, H, W) in 60 bits a voxel: int64 (D, H, W).

    Each channel is rounded to one of six levels, and level n is written as n ones: the number of
    bits in which two codes differ is the L1 distance of their levels.
    """
    wide, reach = _padded(image, step), REACH * step
    words = torch.empty(image.shape, dtype=torch.int64)
    for low in range(0, len(image), SLAB):
        high = min(low + SLAB, len(image))
        slab = _descriptors(wide[low : high + 2 * reach], step)
        _pack(slab.flatten(1).numpy(), words[low:high].flatten().numpy())
    return words


def _padded(image: Tensor, step: int) -> Tensor:
    return F.pad(image[None, None], (REACH * step,) * 6, "replicate")[0, 0]


def _descriptors(wide: Tensor, step: int) -> Tensor:
    """MIND-SSC of what lies `REACH` steps or more within the border of an image."""
    distances = torch.stack(_pair_distances(wide, step))
    distances -= distances.amin(0)
    spread = distances.mean(0).clamp_(min=LEAST_SPREAD)
    return distances.div_(spread).neg_().exp_()


@njit(nogil=True, cache=True)
def _pack(descriptors, words):
    """Write the codes (N,) of descriptors (12, N)."""
    words[:] = 0
    for channel in range(CHANNELS):
        for k in range(len(words)):
            level = min(max(LEVELS * descriptors[channel, k] - 0.5, 0), LEVELS - 1)
            words[k] |= ((1 << int(level)) - 1) << (LEVELS - 1) * channel


def _pair_distances(wide: Tensor, step: int) -> list[Tensor]:
    """Mean squared differences of the patches of each pair, of an image padded by 3 steps.

    The pairs (+i, +-j) and (-+j, -i) differ by the same vector: their distances are one image of
    differences, seen from two places.
    """
    found = []
    for i, j in ((0, 1), (0, 2), (1, 2)):
        for sign in (1, -1):
            first, second = _unit(i, step), _unit(j, sign * step)
            apart = [b - a for a, b in zip(first, second, strict=True)]
            difference = _moved(wide, (0, 0, 0), step) - _moved(wide, apart, step)
            patches = _box_mean(difference.square_(), step)
            found += [_moved(patches, start, step) for start in (first, [-s for s in second])]
    return found


def _unit(axis: int, length: int) -> list[int]:
    return [length if a == axis else 0 for a in range(3)]


def _moved(image: Tensor, offset, margin: int) -> Tensor:
    """The image at voxels + offset, for those that lie ``margin`` within its border."""
    cut = [slice(margin + o, n - margin + o) for o, n in zip(offset, image.shape, strict=True)]
    return image[tuple(cut)]


def _box_mean(image: Tensor, radius: int) -> Tensor:
    """Means over cubes of 2 * radius + 1 voxels, for those that lie within the image."""
    side = 2 * radius + 1
    for axis in range(3):
        count = image.shape[axis] - side + 1
        total = image.narrow(axis, 0, count).clone()
        for k in range(1, side):
            total += image.narrow(axis, k, count)
        image = total
    return image / side**3
