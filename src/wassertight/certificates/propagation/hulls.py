"""Concave envelopes of hinges over the input region: upper planes on the input, one slope a unit and coordinate.

A hinge `f(z) = max(l z, r z)` with 0 <= l <= r grows with z. Where `z <= <A, d> + s` for every offset d = x - centre in the
region, and for any weights t in [0, 1], one a coordinate,

    f(z) <= <l A + (r - l) t A, d> + c(t),   c(t) = max(l s + (r - l) h(-t A), r s + (r - l) h((1 - t) A)),

h the support function of the region: the right side lies above both of the hinge's lines everywhere in it. Equal weights
give back the chord over an interval; weights of their own give the hinge's whole concave envelope over the region, as t
varies. At an extreme point of the region the envelope is the hinge itself, and minima of margins lie near such points: a
chord loses there what the best plane does not.

For one layer over a box these are the inequalities of Anderson et al. (1811.01988); Tjandraatmadja et al. (2006.14076)
choose one of them a unit. Here A is a linear bound of any argument in the network's input, t is raised by gradients, and
a unit may have its row divided between plane and chord.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from wassertight.certificates.propagation.layout import flat_maps, flat_rows, raised_rows
from wassertight.certificates.propagation.region import Region
from wassertight.geometry import conjugate, norm


@dataclass(frozen=True, kw_only=True)
class Planes:
    """Upper bounds `z <= <rows, x - centre> + top` of the undecided arguments of a hinge, one sample.

    Units and coordinates of the input are numbered as `layout.flat_rows` does.

    Attributes:
        units: which arguments, (U,).
        rows: (U, inputs).
        top: (U,).
        chord: share of every argument's interval above zero, (U,).
    """

    units: Tensor
    rows: Tensor
    top: Tensor
    chord: Tensor

    def part(self, which: Tensor) -> Planes:
        """Some of them."""
        return Planes(units=self.units[which], rows=self.rows[which], top=self.top[which], chord=self.chord[which])


class Offsets:
    """The region of one sample about its centre."""

    def __init__(self, region: Region) -> None:
        self.centre = flat_maps(region.x)[0].double()
        self.low, self.high = (
            (flat_maps(end)[0].double() - self.centre).to(end.dtype) for end in (region.low, region.high)
        )
        self.radius, self.r = region.t[0], region.r

    def support(self, a: Tensor, columns: Tensor | None = None) -> Tensor:
        """Upper bound of `max <a, d>` over the region, for coefficients (..., k) of all or of some coordinates; exact over
        a box."""
        low, high = (self.low, self.high) if columns is None else (self.low[columns], self.high[columns])
        box = torch.maximum(a * low, a * high).sum(-1)
        if math.isinf(self.r):
            return box
        return torch.minimum(box, self.radius * norm(a.flatten(0, -2), conjugate(self.r)).view_as(box))


@runtime_checkable
class Cover(Protocol):
    """What takes a part of the rows that arrive at a hinge from below through planes on the input.

    Attributes:
        variables: what an ascent may move, in [0, 1]; one entry a row in their second dimension.
        centre: of the region, float64 (inputs,).
    """

    @property
    def variables(self) -> list[Tensor]: ...
    @property
    def centre(self) -> Tensor: ...

    def divert(self, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows (n, m, *shape) to what is left of them, rows (n, m, inputs) on offsets, and the constant (n, m)."""


class Tilted:
    """Planes whose weights are variables, for few rows of one sample.

    Args:
        planes: of the hinge's arguments.
        hinge: its slopes, 0 <= left <= right.
        offsets: the region.
        rows: how many.
    """

    def __init__(self, planes: Planes, hinge: tuple[float, float], offsets: Offsets, rows: int) -> None:
        self.planes, self.hinge, self.offsets = planes, hinge, offsets
        self.inputs, self.centre = planes.rows.shape[1], offsets.centre
        present = planes.rows != 0
        width = int(present.sum(1).max())
        self.columns = present.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :width]
        self.a = planes.rows.gather(1, self.columns)
        self.least = torch.minimum(self.a * offsets.low[self.columns], self.a * offsets.high[self.columns])
        self.most = torch.maximum(self.a * offsets.low[self.columns], self.a * offsets.high[self.columns])
        count = len(planes.units)
        self.tilt = planes.chord[:, None].expand(1, rows, count, width).clone()
        self.share = planes.rows.new_full((1, rows, count), 0.5)
        self.slack = slack_of(self.a, torch.maximum(self.most.abs(), self.least.abs()), planes.top, count)

    @property
    def variables(self) -> list[Tensor]:
        """Weights (1, m, U, k) and the shares that stay with the chord (1, m, U)."""
        return [self.tilt, self.share]

    def resume(self, other: Tilted, rows: Tensor) -> None:
        """Start where another cover of the same hinge ended: from its row `rows` (m,), not at all where that is -1."""
        place = torch.full((int(max(self.planes.units.max(), other.planes.units.max())) + 1,), -1, device=rows.device)
        place[other.planes.units] = torch.arange(len(other.planes.units), device=rows.device)
        mine = place[self.planes.units]
        for own, row in enumerate(rows.tolist()):
            if row < 0:
                continue
            dense = torch.full(
                (len(other.planes.units) + 1, self.inputs), torch.nan, dtype=self.a.dtype, device=rows.device
            )
            dense[:-1].scatter_(1, other.columns, other.tilt[0, row])
            old = dense[mine].gather(1, self.columns)
            self.tilt[0, own] = torch.where(old.isnan(), self.tilt[0, own], old)
            self.share[0, own] = torch.where(mine < 0, self.share[0, own], other.share[0, row][mine.clamp_min(0)])

    def weights(self) -> tuple[Tensor, Tensor]:
        """Coefficients (1, m, U, k) of the planes on their columns, and constants (1, m, U)."""
        left, right = self.hinge
        t, top = self.tilt, self.planes.top
        if math.isinf(self.offsets.r):
            below, above = -(t * self.least).sum(-1), ((1 - t) * self.most).sum(-1)
        else:
            below = self.offsets.support(-t * self.a, self.columns)
            above = self.offsets.support((1 - t) * self.a, self.columns)
        gap = right - left
        constant = torch.maximum(left * top + gap * below, right * top + gap * above) + self.slack
        return (left + gap * t) * self.a, constant

    def divert(self, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        coefficients, shift = self.weights()
        rest, taken = taken_from(a, self.planes.units, 1 - self.share)
        n, m = a.shape[:2]
        parts = (taken[..., None] * coefficients).flatten(2)
        flat = a.new_zeros(n, m, self.inputs).scatter_add(2, self.columns.flatten().expand(n, m, -1), parts)
        return rest, flat, (taken * shift).sum(2)

    def keep(self, rows: Tensor) -> None:
        """Only some rows."""
        self.tilt, self.share = self.tilt[:, rows], self.share[:, rows]

    def held(self, arrived: Tensor) -> Held:
        """The planes as they are, of the units that rows (1, m, *shape) at the hinge send anything through."""
        with torch.no_grad():
            coefficients, shift = self.weights()
            used = ((flat_rows(arrived)[0][:, self.planes.units] < 0) & (self.share[0] < 1)).any(0)
            coefficients, columns = coefficients[0][:, used], self.columns[used]
            dense = torch.zeros(*coefficients.shape[:2], self.inputs, dtype=shift.dtype, device=shift.device)
            dense.scatter_(2, columns.expand_as(coefficients), coefficients)
            return Held(
                units=self.planes.units[used], coefficients=dense, shift=shift[0][:, used],
                share=1 - self.share[0][:, used], centre=self.centre,
            )  # fmt: skip


@dataclass(kw_only=True)
class Held:
    """Planes for several kinds of rows, fixed.

    Attributes:
        units: (U,).
        coefficients: (kinds, U, inputs).
        shift: (kinds, U).
        share: of a row that goes through the planes, (kinds, U).
        centre: of the region.
    """

    units: Tensor
    coefficients: Tensor
    shift: Tensor
    share: Tensor
    centre: Tensor

    def of(self, kind: Tensor, free: Tensor) -> Choice:
        """The cover of rows (n, 1, ...), of a kind each (n,); only units that are `free` (n, 1, *shape) are covered."""
        return Choice(self, kind, flat_rows(free)[:, :, self.units])


class Choice:
    """Fixed planes, rows of several kinds together."""

    def __init__(self, held: Held, kind: Tensor, free: Tensor) -> None:
        self.held, self.kind, self.centre, self.variables = held, kind, held.centre, list[Tensor]()
        self.share = torch.where(free, held.share[kind][:, None], 0.0)
        self.order = kind.argsort(stable=True)
        self.back = self.order.argsort()
        self.counts = torch.bincount(kind, minlength=len(held.shift)).tolist()

    def divert(self, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        held = self.held
        rest, taken = taken_from(a, held.units, self.share)
        parts = torch.split(taken[self.order, 0], self.counts)
        flat = torch.cat([part @ held.coefficients[k] for k, part in enumerate(parts) if len(part)])[self.back]
        return rest, flat[:, None], (taken * held.shift[self.kind][:, None]).sum(2)


def taken_from(a: Tensor, units: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Rows without the share of their negative entries that is taken, and that (n, m, U)."""
    flat = flat_rows(a)
    taken = flat[:, :, units].clamp_max(0) * share
    return raised_rows(flat.index_add(2, units, -taken), tuple(a.shape[2:])), taken


def slack_of(a: Tensor, reach: Tensor, top: Tensor, units: int) -> Tensor:
    """What rounding may add to a plane's value in the region, and to its share of a sum over units."""
    terms = a.shape[-1] + units + 8
    return min(terms, 8 * math.sqrt(terms)) * torch.finfo(a.dtype).eps * (reach.sum(-1) + top.abs())
