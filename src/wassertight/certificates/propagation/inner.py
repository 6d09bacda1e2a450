"""Inner bounds of one sample with slopes of their own, optimised and kept from radius to radius (alpha-CROWN, 2011.13824).

Every undecided unit has two rows, one for either end, and every row its own slopes at the hinges below it. The first region
pays for several gradient steps; a region that is a little larger or smaller starts from the slopes kept and needs few. As any
slopes are sound, whatever time allows is kept: units that are not reached have CROWN's bounds.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from wassertight.certificates.propagation.bounds import Bounds, Ends
from wassertight.certificates.propagation.graph import Graph
from wassertight.certificates.propagation.propagation import Propagation
from wassertight.certificates.propagation.region import Region
from wassertight.certificates.propagation.relaxations import steerable
from wassertight.certificates.propagation.rounding import Rounding
from wassertight.certificates.propagation.slopes import ascend

_FIRST, _LATER = 6, 1
"""Gradient steps for units met for the first time, and for units whose slopes are known."""
_TOGETHER = 64
"""Units raised at once, two rows each."""
_HELD = 10**8
"""Slopes kept at most, of all units together."""


@dataclass
class _Kept:
    """Slopes of the units of one node: `place` (units,) is a unit's number or -1, `slopes` hold two rows a number."""

    place: Tensor
    slopes: dict[int, Tensor]


class OwnSlopes(Propagation):
    """Bounds of one sample over a sequence of regions, units that intervals and CROWN leave undecided with own slopes.

    Args:
        graph, r, rounding: as for Propagation.
        seconds: wall time a region, after which what is left keeps CROWN's bounds.
    """

    def __init__(self, graph: Graph, r: float, *, rounding: Rounding, seconds: float) -> None:
        super().__init__(graph, r, rounding=rounding)
        self.seconds = seconds
        self.forget()

    def forget(self) -> None:
        """Begin with another sample."""
        self.evaluations = self._held = 0
        self._kept: dict[int, _Kept] = {}

    def bounds(self, region: Region, method: str | None = None, outer: Ends | None = None) -> Bounds:
        """Bounds of every node over the region of one sample, entered."""
        self._end = time.perf_counter() + self.seconds
        return super().bounds(region, method, outer)

    def _sharpen(self, index: int, region: Region, found: Bounds, method: str) -> None:
        """First as CROWN does, then every unit that is still undecided with slopes of its own."""
        super()._sharpen(index, region, found, method)
        if index in self.graph.settled or time.perf_counter() > self._end:
            return
        low, high, error = found.triple(index)
        wanted = self._undecided(index, low - error, high + error)
        units = wanted.flatten().nonzero().squeeze(1)
        hinges = [k for k in sorted(self.graph.ancestors[index]) if steerable(self.graph.nodes[k].operation)]
        if not hinges or len(units) == 0:
            return
        relaxations = self.relaxations(found, below=index)
        shape, size = wanted.shape[1:], wanted.numel()
        low, high = low.reshape(1, size).clone(), high.reshape(1, size).clone()
        kept = self._kept.setdefault(index, _Kept(torch.full((size,), -1, device=units.device), {}))
        known = kept.place[units] >= 0
        self._number(kept, units[~known], hinges, low.dtype)
        for group, steps in ((units[known], _LATER), (units[~known], _FIRST)):
            for part in torch.split(group[kept.place[group] >= 0], _TOGETHER):
                if len(part) == 0 or time.perf_counter() > self._end:
                    break
                hot = low.new_zeros(len(part), size).scatter_(1, part[:, None], 1.0).view(1, len(part), 1, *shape)
                a = torch.cat((hot, -hot), 2).flatten(1, 2)
                rows = (2 * kept.place[part, None] + torch.arange(2, device=part.device)).flatten()
                ascent = ascend(
                    self.graph, index, a, region, relaxations, iterations=steps, tight=False,
                    choices={k: kept.slopes[k][None, rows] for k in hinges},
                )  # fmt: skip
                self.evaluations += len(rows) * (steps + 1)
                for k in hinges:
                    kept.slopes[k][rows] = ascent.choices[k][0]
                ends = ascent.best.view(len(part), 2)
                low[0, part] = torch.maximum(low[0, part], ends[:, 0])
                high[0, part] = torch.minimum(high[0, part], -ends[:, 1])
        found.low[index] = low.view(1, *shape)
        found.high[index] = torch.maximum(low, high).view(1, *shape)

    def _number(self, kept: _Kept, new: Tensor, hinges: list[int], dtype: torch.dtype) -> None:
        """Room for new units, if memory allows it; slopes that are not numbers yet stand for CROWN's own."""
        shapes = {k: self.graph.nodes[k].shape for k in hinges}
        wanted = 2 * len(new) * sum(math.prod(shape) for shape in shapes.values())
        if len(new) == 0 or self._held + wanted > _HELD:
            return
        self._held += wanted
        kept.place[new] = int(kept.place.max()) + 1 + torch.arange(len(new), device=new.device)
        for k, shape in shapes.items():
            fresh = torch.full((2 * len(new), *shape), torch.nan, dtype=dtype, device=new.device)
            kept.slopes[k] = torch.cat((kept.slopes[k], fresh)) if k in kept.slopes else fresh
