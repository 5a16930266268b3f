"""Training: one visible loop over simulated pairs, with a checkpoint that rebuilds its model alone.

Pair number i is made from the seed and i alone, so a run that is resumed sees the pairs that it
would have seen. What each term of the loss is for stands in `tlt.model.losses` and docs/method.md.
"""

from __future__ import annotations

import csv
import logging
import math
import os
import time
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from tlt.data.motion import MotionRange
from tlt.data.pairs import PairConfig, TrainingPair, draw_training_pair
from tlt.data.simulate import Anatomy
from tlt.errors import InputError, ModelError, UsageError
from tlt.model import losses
from tlt.model.network import TLT, Prediction, TokenMap
from tlt.model.presets import PRESETS, ModelConfig
from tlt.model.weights import load_weights, save_weights

log = logging.getLogger(__name__)

SOFT_TARGET_MM = 6.0


class LossWeights(BaseModel):
    """How much each term counts; the first two are the paper's (Eq. 4, Eq. 5)."""

    model_config = ConfigDict(extra="forbid")

    center: float = 0.1
    focal: float = 0.02
    token: float = 1.0
    contrast: float = 1.0


class TrainConfig(BaseModel):
    """A training run, as read from YAML.

    Attributes:
        preset: network to train.
        network: fields of `tlt.model.presets.ModelConfig` that differ from the preset's.
        data: folder of CTs to simulate from (files with a ``_label`` name are skipped).
        validation: folder of other patients' CTs, to choose the best weights by.
        output: where checkpoint, log and weights go.
        start: weights to start from; what they lack starts fresh.
        steps: optimiser steps; each sees ``accumulate`` pairs.
        learning_rate, warmup, clip: AdamW with a cosine schedule.
        motion: range of the displacement, keys as `tlt.data.motion.MotionRange`.
        ease_steps: the displacement grows to full size over these steps.
        freeze_norm_at: share of the run after which batch statistics no longer move.
        ema: decay of the averaged weights, which are what is saved.
    """

    model_config = ConfigDict(extra="forbid")

    preset: str = "compact"
    network: dict[str, Any] = {}
    data: Path
    validation: Path | None = None
    output: Path
    start: str | None = None
    steps: int = 10000
    accumulate: int = 2
    learning_rate: float = 6e-4
    weight_decay: float = 0.01
    warmup: int = 200
    clip: float = 1.0
    seed: int = 0
    queries: int = 8
    motion: MotionRange = MotionRange()
    ease_steps: int = 1500
    ease_from: float = 0.3
    freeze_norm_at: float = 0.7
    ema: float = 0.998
    loss: LossWeights = LossWeights()
    workers: int = 1
    validation_pairs: int = 24
    checkpoint_every: int = 100
    validate_every: int = 500
    bf16: bool = True


def read_config(path: Path) -> TrainConfig:
    """The configuration in a YAML file.

    Raises:
        InputError: unreadable; UsageError: a key or value that cannot be.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise InputError(
            f"{path}: cannot be read as YAML ({str(error).splitlines()[0]})"
        ) from error
    try:
        config = TrainConfig.model_validate(values or {})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{path}: {where}: {first['msg']}; see docs/training.md") from error
    if config.preset not in PRESETS:
        raise UsageError(f"{path}: preset '{config.preset}' is none of {', '.join(PRESETS)}")
    try:
        network_config(config)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    return config


def network_config(config: TrainConfig) -> ModelConfig:
    """The network that a configuration trains: its preset with what ``network`` changes.

    Raises:
        UsageError: a field that a network does not have, or a value that it cannot have.
    """
    fields = asdict(PRESETS[config.preset])
    unknown = sorted(set(config.network) - set(fields))
    if unknown:
        raise UsageError(f"network.{unknown[0]}: a network has {', '.join(fields)}")
    try:
        return TypeAdapter(ModelConfig).validate_python(fields | config.network)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"network.{where}: {first['msg']}; see docs/training.md") from error


class SimulatedPairs(Dataset):
    """Training pair i of a seed, from CTs in turn by chance; the same at every call."""

    def __init__(self, anatomies: list[Anatomy], config: TrainConfig, pairs: PairConfig) -> None:
        self.anatomies, self.config, self.pairs = anatomies, config, pairs

    def __len__(self) -> int:
        return self.config.steps * self.config.accumulate

    def __getitem__(self, index: int) -> TrainingPair:
        if get_worker_info() is not None:
            torch.set_num_threads(1)
        rng = np.random.default_rng((self.config.seed, index))
        anatomy = self.anatomies[rng.integers(len(self.anatomies))]
        done = index / self.config.accumulate / max(1, self.config.ease_steps)
        easing = self.config.ease_from + (1 - self.config.ease_from) * min(1.0, done)
        return draw_training_pair(rng, anatomy, self.pairs, easing)


def read_anatomies(folder: Path) -> list[Anatomy]:
    """The CTs of a folder, label files aside, ready to simulate from."""
    from tlt.io.images import ct_files, load_volume

    return [Anatomy(load_volume(path)) for path in ct_files(folder)]


def predict(network: TLT, pair: TrainingPair, bf16: bool) -> tuple[Prediction, TokenMap, TokenMap]:
    """The prediction for the pair's queries, and the token maps of template and search crop."""
    images = torch.stack([pair.template, pair.search]).contiguous(
        memory_format=torch.channels_last_3d
    )
    origins = (pair.template_origin_mm, pair.search_origin_mm)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        features = network.encode(images)
        template, search = (
            TokenMap(f, o, network.config.token_mm) for f, o in zip(features, origins, strict=True)
        )
        predicted = network(template, search, pair.centers_mm, pair.radius_mm)
    return predicted, template, search


def loss_terms(network: TLT, pair: TrainingPair, config: TrainConfig) -> dict[str, Tensor]:
    """Every term of the loss for one pair, not yet weighted."""
    predicted, template, search = predict(network, pair, config.bf16)
    positions = predicted.positions_mm
    labels = losses.gaussian_labels(positions, pair.truth_mm, pair.radius_mm)
    targets = losses.soft_targets(positions, pair.truth_mm, SOFT_TARGET_MM)
    terms = {
        "center": losses.center_loss(predicted.center_mm, pair.truth_mm),
        "focal": losses.focal_loss(predicted.logits, labels),
        "token": losses.token_cross_entropy(predicted.logits, targets),
    }
    if network.config.similarity:
        anchors = network.embedding(template.sample(pair.anchors_mm))
        with torch.autocast("cpu", torch.bfloat16, enabled=config.bf16):
            everywhere = network.embedding(search.tokens())
        everywhere_mm = search.positions_mm()[None]
        goal = losses.soft_targets(everywhere_mm, pair.anchors_truth_mm, SOFT_TARGET_MM)
        scores = losses.CONTRAST_SCALE * anchors @ everywhere.mT
        terms["contrast"] = losses.token_cross_entropy(scores, goal)
    return terms


def train(config: TrainConfig, resume: bool = False, report=None) -> Path:
    """Train and return the path of the weights; ``report(row)`` is called with each logged row.

    Raises:
        InputError: no data, or a loss that is no longer finite (the last checkpoint is kept).
        UsageError: the output holds another run, which would be lost.
    """
    torch.manual_seed(config.seed)
    checkpoint, start = config.output / "checkpoint.pt", 0
    if checkpoint.exists() and not resume:
        raise UsageError(
            f"{config.output}: holds a run; go on with --resume, or choose another output"
        )
    config.output.mkdir(parents=True, exist_ok=True)
    pairs = PairConfig(
        queries=config.queries,
        spacing_mm=network_config(config).spacing_mm,
        motion=config.motion,
    )
    dataset = SimulatedPairs(read_anatomies(config.data), config, pairs)
    for anatomy in dataset.anatomies:  # one that is too small is told now, not hours later
        draw_training_pair(np.random.default_rng(config.seed), anatomy, pairs)
    checks = validation_set(config, pairs)
    network = TLT(network_config(config)).to(memory_format=torch.channels_last_3d)  # type: ignore
    if config.start and not checkpoint.exists():
        start_from(network, config.start)
    average = deepcopy(network).eval()
    optimizer = torch.optim.AdamW(
        network.parameters(), config.learning_rate, weight_decay=config.weight_decay
    )
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    first = start * config.accumulate
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=range(first, len(dataset)),
        num_workers=config.workers,
        prefetch_factor=4 if config.workers else None,
    )
    stream, begun = iter(loader), time.monotonic()
    running: dict[str, float] = {}
    for step in range(start, config.steps):
        network.train()
        if step >= config.freeze_norm_at * config.steps:
            freeze_batch_norms(network)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * schedule(step, config)
        for _ in range(config.accumulate):
            pair = next(stream)
            terms = loss_terms(network, pair, config)
            total = sum(getattr(config.loss, name) * term for name, term in terms.items())
            (total / config.accumulate).backward()
            terms["prior"] = losses.center_loss(pair.centers_mm, pair.truth_mm)
            for name, value in terms.items():
                now = float(value.detach())
                running[name] = 0.98 * running.get(name, now) + 0.02 * now
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), config.clip)
        if not math.isfinite(float(norm)):
            raise InputError(
                f"the gradient is not finite at step {step}; {checkpoint} holds the last good "
                "state: lower learning_rate and go on with --resume"
            )
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        update_average(average, network, min(config.ema, (1 + step) / (10 + step)))
        done = step + 1
        if done % config.checkpoint_every == 0 or done == config.steps:
            row = {"step": done, "seconds": time.monotonic() - begun, **running}
            if checks and (done % config.validate_every == 0 or done == config.steps):
                row |= validate(average, checks, config.bf16)
            save_checkpoint(checkpoint, network, average, optimizer, done)
            write_row(config.output / "log.csv", row)
            save_weights(average, config.output / "weights.safetensors", {"steps": done})
            if report is not None:
                report(row)
    return config.output / "weights.safetensors"


def start_from(network: TLT, name: str) -> None:
    """Take over weights; what they lack stays as it is.

    Raises:
        ModelError: they are of another shape.
    """
    known = load_weights(name).network
    try:
        network.load_state_dict(known.state_dict(), strict=False)
    except RuntimeError as error:
        raise ModelError(
            f"start: {name} is a network '{known.config.name}' that does not fit "
            f"'{network.config.name}'; start from weights of the same preset"
        ) from error


def schedule(step: int, config: TrainConfig) -> float:
    """Share of the learning rate: linear warm-up, then half a cosine down to 2 %."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))


def freeze_batch_norms(network: torch.nn.Module) -> None:
    """Use the running statistics from here on, as inference does."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.eval()


@torch.no_grad()
def update_average(average: torch.nn.Module, network: torch.nn.Module, decay: float) -> None:
    """Move the averaged weights, and batch statistics, towards the network's."""
    for mean, now in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(now, 1 - decay)
        else:
            mean.copy_(now)


def validation_set(config: TrainConfig, pairs: PairConfig) -> list[TrainingPair]:
    """Fixed pairs of other patients at full difficulty."""
    if config.validation is None:
        return []
    anatomies = read_anatomies(config.validation)
    drawn: list[TrainingPair] = []
    for index in range(config.validation_pairs):
        rng = np.random.default_rng((10**6, index))
        try:
            drawn.append(draw_training_pair(rng, anatomies[index % len(anatomies)], pairs))
        except InputError as error:
            log.info("validation: %s", error)
    return drawn


@torch.no_grad()
def validate(network: TLT, pairs: list[TrainingPair], bf16: bool) -> dict[str, float]:
    """Mean errors in mm of the prior and of the network, and the share within 10 mm."""
    network.eval()
    prior, found = [], []
    for pair in pairs:
        center = predict(network, pair, bf16)[0].center_mm
        prior.append((pair.centers_mm - pair.truth_mm).norm(dim=1))
        found.append((center - pair.truth_mm).norm(dim=1))
    error = torch.cat(found)
    return {
        "val_prior_mm": float(torch.cat(prior).mean()),
        "val_mm": float(error.mean()),
        "val_median_mm": float(error.median()),
        "val_p95_mm": float(error.quantile(0.95)),
        "val_within_10mm": float((error <= 10).float().mean()),
    }


def save_checkpoint(path: Path, network, average, optimizer, step: int) -> None:
    """Write the state of a run, beside and renamed."""
    state = {
        "network": network.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
    }
    torch.save(state, path.with_suffix(".part"))
    os.replace(path.with_suffix(".part"), path)


def write_row(path: Path, row: dict[str, float]) -> None:
    """Append a row to the log; columns that a row lacks stay empty."""
    columns = ["step", "seconds", "prior", "center", "focal", "token", "contrast"]
    columns += ["val_prior_mm", "val_mm", "val_median_mm", "val_p95_mm", "val_within_10mm"]
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()})
