"""Weights on disk: safetensors that carry the configuration of the network they belong to."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tlt.errors import ModelError
from tlt.families import FAMILIES, Family
from tlt.io.files import atomic_write
from tlt.model.backbone import fold_batch_norms
from tlt.model.shipped import KNOWN, how_made, shipped_path


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A network ready for inference and what is known of it.

    Attributes:
        network: in evaluation mode, fp32.
        name: shipped name or file name.
        sha256: of the file.
        notes: free metadata that training stored.
        family: of the network (`tlt.families`).
    """

    network: Any
    name: str
    sha256: str
    notes: dict
    family: str = "tlt"


def save_weights(network: Any, path: Path, notes: dict, family: str = "tlt") -> None:
    """Write the network, its configuration and ``notes`` (JSON values), beside and renamed."""
    metadata = {
        "tlt_family": family,
        "tlt_config": json.dumps(asdict(network.config)),
        "tlt_notes": json.dumps(notes),
    }
    state = {name: tensor.contiguous().clone() for name, tensor in network.state_dict().items()}
    # Not save_file, which leaves a file that nobody else may read.
    atomic_write(path, safetensors.torch.save(state, metadata))


def load_weights(name_or_path: str, wanted: str | None = None) -> LoadedModel:
    """The network of a shipped name or of a safetensors file.

    Raises:
        ModelError: no such file, not safetensors, not written by tlt, tensors that do not fit, or
            of another family than ``wanted``.
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
    family = metadata.get("tlt_family", "tlt")  # the first weights did not say
    if family not in FAMILIES or wanted not in (None, family):
        raise ModelError(
            f"{path.name}: weights of '{family}', not of '{wanted or ', '.join(FAMILIES)}'; "
            f"give a file written by 'tlt train' with 'system: {wanted or 'tlt'}'"
        )
    network = FAMILIES[family].build(_config(path, metadata, FAMILIES[family]))
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(
            f"{path.name}: its tensors do not fit the network that it names "
            f"'{network.config.name}'; train again with this version of tlt"
        ) from error
    notes = json.loads(metadata.get("tlt_notes", "{}"))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return LoadedModel(network.eval(), name_or_path, sha256, notes, family)


def weights_path(name_or_path: str) -> Path:
    """The file of a shipped name, or the path itself when it exists.

    Raises:
        ModelError: there is none.
    """
    known = name_or_path in KNOWN
    path = shipped_path(name_or_path) if known else Path(name_or_path)
    if path.is_file():
        return path
    if known:
        raise ModelError(
            f"the weights '{name_or_path}' are missing in this installation of tlt; install it "
            f"again, or make them in a clone of the repository with {how_made(name_or_path)} and "
            "give weights.safetensors of the last output with --model (DETECTOR,EMBEDDING for a "
            "tracker of two networks)"
        )
    raise ModelError(
        f"no weights '{name_or_path}': neither a file nor one of the shipped models "
        f"({', '.join(name for name in KNOWN if shipped_path(name).is_file())}); give one of "
        "these or a file that 'tlt train' made"
    )


def _config(path: Path, metadata: dict[str, str], family: Family) -> Any:
    """The configuration of the network in a file."""
    presets = family.network_class().presets
    kind = type(next(iter(presets.values())))
    try:
        return TypeAdapter(kind).validate_json(metadata["tlt_config"])
    except (KeyError, ValueError) as error:
        raise ModelError(
            f"{path.name}: weights of another model (no usable 'tlt_config' inside); "
            "give a file written by 'tlt train' or the name tlt-ct"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["?"])[0]


def inference_network(network: Any, bf16: bool) -> Any:
    """The network as it runs: batch norms folded, channels last, ``backbone`` in bf16 if asked."""
    fold_batch_norms(network.eval())
    network.to(memory_format=torch.channels_last_3d)
    if bf16:
        network.backbone.to(torch.bfloat16)
    return network


def precision_on(device: str, bf16: bool) -> torch.autocast:
    """What an `inference_network` computes in on a device: to be entered around its calls."""
    return torch.autocast(device.split(":")[0], torch.bfloat16, enabled=bf16)


def tensor_on(values: Any, device: str) -> Tensor:
    """Values as a float32 tensor on a device."""
    return torch.as_tensor(np.asarray(values, np.float32), device=device)
