"""What is kept of rows that are bounded again and again, as regions change: slopes, points that planes touch at, and shares."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from wassertight.certificates.propagation.graph import Graph
from wassertight.certificates.propagation.hulls import Signed
from wassertight.certificates.propagation.layout import flat_rows
from wassertight.certificates.propagation.slopes import Ascent
from wassertight.certificates.propagation.swaying import Swayed

_KEPT = 0.7
"""Share that stays with the chord to begin with: most of it, as known rows meet new planes with few steps left."""
_MOST = 0.8
"""Share of all planes from which on rows take them all, which saves copies."""


class Kept:
    """Rows of one node; what a row has not met yet is not a number.

    Args:
        graph: the network.
        hinges: those below the node.
        like: a tensor of the bounds' dtype and device.
    """

    def __init__(self, graph: Graph, hinges: Sequence[int], like: Tensor) -> None:
        self.shapes = {k: graph.nodes[k].shape for k in hinges}
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        self._begins = dict(zip(hinges, (0, *itertools.accumulate(sizes)), strict=False))
        self._slopes = {k: like.new_empty(0, *shape) for k, shape in self.shapes.items()}
        self._points, self._shares = like.new_empty(0, math.prod(graph.source)), like.new_empty(0, 0)
        self._column = torch.full((sum(sizes),), -1, device=like.device)  # of the shares of a unit

    @property
    def cost(self) -> int:
        """Numbers kept for one row, at most."""
        return 2 * len(self._column) + self._points.shape[1]

    def add(self, rows: int) -> Tensor:
        """New rows, and their numbers."""
        have = len(self._points)
        self._slopes = {k: _longer(old, rows) for k, old in self._slopes.items()}
        self._points, self._shares = _longer(self._points, rows), _longer(self._shares, rows)
        return have + torch.arange(rows, device=self._column.device)

    def choices(self, rows: Tensor) -> dict[int, Tensor]:
        """Slopes (1, rows, *shape) by hinge."""
        return {k: slopes[None, rows] for k, slopes in self._slopes.items()}

    def cover(self, rows: Tensor, signed: Signed, seen: Mapping[int, Tensor] | None) -> Swayed | None:
        """Planes for some rows: as kept, or else those that touch their hinges where rows without planes are least.

        Args:
            signed: planes of hinges.
            seen: rows by node that were pulled without planes, for rows that are met for the first time.
        """
        numbers, corner = self._numbers(signed), None
        if seen is None:
            met = self._met(rows, signed, numbers)
        else:
            corner = _corner(-flat_rows(seen[0]))
            met = (signed.entries(seen) < 0).any(0)
        self._place(numbers)
        if not bool(met.any()):
            return None
        if met.double().mean() > _MOST:
            met[:] = True
        part, columns = signed.part(met), self._column[numbers[met]]
        point, kept = self._points[None, rows], self._shares[None, rows[:, None], columns]
        point = torch.where(point.isnan(), 0.0 if corner is None else corner, point)
        return Swayed(part, point, torch.where(kept.isnan(), _KEPT, kept))

    def keep(self, rows: Tensor, ascent: Ascent, cover: Swayed | None) -> None:
        """What an ascent ended with."""
        for k in self.shapes:
            self._slopes[k][rows] = ascent.choices[k][0]
        if cover is not None:
            self._points[rows] = torch.where(flat_rows(ascent.seen[0])[0] != 0, cover.point[0], torch.nan)
            self._shares[rows[:, None], self._column[self._numbers(cover.signed)]] = cover.kept[0]

    def _numbers(self, signed: Signed) -> Tensor:
        """Units with planes, numbered over all hinges together."""
        return torch.cat([self._begins[k] + units for k, units in signed.split(signed.units).items()])

    def _place(self, numbers: Tensor) -> None:
        """Room for the shares of units."""
        new, have = numbers[self._column[numbers] < 0], self._shares.shape[1]
        if len(new):
            self._column[new] = have + torch.arange(len(new), device=new.device)
            more = self._shares.new_full((len(self._shares), len(new)), torch.nan)
            self._shares = torch.cat((self._shares, more), 1)

    def _met(self, rows: Tensor, signed: Signed, numbers: Tensor) -> Tensor:
        """Which units some rows send anything through, or may: new ones that see inputs these rows see."""
        old = self._column[numbers] >= 0
        met = torch.zeros_like(old)
        met[old] = (self._shares[rows][:, self._column[numbers[old]]] < 1).any(0)
        columns = ~self._points[rows].isnan().all(0)
        met[~old] = signed.sizes.sums(columns.to(signed.top.dtype))[~old] > 0
        return met


def _longer(old: Tensor, rows: int) -> Tensor:
    return torch.cat((old, old.new_full((rows, *old.shape[1:]), torch.nan)))


def _corner(steep: Tensor) -> Tensor:
    """Points (1, m, inputs) towards the corners where rows are least, in between where their entries are small."""
    size = steep.abs().mean(2, keepdim=True).clamp_min(torch.finfo(steep.dtype).tiny)
    return (2 * steep / size).clamp(-1, 1)
