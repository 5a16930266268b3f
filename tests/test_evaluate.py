"""Evaluation from files: a folder of pairs, and DLS from PNG slices to rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from fakes import GRID, LESIONS, SHIFT_MM, ball_volume
from PIL import Image

from tlt.cli.main import main
from tlt.data.dls import read_dls
from tlt.data.followup import Study, Truth
from tlt.errors import InputError
from tlt.evaluate import Case, evaluate, evaluate_dls, folder_cases
from tlt.geometry import Grid
from tlt.io.images import load_volume, save_volume
from tlt.io.lesions import write_lesions_csv
from tlt.lesion import Lesion
from tlt.track import Tracker
from tlt.volume import Volume

SERIES = {"source": "000001_01_01", "target": "000001_02_01"}
SPACING = (2.0, 2.0, 3.0)
MOVED_PX = (3, -2, 1)


def written_pair(folder: Path, known=LESIONS) -> None:
    folder.mkdir()
    save_volume(ball_volume(LESIONS), folder / "baseline.nii.gz")
    save_volume(ball_volume(LESIONS, SHIFT_MM), folder / "followup.nii.gz")
    write_lesions_csv(LESIONS, folder / "lesions.csv")
    there = [
        Lesion(x.id, tuple(np.add(x.center_mm, SHIFT_MM).tolist()), x.radius_mm) for x in known
    ]
    write_lesions_csv(there, folder / "truth.csv")


def test_a_folder_of_pairs_is_scored_where_the_truth_is_known(tmp_path: Path) -> None:
    written_pair(tmp_path / "anna--1")
    written_pair(tmp_path / "bert", LESIONS[:2])
    written_pair(tmp_path / "carl", LESIONS[:1])
    (tmp_path / "carl" / "simulation.json").write_text('{"source": "anna.nii.gz"}')
    tracker = Tracker.load("patch", device="cpu")
    rows = [o.row for o in evaluate([tracker], folder_cases(tmp_path))["patch"]]
    assert [(r.patient, r.lesion) for r in rows] == [
        *(("anna", "L1"), ("anna", "L2"), ("anna", "L3"), ("bert", "L1"), ("bert", "L2")),
        ("anna", "L1"),  # simulated from her CT
    ]
    assert max(r.error_mm for r in rows if r.lesion != "L3") < 2.0  # L3 lies at the edge
    assert rows[0].slice_mm == GRID.spacing_mm[2]
    with pytest.raises(InputError, match="no pair in it"):
        list(folder_cases(tmp_path / "bert" / "nothing"))


def test_a_pair_that_is_refused_is_a_miss_and_the_others_go_on(tmp_path: Path) -> None:
    written_pair(tmp_path / "anna")
    written_pair(tmp_path / "bert")
    other = ball_volume(LESIONS)
    noise = np.random.default_rng(0).normal(0, 300, other.voxels.shape).astype(np.int16)
    save_volume(Volume(noise, other.grid), tmp_path / "anna" / "followup.nii.gz")
    said: list[str] = []
    tracker = Tracker.load("affine", device="cpu")
    outcomes = evaluate([tracker], folder_cases(tmp_path), said.append)["affine"]
    assert [o.row.found_mm is None for o in outcomes] == [True] * 3 + [False] * 3
    assert "part of the body" in said[0]


def test_lesions_that_vanished_or_left_the_view_are_not_scored() -> None:
    fates = ((True, True), (True, False), (False, False))  # in view, vanished
    lesions = tuple(
        Truth(lesion, tuple(np.add(lesion.center_mm, SHIFT_MM).tolist()), *fate)
        for lesion, fate in zip(LESIONS, fates, strict=True)
    )
    study = Study(ball_volume(LESIONS), ball_volume(LESIONS[1:], SHIFT_MM), lesions)
    tracker = Tracker.load("affine", device="cpu")
    outcomes = evaluate([tracker], [Case("a", "a", study)])["affine"]
    assert [o.row.lesion for o in outcomes] == ["L2"]


def test_a_pair_without_any_truth_is_passed_over(tmp_path: Path) -> None:
    written_pair(tmp_path / "anna")
    written_pair(tmp_path / "bert")
    header = (tmp_path / "anna" / "truth.csv").read_text().splitlines()[0]
    (tmp_path / "anna" / "truth.csv").write_text(header + "\n")
    assert [case.name for case in folder_cases(tmp_path)] == ["bert"]


def deeplesion(folder: Path) -> tuple[Path, Path, Path]:
    """Two series of PNG slices, DL_info.csv and the list of one pair, as they are published."""
    lines = ["File_name,Slice_range,Spacing_mm_px_"]
    record: dict = {"target box": [19.0, 12.0, 15.0, 12.0, 12.0, 8.0]}
    grid = Grid((60, 50, 40), SPACING, (0.0, 0.0, 0.0))
    lesion_px = np.array([22.0, 20.0, 18.0])
    for side, moved in (("source", (0, 0, 0)), ("target", MOVED_PX)):
        center_px = lesion_px + moved
        lesion = Lesion("L", tuple((center_px * SPACING).tolist()), 12.0)
        other = Lesion("M", tuple(((lesion_px + moved + (18, 10, 9)) * SPACING).tolist()), 9.0)
        voxels = ball_volume([lesion, other], grid=grid).voxels
        series = folder / "png" / SERIES[side]
        series.mkdir(parents=True)
        for number, plane in enumerate(voxels, 101):
            Image.fromarray((plane + 32768).astype(np.uint16)).save(series / f"{number}.png")
        lines.append(f'{SERIES[side]}_120.png,"101, 140","2.0, 2.0, {SPACING[2]}"')
        record |= {
            side: f"{SERIES[side]}_101-140.nii.gz",
            f"{side} center": center_px.tolist(),
            f"{side} spacing": list(SPACING),
            f"{side} recist diameter": [12.0, 12.0],
        }
    (folder / "DL_info.csv").write_text("\n".join(lines) + "\n")
    (folder / "test.json").write_text(json.dumps({"0001": record}))
    return folder / "png", folder / "DL_info.csv", folder / "test.json"


def convert(images: Path, info: Path, output: Path) -> int:
    return main(
        ["convert", "deeplesion", "--input", str(images), "--info", str(info), "-o", str(output)]
    )


def test_from_png_slices_to_rows(tmp_path: Path, capsys) -> None:
    images, info, pairs = deeplesion(tmp_path)
    assert convert(images, info, tmp_path / "nifti") == 0
    assert "2 volumes" in capsys.readouterr().out
    volume = load_volume(tmp_path / "nifti" / f"{SERIES['source']}_101-140.nii.gz")
    (pair,) = read_dls(pairs)
    assert volume.sample(np.array([pair.source.center_mm]))[0] == pytest.approx(60, abs=1)
    assert volume.grid.mm_to_index(pair.source.center_mm) == pytest.approx([18, 20, 22])
    tracker = Tracker.load("patch", device="cpu")
    (outcome,) = evaluate_dls([tracker], [pair], tmp_path / "nifti")["patch"]
    assert outcome.row.error_mm < 2.5
    assert outcome.row.within_box


def test_a_missing_slice_is_reported_and_the_rest_goes_on(tmp_path: Path, capsys) -> None:
    images, info, _ = deeplesion(tmp_path)
    (images / SERIES["source"] / "104.png").unlink()
    (images / SERIES["target"] / "139.png").write_bytes(b"no image")
    assert convert(images, info, tmp_path / "out") == 0
    text = capsys.readouterr().err
    assert "104.png is missing; slices 105 to 140 were written" in text
    assert "139.png cannot be read" in text
    cut = load_volume(tmp_path / "out" / f"{SERIES['source']}_101-140.nii.gz")
    # The lesion stands where the list puts it, although the volume begins later.
    assert cut.sample(np.array([[44.0, 40.0, -54.0]]))[0] == pytest.approx(60, abs=1)
    assert convert(tmp_path / "nowhere", info, tmp_path / "other") == 3


def test_a_pair_that_cannot_be_tracked_is_a_miss(tmp_path: Path) -> None:
    images, info, pairs = deeplesion(tmp_path)
    convert(images, info, tmp_path / "nifti")
    (tmp_path / "nifti" / f"{SERIES['target']}_101-140.nii.gz").unlink()
    said: list[str] = []
    tracker = Tracker.load("affine", device="cpu")
    found = evaluate_dls([tracker], read_dls(pairs), tmp_path / "nifti", said.append)
    (outcome,) = found["affine"]
    assert outcome.row.found_mm is None
    assert "no such file" in said[0]
    with pytest.raises(InputError, match="check --images"):
        evaluate_dls([tracker], read_dls(pairs), tmp_path)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("File_name\nx.png", "no column Slice_range"),
        ('File_name,Slice_range,Spacing_mm_px_\nx.png,"1, 2","1, 1, 1"', "File_name is not"),
        ('File_name,Slice_range,Spacing_mm_px_\n1_1_1_1.png,"9, 2","1, 1, 1"', "cannot be"),
        ("File_name,Slice_range,Spacing_mm_px_", "lists no lesion"),
    ],
)
def test_an_impossible_info_file_exits_with_3(tmp_path: Path, capsys, line, words) -> None:
    (tmp_path / "info.csv").write_text(line + "\n")
    assert convert(tmp_path, tmp_path / "info.csv", tmp_path / "out") == 3
    assert words in capsys.readouterr().err


def test_the_command_scores_files_and_trackers(tmp_path: Path, capsys) -> None:
    written_pair(tmp_path / "anna")
    rows = tmp_path / "rows.json"
    asked = ["evaluate", "--tracker", "affine", "--dataset", str(tmp_path), "-o", str(rows), "-q"]
    assert main([*asked, "--json"]) == 0
    ran = json.loads(capsys.readouterr().out)
    assert (ran["n"], ran["answered"]) == (3, 3)
    assert main(["evaluate", "--predictions", str(rows), "--against", str(rows)]) == 0
    text = capsys.readouterr().out
    assert f"{ran['med_mm']:.2f}" in text
    assert "McNemar p = 1" in text
    for wrong, code in (
        (["--tracker", "affine"], 2),
        (["--tracker", "none", "--dataset", str(tmp_path)], 2),
        (["--predictions", str(rows), "--tracker", "patch"], 2),
        (["--dataset", str(tmp_path), "--field", "patch"], 2),
        (["--dataset", str(rows)], 2),
        (["--dataset", str(tmp_path / "none")], 3),
        (["--predictions", str(tmp_path / "none.json")], 3),
    ):
        assert main(["evaluate", *wrong]) == code
