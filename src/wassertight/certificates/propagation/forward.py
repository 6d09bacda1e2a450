"""Bounds of every node by linear forms of the input that are pushed forward; one pass, whatever the number of units.

Every value is held between two linear forms of the input (`forms`), whose extremes over the region are its bounds. A
pass costs as much as 1 + d evaluations of the network, d the number of coordinates of the input, where backward bounds
of inner nodes cost one evaluation a unit and layer. So forward bounds pay for low-dimensional inputs and wide networks.

Differs from forward mode LiRPA as published (2002.12920): 1. every bound is the better of forms and intervals; 2. final
margins may be pulled back instead, which costs one evaluation a class and is nearly always tighter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from wassertight.certificates.propagation.backward import MEMORY
from wassertight.certificates.propagation.bounds import Bounds, Ends
from wassertight.certificates.propagation.forms import Forms, Forwarding
from wassertight.certificates.propagation.graph import Graph
from wassertight.certificates.propagation.operations import Add, Affine
from wassertight.certificates.propagation.propagation import Propagation
from wassertight.certificates.propagation.region import Region
from wassertight.certificates.propagation.rounding import Rounding


@dataclass(kw_only=True)
class FormBounds(Bounds):
    """Bounds, and the forms that were still needed when all nodes were done: those the logits are made of."""

    forwarding: Forwarding
    forms: dict[int, Forms]


class Forward(Propagation):
    """Bounds of one graph under one ground norm by forward forms.

    Args:
        graph, r, rounding: as for Propagation.
        backward: whether final margins are pulled back through the enclosures, or read off the forms.
    """

    def __init__(self, graph: Graph, r: float, *, backward: bool = True, rounding: Rounding) -> None:
        super().__init__(graph, r, method="crown" if backward else "forward", rounding=rounding)
        graph, last = self.graph, len(self.graph.nodes) - 1
        self.end = graph.nodes[last].parents[0] if isinstance(graph.nodes[last].operation, Affine) else last
        self.read = frozenset(graph.bent) - graph.settled
        ends = self.read if backward else self.read | {self.end}
        self.carried = frozenset[int]().union(*(graph.ancestors[k] for k in ends))
        self.most = max(1, MEMORY // (6 * max(math.prod(n.shape) for n in graph.nodes) * (1 + math.prod(graph.source))))

    def bounded(
        self, region: Region, y: Tensor, *, method: str | None = None, outer: Ends | None = None
    ) -> tuple[Tensor, Bounds]:
        """As for Propagation, so many samples at once as memory allows; the bounds of nodes are not kept."""
        if (method or self.method) == "interval":
            return super().bounded(region, y, method=method)
        parts = zip(region.split(self.most), torch.split(y, self.most), strict=True)
        margins = torch.cat([super(Forward, self).bounded(*part, method=method)[0] for part in parts])
        return margins, Bounds(lost=margins.isinf())

    def bounds(self, region: Region, method: str | None = None, outer: Ends | None = None) -> Bounds:
        """Bounds of every node, over a region that has been entered: intervals, sharpened by forms where they matter."""
        if (method or self.method) == "interval":
            return super().bounds(region, method)
        graph, forwarding = self.graph, Forwarding(region, self.rounding)
        forms = {0: forwarding.source(region.x)}
        found = FormBounds(lost=torch.zeros_like(region.t, dtype=torch.bool), forwarding=forwarding, forms=forms)
        found.low[0], found.high[0], found.error[0] = region.low, region.high, torch.zeros_like(region.low)
        last_use = {p: index for index in sorted(self.carried) for p in graph.nodes[index].parents}
        for index in range(1, len(graph.nodes)):
            self._interval(index, found)
            if index not in self.carried:
                continue
            node = graph.nodes[index]
            forms[index] = self.pushed(index, found, [forms[p] for p in node.parents])
            for p in set(node.parents):
                if last_use[p] == index and p != self.end:
                    del forms[p]
            if index in self.read:
                low, high = forwarding.bounds(forms[index])
                found.low[index] = torch.fmax(found.low[index], low)
                found.high[index] = torch.maximum(torch.fmin(found.high[index], high), found.low[index])
        return found

    def pushed(self, index: int, bounds: FormBounds, parents: list[Forms]) -> Forms:
        """Forms of a node from those of its parents, over the intervals of its arguments."""
        operation = self.graph.nodes[index].operation
        if isinstance(operation, Affine):
            return bounds.forwarding.affine(operation, parents[0])
        if isinstance(operation, Add):
            return bounds.forwarding.sum(parents)
        return bounds.forwarding.relaxed(self.relaxation(index, bounds), parents)

    def final(self, region: Region, bounds: Bounds, spec: Tensor, method: str | None = None) -> Tensor:
        """As for Propagation."""
        kind = method or self.method
        if kind != "forward":
            return super().final(region, bounds, spec, kind)
        best = super().final(region, bounds, spec, "interval")
        assert isinstance(bounds, FormBounds)
        last, a, shift = len(self.graph.nodes) - 1, spec, spec.new_zeros(spec.shape[:2])
        if self.end != last:
            flat, constant = self.graph.nodes[last].operation.pull(spec.flatten(0, 1))  # type: ignore[union-attr]
            a, shift = flat.view(*spec.shape[:2], *flat.shape[1:]), constant.view(spec.shape[:2])
        linear = bounds.forwarding.pulled(a, shift, bounds.forms[self.end])
        linear = linear - (spec.abs() @ bounds.error[last][:, :, None]).squeeze(2)
        return torch.where(bounds.lost[:, None], best, torch.fmax(best, linear))


def propagation_of(kind: str, graph: Graph, r: float, rounding: Rounding) -> Propagation:
    """Bounds by "interval", "crown-ibp", "crown", "forward", or "forward-backward": forms inside, margins pulled back."""
    if kind.startswith("forward"):
        return Forward(graph, r, backward=kind == "forward-backward", rounding=rounding)
    return Propagation(graph, r, method=kind, rounding=rounding)
