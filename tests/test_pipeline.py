"""From files to a result through the real command line, and every bad input on the way."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import SimpleITK as sitk
import torch
from conftest import make_phantom, torso_grid, write_dicom_series

from tlt.cli.demo import example_folder
from tlt.cli.main import main
from tlt.geometry import Grid
from tlt.io.images import load_volume, save_volume
from tlt.io.lesions import read_lesions
from tlt.volume import Volume

HEAD = "lesion_id,x,y,z,coordinate_system,radius_mm"
NODULE = (-70.0, 0.0, 10.0)  # in every phantom of conftest


@pytest.fixture
def study(tmp_path: Path) -> dict[str, Path]:
    """A baseline and a follow-up of a phantom, and a lesion, as files."""
    paths = {name: tmp_path / name for name in ("bl.nii.gz", "fu.nii.gz", "lesions.csv", "out")}
    save_volume(make_phantom(), paths["bl.nii.gz"])
    save_volume(make_phantom(torso_grid(center_mm=(4.0, -6.0, 5.0))), paths["fu.nii.gz"])
    paths["lesions.csv"].write_text(f"{HEAD}\nL1,{NODULE[0]},{NODULE[1]},{NODULE[2]},LPS,14\n")
    return paths


def run(study: dict[str, Path], *more: str, tracker: str = "patch", **changes: object) -> int:
    """The exit code of ``tlt track`` on the study, with some arguments changed."""
    values = {
        "baseline": study["bl.nii.gz"],
        "followup": study["fu.nii.gz"],
        "lesions": study["lesions.csv"],
        "output": study["out"],
        "tracker": tracker,
    } | changes
    words = [word for key, value in values.items() for word in (f"--{key}", str(value))]
    return main(["track", *words, "--format", "json", *more])


def test_files_become_a_result(study: dict[str, Path]) -> None:
    assert run(study) == 0
    result = json.loads((study["out"] / "result.json").read_text())
    match = result["lesions"][0]["followups"][0]
    assert math.dist(match["center_mm"], NODULE) < 3.0
    assert result["coordinate_system"] == "LPS"


@pytest.mark.parametrize("tracker", ["tlt", "tlt-network", "patch", "affine"])
def test_the_bundled_example_is_tracked(tracker: str, tmp_path: Path) -> None:
    with example_folder() as example:
        files = {name: example / name for name in ("lesions.csv", "truth.csv")}
        study = {
            "bl.nii.gz": example / "baseline.nii.gz",
            "fu.nii.gz": example / "followup.nii.gz",
            "lesions.csv": files["lesions.csv"],
            "out": tmp_path / "out",
        }
        assert run(study, tracker=tracker) == 0
        followup = load_volume(example / "followup.nii.gz")
        truth = {lesion.id: lesion for lesion in read_lesions(files["truth.csv"], followup)}
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    errors = {}
    for lesion in result["lesions"]:
        match = lesion["followups"][0]
        assert (match["center_mm"] is None) == (match["status"] == "outside_fov")
        if lesion["id"] in truth:
            assert match["center_mm"] is not None
            errors[lesion["id"]] = math.dist(match["center_mm"], truth[lesion["id"]].center_mm)
    assert np.mean(list(errors.values())) < {"tlt": 4.0, "tlt-network": 8.0}.get(tracker, 15.0)


def _text_image(path: Path) -> None:
    path.write_text("this is not an image")


def _flat_image(path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((40, 40), np.int16)), str(path))


def _constant(path: Path) -> None:
    grid = torso_grid()
    save_volume(Volume(np.full(grid.shape_zyx, 40, np.int16), grid), path)


def _without_frame(path: Path) -> None:
    """A NIfTI whose header says neither where it lies (qform) nor how (sform)."""
    save_volume(make_phantom(), path)
    sitk.WriteImage(sitk.ReadImage(str(path)), str(path))
    header = bytearray(path.read_bytes())
    header[252:256] = bytes(4)  # qform_code and sform_code of NIfTI-1
    path.write_bytes(header)


def _other_body_part(path: Path) -> None:
    """Two legs where the baseline shows a chest."""
    grid = torso_grid()
    index = np.stack(np.mgrid[tuple(map(slice, grid.shape_zyx))], -1)
    x, y = np.moveaxis(grid.index_to_mm(index), -1, 0)[:2]
    hu = np.full(grid.shape_zyx, -1000.0)
    for side in (-85, 85):
        distance = np.hypot(x - side, y)
        hu[distance < 70] = -100
        hu[distance < 55] = 50
        hu[distance < 14] = 900
    save_volume(Volume(hu.astype(np.int16), grid), path)


BAD_IMAGES = {
    "missing": (lambda path: None, ("no such file",)),
    "not an image": (_text_image, ("bad.nii.gz",)),
    "2D": (_flat_image, ("2",)),
    "constant": (_constant, ("every voxel is 40",)),
    "another body part": (_other_body_part, ("part of the body", "similarity")),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_bad_followups_exit_with_3(name: str, study, tmp_path, capsys) -> None:
    make, words = BAD_IMAGES[name]
    path = tmp_path / "bad.nii.gz"
    make(path)
    _fails(run(study, followup=path), 3, study, capsys, *words)


def test_an_image_without_a_frame_exits_with_3(study, tmp_path, capsys) -> None:
    path = tmp_path / "frameless.nii"
    _without_frame(path)
    _fails(run(study, baseline=path), 3, study, capsys, "frameless.nii", "qform")


def test_mr_instead_of_ct_exits_with_3(study, tmp_path, capsys) -> None:
    folder = tmp_path / "mr"
    write_dicom_series(make_phantom(torso_grid((20, 16, 8))), folder, Modality="MR")
    _fails(run(study, followup=folder), 3, study, capsys, "MR")


BAD_LESIONS = {
    "outside": ("L1,900,0,0,LPS,8", ("L1", "900")),
    "NaN": ("L1,nan,0,0,LPS,8", ("nan",)),
    "infinite": ("L1,0,inf,0,LPS,8", ("inf",)),
    "negative radius": ("L1,0,0,0,LPS,-4", ("-4",)),
    "no coordinate system": ("L1,0,0,0,,8", ("coordinate_system",)),
}


@pytest.mark.parametrize("name", BAD_LESIONS)
def test_bad_lesions_exit_with_3(name: str, study, capsys) -> None:
    row, words = BAD_LESIONS[name]
    study["lesions.csv"].write_text(f"{HEAD}\n{row}\n")
    _fails(run(study), 3, study, capsys, *words)


def test_an_empty_mask_exits_with_3(study, tmp_path, capsys) -> None:
    grid: Grid = torso_grid()
    save_volume(Volume(np.zeros(grid.shape_zyx, np.int16), grid), tmp_path / "mask.nii.gz")
    _fails(run(study, lesions=tmp_path / "mask.nii.gz"), 3, study, capsys, "mask.nii.gz", "empty")


def test_an_output_that_is_a_file_exits_with_3(study, tmp_path, capsys) -> None:
    (tmp_path / "out").write_text("a file")
    assert run(study) == 3
    assert capsys.readouterr().err.splitlines()[-1].startswith("tlt: error: ")
    assert (tmp_path / "out").read_text() == "a file"


def test_weights_of_another_model_exit_with_4(study, tmp_path, capsys) -> None:
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"weight": torch.zeros(3)}, path)
    code = run(study, "--model", str(path), tracker="tlt")
    _fails(code, 4, study, capsys, "other.safetensors", "another model")


def _fails(code: int, expected: int, study: dict[str, Path], capsys, *words: str) -> None:
    """The exit code is right, the last line says what was wrong, and nothing was written."""
    out, err = capsys.readouterr()
    assert code == expected, err
    assert out == ""
    assert "Traceback" not in err
    last = err.splitlines()[-1]
    assert last.startswith("tlt: error: ")
    for word in words:
        assert word in last
    assert not study["out"].exists()
