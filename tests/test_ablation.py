"""The paper's ablations in miniature: what differs, what is reused, and the table."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml
from fakes import LESIONS, SHIFT_MM, ball_volume
from test_train import SMALL_PAIRS, TINY_NETWORK

import tlt.ablation
from tlt.ablation import (
    EXPERIMENTS,
    FULL,
    train_variants,
    variant_config,
    variants_of,
)
from tlt.ablation_table import remarks, variant_scores, variant_table
from tlt.cli.main import main
from tlt.errors import InputError, ModelError, UsageError
from tlt.io.images import save_volume
from tlt.io.lesions import write_lesions_csv
from tlt.lesion import Lesion
from tlt.metrics import LesionRow, summarise
from tlt.model.presets import PRESETS
from tlt.model.weights import load_weights
from tlt.rows import read_rows
from tlt.training.config import TrainConfig, read_config


class Interrupted(Exception):
    """Stands for a power cut."""


@pytest.fixture
def settings(ct_folder: Path) -> dict:
    """Two steps of a tiny network, as the keys of the YAML."""
    return {
        "network": TINY_NETWORK, "pairs": SMALL_PAIRS, "data": str(ct_folder), "output": "unused",
        "steps": 2, "workers": 0, "checkpoint_every": 1, "warmup": 1, "bf16": False,
    }  # fmt: skip


@pytest.fixture
def config(settings: dict) -> TrainConfig:
    return TrainConfig.model_validate(settings)


@pytest.fixture
def pair_folder(tmp_path: Path) -> Path:
    """Two patients with one pair of phantoms each."""
    for name in ("anna", "bert"):
        folder = tmp_path / "pairs" / name
        folder.mkdir(parents=True)
        save_volume(ball_volume(LESIONS), folder / "baseline.nii.gz")
        save_volume(ball_volume(LESIONS, SHIFT_MM), folder / "followup.nii.gz")
        write_lesions_csv(LESIONS, folder / "lesions.csv")
        moved = [
            Lesion(x.id, (x.center_mm[0] + 4, x.center_mm[1] - 6, x.center_mm[2] + 9), x.radius_mm)
            for x in LESIONS
        ]
        write_lesions_csv(moved, folder / "truth.csv")
    return tmp_path / "pairs"


def switches(variant) -> tuple:
    return tuple(variant.network[name] for name in ("sss", "raam", "global_regression"))


def test_variants_are_those_of_the_paper(config: TrainConfig) -> None:
    ablation = {v.name: switches(v) for v in variants_of("ablation", config)}
    assert ablation == {
        "none": (False, False, False),
        "sss": (True, False, False),
        "sss+raam": (True, True, False),
        FULL: (True, True, True),
    }
    one_out = {v.name: switches(v) for v in variants_of("leave-one-out", config)}
    assert one_out == {
        "raam+global": (False, True, True),
        "sss+global": (True, False, True),
        "sss+raam": (True, True, False),
        FULL: (True, True, True),
    }
    by_threshold = variants_of("threshold", config)
    assert [v.network["threshold"] for v in by_threshold] == [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    assert [v.name for v in by_threshold][2] == FULL
    papers = [v.paper.cpm_10mm for v in by_threshold if v.paper]
    assert papers == [83.57, 83.99, 87.37, 86.70, 86.37, 85.01]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_variants_differ_in_nothing_but_their_switches(
    experiment: str, config: TrainConfig, tmp_path: Path
) -> None:
    base = asdict(config.model)
    for variant in variants_of(experiment, config):
        wanted = variant_config(config, variant, tmp_path)
        assert asdict(wanted.model) == base | variant.network
        same = {"network": config.network, "output": config.output}
        assert wanted.model_copy(update=same) == config
        assert wanted.output == tmp_path / "variants" / variant.name


def test_a_variant_of_the_same_name_is_the_same_network(config: TrainConfig) -> None:
    seen: dict[str, object] = {}
    for experiment in EXPERIMENTS:
        for variant in variants_of(experiment, config):
            found = variant_config(config, variant, Path()).model
            assert seen.setdefault(variant.name, found) == found
    assert len(seen) == 4 + 2 + 5  # Table 2, Table S1 without the two that it shares, thresholds


def test_a_killed_experiment_goes_on_and_trains_nothing_twice(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variants = variants_of("ablation", config)[2:]
    steps: list[str] = []

    def say(line: str) -> None:
        steps.append(line)
        if line.startswith(f"{FULL}: step 1:"):
            raise Interrupted

    with pytest.raises(Interrupted):
        train_variants(config, variants, tmp_path, report=say)
    with pytest.raises(UsageError, match="--resume"):
        train_variants(config, variants, tmp_path)
    kept = (tmp_path / "variants" / "sss+raam" / "weights.safetensors").stat().st_mtime_ns
    lines: list[str] = []
    weights = train_variants(config, variants, tmp_path, resume=True, report=lines.append)
    assert [line.split(", ")[0].split(": loss")[0] for line in lines] == [
        "sss+raam: trained already",
        f"{FULL}: step 2",
        f"{FULL}: trained",
    ]
    assert weights["sss+raam"].stat().st_mtime_ns == kept
    assert load_weights(str(weights["sss+raam"])).network.config.global_regression is False
    assert load_weights(str(weights[FULL])).network.config.global_regression is True
    # Another experiment in the same folder has one of them already.
    shared = [v for v in variants_of("threshold", config) if v.name == FULL]
    said: list[str] = []
    assert train_variants(config, shared, tmp_path, report=said.append)[FULL] == weights[FULL]
    assert said == [f"{FULL}: trained already"]
    longer = config.model_copy(update={"steps": 3})
    with pytest.raises(UsageError, match=r"steps 2, and now it is 3"):
        train_variants(longer, variants, tmp_path, resume=True)


def test_processes_train_at_once_and_a_failure_names_its_variant(
    config: TrainConfig, tmp_path: Path
) -> None:
    variants = variants_of("ablation", config)[:2]
    broken = config.model_copy(update={"start": str(tmp_path / "none.safetensors"), "steps": 1})
    lines: list[str] = []
    with pytest.raises(ModelError, match=r"variant (none|sss): no weights .* failed\)"):
        train_variants(broken, variants, tmp_path, jobs=2, report=lines.append)
    assert sorted(lines) == ["none: failed", "sss: failed"]


def test_the_command_trains_evaluates_and_leaves_table_and_rows(
    settings: dict, pair_folder: Path, tmp_path: Path, capsys
) -> None:
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(settings | {"steps": 1}))
    asked = ["experiment", "ablation", "--config", str(tmp_path / "c.yaml")]
    asked += ["--data", str(pair_folder), "--output", str(tmp_path / "out")]
    assert main(asked) == 0
    told = capsys.readouterr()
    place = tmp_path / "out" / "ablation"
    assert told.out == (place / "table.md").read_text() + "\n"
    assert "paper (DLS): CPM@10mm %" in told.out
    assert "79.59" in told.out
    assert "5.98 ± 7.68" in told.out
    content = json.loads((place / "table.json").read_text())
    assert [line["name"] for line in content["variants"]] == ["none", "sss", "sss+raam", FULL]
    for line in content["variants"]:
        rows = read_rows(place / "rows.json", line["name"])
        assert len(rows) == 6
        assert line["med_mm"] == pytest.approx(summarise(rows).med_mm)
        low, high = line["intervals"]["p95_mm"]
        assert low <= line["p95_mm"] <= high
        tests = line["against_full"]
        assert (tests is None) == (line["name"] == FULL)
        assert tests is None or 0 <= tests["p_mcnemar"] <= 1
    first, *others = (
        [r.prior_mm for r in read_rows(place / "rows.json", line["name"])]
        for line in content["variants"]
    )
    assert all(priors == first for priors in others)  # one registration for all
    assert "trained already" not in told.err
    assert main(asked) == 0
    assert told.out == capsys.readouterr().out


def row(patient: str, lesion: str, error_mm: float) -> LesionRow:
    origin, found = (0.0, 0.0, 0.0), (error_mm, 0.0, 0.0)
    return LesionRow("p", lesion, patient, "x", 20.0, origin, found, origin, 0.5, 1.0)


def test_a_table_by_hand(config: TrainConfig) -> None:
    variants = variants_of("ablation", config)
    better = [row(f"a{i % 4}", str(i), 2.0 + i % 2) for i in range(12)]
    worse = [replace(r, found_mm=(r.error_mm + 9, 0.0, 0.0)) for r in better]
    rows = {v.name: better if v.name == FULL else worse for v in variants}
    rows["none"] = [replace(r, found_mm=None) if r.lesion == "0" else r for r in worse]
    scores = variant_scores(variants, rows)
    assert scores[1]["against_full"]["med_difference_mm"] == pytest.approx(9)
    assert scores[1]["against_full"]["second_only"] == 12
    assert scores[1]["against_full"]["p_mcnemar"] == pytest.approx(2 * 0.5**12)
    lines = variant_table(scores).splitlines()
    assert "p CPM, McNemar" in lines[0]
    assert "| +9.00" in lines[3]
    assert "0.00049" in lines[3]
    assert "| 84.78" in lines[3]
    assert "nan" not in "".join(lines)
    assert "None" not in "".join(lines)
    json.dumps(scores, allow_nan=False)


def test_remarks_say_what_stays_on(config: TrainConfig, ct_folder: Path) -> None:
    text = " ".join(remarks(config, variants_of("ablation", config), ct_folder, "2 pairs"))
    assert "not independent" in text  # tested on the CTs that it was trained on
    assert "carry their offset" in text
    assert "similarity of learned embeddings" in text
    assert "40 mm" in text
    bare = config.model_copy(update={"network": {"similarity": False, "position": "crop"}})
    text = " ".join(remarks(bare, variants_of("threshold", bare), Path("other"), "2 pairs"))
    assert "learned embeddings" not in text
    assert "place in the window" in text
    assert "a radius above 12 mm" in text


@pytest.mark.parametrize(
    ("change", "words", "code"),
    [
        ({"--data": "nowhere"}, "nowhere: no such file or folder", 3),
        ({"--data": "."}, "no *.nii.gz CT in it", 3),
        ({"--data": "c.yaml"}, "--images FOLDER", 2),
        ({"--config": "none.yaml"}, "none.yaml", 3),
        ({"--jobs": "0"}, "jobs", 2),
    ],
)
def test_errors_come_before_the_training(
    change: dict, words: str, code: int, settings: dict, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(yaml.safe_dump(settings))
    given = {"--config": "c.yaml", "--data": settings["data"], "--output": "out", **change}
    asked = [word for item in given.items() for word in item]
    assert main(["experiment", "leave-one-out", *asked]) == code
    assert words in capsys.readouterr().err
    assert not Path("out").exists()


def test_a_threshold_that_is_not_compared_is_refused(settings: dict, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(settings | {"network": {**TINY_NETWORK, "threshold": 0.65}}))
    with pytest.raises(UsageError, match=r"0\.65 is none of 0\.9"):
        variants_of("threshold", read_config(path))
    assert PRESETS["compact"].threshold == 0.7
    with pytest.raises(InputError, match="no such"):
        tlt.ablation.run_experiment("ablation", read_config(path), tmp_path / "no", tmp_path)


def test_what_is_not_installed_is_told_before_anything_is_written(
    settings: dict, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(settings))
    asked = ["experiment", "ablation", "--config", str(path), "--data", str(settings["data"])]
    assert main([*asked, "--output", str(tmp_path / "out")]) == 4
    assert "error: training needs the package accelerate" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
