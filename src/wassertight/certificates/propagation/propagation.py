"""Bounds of every node of a graph over input regions, batched over samples.

Interval arithmetic goes forward; the arguments of every operation that is not affine are then sharpened by backward
linear bounds where intervals leave them undecided, and the better of both is kept.

Differs from CROWN as published (1811.00866): 1. arguments that are affine in the input take, under l_1 and l_2 balls,
the better of the dual norm and the box; 2. final margins use the exact minimum over ball and box; 3. units of feature
maps keep coefficients on their receptive field only; 4. maxima over windows have a plane from above, not a constant.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wassertight.certificates.propagation.activations import Activation
from wassertight.certificates.propagation.backward import box_form, lower_bounds, row_norms, rows_at_once
from wassertight.certificates.propagation.bounds import Bounds, Ends
from wassertight.certificates.propagation.curves import Curve
from wassertight.certificates.propagation.graph import Graph, split_entry
from wassertight.certificates.propagation.log_softmax import LogSoftmax, Planes
from wassertight.certificates.propagation.operations import (
    Add,
    Affine,
    Maximum,
    Product,
    Rearrangement,
)
from wassertight.certificates.propagation.region import Region
from wassertight.certificates.propagation.relaxations import Bilinear, Elementwise, Largest, Relaxation, of_samples
from wassertight.certificates.propagation.rounding import Rounding
from wassertight.certificates.propagation.specification import specification
from wassertight.certificates.propagation.windows import Fields, paying_fields, window_bounds


class Propagation:
    """Bounds of one graph under one ground norm.

    Args:
        graph: the network.
        r: order of the ground norm.
        method: "interval", "crown-ibp" (intervals inside, backward bounds of the margins), or "crown".
        rounding: how far floating point may move values.
    """

    def __init__(self, graph: Graph, r: float, *, method: str = "crown", rounding: Rounding) -> None:
        self.r, self.method, self.rounding = r, method, rounding
        self.entry, self.graph = split_entry(graph) if math.isinf(r) else ((), graph)
        self.affine = len(graph.nodes) - 1 in graph.straight
        self._norms: dict[int, Tensor] = {}
        self._fields: dict[int, Fields | None] = {}

    def logits(self, z: Tensor) -> Tensor:
        """The network as read, (n, classes)."""
        for operation in self.entry:
            z = operation.apply(z)
        return self.graph.logits(z)

    def margins(self, region: Region, y: Tensor, *, method: str | None = None) -> Tensor:
        """Proved lower bound of the smallest `z_y - z_j`, j != y, as the model computes it; one number a sample."""
        return self.bounded(region, y, method=method)[0]

    def bounded(
        self, region: Region, y: Tensor, *, method: str | None = None, outer: Ends | None = None
    ) -> tuple[Tensor, Bounds]:
        """The margins, and the bounds of all nodes that led to them; `outer` as for `bounds`."""
        method = method or self.method
        region = self.enter(region)
        bounds = self.bounds(region, method, outer)
        return self.final(region, bounds, specification(y, self.graph.classes, region.x.dtype), method).amin(1), bounds

    def enter(self, region: Region) -> Region:
        """The box behind the elementwise scalings at the input, which the graph of the propagation leaves out."""
        for operation in self.entry:
            error = self.rounding.affine(operation, region.low, region.high, torch.zeros_like(region.low))
            ends = operation.apply(region.low), operation.apply(region.high)
            region = Region(
                x=operation.apply(region.x), t=region.t, r=region.r,
                low=torch.minimum(*ends) - error, high=torch.maximum(*ends) + error,
            )  # fmt: skip
        return region

    def final(self, region: Region, bounds: Bounds, spec: Tensor, method: str | None = None) -> Tensor:
        """Proved lower bounds of the logits' forms spec (n, m, classes), rounding of the logits included; (n, m)."""
        last = len(self.graph.nodes) - 1
        allowance = spec.abs() @ bounds.error[last][:, :, None]
        best = box_form(spec, bounds.low[last], bounds.high[last])
        operation = self.graph.nodes[last].operation
        if isinstance(operation, Affine):
            parent = self.graph.nodes[last].parents[0]
            flat, shift = operation.pull(spec.flatten(0, 1))
            a = flat.view(*spec.shape[:2], *flat.shape[1:])
            best = torch.maximum(
                best, box_form(a, bounds.low[parent], bounds.high[parent]) + shift.view(spec.shape[:2])
            )
        if (method or self.method) != "interval" or self.affine:
            linear = lower_bounds(self.graph, last, spec, region, self.relaxations(bounds), tight=True)
            best = torch.maximum(best, linear)
        best = best - allowance.squeeze(2)
        return torch.where(bounds.lost[:, None] | best.isnan(), -math.inf, best)

    def bounds(self, region: Region, method: str | None = None, outer: Ends | None = None) -> Bounds:
        """Bounds of every node, over a region that has been entered.

        Args:
            outer: lowest and highest values of some nodes over regions that contain these: units decided there are
                decided here.
        """
        found = Bounds(lost=torch.zeros(len(region.x), dtype=torch.bool, device=region.x.device))
        found.low[0], found.high[0], found.error[0] = region.low, region.high, torch.zeros_like(region.low)
        for index in range(1, len(self.graph.nodes)):
            self._interval(index, found)
            if outer is not None and index in outer:
                found.low[index] = torch.maximum(found.low[index], outer[index][0])
                found.high[index] = torch.maximum(torch.minimum(found.high[index], outer[index][1]), found.low[index])
            if index in self.graph.bent:
                self._sharpen(index, region, found, method or self.method)
        return found

    def relaxations(self, bounds: Bounds, below: int | None = None) -> dict[int, Relaxation]:
        """Enclosures of every operation that is not affine, at least of those a node depends on; each is built once."""
        for index in range(len(self.graph.nodes)) if below is None else self.graph.ancestors[below]:
            if not self.graph.nodes[index].affine:
                self.relaxation(index, bounds)
        return bounds.relaxations

    def relaxation(self, index: int, bounds: Bounds) -> Relaxation:
        """The enclosure of one operation that is not affine, whose arguments are bounded for good."""
        if index not in bounds.relaxations:
            node = self.graph.nodes[index]
            arguments = [bounds.triple(p) for p in node.parents]
            if isinstance(node.operation, Product):
                bounds.relaxations[index] = Bilinear.of(node.operation, arguments)
            elif isinstance(node.operation, Maximum):
                bounds.relaxations[index] = Largest.of(node.operation, *arguments[0])
            elif isinstance(node.operation, LogSoftmax):
                bounds.relaxations[index] = Planes.of(*arguments[0])
            else:
                assert isinstance(node.operation, Activation)
                bounds.relaxations[index] = Elementwise.of(node.operation, *arguments[0])
        return bounds.relaxations[index]

    def _interval(self, index: int, found: Bounds) -> None:
        node = self.graph.nodes[index]
        operation, parents = node.operation, [found.triple(p) for p in node.parents]
        low, high, error = parents[0]
        if isinstance(operation, Rearrangement):
            found.low[index], found.high[index] = operation.apply(low), operation.apply(high)
            found.error[index] = self.rounding.affine(operation, low, high, error)
        elif isinstance(operation, Affine):
            centre, width = operation.apply((low + high) / 2), operation.spread((high - low) / 2)
            found.low[index], found.high[index] = centre - width, centre + width
            found.error[index] = self.rounding.affine(operation, low, high, error)
        elif isinstance(operation, Add):
            found.low[index], found.high[index] = sum(p[0] for p in parents), sum(p[1] for p in parents)  # type: ignore[assignment]
            found.error[index] = self.rounding.sum(parents)
        else:
            if isinstance(operation, Product):
                found.low[index], found.high[index] = operation.interval(parents)
                found.error[index] = self.rounding.product(operation, parents)
                return
            if isinstance(operation, Maximum):
                low, high = operation.apply(low - error), operation.apply(high + error)
            elif isinstance(operation, LogSoftmax):
                low, high = operation.interval(low - error, high + error)
            elif isinstance(operation, Activation):
                low, high, error = self._defined(operation, node.parents[0], found)
                low, high = operation.interval(low - error, high + error)
            found.low[index], found.high[index] = low, high
            found.error[index] = self.rounding.curved(operation, low, high)

    def _defined(self, operation: Activation, parent: int, found: Bounds) -> tuple[Tensor, Tensor, Tensor]:
        """Bounds of an activation's argument; where the activation is not finite on them, the sample is lost."""
        low, high, error = found.triple(parent)
        below, above = low - error, high + error
        fine = (below <= above) & (above - below < math.inf)
        if isinstance(operation, Curve):
            fine &= operation.finite(below, above)
        if not bool(fine.all()):
            found.lost = found.lost | ~fine.flatten(1).all(1)
            found.low[parent], found.high[parent] = torch.where(fine, low, 1.0), torch.where(fine, high, 1.0)
            found.error[parent] = torch.where(fine, error, 0.0)
        return found.triple(parent)

    def _sharpen(self, index: int, region: Region, found: Bounds, method: str) -> None:
        """Better bounds for the units of a node that matter."""
        if index in self.graph.straight:
            if not math.isinf(self.r):
                self._by_norms(index, region, found)
                return
            if index in self.graph.plain:
                return
        if method != "crown" or index in self.graph.settled:
            return
        low, high, error = found.triple(index)
        wanted = self._undecided(index, low - error, high + error)
        if not bool(wanted.any()):
            return
        relaxations = self.relaxations(found, below=index)
        if index not in self._fields:
            self._fields[index] = paying_fields(self.graph, index)
        fields = self._fields[index]
        if fields is not None:
            lower, upper = window_bounds(self.graph, index, wanted, region, relaxations, fields)
            found.low[index], found.high[index] = low.clone(), high.clone()
            found.low[index][wanted] = torch.maximum(low[wanted], lower)
            found.high[index][wanted] = torch.minimum(high[wanted], upper)
        else:
            self._by_rows(index, wanted, region, relaxations, found)
        found.high[index] = torch.maximum(found.low[index], found.high[index])

    def _by_rows(
        self,
        index: int,
        wanted: Tensor,
        region: Region,
        relaxations: dict[int, Relaxation],
        found: Bounds,
    ) -> None:
        """Backward bounds of the wanted units (n, *shape), for as long as a sample has some left."""
        graph, low, high, wanted = self.graph, found.low[index], found.high[index], wanted.flatten(1)
        shape, count = low.shape, wanted.sum(1)
        order = wanted.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, : int(count.max())]
        step = rows_at_once(graph, index, len(low), low.device)
        low, high = low.flatten(1).clone(), high.flatten(1).clone()
        samples = torch.arange(len(low), device=low.device)
        for begin in range(0, order.shape[1], step):
            kept = (count > begin).nonzero().squeeze(1)
            if len(kept) < len(region.t):
                region = of_samples(region, kept)
                relaxations = {k: of_samples(relaxations[k], kept) for k in relaxations if k in graph.ancestors[index]}
                order, count = order[kept], count[kept]
                samples = samples[kept]
            units = order[:, begin : begin + step]
            hot = torch.zeros(*units.shape, wanted.shape[1], dtype=low.dtype, device=low.device)
            hot.scatter_(2, units[:, :, None], 1.0)
            hot = hot.view(*units.shape, *shape[1:])
            a = torch.cat((hot, -hot), 1)
            lower, upper = lower_bounds(graph, index, a, region, relaxations, tight=False).chunk(2, dim=1)
            places = samples[:, None], units
            low[places] = torch.maximum(low[places], lower)
            high[places] = torch.minimum(high[places], -upper)
        found.low[index], found.high[index] = low.view(shape), high.view(shape)

    def _undecided(self, index: int, low: Tensor, high: Tensor) -> Tensor:
        """Units whose bounds some operation on them can use."""
        wanted = torch.zeros_like(low, dtype=torch.bool)
        for node in self.graph.nodes:
            if index in node.parents and not node.affine:
                if isinstance(node.operation, Activation):
                    wanted |= node.operation.bend(low, high)
                elif isinstance(node.operation, Maximum):
                    rival = node.operation.windows(high) >= node.operation.apply(low)[..., None]
                    wanted |= node.operation.fold(rival.to(low)) > 0
                else:
                    wanted |= True
        return wanted

    def _by_norms(self, index: int, region: Region, found: Bounds) -> None:
        """The dual norm of every row times the radius, where that is better than the box."""
        if index not in self._norms:
            slack = 1 + (math.prod(self.graph.source) + 4) * torch.finfo(region.x.dtype).eps
            self._norms[index] = slack * row_norms(self.graph, index, self.r, region.x)
        middle = self.graph.value(index, region.x)
        reach = region.t.view(-1, *(1,) * (middle.ndim - 1)) * self._norms[index]
        found.low[index] = torch.maximum(found.low[index], middle - reach)
        found.high[index] = torch.minimum(found.high[index], middle + reach)
