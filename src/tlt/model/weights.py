"""Weights on disk: safetensors that carry the configuration of the network they belong to."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from tlt.errors import ModelError
from tlt.model.backbone import fold_batch_norms
from tlt.model.network import TLT
from tlt.model.presets import ModelConfig

SHIPPED = ("tlt-ct",)


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A network ready for inference and what is known of it.

    Attributes:
        network: in evaluation mode, fp32.
        name: shipped name or file name.
        sha256: of the file.
        notes: free metadata that training stored (steps, calibration of the confidence).
    """

    network: TLT
    name: str
    sha256: str
    notes: dict


def save_weights(network: TLT, path: Path, notes: dict) -> None:
    """Write the network, its configuration and ``notes`` (JSON values), beside and renamed."""
    metadata = {"tlt_config": json.dumps(asdict(network.config)), "tlt_notes": json.dumps(notes)}
    state = {name: tensor.contiguous().clone() for name, tensor in network.state_dict().items()}
    temporary = path.with_name(path.name + ".part")
    safetensors.torch.save_file(state, temporary, metadata)
    os.replace(temporary, path)


def load_weights(name_or_path: str) -> LoadedModel:
    """The network of a shipped name or of a safetensors file.

    Raises:
        ModelError: no such file, not safetensors, not written by tlt, or tensors that do not fit.
    """
    path = weights_path(name_or_path)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        state = safetensors.torch.load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path.name}: not a safetensors file of weights ({_first_line(error)}); "
            "give a file written by 'tlt train' or the name tlt-ct"
        ) from error
    network = TLT(_config(path, metadata))
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(
            f"{path.name}: its tensors do not fit the network that it names "
            f"'{network.config.name}'; train again with this version of tlt"
        ) from error
    notes = json.loads(metadata.get("tlt_notes", "{}"))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return LoadedModel(network.eval(), name_or_path, sha256, notes)


def weights_path(name_or_path: str) -> Path:
    """The file of a shipped name, or the path itself when it exists."""
    if name_or_path in SHIPPED:
        path = Path(str(resources.files("tlt"))) / "weights" / f"{name_or_path}.safetensors"
    else:
        path = Path(name_or_path)
    if not path.is_file():
        raise ModelError(
            f"no weights '{name_or_path}': neither a file nor one of the shipped models "
            f"({', '.join(SHIPPED)}); make your own with 'tlt train --config C.yaml'"
        )
    return path


def _config(path: Path, metadata: dict[str, str]) -> ModelConfig:
    try:
        values = json.loads(metadata["tlt_config"])
        values["windows_hu"] = tuple(tuple(window) for window in values["windows_hu"])
        for field in ("channels", "strides", "blocks"):
            values[field] = tuple(values[field])
        return ModelConfig(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{path.name}: weights of another model (no usable 'tlt_config' inside); "
            "give a file written by 'tlt train' or the name tlt-ct"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["?"])[0]


def inference_network(network: TLT, bf16: bool) -> TLT:
    """The network as it runs: batch norms folded, channels last, bf16 where asked."""
    fold_batch_norms(network.eval())
    network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    if bf16:
        network.backbone.to(torch.bfloat16)
    return network
