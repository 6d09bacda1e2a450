"""Inner bounds of one sample with slopes and planes of their own, kept from radius to radius (alpha-CROWN, 2011.13824).

Every undecided unit has two rows, one for either end, and every row its own slopes and, over boxes, its own planes
(`swaying`) at the hinges below it. The first region pays for gradient steps; a region that is a little larger or smaller
takes what is kept. As any choice is sound, whatever time allows is kept: units that are not reached have CROWN's bounds.

The row of a unit's upper end is at the same time a plane on the input, which the hinge above it uses (`hulls`).
"""

from __future__ import annotations

import math
import time
from typing import NamedTuple

import torch
from torch import Tensor

from wassertight.certificates.propagation.backward import lower_bounds
from wassertight.certificates.propagation.bounds import Bounds, Ends
from wassertight.certificates.propagation.graph import Graph
from wassertight.certificates.propagation.hulls import Offsets, Planes, Signed
from wassertight.certificates.propagation.keeping import Kept
from wassertight.certificates.propagation.layout import flat_maps, flat_rows, raised_rows
from wassertight.certificates.propagation.propagation import Propagation
from wassertight.certificates.propagation.region import Region
from wassertight.certificates.propagation.relaxations import steerable
from wassertight.certificates.propagation.rounding import Rounding
from wassertight.certificates.propagation.slopes import ascend

_NEW, _KNOWN = (5, 0.3), (2, 0.1)
"""Gradient steps and the first one's size, for units met for the first time, and for others in the first regions."""
_REGIONS = 2
"""How many regions that is."""
_TOGETHER = 128
"""Units raised at once, two rows each."""
_HELD = 10**8
"""Numbers kept at most, of all units together."""
_PLANES = 6 * 10**6
"""Coefficients of one hinge's planes at most; units with the largest gaps go first."""


class _Part(NamedTuple):
    """Some units of a node, rows on the input that bound them from above, what they are at most, and likewise from below."""

    units: Tensor
    above: Tensor
    high: Tensor
    below: Tensor
    low: Tensor


class OwnSlopes(Propagation):
    """Bounds of one sample over a sequence of regions, units that intervals and CROWN leave undecided with own slopes.

    Args:
        graph, r, rounding: as for Propagation.
        seconds: wall time a region, after which what is left keeps CROWN's bounds.
    """

    def __init__(self, graph: Graph, r: float, *, rounding: Rounding, seconds: float) -> None:
        super().__init__(graph, r, rounding=rounding)
        self.seconds = seconds
        self.covered = {
            node.parents[0]
            for node in self.graph.nodes
            if math.isinf(r) and steerable(node.operation) and float(node.operation.left) >= 0
        }
        self.forget()

    def forget(self) -> None:
        """Begin with another sample."""
        self.evaluations = self._held = self._regions = 0
        self._kept: dict[int, Kept] = {}
        self._place: dict[int, Tensor] = {}  # of a unit, the first of its two rows

    @property
    def settled(self) -> bool:
        """Whether another region would find all rows as they are."""
        return self._regions >= _REGIONS

    def bounds(self, region: Region, method: str | None = None, outer: Ends | None = None) -> Bounds:
        """Bounds of every node over the region of one sample, entered."""
        self._end = time.perf_counter() + self.seconds
        self._offsets, self._signed = Offsets(region), dict[int, Signed]()
        self._regions += 1
        return super().bounds(region, method, outer)

    def _sharpen(self, index: int, region: Region, found: Bounds, method: str) -> None:
        """First as CROWN does, then every unit that is still undecided with slopes of its own."""
        super()._sharpen(index, region, found, method)
        if index in self.graph.settled:
            return
        low, high, error = found.triple(index)
        wanted = self._undecided(index, low - error, high + error)
        units = flat_maps(wanted)[0].nonzero().squeeze(1)
        if len(units) == 0:
            return
        low, high = flat_maps(low)[0].clone(), flat_maps(high)[0].clone()
        if index in self.graph.straight:
            parts = self._straight(index, units, region) if index in self.covered else []
        else:
            parts = self._raised(index, units, region, found, low, high)
            shape = wanted.shape[1:]
            found.low[index] = raised_rows(low[None, None], shape)[0]
            found.high[index] = raised_rows(torch.maximum(low, high)[None, None], shape)[0]
        if parts:
            found.planes[index] = _joined(parts, low, high, flat_maps(error)[0], self._offsets)

    def _straight(self, index: int, units: Tensor, region: Region) -> list[_Part]:
        """Of units that are affine in the input, whose row bounds them from both sides."""
        shape, found = self.graph.nodes[index].shape, list[_Part]()
        for part in torch.split(units, _TOGETHER):
            seen: dict[int, Tensor] = {}
            low = lower_bounds(self.graph, index, -_hot(part, shape, region), region, {}, tight=False, seen=seen)
            if 0 in seen:
                rows = -flat_rows(seen[0])[0]
                least = -low[0] - 2 * self._offsets.support(rows)
                found.append(_Part(units=part, above=rows, high=-low[0], below=rows, low=least))
        return found

    def _raised(
        self, index: int, units: Tensor, region: Region, found: Bounds, low: Tensor, high: Tensor
    ) -> list[_Part]:
        """Raises bounds (entries,) of units in place, as time allows; what it gives hinges above is as in `_straight`."""
        parts: list[_Part] = []
        hinges = [k for k in sorted(self.graph.ancestors[index]) if steerable(self.graph.nodes[k].operation)]
        if not hinges or time.perf_counter() > self._end:
            return parts
        relaxations, signed = self.relaxations(found, below=index), self.signed(found, hinges)
        if index not in self._kept:
            self._kept[index] = Kept(self.graph, hinges, low)
            self._place[index] = torch.full_like(low, -1, dtype=torch.long)
        kept, place, shape = self._kept[index], self._place[index], self.graph.nodes[index].shape
        known = place[units] >= 0
        new = units[~known]
        if self._held + 2 * len(new) * kept.cost <= _HELD:
            self._held += 2 * len(new) * kept.cost
            place[new] = kept.add(2 * len(new))[::2]
        later = _KNOWN if self._regions <= _REGIONS else (0, 0.0)
        for group, (steps, rate) in ((units[known], later), (new, _NEW)):
            for part in torch.split(group[place[group] >= 0], _TOGETHER):
                if len(part) == 0 or time.perf_counter() > self._end:
                    break
                hot, rows = _hot(part, shape, region), torch.cat((place[part], place[part] + 1))
                a, seen = torch.cat((hot, -hot), 1), dict[int, Tensor]()
                if group is new:
                    lower_bounds(self.graph, index, a, region, relaxations, tight=False, seen=seen)
                cover = None if signed is None else kept.cover(rows, signed, seen or None)
                ascent = ascend(
                    self.graph, index, a, region, relaxations, iterations=steps, rate=rate, tight=False,
                    choices=kept.choices(rows), cover=cover, latest=True,
                )  # fmt: skip
                self.evaluations += len(rows) * (steps + 1)
                if steps:
                    kept.keep(rows, ascent, cover)
                ends = ascent.best.view(2, len(part))
                low[part] = torch.maximum(low[part], ends[0])
                high[part] = torch.minimum(high[part], -ends[1])
                if index in self.covered and 0 in ascent.seen:
                    below, above = flat_rows(ascent.seen[0])[0].chunk(2)
                    least = ascent.last.view(2, len(part))
                    parts.append(_Part(units=part, above=-above, high=-least[1], below=below, low=least[0]))
        return parts

    def signed(self, found: Bounds, hinges: list[int]) -> Signed | None:
        """Planes of all arguments of hinges over the region last bounded, if there are any."""
        for k in hinges:
            planes, operation = found.planes.get(self.graph.nodes[k].parents[0]), self.graph.nodes[k].operation
            if planes is not None and k not in self._signed:
                assert steerable(operation)
                slopes = float(operation.left), float(operation.right)
                self._signed[k] = Signed.of(k, planes, slopes, self._offsets)
        parts = [self._signed[k] for k in hinges if k in self._signed]
        return Signed.joined(parts) if parts else None


def _hot(units: Tensor, shape: tuple[int, ...], region: Region) -> Tensor:
    """Rows (1, units, *shape) that pick one entry each, numbered as `layout.flat_rows` does."""
    flat = region.x.new_zeros(1, len(units), math.prod(shape)).scatter_(2, units[None, :, None], 1.0)
    return raised_rows(flat, shape)


def _joined(parts: list[_Part], low: Tensor, high: Tensor, error: Tensor, offsets: Offsets) -> Planes:
    """Planes of units from their rows and extreme values, given bounds (entries,) of all units."""
    units, rows, highest, below, lowest = (torch.cat(pieces) for pieces in zip(*parts, strict=True))
    margin = error[units]
    above, under = torch.maximum(low, high)[units] + margin, margin - low[units]
    found = Planes(
        units=units, rows=rows, top=highest - offsets.support(rows) + margin,
        chord=(above / (above + under)).clamp(0, 1), below=below, bottom=lowest + offsets.support(below) - margin,
    )  # fmt: skip
    most = max(1, _PLANES // rows.shape[1])
    return found if len(units) <= most else found.part((found.chord * under).topk(most).indices)
