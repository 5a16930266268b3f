"""Training: one visible loop, with a checkpoint that rebuilds its model alone.

Accelerate gives the device, gradient accumulation and, under ``torchrun``, several processes. What
a network learns, and from which samples, is its `tlt.training.task.Task`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from copy import deepcopy
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock, Timeout
from torch import nn
from torch.utils.data import DataLoader, Dataset

from tlt.errors import InputError, ModelError, TltError, UsageError
from tlt.model.weights import load_weights, save_weights
from tlt.training.config import TrainConfig
from tlt.training.log import RunLog
from tlt.training.state import RunState, random_state, update_average
from tlt.training.task import Objective, Task

if TYPE_CHECKING:
    from accelerate import Accelerator

CHECKPOINT = "checkpoint.pt"
SMOOTHING = 0.98  # of the logged terms
WAITING = timedelta(hours=3)  # of one process for another


def train(
    config: TrainConfig,
    resume: bool = False,
    report: Callable[[dict[str, float]], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Train and return the path of the weights; ``report(row)`` is called with each logged row.

    The weights are the averaged ones: the best by validation, or the last where there is none.
    ``say`` is told where a run goes on.

    Raises:
        InputError: no data, or a loss that is no longer finite (the last checkpoint is kept).
        UsageError: the output holds another run, which would be lost, or is in use.
        ModelError: accelerate is missing, or the weights to start from do not fit.
    """
    check_resumable(config.output, resume)
    accelerator = make_accelerator(config.accumulate)
    with the_only_run(config.output) if accelerator.is_main_process else nullcontext():
        say = say if accelerator.is_main_process and say is not None else _silent
        if resume and not (config.output / CHECKPOINT).exists():
            say(f"{config.output}: no checkpoint to go on from; it starts anew")
        return _train(config, accelerator, report, say)


def _train(
    config: TrainConfig,
    accelerator: Accelerator,
    report: Callable[[dict[str, float]], None] | None,
    say: Callable[[str], None],
) -> Path:
    """The loop of `train`, from the checkpoint where there is one."""
    checkpoint, weights = config.output / CHECKPOINT, config.output / "weights.safetensors"
    torch.manual_seed(config.seed)
    task = config.family.new_task()
    dataset = task.samples(config, accelerator.num_processes)
    checks = task.checks(config) if accelerator.is_main_process else []
    network = config.family.build(config.model)
    network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    if config.start and not checkpoint.exists():
        start_from(network, config.start, config.system)
    average = deepcopy(network).eval().to(accelerator.device)
    objective = Objective(network, task, config.loss_weights, config.bf16)
    objective.to(accelerator.device)
    optimizer = torch.optim.AdamW(
        network.parameters(), config.learning_rate, weight_decay=config.weight_decay
    )
    state = RunState(network, average, optimizer)
    if checkpoint.exists():
        state.load(checkpoint, accelerator.process_index)
        say(f"{config.output}: goes on after step {state.step} of {config.steps}")
    else:
        torch.manual_seed(config.seed + accelerator.process_index)  # each its own dropout
    objective, prepared = accelerator.prepare(objective, optimizer)
    log = None
    if accelerator.is_main_process:
        log = RunLog(config.output, state.step, [*task.watched, *task.weights, *task.scores])
    stream = samples_of(dataset, config, state.step, accelerator)
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
                    row |= validate(task, average, checks, config.bf16)
                everywhere = gather_random_states()
                if log is not None:
                    log.write(row)
                    # In this order: whatever is cut off after the checkpoint is made again from it.
                    if row.get(task.criterion, math.inf) < state.best or not checks:
                        state.best = row.get(task.criterion, math.inf)
                        save_weights(average, weights, {"steps": state.step}, config.system)
                    state.save(checkpoint, everywhere)
                    if report is not None:
                        report(row)
    accelerator.wait_for_everyone()
    return weights


def check_resumable(folder: Path, resume: bool) -> None:
    """Raises UsageError where a folder holds a run that is not to go on."""
    if (folder / CHECKPOINT).exists() and not resume:
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


def check_installed() -> None:
    """Raises ModelError where what training needs is not installed."""
    try:
        import accelerate  # noqa: F401
    except ImportError as error:
        raise ModelError(
            "training needs the package accelerate: pip install 'transformer-lesion-tracker[train]'"
        ) from error


def make_accelerator(accumulate: int) -> Accelerator:
    """The device, and the other processes of ``torchrun`` if there are any.

    Raises:
        ModelError: the package is not installed.
    """
    check_installed()
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

    return Accelerator(
        cpu=not torch.cuda.is_available(),
        gradient_accumulation_steps=accumulate,
        # A preset may have parameters that one pair's loss does not reach.
        kwargs_handlers=[
            DistributedDataParallelKwargs(find_unused_parameters=True),
            InitProcessGroupKwargs(timeout=WAITING),  # while the main process validates
        ],
    )


def samples_of(
    dataset: Dataset, config: TrainConfig, start: int, accelerator: Accelerator
) -> Iterator[Any]:
    """This process's samples from a step on: of every few in a row, each process takes its own."""
    first = (start * config.accumulate) * accelerator.num_processes + accelerator.process_index
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=range(first, len(dataset), accelerator.num_processes),  # type: ignore[arg-type]
        num_workers=config.workers,
        prefetch_factor=4 if config.workers else None,
        generator=torch.Generator(),  # or it would draw from the one that dropout draws from
    )
    try:
        for sample in loader:
            yield sample.to(accelerator.device)
    except TltError as error:  # a worker's comes with its traceback in the message
        raise type(error)(str(error).rsplit("Error: ", 1)[-1].strip()) from error


def accumulate_gradients(
    accelerator: Accelerator,
    objective: nn.Module,
    stream: Iterator[Any],
    config: TrainConfig,
    running: dict[str, float],
) -> float:
    """The gradient's norm before clipping; gradients are the mean over a step's samples.

    The smoothed terms in ``running`` are moved on. Not finite as soon as one loss is not.
    """
    for _ in range(config.accumulate):
        sample = next(stream)
        with accelerator.accumulate(objective):
            loss, terms = objective(sample)
            terms = {"loss": loss, **terms}
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


def start_from(network: Any, name: str, family: str) -> None:
    """Take over weights; what they lack stays as it is.

    Raises:
        ModelError: they are of another family or shape.
    """
    known = load_weights(name, family).network
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
def validate(task: Task, network: nn.Module, checks: list, bf16: bool) -> dict[str, float]:
    """The task's scores of a network on the samples that were kept for it."""
    network.eval()
    device = next(network.parameters()).device
    return task.judge(network, [sample.to(device) for sample in checks], bf16)


def _silent(line: str) -> None:
    """Remarks that nobody reads."""
