"""Dense displacement search: descriptors, costs and tree against slow and obvious versions."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from tlt.registration.deeds import Level, Scan, consistent, register, sampled
from tlt.registration.dense_displacement import UNRELATED_BITS, displacement_costs
from tlt.registration.mind import UNSEEN, codes, mind_ssc
from tlt.registration.spanning_tree import SpanningTree, best_shifts, spanning_tree


def rough(shape: tuple[int, ...], sigma: float = 2.0, seed: int = 0) -> torch.Tensor:
    """Smooth random structure, in HU."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma)
    return torch.from_numpy((100 * noise / noise.std()).astype(np.float32))


def bits(word: int) -> int:
    return int(word).bit_count()


@pytest.mark.parametrize("step", [1, 2, 3])
def test_mind_ssc_is_the_definition(step: int) -> None:
    image = rough((26, 24, 25))
    found = mind_ssc(image, step)
    assert found.shape == (12, 26, 24, 25)
    steps = [np.array(o) * s * step for o in np.eye(3, dtype=int) for s in (1, -1)]
    pairs = [(a, b) for i, a in enumerate(steps) for b in steps[:i] if np.any(a + b)]
    assert len(pairs) == 12
    for place in ((12, 12, 12), (9, 14, 11)):
        patches = {}
        for offset in steps:
            cut = tuple(
                slice(p + o - step, p + o + step + 1) for p, o in zip(place, offset, strict=True)
            )
            patches[tuple(offset)] = image[cut]
        apart = [float((patches[tuple(a)] - patches[tuple(b)]).square().mean()) for a, b in pairs]
        apart = np.array(apart) - min(apart)
        expected = np.exp(-apart / apart.mean())
        assert np.allclose(np.sort(found[(slice(None), *place)]), np.sort(expected), atol=1e-3)


def test_mind_ssc_ignores_a_linear_change_of_the_intensities() -> None:
    image = rough((20, 18, 16))
    for changed in (image * 3 + 70, image * -0.5):
        assert torch.allclose(mind_ssc(changed, 2), mind_ssc(image, 2), atol=1e-3)
        same = codes(changed, 2) == codes(image, 2)
        assert same.float().mean() > 0.98  # else a level lay between two of the code
    assert not torch.allclose(mind_ssc(image.square(), 2), mind_ssc(image, 2), atol=0.1)
    assert torch.equal(mind_ssc(torch.full((9, 9, 9), 40.0), 1), torch.ones(12, 9, 9, 9))


def test_codes_differ_by_the_distance_of_their_levels() -> None:
    image = rough((40, 14, 12))  # more planes than are computed at a time
    words = codes(image, 1)
    level = (6 * mind_ssc(image, 1) - 0.5).clamp(0, 5).floor().long()
    assert int(words.min()) >= 0  # the bit of the unseen is free
    for a, b in (((0, 3, 3), (20, 7, 5)), ((15, 1, 1), (16, 1, 1)), ((39, 13, 11), (17, 0, 0))):
        apart = (level[(slice(None), *a)] - level[(slice(None), *b)]).abs().sum()
        assert bits(words[a] ^ words[b]) == apart


@pytest.mark.parametrize(
    ("cell", "radius", "step", "stride"), [(4, 2, 3, 2), (5, 1, 1, 1), (3, 2, 2, 3)]
)
def test_displacement_costs_are_the_definition(
    cell: int, radius: int, step: int, stride: int
) -> None:
    rng = np.random.default_rng(1)
    shape = (9, 10, 13)
    fixed, moving = rng.integers(0, 2**60, (2, *shape))
    fixed[2, 3], moving[4:6] = UNSEEN, UNSEEN
    costs = displacement_costs(fixed, moving, cell, radius, step, stride)
    cells = tuple(-(-n // cell) for n in shape)
    assert costs.shape == (*cells, *(2 * radius + 1,) * 3)

    def word(image: NDArray[np.int64], place: NDArray) -> int:
        inside = all(0 <= p < n for p, n in zip(place, shape, strict=True))
        return int(image[tuple(place)]) if inside else UNSEEN

    for control, shift in product([(0, 0, 0), (1, 1, 2), tuple(n - 1 for n in cells)], [0, 1, 2]):
        index = np.array([shift, 0, 2 * radius - shift])
        total, count = 0, 0
        for part in product(range(0, cell, stride), repeat=3):
            here = np.array(control) * cell + part
            a, b = word(fixed, here), word(moving, here + (index - radius) * step)
            total += UNRELATED_BITS if UNSEEN in (a, b) else bits(a ^ b)
            count += 1
        assert costs[(*control, *index)] == pytest.approx(total / count)


def test_the_tree_follows_the_least_change() -> None:
    image = torch.zeros(8, 12, 16)
    image[:, :, 8:] = 500  # two halves, flat inside
    image[:4, :, 7] += 10.0  # and nearer to each other in the upper half
    tree = spanning_tree(image, 4)
    count = 2 * 3 * 4
    assert sorted(tree.order) == list(range(count))
    assert tree.parents[tree.order[0]] == -1
    assert tree.order[0] == np.ravel_multi_index((1, 1, 2), (2, 3, 4))  # the middle
    seen = set()
    for node in tree.order:
        assert tree.parents[node] in seen | {-1}
        seen.add(node)
    column = np.arange(count) % 4
    across = [n for n in tree.order[1:] if (column[n] < 2) != (column[tree.parents[n]] < 2)]
    assert len(across) == 1  # there is but one edge between the halves
    spread = 2 * float(image.std(correction=0))
    length = -np.log(tree.weights[across[0]]) * spread
    assert length == pytest.approx(497.5, rel=1e-4)
    assert across[0] < count // 2
    assert np.all(tree.weights[np.setdiff1d(tree.order[1:], across)] >= np.exp(-10 / spread))


def energy(
    costs: NDArray, tree: SpanningTree, start: NDArray, shifts: tuple[tuple[int, ...], ...]
) -> float:
    """What a choice of shifts costs: a node and what hangs from it, times its weight, upwards."""
    total = np.array([costs[(n, *shift)] for n, shift in enumerate(shifts)], float)
    place = np.array(shifts) + start
    for node in tree.order[:0:-1]:
        parent = tree.parents[node]
        stretch = ((place[node] - place[parent]) ** 2).sum()
        total[parent] += tree.weights[node] * total[node] + stretch
    return float(total[tree.order[0]])


@pytest.mark.parametrize("seed", range(4))
def test_the_best_shifts_are_the_exact_minimum(seed: int) -> None:
    rng = np.random.default_rng(seed)
    parents = [np.array([-1, 0, 1, 1]), np.array([1, 3, 3, -1])][seed % 2]
    order = [np.array([0, 1, 2, 3]), np.array([3, 1, 2, 0])][seed % 2]
    tree = SpanningTree(order, parents, rng.uniform(0.3, 1, 4).astype(np.float32))
    side = 2
    costs = rng.uniform(0, 4, (4, side, side, side)).astype(np.float32)
    start = rng.normal(size=(4, 3)).astype(np.float32)
    places = list(product(range(side), repeat=3))
    least = min(energy(costs, tree, start, choice) for choice in product(places, repeat=4))
    chosen = best_shifts(costs.copy(), tree, start)
    found = tuple(tuple(int(i) for i in shift) for shift in chosen)
    assert energy(costs, tree, start, found) == pytest.approx(least, rel=1e-5)


def test_a_long_chain_against_a_search_over_two_nodes() -> None:
    """More shifts than can be tried on a tree: node by node, from the far end of a chain."""
    rng = np.random.default_rng(5)
    count, side = 6, 5
    tree = SpanningTree(np.arange(count), np.arange(count) - 1, np.ones(count, np.float32))
    costs = rng.uniform(0, 30, (count, side, side, side)).astype(np.float32)
    start = rng.normal(size=(count, 3)).astype(np.float32)
    places = np.array(list(product(range(side), repeat=3)))
    best = costs[-1].ravel().astype(float)
    for node in range(count - 1, 0, -1):
        apart = (places + start[node])[:, None] - (places + start[node - 1])[None]
        best = (best[:, None] + (apart**2).sum(-1)).min(0) + costs[node - 1].ravel()
    chosen = best_shifts(costs.copy(), tree, start)
    found = energy(costs, tree, start, tuple(tuple(int(i) for i in s) for s in chosen))
    assert found == pytest.approx(best.min(), rel=1e-5)


def test_consistent_fields_are_inverse_to_each_other() -> None:
    fields = [
        torch.stack([rough((10, 12, 11), 3.0, 10 * k + i) for i in range(3)]) / 40 for k in (1, 2)
    ]
    there, back = consistent(fields[0], -fields[0] + 0.3 * fields[1], cell=4)
    index = torch.stack(
        torch.meshgrid(*(torch.arange(float(n)) for n in (10, 12, 11)), indexing="ij")
    )
    left = there + sampled(back, index + there / 4)
    before = 0.3 * fields[1]
    inside = (slice(None),) + (slice(2, -2),) * 3
    assert left[inside].abs().mean() < 0.02 * before.abs().mean()
    assert (there - fields[0]).abs().max() < 2 * before.abs().max()


def wave(shape: tuple[int, int, int]) -> torch.Tensor:
    """A smooth displacement (3, D, H, W) of up to 5 voxels, different along each axis."""
    z, y, x = torch.meshgrid(*(torch.linspace(0, 1, n) for n in shape), indexing="ij")
    return torch.stack([5 * torch.sin(3 * y), 4 * torch.cos(4 * x + z) - 2, 3 * torch.sin(5 * z)])


@pytest.mark.parametrize("unseen", [False, True])
def test_a_smooth_deformation_is_recovered(unseen: bool) -> None:
    shape = (36, 44, 40)
    search = rough(shape)
    true = wave(shape)
    index = torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in shape), indexing="ij"))
    template = sampled(search[None], index + true)[0]
    inside = (slice(None),) + (slice(8, -8),) * 3
    if unseen:  # an edge of the view in the middle of nothing, at another place in each
        template, search = template.clone(), search.clone()
        template[:6], search[:, -7:] = torch.nan, torch.nan
    found = register(template, search)
    error = (found - true)[inside].norm(dim=0)
    assert true[inside].norm(dim=0).mean() > 3.0
    assert error.mean() < 0.7
    assert error.quantile(0.95) < 1.5


def test_the_edge_of_the_view_is_no_anatomy() -> None:
    """The views end 6 voxels apart, the tissue has not moved: nor does the registration."""
    image = rough((30, 30, 40))
    template, search = image.clone(), image.clone()
    template[..., :8], search[..., :14] = torch.nan, torch.nan
    found = register(template, search)
    assert found[..., 16:].abs().max() < 0.75
    assert found[..., 8:].abs().mean() < 0.5


def test_what_was_not_seen_is_filled_and_marked() -> None:
    image = rough((8, 9, 10))
    image[:3] = torch.nan
    scan = Scan.filled(image)
    assert torch.equal(scan.image[3:], image[3:])
    assert torch.equal(scan.image[:3], image[3].expand(3, 9, 10))
    assert np.array_equal(scan.codes(1) == UNSEEN, image.isnan().numpy())
    shift = torch.zeros(3, 8, 9, 10)
    shift[0], shift[2] = 2.0, 3.0
    moved = scan.warped(shift)
    assert torch.equal(moved.seen[1:6, :, :7], torch.ones(5, 9, 7, dtype=torch.bool))
    assert not moved.seen[0].any()
    assert not moved.seen[..., 7:].any()  # from beyond the border
    assert not moved.seen[6:].any()
    assert torch.allclose(moved.image[1:6, :, :7], image[3:, :, 3:], atol=1e-3)


def test_a_tiny_image_is_registered() -> None:
    image = rough((3, 5, 4))
    levels = (Level(8, 1, 2), Level(4, 1, 1))
    done: list[float] = []
    found = register(image, image, levels, done.append)
    assert found.shape == (3, 3, 5, 4)
    assert found.abs().max() < 0.5
    assert done == [0.5, 1.0]
