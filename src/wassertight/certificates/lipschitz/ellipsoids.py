"""l_2 bounds: ellipsoids that hold every displacement a network's layers can make, with multipliers found by descent.

If `z - x` is in the unit ball, the displacement of every layer lies in an ellipsoid `{h : h' P^-1 h <= 1}`, and `<c, h>`
is at most `sqrt(c' P c)`. An affine map A takes P to `A P A'`. Behind an activation `h_i = d_i y_i`, d_i between two
slopes with middle c_i and half-width r_i, write `h = C y + w` with `|w_i| <= r_i |y_i|`. For every diagonal S above `T = R Q R`,
Q the matrix of y, multipliers `1 / S_i` of these inequalities (the S-procedure) give the ellipsoid

    P+ = C (Q + Q R (S - T)^-1 R Q) C + S,

exact where no slope is in doubt. Every S is sound; S is improved by gradient descent on the bound itself. This is
LipSDP (Fazlyab et al., 1906.04893) eliminated layer by layer, as ECLipsE does (Xu, Sivaranjani, NeurIPS 2024), written
in the inverse matrices: 1. degenerate matrices need no special case; 2. all layers' multipliers descend together;
3. layers not yet consumed stay in the ellipsoid, so that residual sums and concatenations are covered; 4. ranges
`a(x) +- t sqrt(Q_ii)` sharpen the arguments' bounds as they become known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from wassertight.certificates.lipschitz.derivatives import slope_range
from wassertight.certificates.lipschitz.segments import segment_rows
from wassertight.certificates.propagation.activations import Activation
from wassertight.certificates.propagation.bounds import Bounds
from wassertight.certificates.propagation.graph import Graph

_ROUNDING = 1e-10
"""Share of the largest eigenvalue added to what must stay positive."""
_MARGIN = 1e-3
"""Least share by which S stays above T, which bounds the condition of every solve."""


def applies(graph: Graph, widest: int) -> bool:
    """Whether every operation that is not affine is an activation of at most `widest` units."""
    bent = [node for node in graph.nodes if not node.affine]
    return all(isinstance(node.operation, Activation) and math.prod(node.shape) <= widest for node in bent)


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """One activation.

    Attributes:
        index: its node.
        matrix: (units, entries): its argument from the displacements held before it.
        kept: which of those entries are needed after it.
        middle, half: of its slopes, (n, units).
        free: units whose slope is in doubt, padded to one length, (n, u).
    """

    index: int
    matrix: Tensor
    kept: Tensor
    middle: Tensor
    half: Tensor
    free: Tensor


class Ellipsoids:
    """Ellipsoids of one graph around points x, over regions whose bounds are known.

    Args:
        graph: one to which `applies` says yes.
        x: (n, *source).
        t: radii (n,) of the balls the regions lie in.
        bounds: of every node's values over the regions.

    Attributes:
        ends: bounds (n, *shape) of every activation's argument, sharpened by the ellipsoids.
    """

    def __init__(self, graph: Graph, x: Tensor, t: Tensor, bounds: Bounds) -> None:
        self.graph, self.layers = graph, list[_Layer]()
        self.ends: dict[int, tuple[Tensor, Tensor]] = {}
        bent = [k for k, node in enumerate(graph.nodes) if not node.affine]
        arguments = {k: self._argument(k, x) for k in bent}
        sizes = {k: math.prod(graph.nodes[k].shape) for k in (0, *bent)}
        self.last = last = len(graph.nodes) - 1
        needed = {k: set(rows) for k, rows in arguments.items()}
        needed[last] = set(_rows(graph, last, x))
        values, held = graph.values(x), [0]
        p: Tensor | None = None
        even: Tensor | None = None
        for place, k in enumerate(bent):
            later = set[int]().union(*(needed[j] for j in (*bent[place + 1 :], last)))
            matrix = _joined(arguments[k], held, sizes, x)
            kept = torch.cat([torch.full((sizes[j],), j in later, device=x.device) for j in held])
            layer = self._layer(k, matrix, kept, p, values[graph.nodes[k].parents[0]], t, bounds)
            self.layers.append(layer)
            even, p = _behind(layer, even, None, even=True), _behind(layer, p, None)
            held = [j for j in held if j in later] + [k]
        self._starts, self._held, self._sizes = (p, even), held, sizes

    def _argument(self, index: int, x: Tensor) -> dict[int, Tensor]:
        return _rows(self.graph, self.graph.nodes[index].parents[0], x)

    def _layer(
        self, index: int, matrix: Tensor, kept: Tensor, p: Tensor | None, value: Tensor, t: Tensor, bounds: Bounds
    ) -> _Layer:
        parent, activation = self.graph.nodes[index].parents[0], self.graph.nodes[index].operation
        assert isinstance(activation, Activation)
        reach = t[:, None] * _variances(matrix, p).clamp_min(0).sqrt() * (1 + _ROUNDING)
        reach = torch.where(reach.isnan(), math.inf, reach).expand(len(value), -1).reshape(value.shape)
        reach = reach + 1e-12 * value.abs()
        low, high, error = bounds.triple(parent)
        low, high = torch.maximum(low - error, value - reach), torch.minimum(high + error, value + reach)
        high = torch.maximum(low, high)
        self.ends[index] = low, high
        least, most = slope_range(activation, low, high)
        middle, half = ((most + least) / 2).flatten(1), ((most - least) / 2).flatten(1)
        count = int((half > 0).sum(1).max())
        free = (half > 0).to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :count]
        return _Layer(index=index, matrix=matrix, kept=kept, middle=middle, half=half, free=free)

    def squares(self, spec: Tensor, iterations: int) -> Tensor:
        """Upper bounds (n, m) of the squared slopes of the forms spec (n, m, classes); the best of all descent steps.

        Args:
            iterations: descent steps; 0 takes multipliers in closed form.
        """
        rows = _joined(segment_rows(self.graph, self.last, spec), self._held, self._sizes, spec)
        best = torch.fmin(*(_forms(rows, start) for start in self._starts))
        scales = [torch.zeros(len(spec), layer.free.shape[1] + 1).to(spec) for layer in self.layers]
        if iterations == 0 or sum(layer.free.shape[1] for layer in self.layers) == 0:
            return best
        optimiser = torch.optim.Adam([s.requires_grad_(True) for s in scales], lr=0.3, betas=(0.8, 0.95))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, iterations, 0.02)
        for _ in range(iterations):
            with torch.enable_grad():
                p = None
                for layer, scale in zip(self.layers, scales, strict=True):
                    p = _behind(layer, p, scale)
                value = _forms(rows, p)
                loss = value.clamp_min(torch.finfo(spec.dtype).tiny).log().sum()
                gradients = torch.autograd.grad(loss, scales, allow_unused=True)
            best = torch.fmin(best, value.detach())
            for s, gradient in zip(scales, gradients, strict=True):
                s.grad = None if gradient is None else gradient.nan_to_num(0.0, 0.0, 0.0)
            optimiser.step()
            schedule.step()
        return best


def _behind(layer: _Layer, p: Tensor | None, scale: Tensor | None, *, even: bool = False) -> Tensor:
    """The matrix of the entries kept and of the activation's values, from that of the entries before it.

    Args:
        p: (n, entries, entries), None for the identity.
        scale: logarithms (n, 1 + u) of how S departs from its closed form.
        even: take a multiple of the identity instead of that form.
    """
    n, count = len(layer.middle), layer.free.shape[1]
    a = layer.matrix
    kept = layer.kept.nonzero().squeeze(1)
    x = a.T[None].expand(n, -1, -1) if p is None else p @ a.T
    q = (a @ a.T)[None].expand(n, -1, -1) if p is None else a @ x
    if p is None:
        eye = torch.eye(len(layer.kept), dtype=a.dtype, device=a.device)[None].expand(n, -1, -1)
        old = eye[:, kept][:, :, kept]
    else:
        old = p[:, kept][:, :, kept]
    joint = torch.cat((torch.cat((old, x[:, kept]), 2), torch.cat((x[:, kept].mT, q), 2)), 1)
    half = layer.half.gather(1, layer.free)
    across = layer.free[:, None].expand(-1, joint.shape[1], -1)
    y = joint[:, :, len(kept) :].gather(2, across) * half[:, None]
    inner = y[:, len(kept) :].gather(1, layer.free[:, :, None].expand(-1, -1, count)) * half[:, :, None]
    s = joint.new_zeros(n, 0)
    if count:
        s = _above(inner, half, scale, even)
        root, failed = torch.linalg.cholesky_ex(torch.diag_embed(s) - (inner + inner.mT) / 2)
        v = torch.linalg.solve_triangular(root, y.mT, upper=False)
        joint = joint + v.mT @ v
        joint = torch.where((failed > 0)[:, None, None], math.inf, joint)
    shape = torch.cat((torch.ones_like(old[:, 0]), layer.middle), 1) if len(kept) else layer.middle
    added = torch.zeros_like(layer.middle).scatter(1, layer.free, torch.where(half > 0, s, 0.0))
    if len(kept):
        added = torch.cat((torch.zeros_like(old[:, 0]), added), 1)
    return joint * shape[:, :, None] * shape[:, None] + torch.diag_embed(added)


def _above(t: Tensor, half: Tensor, scale: Tensor | None, even: bool) -> Tensor:
    """Diagonals S (n, u) with S - t positive definite: absolute row sums of t, or equal entries, times what is needed."""
    d = torch.ones_like(t[:, 0]) if even else t.abs().sum(2)
    d = d.clamp_min(1e-12 * d.amax(1, keepdim=True) + torch.finfo(t.dtype).tiny)
    share = torch.ones_like(d[:, :1])
    if scale is not None:
        d, share = d * scale[:, 1:].exp(), scale[:, :1].exp()
    d = torch.where(half > 0, d, 1.0)
    top = torch.linalg.eigvalsh(t * d.rsqrt()[:, :, None] * d.rsqrt()[:, None])[:, -1:]
    s: Tensor = d * top.clamp_min(1e-30) * (1 + _MARGIN + share)
    return s


def _variances(matrix: Tensor, p: Tensor | None) -> Tensor:
    """Diagonal of `A P A'`, (n or 1, units)."""
    return matrix.square().sum(1)[None] if p is None else ((matrix @ p) * matrix).sum(2)


def _forms(rows: Tensor, p: Tensor | None) -> Tensor:
    """`c' P c` of rows (n, m, entries), moved up by rounding; not a number becomes infinite."""
    value = (rows if p is None else rows @ p).mul(rows).sum(2) * (1 + _ROUNDING)
    return torch.where(value.isnan(), math.inf, value)


def _rows(graph: Graph, index: int, like: Tensor) -> dict[int, Tensor]:
    """The whole matrix (units, entries) of the affine stretch that ends in a node, by where it begins."""
    shape = graph.nodes[index].shape
    hot = torch.eye(math.prod(shape), dtype=like.dtype, device=like.device).view(1, -1, *shape)
    return {k: rows[0] for k, rows in segment_rows(graph, index, hot).items()}


def _joined(rows: dict[int, Tensor], held: list[int], sizes: dict[int, int], like: Tensor) -> Tensor:
    """Rows on every block held, side by side."""
    lead = next(iter(rows.values())).shape[:-1]
    blank = torch.zeros(1, dtype=like.dtype, device=like.device)
    return torch.cat([rows[k] if k in rows else blank.expand(*lead, sizes[k]) for k in held], -1)
