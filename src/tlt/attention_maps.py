"""Where the network looks (paper, Figure S1): the attention of a real forward pass.

The paper's figure shows both lines, each level of cross-attention and the last one before the
output. Here the template line (lesion tokens that look at search tokens) is drawn over the
follow-up, and the last cross-attention of the search line over the baseline.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tlt.errors import UsageError
from tlt.geometry import Grid, Points
from tlt.lesion import Lesion
from tlt.model.anatomical_attention import anatomical_key_bias
from tlt.model.cross_attention import Attention
from tlt.model.network import TLT, TokenMap
from tlt.model.weights import load_weights
from tlt.registration.result import Registration
from tlt.systems.base import align
from tlt.systems.tlt import TLTSystem
from tlt.track import FOV_TOLERANCE_MM, near_field_of_view, register_pair
from tlt.volume import Volume

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class AttentionMaps:
    """What the network looks at for one lesion; every map sums to 1 over its tokens.

    Attributes:
        layers: (layers, N), cross-attention of the lesion's tokens to the search tokens, a mean
            over heads and selected tokens.
        scores: (N,), softmax of the class logits, with which global regression weighs.
        bias: (N,), what RAAM adds to the logits of the attention (no map: it does not sum to 1);
            None without RAAM.
        search_mm: (N, 3) where the search tokens lie.
        template: (L,), last cross-attention of the search tokens to the lesion's tokens, a mean
            over heads, and over search tokens by their score.
        template_mm: (L, 3) where the selected template tokens lie.
        prior_mm, center_mm: (3,) where registration, and where the network puts the lesion.
        token_mm: distance of neighbouring tokens.
    """

    layers: NDArray[np.float64]
    scores: NDArray[np.float64]
    bias: NDArray[np.float64] | None
    search_mm: Points
    template: NDArray[np.float64]
    template_mm: Points
    prior_mm: Points
    center_mm: Points
    token_mm: float

    def share_near(self, weights: NDArray[np.float64], point_mm: Points, reach_mm: float) -> float:
        """The share of a map over the search tokens that lies within a reach of a point."""
        near = np.linalg.norm(self.search_mm - point_mm, axis=1) <= reach_mm
        return float(weights[near].sum())


@contextmanager
def kept_attention(network: TLT) -> Iterator[dict[str, list[Tensor]]]:
    """The attention maps of every forward pass in the block, by the module's name."""
    modules = {n: m for n, m in network.named_modules() if isinstance(m, Attention)}
    kept: dict[str, list[Tensor]] = {name: [] for name in modules}
    for name, module in modules.items():
        module.maps = kept[name]
    try:
        yield kept
    finally:
        for module in modules.values():
            module.maps = None


@torch.inference_mode()
def attention_maps(
    network: TLT,
    template: TokenMap,
    search: TokenMap,
    prior_mm: Sequence[float],
    radius_mm: float,
    raam: bool = True,
) -> AttentionMaps:
    """The maps of one lesion; without ``raam`` its bias is left out, the weights stay the same."""
    config = network.config
    center = torch.as_tensor(np.asarray(prior_mm, np.float32))[None]
    radius = torch.tensor([float(radius_mm)])
    network.config = replace(config, raam=config.raam and raam)
    try:
        with kept_attention(network) as kept:
            predicted = network(template, search, center, radius)
        chosen = network.select(template, center, radius)
    finally:
        network.config = config
    valid, scores = chosen.valid[0], predicted.logits[0].softmax(-1)
    cross = [
        kept[f"transformer.layers.{i}.template_cross.attention"][0][0].mean(0)[valid].mean(0)
        for i in range(config.layers)
    ]
    last = kept["transformer.last.attention"][0][0].mean(0)  # N, L
    return AttentionMaps(
        layers=torch.stack(cross).double().numpy(),
        scores=scores.double().numpy(),
        bias=_bias(predicted.positions_mm - center, radius) if config.raam and raam else None,
        search_mm=predicted.positions_mm[0].double().numpy(),
        template=(scores @ last.float())[valid].double().numpy(),
        template_mm=(center + chosen.offsets_mm[0][valid]).double().numpy(),
        prior_mm=center[0].double().numpy(),
        center_mm=predicted.center_mm[0].double().numpy(),
        token_mm=config.token_mm,
    )


def _bias(offsets_mm: Tensor, radius_mm: Tensor) -> NDArray[np.float64]:
    return anatomical_key_bias(offsets_mm, radius_mm).flatten().double().numpy()


def as_volume(weights: NDArray[np.float64], positions_mm: Points, token_mm: float) -> Volume:
    """A map as a volume on the tokens' lattice, zero where there is no token."""
    low = positions_mm.min(0) - token_mm
    grid = Grid.covering(low, positions_mm.max(0) + token_mm, token_mm)
    voxels = np.zeros(grid.shape_zyx, np.float32)
    # Seen through a rotation, two tokens may share a voxel.
    np.add.at(voxels, tuple(np.rint(grid.mm_to_index(positions_mm)).astype(int).T), weights)
    return Volume(voxels, grid)


def draw_attention(
    baseline: Path,
    lesions: Path,
    followup: Path,
    output: Path,
    only: Sequence[str] | None = None,
    model: str | None = None,
) -> Iterator[Path]:
    """The PNG of each lesion, as soon as it is written; ``only`` names some.

    Raises:
        UsageError: a lesion that is not in the file, or out of the follow-up's view.
        InputError: the output cannot be written (told first), or an input not be read.
    """
    from tlt.attention_pictures import draw_maps
    from tlt.io.files import atomic_write
    from tlt.io.images import load_volume
    from tlt.io.lesions import read_lesions
    from tlt.io.output import check_writable
    from tlt.io.pictures import file_name

    check_writable(output)
    system = TLTSystem(load_weights(model or "tlt-ct"), refine=False)
    before, after = load_volume(baseline), load_volume(followup)
    known = {lesion.id: lesion for lesion in read_lesions(lesions, before)}
    missing = [name for name in only or () if name not in known]
    if missing:
        raise UsageError(f"--lesion {missing[0]}: {lesions} has {', '.join(known)}")
    registration = register_pair(before, after)
    taken: set[str] = set()
    for lesion in [known[name] for name in only] if only else known.values():
        try:
            with_raam, without = lesion_maps(system, before, after, lesion, registration)
        except UsageError as error:
            if only:
                raise
            log.warning("%s", error)
            continue
        png = draw_maps(before, after, lesion, with_raam, without, registration)
        path = output / file_name(lesion.id, None, taken, "attention")
        atomic_write(path, png)
        yield path


def lesion_maps(
    system: TLTSystem,
    baseline: Volume,
    followup: Volume,
    lesion: Lesion,
    registration: Registration,
) -> tuple[AttentionMaps, AttentionMaps]:
    """The maps of a lesion with RAAM, and by the same weights without it.

    Raises:
        UsageError: it is out of the follow-up's view.
    """
    prior = registration.baseline_to_followup(np.array([lesion.center_mm]))
    if not near_field_of_view(followup, prior, FOV_TOLERANCE_MM)[0]:
        raise UsageError(
            f"lesion {lesion.id} is outside the field of view of the follow-up; choose others "
            "with --lesion"
        )
    pair = align(baseline, followup, [lesion], registration, system.spacing_mm, system.margin_mm)
    with torch.inference_mode():
        template, search = system.token_maps(pair)
    place = (template, search, pair.prior_mm[0], float(pair.radius_mm[0]))
    return attention_maps(system.network, *place), attention_maps(
        system.network, *place, raam=False
    )
