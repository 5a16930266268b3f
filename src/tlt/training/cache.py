"""Training pairs kept on disk: simulated once, seen by every network that is compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch

from tlt.data.pairs import TrainingPair
from tlt.errors import UsageError
from tlt.io.files import atomic_path, atomic_write

HU_FIELDS = ("template", "search")  # kept as whole numbers
UNREADABLE = (OSError, ValueError, KeyError, EOFError, BadZipFile)
SAME_HU, SAME_MM = 2.0, 0.1  # beyond rounding and another machine's arithmetic


class PairCache:
    """A folder with a file a pair, and ``recipe.json``, which says what the pairs are.

    A pair that is not there is made and kept; several processes may share the folder. HU are
    rounded, when a pair is made no less than when it is read: every network sees the same.

    Raises:
        UsageError: the folder holds pairs of another recipe.
    """

    def __init__(self, folder: Path, recipe: dict[str, Any]) -> None:
        self.folder = folder
        text, path = (
            json.dumps(recipe, indent=1, sort_keys=True, default=str),
            folder / "recipe.json",
        )
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            atomic_write(path, text)
        elif path.read_text() != text:
            raise UsageError(
                f"cache: {folder} holds other pairs (recipe.json); choose another folder"
            )

    def check(self, make: Callable[[int], TrainingPair]) -> None:
        """Makes the first pair that is kept anew: pairs of another simulator are told at once.

        Raises:
            UsageError: it is another than the one kept.
        """
        kept = min(self.folder.glob("*.npz"), default=None)
        if kept is None:
            return
        try:
            known = _read(kept)
        except UNREADABLE:
            return  # cut short; it will be made again
        if not _same(known, make(int(kept.stem))):
            raise UsageError(
                f"cache: {self.folder} was made by another version of the simulator; "
                "choose another folder, or delete this one"
            )

    def pair(self, index: int, make: Callable[[int], TrainingPair]) -> TrainingPair:
        """Pair number ``index``; a file that was cut short is made again."""
        path = self.folder / f"{index:06d}.npz"
        try:
            return _read(path)
        except UNREADABLE:
            self._write(path, make(index))
            return _read(path)

    def _write(self, path: Path, pair: TrainingPair) -> None:
        values = {f.name: getattr(pair, f.name).numpy() for f in fields(pair)}
        values |= {name: np.rint(values[name]).astype(np.int16) for name in HU_FIELDS}
        with atomic_path(path) as beside:
            np.savez(beside, **values)


def _read(path: Path) -> TrainingPair:
    with np.load(path) as kept:
        values = {f.name: kept[f.name] for f in fields(TrainingPair)}
    values |= {name: values[name].astype(np.float32) for name in HU_FIELDS}
    return TrainingPair(**{name: torch.from_numpy(value) for name, value in values.items()})


def _same(one: TrainingPair, other: TrainingPair) -> bool:
    """Whether two pairs are of one simulator; a few voxels may differ, at the edge of a lesion."""
    for field in fields(TrainingPair):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if a.shape != b.shape:
            return False
        apart = (a.float() - b.float()).abs()
        limit = SAME_HU if field.name in HU_FIELDS else SAME_MM
        if apart.numel() and (apart > limit).float().mean() > 0.001:
            return False
    return True
