"""Weights on disk: a round trip, and one line of explanation for every file that cannot be used."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from tlt.errors import ModelError
from tlt.model.network import TLT
from tlt.model.presets import PRESETS
from tlt.model.weights import load_weights, save_weights, weights_path

TINY = replace(PRESETS["compact"], channels=(4, 4, 8, 16), heads=2, layers=1, embedding=8)


def tiny_network(seed: int = 0) -> TLT:
    torch.manual_seed(seed)
    return TLT(TINY)


def refusal(path: Path | str) -> str:
    """The message with which a file of weights is refused."""
    with pytest.raises(ModelError) as caught:
        load_weights(str(path))
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_round_trip_keeps_network_configuration_and_notes(tmp_path: Path) -> None:
    network, path = tiny_network(), tmp_path / "w.safetensors"
    network.encode(torch.randn(1, 1, 16, 16, 16))  # batch statistics are weights too
    save_weights(network, path, {"steps": 7})
    loaded = load_weights(str(path))
    assert loaded.network.config == TINY
    assert not loaded.network.training
    assert loaded.notes == {"steps": 7}
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    for name, tensor in network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[name], tensor), name
    assert [file.name for file in tmp_path.iterdir()] == ["w.safetensors"]


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_rebuilt_from_its_own_file(name: str, tmp_path: Path) -> None:
    config = replace(PRESETS[name], channels=(4, 4, 8, 16), heads=2, layers=1, threshold=0.55)
    save_weights(TLT(config), tmp_path / "w.safetensors", {})
    assert load_weights(str(tmp_path / "w.safetensors")).network.config == config


@pytest.mark.skipif(os.name != "posix", reason="modes are those of POSIX")
def test_weights_may_be_read_like_other_files(tmp_path: Path) -> None:
    save_weights(tiny_network(), tmp_path / "w.safetensors", {})
    (tmp_path / "other").write_text("")
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_saving_replaces_older_weights(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    for seed in (0, 1):
        save_weights(tiny_network(seed), path, {"seed": seed})
    loaded = load_weights(str(path))
    assert loaded.notes == {"seed": 1}
    assert torch.equal(loaded.network.embed.weight, tiny_network(1).embed.weight)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not safetensors", b"\xff" * 64])
def test_a_file_that_is_not_safetensors(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(content)
    assert "w.pt: not a safetensors file" in refusal(path)


def test_a_truncated_file(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(tiny_network(), path, {})
    path.write_bytes(path.read_bytes()[:-100])
    assert "not a safetensors file" in refusal(path)


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"format": "pt"},
        {"tlt_config": "no JSON"},
        {"tlt_config": "{}"},
        {"tlt_config": json.dumps(asdict(TINY) | {"mood": "good"})},
        {"tlt_config": json.dumps(asdict(TINY) | {"strides": 3})},
    ],
)
def test_weights_of_another_model(metadata: dict | None, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(tiny_network().state_dict(), path, metadata)
    assert "no usable 'tlt_config'" in refusal(path)


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_tensors_that_do_not_fit(change: str, tmp_path: Path) -> None:
    state = tiny_network().state_dict()
    if change == "missing":
        del state["embed.weight"]
    elif change == "extra":
        state["other.weight"] = torch.zeros(3)
    else:
        state["embed.weight"] = torch.zeros(9, 16)
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(state, path, {"tlt_config": json.dumps(asdict(TINY))})
    message = refusal(path)
    assert "do not fit" in message
    assert "'compact'" in message


def test_a_name_that_is_neither_file_nor_shipped(tmp_path: Path) -> None:
    assert "tlt-ct" in refusal("tlt-mri")
    assert "no weights" in refusal(tmp_path)  # a folder


def test_a_shipped_name_is_looked_up_in_the_package() -> None:
    path = weights_path("tlt-ct")
    assert path.parts[-3:] == ("tlt", "weights", "tlt-ct.safetensors")
