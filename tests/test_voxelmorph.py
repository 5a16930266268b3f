"""The tracker `voxelmorph`: its losses by hand, its displacement by truths that were made."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import torso_grid
from test_patch import IDENTITY, texture
from torch import Tensor

from tlt.data.pairs import TrainingPair
from tlt.errors import ModelError
from tlt.geometry import Grid
from tlt.model.network import TokenMap
from tlt.model.voxelmorph import PRESETS, VoxelMorph, VoxelMorphConfig
from tlt.model.weights import LoadedModel, load_weights, save_weights
from tlt.systems import voxelmorph as systems
from tlt.systems.base import AlignedPair
from tlt.systems.voxelmorph import VoxelMorphSystem
from tlt.track import make_system
from tlt.train import train
from tlt.training.config import TrainConfig
from tlt.training.voxelmorph_task import (
    VoxelMorphTask,
    box_mean,
    diffusion,
    displacement,
    seen,
    squared_correlation,
)
from tlt.volume import AIR_HU, Volume

SMALL = {"encoder": (4, 8, 8, 8), "decoder": (8, 8, 8, 8, 8, 4, 4)}
TINY = {name: replace(preset, **SMALL) for name, preset in PRESETS.items()}
SHIFT_MM = torch.tensor([3.0, -5.0, 4.0])
GRID = torso_grid((40, 36, 32), (2.0, 2.0, 2.0), center_mm=(20.0, -30.0, 40.0))
PLACES = np.array([[20.0, -30.0, 40.0], [30.0, -40.0, 30.0]])


def network(config: VoxelMorphConfig = TINY["compact"], moves: float = 0.0) -> VoxelMorph:
    """A network at random; its displacement is ``moves`` times as rough as its features, or 0."""
    torch.manual_seed(0)
    made = VoxelMorph(config).eval().requires_grad_(False)
    made.flow.weight.normal_(0, 1).mul_(moves)
    return made


def system(made: VoxelMorph) -> VoxelMorphSystem:
    return VoxelMorphSystem(LoadedModel(made, "tiny", "0" * 64, {}, "voxelmorph"))


@cache
def aligned() -> AlignedPair:
    """A texture seen twice, the second time moved by `SHIFT_MM`."""
    template = texture(GRID)
    points = GRID.index_to_mm(np.stack(np.indices(GRID.shape_zyx), -1)) - SHIFT_MM.numpy()
    search = Volume(template.sample(points, 40.0).astype(np.float32), GRID)
    return AlignedPair(template, search, PLACES, np.full(len(PLACES), 8.0), IDENTITY)


def crop_pair(search_offset_mm=(0.0, 0.0, 0.0), shape=(32, 36, 40)) -> TrainingPair:
    """The crops of a texture that moves by `SHIFT_MM`; the search crop starts elsewhere."""
    grids = [
        Grid(shape[::-1], (2.0,) * 3, tuple(start)) for start in ((0.0,) * 3, search_offset_mm)
    ]
    whole = texture(torso_grid((80, 76, 72), (2.0, 2.0, 2.0), center_mm=grids[0].center_mm))
    template, search = (
        torch.from_numpy(
            whole.sample(grid.index_to_mm(np.stack(np.indices(shape), -1)) - shift)
        ).float()[None]
        for grid, shift in zip(grids, (np.zeros(3), SHIFT_MM.numpy()), strict=True)
    )
    places = torch.tensor([[30.0, 36.0, 32.0], [46.0, 30.0, 26.0], [36.0, 44.0, 38.0]])
    return TrainingPair(
        template,
        search,
        *(torch.tensor(grid.origin_mm, dtype=torch.float32) for grid in grids),
        centers_mm=places,
        truth_mm=places + SHIFT_MM,
        radius_mm=torch.full((3,), 8.0),
        anchors_mm=places,
        anchors_truth_mm=places + SHIFT_MM,
        marks_mm=places,
        marks_truth_mm=places + SHIFT_MM,
        marks_radius_mm=torch.full((3, 2), 8.0),
        marks_seen=torch.ones((3, 2), dtype=torch.bool),
    )


def tones(seed: int, channels: int = 1, shape=(12, 14, 13)) -> Tensor:
    return torch.rand((channels, *shape), generator=torch.Generator().manual_seed(seed))


EVERYWHERE = torch.ones((1, 12, 14, 13), dtype=torch.bool)


def test_the_published_network_has_the_published_layers() -> None:
    layers = [(2, 16), (16, 32), (32, 32), (32, 32)]  # the encoder
    layers += [(32, 32), (64, 32), (64, 32), (48, 32), (32, 32), (34, 16), (16, 16), (16, 3)]
    count = sum(27 * inputs * outputs + outputs for inputs, outputs in layers)
    made = VoxelMorph(PRESETS["published"])
    assert sum(p.numel() for p in made.parameters()) == count == 300547
    weights = [m.weight.shape for m in made.modules() if isinstance(m, torch.nn.Conv3d)]
    assert [(shape[1], shape[0]) for shape in weights] == layers
    assert float(made.flow.weight.detach().std()) == pytest.approx(1e-5, rel=0.1)


@pytest.mark.parametrize("name", TINY)
def test_any_shape_is_filled_up_with_air(name: str) -> None:
    made = network(TINY[name], moves=1.0)
    step = made.config.flow_step
    template, search = (500 * tones(seed, shape=(13, 33, 40))[None] - 300 for seed in (0, 1))
    flow = made(template, search)
    assert flow.shape == (1, 3, *(-(-side // step) for side in (13, 33, 40)))
    assert float(flow.std()) > 0.1
    filled = [torch.full((1, 1, 48, 48, 48), AIR_HU) for _ in range(2)]
    for whole, part in zip(filled, (template, search), strict=True):
        whole[:, :, :13, :33, :40] = part
    d, h, w = flow.shape[2:]
    assert torch.allclose(made(*filled)[..., :d, :h, :w], flow, atol=1e-5)


def test_gradients_reach_every_weight() -> None:
    for config in TINY.values():
        made = network(config, moves=1.0).train().requires_grad_(True)
        made(500 * tones(0)[None], 500 * tones(1)[None]).square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in made.parameters())


def test_a_small_crop_has_the_gradients_of_single_precision_in_bf16() -> None:
    """What torch does not write is whatever stood in memory: here it is not a number."""
    images = [500 * tones(seed, shape=(32, 32, 36))[None] - 300 for seed in (0, 1)]
    gradients = []
    for bf16 in (True, False):
        poisoned = [torch.full((27 * 64,), torch.nan, dtype=torch.bfloat16) for _ in range(64)]
        del poisoned
        made = network(moves=1.0).train().requires_grad_(True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            flow = made(*images)
        flow.mean().backward()
        gradients.append([p.grad for p in made.parameters()])
    for half, single in zip(*gradients, strict=True):
        assert torch.isfinite(half).all()
        assert float((half - single).norm()) < 0.2 * float(single.norm())


def test_an_image_correlates_with_itself_in_any_brightness() -> None:
    image = tones(0, channels=2)
    for other in (image, 0.3 + 0.5 * image, 1 - image):  # the square does not see the sign
        assert float(squared_correlation(image, other, EVERYWHERE)) == pytest.approx(1, abs=1e-3)
    assert float(squared_correlation(image, tones(1, channels=2), EVERYWHERE)) < 0.02
    assert float(squared_correlation(image, torch.full_like(image, 0.5), EVERYWHERE)) < 1e-3
    assert float(squared_correlation(image, image, ~EVERYWHERE)) == 0


def test_correlation_of_what_both_saw_by_a_slow_oracle() -> None:
    first, second = tones(0), 0.5 * tones(0) + 0.5 * tones(1)
    common = EVERYWHERE.clone()
    common[:, :, :4] = False
    common[:, 2, 8, 8] = False
    squared = []
    for z, y, x in common[0].nonzero().tolist():
        box = tuple(slice(max(0, v - 4), v + 5) for v in (z, y, x))
        inside = common[0][box].numpy()
        a, b = (image[0][box].double().numpy()[inside] for image in (first, second))
        squared.append(np.corrcoef(a, b)[0, 1] ** 2)
    found = float(squared_correlation(first, second, common))
    assert found == pytest.approx(np.mean(squared), abs=1e-4)
    other = torch.where(common, second, 7.0)
    assert float(squared_correlation(first, other, common)) == found


def test_box_means_are_those_of_pooling() -> None:
    image = tones(0, channels=3)
    pooled = torch.nn.functional.avg_pool3d(image, 9, 1, 4)
    assert torch.allclose(box_mean(image), pooled, atol=1e-6)


def test_diffusion_of_a_linear_displacement_by_hand() -> None:
    places = TokenMap(torch.zeros(3, 5, 6, 7), torch.tensor([1.0, -2.0, 3.0]), 4.0)
    x, y, z = places.positions_mm().mT.unflatten(1, (5, 6, 7))
    flow = replace(places, features=torch.stack([0.1 * x + 2, -0.2 * x + 0.3 * z, 0.0 * y - 5]))
    squares = 0.1**2 + 0.2**2 + 0.3**2  # the other slopes are 0
    assert float(diffusion(flow)) == pytest.approx(squares / 9, rel=1e-4)


def test_planes_of_one_value_were_not_seen() -> None:
    crop = 100 * tones(0)
    crop[:, :3], crop[:, :, :, -2:] = AIR_HU, AIR_HU
    crop[:, 5, 5, 5] = AIR_HU  # a voxel is no plane
    expected = EVERYWHERE.clone()
    expected[:, :3], expected[:, :, :, -2:] = False, False
    assert torch.equal(seen(crop), expected)


def test_the_network_sees_the_search_crop_on_the_templates_grid(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pair = crop_pair((7.0, -3.0, 5.0))
    given: list[Tensor] = []

    def noted(template: Tensor, search: Tensor) -> Tensor:
        given.extend((template, search))
        return torch.zeros(1, 3, 16, 18, 20)

    made = network()
    monkeypatch.setattr(made, "forward", noted)
    flow = displacement(made, pair, False)
    template, search = (image[0, 0] for image in given)
    assert torch.equal(template, pair.template[0])
    straight = crop_pair().search[0]
    inside = (slice(3, None), slice(None, -2), slice(4, None))  # where the search crop reaches
    assert float((search - straight)[inside].abs().mean()) < 12  # it was interpolated
    assert torch.all(search[:2] == AIR_HU)
    assert torch.all(search[:, -1] == AIR_HU)
    assert torch.all(search[:, :, :3] == AIR_HU)
    assert torch.equal(flow.origin_mm, pair.template_origin_mm)


def test_the_loss_is_least_at_the_true_displacement() -> None:
    """Whatever part of the search crop is not seen, and wherever it starts."""
    pair, made = crop_pair((7.0, -3.0, 5.0)), network()
    pair.search[:, :, -6:] = AIR_HU
    loss = {}
    for name, shift in (("still", 0.0), ("true", 1.0), ("beyond", 2.0)):
        made.flow.bias.data = shift * SHIFT_MM / made.config.spacing_mm
        terms = VoxelMorphTask().loss_terms(made, pair, False)
        loss[name] = float(terms["ncc"])
        assert float(terms["diffusion"]) == pytest.approx(0, abs=1e-9)
    assert loss["true"] < 0.15
    assert min(loss["still"], loss["beyond"]) > 0.5


@pytest.mark.parametrize("name", TINY)
def test_a_constant_displacement_moves_the_prior_by_it(name: str) -> None:
    made = network(TINY[name])
    still = system(made).locate(aligned())
    assert np.allclose([found.center_mm for found in still], PLACES, atol=1e-6)
    made.flow.bias.data = SHIFT_MM / made.config.spacing_mm
    moved = system(made).locate(aligned())
    for place, found, before in zip(PLACES, moved, still, strict=True):
        assert found.center_mm == pytest.approx(place + SHIFT_MM.numpy(), abs=1e-5)
        assert found.evidence["correlation"] > 0.9
        assert found.evidence["gain"] > 0.2 > abs(before.evidence["gain"])
        assert found.evidence["spread_mm"] == pytest.approx(0, abs=1e-4)
    pair = crop_pair()
    assert torch.allclose(VoxelMorphTask().centers(made, pair, False), pair.truth_mm, atol=1e-4)


def test_a_shift_is_learned_from_the_images_alone() -> None:
    pair, task = crop_pair(), VoxelMorphTask()
    made = network().train().requires_grad_(True)
    optimizer = torch.optim.Adam(made.parameters(), 3e-3)
    for _ in range(40):
        terms = task.loss_terms(made, pair, False)
        loss = sum(task.weights[name] * term for name, term in terms.items())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[union-attr]
        optimizer.step()
    prior_mm = float(SHIFT_MM.norm())
    score = task.judge(made.eval().requires_grad_(False), [pair], False)
    assert score["val_prior_mm"] == pytest.approx(prior_mm, abs=1e-4)
    assert score["val_mm"] < 0.3 * prior_mm


def surrounded(volume: Volume, before: tuple[int, int, int], after: int) -> Volume:
    """The same with more planes about it that nobody saw."""
    width = [(count, after) for count in before]
    voxels = np.pad(volume.voxels, width, constant_values=np.nan)
    return Volume(voxels, volume.grid.cropped([-count for count in before], voxels.shape))


def test_what_nobody_saw_changes_nothing() -> None:
    """The grid about the images depends on which lesions are tracked, the answer does not."""
    pair, made = aligned(), system(network(moves=1.0))
    template, search = pair.template.voxels.copy(), pair.search.voxels.copy()
    template[:3], search[..., -5:] = np.nan, np.nan
    images = [Volume(voxels, GRID) for voxels in (template, search)]
    plain = made.register(*images)
    wide = made.register(*(surrounded(image, (4, 12, 7), 9) for image in images))
    assert float(plain.displacement_mm.std()) > 0.1
    assert np.array_equal(wide.displacement_mm, plain.displacement_mm)
    assert wide.grid.origin_mm == pytest.approx(plain.grid.origin_mm)


def test_the_follow_up_is_seen_about_the_common_view_but_not_far_beyond() -> None:
    grid = torso_grid((20, 20, 90), (2.0, 2.0, 2.0))
    search = texture(grid)
    template = Volume(np.where(np.arange(90)[:, None, None] < 30, search.voxels, np.nan), grid)
    warp = system(network()).register(template, search)
    assert warp.grid.shape_zyx == ((30 + 16) // 2, 10, 10)
    assert warp.grid.spacing_mm == (4.0, 4.0, 4.0)


def test_images_that_share_nothing_stay_where_they_are() -> None:
    unseen = Volume(np.full(GRID.shape_zyx, np.nan, np.float32), GRID)
    pair = replace(aligned(), search=unseen)
    for place, found in zip(PLACES, system(network(moves=1.0)).locate(pair), strict=True):
        assert found.center_mm == pytest.approx(place)


@pytest.mark.parametrize("name", TINY)
def test_tiles_give_the_displacement_of_the_whole(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The halo is as wide as the network looks."""
    grid = torso_grid((9, 7, 333), (2.0, 2.0, 2.0))
    images = [texture(grid, seed=seed) for seed in (0, 1)]
    made = system(network(TINY[name], moves=1.0))
    whole = made.register(*images)
    monkeypatch.setattr(systems, "TILE_VOXELS", 9 * 7 * 230 // made.config.flow_step)
    done: list[float] = []
    tiled = made.register(*images, lambda _, fraction: done.append(fraction))
    assert len(done) == 6
    assert done[-1] == 1
    assert float(whole.displacement_mm.std()) > 0.1
    assert np.allclose(tiled.displacement_mm, whole.displacement_mm, atol=1e-4)


def test_weights_come_back_and_make_the_tracker(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(network(moves=0.1), path, {"steps": 3}, "voxelmorph")
    loaded = load_weights(str(path), "voxelmorph")
    assert loaded.network.config == TINY["compact"]
    made = make_system("voxelmorph", str(path), "cpu", "fp32")
    first, second = (s.locate(aligned()) for s in (made, system(network(moves=0.1))))
    assert np.allclose([f.center_mm for f in first], [f.center_mm for f in second], atol=1e-5)
    assert (made.name, made.model_name, made.weights_sha256) == (
        "voxelmorph",
        str(path),
        loaded.sha256,
    )
    half = make_system("voxelmorph", str(path), "cpu", "bf16").locate(aligned())
    assert np.allclose([f.center_mm for f in first], [f.center_mm for f in half], atol=0.2)
    with pytest.raises(ModelError, match="weights of 'voxelmorph', not of 'tlt'"):
        load_weights(str(path), "tlt")


def test_it_trains_by_the_common_loop(ct_folder: Path, tmp_path: Path) -> None:
    config = TrainConfig(
        system="voxelmorph",
        network=SMALL,
        data=ct_folder,
        validation=ct_folder,
        output=tmp_path / "run",
        pairs={  # type: ignore[arg-type]
            "crops_zyx": [[24, 32, 36]],
            "queries": 4,
            "anchors": 16,
            "margin_mm": [12.0, 12.0, 8.0],
            "search_shift_mm": [8.0, 8.0, 4.0],
        },
        steps=2,
        workers=0,
        validation_pairs=2,
        checkpoint_every=1,
        validate_every=2,
        warmup=1,
    )
    assert config.cut == config.pairs  # the pairs that every other network sees
    rows: list[dict[str, float]] = []
    path = train(config, report=rows.append)
    assert load_weights(str(path)).network.config == TINY["compact"]
    assert set(VoxelMorphTask.weights) | {"prior", "val_mm"} <= set(rows[-1])
    assert rows[-1]["val_mm"] == pytest.approx(rows[-1]["val_prior_mm"], abs=0.5)
