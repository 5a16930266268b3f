"""The trackers that can be chosen with ``--tracker``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SystemInfo:
    """A line of ``tlt trackers``.

    Attributes:
        name: as in ``--tracker``.
        summary: what it does.
        source: where it comes from.
        learned: whether it needs weights.
    """

    name: str
    summary: str
    source: str
    learned: bool


TRACKERS = {
    info.name: info
    for info in (
        SystemInfo(
            "tlt",
            "cross-attention transformer on the affine prior, then the tissue about the lesion",
            "Tang et al., MICCAI 2022; the last step is ours",
            True,
        ),
        SystemInfo(
            "tlt-network",
            "the network of it alone",
            "Tang et al., MICCAI 2022",
            True,
        ),
        SystemInfo(
            "patch",
            "normalised cross-correlation of the lesion's patch around the affine prior",
            "classical",
            False,
        ),
        SystemInfo(
            "greedy",
            "deformable registration of the whole common field of view, from the affine prior",
            "Yushkevich et al., greedy",
            False,
        ),
        SystemInfo(
            "deeds",
            "dense displacement search over the whole common field of view, from the affine prior",
            "Heinrich et al., IEEE TMI 2013, deedsBCV",
            False,
        ),
        SystemInfo(
            "affine",
            "affine registration alone: where the prior puts the lesion",
            "L1 affine of the paper's RAAM",
            False,
        ),
    )
}
