"""Operator norms of affine operations in l_1, l_2 and l_inf, and products of norms over a whole network.

`operator_norm` returns an upper bound of `max ||W u||_r over ||u||_r <= 1`. For r = 1 and inf it is the largest absolute
column or row sum, exact. For r = 2 it is the largest singular value, exact (outward by 1e-9) for matrices, elementwise
scalings and for convolutions up to `_DENSE` entries; larger convolutions take the torus bound: zero padding embeds the
image in a torus at least as large as image plus kernel, where the Fourier transform turns the convolution into
one small matrix a frequency (Sedghi, Gupta, Long, 1805.10408, who compute the circular norm; here it bounds the padded
one from above), strides being unrolled to channels first. No value comes from power iteration, which bounds from below.

`product_bounds` multiplies them along the graph, and adds where branches meet: the trivial end of the chain of
Lipschitz bounds. Affine stretches of moderate size count as one matrix. Activations contribute their steepest slope
(GELU 1.1290, SiLU 1.0999), softmax 1/2 in every norm, `c / sqrt(mean c^2 + eps)` over k entries `eps^-1/2` in l_2 and
`sqrt(k / eps)` otherwise, maxima 1 in l_inf and the most windows an entry is in, to the power 1/r. A product of two
values that depend on the input has no such bound on the whole space: attention gives inf (Kim, Papamakarios, Mnih 2021).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from wassertight.certificates.lipschitz.blocks import Block, blocks
from wassertight.certificates.lipschitz.cotangents import magnitude
from wassertight.certificates.lipschitz.derivatives import steepest
from wassertight.certificates.lipschitz.segments import segment_rows
from wassertight.certificates.propagation.activations import Activation
from wassertight.certificates.propagation.graph import Graph
from wassertight.certificates.propagation.log_softmax import LogSoftmax
from wassertight.certificates.propagation.operations import (
    Affine,
    Convolution,
    Dense,
    Elementwise,
    Maximum,
    Product,
)
from wassertight.geometry import conjugate, norm

SLACK = 1e-9
"""Relative outward slack of every norm."""
_DENSE = 2**21
"""Most entries of a matrix that is written out."""
_SPANS = 1024
"""Longest side of a matrix whose singular values are computed for an affine stretch."""


def operator_norm(operation: Affine, r: float) -> float:
    """Upper bound of an affine operation's l_r operator norm, r in {1, 2, inf}; see the module's text for exactness.

    >>> from wassertight.certificates.propagation.operations import Dense
    >>> w = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    >>> dense = Dense(weight=w, bias=torch.zeros(2), source=(2,), target=(2,))
    >>> [round(operator_norm(dense, r), 6) for r in (1.0, 2.0, float("inf"))]
    [4.0, 5.0, 7.0]
    """
    sizes = magnitude(operation)
    like = _constant(operation)
    ones = torch.ones(1, *operation.source).to(like), torch.ones(1, *operation.target).to(like)
    rows, columns = float(sizes.spread(ones[0]).max()), float(sizes.pull(ones[1])[0].max())
    if math.isinf(r) or r == 1:
        return (rows if math.isinf(r) else columns) * (1 + SLACK)
    both = math.sqrt(rows) * math.sqrt(columns)
    if isinstance(operation, Elementwise):
        both = rows
    elif isinstance(operation, Dense):
        both = _largest(operation.weight)
    elif isinstance(operation, Convolution):
        entries = math.prod(operation.source) * math.prod(operation.target)
        both = min(both, _largest(matrix_of(operation)) if entries <= _DENSE else _torus(operation))
    return both * (1 + SLACK)


def product_bounds(graph: Graph, r: float) -> Tensor:
    """Bounds of `|f_j - f_y|(z) - |f_j - f_y|(x)` by `L ||z - x||_r` on the whole space, (classes, classes) at [y, j].

    inf where the network is not Lipschitz by this reasoning (attention, other products, unbounded slopes).
    """
    eye = torch.eye(graph.classes, dtype=torch.float64)
    spec = (eye[None] - eye[:, None]).flatten(0, 1)[None]
    return local_products(graph, r, spec, {}).view(graph.classes, graph.classes)


def local_products(graph: Graph, r: float, spec: Tensor, slopes: Mapping[int, Tensor]) -> Tensor:
    """Products of norms for forms of the logits.

    Args:
        spec: (n, m, classes).
        slopes: for some nodes that are not affine, and ends of blocks, a bound (n,) of what they contribute over a
            region; without it the bound of the whole space counts.

    Returns:
        (n, m).
    """
    norms = Norms(graph, r)
    last, n = len(graph.nodes) - 1, len(spec)
    found: dict[int, Tensor] = {0: torch.ones(n, dtype=torch.float64)}
    for index in norms.order:
        found[index] = norms.value(index, found, slopes.get(index))
    rows = segment_rows(graph, last, spec.to(norms.like))
    parts = [
        norm(a.flatten(0, 1), conjugate(r)).view(a.shape[:2]).double().cpu() * found[k][:, None].clamp_max(1e300)
        for k, a in rows.items()
    ]
    total = torch.stack(parts).sum(0) if parts else torch.zeros(spec.shape[:2], dtype=torch.float64)
    # a row of zeros times an infinite slope is zero; anything else infinite stays so
    return torch.where(total > 1e250, math.inf, total) * (1 + SLACK)


class Norms:
    """Factors of one graph in one norm, found once; `value` puts them together."""

    def __init__(self, graph: Graph, r: float) -> None:
        self.graph, self.r, self.blocks = graph, r, blocks(graph)
        hidden = frozenset[int]().union(*(block.inner for block in self.blocks.values()))
        self.order = [k for k, node in enumerate(graph.nodes) if k and not node.affine and k not in hidden]
        self.like = next((v for v in map(_held, graph.nodes) if v is not None), torch.zeros(1, dtype=torch.float64))
        self._stretches: dict[int, dict[int, float]] = {}

    def value(self, index: int, found: Mapping[int, Tensor], local: Tensor | None) -> Tensor:
        """Slope of a node that is not affine, from those of earlier ones."""
        node, block = self.graph.nodes[index], self.blocks.get(index)
        operation = node.operation
        if isinstance(operation, Product) and block is None:
            return torch.full_like(found[0], math.inf) if local is None else self._product(node.parents, found, local)
        parent = block.start if block is not None else node.parents[0]
        factor = torch.as_tensor(self._factor(block, operation, index)) if local is None else local
        slope = self.reach(parent, found)
        return torch.where((slope == 0) | (factor == 0), 0.0, slope * factor)

    def reach(self, index: int, found: Mapping[int, Tensor]) -> Tensor:
        """Slope of any node, by the affine stretch it ends."""
        if index not in self._stretches:
            self._stretches[index] = self._stretch(index)
        return sum((found[k] * size for k, size in self._stretches[index].items()), torch.zeros_like(found[0]))

    def _product(self, parents: tuple[int, ...], found: Mapping[int, Tensor], local: Tensor) -> Tensor:
        x, y = (self.reach(p, found) for p in parents)
        return x * local[1] + y * local[0]

    def _factor(self, block: Block | None, operation: object, index: int) -> float:
        if block is not None and block.kind == "softmax":
            return 0.5
        if block is not None:
            count = math.prod(self.graph.nodes[index].shape[-block.axes :])
            return math.sqrt((1 if self.r == 2 else count) / block.eps)
        if isinstance(operation, Maximum):
            if math.isinf(self.r):
                return 1.0
            ones = operation.windows(torch.ones(1, *operation.source), outside=0.0)
            return math.pow(float(operation.fold(ones).max()), 1 / self.r)
        if isinstance(operation, LogSoftmax):
            return 2.0 if math.isinf(self.r) else 1.0 + math.sqrt(operation.terms)
        assert isinstance(operation, Activation)
        shape = self.graph.nodes[index].shape
        return float(steepest(operation, torch.zeros(shape).to(self.like)).max())

    def _stretch(self, index: int) -> dict[int, float]:
        """For every node an affine stretch begins with, the norm of the map from there."""
        node = self.graph.nodes[index]
        if index == 0 or not node.affine:
            return {index: 1.0}
        units = math.prod(node.shape)
        if units * max(math.prod(self.graph.nodes[k].shape) for k in self.graph.ancestors[index]) <= _DENSE:
            hot = torch.eye(units).to(self.like).view(1, units, *node.shape)
            rows = segment_rows(self.graph, index, hot)
            if all(min(a.shape[1:]) <= _SPANS for a in rows.values()):
                return {k: _matrix_norm(a[0], self.r) for k, a in rows.items()}
        size = operator_norm(node.operation, self.r) if isinstance(node.operation, Affine) else 1.0
        total: dict[int, float] = {}
        for parent in node.parents:
            if parent not in self._stretches:
                self._stretches[parent] = self._stretch(parent)
            for k, part in self._stretches[parent].items():
                total[k] = total.get(k, 0.0) + size * part
        return total


def matrix_of(operation: Affine) -> Tensor:
    """The whole matrix of an affine operation, (target, source)."""
    units = math.prod(operation.target)
    hot = torch.eye(units).to(_constant(operation)).view(units, *operation.target)
    return operation.pull(hot)[0].reshape(units, -1)


def _matrix_norm(a: Tensor, r: float) -> float:
    if r == 2:
        return _largest(a) * (1 + SLACK)
    sums = a.abs().sum(1 if math.isinf(r) else 0)
    return float(sums.max()) * (1 + SLACK)


def _largest(a: Tensor) -> float:
    """Largest singular value of a matrix, or of a batch of them, by the smaller Gram matrix."""
    gram = a @ a.mH if a.shape[-2] <= a.shape[-1] else a.mH @ a
    scale = float(gram.abs().amax())
    if scale == 0 or not math.isfinite(scale):
        return scale
    return math.sqrt(scale * float(torch.linalg.eigvalsh(gram / scale).abs().max()))


def _torus(operation: Convolution) -> float:
    """Norm of the convolution on a torus that holds image and kernel without overlap; strides become channels."""
    weight, (vertical, horizontal) = operation.weight, operation.stride
    out, inner, rows, columns = weight.shape
    spread = weight.new_zeros(
        out, inner, operation.dilation[0] * (rows - 1) + 1, operation.dilation[1] * (columns - 1) + 1
    )
    spread[:, :, :: operation.dilation[0], :: operation.dilation[1]] = weight
    height, width = (
        max(operation.target[1 + k], -(-(operation.source[1 + k] + spread.shape[2 + k] + operation.padding[k]) // s))
        for k, s in ((0, vertical), (1, horizontal))
    )
    taps = [-(-spread.shape[2] // vertical), -(-spread.shape[3] // horizontal)]
    spread = functional.pad(
        spread, (0, taps[1] * horizontal - spread.shape[3], 0, taps[0] * vertical - spread.shape[2])
    )
    parts = spread.view(out, inner, taps[0], vertical, taps[1], horizontal).permute(0, 1, 3, 5, 2, 4)
    kernel = parts.reshape(operation.groups, out // operation.groups, -1, *taps)
    transformed = torch.fft.fft2(kernel, s=(height, width)).flatten(3).permute(0, 3, 1, 2)
    return _largest(transformed.flatten(0, 1))


def _constant(operation: Affine) -> Tensor:
    """Some constant of an operation, for its dtype and device."""
    found = [v for v in vars(operation).values() if isinstance(v, Tensor)]
    return found[0] if found else torch.zeros(1, dtype=torch.float64)


def _held(node: object) -> Tensor | None:
    operation = getattr(node, "operation", None)
    found = [v for v in vars(operation).values() if isinstance(v, Tensor)] if operation is not None else []
    return found[0] if found else None
