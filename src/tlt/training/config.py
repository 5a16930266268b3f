"""The configuration of a training run, as read from YAML (docs/training.md lists the keys)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from tlt.data.pairs import PairConfig
from tlt.errors import InputError, UsageError
from tlt.families import FAMILIES, Family


class Marked(BaseModel):
    """Real pairs with marked lesions.

    Attributes:
        pairs: a list of DLS (JSON), or a folder of pairs as ``tlt simulate`` lays them out.
        images: the folder of DLS's sub-volumes; unused for a folder of pairs.
    """

    model_config = ConfigDict(extra="forbid")

    pairs: Path
    images: Path | None = None


class Annotated(BaseModel):
    """Lesions of DeepLesion: their places and types at one time.

    Attributes:
        info: ``DL_info.csv``; its training split is learned from, its validation split judges.
        images: the folder of sub-volumes that ``tlt convert deeplesion`` writes.
    """

    model_config = ConfigDict(extra="forbid")

    info: Path
    images: Path


class TrainConfig(BaseModel):
    """A training run.

    Attributes:
        system: what is trained: a family of networks (`tlt.families`).
        preset, network: network to train, and fields of its configuration that differ.
        data: folder of CTs to simulate pairs from (files with a ``_label`` name are skipped).
        marked, marked_share: pairs with marked lesions, and how often one is drawn instead of a
            simulated one.
        augmented_share: how often a pair is two augmentations of one CT of ``data`` instead.
        deeplesion: annotated lesions, each seen in two views of its CT; drawn instead of the others
            as often as ``marked_share`` says.
        validation, validation_marked: CTs, or marked pairs, of other patients; the best weights
            are chosen by them.
        cache: folder in which the pairs are kept, for other networks on the same pairs.
        output: where checkpoint, log and weights go.
        start: weights to start from; what they lack starts fresh.
        pairs: how pairs are simulated and cut.
        steps: optimiser steps; each sees ``accumulate`` pairs in every process.
        learning_rate, schedule, warmup, clip, weight_decay: AdamW (Adam where there is no decay).
        ease_steps, ease_from: the displacement grows from this share to full size.
        freeze_norm_at: share of the run after which batch statistics no longer move.
        loss: weights of terms of the loss that differ from those of the task.
        ema: decay of the averaged weights, which are what is judged and saved.
        workers: processes that make pairs, for each training process.
    """

    model_config = ConfigDict(extra="forbid")

    system: str = "tlt"
    preset: str = "compact"
    network: dict[str, Any] = Field(default_factory=dict)
    data: Path | None = None
    marked: Marked | None = None
    marked_share: float = Field(0.5, ge=0, le=1)
    augmented_share: float = Field(0.0, ge=0, le=1)
    deeplesion: Annotated | None = None
    validation: Path | None = None
    validation_marked: Marked | None = None
    cache: Path | None = None
    output: Path
    start: str | None = None
    pairs: PairConfig = PairConfig()
    steps: int = Field(10000, ge=1)
    accumulate: int = Field(2, ge=1)
    learning_rate: float = 6e-4
    schedule: Literal["cosine", "constant"] = "cosine"
    weight_decay: float = 0.01
    warmup: int = 200
    clip: float = 1.0
    seed: int = 0
    ease_steps: int = 1500
    ease_from: float = 0.3
    freeze_norm_at: float = 0.7
    ema: float = Field(0.998, ge=0, lt=1)
    loss: dict[str, float] = Field(default_factory=dict)
    workers: int = Field(1, ge=0)
    validation_pairs: int = Field(24, ge=1)
    checkpoint_every: int = Field(100, ge=1)
    validate_every: int = Field(500, ge=1)
    bf16: bool = True

    @model_validator(mode="after")
    def _fits_together(self) -> TrainConfig:
        if self.data is None and self.marked is None and self.deeplesion is None:
            raise ValueError(
                "neither data (CTs to simulate from) nor marked (pairs) nor deeplesion is given"
            )
        if self.deeplesion is not None and self.cache is not None:
            raise ValueError("the cache keeps no annotations of deeplesion; leave one of them out")
        if self.augmented_share and self.data is None:
            raise ValueError("augmented_share needs data, the CTs that are augmented")
        if self.validate_every % self.checkpoint_every:
            raise ValueError(
                f"validate_every ({self.validate_every}) is no multiple of checkpoint_every "
                f"({self.checkpoint_every})"
            )
        return self

    @property
    def family(self) -> Family:
        """What is trained.

        Raises:
            UsageError: no such system learns.
        """
        if self.system not in FAMILIES:
            raise UsageError(f"system '{self.system}' is none of {', '.join(FAMILIES)}")
        return FAMILIES[self.system]

    @property
    def model(self) -> Any:
        """The network's configuration: the preset with what ``network`` changes.

        Raises:
            UsageError: no such system, preset, or field.
        """
        presets = self.family.network_class().presets
        if self.preset not in presets:
            raise UsageError(f"preset '{self.preset}' is none of {', '.join(presets)}")
        preset = presets[self.preset]
        known = asdict(preset)
        for key in self.network:
            if key not in known:
                raise UsageError(f"network: no '{key}'; its keys are {', '.join(known)}")
        try:
            return TypeAdapter(type(preset)).validate_python(known | self.network)
        except ValidationError as error:
            raise UsageError(f"network.{_first(error, type(preset))}") from error

    @property
    def loss_weights(self) -> dict[str, float]:
        """The weight of each term of the loss: the task's with what ``loss`` changes.

        Raises:
            UsageError: the task has no such term.
        """
        known = dict(self.family.new_task().weights)
        for name in self.loss:
            if name not in known:
                raise UsageError(f"loss.{name}: no such term; they are {', '.join(known)}")
        return known | self.loss

    @property
    def cut(self) -> PairConfig:
        """How pairs are cut for this network: crops of the same millimetres at its voxel size."""
        spacing = self.model.spacing_mm
        stride = self.model.stride

        def voxels(length: int) -> int:
            return max(stride, round(length * self.pairs.spacing_mm / spacing / stride) * stride)

        crops = tuple((voxels(z), voxels(y), voxels(x)) for z, y, x in self.pairs.crops_zyx)
        return replace(self.pairs, spacing_mm=spacing, crops_zyx=crops)


def read_config(path: Path) -> TrainConfig:
    """The configuration in a YAML file.

    Raises:
        InputError: missing or unreadable; UsageError: a key or value that cannot be.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; check the path")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(
            f"{path}: cannot be read as YAML ({str(error).splitlines()[0]})"
        ) from error
    try:
        config = TrainConfig.model_validate(values or {})
        _ = config.model, config.loss_weights  # what cannot be is told now
    except ValidationError as error:
        raise UsageError(f"{path}: {_first(error, TrainConfig)}; see docs/training.md") from error
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    return config


KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "path": "a path",
    "tuple": "a list",
    "dict": "a list of 'key: value'",
    "model": "a list of 'key: value'",
    "dataclass": "a list of 'key: value'",
}


def _first(error: ValidationError, kind: Any) -> str:
    """The first thing wrong with values for a class, in one line."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    value, about = first["input"], first.get("ctx", {})
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        *above, key = first["loc"]
        near = get_close_matches(str(key), _keys(kind, above), 1)
        return f"{where}: unknown key" + (f"; did you mean {near[0]}?" if near else "")
    if first["type"] in ("missing", "missing_argument"):
        return f"{where} is missing"
    wanted = KINDS.get(first["type"].split("_")[0])
    if wanted:
        return f"{where} is {value!r}, not {wanted}".strip()
    if "expected" in about:
        return f"{where} is {value!r}, not {about['expected']}"
    message = first["msg"].removeprefix("Value error, ").replace("Input should be", "it must be")
    return f"{where} is {value!r}: {message}" if where else message


def _keys(kind: Any, path: Sequence[int | str]) -> list[str]:
    """The keys of a class, or of what lies in its field at ``path``."""
    for part in path:
        field = get_type_hints(kind)[str(part)]
        kind = next((a for a in get_args(field) if a is not type(None)), field)
    return list(get_type_hints(kind))
