"""Configurations of training: as written, and those that cannot be meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from tlt.errors import InputError, UsageError
from tlt.training.config import TrainConfig, read_config

GOOD = "data: a\noutput: b\n"
CONFIGS = sorted((Path(__file__).parents[1] / "configs").rglob("*.yaml"))


@pytest.mark.parametrize(
    ("text", "error", "part"),
    [
        (GOOD + "learning_rat: 1\n", UsageError, "unknown key; did you mean learning_rate?"),
        (GOOD + "steps: many\n", UsageError, "steps is 'many', not a whole number"),
        (GOOD + "steps: 2.5\n", UsageError, "steps is 2.5, not a whole number"),
        (GOOD + "steps: 0\n", UsageError, "steps is 0: it must be greater than or equal to 1"),
        (GOOD + "learning_rate: fast\n", UsageError, "'fast', not a number"),
        (GOOD + "schedule: steep\n", UsageError, "'steep', not 'cosine' or 'constant'"),
        (GOOD + "bf16: perhaps\n", UsageError, "bf16 is 'perhaps', not true or false"),
        (GOOD + "marked: folder\n", UsageError, "marked is 'folder', not a list of"),
        (GOOD + "marked: {pairs: c, image: d}\n", UsageError, "did you mean images?"),
        (GOOD + "xyzzy: 1\n", UsageError, "xyzzy: unknown key; see"),
        ("data: a\noutput: b\nloss: {fokal: 1}\n", UsageError, "loss.fokal"),
        ("data: a\noutput: b\nloss: {focal: much}\n", UsageError, "loss.focal"),
        ("data: a\noutput: b\nsystem: elastix\n", UsageError, "'elastix' is none of"),
        ("data: a\noutput: b\npreset: huge\n", UsageError, "'huge' is none of"),
        ("output: b\n", UsageError, "data"),
        ("data: a\noutput: b\nnetwork: {sparse: 1}\n", UsageError, "no 'sparse'"),
        (
            "data: a\noutput: b\nnetwork: {threshold: high}\n",
            UsageError,
            "network.threshold is 'high'",
        ),
        ("data: a\noutput: b\npairs: {query: 3}\n", UsageError, "did you mean queries?"),
        ("data: a\noutput: b\npairs: {motion: {posture: 3}}\n", UsageError, "pairs.motion.posture"),
        ("data: a\noutput: b\nmarked: {images: c}\n", UsageError, "marked.pairs"),
        ("- 1\n- 2\n", UsageError, ""),
        ("", UsageError, "output"),
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
    with pytest.raises(InputError, match=r"none\.yaml: no such file"):
        read_config(tmp_path / "none.yaml")


def test_a_configuration_as_written(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("preset: paper\ndata: a\noutput: b\nsteps: 7\nloss: {contrast: 0}\n")
    config = read_config(path)
    assert (config.preset, config.steps, config.data) == ("paper", 7, Path("a"))
    assert (config.loss_weights["contrast"], config.loss_weights["token"]) == (0.0, 1.0)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_configurations_that_come_along_can_be_read(path: Path) -> None:
    config = read_config(path)
    assert config.model.name in config.family.network_class().presets


def test_a_network_may_differ_from_its_preset() -> None:
    config = TrainConfig(
        data=Path("a"), output=Path("b"), network={"sss": False, "channels": [8, 8, 16, 32]}
    )
    assert (config.model.sss, config.model.channels) == (False, (8, 8, 16, 32))
    assert config.model.raam


def test_crops_keep_their_millimetres_at_another_voxel_size() -> None:
    compact = TrainConfig(data=Path("a"), output=Path("b")).cut
    paper = TrainConfig(data=Path("a"), output=Path("b"), preset="paper").cut
    assert compact.crops_zyx[0] == (48, 80, 80)
    assert paper.crops_zyx[0] == (96, 160, 160)
    assert paper.spacing_mm == 1.0
    assert all(side % 8 == 0 for crop in paper.crops_zyx for side in crop)
