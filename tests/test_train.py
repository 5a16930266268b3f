"""A training run in miniature: what it writes, how it goes on, and when it stops."""

from __future__ import annotations

import csv
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_phantom, torso_grid

import tlt.train
from tlt.data.pairs import PairConfig
from tlt.errors import InputError, UsageError
from tlt.io.images import save_volume
from tlt.model.network import TLT
from tlt.model.presets import PRESETS
from tlt.model.weights import load_weights, save_weights
from tlt.train import (
    SimulatedPairs,
    TrainConfig,
    freeze_batch_norms,
    loss_terms,
    network_config,
    predict,
    read_anatomies,
    read_config,
    schedule,
    train,
    update_average,
    validate,
    validation_set,
)

TINY = replace(PRESETS["compact"], channels=(4, 4, 8, 16), heads=2, layers=1, embedding=8)
SMALL_PAIRS = partial(
    PairConfig,
    crops_zyx=((24, 32, 32),),
    anchors=16,
    margin_mm=(12.0, 12.0, 8.0),
    search_shift_mm=(8.0, 8.0, 4.0),
)


class Interrupted(Exception):
    """Stands for a power cut."""


@pytest.fixture(scope="session")
def ct_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two phantoms and a label file that must be left alone."""
    folder = tmp_path_factory.mktemp("cts")
    for seed in (0, 1):
        grid = torso_grid((70, 52, 40), (5.0, 5.0, 6.0))
        save_volume(make_phantom(grid, noise_hu=30, seed=seed), folder / f"p{seed}.nii.gz")
    (folder / "p0_label.nii.gz").write_bytes(b"no CT")
    return folder


@pytest.fixture
def config(ct_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    """Three steps of a tiny network on tiny crops."""
    monkeypatch.setitem(PRESETS, "tiny", TINY)
    monkeypatch.setattr(tlt.train, "PairConfig", SMALL_PAIRS)
    return TrainConfig(
        preset="tiny",
        data=ct_folder,
        validation=ct_folder,
        output=tmp_path / "run",
        steps=3,
        queries=4,
        workers=0,
        validation_pairs=2,
        checkpoint_every=1,
        validate_every=3,
        warmup=1,
        bf16=False,
    )


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
    assert sorted(f.name for f in config.output.iterdir()) == [
        "checkpoint.pt",
        "log.csv",
        "weights.safetensors",
    ]


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(config: TrainConfig) -> None:
    whole = load_weights(str(train(config)))
    cut = config.model_copy(update={"output": config.output.with_name("cut")})

    def stop(row: dict[str, float]) -> None:
        if row["step"] == 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(cut, report=stop)
    half = load_weights(str(cut.output / "weights.safetensors"))
    resumed = load_weights(str(train(cut, resume=True)))
    assert not torch.equal(half.network.embed.weight, whole.network.embed.weight)
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(resumed.network.state_dict()[name], tensor), name
    assert [row["step"] for row in logged(cut)] == ["1", "2", "3"]


def test_the_threads_of_the_process_are_left_alone(config: TrainConfig) -> None:
    pairs = SimulatedPairs(read_anatomies(config.data), config, SMALL_PAIRS(queries=4))
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

    monkeypatch.setattr(tlt.train, "loss_terms", turning_bad)
    with pytest.raises(InputError, match="not finite at step 2") as caught:
        train(config)
    assert "--resume" in str(caught.value)
    state = torch.load(config.output / "checkpoint.pt", weights_only=True)
    assert state["step"] == 2
    assert all(torch.isfinite(v).all() for v in state["network"].values())


def test_an_empty_folder_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no \*\.nii\.gz"):
        train(config.model_copy(update={"data": tmp_path}))


@pytest.mark.parametrize(
    ("text", "error", "part"),
    [
        ("data: a\noutput: b\nlearning_rat: 1\n", UsageError, "learning_rat"),
        ("data: a\noutput: b\nsteps: many\n", UsageError, "steps"),
        ("data: a\noutput: b\nloss: {fokal: 1}\n", UsageError, "loss.fokal"),
        ("data: a\noutput: b\npreset: huge\n", UsageError, "'huge' is none of"),
        ("data: a\noutput: b\nnetwork: {ram: false}\n", UsageError, "network.ram"),
        ("data: a\noutput: b\nnetwork: {threshold: high}\n", UsageError, "network.threshold"),
        ("output: b\n", UsageError, "data"),
        ("- 1\n- 2\n", UsageError, ""),
        ("", UsageError, "data"),
        ("data: [1\n", InputError, "YAML"),
    ],
)
def test_a_configuration_that_cannot_be_meant(
    text: str, error: type[Exception], part: str, tmp_path: Path
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(error) as caught:
        read_config(path)
    assert "c.yaml" in str(caught.value)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_configuration_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml"):
        read_config(tmp_path / "none.yaml")


def test_a_configuration_as_written(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("preset: paper\ndata: a\noutput: b\nsteps: 7\nloss: {contrast: 0}\n")
    config = read_config(path)
    assert (config.preset, config.steps, config.data) == ("paper", 7, Path("a"))
    assert (config.loss.contrast, config.loss.token) == (0.0, 1.0)


def test_a_network_differs_from_its_preset_as_told(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("data: a\noutput: b\nnetwork: {raam: false, channels: [8, 8, 16, 24]}\n")
    expected = replace(PRESETS["compact"], raam=False, channels=(8, 8, 16, 24))
    assert network_config(read_config(path)) == expected


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
    pairs = SMALL_PAIRS(queries=4)
    drawn, again = validation_set(config, pairs), validation_set(config, pairs)
    assert len(drawn) == 2
    assert all(a.search.equal(b.search) for a, b in zip(drawn, again, strict=True))
    network = TLT(TINY).eval().requires_grad_(False)
    scores = validate(network, drawn, bf16=False)
    prior = torch.cat([(p.centers_mm - p.truth_mm).norm(dim=1) for p in drawn])
    found = torch.cat(
        [(predict(network, p, False)[0].center_mm - p.truth_mm).norm(dim=1) for p in drawn]
    )
    assert scores["val_prior_mm"] == pytest.approx(float(prior.mean()))
    assert scores["val_mm"] == pytest.approx(float(found.mean()))
    assert scores["val_within_10mm"] == pytest.approx(float((found <= 10).float().mean()))


def test_terms_of_the_paper_alone_where_similarity_is_off(config: TrainConfig) -> None:
    pair = validation_set(config, SMALL_PAIRS(queries=4))[0]
    paper = loss_terms(TLT(replace(TINY, similarity=False)), pair, config)
    assert set(paper) == {"center", "focal", "token"}
    assert set(loss_terms(TLT(TINY), pair, config)) == {*paper, "contrast"}


def test_a_run_is_not_overwritten(config: TrainConfig) -> None:
    config.output.mkdir(parents=True, exist_ok=True)
    (config.output / "checkpoint.pt").write_bytes(b"hours of work")
    with pytest.raises(UsageError, match="--resume"):
        train(config)
    assert (config.output / "checkpoint.pt").read_bytes() == b"hours of work"


def test_a_run_may_start_from_weights(config: TrainConfig, tmp_path: Path) -> None:
    torch.manual_seed(5)
    known = TLT(replace(TINY, similarity=False))
    save_weights(known, tmp_path / "known.safetensors", {})
    start = config.model_copy(
        update={"start": str(tmp_path / "known.safetensors"), "steps": 1, "learning_rate": 0.0}
    )
    made = load_weights(str(train(start))).network.state_dict()
    for name, value in known.state_dict().items():
        if "running" not in name and "tracked" not in name:  # batch statistics move all the same
            assert torch.allclose(made[name], value, atol=1e-6), name
    assert any(name.startswith("embed.") for name in made)
