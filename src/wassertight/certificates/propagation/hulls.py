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
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from wassertight.certificates.propagation.layout import flat_maps, flat_rows, raised_rows
from wassertight.certificates.propagation.region import Region


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
    """The box round the region of one sample, about its middle.

    Attributes:
        centre: float64 (inputs,).
        reach: half the widths, (inputs,).
    """

    def __init__(self, region: Region) -> None:
        low, high = flat_maps(region.low)[0].double(), flat_maps(region.high)[0].double()
        self.centre = (low + high) / 2
        self.reach = torch.maximum(high - self.centre, self.centre - low).to(region.low.dtype)

    def support(self, a: Tensor) -> Tensor:
        """`max <a, d>` over the box, for coefficients (..., inputs)."""
        return a.abs() @ self.reach


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


_TIE = 0.1
"""Part of a plane's reach."""


def leaning(flat: Tensor, steep: Tensor, reach: Tensor) -> Tensor:
    """1 where the flat line gives a plane's constant, -1 where the steep one does, in between where they are close.

    Planes that touch their hinge begin with a tie, and ascents do better when they do not take sides there.
    """
    return ((flat - steep) / (_TIE * reach)).clamp(-1, 1)


class Tilted:
    """Planes whose weights are variables, for few rows of one sample over a box.

    Args:
        planes: of the hinge's arguments.
        hinge: its slopes, 0 <= left <= right.
        offsets: the region.
        rows: how many.
    """

    def __init__(self, planes: Planes, hinge: tuple[float, float], offsets: Offsets, rows: int) -> None:
        self.planes, self.hinge, self.centre, self.inputs = planes, hinge, offsets.centre, planes.rows.shape[1]
        present = planes.rows != 0
        width = int(present.sum(1).max())
        self.columns = present.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :width]
        self.a = planes.rows.gather(1, self.columns)
        self.most = self.a.abs() * offsets.reach[self.columns]
        count = len(planes.units)
        self.slack = slack_of(self.a, self.most, planes.top, count)
        self.tilt = planes.chord[:, None].expand(1, rows, count, width).contiguous()
        self.share = planes.rows.new_full((1, rows, count), 0.5)

    @property
    def variables(self) -> list[Tensor]:
        """Weights (1, m, U, k) and the shares that stay with the chord (1, m, U)."""
        return [self.tilt, self.share]

    def resume(self, other: Tilted) -> None:
        """Start where another cover of the same hinge, with as many rows, ended."""
        place = torch.full((int(max(self.planes.units.max(), other.planes.units.max())) + 1,), -1, device=self.a.device)
        place[other.planes.units] = torch.arange(len(other.planes.units), device=self.a.device)
        mine = place[self.planes.units]
        dense = self.a.new_full((1, len(other.tilt[0]), len(other.planes.units) + 1, self.inputs), torch.nan)
        dense[:, :, :-1].scatter_(3, other.columns.expand_as(other.tilt), other.tilt)
        old = dense[:, :, mine].gather(3, self.columns.expand_as(self.tilt))
        self.tilt = torch.where(old.isnan(), self.tilt, old)
        self.share = torch.where(mine < 0, self.share, other.share[:, :, mine.clamp_min(0)])

    def divert(self, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rest, taken = taken_from(a, self.planes.units, 1 - self.share)
        row, constant = _Through.apply(self.tilt, taken, self)  # type: ignore[no-untyped-call]
        return rest, row, constant

    def shift(self, tilt: Tensor) -> tuple[Tensor, Tensor]:
        """Constants (1, m, U) of the planes, and which line they come from (see `leaning`)."""
        (left, right), top = self.hinge, self.planes.top
        taken = torch.einsum("nmuk,uk->nmu", tilt, self.most)
        flat, steep = left * top + (right - left) * taken, right * top + (right - left) * (self.most.sum(1) - taken)
        return torch.maximum(flat, steep) + self.slack, leaning(flat, steep, self.most.sum(1))

    def held(self, arrived: Tensor) -> Held:
        """The planes of the first row as they are, of the units that this row (1, m, *shape) sends anything through."""
        with torch.no_grad():
            (left, right), (shift, _) = self.hinge, self.shift(self.tilt)
            used = (flat_rows(arrived)[0, 0, self.planes.units] < 0) & (self.share[0, 0] < 1)
            columns = self.columns[used]
            coefficients = (left + (right - left) * self.tilt[0, 0, used]) * self.a[used]
            dense = coefficients.new_zeros(len(coefficients), self.inputs).scatter_(1, columns, coefficients)
            return Held(
                units=self.planes.units[used], coefficients=dense, shift=shift[0, 0, used],
                share=1 - self.share[0, 0, used], centre=self.centre,
            )  # fmt: skip


class _Through(torch.autograd.Function):
    """Rows and constants of what goes through tilted planes; every large tensor is read as seldom as can be."""

    @staticmethod
    def forward(ctx: Any, tilt: Tensor, taken: Tensor, cover: Tilted) -> tuple[Tensor, Tensor]:
        left, right = cover.hinge
        shift, side = cover.shift(tilt)
        ctx.save_for_backward(tilt, taken, shift, side)
        ctx.cover = cover
        parts = (tilt * cover.a).mul_((right - left) * taken[..., None])
        if left:
            parts += left * taken[..., None] * cover.a
        row = taken.new_zeros(*taken.shape[:2], cover.inputs)
        row.scatter_add_(2, cover.columns.flatten().expand(*taken.shape[:2], -1), parts.flatten(2))
        return row, (taken * shift).sum(2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (tilt, taken, shift, side), cover = ctx.saved_tensors, ctx.cover
        (left, right), (on_row, on_constant) = cover.hinge, grads
        met = on_row[:, :, cover.columns].mul_(cover.a)
        on_taken = (right - left) * torch.einsum("nmuk,nmuk->nmu", tilt, met) + on_constant[..., None] * shift
        if left:
            on_taken += left * met.sum(3)
        turn = (side * on_constant[..., None])[..., None]
        met.addcmul_(turn, cover.most)
        return met.mul_((right - left) * taken[..., None]), on_taken, None


@dataclass(kw_only=True)
class Held:
    """Fixed planes.

    Attributes:
        units: (U,).
        coefficients: (U, inputs).
        shift: (U,).
        share: of a row that goes through the planes, (U,) or (n, m, U).
        centre: of the region.
    """

    units: Tensor
    coefficients: Tensor
    shift: Tensor
    share: Tensor
    centre: Tensor
    variables: list[Tensor] = field(default_factory=list)

    def where(self, free: Tensor) -> Held:
        """The planes of units that are free (n, m, *shape)."""
        return replace(self, share=torch.where(flat_rows(free)[:, :, self.units], self.share, 0.0))

    def divert(self, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rest, taken = taken_from(a, self.units, self.share)
        return rest, taken @ self.coefficients, taken @ self.shift


def taken_from(a: Tensor, units: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Rows without the share of their negative entries that is taken, and that (n, m, U)."""
    flat = flat_rows(a)
    taken = flat[:, :, units].clamp_max(0) * share
    return raised_rows(flat.index_add(2, units, -taken), tuple(a.shape[2:])), taken


def slack_of(a: Tensor, reach: Tensor, top: Tensor, units: int) -> Tensor:
    """What rounding may add to a plane's value in the region, and to its share of a sum over units."""
    terms = a.shape[-1] + units + 8
    return min(terms, 8 * math.sqrt(terms)) * torch.finfo(a.dtype).eps * (reach.sum(-1) + top.abs())
