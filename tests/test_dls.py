"""DLS: pixels to millimetres, the traps of the published list, and Table 1 to the digit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tlt.data.dls import pixels_to_mm, predicted_rows, read_dls
from tlt.errors import InputError
from tlt.metrics import summarise

PUBLISHED = Path(__file__).parents[2] / "shared" / "dls" / "dlt_predictions.json"


def record(**changes) -> dict:
    return {
        "source": "000001_01_01_001-011.nii.gz",
        "target": "000001_02_01_010-030.nii.gz",
        "source center": [100.0, 200.0, 5.0],
        "target center": [110.0, 190.0, 12.0],
        "source spacing": [0.8, 0.8, 5.0],
        "target spacing": [0.5, 0.5, 2.0],
        "target box": [100.0, 180.0, 10.0, 20.0, 20.0, 4.0],
        "source recist diameter": [20.0, 10.0],
        "target recist diameter": [16.0, 24.0],
        "predict target center": [114.0, 193.0, 13.0],
    } | changes


def written(path: Path, content) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_diameters_are_pixels_and_distances_use_the_targets_spacing(tmp_path: Path) -> None:
    (pair,) = read_dls(written(tmp_path / "test.json", {"0001": record()}))
    assert pair.patient == "000001"
    assert pair.source.radius_mm == pytest.approx(8.0)  # 20 pixels of 0.8 mm, halved
    assert pair.target.radius_mm == pytest.approx(6.0)  # the longer one of 24
    (row,) = predicted_rows([pair])
    assert row.error_mm == pytest.approx(np.sqrt(2.0**2 + 1.5**2 + 2.0**2))
    assert row.slice_mm == 2.0
    assert row.within_box
    assert row.within_10mm


def test_a_prediction_outside_the_box_or_none_is_wrong(tmp_path: Path) -> None:
    off = record(**{"predict target center": [119.0, 190.0, 14.5]})
    missing = record(**{"predict target center": None})
    path = written(tmp_path / "p.json", {"results": [off, missing]})
    rows = predicted_rows(read_dls(path))
    assert not rows[0].within_box
    assert rows[1].found_mm is None
    summary = summarise(rows)
    assert (summary.n, summary.answered, summary.cpm_box) == (2, 1, 0.0)


def test_slices_run_downwards() -> None:
    assert pixels_to_mm((10.0, 20.0, 3.0), (0.5, 0.8, 5.0)) == (5.0, 16.0, -15.0)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"0001": {"source": "a"}}, "no field 'source center'"),
        ({"0001": record(**{"target box": [1, 2]})}, "target box has 2 numbers"),
        ({"0001": record(**{"source center": [1, 2]})}, "0001"),
        ({"0001": record(**{"target recist diameter": []})}, "holds no number"),
        ([], "no pairs"),
        ({}, "no pairs"),
    ],
)
def test_what_is_no_list_is_refused(tmp_path: Path, content, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_dls(written(tmp_path / "bad.json", content))


def test_a_field_that_no_pair_has_is_refused(tmp_path: Path) -> None:
    pairs = read_dls(written(tmp_path / "t.json", {"0001": record()}))
    with pytest.raises(InputError, match="the file holds 'predict target center'"):
        predicted_rows(pairs, "initial center")
    broken = read_dls(written(tmp_path / "u.json", {"1": record(**{"initial center": "here"})}))
    with pytest.raises(InputError, match="three numbers"):
        predicted_rows(broken, "initial center")


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the published predictions are not here")
@pytest.mark.parametrize(
    ("field", "cpm", "axes", "med"),
    [
        (
            "predict target center",
            ("78.85", "86.88"),
            ("3.48±5.61", "2.93±4.86", "4.03±6.06"),
            "6.98±8.95",
        ),
        (
            "initial center",
            ("48.33", "65.21"),
            ("4.14±5.04", "5.36±5.65", "7.15±8.34"),
            "11.23±9.88",
        ),
    ],
)
def test_table_1_to_the_digit(field: str, cpm: tuple, axes: tuple, med: str) -> None:
    s = summarise(predicted_rows(read_dls(PUBLISHED), field))
    assert s.n == 960
    assert (f"{s.cpm_10mm:.2f}", f"{s.cpm_radius:.2f}") == cpm
    assert axes == (
        f"{s.med_x_mm:.2f}±{s.med_x_std_mm:.2f}",
        f"{s.med_y_mm:.2f}±{s.med_y_std_mm:.2f}",
        f"{s.med_z_mm:.2f}±{s.med_z_std_mm:.2f}",
    )
    assert f"{s.med_mm:.2f}±{s.med_std_mm:.2f}" == med
    if field == "predict target center":
        assert (f"{s.cpm_fixed_10mm:.2f}", f"{s.cpm_box:.2f}") == ("86.67", "95.31")
