"""Experiments through the command line, on a phantom."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import make_phantom, torso_grid
from scipy import ndimage
from tiny import tiny_siamese

from tlt.cli.main import main
from tlt.errors import UsageError
from tlt.experiments import chosen_trackers
from tlt.io.images import save_volume
from tlt.metrics import summarise
from tlt.model.shipped import shipped_path
from tlt.model.weights import save_weights
from tlt.rows import read_rows
from tlt.volume import Volume


@pytest.fixture(scope="module")
def cts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one CT: a torso whose tissues have structure."""
    volume = make_phantom(torso_grid((100, 76, 50), (3.5, 3.5, 5.0)))
    noise = np.random.default_rng(0).normal(size=volume.voxels.shape)
    smooth = ndimage.gaussian_filter(noise, (1.2, 2.0, 2.0))
    voxels = volume.voxels + (volume.voxels > -990) * 100 * smooth / smooth.std()
    folder = tmp_path_factory.mktemp("cts")
    save_volume(Volume(voxels.astype(np.int16), volume.grid), folder / "torso.nii.gz")
    return folder


def test_a_benchmark_leaves_rows_that_give_its_table(cts: Path, tmp_path: Path, capsys) -> None:
    output = tmp_path / "out"
    asked = ["experiment", "benchmark", "--data", str(cts), "--output", str(output)]
    asked += ["--pairs", "2", "--tracker", "affine", "--tracker", "patch"]
    assert main(asked) == 0
    text = capsys.readouterr().out
    assert text == (output / "table.md").read_text() + "\n"
    affine, patch = (read_rows(output / "rows.json", name) for name in ("affine", "patch"))
    assert [(r.pair, r.lesion) for r in affine] == [(r.pair, r.lesion) for r in patch]
    assert {r.pair for r in affine} == {"torso-00", "torso-01"}
    assert f"{summarise(patch).med_mm:.2f} ± " in text
    assert text.startswith(f"{cts.name}: 2 pairs, seed 2022; tlt ")
    assert "- patch - affine: MED" in text
    assert main(asked) == 2
    assert "choose another --output" in capsys.readouterr().err
    assert main([*asked[:5], str(tmp_path / "again"), *asked[6:]]) == 0
    again = read_rows(tmp_path / "again" / "rows.json", "patch")
    assert [r.found_mm for r in again] == [r.found_mm for r in patch]  # the seed fixes it


def test_calibration_keeps_what_other_trackers_have(cts: Path, tmp_path: Path, capsys) -> None:
    path = tmp_path / "confidence.json"
    path.write_text(json.dumps({"other": {"weights": {}, "intercept": 1.0}}))
    asked = ["experiment", "calibrate", "--data", str(cts), "--output", str(path)]
    assert main([*asked, "--pairs", "2", "--tracker", "patch"]) == 0
    content = json.loads(path.read_text())
    assert set(content) == {"other", "patch"}
    assert "correlation" in content["patch"]["weights"]
    assert main([*asked, "--tracker", "nobody"]) == 2
    assert "unknown; use one of tlt" in capsys.readouterr().err


def test_a_model_goes_to_whom_it_is_given(tmp_path: Path) -> None:
    """To a tracker alone, whatever it is, or to TLT among several; never to nobody."""
    path = str(tmp_path / "w.safetensors")
    save_weights(tiny_siamese("siamrpn"), Path(path), {}, "siamrpn")
    (alone,) = chosen_trackers(["siamrpn", "siamrpn"], path, calibrated=False)
    assert (alone.name, alone.model_name) == ("siamrpn", path)
    tlt = str(shipped_path("tlt-ct"))
    models = [t.model_name for t in chosen_trackers(["affine", "tlt-network"], tlt, False)]
    assert models == [None, tlt]
    with pytest.raises(UsageError, match="none of affine, siamrpn takes it"):
        chosen_trackers(["affine", "siamrpn"], path, calibrated=False)
    with pytest.raises(UsageError, match="has no weights"):
        chosen_trackers(["patch"], path, calibrated=False)


def test_simulate_says_what_became_of_its_lesions(cts: Path, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "pair"
    asked = ["simulate", "--input", str(cts / "torso.nii.gz"), "--output", str(folder)]
    assert main([*asked, "--seed", "3", "--vanish", "0.5"]) == 0
    counts = [int(n) for n in re.findall(r"(\d+) (?:lesions|in the|gone|out of)", _out(capsys))]
    total, seen, gone, outside = counts
    lesions, truth = (
        (folder / name).read_text().splitlines()[1:] for name in ("lesions.csv", "truth.csv")
    )
    assert (total, seen) == (len(lesions), len(truth))
    assert total == seen + gone + outside
    assert gone > 0
    assert main(asked) == 2
    assert "choose another --output" in capsys.readouterr().err
    assert main([*asked, "--vanish", "2"]) == 2
    assert main(["evaluate", "--tracker", "affine", "--dataset", str(folder), "-q"]) == 0
    assert f" {seen} " in _out(capsys).splitlines()[2]  # the row of all lesions


def _out(capsys) -> str:
    return capsys.readouterr().out


def test_sizes_are_measured_against_the_truth(cts: Path, tmp_path: Path, capsys) -> None:
    output = tmp_path / "sizes"
    asked = ["experiment", "sizes", "--data", str(cts), "--output", str(output)]
    assert main([*asked, "--pairs", "1", "--tracker", "patch"]) == 0
    text = capsys.readouterr().out
    assert text == (output / "sizes.md").read_text() + "\n"
    with (output / "sizes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    methods = {row["method"] for row in rows}
    assert len(methods) == 4
    assert len(rows) % 4 == 0
    same = [row for row in rows if row["method"] == "unchanged from baseline"]
    assert all(row["long_mm"] == row["before_mm"] for row in same)
    grown = [float(row["true_mm"]) / float(row["before_mm"]) for row in same if row["true_mm"]]
    assert 0.3 < min(grown) < max(grown) < 2.6
    assert f"| unchanged from baseline | {len(grown)} |" in text
    assert main(asked) == 2
