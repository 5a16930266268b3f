"""The last step of `tlt`: what the tissue about a lesion makes of the network's answer.

Tokens and patches vote in three rounds, each from what the one before found (`LocalMotion`). Many
lesions go through it at once; none depends on the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tlt.model.network import TLT, TokenMap
from tlt.systems.base import AlignedPair
from tlt.systems.local_motion import (
    CLOSER,
    FAR,
    LocalMotion,
    fit_local_motion,
    patch_matches,
    pooled,
)
from tlt.systems.patch import Texture
from tlt.systems.token_matching import embedding_map, token_matches


@dataclass(frozen=True, eq=False)
class LastStep:
    """Both images of a pair, as patches and as tokens see them.

    Attributes:
        template, search: for the patches.
        embedded: maps of embeddings of template and search; None without an embedding.
    """

    template: Texture
    search: Texture
    embedded: tuple[TokenMap, TokenMap] | None

    @staticmethod
    def of(pair: AlignedPair, network: TLT, template: TokenMap, search: TokenMap) -> LastStep:
        """The last step in a pair, from its images and its maps of features."""
        device = template.features.device
        images = Texture.of(pair.template, device), Texture.of(pair.search, device)
        if not network.config.similarity:
            return LastStep(*images, None)
        maps = embedding_map(network, template), embedding_map(network, search)
        return LastStep(*images, maps)

    def __call__(
        self, center_mm: Tensor, predicted_mm: Tensor, radius_mm: Tensor
    ) -> tuple[Tensor, list[dict[str, float]]]:
        """Places (Q, 3) of lesions in the search image, and how well the tissue agrees on each.

        center_mm (Q, 3) is where they lie in the template, predicted_mm (Q, 3) what the network
        says, radius_mm (Q,). Tokens are looked for about the prior: a network that errs must not
        lead them astray. The far patches look about what the tokens say, and are pooled with them.
        """
        predicted = LocalMotion.constant(center_mm, predicted_mm - center_mm)
        if self.embedded is None:
            far = patch_matches(self.template, self.search, predicted.still, FAR)
            motion = fit_local_motion(far, predicted, FAR.weighing)
        else:
            tokens = token_matches(*self.embedded, center_mm)
            first = fit_local_motion(tokens, predicted, FAR.weighing)
            far = patch_matches(self.template, self.search, first, FAR)
            motion = fit_local_motion(pooled(tokens, far, FAR.weighing), first, FAR.weighing)
        tissue_mm = motion.spread_mm
        for patches in CLOSER:
            patches = patches.beyond(radius_mm)
            matches = patch_matches(self.template, self.search, motion, patches)
            motion = fit_local_motion(matches, motion, patches.weighing)
        evidence = {
            "tissue_mm": tissue_mm,
            "patches_mm": motion.spread_mm,
            "pulled_mm": (motion.shift_mm - predicted.shift_mm).norm(dim=1),
            "correlation": matches.weight[:, 0].sqrt(),
        }
        columns = torch.stack(list(evidence.values()), 1)
        return motion.moved_mm, [dict(zip(evidence, row, strict=True)) for row in columns.tolist()]
