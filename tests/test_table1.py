"""Table 1: rows are kept, compared with TLT's, and stand beside the paper's."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import make_phantom, torso_grid

import tlt.peak_memory
from tlt.cli.main import INTERNAL_ERROR, main
from tlt.data.followup import Study
from tlt.errors import InputError, UsageError
from tlt.evaluate import Case, Outcome
from tlt.metrics import LesionRow
from tlt.model.shipped import shipped_path
from tlt.peak_memory import own_peak_mib, peak_memory
from tlt.rows import write_rows
from tlt.table1 import FILES, PAPER, check_alike, table_lines, table_text


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
    known["tlt"][3] = replace(known["tlt"][3], found_mm=None)
    errors = [error for i, error in enumerate(errors) if i != 3]
    made = {"peak_mib": 812.4, "model": "a,b", "weights_sha256": "0123456789,9876543210"}
    lines = table_lines(known, {"tlt": made})
    assert [line["name"] for line in lines] == ["tlt", "dlt"]
    tlt, dlt = lines
    assert tlt["med_mm"] == pytest.approx(np.mean(errors))
    assert tlt["cpm_10mm"] == pytest.approx(5 * np.sum(np.array(errors) <= 8))
    assert "comparison" not in tlt
    assert dlt["comparison"]["p_lesions"] < 1e-6
    assert dlt["paper_dls"]["cpm_10mm"] == PAPER["dlt"].cpm_10mm == 78.85
    text = table_text(lines)
    heads, _, first, second, _, asked, _, tested = (
        [cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[:8]
    )
    assert first[0] == "tlt"
    assert first[7] == f"{np.mean(errors):.2f} ± {np.std(errors):.2f}"
    assert first[11] == "812"
    assert first[-1] == "6.0 ± 7.7"
    figures, tests = dict(zip(heads, second, strict=True)), dict(zip(asked, tested, strict=True))
    assert figures["p MED"] == f"{dlt['comparison']['p_lesions']:.1g}"
    assert figures["peak MiB"] == "-"
    assert tests["`tlt` against"] == "`dlt`"
    assert float(tests["MED mm"]) == pytest.approx(-1.6, abs=0.011)  # of the 19 that both answered
    for heading, name in (("p MED, patients", "p_patients"), ("p CPM, McNemar", "p_mcnemar")):
        assert tests[heading] == f"{dlt['comparison'][name]:.2g}"
    assert (tests["only it right"], tests["only `tlt` right"]) == ("1", "4")
    assert len({len(line) for line in text.splitlines()[:4]}) == 1
    assert "Without an answer, so wrong in CPM and not in MED: 1 of `tlt`." in text
    assert "Weights: `tlt` a 01234567 + b 98765432." in text


def test_lesions_are_told_from_landmarks() -> None:
    own = rows([1.0, 2.0, 3.0, 20.0])
    own[3] = replace(own[3], kind="structure")
    (line,) = table_lines({"vuld-lesanet": own}, {})
    assert (line["n"], line["cpm_10mm"], line["lesions"]["n"]) == (4, 75.0, 3)
    assert (line["lesions"]["cpm_10mm"], line["lesions"]["med_mm"]) == (100.0, 2.0)
    text = table_text([line])
    assert text.count("| vuld-lesanet |") == 2
    assert "without landmarks" in text
    assert "without landmarks" not in table_text(table_lines({"tlt": own[:3]}, {}))


def test_trackers_one_by_one_into_one_table(ct_folder: Path, tmp_path: Path, capsys) -> None:
    output = tmp_path / "out"
    asked = ["experiment", "table1", "--data", str(ct_folder), "--output", str(output)]
    assert main([*asked[:3], str(tmp_path / "nothing"), *asked[4:], "--tracker", "affine"]) == 3
    assert not output.exists()
    assert main([*asked, "--pairs", "1", "--tracker", "affine"]) == 0
    assert main([*asked, "--pairs", "1", "--tracker", "patch"]) == 0
    text = (output / "table1.md").read_text()
    assert capsys.readouterr().out.endswith(text + "\n")
    assert f"Simulated pairs: 1; CTs: 1 ({ct_folder.name}, seed 2022)" in text
    assert "p MED: paired" not in text  # there is no tlt to compare with
    assert "last step" not in text
    lines = json.loads((output / "table1.json").read_text())
    assert {line["name"] for line in lines} == {"affine", "patch"}
    assert all(line["n"] > 0 and 50 < line["peak_mib"] < 2000 for line in lines)
    assert all(line["tlt"] and line["model"] is None for line in lines)
    assert not (output / "rows.part.json").exists()
    assert main([*asked, "--pairs", "2", "--tracker", "affine"]) == 2
    assert f"holds rows of data {ct_folder.name}, pairs 1, seed 2022; " in capsys.readouterr().err
    assert main([*asked, "--pairs", "1", "--tracker", "nobody"]) == 2


def test_what_cannot_be_done_is_told_before_the_work(
    ct_folder: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr("tlt.table1.simulated_cases", None)  # nothing is simulated here
    output = tmp_path / "out"
    output.mkdir()
    write_rows({"patch": [Outcome(row, None) for row in rows([1.0])]}, output / "rows.json")

    def said(exit_code: int, data: Path = ct_folder, folder: Path = output, *more: str) -> str:
        asked = ["--data", str(data), "--output", str(folder), "--pairs", "1", *more]
        assert main(["experiment", "table1", "--tracker", "affine", *asked]) == exit_code
        return capsys.readouterr().err

    assert "is no folder" in said(3, ct_folder, output / "rows.json")
    assert "no *.nii.gz CT in it" in said(3, tmp_path)
    assert "holds rows of unknown pairs; give the same" in said(2)
    benchmark = {"data": ct_folder.name, "pairs": 2, "seed": 2022}
    (output / "benchmark.json").write_text(json.dumps(benchmark))
    assert f"rows of data {ct_folder.name}, pairs 2, seed 2022; " in said(2)
    for damaged in ("benchmark.json", "trackers.json", "rows.json"):
        kept = (output / damaged).read_text() if (output / damaged).exists() else "{}"
        (output / damaged).write_text("{")
        assert f"{damaged}: cannot be read as JSON" in said(3)
        (output / damaged).write_text("[]")
        assert f"{damaged}: not what 'tlt experiment table1' writes" in said(3)
        (output / damaged).write_text(kept)


def test_an_interrupted_run_leaves_what_was_measured(
    ct_folder: Path, tmp_path: Path, monkeypatch
) -> None:
    output = tmp_path / "out"
    asked = ["experiment", "table1", "--data", str(ct_folder), "--output", str(output)]
    assert main([*asked, "--pairs", "1", "--tracker", "affine"]) == 0
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    assert set(before) == set(FILES)
    monkeypatch.setattr("tlt.table1.peak_memory", lambda *_: 1 / 0)
    assert main([*asked, "--pairs", "1", "--tracker", "patch"]) == INTERNAL_ERROR
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before


def test_weights_of_ones_own_are_another_row(ct_folder: Path, tmp_path: Path, capsys) -> None:
    output = tmp_path / "out"
    asked = ["experiment", "table1", "--data", str(ct_folder), "--output", str(output)]
    asked += ["--pairs", "1", "--tracker", "tlt-network", "--model", str(shipped_path("tlt-ct"))]
    assert main(asked) == 2
    assert "--model and --row go together" in capsys.readouterr().err
    for name, words in {"tlt": "the name of a tracker", "": "letters", "a|b": "letters"}.items():
        assert main([*asked, "--row", name]) == 2
        assert words in capsys.readouterr().err
    assert main([*asked, "--row", "alike"]) == 0
    (line,) = json.loads((output / "table1.json").read_text())
    assert (line["name"], line["model"], len(line["weights_sha256"])) == ("alike", "tlt-ct", 64)
    assert 100 < line["peak_mib"] < 3000
    assert line["paper_dls"]["cpm_10mm"] == PAPER["tlt"].cpm_10mm
    assert "`alike` tlt-ct " in capsys.readouterr().out


def test_trackers_on_other_truths_are_not_compared() -> None:
    own, known = rows([1.0, 2.0]), rows([3.0, 4.0])
    check_alike("dlt", own, {"tlt": known})
    moved = [replace(known[0], truth_mm=(0.0, 0.0, 2.0)), known[1]]
    started = [known[0], replace(known[1], prior_mm=(0.0, 0.0, 8.0))]
    for other in (moved, started, known[:1]):
        with pytest.raises(UsageError, match="choose another --output"):
            check_alike("dlt", own, {"tlt": other})
    check_alike("dlt", own[:1], {"tlt": known})  # not yet done
    with pytest.raises(UsageError, match="on 2 lesions, 'dlt' on 1; choose another --output"):
        check_alike("dlt", own[:1], {"tlt": known}, whole=True)
    check_alike("dlt", [own[0], replace(own[1], prior_mm=None)], {"tlt": started})


def test_the_peak_of_a_process_is_not_that_of_who_started_it() -> None:
    large = np.ones(int(4e8), np.uint8)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > large.nbytes / 2**10
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        small = pool.submit(own_peak_mib).result()
    assert 10 < small < own_peak_mib() - large.nbytes / 2**21


def killed(*_: object) -> float:
    """A tracker that the system ends."""
    os.kill(os.getpid(), signal.SIGKILL)
    return 0.0


def refused(*_: object) -> float:
    """A tracker whose pair shows two bodies."""
    raise InputError("the follow-up does not show the baseline's part of the body")


@pytest.mark.parametrize("ended", [killed, refused])
def test_a_process_that_is_ended_has_no_peak(ended, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = torso_grid((12, 10, 8), (5.0, 5.0, 6.0))
    case = Case("a", "a", Study(make_phantom(grid), make_phantom(grid), ()))
    monkeypatch.setattr(tlt.peak_memory, "_track_peak", ended)
    assert peak_memory({"row": "affine"}, case) == {"row": None}
