"""The trackers that can be chosen with ``--tracker``."""

from __future__ import annotations

from dataclasses import dataclass, field

from tlt.errors import UsageError


@dataclass(frozen=True)
class SystemInfo:
    """A line of ``tlt trackers``.

    Attributes:
        name: as in ``--tracker``.
        summary: what it does.
        source: where it comes from.
        made_by: ``module:callable`` that gives the `tlt.systems.base.System`. What is learned is
            called with its models, device and bf16, everything else with nothing.
        weights: what it learned, by family of networks (`tlt.families`): the name of the weights.
    """

    name: str
    summary: str
    source: str
    made_by: str
    weights: dict[str, str] = field(default_factory=dict)

    @property
    def learned(self) -> bool:
        """Whether it needs weights."""
        return bool(self.weights)


TRACKERS = {
    info.name: info
    for info in (
        SystemInfo(
            "tlt",
            "cross-attention transformer on the affine prior, then the tissue about the lesion",
            "Tang et al., MICCAI 2022; the last step is ours",
            "tlt.systems.tlt:TLTSystem",
            {"tlt": "tlt-ct"},
        ),
        SystemInfo(
            "tlt-network",
            "the network of it alone",
            "Tang et al., MICCAI 2022",
            "tlt.systems.tlt:network_alone",
            {"tlt": "tlt-ct"},
        ),
        SystemInfo(
            "patch",
            "normalised cross-correlation of the lesion's patch around the affine prior",
            "classical",
            "tlt.systems.patch:PatchSystem",
        ),
        SystemInfo(
            "greedy",
            "deformable registration of the whole common field of view, from the affine prior",
            "Yushkevich et al., greedy",
            "tlt.systems.greedy:GreedySystem",
        ),
        SystemInfo(
            "affine",
            "affine registration alone: where the prior puts the lesion",
            "L1 affine of the paper's RAAM",
            "tlt.systems.affine:AffineSystem",
        ),
    )
}


def unknown_tracker(name: str) -> UsageError:
    """What is said of a tracker that is none."""
    return UsageError(f"--tracker {name}: unknown; use one of {' '.join(TRACKERS)}")
