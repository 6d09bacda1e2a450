"""Bounds of a logit difference's gradient with respect to every node: intervals, and linear bounds through the masks.

The gradient `J'(e_j - e_y)` is computed from the logits down to the input by transposed operations; where an operation
is not affine its derivative is one of an interval of Jacobians (`maps`). Intervals alone forget that the same cotangent
reaches many entries. A linear bound of `<a, g>` remembers it: the row a is carried upward as a direction, through the
network itself, and where it meets a derivative s between two numbers, `s g` is replaced by the line under it over the
interval known for g - exact where the derivative or the sign of g is known. At the logits the gradient is a known
vector.

Reference: Shi, Wang, Zhang, Kolter, Hsieh, 2210.07394 (section 3), from which this differs: 1. the line under `s g` is
the convex hull for any interval of slopes, so that leaky, smooth and product operations need no case of their own;
2. softmax and normalisation are single maps; 3. intervals are kept where they are better.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from wassertight.certificates.lipschitz.blocks import Block, blocks
from wassertight.certificates.lipschitz.maps import (
    Factors,
    Interval,
    Largest,
    LocalMap,
    Normed,
    Shares,
    Slopes,
    interval,
)
from wassertight.certificates.propagation.activations import Activation
from wassertight.certificates.propagation.bounds import Bounds
from wassertight.certificates.propagation.graph import Graph
from wassertight.certificates.propagation.operations import (
    Add,
    Affine,
    Convolution,
    Dense,
    Elementwise,
    Maximum,
    Product,
    Rearrangement,
)
from wassertight.types import UnsupportedLayerError

Values = Callable[[dict[int, Tensor]], Tensor]
_ROOM = 6 * 10**6
"""Entries of one tensor of rows held at once."""
_ROUNDING = 1e-12
"""What sums of products may lose, relative to the magnitude of what is summed."""


def local_maps(graph: Graph, bounds: Bounds) -> dict[int, LocalMap]:
    """The interval of Jacobians of every operation that is not affine, by the node of its value; blocks as one."""
    known, found = blocks(graph), {}
    hidden = frozenset[int]().union(*(block.inner for block in known.values()))

    def ends(index: int) -> tuple[Tensor, Tensor]:
        low, high, error = bounds.triple(index)
        return low - error, high + error

    for index, node in enumerate(graph.nodes):
        operation, low_high = node.operation, [ends(p) for p in node.parents]
        if index in hidden or node.affine:
            continue
        if index in known:
            found[index] = _block(known[index], ends)
        elif isinstance(operation, Product):
            (x, wx), (y, wy) = (interval(*pair) for pair in low_high)
            found[index] = Factors(operation=operation, x=x, x_width=wx, y=y, y_width=wy)
        elif isinstance(operation, Maximum):
            low, high = low_high[0]
            rivals = operation.windows(high) >= operation.apply(low)[..., None]
            found[index] = Largest(operation=operation, rivals=rivals.to(low))
        elif isinstance(operation, Activation):
            found[index] = Slopes.of(operation, *low_high[0])
        else:
            raise UnsupportedLayerError(f"the Jacobian of {node.name} is not bounded outside of a softmax")
    return found


def _block(block: Block, ends: object) -> LocalMap:
    low, high = ends(block.end)  # type: ignore[operator]
    if block.kind == "softmax":
        return Shares(least=low.clamp(0, 1), most=high.clamp(0, 1))
    least, most = ends(block.scale)  # type: ignore[operator]
    value, width = interval(low, high)
    return Normed(
        value=value, value_width=width, least=least.clamp_min(0), most=most.clamp_max(block.eps**-0.5), axes=block.axes
    )


class Cotangents:
    """Bounds of the cotangents of one graph, given bounds of its values.

    Args:
        maps: as `local_maps` gives them, for N samples.
        top: cotangents of the logits (N, classes), one row a sample.
        values: lower bounds (N, k) of `sum of <b, v>` over rows b (N, k, *shape) on the values v of some nodes.
    """

    def __init__(self, graph: Graph, maps: dict[int, LocalMap], top: Tensor, values: Values) -> None:
        self.graph, self.maps, self.top, self.values = graph, maps, top, values
        self.linked = any(self._lines(index) for index in maps)
        self.steps: list[tuple[int, tuple[int, ...]]] = []
        known = blocks(graph)
        hidden = frozenset[int]().union(*(block.inner for block in known.values()))
        for index, node in enumerate(graph.nodes):
            if index and index not in hidden:
                self.steps.append((index, (known[index].start,) if index in known else node.parents))
        self.uses = {0: 0} | {index: sum(index in parents for _, parents in self.steps) for index, _ in self.steps}
        self.found: dict[int, Interval] = {}
        self._sizes: dict[int, Affine] = {}

    def intervals(self, r: float, *, linear: int = 0) -> Interval:
        """Bounds of the gradient with respect to the input, (N, *source).

        Args:
            r: the ground norm: entries that cannot matter for the gradient's dual norm are not refined (for inf, those
                whose sign is known: `lower` on their signed sum is better).
            linear: refine by linear bounds what takes at most so many rows a node; 0 leaves intervals.
        """
        last = len(self.graph.nodes) - 1
        pending: dict[int, Interval] = {last: (self.top, torch.zeros_like(self.top))}
        for index, parents in reversed(self.steps):
            if index not in pending:
                continue
            g, operation = pending.pop(index), self.graph.nodes[index].operation
            if index in self.maps:
                if linear:
                    g = self._refined(index, g, linear)
                self.found[index] = g
                parts = self.maps[index].backward(g)
            elif isinstance(operation, Add):
                parts = [g] * len(parents)
            else:
                assert isinstance(operation, Affine)
                parts = [self._transposed(index, operation, g)]
            for parent, (centre, width) in zip(parents, parts, strict=True):
                if parent in pending:
                    centre, width = centre + pending[parent][0], width + pending[parent][1]
                pending[parent] = centre, width + _ROUNDING * (centre.abs() + width)
        zero = self.top.new_zeros(len(self.top), *self.graph.source)
        g = pending.get(0, (zero, zero))
        self.found[0] = self._refined(0, g, linear, r) if linear else g
        return self.found[0]

    def lower(self, index: int, a: Tensor) -> Tensor:
        """Lower bounds (N, k) of `<a, g>`, g the cotangent of a node, for rows a (N, k, *shape).

        Bounds of the cotangents above the node must have been found by `intervals`.
        """
        best = self._lower(index, a, None)
        if not self.linked:
            return best
        held: dict[int, Tensor] = {}
        constant = self._lower(index, a, held)
        return torch.fmax(best, constant + self.values(held)) if held else best

    def _lower(self, index: int, a: Tensor, held: dict[int, Tensor] | None) -> Tensor:
        """The same; with `held`, rows on the values of activations' arguments are left there, to be added."""
        constant, rows = a.new_zeros(a.shape[:2]), {index: a}
        uses = dict(self.uses)
        for step, parents in self.steps:
            given = [rows.get(p) for p in parents]
            if all(part is None for part in given):
                continue
            operation = self.graph.nodes[step].operation
            if step in self.maps:
                if held is not None and self._lines(step):
                    rows[step], shift = self._link(step, parents[0], given[0], held)  # type: ignore[arg-type]
                else:
                    rows[step], shift = self._line(step, self.maps[step].forward(given))
                constant = constant + shift
            elif isinstance(operation, Add):
                present = [part for part in given if part is not None]
                rows[step] = sum(present[1:], present[0])
            else:
                assert isinstance(operation, Affine)
                assert given[0] is not None
                flat = operation.linear(given[0].flatten(0, 1))
                rows[step] = flat.view(*a.shape[:2], *flat.shape[1:])
            for parent in set(parents):
                uses[parent] -= 1
                if uses[parent] == 0 and parent in rows:
                    del rows[parent]
        last = rows.get(len(self.graph.nodes) - 1)
        return constant if last is None else constant + (last @ self.top[:, :, None]).squeeze(2)

    def _lines(self, index: int) -> bool:
        """Whether a node's derivative follows its argument."""
        return getattr(self.maps[index], "lines", None) is not None

    def _line(self, index: int, s: Interval) -> tuple[Tensor, Tensor]:
        """The line under `s g` for s in an interval (N, k, *shape) and g in its own: slope, and shift summed (N, k)."""
        centre, width = s
        g = self.found[index]
        low, high = (g[0] - g[1])[:, None], (g[0] + g[1])[:, None]
        crossing = (low < 0) & (high > 0)
        span = torch.where(crossing, high - low, 1.0)
        tilt = torch.where(crossing, -(high + low) / span, torch.where(low >= 0, -1.0, 1.0))
        drop = torch.where(crossing, 2 * low * high / span, 0.0)
        return centre + width * tilt, (width * drop).flatten(2).sum(2)

    def _link(self, index: int, parent: int, a: Tensor, held: dict[int, Tensor]) -> tuple[Tensor, Tensor]:
        """Like `_line` for an activation whose slope s follows its argument.

        With centres c and half-widths w every e in [-1, 1] gives a plane under `s g` (McCormick's two, mixed),

            (c_s + e w_s) g + (c_g + e w_g) s - c_s c_g - w_s w_g - e (c_s w_g + w_s c_g),

        and s lies between lines. The e at which s counts least is taken, which never gives less than `_line`.
        """
        part, (g, width) = self.maps[index], self.found[index]
        assert isinstance(part, Slopes)
        assert part.lines is not None
        middle, half = interval(part.least, part.most)
        e = -torch.where(g.abs() < width, g / width.clamp_min(torch.finfo(g.dtype).tiny), g.sign())
        weight, lines = (g + e * width)[:, None], part.lines
        sound = torch.isfinite(lines.lower_shift) & torch.isfinite(lines.upper_shift)
        under = torch.where(sound, lines.lower_slope, 0.0), torch.where(sound, lines.lower_shift, part.least)
        over = torch.where(sound, lines.upper_slope, 0.0), torch.where(sound, lines.upper_shift, part.most)
        row, size = a * weight, a.abs()
        above, below = row.clamp_min(0), row.clamp_max(0)
        pulled = above * under[0][:, None] + below * over[0][:, None]
        held[parent] = held[parent] + pulled if parent in held else pulled
        constant = above * under[1][:, None] + below * over[1][:, None] - row * middle[:, None]
        constant = constant - size * (half * (width + e * g))[:, None]
        return a * middle[:, None] + size * (e * half)[:, None], constant.flatten(2).sum(2)

    def _refined(self, index: int, g: Interval, most: int, r: float = math.inf) -> Interval:
        """The better of an interval and linear bounds, for the entries that can use them, largest first."""
        low, high = g[0] - g[1], g[0] + g[1]
        wanted = (low < 0) & (high > 0) if math.isinf(r) else torch.ones_like(low, dtype=torch.bool)
        if index in self.maps:
            wanted |= torch.full_like(wanted, self._lines(index))
            wanted &= ~torch.as_tensor(self.maps[index].exact(), device=low.device)
        count = int(wanted.flatten(1).sum(1).max())
        if count == 0 or count > most or index == len(self.graph.nodes) - 1 or not torch.isfinite(g[0] + g[1]).all():
            return g
        below, over = low.flatten(1).clone(), high.flatten(1).clone()
        size = torch.maximum(-below, over)
        rows = torch.where(wanted.flatten(1), size, -1.0).argsort(dim=1, descending=True)[:, :count]
        above = [index, *(k for k, _ in self.steps if index in self.graph.ancestors[k])]
        widest = max(math.prod(self.graph.nodes[k].shape) for k in above)
        reached = torch.zeros_like(size[:, 0])
        for part in torch.split(rows, max(1, _ROOM // (2 * widest * len(low))), dim=1):
            if r == 1 and bool((size.gather(1, part[:, :1]).squeeze(1) <= reached).all()):
                break
            hot = torch.zeros(*part.shape, size.shape[1], dtype=low.dtype, device=low.device)
            hot.scatter_(2, part[:, :, None], 1.0)
            a = torch.cat((hot, -hot), 1).view(len(low), -1, *low.shape[1:])
            least, greatest = self.lower(index, a).chunk(2, dim=1)
            slack = 1e3 * _ROUNDING * size.gather(1, part)
            least = torch.maximum(below.gather(1, part), least - slack)
            greatest = torch.minimum(over.gather(1, part), slack - greatest)
            below.scatter_(1, part, least)
            over.scatter_(1, part, torch.maximum(least, greatest))
            reached = torch.maximum(reached, torch.maximum(-least, greatest).amax(1))
        return interval(below.view_as(low), over.view_as(low))

    def _transposed(self, index: int, operation: Affine, g: Interval) -> Interval:
        if index not in self._sizes:
            self._sizes[index] = magnitude(operation)
        centre, width = g
        width = width + _ROUNDING * (centre.abs() + width)
        return operation.pull(centre)[0], self._sizes[index].pull(width)[0]


def magnitude(operation: Affine) -> Affine:
    """The operation with absolute weights and no shift."""
    if isinstance(operation, (Dense, Convolution)):
        return replace(operation, weight=operation.weight.abs(), bias=torch.zeros_like(operation.bias))
    if isinstance(operation, Elementwise):
        return replace(operation, scale=operation.scale.abs(), shift=torch.zeros_like(operation.shift))
    assert isinstance(operation, Rearrangement)
    return operation
