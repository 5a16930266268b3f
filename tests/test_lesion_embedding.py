"""Lesion embeddings: patches, pools and triplets by hand, and balls that are told apart."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_detectors import ball_pair
from test_evaluate import convert, deeplesion
from test_train import SMALL_PAIRS, logged

from tlt.data.annotated import AnnotatedPair
from tlt.data.deeplesion import TRAINING, VALIDATION, read_annotations
from tlt.data.pairs import TrainingPair
from tlt.errors import InputError, UsageError
from tlt.families import FAMILIES
from tlt.io.images import load_volume
from tlt.model.lesanet import LABELS
from tlt.model.lesion_embedding import LesionEmbedding, roi_pool
from tlt.model.weights import load_weights
from tlt.train import train
from tlt.training.config import Annotated, TrainConfig, read_config
from tlt.training.embedding_task import (
    ITEMS,
    MARGIN,
    Items,
    active_mean,
    items_of,
    known_labels,
    label_losses,
    likeness_levels,
    ranked_triplets,
    same_loss,
)
from tlt.training.lesion_labels import labels_of, size_class
from tlt.training.samples import TrainingPairs, validation_set
from tlt.training.task import Objective

SMALL = {"stages": (6, 8, 12), "side": 24, "pool": 2, "features": 12, "embedding": 16}
EMBEDDINGS = ("lesiongraph", "lesanet")


def tiny_embedding(name: str, seed: int = 0, **fields) -> LesionEmbedding:
    """An embedding of a family with few channels, its stages as many as its pools need."""
    network = FAMILIES[name].network_class()
    torch.manual_seed(seed)
    stages = (6, 8, 12, 12, 12)
    return network(replace(network.presets["compact"], **{**SMALL, "stages": stages} | fields))


def two_items(apart_mm: float = 50.0) -> Items:
    centers = torch.tensor([[0.0, 0.0, 0.0], [apart_mm, 0.0, 0.0]])
    shown = torch.ones((2, 2), dtype=torch.bool)
    return Items(
        torch.stack([centers, centers]), torch.full((2, 2), 5.0), shown, torch.tensor([True, True])
    )


def test_a_patch_shows_the_slices_about_a_place_and_air_outside() -> None:
    network = tiny_embedding("lesanet")
    z, y, x = torch.meshgrid(*(torch.arange(n).float() for n in (10, 40, 50)), indexing="ij")
    image, origin = (100 * z + 10 * y + x)[None], torch.tensor([5.0, -3.0, 7.0])
    center = origin + 2 * torch.tensor([25.0, 20.5, 4.0])  # x, y, z
    patch = network.patches(image, origin, center[None])
    assert patch.shape == (1, 1, 3, 24, 24)
    assert patch[0, 0, 1].mean() == pytest.approx(100 * 4 + 10 * 20.5 + 25, abs=0.01)
    assert (patch[0, 0, 2] - patch[0, 0, 1]).mean() == pytest.approx(100, abs=0.01)
    assert (patch[0, 0, 1, 1] - patch[0, 0, 1, 0]).mean() == pytest.approx(10, abs=0.01)
    corner = network.patches(image, origin, origin[None])
    assert corner[0, 0, 0].max() == pytest.approx(-1000, abs=0.01)  # a slice above the image
    assert corner[0, 0, 1, :11].max() == pytest.approx(-1000, abs=0.01)


def test_a_pool_sees_the_box_alone() -> None:
    x = torch.linspace(-1, 1, 17)[8:9] * 0 + (torch.arange(16) - 7.5) / 8
    maps = x.expand(2, 1, 1, 16, 16)  # the value is where it lies, as a share of half the map
    pooled = roi_pool(maps, torch.tensor([0.5, 0.25]), 2)
    assert pooled[0].tolist() == pytest.approx([-0.25, 0.25, -0.25, 0.25], abs=1e-5)
    assert pooled[1].tolist() == pytest.approx([-0.125, 0.125, -0.125, 0.125], abs=1e-5)


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_unit_vectors_that_do_not_depend_on_what_else_is_embedded(name: str) -> None:
    network, pair = tiny_embedding(name).eval(), ball_pair()
    centers, radii = pair.marks_mm, pair.marks_radius_mm[:, 0]
    both = network.embedded(pair.search, pair.search_origin_mm, centers, radii)
    assert both.shape == (2, 16)
    assert torch.allclose(both.norm(dim=1), torch.ones(2), atol=1e-5)
    alone = network.embedded(pair.search, pair.search_origin_mm, centers[1:], radii[1:])
    assert torch.allclose(both[1], alone[0], atol=1e-5)


def test_the_triplets_of_the_same_lesion_by_hand() -> None:
    # Rows are lesions of the template, columns those of the search crop.
    distance = torch.tensor([[0.5, 0.6], [1.0, 0.1]])
    # Template to search: 0.5 - 0.6 + m counts, 0.1 - 1.0 + m does not; back: neither does.
    one_way = 0.5 - 0.6 + MARGIN
    assert float(same_loss(distance, two_items())) == pytest.approx(one_way / 2)
    assert float(same_loss(distance, two_items(apart_mm=4.0))) == 0.0  # they are as good as one
    hidden = two_items()
    hidden.shown[1, 1] = False  # the second is not in the search crop: nobody's negative there
    assert float(same_loss(distance, hidden)) == 0.0


def test_ranked_triplets_by_hand() -> None:
    distance = torch.tensor([[0.9, 0.5, 0.1]])
    level = torch.tensor([[2, 1, -1]])
    assert float(ranked_triplets(distance, level)) == pytest.approx(0.9 - 0.5 + MARGIN)
    assert float(ranked_triplets(distance, torch.tensor([[1, 2, -1]]))) == 0.0
    assert float(active_mean(torch.tensor([1.0, -5.0, 3.0]), torch.tensor([1, 1, 0]))) == 1.0


def test_how_alike_two_items_are() -> None:
    pair = ball_pair()
    levels = likeness_levels(pair, items_of(pair), 2.0)
    # Radii 6 and 9 mm differ by the factor 1.5 that no longer counts as alike; same tissue, near.
    assert levels[0, 1] == 2
    assert levels[0, 0] == -1  # that is the lesion itself


def test_labels_by_hand() -> None:
    place = torch.tensor([[0.1, 0.5, 0.9], [torch.nan] * 3])
    labels = labels_of(
        torch.tensor([0, 2]), torch.tensor([4.0, 30.0]), torch.tensor([3, -1]), place
    )
    assert labels.shape == (2, LABELS)
    first = [*(1, 0, 0, 0), *(1, 0, 0, 0), *(0, 0, 0, 1, 0, 0, 0, 0), *(1, 0, 0, 0, 1, 0, 0, 0, 1)]
    assert labels[0].tolist() == first
    assert labels[1, :8].tolist() == [0, 0, 1, 0, 0, 0, 0, 1]
    assert labels[1, 8:].isnan().all()
    assert size_class(torch.tensor([5.0, 5.1, 20.0])).tolist() == [0, 1, 2]


def test_the_losses_of_labels_by_hand() -> None:
    labels = torch.tensor([[1.0, torch.nan], [0.0, 0.0], [0.0, 0.0]])
    logits = torch.tensor([[0.0, 9.0], [0.0, 2.0], [0.0, 0.0]])
    half, sure = math.log(2), math.log(1 + math.exp(2))
    plain, hard = label_losses(logits, labels)
    # The one true label counts twice, as two are false; who is not known counts nothing.
    assert float(plain) == pytest.approx((2 * half + 3 * half + sure) / 5)
    assert float(hard) == pytest.approx(sure)


def test_a_pair_has_as_many_items_as_every_other() -> None:
    items = items_of(ball_pair())
    assert items.center_mm.shape == (2, ITEMS, 3)
    assert items.marked[:2].all()
    assert items.radius_mm[:, :2].tolist() == [[6.0, 9.0], [6.0, 9.0]]
    pair = ball_pair()
    new = replace(
        pair,
        marks_radius_mm=torch.tensor([[6.0, 6.0], [0.0, 9.0]]),
        marks_seen=torch.tensor([[True, True], [False, True]]),
    )
    assert items_of(new).shown[:, :2].tolist() == [[True, False], [True, True]]
    assert items_of(new).radius_mm[:, 1].tolist() == [9.0, 9.0]


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_balls_and_places_are_told_apart_after_seconds(name: str) -> None:
    network, task = tiny_embedding(name), FAMILIES[name].new_task()
    objective = Objective(network, task, task.weights, bf16=False)
    optimizer = torch.optim.Adam(network.parameters(), 0.005)
    losses = []
    for step in range(40):
        torch.manual_seed(0)  # the jitter, too, is that of the first step
        loss, _ = objective(ball_pair(seed=step))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    network.eval()
    with torch.no_grad():
        scores = task.judge(network, [ball_pair(seed=107), ball_pair(seed=108)], bf16=False)
    assert scores["val_marks_right"] == 1.0
    assert scores["val_wrong"] == pytest.approx(1 - scores["val_right"])
    assert scores["val_right"] > 0.9
    assert scores["val_margin"] > 0.1


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_gradients_reach_every_weight(name: str) -> None:
    network, task = tiny_embedding(name), FAMILIES[name].new_task()
    Objective(network, task, task.weights, bf16=False)(ball_pair())[0].backward()
    for key, weight in network.named_parameters():
        assert weight.grad is not None, key
        assert weight.grad.abs().sum() > 0, key


INFO = (
    "File_name,Key_slice_index,Bounding_boxes,Lesion_diameters_Pixel_,Normalized_lesion_location,"
    "Coarse_lesion_type,Possibly_noisy,Slice_range,Spacing_mm_px_,Train_Val_Test"
)


def annotated_folder(tmp_path: Path, noisy: int = 0) -> Annotated:
    """The made DeepLesion of test_evaluate, with all columns: one series to train, one to judge."""
    images, info, _ = deeplesion(tmp_path)
    assert convert(images, info, tmp_path / "nifti") == 0
    first, second = (line.split(",", 1)[0] for line in info.read_text().splitlines()[1:])
    rest = '"101, 140","2.0, 2.0, 3.0"'
    lines = [
        INFO,
        f'{first},119,"16,14,28,26","12.0, 10.0","0.3, 0.4, 0.5",4,{noisy},{rest},1',
        f'{first},128,"35.5,25.5,44.5,34.5","9.0, 9.0","0.6, 0.4, 0.6",-1,0,{rest},1',
        f'{second},119,"16,14,28,26","12.0, 10.0","0.3, 0.4, 0.5",4,0,{rest},2',
    ]
    info.write_text("\n".join(lines) + "\n")
    return Annotated(info=info, images=tmp_path / "nifti")


def annotated_config(tmp_path: Path, system: str, **values) -> TrainConfig:
    return TrainConfig(
        system=system,
        deeplesion=annotated_folder(tmp_path),
        pairs=SMALL_PAIRS,  # type: ignore[arg-type]
        output=tmp_path / "run",
        **{
            "steps": 2, "workers": 0, "validation_pairs": 2, "checkpoint_every": 1,
            "validate_every": 2, "bf16": False,
        } | values,
    )  # fmt: skip


def test_deeplesions_annotations_lie_where_the_lesions_are(tmp_path: Path) -> None:
    source = annotated_folder(tmp_path)
    first, second, other = read_annotations(source.info)
    volume = load_volume(source.images / first.volume)
    assert volume.sample(np.array([first.center_mm]))[0] == pytest.approx(60, abs=1)
    assert first.radius_mm == pytest.approx(12.0)  # 12 pixels of 2 mm, halved
    assert (first.type, second.type) == (3, -1)
    assert first.place == (0.3, 0.4, 0.5)
    assert [one.split for one in (first, second, other)] == [TRAINING, TRAINING, VALIDATION]
    assert len(read_annotations(annotated_folder(tmp_path / "again", noisy=1).info)) == 2


def test_both_views_of_an_annotated_volume_show_the_lesion(tmp_path: Path) -> None:
    pairs = TrainingPairs(annotated_config(tmp_path, "lesanet"))
    for index in range(4):
        pair = pairs[index]
        assert isinstance(pair, AnnotatedPair)
        assert isinstance(pair.to(torch.device("cpu")), AnnotatedPair)
        for crop, origin, places, shown in (
            (pair.template, pair.template_origin_mm, pair.marks_mm, pair.marks_seen[:, 0]),
            (pair.search, pair.search_origin_mm, pair.marks_truth_mm, pair.marks_seen[:, 1]),
        ):
            for place in places[shown]:
                x, y, z = ((place - origin) / 2).round().long().tolist()
                assert float(crop[0, z, y, x]) == pytest.approx(60, abs=80)
        labels = known_labels(pair, items_of(pair), 2.0)
        assert labels[0, 0, 8:16].tolist() == [0, 0, 0, 1, 0, 0, 0, 0]
        assert labels[0, 1, 8:16].isnan().all()
    again = TrainingPairs(annotated_config(tmp_path / "again", "lesanet"))
    assert again[3].search.equal(pairs[3].search)
    assert len(validation_set(annotated_config(tmp_path / "check", "lesanet"))) == 2


@pytest.mark.parametrize("name", ["vuld", "lens", *EMBEDDINGS])
def test_every_family_learns_from_deeplesion(name: str, tmp_path: Path) -> None:
    small = {"stages": [4, 4, 6, 6, 6], "features": 8, "embedding": 8}
    if name in ("vuld", "lens"):
        small = {"channels": [4, 4, 6, 6], "head": 4}
    config = annotated_config(tmp_path, name, network=small)
    loaded = load_weights(str(train(config)), name)
    assert loaded.family == name
    last = logged(config)[-1]
    assert all(math.isfinite(float(last[key])) for key in config.family.new_task().scores)


def test_what_deeplesion_lacks_is_told(tmp_path: Path) -> None:
    source = annotated_folder(tmp_path)
    (tmp_path / "c.yaml").write_text(
        f"system: vuld\noutput: o\ncache: p\n"
        f"deeplesion: {{info: {source.info}, images: {source.images}}}\n"
    )
    with pytest.raises(UsageError, match="cache"):
        read_config(tmp_path / "c.yaml")
    config = annotated_config(tmp_path / "b", "vuld")
    none = config.model_copy(update={"deeplesion": Annotated(info=source.info, images=tmp_path)})
    with pytest.raises(InputError, match="convert deeplesion"):
        TrainingPairs(none)
    lines = source.info.read_text()
    source.info.write_text(lines.replace('"16,14,28,26"', '"16,14,28"', 1))
    with pytest.raises(InputError, match="Bounding_boxes has 3 numbers"):
        read_annotations(source.info)
    source.info.write_text(lines.replace("Bounding_boxes", "Boxes"))
    with pytest.raises(InputError, match="no column Bounding_boxes"):
        read_annotations(source.info)


def test_simulated_and_annotated_pairs_are_mixed(tmp_path: Path, ct_folder: Path) -> None:
    config = annotated_config(tmp_path, "vuld", data=ct_folder, steps=8)
    kinds = {type(TrainingPairs(config)[index]) for index in range(8)}
    assert kinds == {TrainingPair, AnnotatedPair}
