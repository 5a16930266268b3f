"""The best displacement of every control point: exact inference on a spanning tree.

Source: Heinrich et al., IEEE TMI 2013, Section III: the six-neighbour graph of the control points
is reduced to its minimum spanning tree, on which min-sum belief propagation is exact; with a
quadratic penalty a message is a distance transform, one axis after the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numba import njit
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree


@dataclass(frozen=True, eq=False)
class SpanningTree:
    """A tree over the N control points, in the order of their array.

    Attributes:
        order: (N,) nodes, each after its parent.
        parents: (N,) parent of each node; -1 for the root.
        weights: (N,) how much a node's costs count at its parent; 1 for as much as its own.
    """

    order: NDArray[np.int64]
    parents: NDArray[np.int64]
    weights: NDArray[np.float32]


def spanning_tree(image: torch.Tensor, cell: int) -> SpanningTree:
    """The tree along which an image (D, H, W), cut into cells, changes least; its root is central.

    The length of an edge is the mean absolute difference of two cells, voxel by voxel.
    """
    shape = [-(-size // cell) for size in image.shape]
    pad = [n * cell - size for n, size in zip(shape, image.shape, strict=True)]
    wide = F.pad(image[None, None], (0, pad[2], 0, pad[1], 0, pad[0]), "replicate")[0, 0]
    number = np.arange(np.prod(shape)).reshape(shape)
    ends, lengths = [], []
    for axis in range(3):
        n = shape[axis]
        if n < 2:
            continue
        change = wide.narrow(axis, cell, (n - 1) * cell) - wide.narrow(axis, 0, (n - 1) * cell)
        lengths.append(F.avg_pool3d(change.abs_()[None, None], cell).flatten().double().numpy())
        first, second = (np.take(number, range(k, k + n - 1), axis) for k in (0, 1))
        ends.append(np.stack([first.ravel(), second.ravel()]))
    root = int(number[tuple(n // 2 for n in shape)])
    if not ends:
        return SpanningTree(np.array([root]), np.array([-1]), np.ones(1, np.float32))
    spread = 2 * float(image.double().std(correction=0)) + 1e-6
    return _tree(np.concatenate(ends, 1), np.concatenate(lengths), number.size, root, spread)


def _tree(ends: NDArray, lengths: NDArray, count: int, root: int, spread: float) -> SpanningTree:
    # an edge of no length would be none: 1 more for all leaves the tree what it is
    graph = coo_array((1 + lengths, tuple(ends)), shape=(count, count)).tocsr()
    tree = minimum_spanning_tree(graph)
    order, parents = breadth_first_order(tree, root, directed=False)
    both = (tree + tree.T).tocsr()
    child = order[1:]
    weights = np.ones(count, np.float32)
    weights[child] = np.exp(-(both[child, parents[child]] - 1) / spread)
    parents[root] = -1
    return SpanningTree(order.astype(np.int64), parents.astype(np.int64), weights)


def best_shifts(
    costs: NDArray[np.float32], tree: SpanningTree, start: NDArray[np.float32]
) -> NDArray[np.int64]:
    """Indices (N, 3) of the shifts with the least sum of costs and squared differences.

    ``costs`` (N, n, n, n) are overwritten; a shift's index is its place there. What an edge costs
    is |shift + start - shift' - start'|^2, ``start`` (N, 3) in steps of the index. The costs of a
    node and of all below it are multiplied by its weight.
    """
    chosen = np.zeros((len(costs), 3), np.int64)
    _collect(costs, tree.order, tree.parents, tree.weights, start)
    _choose(costs, tree.order, tree.parents, start, chosen)
    return chosen


@njit(nogil=True, cache=True)
def _collect(costs, order, parents, weights, start):
    """From the leaves to the root: add to each node's costs the messages of its children."""
    side = costs.shape[1]
    buffer = np.empty((side, side * side), np.float32)
    message = np.empty((side, side * side), np.float32)
    for k in range(len(order) - 1, 0, -1):
        node = order[k]
        parent = parents[node]
        own = costs[node]
        own *= weights[node]
        message[:] = own.copy().reshape(side, side * side)
        for axis in range(3):
            _transform(message, start[node, axis] - start[parent, axis], buffer)
        message -= message.min()
        costs[parent] += message.reshape(side, side, side)


@njit(nogil=True, cache=True)
def _transform(message, offset, buffer):
    """Lower a message (n, n * n) along its first axis, which becomes its last.

    At j it is min over i of message[i] + (i + offset - j)^2.
    """
    side = len(message)
    for j in range(side):
        penalty = (offset - j) ** 2
        for k in range(side * side):
            buffer[j, k] = message[0, k] + penalty
        for i in range(1, side):
            penalty = (i + offset - j) ** 2
            for k in range(side * side):
                buffer[j, k] = min(buffer[j, k], message[i, k] + penalty)
    turned = message.reshape(side * side, side)
    for k in range(side * side):
        for j in range(side):
            turned[k, j] = buffer[j, k]


@njit(nogil=True, cache=True)
def _choose(costs, order, parents, start, chosen):
    """From the root to the leaves: the best shift of each node, given its parent's."""
    side = costs.shape[1]
    for node in order:
        parent = parents[node]
        free = np.float32(parent < 0)
        wanted = chosen[parent] + start[parent] - start[node]
        best = np.float32(np.inf)
        for z in range(side):
            for y in range(side):
                for x in range(side):
                    apart = (z - wanted[0]) ** 2 + (y - wanted[1]) ** 2 + (x - wanted[2]) ** 2
                    value = costs[node, z, y, x] + (np.float32(1) - free) * apart
                    if value < best:
                        best = value
                        chosen[node, 0], chosen[node, 1], chosen[node, 2] = z, y, x
