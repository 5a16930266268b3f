"""A training run in miniature: what it writes, how it goes on, and when it stops."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import tlt.training.tlt_task
from tlt.errors import InputError, ModelError, UsageError
from tlt.model.network import TLT
from tlt.model.presets import PRESETS
from tlt.model.weights import load_weights, save_weights
from tlt.train import freeze_batch_norms, schedule, the_only_run, train, validate
from tlt.training.config import Marked, TrainConfig
from tlt.training.samples import TrainingPairs, validation_set
from tlt.training.state import update_average
from tlt.training.tlt_task import TLTTask, loss_terms, predict

TINY_NETWORK = {"channels": [4, 4, 8, 16], "heads": 2, "layers": 1, "embedding": 8}
TINY = replace(PRESETS["compact"], channels=(4, 4, 8, 16), heads=2, layers=1, embedding=8)
SMALL_PAIRS = {
    "crops_zyx": [[24, 32, 32]],
    "queries": 4,
    "anchors": 16,
    "margin_mm": [12.0, 12.0, 8.0],
    "search_shift_mm": [8.0, 8.0, 4.0],
}


def tiny_config(output: Path, **values) -> TrainConfig:
    """A tiny network on tiny crops, a checkpoint a step."""
    return TrainConfig(
        network=TINY_NETWORK,
        pairs=SMALL_PAIRS,  # type: ignore[arg-type]
        output=output,
        workers=0,
        validation_pairs=2,
        checkpoint_every=1,
        warmup=1,
        bf16=False,
        **values,
    )


@pytest.fixture
def config(ct_folder: Path, tmp_path: Path) -> TrainConfig:
    """Three steps of it."""
    return tiny_config(
        tmp_path / "run", data=ct_folder, validation=ct_folder, steps=3, validate_every=3
    )


def changed(config: TrainConfig, **values) -> TrainConfig:
    return config.model_copy(update=values)


def logged(config: TrainConfig) -> list[dict[str, str]]:
    with (config.output / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_writes_checkpoint_log_and_weights(config: TrainConfig) -> None:
    rows: list[dict[str, float]] = []
    path = train(config, report=rows.append)
    torch.manual_seed(config.seed)
    start, loaded = TLT(TINY), load_weights(str(path))
    assert loaded.network.config == TINY
    assert loaded.notes == {"steps": 3}
    assert not torch.equal(loaded.network.embed.weight, start.embed.weight)
    state = torch.load(config.output / "checkpoint.pt", weights_only=True)
    assert state["step"] == 3
    assert all(torch.isfinite(v).all() for v in state["network"].values())
    table = logged(config)
    assert [row["step"] for row in table] == ["1", "2", "3"] == [str(row["step"]) for row in rows]
    assert all(float(row["contrast"]) > 0 and float(row["prior"]) > 0 for row in table)
    assert [row["val_mm"] != "" for row in table] == [False, False, True]
    files = {f.name for f in config.output.iterdir()} - {"lock"}
    assert files == {"checkpoint.pt", "log.csv", "tensorboard", "weights.safetensors"}


def test_the_same_seed_gives_the_same_first_twenty_losses(config: TrainConfig) -> None:
    long = changed(config, steps=20, validation=None, workers=1)
    train(long)
    train(changed(long, output=long.output.with_name("again")))
    train(changed(long, output=long.output.with_name("other"), seed=1))
    first, again, other = (
        [row["loss"] for row in logged(changed(long, output=long.output.with_name(name)))]
        for name in ("run", "again", "other")
    )
    assert len(first) == 20
    assert first == again != other


def test_the_best_weights_by_validation_are_kept(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = iter([5.0, 3.0, 4.0])
    monkeypatch.setattr("tlt.train.validate", lambda *_: {"val_mm": next(errors)})
    path = train(changed(config, validate_every=1))
    assert load_weights(str(path)).notes == {"steps": 2}


def test_the_threads_of_the_process_are_left_alone(config: TrainConfig) -> None:
    pairs = TrainingPairs(config)
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    assert pairs[0].search.equal(pairs[0].search)
    now = torch.get_num_threads()
    torch.set_num_threads(before)
    assert now == before + 1


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def turning_bad(*args) -> dict[str, torch.Tensor]:
        calls.append(1)
        terms = loss_terms(*args)
        return {k: v * float("nan") if len(calls) > 2 * 2 else v for k, v in terms.items()}

    monkeypatch.setattr(tlt.training.tlt_task, "loss_terms", turning_bad)
    with pytest.raises(InputError, match="loss or gradient is not finite at step 2") as caught:
        train(config)
    assert "--resume" in str(caught.value)
    state = torch.load(config.output / "checkpoint.pt", weights_only=True)
    assert state["step"] == 2
    assert all(torch.isfinite(v).all() for v in state["network"].values())


def test_an_empty_folder_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no \*\.nii\.gz"):
        train(changed(config, data=tmp_path))


@pytest.mark.parametrize("key", ["data", "marked", "validation", "validation_marked"])
def test_a_folder_that_is_not_there_is_named_with_its_key(
    key: str, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    value = Marked(pairs=Path("nowhere")) if "marked" in key else Path("nowhere")
    with pytest.raises(InputError, match=f"^{key}: {tmp_path}/nowhere: no such") as caught:
        train(changed(config, **{key: value}))
    assert "\n" not in str(caught.value)


def test_a_run_says_where_it_goes_on(config: TrainConfig) -> None:
    told: list[str] = []
    for steps in (1, 2):
        train(changed(config, steps=steps, validation=None), resume=True, say=told.append)
    assert [line.removeprefix(f"{config.output}: ") for line in told] == [
        "no checkpoint to go on from; it starts anew",
        "goes on after step 1 of 2",
    ]


def test_schedule_warms_up_and_falls_to_two_percent() -> None:
    config = TrainConfig(data=Path("a"), output=Path("b"), steps=100, warmup=10)
    shares = [schedule(step, config) for step in range(101)]
    assert shares[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert shares[55] == pytest.approx(0.51)
    assert shares[100] == pytest.approx(0.02)
    assert np.all(np.diff(shares[10:]) < 0)


def test_average_of_weights_by_hand() -> None:
    average, network = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    with torch.no_grad():
        network.weight.fill_(3.0)
        network.running_mean.fill_(-2.0)
        network.num_batches_tracked.fill_(5)
    update_average(average, network, 0.75)
    assert average.weight.tolist() == [1.5, 1.5]
    assert average.running_mean.tolist() == [-0.5, -0.5]
    assert int(average.num_batches_tracked) == 5


def test_frozen_batch_norms_move_no_more() -> None:
    network = TLT(TINY).train()
    freeze_batch_norms(network)
    before = {n: b.clone() for n, b in network.named_buffers()}
    network.encode(torch.randn(1, 1, 16, 16, 16) * 300)
    assert network.training
    assert all(torch.equal(before[n], b) for n, b in network.named_buffers())


def test_validation_scores_prior_and_network_on_fixed_pairs(config: TrainConfig) -> None:
    drawn, again = validation_set(config), validation_set(config)
    assert len(drawn) == 2
    assert all(a.search.equal(b.search) for a, b in zip(drawn, again, strict=True))
    network = TLT(TINY).eval().requires_grad_(False)
    scores = validate(TLTTask(), network, drawn, bf16=False)
    prior = torch.cat([(p.centers_mm - p.truth_mm).norm(dim=1) for p in drawn])
    found = torch.cat(
        [(predict(network, p, False)[0].center_mm - p.truth_mm).norm(dim=1) for p in drawn]
    )
    assert scores["val_prior_mm"] == pytest.approx(float(prior.mean()))
    assert scores["val_mm"] == pytest.approx(float(found.mean()))
    assert scores["val_within_10mm"] == pytest.approx(float((found <= 10).float().mean()))


def test_terms_of_the_paper_alone_where_similarity_is_off(config: TrainConfig) -> None:
    pair = validation_set(config)[0]
    paper = loss_terms(TLT(replace(TINY, similarity=False)), pair, False)
    assert set(paper) == {"center", "focal", "token"}
    assert set(loss_terms(TLT(TINY), pair, False)) == {*paper, "contrast"}


def test_a_run_is_not_overwritten(config: TrainConfig) -> None:
    config.output.mkdir(parents=True, exist_ok=True)
    (config.output / "checkpoint.pt").write_bytes(b"hours of work")
    with pytest.raises(UsageError, match="--resume"):
        train(config)
    assert (config.output / "checkpoint.pt").read_bytes() == b"hours of work"


def test_two_runs_do_not_train_into_one_folder(config: TrainConfig) -> None:
    with the_only_run(config.output), pytest.raises(UsageError, match="another run trains into it"):
        train(config)
    train(config)


def test_a_run_may_start_from_weights(config: TrainConfig, tmp_path: Path) -> None:
    torch.manual_seed(5)
    known = TLT(replace(TINY, similarity=False))
    save_weights(known, tmp_path / "known.safetensors", {})
    start = changed(config, start=str(tmp_path / "known.safetensors"), steps=1, learning_rate=0.0)
    made = load_weights(str(train(start))).network.state_dict()
    for name, value in known.state_dict().items():
        if "running" not in name and "tracked" not in name:  # batch statistics move all the same
            assert torch.allclose(made[name], value, atol=1e-6), name
    assert any(name.startswith("embed.") for name in made)


def test_training_without_accelerate_says_what_to_install(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ModelError, match=r"pip install .*\[train\]"):
        train(config)
    assert not config.output.exists()


def write_yaml(config: TrainConfig, path: Path, **values) -> Path:
    content = config.model_dump(mode="json", exclude_unset=True) | values
    path.write_text(yaml.safe_dump(content))
    return path


def start_process(*arguments: str) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_run_killed_at_any_moment_goes_on_bit_for_bit(
    config: TrainConfig, tmp_path: Path
) -> None:
    # Dropout draws from torch's generator, whose state must come back too.
    long = changed(config, steps=24, validate_every=4, network=TINY_NETWORK | {"dropout": 0.1})
    train(long)
    cut = tmp_path / "cut"
    file = write_yaml(long, tmp_path / "c.yaml", output=str(cut))
    for rows in (1, 6):  # killed once so many steps are logged, wherever the process is then
        process = start_process("-m", "tlt", "train", "--config", str(file), "--resume")
        while process.poll() is None and lines(cut / "log.csv") < 1 + rows:
            time.sleep(0.002)
        assert process.poll() is None, process.communicate()[0]
        process.kill()
        process.wait()
        assert lines(cut / "log.csv") < 1 + long.steps
    train(changed(long, output=cut), resume=True)
    whole, pieces = (
        torch.load(run / "checkpoint.pt", weights_only=True) for run in (long.output, cut)
    )
    for part in ("network", "average"):
        for name, tensor in whole[part].items():
            assert torch.equal(pieces[part][name], tensor), name
    assert pieces["running"] == whole["running"]
    assert pieces["best"] == whole["best"]
    same_weights(long.output / "weights.safetensors", cut / "weights.safetensors")
    first, second = logged(long), logged(changed(long, output=cut))
    for row in first + second:
        row.pop("seconds")
    assert first == second


def lines(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


def same_weights(first: Path, second: Path) -> None:
    a, b = load_weights(str(first)), load_weights(str(second))
    assert a.notes == b.notes
    assert all(map(torch.equal, a.network.state_dict().values(), b.network.state_dict().values()))


GRADIENTS = """
import sys, torch
from pathlib import Path
from tlt.model.network import TLT
from tlt.train import accumulate_gradients, make_accelerator, samples_of
from tlt.training.config import read_config
from tlt.training.samples import TrainingPairs
from tlt.training.task import Objective
from tlt.training.tlt_task import TLTTask

config = read_config(Path(sys.argv[1]))
accelerator = make_accelerator(config.accumulate)
torch.manual_seed(config.seed)
network = TLT(config.model)
objective = Objective(network, TLTTask(), config.loss_weights, config.bf16)
objective = accelerator.prepare(objective)
dataset = TrainingPairs(config, accelerator.num_processes)
stream = samples_of(dataset, config, 0, accelerator)
accumulate_gradients(accelerator, objective, stream, config, {})
if accelerator.is_main_process:
    gradients = {n: p.grad for n, p in network.named_parameters() if p.grad is not None}
    torch.save(gradients | {"processes": accelerator.num_processes}, sys.argv[2])
"""


def test_two_processes_give_the_gradients_of_one_with_the_doubled_batch(
    config: TrainConfig, tmp_path: Path
) -> None:
    script = tmp_path / "gradients.py"
    script.write_text(GRADIENTS)
    one = write_yaml(config, tmp_path / "one.yaml", accumulate=4, clip=1e9)
    two = write_yaml(config, tmp_path / "two.yaml", accumulate=2, clip=1e9)
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    alone = start_process(str(script), str(one), str(tmp_path / "one.pt"))
    together = start_process(*launch, str(script), str(two), str(tmp_path / "two.pt"))
    for process in (alone, together):
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0, said
    a, b = (torch.load(tmp_path / name, weights_only=True) for name in ("one.pt", "two.pt"))
    assert (a.pop("processes"), b.pop("processes")) == (1, 2)
    assert a.keys() == b.keys()
    assert sum(float(g.norm()) for g in a.values()) > 0
    for name, gradient in a.items():
        assert torch.allclose(gradient, b[name], rtol=1e-3, atol=1e-6 * float(gradient.norm())), (
            name
        )
