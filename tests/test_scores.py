"""Rows on disk and their scores as figures and text."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from test_dls import record
from test_statistics import rows_of

from tlt.errors import InputError
from tlt.evaluate import Outcome
from tlt.rows import read_rows, write_rows
from tlt.scores import score, strata, text_of


def outcomes(errors) -> list[Outcome]:
    return [Outcome(row, {"peak": 0.5}) for row in rows_of(errors)]


def test_rows_survive_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    write_rows({"tlt": outcomes([1.0, math.nan, 3.0])}, path)
    again = read_rows(path)
    # NaN differs from itself: the slice distance is unknown.
    assert [str(row) for row in again] == [str(row) for row in rows_of([1.0, math.nan, 3.0])]
    write_rows({"tlt": outcomes([1.0]), "patch": outcomes([2.0])}, path)
    assert read_rows(path, "patch")[0].error_mm == 2.0
    with pytest.raises(InputError, match="choose one with --field"):
        read_rows(path)
    with pytest.raises(InputError, match="no rows of 'dlt'"):
        read_rows(path, "dlt")


def test_predictions_of_dls_are_rows_too(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps({"results": [record()]}))
    assert read_rows(path)[0].patient == "000001"
    path.write_text("{nonsense")
    with pytest.raises(InputError, match="cannot be read as JSON"):
        read_rows(path)
    path.write_text(json.dumps({"tlt": []}))
    with pytest.raises(InputError, match="nothing was tracked"):
        read_rows(path)
    path.write_text(json.dumps({"a": [1]}))
    with pytest.raises(InputError, match="is no pair"):
        read_rows(path)
    path.write_text(json.dumps({"tlt": [{"truth_mm": [0, 0, 0]}]}))
    with pytest.raises(InputError, match="a row cannot be read"):
        read_rows(path)


def test_strata_split_by_size_slices_prior_and_kind() -> None:
    rows = [
        replace(row, radius_mm=r, slice_mm=s, prior_mm=p, kind=k)
        for row, r, s, p, k in zip(
            rows_of([1.0] * 4),
            (4.9, 5.0, 10.0, 12.0),
            (1.0, 2.5, 5.0, math.nan),
            (None, (0.0, 9.9, 0.0), (6.0, 8.0, 0.0), (0.0, 0.0, 30.0)),
            ("painted", "structure", "GTV-1", "painted"),
            strict=True,
        )
    ]
    counts = {name: len(part) for name, part in strata(rows).items()}
    assert counts == {
        "radius < 5 mm": 1, "radius 5-10 mm": 1, "radius >= 10 mm": 2,
        "slices < 2.5 mm": 1, "slices 2.5-5 mm": 1, "slices >= 5 mm": 1,
        "prior < 10 mm off": 1, "prior >= 10 mm off": 2,
        "painted": 2, "real lesion": 1, "structure": 1,
    }  # fmt: skip


def test_scores_are_json_and_say_what_is_missing() -> None:
    scores = score(rows_of([1.0, 3.0, math.nan]), rows_of([2.0, 12.0, 3.0]))
    again = json.loads(json.dumps(scores, allow_nan=False))
    assert (again["n"], again["answered"], again["med_mm"]) == (3, 2, 2.0)
    assert again["cpm_10mm"] == pytest.approx(200 / 3)
    assert again["p95_mm"] is None  # a miss is infinitely far
    assert again["comparison"]["second_only"] == 1
    text = text_of(scores)
    assert "1 of 3 without an answer" in text
    assert "McNemar" in text
    alone = [r.__class__(**{**vars(r), "patient": "a"}) for r in rows_of([1.0, 2.0])]
    assert "fewer than two patients" in text_of(score(alone))
    lines = text.splitlines()
    assert len({len(line) for line in lines if line.startswith("|")}) == 1  # columns in line
