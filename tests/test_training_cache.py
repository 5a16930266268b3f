"""Pairs kept on disk are those that were made, and no others."""

from __future__ import annotations

import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.test_train import tiny_config
from tlt.errors import UsageError
from tlt.io.images import load_volume
from tlt.training.samples import TrainingPairs


def test_pairs_come_back_as_they_were_made(ct_folder: Path, tmp_path: Path) -> None:
    def pairs(cache: Path | None) -> TrainingPairs:
        return TrainingPairs(tiny_config(tmp_path / "run", data=ct_folder, steps=2, cache=cache))

    made = pairs(None)[1]
    first = pairs(tmp_path / "cache")[1]
    again = pairs(tmp_path / "cache")[1]
    assert [path.name for path in sorted((tmp_path / "cache").glob("*.npz"))] == ["000001.npz"]
    for name in (field.name for field in fields(made)):
        a, b, c = (getattr(pair, name) for pair in (made, first, again))
        assert torch.equal(b, c), name
        assert torch.equal(a.round() if name in ("template", "search") else a, b), name
    assert made.marks_seen.any()


def test_a_pair_that_was_cut_short_is_made_again(ct_folder: Path, tmp_path: Path) -> None:
    config = tiny_config(tmp_path / "run", data=ct_folder, steps=1, cache=tmp_path / "cache")
    whole = TrainingPairs(config)[0]
    path = tmp_path / "cache" / "000000.npz"
    path.write_bytes(path.read_bytes()[:1000])
    assert torch.equal(TrainingPairs(config)[0].search, whole.search)


def test_pairs_of_another_recipe_are_refused(ct_folder: Path, tmp_path: Path) -> None:
    values = {"data": ct_folder, "steps": 1, "cache": tmp_path / "cache"}
    TrainingPairs(tiny_config(tmp_path / "run", **values))
    TrainingPairs(tiny_config(tmp_path / "other", **values | {"steps": 5}))
    with pytest.raises(UsageError, match="holds other pairs"):
        TrainingPairs(tiny_config(tmp_path / "run", **values, seed=9))


def test_lesions_listed_beside_the_cts_are_marked_and_make_other_pairs(
    ct_folder: Path, tmp_path: Path
) -> None:
    """The middle of each phantom is listed as a lesion."""
    folder = tmp_path / "cts"
    shutil.copytree(ct_folder, folder)
    config = tiny_config(tmp_path / "run", data=folder, steps=4, cache=tmp_path / "cache")
    plain = [TrainingPairs(config)[index] for index in range(4)]
    middles = [load_volume(folder / f"p{seed}.nii.gz").grid.center_mm for seed in (0, 1)]
    lines = [f"p{n},L{n},{x},{y},{z},LPS,500,node" for n, (x, y, z) in enumerate(middles)]
    head = "volume,lesion_id,x,y,z,coordinate_system,radius_mm,label"
    (folder / "lesions.csv").write_text("\n".join([head, *lines]) + "\n")
    with pytest.raises(UsageError, match="holds other pairs"):
        TrainingPairs(config)
    pairs = TrainingPairs(config.model_copy(update={"cache": None}))
    for index, before in enumerate(plain):
        pair = pairs[index]
        assert torch.equal(pair.search.round(), before.search)
        assert len(pair.marks_mm) == len(before.marks_mm) + 1
        assert pair.marks_radius_mm.max() == 500


def test_pairs_of_another_simulator_are_refused(ct_folder: Path, tmp_path: Path) -> None:
    config = tiny_config(tmp_path / "run", data=ct_folder, steps=1, cache=tmp_path / "cache")
    TrainingPairs(config)[0]
    TrainingPairs(config)  # its own are welcome
    path = tmp_path / "cache" / "000000.npz"
    with np.load(path) as kept:
        values = dict(kept)
    np.savez(path, **values | {"truth_mm": values["truth_mm"] + 1})
    with pytest.raises(UsageError, match="another version of the simulator"):
        TrainingPairs(config)


def test_what_was_painted_lies_where_the_pair_says(ct_folder: Path, tmp_path: Path) -> None:
    """The painted queries are among the marks, at the same places in both crops."""
    pairs = TrainingPairs(tiny_config(tmp_path / "run", data=ct_folder, steps=4))
    met = 0
    for index in range(len(pairs)):
        pair = pairs[index]
        seen = pair.marks_seen.all(1)
        for place, truth, radii in zip(
            pair.marks_mm[seen], pair.marks_truth_mm[seen], pair.marks_radius_mm[seen], strict=True
        ):
            same = (pair.centers_mm - place).norm(dim=1) < 1e-3
            if same.any():
                met += 1
                assert torch.allclose(pair.truth_mm[same][0], truth, atol=1e-3)
                assert float(pair.radius_mm[same][0]) == pytest.approx(float(radii[0]))
    assert met > 3
