"""The paper's Tables 2 and S1: networks with modules off, trained alike, on the same pairs.

A variant is a folder named by what it is, so that experiments which share one train it once.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tlt.data.marked import has_pairs
from tlt.errors import InputError, TltError, UsageError
from tlt.evaluate import Outcome, Report, check_data, evaluate_data
from tlt.experiments import UNCALIBRATED
from tlt.io.files import atomic_write
from tlt.model.presets import ModelConfig
from tlt.rows import write_rows
from tlt.track import Tracker, make_system
from tlt.train import check_installed, check_resumable, train
from tlt.training.config import TrainConfig

THRESHOLDS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
MODULES = {"sss": "SSS", "raam": "RAAM", "global_regression": "global regression"}
SHORT = {"sss": "sss", "raam": "raam", "global_regression": "global"}
FULL = "full"


@dataclass(frozen=True)
class PaperFigures:
    """What the paper reports of a variant on DLS: CPM@10mm in %, MED as mean and deviation."""

    cpm_10mm: float
    med_mm: float
    med_std_mm: float


TABLE_2 = {
    "none": PaperFigures(79.59, 7.58, 7.91),
    "sss": PaperFigures(84.78, 6.76, 7.86),
    "sss+raam": PaperFigures(86.58, 6.30, 7.79),
    FULL: PaperFigures(87.37, 5.98, 7.68),
}
TABLE_S1 = {
    "raam+global": PaperFigures(84.02, 6.35, 7.95),
    "sss+global": PaperFigures(85.11, 6.31, 7.82),
    "sss+raam": TABLE_2["sss+raam"],
    FULL: TABLE_2[FULL],
}
TABLE_2_THRESHOLD = {
    0.9: PaperFigures(83.57, 6.80, 8.12),
    0.8: PaperFigures(83.99, 6.65, 7.99),
    0.7: TABLE_2[FULL],
    0.6: PaperFigures(86.70, 6.26, 7.88),
    0.5: PaperFigures(86.37, 6.20, 7.83),
    0.4: PaperFigures(85.01, 6.39, 7.98),
}


@dataclass(frozen=True)
class Variant:
    """A line of a table.

    Attributes:
        name: its folder, and its rows.
        label: how the table calls it.
        network: the fields of `ModelConfig` that make it.
        paper: what the paper reports of it, if it does.
    """

    name: str
    label: str
    network: dict[str, Any]
    paper: PaperFigures | None


def ablation_variants(base: ModelConfig) -> list[Variant]:
    """Table 2, left: modules added one after the other."""
    return [_modules(set(on), TABLE_2) for on in ((), ("sss",), ("sss", "raam"), MODULES)]


def leave_one_out_variants(base: ModelConfig) -> list[Variant]:
    """Table S1: each module removed alone, then none of them."""
    return [_modules(set(MODULES) - {off}, TABLE_S1) for off in (*MODULES, "")]


def threshold_variants(base: ModelConfig) -> list[Variant]:
    """Table 2, right: the threshold Tr of sparse selection, all modules on.

    The one of the configuration is the full network of the other experiments.
    """
    found = []
    for threshold in THRESHOLDS:
        name = FULL if threshold == base.threshold else f"threshold-{threshold}"
        network = {**dict.fromkeys(MODULES, True), "threshold": threshold}
        found.append(Variant(name, f"Tr {threshold}", network, TABLE_2_THRESHOLD[threshold]))
    return found


TITLES = {
    "ablation": "Modules added one after the other (paper, Table 2)",
    "threshold": "Threshold of sparse selection (paper, Table 2)",
    "leave-one-out": "Each module removed alone (paper, Table S1)",
}
EXPERIMENTS = {
    "ablation": ablation_variants,
    "threshold": threshold_variants,
    "leave-one-out": leave_one_out_variants,
}


def _modules(on: set[str], paper: dict[str, PaperFigures]) -> Variant:
    """The network with these modules, and no other."""
    name = "+".join(SHORT[module] for module in MODULES if module in on) or "none"
    label = " + ".join(word for module, word in MODULES.items() if module in on) or "none"
    if len(on) == len(MODULES):
        name = FULL
    return Variant(name, label, {module: module in on for module in MODULES}, paper.get(name))


def variants_of(experiment: str, config: TrainConfig) -> list[Variant]:
    """The variants of an experiment; the full network is always among them, for the tests.

    Raises:
        UsageError: the configuration's threshold is none of those of the experiment.
    """
    base = config.model
    variants = EXPERIMENTS[experiment](base)
    if not any(variant.name == FULL for variant in variants):
        raise UsageError(
            f"network.threshold: {base.threshold} is none of {', '.join(map(str, THRESHOLDS))}, "
            "which the experiment compares; choose one of them"
        )
    return variants


def variant_config(config: TrainConfig, variant: Variant, output: Path) -> TrainConfig:
    """The training of a variant: the given one but for its network and its folder."""
    network = config.network | variant.network
    place = output / "variants" / variant.name
    return config.model_copy(update={"network": network, "output": place})


def train_variants(
    config: TrainConfig,
    variants: Sequence[Variant],
    output: Path,
    resume: bool = False,
    jobs: int = 1,
    report: Report | None = None,
) -> dict[str, Path]:
    """The weights of each variant by name; those that are finished already are not trained again.

    ``jobs`` of them are trained at a time, each in a process of its own with one thread; 1 trains
    in this process, one after the other.

    Raises:
        UsageError: a folder holds another training, or an interrupted one without ``resume``.
        ModelError: what training needs is not installed.
        TltError: a training failed; names the variant. The others are finished first.
    """
    say = report or _silent
    todo, weights = {}, {}
    for variant in variants:
        wanted = variant_config(config, variant, output)
        weights[variant.name] = wanted.output / "weights.safetensors"
        if is_finished(wanted):
            say(f"{variant.name}: trained already")
        else:
            check_resumable(wanted.output, resume)
            todo[variant.name] = wanted
    if todo:
        check_installed()
    failures: dict[str, TltError] = {}
    for name, error in _trained(todo, resume, jobs, say):
        if error is None:
            say(f"{name}: trained")
        else:
            failures[name] = error
            say(f"{name}: failed")
    if failures:
        name, error = next(iter(failures.items()))
        more = f" ({', '.join(failures)} failed)" if len(failures) > 1 else ""
        raise type(error)(f"variant {name}: {error}{more}") from error
    return weights


def _trained(todo: dict[str, TrainConfig], resume: bool, jobs: int, say: Report):
    """Train; yields (name, error or None) as they end."""
    if jobs == 1 or len(todo) < 2:
        for name, config in todo.items():
            try:
                train_variant(name, config, resume, lambda row, n=name: say(_line(n, row)))
                yield name, None
            except TltError as error:
                yield name, error
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(todo)), context) as pool:
        futures = {pool.submit(_train_alone, *item, resume): item[0] for item in todo.items()}
        for future in as_completed(futures):
            try:
                future.result()
                yield futures[future], None
            except TltError as error:
                yield futures[future], error
            except Exception as error:  # of the process itself: memory, a signal
                reason = f"its process ended ({error!r}); run again with --resume"
                yield futures[future], InputError(reason)


def _train_alone(name: str, config: TrainConfig, resume: bool) -> None:
    """Train a variant in a process of its own; it ends when the experiment was killed."""
    import sys

    import torch

    torch.set_num_threads(1)
    parent = os.getppid()

    def report(row: dict[str, float]) -> None:
        if os.getppid() != parent:
            os._exit(1)  # nobody waits: a second run may soon write to this folder
        print(_line(name, row), file=sys.stderr, flush=True)

    train_variant(name, config, resume, report)


def train_variant(name: str, config: TrainConfig, resume: bool, report=None) -> None:
    """Train a variant and leave a note of what was trained, before and after."""
    note = json.dumps(_identity(config), indent=1, sort_keys=True) + "\n"
    atomic_write(config.output / "variant.json", note)
    begun = time.monotonic()
    train(config, resume=resume, report=report)
    finished = {"name": name, "seconds": round(time.monotonic() - begun, 1)}
    atomic_write(config.output / "finished.json", json.dumps(finished) + "\n")


def is_finished(config: TrainConfig) -> bool:
    """Whether this very training has ended in its folder, with its weights.

    Raises:
        UsageError: another one has, or has begun.
    """
    note = config.output / "variant.json"
    if not note.exists():
        return False
    stored, wanted = _flat(json.loads(note.read_text())), _flat(_identity(config))
    odd = [key for key in {**wanted, **stored} if stored.get(key) != wanted.get(key)]
    if odd:
        raise UsageError(
            f"{config.output}: trained with {odd[0]} {stored.get(odd[0])}, and now it is "
            f"{wanted.get(odd[0])}; choose another --output"
        )
    return all((config.output / name).exists() for name in ("finished.json", "weights.safetensors"))


def _identity(config: TrainConfig) -> dict[str, Any]:
    """What decides the weights: the training but its folder, and the network in full."""
    training = config.model_dump(mode="json", exclude={"output", "network"})
    return json.loads(json.dumps({"training": training, "network": asdict(config.model)}))


def _flat(identity: dict[str, Any]) -> dict[str, Any]:
    return {
        f"{part}.{key}": value for part, values in identity.items() for key, value in values.items()
    }


def variant_trackers(weights: dict[str, Path]) -> list[Tracker]:
    """The network of each variant alone, by its name: the last step would hide differences."""
    trackers = []
    for name, path in weights.items():
        system = make_system("tlt-network", str(path), "cpu", "auto")
        system.name = name
        trackers.append(Tracker(system, UNCALIBRATED))
    return trackers


def run_experiment(
    experiment: str,
    config: TrainConfig,
    data: Path,
    output: Path,
    images: Path | None = None,
    pairs: int = 12,
    seed: int = 2022,
    resume: bool = False,
    jobs: int = 1,
    report: Report | None = None,
) -> str:
    """Train what is missing, evaluate every variant; table.md, table.json, rows.json in a folder.

    Returns the text of table.md. Raises what `train_variants` and `evaluate_data` do.
    """
    from tlt.ablation_table import remarks, table_text, variant_scores

    check_data(data, images, simulate=True)
    variants = variants_of(experiment, config)
    weights = train_variants(config, variants, output, resume, jobs, report)
    place = output / experiment

    def save(outcomes: dict[str, list[Outcome]]) -> None:
        write_rows(outcomes, place / "rows.json")

    trackers = variant_trackers(weights)
    outcomes = evaluate_data(trackers, data, images, (pairs, seed), report, save)
    rows = {name: [outcome.row for outcome in every] for name, every in outcomes.items()}
    if not rows[FULL]:
        raise InputError(f"{data}: no lesion in its pairs is in view; give more --pairs")
    scores = variant_scores(variants, rows)
    simulated = images is None and not has_pairs(data)
    drawn = f"{pairs} simulated pairs (seed {seed})" if simulated else "the pairs"
    notes = remarks(config, variants, data, drawn)
    hashes = {tracker.name: tracker.weights_sha256 for tracker in trackers}
    content = {
        "experiment": experiment,
        "data": str(data),
        "simulated": {"pairs": pairs, "seed": seed} if simulated else None,
        "training": _identity(config),
        "weights_sha256": hashes,
        "variants": scores,
        "remarks": notes,
    }
    text = table_text(TITLES[experiment], scores, notes)
    atomic_write(place / "table.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
    atomic_write(place / "table.md", text)
    return text


def _line(name: str, row: dict[str, float]) -> str:
    terms = (f"{k} {v:.2f}" for k, v in row.items() if k not in ("step", "seconds"))
    return f"{name}: step {int(row['step'])}: {', '.join(terms)}"


def _silent(line: str) -> None:
    """A report that nobody reads."""
