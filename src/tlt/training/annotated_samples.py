"""DeepLesion's annotated sub-volumes as training pairs, each read when it is asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from tlt.data.annotated import AnnotatedPair, cut_annotated_pair
from tlt.data.deeplesion import Annotation, read_annotations
from tlt.data.pairs import PairConfig
from tlt.errors import InputError, TltError
from tlt.io.images import load_volume
from tlt.training.config import Annotated
from tlt.volume import Volume

log = logging.getLogger(__name__)

KEPT_VOLUMES = 8

Kept = TypeVar("Kept")


def kept(store: dict[int, Kept], key: int, make: Callable[[], Kept], limit: int) -> Kept:
    """``store[key]``, made if it is not there; the oldest goes when there are too many."""
    if key not in store:
        if len(store) >= limit:
            store.pop(next(iter(store)))
        store[key] = make()
    return store[key]


class AnnotatedVolumes:
    """The sub-volumes of one split of ``DL_info.csv`` that are there.

    Raises:
        InputError: the table cannot be read, or none of the split's sub-volumes is there.
    """

    def __init__(self, source: Annotated, split: int) -> None:
        self.source = source
        groups: dict[str, list[Annotation]] = {}
        for one in read_annotations(source.info):
            if one.split == split:
                groups.setdefault(one.volume, []).append(one)
        self.groups = [g for name, g in groups.items() if (source.images / name).is_file()]
        self._volumes: dict[int, Volume] = {}
        if not self.groups:
            raise InputError(
                f"{source.images}: none of {len(groups)} sub-volumes of split {split} is here; "
                "make them with 'tlt convert deeplesion'"
            )

    def __len__(self) -> int:
        return len(self.groups)

    def draw(self, rng: np.random.Generator, config: PairConfig) -> AnnotatedPair | None:
        """Two views of one sub-volume; None, and a line in the log, when it teaches nothing."""
        index = int(rng.integers(len(self)))
        known = self.groups[index]
        path = self.source.images / known[0].volume
        try:
            volume = kept(self._volumes, index, lambda: load_volume(path), KEPT_VOLUMES)
        except TltError as error:
            log.info("left out: %s", error)
            return None
        inside = volume.grid.contains(np.array([one.center_mm for one in known]))
        known = [one for one, there in zip(known, inside, strict=True) if there]
        return cut_annotated_pair(rng, volume, known, config) if known else None
