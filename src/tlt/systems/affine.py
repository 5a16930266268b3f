"""The affine registration alone (Table 1, "Affine"): each lesion stays at its prior.

Source: the prior of TLT's RAAM (Eq. 2), for which the paper uses elastix (its ref. 15).
Departure: `tlt.registration`, our own, minimises the same L1 difference.
"""

from __future__ import annotations

from tlt.systems.base import AlignedPair, Location, Progress


class AffineSystem:
    """Answers with the prior; its confidence rests on the registration's similarity."""

    name = "affine"
    model_name: str | None = None
    weights_sha256: str | None = None
    spacing_mm = 4.0
    margin_mm = 8.0

    def locate(self, pair: AlignedPair, progress: Progress | None = None) -> list[Location]:
        """The priors."""
        return [Location(point) for point in pair.prior_mm]
