"""Concave envelopes of hinges over the input region: upper planes on the input, one slope a unit and coordinate.

A hinge `f(z) = max(l z, r z)` with 0 <= l <= r grows with z. Where `z <= <A, d> + s` for every offset d = x - centre in the
region, and for any weights t in [0, 1], one a coordinate,

    f(z) <= <l A + (r - l) t A, d> + c(t),   c(t) = max(l s + (r - l) h(-t A), r s + (r - l) h((1 - t) A)),

h the support function of the region: the right side lies above both of the hinge's lines everywhere in it. Equal weights
give back the chord over an interval; weights of their own give the hinge's whole concave envelope over the region, as t
varies. At an extreme point of the region the envelope is the hinge itself, and minima of margins lie near such points: a
chord loses there what the best plane does not.

For one layer over a box these are the inequalities of Anderson et al. (1811.01988); Tjandraatmadja et al. (2006.14076)
choose one of them a unit. Here A is a linear bound of any argument in the network's input, t is raised by gradients
(`swaying`, `sharing`), and a unit may have its row divided between plane and chord.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
        centre: (inputs,).
        reach: half the widths, (inputs,).
    """

    def __init__(self, region: Region) -> None:
        low, high = flat_maps(region.low)[0], flat_maps(region.high)[0]
        self.centre = (low + high) / 2
        far = torch.maximum(high.double() - self.centre, self.centre - low.double())
        self.reach = far.to(low.dtype) * (1 + torch.finfo(low.dtype).eps)

    def support(self, a: Tensor) -> Tensor:
        """`max <a, d>` over the box, for coefficients (..., inputs)."""
        return a.abs() @ self.reach

    def least(self, rows: Tensor, planes: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """`min <rows, centre + d> + <planes, d>` over the box, (n, m), and the coefficients of d together.

        Args:
            rows: (n, m, inputs).
            planes: (n, m, k), of some coordinates.
            columns: which, (k,).
        """
        found: tuple[Tensor, Tensor] = _Least.apply(rows, planes, columns, self)  # type: ignore[no-untyped-call]
        return found


class _Least(torch.autograd.Function):
    """See `Offsets.least`; the coefficients have no gradients."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, planes: Tensor, columns: Tensor, offsets: Offsets) -> tuple[Tensor, Tensor]:
        whole = rows + planes if len(columns) == rows.shape[2] else rows.index_add(2, columns, planes)
        ctx.save_for_backward(whole, columns)
        ctx.offsets = offsets
        ctx.mark_non_differentiable(whole)
        return rows @ offsets.centre - offsets.support(whole), whole

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        whole, columns = ctx.saved_tensors
        on_least, offsets = grads[0][..., None], ctx.offsets
        turned = whole.sign().mul_(offsets.reach).mul_(-on_least)
        return torch.addcmul(turned, on_least, offsets.centre), turned.index_select(2, columns), None, None


class Cover(ABC):
    """What takes a part of the rows that arrive at some hinges from below through planes on the input.

    Attributes:
        offsets: of the region.
        units: which arguments of a hinge have planes, by hinge, numbered as `layout.flat_rows` does.
    """

    offsets: Offsets
    units: Mapping[int, Tensor]

    @property
    def variables(self) -> list[Tensor]:
        """What an ascent may move, in [0, 1]; one entry a row in their second dimension."""
        return []

    @abstractmethod
    def share(self, hinge: int) -> Tensor:
        """Of what arrives from below, the part that goes through planes, (U,) or (n, m, U)."""

    def divert(self, hinge: int, a: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (n, m, *shape) that arrive at a hinge to what is left of them, and what is taken (n, m, U)."""
        units = self.units[hinge]
        flat = flat_rows(a)
        taken = flat[:, :, units].clamp_max(0) * self.share(hinge)
        return raised_rows(flat.index_add(2, units, -taken), tuple(a.shape[2:])), taken

    @abstractmethod
    def through(self, taken: Mapping[int, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """What is taken, as rows (n, m, k) on offsets at columns (k,), and constants (n, m)."""


_TIE = 0.1
"""Part of a plane's reach."""


def leaning(flat: Tensor, steep: Tensor, reach: Tensor) -> Tensor:
    """1 where the flat line gives a plane's constant, -1 where the steep one does, in between where they are close.

    Planes that touch their hinge begin with a tie, and ascents do better when they do not take sides there.
    """
    return ((flat - steep) / (_TIE * reach)).clamp(-1, 1)


def slack_of(a: Tensor, reach: Tensor, top: Tensor, units: int) -> Tensor:
    """What rounding may add to a plane's value in the region, and to its share of a sum over units."""
    terms = a.shape[-1] + units + 8
    return min(terms, 8 * math.sqrt(terms)) * torch.finfo(a.dtype).eps * (reach.sum(-1) + top.abs())
