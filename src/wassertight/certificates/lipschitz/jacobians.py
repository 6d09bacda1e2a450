"""Local Lipschitz bounds of logit differences, around every sample, from bounds of the Jacobian over its region.

Problem: for a sample (x, y), a region B (the l_r ball of radius t around x, cut by the box) and every class j a number

    L_j >= sup over z in B of ||J(z)' (e_j - e_y)||_s,   1/r + 1/s = 1,

J any element of the Clarke Jacobian of the logits; B is convex, so `f_j - f_y` changes by at most `L_j ||z - z'||_r` between
any two points of B. The smallest of several bounds is taken, each sound by itself:

* intervals: the operations' derivatives, enclosed over the region, multiplied backward entry by entry (`cotangents`);
* linear (method "linear"): linear bounds of every entry of the gradient, and for r = inf of the sum of their absolute
  values in one piece, which keep that a hidden unit's mask is the same in every entry;
* ellipsoids (r = 2): layers as a whole, with optimised multipliers (`ellipsoids`);
* products of norms, with slopes bounded over the region and on the whole space (`norms`).

Claimed: the bound for the network as read (eval mode, weights as stored) in exact arithmetic, computed in float64 and
moved outward by 1e-9 relatively; its float32 execution has no Lipschitz constant at all. Finite on bounded regions for
every operation the propagation can enclose there: GELU, SiLU, softmax attention, LayerNorm. Not claimed: that bounds
are attained (large regions and attention are loose by orders of magnitude); anything finite for attention on the whole
space, where dot-product attention is not Lipschitz and the answer is inf; softplus counts without PyTorch's cut at its
threshold. At a point where a function of the network has no finite slope (square root at 0) the bound is inf.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wassertight.certificates.lipschitz.cotangents import Cotangents, local_maps
from wassertight.certificates.lipschitz.ellipsoids import Ellipsoids, applies
from wassertight.certificates.lipschitz.maps import Factors, Interval, LocalMap, Normed, Shares, Slopes, repeated
from wassertight.certificates.lipschitz.norms import SLACK, local_products
from wassertight.certificates.propagation.activations import Activation
from wassertight.certificates.propagation.backward import lower_bounds
from wassertight.certificates.propagation.graph import Graph
from wassertight.certificates.propagation.propagation import Propagation
from wassertight.certificates.propagation.region import Region, covering_radius
from wassertight.certificates.propagation.relaxations import dot
from wassertight.certificates.propagation.rounding import Rounding
from wassertight.certificates.propagation.specification import other_classes, specification
from wassertight.geometry import conjugate, norm
from wassertight.types import Bounds, InputError

METHODS = ("interval", "linear")
_WIDEST = 512
"""Most units of an activation for ellipsoids."""
_EXACT = Rounding.between(torch.float64, torch.float64)


def jacobian_bounds(
    graph: Graph,
    x: Float[Tensor, "n *features"],
    y: Int[Tensor, " n"],
    t: Float[Tensor, " n"],
    r: float,
    bounds: Bounds,
    *,
    method: str = "linear",
    descents: int = 20,
    rows: int = 1024,
    batch: int = 16,
) -> Float[Tensor, "n classes"]:
    """Bounds L (n, classes) of the l_r Lipschitz constants of `f_j - f_y` on every sample's region; 0 at j = y.

    Args:
        graph: the network, read in float64 (`read_graph`).
        x, y: samples and labels.
        t: radii of the balls; inf for the whole box (and, without a box, for the whole space).
        r: order of the ground norm: 1, 2 or inf.
        bounds: the box, or None.
        method: "interval", or "linear": never looser, and slower.
        descents: steps in which the ellipsoids' multipliers are improved (r = 2).
        rows: refine by linear bounds the nodes that take at most so many rows.
        batch: samples at once.

    Raises:
        ThreatError, InputError: for another norm, method or dtype.

    >>> from wassertight.certificates.propagation.reading import read_graph
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2)).double()
    >>> _ = model[0].load_state_dict({"weight": torch.tensor([[3.0, 0.0], [0.0, 4.0]]), "bias": torch.zeros(2)})
    >>> x, y = torch.zeros(1, 2).double(), torch.tensor([0])
    >>> graph = read_graph(model, x, dtype=torch.float64, device=x.device)
    >>> [round(v, 4) for v in jacobian_bounds(graph, x, y, torch.ones(1), 2.0, None)[0].tolist()]
    [0.0, 5.0]
    """
    if method not in METHODS:
        raise InputError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    x, t = x.double(), t.to(x.device).double()
    t = torch.minimum(t, covering_radius(x, r, bounds))
    spec = -specification(y, graph.classes, torch.float64)
    propagation = Propagation(graph, r, method="crown" if method == "linear" else "interval", rounding=_EXACT)
    parts = []
    with torch.no_grad():
        for begin in range(0, len(x), batch):
            part = slice(begin, begin + batch)
            one = _Local(propagation, graph, x[part], t[part], bounds, spec[part])
            parts.append(one.slopes(rows if method == "linear" else 0, descents))
    found = torch.cat(parts) * (1 + SLACK) if parts else x.new_zeros(0, graph.classes - 1)
    return x.new_zeros(len(x), graph.classes).scatter(1, other_classes(y, graph.classes), found)


class _Local:
    """The bounds of a few samples over their regions, for forms spec (n, m, classes) of the logits."""

    def __init__(
        self, propagation: Propagation, graph: Graph, x: Tensor, t: Tensor, bounds: Bounds, spec: Tensor
    ) -> None:
        self.whole, self.graph, self.r = graph, propagation.graph, propagation.r
        self.x, self.t, self.spec = x, t, spec
        self.finite = torch.isfinite(t)
        self.region = propagation.enter(Region.of(x, torch.where(self.finite, t, 1.0), self.r, bounds))
        self.bounds = propagation.bounds(self.region)
        self.relaxations = propagation.relaxations(self.bounds)
        self.stretch = torch.ones_like(x[:1])
        for scaling in propagation.entry:
            self.stretch = self.stretch * scaling.scale

    def slopes(self, rows: int, descents: int) -> Tensor:
        """The smallest bound of all, (n, m)."""
        maps, best = local_maps(self.graph, self.bounds), []
        if self.r == 2 and rows and applies(self.graph, _WIDEST):
            ellipsoids = Ellipsoids(self.graph, self.x, self.t, self.bounds)
            best.append(ellipsoids.squares(self.spec, descents).sqrt())
            for index, ends in ellipsoids.ends.items():
                activation = self.graph.nodes[index].operation
                if isinstance(maps.get(index), Slopes) and isinstance(activation, Activation):
                    maps[index] = Slopes.of(activation, *ends)
        best.append(self._entries(maps, 0))
        if rows:
            best.append(self._entries(maps, rows))
        best.append(self._product(maps))
        known = (self.finite & ~self.bounds.lost)[:, None]
        smallest = torch.stack([torch.where(b.isnan(), math.inf, b) for b in best]).amin(0)
        everywhere = local_products(self.whole, self.r, self.spec, {}).to(smallest)
        return torch.minimum(torch.where(known, smallest, math.inf), everywhere)

    def _entries(self, maps: Mapping[int, LocalMap], rows: int) -> Tensor:
        """Dual norm of the gradient's largest entries, or for r = inf a linear bound of their sum."""
        n, m = self.spec.shape[:2]
        batched = {index: repeated(part, m) for index, part in maps.items()}
        cotangents = Cotangents(self.graph, batched, self.spec.flatten(0, 1), self._values)
        g = cotangents.intervals(self.r, linear=rows)
        g = g[0] * self.stretch, g[1] * self.stretch.abs()
        size = norm(g[0].abs() + g[1], conjugate(self.r))
        if rows and math.isinf(self.r):
            size = torch.minimum(size, self._sum(cotangents, g))
        return size.view(n, m)

    def _values(self, rows: dict[int, Tensor]) -> Tensor:
        """Lower bounds of the sum of `<b, v>` over rows b (n m, k, *shape) on the values v of some nodes: (n m, k)."""
        first, (n, m) = next(iter(rows.values())), self.spec.shape[:2]
        k, last = first.shape[1], len(self.graph.nodes) - 1
        held = {index: b.reshape(n, m * k, *b.shape[2:]) for index, b in rows.items()}
        points = {index: (b, torch.zeros_like(b[:, :1])) for index, b in held.items() if index}
        blank = first.new_zeros(n, m * k, self.graph.classes)
        found = lower_bounds(self.graph, last, blank, self.region, self.relaxations, tight=False, multipliers=points)
        if 0 in held:
            found = found + self.region.minimum(held[0], tight=False)
        # the lines hold for the argument as rounding may move it
        error = sum(
            (dot(b.abs(), self.bounds.error[index][:, None]) for index, b in held.items()), torch.zeros_like(found)
        )
        return (found - error).view(n * m, k)

    def _sum(self, cotangents: Cotangents, g: Interval) -> Tensor:
        """Upper bound of the sum of absolute entries: every one under its chord, all of them in one row."""
        low, high = g[0] - g[1], g[0] + g[1]
        crossing = (low < 0) & (high > 0)
        span = torch.where(crossing, high - low, 1.0)
        slope = torch.where(crossing, (high + low) / span, torch.where(low >= 0, 1.0, -1.0))
        shift = torch.where(crossing, -2 * high * low / span, 0.0).flatten(1).sum(1)
        total = shift - cotangents.lower(0, -(slope * self.stretch)[:, None]).squeeze(1)
        return total + SLACK * (g[0].abs() + g[1]).flatten(1).sum(1)

    def _product(self, maps: Mapping[int, LocalMap]) -> Tensor:
        """Product of norms with slopes over the region."""
        found = {index: _steepness(part, self.r) for index, part in maps.items()}
        local = {index: v.double().cpu() for index, v in found.items() if v is not None}
        inside = local_products(self.graph, self.r, self.spec, local).to(self.x)
        return inside * float(self.stretch.abs().max())


def _steepness(part: LocalMap, r: float) -> Tensor | None:
    """Norm (n,) of the Jacobians of an operation; for products the norms (2, n) of their factors."""
    if isinstance(part, Slopes):
        return torch.maximum(part.least.abs(), part.most.abs()).flatten(1).amax(1)
    if isinstance(part, Shares):
        nearest = torch.maximum(torch.minimum(part.most, torch.full_like(part.most, 0.5)), part.least)
        return (2 * nearest * (1 - nearest)).flatten(1).amax(1)
    if isinstance(part, Normed):
        count = part.value[0].numel() / part.least[0].numel()
        return part.most.flatten(1).amax(1) * (1.0 if r == 2 else count**0.5)
    if isinstance(part, Factors):
        sizes = part.x.abs() + part.x_width, part.y.abs() + part.y_width
        if not part.operation.matrices:
            return torch.stack([size.flatten(1).amax(1) for size in sizes])
        x, y = ([size.sum(d).flatten(1).amax(1) for d in (-1, -2)] for size in sizes)
        # dX Y multiplies rows of dX by Y: absolute column sums of Y for r = inf, row sums for r = 1
        rows, columns = (x[0], x[1]), (y[1], y[0])
        if math.isinf(r):
            return torch.stack((rows[0], columns[0]))
        if r == 1:
            return torch.stack((rows[1], columns[1]))
        return torch.stack(((rows[0] * rows[1]).sqrt(), (columns[0] * columns[1]).sqrt()))
    return None
