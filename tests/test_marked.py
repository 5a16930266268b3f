"""Training crops of real pairs: the marked place is where the crops say, and DLS can be read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_evaluate import LESIONS, SHIFT_MM, convert, deeplesion, written_pair
from test_train import tiny_config

from tlt.data.followup import Study
from tlt.data.marked import cut_marked_pair, folder_study
from tlt.data.pairs import PairConfig, TrainingPair
from tlt.errors import InputError, UsageError
from tlt.geometry import AffineTransform
from tlt.registration.affine import register_affine
from tlt.registration.result import Registration
from tlt.train import train
from tlt.training.config import Marked, TrainConfig
from tlt.training.samples import TrainingPairs, validation_set
from tlt.volume import Volume

CUT = PairConfig(
    crops_zyx=((24, 32, 32),), queries=4, search_shift_mm=(6.0, 6.0, 6.0), spacing_mm=2.0
)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    written_pair(tmp_path / "anna--1")
    return folder_study(tmp_path / "anna--1")


def known_registration(error_mm=(0.0, 0.0, 0.0)) -> Registration:
    move = AffineTransform(np.eye(3), np.add(SHIFT_MM, error_mm))
    return Registration(move, "known", 1.0, True, 0.0)


def at(image: torch.Tensor, origin_mm: torch.Tensor, point_mm: torch.Tensor) -> float:
    x, y, z = ((point_mm - origin_mm) / CUT.spacing_mm).round().long().tolist()
    return float(image[0, z, y, x])


def test_a_lesion_lies_in_both_crops_where_the_pair_says(study: Study) -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        pair = cut_marked_pair(rng, study, known_registration(), CUT)
        assert pair is not None
        assert pair.template.shape == pair.search.shape == (1, 24, 32, 32)
        assert pair.centers_mm.shape == pair.truth_mm.shape == (4, 3)
        for center, truth in zip(pair.centers_mm, pair.truth_mm, strict=True):
            there = study.baseline.sample(np.array(LESIONS[0].center_mm))
            assert at(pair.search, pair.search_origin_mm, truth) == pytest.approx(there, abs=60)
            assert at(pair.template, pair.template_origin_mm, center) == pytest.approx(
                there, abs=60
            )


def test_a_crop_that_misses_the_lesion_is_none_to_learn_from(study: Study) -> None:
    far = known_registration((200.0, 0.0, 0.0))
    assert cut_marked_pair(np.random.default_rng(0), study, far, CUT) is None
    nothing = replace(study, truth=())
    assert cut_marked_pair(np.random.default_rng(0), nothing, known_registration(), CUT) is None


def test_the_template_loses_what_the_followup_does_not_show(study: Study) -> None:
    whole, known = study.followup, study.truth[0]
    first = int(whole.grid.mm_to_index(known.center_mm)[0]) - 3  # the view begins near the lesion
    grid = whole.grid.cropped((first, 0, 0), (len(whole.voxels) - first, *whole.voxels.shape[1:]))
    cut = replace(study, followup=Volume(whole.voxels[first:], grid), truth=(known,))
    pair = cut_marked_pair(np.random.default_rng(1), cut, known_registration(), CUT)
    assert pair is not None
    low = grid.bounds_mm()[0][2]
    planes = pair.template_origin_mm[2].item() + CUT.spacing_mm * np.arange(24)
    unseen = torch.from_numpy(planes < low - 0.1)
    assert bool(unseen.any())
    assert bool((pair.template[0, unseen] <= -1000).all())
    assert bool((pair.template[0, ~unseen] > -1000).any())


def mixed(tmp_path: Path, **values) -> TrainConfig:
    return tiny_config(tmp_path / "run", steps=2, **values)


def test_dls_trains_from_the_published_list(tmp_path: Path) -> None:
    images, info, pairs = deeplesion(tmp_path)
    assert convert(images, info, tmp_path / "nifti") == 0
    source = Marked(pairs=pairs, images=tmp_path / "nifti")
    path = train(mixed(tmp_path, marked=source, validation_marked=source))
    assert path.is_file()
    log = (tmp_path / "run" / "log.csv").read_text().splitlines()
    assert len(log) == 3
    assert log[-1].split(",")[-1] != ""  # validated on the marked pairs
    with pytest.raises(UsageError, match="images"):
        TrainingPairs(mixed(tmp_path, marked=Marked(pairs=pairs)))


def test_marked_and_simulated_pairs_are_mixed_by_their_share(
    tmp_path: Path, ct_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written_pair(tmp_path / "pairs")
    source = Marked(pairs=tmp_path / "pairs")
    drawn: list[str] = []
    real = cut_marked_pair

    def counted(*args) -> TrainingPair | None:
        drawn.append("marked")
        return real(*args)

    monkeypatch.setattr("tlt.training.samples.cut_marked_pair", counted)
    config = mixed(tmp_path, data=ct_folder, marked=source, marked_share=0.5)
    config = config.model_copy(update={"steps": 12})
    pairs = TrainingPairs(config)
    first = [pairs[index] for index in range(12)]
    assert 1 <= len(drawn) <= 11
    again = TrainingPairs(config)
    assert all(again[index].search.equal(pair.search) for index, pair in enumerate(first))
    drawn.clear()
    alone = TrainingPairs(config.model_copy(update={"marked_share": 0.0}))
    assert alone[0].search.shape == first[0].search.shape
    assert drawn == []


def test_pairs_that_cannot_be_registered_are_passed_over_until_none_is_left(
    tmp_path: Path, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Marked(pairs=tmp_path)
    config = mixed(tmp_path, marked=source, validation_marked=source)
    assert len(validation_set(config)) == 2
    refused = replace(register_affine(study.baseline, study.followup), similarity=0.1)
    monkeypatch.setattr("tlt.training.samples.register_affine", lambda *_: refused)
    with pytest.raises(InputError, match="nothing to learn from"):
        TrainingPairs(config)[0]
    with pytest.raises(InputError, match="no validation pair"):
        validation_set(config)
