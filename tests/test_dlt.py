"""DLT: its pyramid, its anatomy signals, its flat kernels, and the peak that is the centre."""

from __future__ import annotations

import pytest
import torch
from test_correlation import by_loops
from tiny import noise_image, shifted_pair, tiny_siamese
from torch import Tensor, nn

from tlt.model.correlation import Cubes, middle
from tlt.model.dlt import DLT, AnatomySignalEncoder, FastCrossCorrelation, peak_offset, upsampled
from tlt.model.network import TokenMap
from tlt.model.siamese import UNSEEN_LOGIT
from tlt.training.siamese_task import DLTTask

ORIGIN = torch.tensor([5.0, -20.0, 8.0])


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Sum(nn.Module):
    """A head that has learned nothing: the sum of the correlations of all channels."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.sum(1, keepdim=True)


def untrained(network: DLT) -> DLT:
    """No signal, no head: correlation alone."""
    for signal in (network.template_signal, network.search_signal):
        nn.init.zeros_(signal.second.weight)
    network.scale, network.fuse = nn.Identity(), Sum()  # type: ignore[assignment]
    return network


def set_to_means(correlation: FastCrossCorrelation) -> None:
    """Each flat kernel is the mean of the global one along its axis, channel by channel."""
    for flatten in correlation.flatten:
        channels, _, *extent = flatten.weight.shape
        mean = torch.eye(channels)[:, :, None, None, None] / torch.Size(extent).numel()
        flatten.weight.data = mean.expand(flatten.weight.shape).clone()
        flatten.bias.data.zero_()


@torch.no_grad()
def test_decomposed_kernels_are_a_brute_force_correlation() -> None:
    lesion, windows = noise(2, 3, 3, 5, 5), noise(2, 3, 7, 9, 9, seed=1)
    correlation = FastCrossCorrelation(3, (1, 3, 3), (3, 5, 5))
    set_to_means(correlation)
    found = correlation(lesion, windows, (2, 2, 2))
    flat = [lesion.mean(axis, keepdim=True) for axis in (2, 3, 4)]
    wide = sum(by_loops(windows, kernel, (2, 2, 2)) for kernel in flat)
    local = by_loops(windows, middle(lesion, (0, 1, 1)), (2, 2, 2))
    assert torch.allclose(found, torch.cat([wide, local], 1), atol=1e-5)


@torch.no_grad()
def test_flat_kernels_start_as_the_middle_slices() -> None:
    lesion = noise(2, 3, 3, 5, 7)
    flat = [f(lesion) for f in FastCrossCorrelation(3, (1, 3, 3), (3, 5, 7)).flatten]
    for axis, (kernel, place) in enumerate(zip(flat, (1, 2, 3), strict=True)):
        assert torch.allclose(kernel, lesion.narrow(2 + axis, place, 1), atol=1e-6)


@pytest.mark.parametrize("shift_zyx", [(0, 0, 0), (3, -2, 5)])
@torch.no_grad()
def test_the_peak_is_the_shift_of_the_features(shift_zyx: tuple[int, int, int]) -> None:
    network = untrained(tiny_siamese("dlt"))
    features = noise(8, 30, 34, 34)
    template = TokenMap(features, ORIGIN, 4.0)
    search = TokenMap(features.roll(shift_zyx, (1, 2, 3)), ORIGIN, 4.0)
    centers = ORIGIN + torch.tensor([[64.0, 64.0, 60.0], [61.3, 66.0, 56.5]])
    found = network(template, search, centers, torch.tensor([6.0, 9.0]))
    assert found.logits.shape == (2, 21**3)
    shift = 4.0 * torch.tensor(shift_zyx[::-1]).float()
    # The neighbours of a peak in noise differ, so the parabola moves it by a share of a token.
    assert (found.center_mm - centers - shift).abs().max() < 1.0
    best = found.positions_mm[torch.arange(2), found.logits.argmax(1)]
    assert torch.allclose(best - centers, shift.expand(2, 3), atol=1e-4)


def test_a_parabola_gives_the_peak_between_voxels() -> None:
    z, y, x = torch.meshgrid(*(torch.arange(7.0) for _ in range(3)), indexing="ij")
    inside = -((x - 3.3) ** 2) - 2 * (y - 1.8) ** 2 - 0.5 * (z - 4.0) ** 2
    edge = -(x**2) - (y - 2.4) ** 2 - (z - 6) ** 2
    offset = peak_offset(torch.stack([inside, edge]))
    expected = torch.tensor([[0.3, -0.2, 0.0], [0.0, 0.4, 0.0]])
    assert torch.allclose(offset, expected, atol=1e-5)


def test_a_peak_beside_what_is_unseen_stays_on_its_voxel() -> None:
    x = torch.arange(7.0).expand(1, 7, 7, 7)
    maps = -((x - 3.0) ** 2)
    maps = torch.where(x < 3, UNSEEN_LOGIT, maps)
    assert peak_offset(maps)[0, 0] == 0.0


def test_upsampling_keeps_every_second_point() -> None:
    coarse = noise(1, 2, 3, 4, 2)
    finer = upsampled(coarse, torch.Size((6, 7, 4)))
    assert finer.shape[2:] == (6, 7, 4)
    assert torch.allclose(finer[:, :, ::2, ::2, ::2], coarse)
    between = (coarse[:, :, :-1] + coarse[:, :, 1:]) / 2
    assert torch.allclose(finer[:, :, 1:-1:2, ::2, ::2], between)
    assert torch.equal(finer[:, :, -1], finer[:, :, -2])


@torch.no_grad()
def test_the_features_are_finer_than_the_backbones() -> None:
    network = tiny_siamese("dlt")
    image = noise_image((24, 32, 20))
    assert network.encode(image).shape == (1, 8, 12, 16, 10)
    assert (network.config.stride, network.config.token_mm) == (4, 4.0)
    levels = network.backbone.levels(image)
    assert [level.shape[2] for level in levels] == [12, 6]
    assert torch.equal(levels[-1], network.backbone(image))


@torch.no_grad()
def test_features_reach_no_farther_than_the_halo() -> None:
    network = tiny_siamese("dlt")
    image = noise_image((96, 16, 16))
    changed = image.clone()
    changed[:, :, 48] += 500
    moved = (network.encode(image) - network.encode(changed)).abs().amax((0, 1, 3, 4)) > 0
    reach = (2 * torch.arange(48)[moved] - 48).abs().max()
    assert 0.5 * network.config.halo < reach <= network.config.halo


@torch.no_grad()
def test_the_signal_is_a_function_of_the_distance_in_radii() -> None:
    encoder = AnatomySignalEncoder(3)
    positions = torch.zeros(2, 1, 1, 9, 3)
    positions[..., 0] = torch.arange(9.0)
    positions[1] *= 5  # the same in units of sigma
    cubes = Cubes(
        torch.ones(2, 3, 1, 1, 9), positions, torch.ones(2, 1, 1, 9) > 0, positions[:, 0, 0, 0]
    )
    encoded = encoder(cubes, torch.tensor([[2.0, 0, 0], [10.0, 0, 0]]), torch.tensor([2.0, 10.0]))
    assert torch.allclose(encoded[0], encoded[1], atol=1e-5)
    assert not torch.allclose(encoded[0, :, 0, 0, 2], encoded[0, :, 0, 0, 8], atol=1e-3)


def test_training_jitters_what_was_painted_and_nothing_else() -> None:
    network, pair = tiny_siamese("dlt"), shifted_pair()
    task = DLTTask()
    assert task.prepared(network.eval(), pair) is pair
    torch.manual_seed(0)
    network.train()
    moved = torch.stack(
        [task.prepared(network, pair).centers_mm - pair.centers_mm for _ in range(50)]
    ).norm(dim=-1)
    assert (moved[:, 2:] == 0).all()
    assert (moved[:, :2] <= 0.25 * pair.radius_mm[:2] + 1e-4).all()
    assert (moved[:, :2].amax(0) > 0.2 * pair.radius_mm[:2]).all()
    assert task.prepared(network, pair).truth_mm is pair.truth_mm
