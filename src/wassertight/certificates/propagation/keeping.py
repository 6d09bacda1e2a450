"""What is kept of the rows that bound a node's units, from one region to the next: slopes, and planes' points and weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from wassertight.certificates.propagation.graph import Graph
from wassertight.certificates.propagation.layout import flat_rows
from wassertight.certificates.propagation.relaxations import Elementwise, Relaxation
from wassertight.certificates.propagation.slopes import Ascent
from wassertight.certificates.propagation.swaying import Signed, Swayed

_HEAVY = 0.7
"""Part of the units that a few rows meet which have planes there; the others keep to their chords."""


class Kept:
    """Two rows a unit of one node, one for either end; what no row has met yet is not a number.

    Args:
        graph: the network.
        hinges: those below the node.
        units: of the node.
        like: a tensor of the bounds' dtype and device.

    Attributes:
        place: (units,) number of a unit, or -1 if it has no rows.
        inputs: entries of the input.
    """

    def __init__(self, graph: Graph, hinges: Sequence[int], units: int, like: Tensor) -> None:
        self.shapes = {k: graph.nodes[k].shape for k in hinges}
        self.inputs, self.count = math.prod(graph.source), 0
        self.place = torch.full((units,), -1, device=like.device)
        self._slopes = {k: like.new_empty(0, *shape) for k, shape in self.shapes.items()}
        self._points = {k: like.new_empty(0, self.inputs) for k in hinges}
        self._ever = {
            k: torch.zeros(math.prod(shape), dtype=torch.bool, device=like.device) for k, shape in self.shapes.items()
        }
        self._weights = {k: like.new_empty(0, 3, math.prod(shape)) for k, shape in self.shapes.items()}

    @property
    def cost(self) -> int:
        """Numbers kept for one unit."""
        return 2 * sum(4 * math.prod(shape) + self.inputs for shape in self.shapes.values())

    def add(self, units: Tensor) -> None:
        """Room for new units."""
        self.place[units] = self.count + torch.arange(len(units), device=units.device)
        self.count += len(units)
        for store in (self._slopes, self._points, self._weights):
            for k, old in store.items():
                store[k] = torch.cat((old, old.new_full((2 * len(units), *old.shape[1:]), torch.nan)))

    def rows(self, units: Tensor) -> Tensor:
        """Rows of some units: those of all lower ends, then those of all upper ones."""
        return (2 * self.place[units] + torch.tensor([[0], [1]], device=units.device)).flatten()

    def choices(self, rows: Tensor) -> dict[int, Tensor]:
        """Slopes (1, rows, *shape) by hinge."""
        return {k: slopes[None, rows] for k, slopes in self._slopes.items()}

    def covers(
        self, rows: Tensor, signed: Mapping[int, Signed], relaxations: Mapping[int, Relaxation],
        seen: Mapping[int, Tensor] | None,
    ) -> dict[int, Swayed]:  # fmt: skip
        """Planes for some rows: as kept, or those that touch their hinges where CROWN's rows are least.

        Args:
            signed: planes by hinge.
            relaxations: by hinge.
            seen: CROWN's rows by node, for rows that are met for the first time.
        """
        found: dict[int, Swayed] = {}
        corner = None if seen is None else _corner(-flat_rows(seen[0]))
        for k, whole in signed.items():
            met = self._met(k, rows, whole) if seen is None else _heavy(flat_rows(seen[k])[0][:, whole.units], whole)
            self._ever[k][whole.units] = True
            met, relaxation = met.nonzero().squeeze(1), relaxations[k]
            if len(met) == 0 or not isinstance(relaxation, Elementwise):
                continue
            columns = (whole.rows[met] != 0).any(0).nonzero().squeeze(1)
            planes = whole.part(met, columns)
            point = self._points[k][rows[:, None], columns][None]
            point = torch.where(point.isnan(), 0.5 if corner is None else corner[:, :, columns], point)
            weights = self._weights[k][rows[:, None], :, planes.units]
            first, last, share = (part[None].contiguous() for part in weights.unbind(2))
            fresh = first.isnan()
            if bool(fresh.any()):
                begin = planes.at(point)
                first, last = torch.where(fresh, begin[0], first), torch.where(fresh, begin[1], last)
                share = torch.where(fresh, 0.5, share)
            found[k] = Swayed(planes, relaxation.hinge, point, (first, last), share)
        return found

    def _met(self, k: int, rows: Tensor, whole: Signed) -> Tensor:
        """Which units of a hinge matter to some rows: those that did, and new ones that see inputs these rows see."""
        met = ~self._weights[k][rows, 0][:, whole.units].isnan().all(0)
        columns = ~self._points[k][rows].isnan().all(0)
        new = (~self._ever[k][whole.units]).nonzero().squeeze(1)
        met[new] = (whole.rows[new][:, columns] != 0).any(1)
        return met

    def keep(self, rows: Tensor, ascent: Ascent, covers: Mapping[int, Swayed]) -> None:
        """What an ascent ended with."""
        for k in self.shapes:
            self._slopes[k][rows] = ascent.choices[k][0]
        for k, cover in covers.items():
            self._points[k][rows[:, None], cover.signed.columns] = cover.q[0]
            weights = torch.stack((*cover.ends, cover.share), -1)[0]
            self._weights[k][rows[:, None], :, cover.signed.units] = weights


def _heavy(rows: Tensor, whole: Signed) -> Tensor:
    """The part of the units whose chords cost rows (m, U) most."""
    cost = (rows.clamp_max(0).neg() * whole.gap).amax(0)
    least = cost.sort(descending=True).values[int(_HEAVY * int((cost > 0).sum()))]
    return (cost >= least) & (cost > 0)


def _corner(steep: Tensor) -> Tensor:
    """Points (1, m, inputs) towards the corners where rows are least, in between where their entries are small."""
    size = steep.abs().mean(2, keepdim=True).clamp_min(torch.finfo(steep.dtype).tiny)
    return (0.5 + steep / size).clamp(0, 1)
