"""Table 1: rows are kept, compared with TLT's, and stand beside the paper's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tlt.cli.main import main
from tlt.metrics import LesionRow
from tlt.table1 import PAPER, table_lines, table_text


def rows(errors_mm: list[float]) -> list[LesionRow]:
    """A lesion of 8 mm radius for each error, in two patients."""
    return [
        LesionRow(
            pair=f"p{i % 2}",
            lesion=str(i),
            patient=f"p{i % 2}",
            kind="painted",
            radius_mm=8.0,
            truth_mm=(0.0, 0.0, 0.0),
            found_mm=(0.0, error, 0.0),
            prior_mm=(0.0, 0.0, 9.0),
            confidence=0.5,
            seconds=0.25,
            slice_mm=2.0,
        )
        for i, error in enumerate(errors_mm)
    ]


def test_a_table_from_known_errors() -> None:
    errors = list(np.linspace(1, 9, 20))
    known = {"dlt": rows([e + 1.5 + 0.01 * i for i, e in enumerate(errors)]), "tlt": rows(errors)}
    lines = table_lines(known, {"tlt": 812.4})
    assert [line["name"] for line in lines] == ["tlt", "dlt"]
    tlt, dlt = lines
    assert tlt["med_mm"] == pytest.approx(5.0)
    assert tlt["cpm_10mm"] == pytest.approx(100 * np.mean(np.array(errors) <= 8))
    assert "comparison" not in tlt
    assert dlt["comparison"]["p_lesions"] < 1e-6
    assert dlt["paper_dls"]["cpm_10mm"] == PAPER["dlt"].cpm_10mm == 78.85
    text = table_text(lines)
    first = [cell.strip() for cell in text.splitlines()[2].split("|")[1:-1]]
    assert first[0] == "tlt"
    assert first[7] == "5.00 ± 2.43"
    assert first[11] == "812"
    assert first[-1] == "6.0 ± 7.7"
    assert len({len(line) for line in text.splitlines()}) == 1


def test_trackers_one_by_one_into_one_table(ct_folder: Path, tmp_path: Path, capsys) -> None:
    output = tmp_path / "out"
    asked = ["experiment", "table1", "--data", str(ct_folder), "--output", str(output)]
    assert main([*asked, "--pairs", "1", "--tracker", "affine"]) == 0
    assert main([*asked, "--pairs", "1", "--tracker", "patch"]) == 0
    assert capsys.readouterr().out.endswith((output / "table1.md").read_text() + "\n")
    lines = json.loads((output / "table1.json").read_text())
    assert {line["name"] for line in lines} == {"affine", "patch"}
    assert all(line["n"] > 0 and 50 < line["peak_mib"] < 8000 for line in lines)
    assert not (output / "rows.part.json").exists()
    assert main([*asked, "--pairs", "2", "--tracker", "affine"]) == 2
    assert "rows of other pairs" in capsys.readouterr().err
    assert main([*asked, "--pairs", "1", "--tracker", "nobody"]) == 2
