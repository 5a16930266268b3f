"""Training pair number i, made from the seed and i alone: a resumed run sees what it would have.

Pairs are simulated from CTs, cut from marked pairs, or mixed; see `TrainingPairs`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from tlt.data.deeplesion import TRAINING, VALIDATION
from tlt.data.dls import read_dls
from tlt.data.followup import Study
from tlt.data.known import known_lesions
from tlt.data.marked import cut_marked_pair, dls_groups, dls_study, folder_study, pair_folders
from tlt.data.pairs import PairConfig, TrainingPair, draw_training_pair
from tlt.data.simulate import Anatomy
from tlt.errors import InputError, TltError, UsageError
from tlt.io.images import ct_files, ct_name, load_volume
from tlt.registration.affine import register_affine
from tlt.registration.result import Registration
from tlt.training.annotated_samples import AnnotatedVolumes, kept
from tlt.training.cache import PairCache
from tlt.training.config import Marked, TrainConfig

log = logging.getLogger(__name__)

KEPT_PAIRS = 4  # pairs of CTs that a process keeps in memory
CHECKED = 32  # CTs that are tried before training starts, and then kept
TRIES = 20  # pairs that may fail in a row
VALIDATION_SEED = 10**6


class Anatomies:
    """The CTs of a folder, label files aside, with their known lesions; read when asked for."""

    def __init__(self, folder: Path) -> None:
        self.paths = ct_files(folder)
        known = known_lesions(folder)
        self.lesions = {name: known.get(name, []) for name in map(ct_name, self.paths)}
        self._read: dict[int, Anatomy] = {}

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Anatomy:
        return kept(self._read, index, lambda: self._anatomy(self.paths[index]), CHECKED)

    def _anatomy(self, path: Path) -> Anatomy:
        return Anatomy(load_volume(path), self.lesions[ct_name(path)])


class MarkedStudies:
    """Pairs with marked lesions and their registrations, made when one is asked for."""

    def __init__(self, source: Marked) -> None:
        self.source = source
        self._studies: dict[int, Study] = {}
        self._registrations: dict[int, Registration] = {}
        self._places: list = []  # folders, or groups of DLS
        if not source.pairs.exists():
            raise InputError(f"{source.pairs}: no such file or folder; check the path")
        if source.pairs.is_dir():
            self._places = pair_folders(source.pairs)
        elif source.images is None:
            raise UsageError(f"{source.pairs}: a list of DLS needs the key images, its sub-volumes")
        else:
            self._places = dls_groups(read_dls(source.pairs), source.images)

    def __len__(self) -> int:
        return len(self._places)

    def study(self, index: int) -> Study:
        """Pair number ``index``."""
        place, images = self._places[index], self.source.images
        if isinstance(place, Path):
            return kept(self._studies, index, lambda: folder_study(place), KEPT_PAIRS)
        assert images is not None  # a list of DLS has them
        return kept(self._studies, index, lambda: dls_study(place, images), KEPT_PAIRS)

    def registration(self, index: int) -> Registration:
        """The affine prior of pair number ``index``."""
        study = self.study(index)
        return kept(
            self._registrations,
            index,
            lambda: register_affine(study.baseline, study.followup),
            len(self),
        )

    def draw(self, rng: np.random.Generator, config: PairConfig) -> TrainingPair | None:
        """Crops of one pair; None, and a line in the log, when it has nothing to learn from."""
        index = int(rng.integers(len(self)))
        try:
            study, registration = self.study(index), self.registration(index)
        except TltError as error:
            log.info("left out: %s", error)
            return None
        if not registration.same_region:
            log.info("left out: pair %d cannot be registered", index)
            return None
        return cut_marked_pair(rng, study, registration, config)


class TrainingPairs(Dataset):
    """All pairs of a run, over all its processes; the same at every call.

    Raises:
        InputError: no data, or a CT that is too small to train from (told now, not hours later).
        UsageError: the cache holds other pairs.
    """

    def __init__(self, config: TrainConfig, processes: int = 1) -> None:
        self.config, self.cut = config, config.cut
        self.pairs_a_step = config.accumulate * processes
        self.anatomies, self.marked = _opened(config, "data", "marked")
        self.cache = (
            None if config.cache is None else PairCache(config.cache, _recipe(config, self))
        )
        self.annotated = (
            None if config.deeplesion is None else AnnotatedVolumes(config.deeplesion, TRAINING)
        )
        if self.anatomies is not None and len(self.anatomies) <= CHECKED:
            for index in range(len(self.anatomies)):
                draw_training_pair(
                    np.random.default_rng(config.seed), self.anatomies[index], self.cut
                )
        if self.cache is not None:
            self.cache.check(self._make)

    def __len__(self) -> int:
        return self.config.steps * self.pairs_a_step

    def __getitem__(self, index: int) -> TrainingPair:
        if get_worker_info() is not None:
            torch.set_num_threads(1)
        augmented = self._is_augmented(index)
        if augmented or self.cache is None:  # the cache holds none of the first
            return self._make(index, augmented)
        return self.cache.pair(index, self._make)

    def _is_augmented(self, index: int) -> bool:
        """Whether pair number ``index`` is self-supervised; drawn apart, so that others stay."""
        share = self.config.augmented_share
        return share > 0 and np.random.default_rng((self.config.seed, index, 1)).random() < share

    def _make(self, index: int, augmented: bool = False) -> TrainingPair:
        """Pair number ``index``, from the data."""
        rng = np.random.default_rng((self.config.seed, index))
        done = index / self.pairs_a_step / max(1, self.config.ease_steps)
        easing = self.config.ease_from + (1 - self.config.ease_from) * min(1.0, done)
        for _ in range(TRIES):
            pair = self._draw(rng, easing, augmented)
            if pair is not None:
                return pair
        raise InputError("twenty pairs in a row had nothing to learn from; see the log with -v")

    def _draw(
        self, rng: np.random.Generator, easing: float, augmented: bool
    ) -> TrainingPair | None:
        others = [source for source in (self.annotated, self.marked) if source is not None]
        for source in [] if augmented else others:
            last = self.anatomies is None and source is others[-1]
            if last or rng.random() < self.config.marked_share:
                return source.draw(rng, self.cut)
        assert self.anatomies is not None  # the configuration has one of the two
        anatomy = self.anatomies[int(rng.integers(len(self.anatomies)))]
        return _simulated(rng, anatomy, self.cut, easing, augmented)


def _recipe(config: TrainConfig, pairs: TrainingPairs) -> dict[str, Any]:
    """All that decides what pair number i is."""
    named = ("seed", "data", "marked", "marked_share", "ease_steps", "ease_from")
    values = config.model_dump(mode="json", include=set(named))
    lesions = {} if pairs.anatomies is None else pairs.anatomies.lesions
    return {
        **values,
        "pairs": asdict(config.cut),
        "pairs_a_step": pairs.pairs_a_step,
        "known_lesions": {
            name: [(*lesion.center_mm, lesion.radius_mm) for lesion in known]
            for name, known in lesions.items()
        },
    }


def _opened(
    config: TrainConfig, data: str, marked: str
) -> tuple[Anatomies | None, MarkedStudies | None]:
    """CTs to simulate from, and marked pairs, as far as these keys of a configuration give them.

    Raises what the two do; the message names the key and the whole path.
    """
    folder, pairs = getattr(config, data), getattr(config, marked)
    with _named(data):
        anatomies = None if folder is None else Anatomies(folder.resolve())
    with _named(marked):
        return anatomies, None if pairs is None else MarkedStudies(_resolved(pairs))


def _resolved(source: Marked) -> Marked:
    images = None if source.images is None else source.images.resolve()
    return Marked(pairs=source.pairs.resolve(), images=images)


@contextmanager
def _named(key: str) -> Iterator[None]:
    """Errors of the block begin with the key that they are about."""
    try:
        yield
    except TltError as error:
        raise type(error)(f"{key}: {error}") from error


def _simulated(
    rng: np.random.Generator,
    anatomy: Anatomy,
    cut: PairConfig,
    easing: float = 1.0,
    augmented: bool = False,
) -> TrainingPair | None:
    """A simulated pair; None, and a line in the log, when chance left nothing to learn from."""
    try:
        return draw_training_pair(rng, anatomy, cut, easing, augmented)
    except (InputError, ArithmeticError) as error:
        log.info("left out: %s", error)
        return None


def validation_set(config: TrainConfig) -> list[TrainingPair]:
    """Fixed pairs of other patients at full difficulty, half of them marked where both are given.

    With DeepLesion and no other validation they are of its validation split.

    Raises:
        InputError: not one could be made.
    """
    anatomies, marked = _opened(config, "validation", "validation_marked")
    annotated = None
    if anatomies is None and marked is None:
        if config.deeplesion is None:
            return []
        annotated = AnnotatedVolumes(config.deeplesion, VALIDATION)
    cut, drawn = config.cut, []
    for index in range(config.validation_pairs):
        rng = np.random.default_rng((VALIDATION_SEED, index))
        pair: TrainingPair | None = None
        if annotated is not None:
            pair = annotated.draw(rng, cut)
        elif marked is not None and (anatomies is None or index % 2):
            pair = marked.draw(rng, cut)
        elif anatomies is not None:
            pair = _simulated(rng, anatomies[index % len(anatomies)], cut)
        if pair is not None:
            drawn.append(pair)
    if not drawn:
        raise InputError("no validation pair could be made; give larger CTs, or other pairs")
    return drawn
