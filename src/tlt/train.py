"""Training: one visible loop, with a checkpoint that rebuilds its model alone.

Accelerate gives the device, gradient accumulation and, under ``torchrun``, several processes. What
each term of the loss is for stands in `tlt.model.losses` and docs/method.md; where the pairs come
from in `tlt.training.samples`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from copy import deepcopy
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from filelock import FileLock, Timeout
from torch import nn
from torch.utils.data import DataLoader

from tlt.data.pairs import TrainingPair
from tlt.errors import InputError, ModelError, TltError, UsageError
from tlt.model import losses
from tlt.model.network import TLT
from tlt.model.weights import load_weights, save_weights
from tlt.training.config import TrainConfig
from tlt.training.log import RunLog
from tlt.training.objective import Objective, predict
from tlt.training.samples import TrainingPairs, validation_set
from tlt.training.state import RunState, random_state, update_average

if TYPE_CHECKING:
    from accelerate import Accelerator

SMOOTHING = 0.98  # of the logged terms
WAITING = timedelta(hours=3)  # of one process for another


def train(
    config: TrainConfig,
    resume: bool = False,
    report: Callable[[dict[str, float]], None] | None = None,
) -> Path:
    """Train and return the path of the weights; ``report(row)`` is called with each logged row.

    The weights are the averaged ones: the best by validation, or the last where there is none.

    Raises:
        InputError: no data, or a loss that is no longer finite (the last checkpoint is kept).
        UsageError: the output holds another run, which would be lost, or is in use.
        ModelError: accelerate is missing, or the weights to start from do not fit.
    """
    check_resumable(config.output, resume)
    accelerator = make_accelerator(config.accumulate)
    with the_only_run(config.output) if accelerator.is_main_process else nullcontext():
        return _train(config, accelerator, report)


def _train(
    config: TrainConfig,
    accelerator: Accelerator,
    report: Callable[[dict[str, float]], None] | None,
) -> Path:
    """The loop of `train`, from the checkpoint where there is one."""
    checkpoint, weights = config.output / "checkpoint.pt", config.output / "weights.safetensors"
    torch.manual_seed(config.seed)
    dataset = TrainingPairs(config, accelerator.num_processes)
    checks = validation_set(config) if accelerator.is_main_process else []
    network = TLT(config.model).to(memory_format=torch.channels_last_3d)  # type: ignore
    if config.start and not checkpoint.exists():
        start_from(network, config.start)
    average = deepcopy(network).eval().to(accelerator.device)
    objective = Objective(network, config.loss, config.bf16).to(accelerator.device)
    optimizer = torch.optim.AdamW(
        network.parameters(), config.learning_rate, weight_decay=config.weight_decay
    )
    state = RunState(network, average, optimizer)
    if checkpoint.exists():
        state.load(checkpoint, accelerator.process_index)
    else:
        torch.manual_seed(config.seed + accelerator.process_index)  # each its own dropout
    objective, prepared = accelerator.prepare(objective, optimizer)
    log = RunLog(config.output, state.step) if accelerator.is_main_process else None
    stream = pairs_of(dataset, config, state.step, accelerator)
    begun = time.monotonic() - state.seconds
    with closing(log) if log is not None else nullcontext():
        for step in range(state.step, config.steps):
            network.train()
            if step >= config.freeze_norm_at * config.steps:
                freeze_batch_norms(network)
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * schedule(step, config)
            norm = accumulate_gradients(accelerator, objective, stream, config, state.running)
            if not math.isfinite(norm):
                kept = f"{checkpoint} holds the last good state: " if checkpoint.exists() else ""
                raise InputError(
                    f"loss or gradient is not finite at step {step}; {kept}"
                    "lower learning_rate and go on with --resume"
                )
            prepared.step()
            prepared.zero_grad(set_to_none=True)
            update_average(average, network, min(config.ema, (1 + step) / (10 + step)))
            state.step, state.seconds = step + 1, time.monotonic() - begun
            last = state.step == config.steps
            if state.step % config.checkpoint_every == 0 or last:
                row = {"step": state.step, "seconds": state.seconds, **state.running}
                if checks and (state.step % config.validate_every == 0 or last):
                    row |= validate(average, checks, config.bf16)
                everywhere = gather_random_states()
                if log is not None:
                    log.write(row)
                    # In this order: whatever is cut off after the checkpoint is made again from it.
                    if row.get("val_mm", math.inf) < state.best_mm or not checks:
                        state.best_mm = row.get("val_mm", math.inf)
                        save_weights(average, weights, {"steps": state.step})
                    state.save(checkpoint, everywhere)
                    if report is not None:
                        report(row)
    accelerator.wait_for_everyone()
    return weights


def check_resumable(folder: Path, resume: bool) -> None:
    """Raises UsageError where a folder holds a run that is not to go on."""
    if (folder / "checkpoint.pt").exists() and not resume:
        raise UsageError(f"{folder}: holds a run; go on with --resume, or choose another output")


@contextmanager
def the_only_run(folder: Path) -> Iterator[None]:
    """Keep a folder to this run.

    Raises:
        UsageError: another process trains into it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UsageError(f"{folder}: another run trains into it; choose another output") from error
    try:
        yield
    finally:
        lock.release()


def make_accelerator(accumulate: int) -> Accelerator:
    """The device, and the other processes of ``torchrun`` if there are any.

    Raises:
        ModelError: the package is not installed.
    """
    try:
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
    except ImportError as error:
        raise ModelError(
            "training needs the package accelerate: pip install 'transformer-lesion-tracker[train]'"
        ) from error
    return Accelerator(
        cpu=not torch.cuda.is_available(),
        gradient_accumulation_steps=accumulate,
        # A preset may have parameters that one pair's loss does not reach.
        kwargs_handlers=[
            DistributedDataParallelKwargs(find_unused_parameters=True),
            InitProcessGroupKwargs(timeout=WAITING),  # while the main process validates
        ],
    )


def pairs_of(
    dataset: TrainingPairs, config: TrainConfig, start: int, accelerator: Accelerator
) -> Iterator[TrainingPair]:
    """This process's pairs from a step on: of every few in a row, each process takes its own."""
    first = start * dataset.pairs_a_step + accelerator.process_index
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=range(first, len(dataset), accelerator.num_processes),
        num_workers=config.workers,
        prefetch_factor=4 if config.workers else None,
        generator=torch.Generator(),  # or it would draw from the one that dropout draws from
    )
    try:
        for pair in loader:
            yield pair.to(accelerator.device)
    except TltError as error:  # a worker's comes with its traceback in the message
        raise type(error)(str(error).rsplit("Error: ", 1)[-1].strip()) from error


def accumulate_gradients(
    accelerator: Accelerator,
    objective: nn.Module,
    stream: Iterator[TrainingPair],
    config: TrainConfig,
    running: dict[str, float],
) -> float:
    """The gradient's norm before clipping; gradients are the mean over a step's pairs.

    The smoothed terms in ``running`` are moved on. Not finite as soon as one loss is not.
    """
    for _ in range(config.accumulate):
        pair = next(stream)
        with accelerator.accumulate(objective):
            loss, terms = objective(pair)
            terms = {"loss": loss, **terms}
            terms["prior"] = losses.center_loss(pair.centers_mm, pair.truth_mm)
            for name, value in terms.items():
                now = float(value.detach())
                if not math.isfinite(now):
                    return math.nan
                running[name] = SMOOTHING * running.get(name, now) + (1 - SMOOTHING) * now
            accelerator.backward(loss)
    return float(accelerator.clip_grad_norm_(objective.parameters(), config.clip))


def gather_random_states() -> list:
    """The random state of every process, in order."""
    from accelerate.utils import gather_object

    return gather_object([random_state()])


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
    """Share of the learning rate: linear warm-up, then half a cosine down to 2 %, or constant."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    if config.schedule == "constant":
        return 1.0
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))


def freeze_batch_norms(network: nn.Module) -> None:
    """Use the running statistics from here on, as inference does."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eval()


@torch.no_grad()
def validate(network: TLT, pairs: list[TrainingPair], bf16: bool) -> dict[str, float]:
    """Mean errors in mm of the prior and of the network, and the share within 10 mm."""
    network.eval()
    prior, found = [], []
    for pair in pairs:
        pair = pair.to(next(network.parameters()).device)
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
