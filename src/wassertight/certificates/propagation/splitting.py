"""Branch and bound over the input: the largest radius that can be proved by dividing the region along coordinates.

The input space is divided into cells, boxes whose outer faces are at infinity; at a radius every cell meets the ball in
a part of it, and the radius is proved when the bound of every part is positive. Cells do not depend on the radius: a cell
whose part was proved at one radius is bounded again at a larger one only if the ball grew inside it. So radii grow as
long as there is time. Nothing here asks for hinges; how many cells are needed grows quickly with the number of
coordinates that matter.

The cell with the lowest bound is divided first, in the middle of its part, across the coordinate whose width times
coefficient in the linear bound is largest (so does the code of 2103.06624 for inputs of few dimensions; bounding the
children of several coordinates before one is chosen did not pay). Inputs met on the way that the network answers
otherwise end a trial and lower the ceiling.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from wassertight.certificates.propagation.backward import lower_bounds
from wassertight.certificates.propagation.growing import Effort, Trial, Until, grow
from wassertight.certificates.propagation.propagation import Propagation
from wassertight.certificates.propagation.region import Region
from wassertight.certificates.propagation.specification import specification
from wassertight.geometry import dual_direction, norm
from wassertight.types import Bounds as Box


@dataclass(kw_only=True)
class _Cells:
    """One row a cell.

    Attributes:
        low, high: its faces (n, *features), infinite where it has none.
        bound: of its part's smallest margin, at the radius it was bounded last.
        reached: the largest radius its part is proved at.
        axis: coordinate to divide it across next (n,), of the flat features.
        middle: where.
    """

    low: Tensor
    high: Tensor
    bound: Tensor
    reached: Tensor
    axis: Tensor
    middle: Tensor

    def part(self, rows: Tensor) -> _Cells:
        return _Cells(**{name: value[rows] for name, value in vars(self).items()})

    def joined(self, other: _Cells) -> _Cells:
        return _Cells(**{name: torch.cat((value, vars(other)[name])) for name, value in vars(self).items()})

    def put(self, rows: Tensor, part: _Cells) -> None:
        for name, value in vars(part).items():
            vars(self)[name][rows] = value

    def __len__(self) -> int:
        return len(self.bound)


class InputSearch:
    """The largest proved radius of one sample.

    Args:
        propagation: bounds of the network, in the norm of the radius.
        box: of admissible inputs.
        effort: what may be spent; leaves are cells.
        dtype: of the bounds.
    """

    def __init__(self, propagation: Propagation, box: Box, effort: Effort, dtype: torch.dtype) -> None:
        self.propagation, self.box, self.effort, self.dtype = propagation, box, effort, dtype
        self.splits = self.evaluations = 0
        self.converged = True

    def run(self, x: Tensor, y: Tensor, proved: float, ceiling: float, goal: float | None = None) -> float:
        """A radius >= `proved` that is proved for x (*features) with label y (); inf for the whole box.

        Args:
            proved, ceiling, goal: see `growing.grow`.
        """
        self.x = x = x[None].to(self.dtype)
        self.spec = specification(y[None], self.propagation.graph.classes, self.dtype)
        everywhere = torch.full(x.shape, math.inf, dtype=x.dtype, device=x.device)
        self.cells = _Cells(
            low=-everywhere,
            high=everywhere,
            bound=x.new_full((1,), -math.inf),
            reached=torch.zeros(1, dtype=torch.float64, device=x.device),
            axis=torch.zeros(1, dtype=torch.long, device=x.device),
            middle=x.new_zeros(1),
        )
        self.ceiling = ceiling
        radius = grow(self._verify, proved, ceiling, self.effort.tolerance, self.effort.seconds, goal)
        self.converged &= radius * (1 + 2 * self.effort.tolerance) >= self.ceiling
        return radius

    def _verify(self, t: float, until: Until) -> Trial:
        """Whether every cell is proved at radius t; divides cells on the way."""
        ball = Region.of(self.x, self.x.new_full((1,), t), self.propagation.r, self.box)
        old = torch.ones(len(self.cells), dtype=torch.bool, device=self.x.device)
        begun = time.perf_counter()
        while True:
            waiting = self.cells.reached < t
            if not bool(waiting.any()):
                proved = math.inf if bool(self.cells.reached.isinf().all()) else t
                return Trial(proved=proved, work=time.perf_counter() - begun)
            again = (waiting & old).nonzero().squeeze(1)[: 2 * self.effort.batch]
            if len(again):
                part, nearest = self._bounded(self.cells.part(again), ball, t)
                self.cells.put(again, part)
                old[again] = False
            elif len(self.cells) >= self.effort.leaves:
                return Trial(spent=True)
            else:
                rows = waiting.nonzero().squeeze(1)
                rows = rows[self.cells.bound[rows].argsort()[: self.effort.batch]]
                halves, nearest = self._bounded(self._halves(self.cells.part(rows)), ball, t)
                first, second = torch.arange(2 * len(rows), device=rows.device).chunk(2)
                self.cells.put(rows, halves.part(first))
                self.cells = self.cells.joined(halves.part(second))
                old = torch.cat((old, old.new_zeros(len(rows))))
                self.splits += len(rows)
            self.ceiling = min(self.ceiling, nearest)
            if nearest <= t:
                return Trial(ceiling=nearest)
            if time.perf_counter() > until.due:
                return Trial()

    def _halves(self, parents: _Cells) -> _Cells:
        """All first halves, then all second ones."""
        rows = torch.arange(len(parents), device=parents.axis.device)
        first, second = parents.part(rows), parents.part(rows)
        first.high.flatten(1)[rows, parents.axis] = parents.middle
        second.low.flatten(1)[rows, parents.axis] = parents.middle
        return first.joined(second)

    def _bounded(self, cells: _Cells, ball: Region, t: float) -> tuple[_Cells, float]:
        """The cells with bounds at radius t and where to divide them; and the distance of the nearest flip met."""
        n = len(cells)
        wide = [v.expand(n, *v.shape[1:]) for v in (ball.x, ball.t, ball.low, ball.high)]
        region, empty = Region(x=wide[0], t=wide[1], r=ball.r, low=wide[2], high=wide[3]).cut(cells.low, cells.high)
        kept = (~empty).nonzero().squeeze(1)
        bound, nearest = region.t.new_full((n,), math.inf), math.inf
        if len(kept):
            part = Region(x=region.x[kept], t=region.t[kept], r=region.r, low=region.low[kept], high=region.high[kept])
            bound[kept], row = self._margins(part)
            width = (part.high - part.low).flatten(1)
            cost = width * row.flatten(1).abs()
            axis = (cost + 1e-6 * cost.amax(1, keepdim=True) * width + 1e-30 * width).argmax(1, keepdim=True)
            cells.axis[kept] = axis.squeeze(1)
            cells.middle[kept] = (part.low.flatten(1) + width / 2).gather(1, axis).squeeze(1)
            nearest = self._flip(part, row, t)
        cells.bound = bound
        reached = torch.full_like(cells.reached, t).masked_fill(self._inside(cells, t), math.inf)
        cells.reached = torch.where(bound > 0, torch.maximum(cells.reached, reached), cells.reached)
        return cells, nearest

    def _margins(self, region: Region) -> tuple[Tensor, Tensor]:
        """Lower bounds (n,) of the smallest margin, and its coefficients at the input (n, *features)."""
        propagation, n = self.propagation, len(region.t)
        self.evaluations += n
        region, last = propagation.enter(region), len(propagation.graph.nodes) - 1
        bounds = propagation.bounds(region)
        margins = propagation.final(region, bounds, self.spec.expand(n, -1, -1))
        worst, seen = margins.min(1), dict[int, Tensor]()
        a = self.spec[0][worst.indices][:, None]
        lower_bounds(propagation.graph, last, a, region, propagation.relaxations(bounds), tight=False, seen=seen)
        row = seen[0][:, 0].nan_to_num() if 0 in seen else torch.zeros_like(region.x)
        for scaling in reversed(propagation.entry):
            row = scaling.linear(row)
        return worst.values, row

    def _inside(self, cells: _Cells, t: float) -> Tensor:
        """Cells that lie in the ball as far as they lie in the box: a larger radius adds nothing to them."""
        low, high = cells.low, cells.high
        if self.box is not None:
            low, high = low.clamp_min(self.box[0]), high.clamp_max(self.box[1])
        return norm(torch.maximum(self.x - low, high - self.x).flatten(1), self.propagation.r) <= t * (1 - 1e-6)

    def _flip(self, region: Region, row: Tensor, t: float) -> float:
        """Distance of the nearest input answered otherwise, among one a cell where its linear bound is lowest."""
        wide = (-1, *(1,) * (row.ndim - 1))
        away = (self.x - t * dual_direction(row, region.r)).clamp(region.low, region.high) - self.x
        away = away * (t / norm(away, region.r).clamp_min(1e-30)).clamp_max(1.0).view(wide)
        z = self.x + away
        for scaling in self.propagation.entry:
            z = scaling.apply(z)
        flipped = ((self.propagation.graph.logits(z)[:, None] * self.spec).sum(2) <= 0).any(1)
        return float(norm(away[flipped], region.r).amin()) if bool(flipped.any()) else math.inf
