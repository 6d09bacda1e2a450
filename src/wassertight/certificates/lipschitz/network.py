"""A feed-forward ReLU network as float64 matrices with a hinge between two, read from any model that can be folded so.

Whatever lies between two hinges and is affine - input normalisation, convolutions, batch norm, average pooling,
rearrangements, sums of such branches - becomes one dense matrix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from wassertight.certificates.propagation.activations import Hinge
from wassertight.certificates.propagation.graph import Graph
from wassertight.certificates.propagation.operations import Add, Affine
from wassertight.certificates.propagation.reading import read_graph
from wassertight.types import Model, UnsupportedLayerError

_ENTRIES = 2 * 10**7
"""Largest matrix that is written out."""


@dataclass(frozen=True, kw_only=True)
class ReluNetwork:
    """`h_0 = z`, `a_t = W_t h_(t-1) + b_t`, `h_t = slope * a_t`, the slope `left` below zero and `right` above.

    Attributes:
        weights, biases: H + 1 matrices (n_t, n_(t-1)) and shifts; the last gives the logits. float64, on the CPU.
        left, right: H slopes a unit, (n_t,); 0 and 1 for ReLU.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    left: tuple[Tensor, ...]
    right: tuple[Tensor, ...]

    @property
    def inputs(self) -> int:
        return self.weights[0].shape[1]

    @property
    def classes(self) -> int:
        return len(self.weights[-1])

    @cached_property
    def sizes(self) -> list[int]:
        """Units of every hidden layer."""
        return [len(b) for b in self.biases[:-1]]

    @property
    def units(self) -> int:
        return sum(self.sizes)

    @cached_property
    def regions(self) -> int:
        """The network has no more cells: a layer cuts those before like hyperplanes of the smallest dimension so far."""
        count, dimension = 1, self.inputs
        for size in self.sizes:
            count *= sum(math.comb(size, k) for k in range(min(dimension, size) + 1))
            dimension = min(dimension, size)
        return count

    @cached_property
    def homogeneous(self) -> ReluNetwork:
        """The network without shifts: what is left of it far away, `f(t u) / t -> f_0(u)`."""
        return replace(self, biases=tuple(torch.zeros_like(b) for b in self.biases))

    def arguments(self, z: Tensor) -> Tensor:
        """Arguments of all hinges at z (n, inputs), layer by layer, (n, units)."""
        return torch.cat(self._run(z)[0], 1) if self.sizes else z[:, :0]

    def logits(self, z: Tensor) -> Tensor:
        """(n, classes)."""
        return self._run(z)[1]

    def _run(self, z: Tensor) -> tuple[list[Tensor], Tensor]:
        seen = []
        for w, b, left, right in zip(self.weights, self.biases, self.left, self.right, strict=False):
            a = z @ w.T + b
            seen.append(a)
            z = torch.where(a > 0, right * a, left * a)
        return seen, z @ self.weights[-1].T + self.biases[-1]

    def slopes(self, on: Tensor) -> Tensor:
        """The slopes of a mask: `right` where `on` (..., units) holds."""
        return torch.where(on, torch.cat(self.right), torch.cat(self.left))

    def gradients(self, on: Tensor, c: Tensor) -> Tensor:
        """`J' c` for masks on (..., units) and rows c (..., classes) of logit weights, (..., inputs)."""
        g = c @ self.weights[-1]
        slopes = torch.split(self.slopes(on), self.sizes, -1) if self.sizes else ()
        for w, s in zip(reversed(self.weights[:-1]), reversed(slopes), strict=True):
            g = (g * s) @ w
        return g


def read_network(model: Model, x: Tensor) -> ReluNetwork:
    """Read a model whose only operations that are not affine are hinges in a row.

    Args:
        model: in evaluation mode.
        x: a few examples (n, *features); the network's inputs are the features in order.

    Raises:
        UnsupportedLayerError: naming the first operation that is neither affine nor a hinge, or that joins branches
            with hinges in them; or where a matrix would be too large to write out.
    """
    return fold(read_graph(model, x, dtype=torch.float64, device=torch.device("cpu")))


def fold(graph: Graph) -> ReluNetwork:
    """A graph as matrices; see `read_network`."""
    start = math.prod(graph.source)
    weights, biases, left, right = [], [], [], []
    base = 0
    maps = {0: _identity(start, graph.source)}
    for index, node in enumerate(graph.nodes[1:], 1):
        operation = node.operation
        missing = [p for p in node.parents if p not in maps]
        if missing:
            raise UnsupportedLayerError(
                f"{node.name} joins a branch across {graph.nodes[base].name}; exact Lipschitz constants are offered for "
                "networks with one hinge after the other, without skip connections over one"
            )
        if isinstance(operation, Hinge):
            rows, shift = maps[node.parents[0]]
            weights.append(rows.flatten(1).T.contiguous())
            biases.append(shift.flatten())
            like = shift
            left.append(torch.as_tensor(operation.left, dtype=like.dtype).expand(like.shape).flatten().clone())
            right.append(torch.as_tensor(operation.right, dtype=like.dtype).expand(like.shape).flatten().clone())
            base, maps = index, {index: _identity(shift.numel(), node.shape)}
        elif isinstance(operation, Affine):
            rows, shift = maps[node.parents[0]]
            if len(rows) * math.prod(node.shape) > _ENTRIES:
                raise UnsupportedLayerError(f"{node.name} is too large to be written out as a matrix ({node.shape})")
            maps[index] = operation.linear(rows), operation.apply(shift[None])[0]
        elif isinstance(operation, Add):
            parts = [maps[p] for p in node.parents]
            maps[index] = sum(p[0] for p in parts[1:]) + parts[0][0], sum(p[1] for p in parts[1:]) + parts[0][1]
        else:
            raise UnsupportedLayerError(
                f"{node.name} is neither affine nor a ReLU; exact Lipschitz constants are offered for ReLU networks"
            )
    rows, shift = maps[len(graph.nodes) - 1]
    weights.append(rows.flatten(1).T.contiguous())
    biases.append(shift.flatten())
    return ReluNetwork(weights=tuple(weights), biases=tuple(biases), left=tuple(left), right=tuple(right))


def _identity(size: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    if size * size > _ENTRIES:
        raise UnsupportedLayerError(f"a value of {size} entries is too large for exact Lipschitz constants")
    eye = torch.eye(size, dtype=torch.float64)
    return eye.view(size, *shape), torch.zeros(shape, dtype=torch.float64)
