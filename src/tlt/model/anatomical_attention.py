"""RAAM, the registration-based anatomical attention module (Section 3.2, Eq. 2).

G_s = T_aff(G_t) is the template lesion's Gaussian carried by the affine registration. Both images
are seen in the follow-up's frame (the template is resampled through T_aff), so G_s is the Gaussian
about the prior centre. M_A = O (x) G_s^T repeats one row for each of the L queries: it is kept as
that row, a bias for each key, which attention broadcasts.

M_A^T, on the search line, is constant along the keys of each query; softmax cancels it, so it is
not computed.
"""

from __future__ import annotations

from torch import Tensor

from tlt.model.sparse_selection import gaussian


def anatomical_key_bias(search_offsets_mm: Tensor, radius_mm: Tensor) -> Tensor:
    """M_A as a bias for each key, (Q, 1, 1, N): search tokens at offsets (Q, N, 3) from the prior.

    radius_mm (Q,) is the lesion's radius after the affine.
    """
    return gaussian(search_offsets_mm, radius_mm)[:, None, None]
