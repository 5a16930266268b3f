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


NETWORKS = {"vuld": "VULD", "lens": "LENS", "lesiongraph": "LesionGraph", "lesanet": "LesaNet"}
SOURCES = {
    "vuld": "Cai et al., MLMI 2020",
    "lens": "Yan et al., TMI 2021",
    "lesiongraph": "Yan et al., CVPR 2018",
    "lesanet": "Yan et al., CVPR 2019",
}


def _detect_and_match(detector: str, embedding: str) -> SystemInfo:
    """The tracker of a detector and an embedding, by the names of their families."""
    return SystemInfo(
        f"{detector}-{embedding}",
        f"lesions detected in the whole follow-up ({NETWORKS[detector]}), "
        f"the most similar one taken ({NETWORKS[embedding]})",
        SOURCES[detector] + "; " + SOURCES[embedding],
        "tlt.systems.detect_and_match:DetectAndMatch",
        {detector: f"{detector}-ct", embedding: f"{embedding}-ct"},
    )


TRACKERS = {
    info.name: info
    for info in (
        SystemInfo(
            "tlt",
            "cross-attention transformer on the affine prior, then the tissue about the lesion",
            "Tang et al., MICCAI 2022; last step: ours",
            "tlt.systems.tlt:TLTSystem",
            {"tlt": "tlt-ct"},
        ),
        SystemInfo(
            "tlt-network",
            "the network of tlt alone, without its last step",
            "Tang et al., MICCAI 2022",
            "tlt.systems.tlt:network_alone",
            {"tlt": "tlt-ct"},
        ),
        SystemInfo(
            "transt",
            "transformer tracking with a template of fixed size and no prior in its attention",
            "Chen et al., CVPR 2021, in 3D",
            "tlt.systems.network:NetworkSystem",
            {"transt": "transt-ct"},
        ),
        SystemInfo(
            "dlt",
            "correlation with a local and a flattened global kernel under anatomy signals",
            "Cai et al., CVPR 2021",
            "tlt.systems.network:NetworkSystem",
            {"dlt": "dlt-ct"},
        ),
        SystemInfo(
            "dlt-mix",
            "dlt, trained on augmentations of single scans, too",
            "Cai et al., CVPR 2021",
            "tlt.systems.network:NetworkSystem",
            {"dlt": "dlt-mix-ct"},
        ),
        SystemInfo(
            "siamrpn",
            "depth-wise correlation with the lesion's features, class and place for each token",
            "Li et al., CVPR 2019, in 3D",
            "tlt.systems.network:NetworkSystem",
            {"siamrpn": "siamrpn-ct"},
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
            "deeds",
            "dense displacement search over the whole common field of view, from the affine prior",
            "Heinrich et al., IEEE TMI 2013, deedsBCV",
            "tlt.systems.deeds:DeedsSystem",
        ),
        SystemInfo(
            "voxelmorph",
            "a U-Net that gives the displacement of the whole common field of view at once",
            "Balakrishnan et al., CVPR 2018",
            "tlt.systems.voxelmorph:VoxelMorphSystem",
            {"voxelmorph": "voxelmorph-ct"},
        ),
        SystemInfo(
            "affine",
            "affine registration alone: where the prior puts the lesion",
            "L1 affine of the paper's RAAM",
            "tlt.systems.affine:AffineSystem",
        ),
        _detect_and_match("lens", "lesiongraph"),
        _detect_and_match("vuld", "lesiongraph"),
        _detect_and_match("lens", "lesanet"),
        _detect_and_match("vuld", "lesanet"),
    )
}


def unknown_tracker(name: str) -> UsageError:
    """What is said of a tracker that is none."""
    return UsageError(f"--tracker {name}: unknown; use one of {' '.join(TRACKERS)}")
