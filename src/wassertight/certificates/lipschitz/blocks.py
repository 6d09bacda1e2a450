"""Softmax and normalisation, found again in a graph whose nodes spell them out, so that their Jacobians are used whole.

A block is recognised by its operations and then checked by running it on random numbers against the formula; what is
not recognised stays a chain of single operations, which is looser but sound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wassertight.certificates.propagation.activations import Activation
from wassertight.certificates.propagation.graph import Graph
from wassertight.certificates.propagation.log_softmax import LogSoftmax
from wassertight.certificates.propagation.operations import Dense, Elementwise, Product, Rearrangement

_CLOSE = 1e-6
"""Relative agreement that identifies a block."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """A part of the graph with one argument and one value.

    Attributes:
        kind: "softmax" over the last axis, or "norm": `c / sqrt(mean of c^2 + eps)` over some last axes.
        start, end: the nodes of its argument and its value, of one shape.
        inner: nodes between, used by nothing else.
        scale: of a norm the node of `1 / sqrt(...)`, with one entry a normalised group.
        axes: of a norm, how many last axes a group has.
        eps: of a norm.
    """

    kind: str
    start: int
    end: int
    inner: frozenset[int]
    scale: int = -1
    axes: int = 1
    eps: float = 0.0


def blocks(graph: Graph) -> dict[int, Block]:
    """Every block of a graph by the node it ends in."""
    found: dict[int, Block] = {}
    for index in range(len(graph.nodes)):
        block = _softmax(graph, index) or _norm(graph, index)
        if block is not None and _closed(graph, block):
            found[index] = block
    return found


def _named(graph: Graph, index: int, name: str) -> bool:
    operation = graph.nodes[index].operation
    return isinstance(operation, Activation) and operation.name == name


def _parent(graph: Graph, index: int, kind: type) -> int:
    """The argument of a node of a kind, -1 if the node is of another."""
    return graph.nodes[index].parents[0] if index > 0 and isinstance(graph.nodes[index].operation, kind) else -1


def _softmax(graph: Graph, end: int) -> Block | None:
    if not _named(graph, end, "exp"):
        return None
    shares = graph.nodes[end].parents[0]
    centred = _parent(graph, shares, LogSoftmax)
    start = _parent(graph, centred, Dense)
    if start < 0:
        return None
    block, like = Block(kind="softmax", start=start, end=end, inner=frozenset((shares, centred))), graph.nodes[centred]
    assert isinstance(like.operation, Dense)
    return block if _reproduces(graph, block, like.operation.weight, lambda z: z.softmax(-1)) else None


def _norm(graph: Graph, end: int) -> Block | None:
    operation = graph.nodes[end].operation
    if not isinstance(operation, Product) or operation.matrices:
        return None
    start, inner = graph.nodes[end].parents[0], [graph.nodes[end].parents[1]]
    if isinstance(graph.nodes[inner[-1]].operation, Rearrangement):
        inner.append(graph.nodes[inner[-1]].parents[0])
    scale = inner[-1]
    if not _named(graph, scale, "rsqrt"):
        return None
    inner.append(graph.nodes[scale].parents[0])
    shifted = graph.nodes[inner[-1]].operation
    if not isinstance(shifted, Elementwise):
        return None
    inner.append(graph.nodes[inner[-1]].parents[0])
    inner.append(_parent(graph, inner[-1], Rearrangement))
    if inner[-1] < 0 or not _named(graph, inner[-1], "square") or graph.nodes[inner[-1]].parents[0] != start:
        return None
    ours, groups = graph.nodes[start].shape, graph.nodes[scale].shape
    axes = sum(a != b for a, b in zip(ours, groups, strict=True)) if len(ours) == len(groups) else 0
    if axes == 0 or any(size != 1 for size in groups[-axes:]):
        return None
    dims, eps = list(range(-axes, 0)), float(shifted.shift.min())
    block = Block(kind="norm", start=start, end=end, inner=frozenset(inner), scale=scale, axes=axes, eps=eps)

    def formula(z: Tensor) -> Tensor:
        return z * (z.square().mean(dims, keepdim=True) + eps).rsqrt()

    return block if eps > 0 and _reproduces(graph, block, shifted.shift, formula) else None


def _reproduces(graph: Graph, block: Block, like: Tensor, formula: Callable[[Tensor], Tensor]) -> bool:
    """Whether the nodes of a block compute the formula, on random numbers."""
    order = [block.start, *sorted(block.inner), block.end]
    place = {old: new for new, old in enumerate(order)}
    nodes = [replace(graph.nodes[block.start], operation=None, parents=())]
    for old in order[1:]:
        node = graph.nodes[old]
        if any(p not in place for p in node.parents):
            return False
        nodes.append(replace(node, parents=tuple(place[p] for p in node.parents)))
    z = torch.randn(3, *graph.nodes[block.start].shape, generator=torch.Generator().manual_seed(0)).to(like)
    found, expected = Graph(tuple(nodes)).logits(z), formula(z)
    return bool(((found - expected).abs() <= _CLOSE * (1 + expected.abs())).all())


def _closed(graph: Graph, block: Block) -> bool:
    """Whether nothing outside uses an inner node."""
    inside = block.inner | {block.end}
    return all(index in inside or not block.inner & set(node.parents) for index, node in enumerate(graph.nodes))
