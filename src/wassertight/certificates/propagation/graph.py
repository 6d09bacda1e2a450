"""The network as certificates see it: nodes in order of evaluation, each one operation of `operations` or an activation."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from wassertight.certificates.propagation.activations import Activation
from wassertight.certificates.propagation.log_softmax import LogSoftmax
from wassertight.certificates.propagation.operations import (
    Add,
    Affine,
    Convolution,
    Dense,
    Elementwise,
    Maximum,
    Product,
    Rearrangement,
    Shape,
)

Operation = Affine | Activation | Add | Product | Maximum | LogSoftmax


@dataclass(frozen=True, kw_only=True)
class Node:
    """One operation and where its arguments come from.

    Attributes:
        name: the operation's name and place, for messages.
        operation: None for the input.
        parents: positions of the arguments in the graph.
        shape: of one value, without the batch dimension.
    """

    name: str
    operation: Operation | None
    parents: tuple[int, ...]
    shape: Shape

    @property
    def affine(self) -> bool:
        return self.operation is None or isinstance(self.operation, (Affine, Add))


@dataclass(frozen=True)
class Graph:
    """Nodes in order of evaluation: the input first, the logits last."""

    nodes: tuple[Node, ...]

    @property
    def source(self) -> Shape:
        return self.nodes[0].shape

    @property
    def classes(self) -> int:
        return self.nodes[-1].shape[0]

    @cached_property
    def bent(self) -> tuple[int, ...]:
        """Nodes whose bounds matter: arguments of operations that are not affine."""
        return tuple(sorted({p for node in self.nodes if not node.affine for p in node.parents}))

    @property
    def units(self) -> int:
        """How many numbers `bent` nodes have together: the size of the network to whoever bounds it."""
        return sum(math.prod(self.nodes[index].shape) for index in self.bent)

    @cached_property
    def straight(self) -> frozenset[int]:
        """Nodes that are affine in the input."""
        found: set[int] = set()
        for index, node in enumerate(self.nodes):
            if node.affine and all(p in found for p in node.parents):
                found.add(index)
        return frozenset(found)

    @cached_property
    def ancestors(self) -> tuple[frozenset[int], ...]:
        """For every node the nodes it depends on, itself included."""
        found: list[frozenset[int]] = []
        for index, node in enumerate(self.nodes):
            found.append(frozenset({index}).union(*(found[p] for p in node.parents)))
        return tuple(found)

    @cached_property
    def plain(self) -> frozenset[int]:
        """Nodes for which interval arithmetic over a box is exact: at most one summing operation away from the input."""
        depth: dict[int, int] = {0: 0}
        for index, node in enumerate(self.nodes[1:], 1):
            if index in self.straight:
                sums = isinstance(node.operation, (Add, Dense, Convolution)) or getattr(node.operation, "terms", 1) > 2
                depth[index] = sum(depth[p] for p in node.parents) + (1 if sums else 0) + (len(node.parents) > 1)
        return frozenset(index for index, deep in depth.items() if deep <= 1)

    @cached_property
    def settled(self) -> frozenset[int]:
        """Values of activations and maxima, possibly rearranged: their intervals follow from their arguments' bounds."""
        found: set[int] = set()
        for index, node in enumerate(self.nodes):
            moved = isinstance(node.operation, Rearrangement) and node.operation.terms <= 1 and node.parents[0] in found
            if moved or isinstance(node.operation, (Activation, Maximum)):
                found.add(index)
        return frozenset(found)

    def values(self, z: Tensor) -> list[Tensor]:
        """The value of every node on a batch (n, *source), in the graph's own dtype."""
        return list(self._evaluated(z, range(len(self.nodes))).values())

    def value(self, index: int, z: Tensor) -> Tensor:
        """The value of one node on a batch (n, *source)."""
        return self._evaluated(z, sorted(self.ancestors[index]))[index]

    def _evaluated(self, z: Tensor, wanted: Iterable[int]) -> dict[int, Tensor]:
        found: dict[int, Tensor] = {}
        for index in wanted:
            node = self.nodes[index]
            found[index] = z if index == 0 else _value(node.operation, [found[p] for p in node.parents])
        return found

    def logits(self, z: Tensor) -> Tensor:
        """The network as read, (n, classes)."""
        return self.values(z)[-1]


def pruned(nodes: list[Node], output: int) -> Graph:
    """Only what the logits depend on, in the same order."""
    needed = {output}
    for index in range(output, -1, -1):
        if index in needed:
            needed.update(nodes[index].parents)
    kept = sorted(needed | {0})
    place = {old: new for new, old in enumerate(kept)}
    return Graph(
        tuple(
            Node(
                name=nodes[old].name,
                operation=nodes[old].operation,
                parents=tuple(place[p] for p in nodes[old].parents),
                shape=nodes[old].shape,
            )
            for old in kept
        )
    )


def split_entry(graph: Graph) -> tuple[tuple[Elementwise, ...], Graph]:
    """Scalings that everything else sees the input through (input normalisation), and the graph behind them."""
    scalings: list[Elementwise] = []
    nodes = list(graph.nodes)
    while len(nodes) > 2:
        operation = nodes[1].operation
        if not isinstance(operation, Elementwise) or sum(0 in node.parents for node in nodes) > 1:
            break
        scalings.append(operation)
        rest = nodes[1:]
        nodes = [
            replace(
                node,
                parents=tuple(p - 1 for p in node.parents) if k else (),
                operation=node.operation if k else None,
            )
            for k, node in enumerate(rest)
        ]
    return tuple(scalings), Graph(tuple(nodes))


def _value(operation: Operation | None, arguments: list[Tensor]) -> Tensor:
    if isinstance(operation, Add):
        return sum(arguments[1:], arguments[0])
    if isinstance(operation, Product):
        return operation.of(arguments[0], arguments[1])
    assert operation is not None
    return operation.apply(arguments[0])
