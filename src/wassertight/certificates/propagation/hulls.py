"""Concave envelopes of hinges over the input region: upper planes on the input, one slope a unit and coordinate.

A hinge `f(z) = max(l z, r z)` with 0 <= l <= r grows with z. Where `z <= <A, d> + s` for every offset d = x - centre in the
region, and for any weights t in [0, 1], one a coordinate,

    f(z) <= <l A + (r - l) t A, d> + c(t),   c(t) = max(l s + (r - l) h(-t A), r s + (r - l) h((1 - t) A)),

h the support function of the region: the right side lies above both of the hinge's lines everywhere in it. Equal weights
give back the chord over an interval; weights of their own give the hinge's whole concave envelope over the region, as t
varies. At an extreme point of the region the envelope is the hinge itself, and minima of margins lie near such points: a
chord loses there what the best plane does not.

For one layer over a box these are the inequalities of Anderson et al. (1811.01988); Tjandraatmadja et al. (2006.14076)
choose one of them a unit. Here A is a linear bound of any argument in the network's input, t follows from a point of the
region (`swaying`) or is raised by gradients (`sharing`), and a unit may have its row divided between plane and chord.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from wassertight.certificates.propagation.layout import flat_maps, flat_rows, raised_rows
from wassertight.certificates.propagation.region import Region
from wassertight.certificates.propagation.strips import Strips


@dataclass(frozen=True, kw_only=True)
class Planes:
    """Upper bounds `z <= <rows, x - centre> + top` of the undecided arguments of a hinge, one sample.

    Units and coordinates of the input are numbered as `layout.flat_rows` does.

    Attributes:
        units: which arguments, (U,).
        rows: (U, inputs).
        top: (U,).
        chord: share of every argument's interval above zero, (U,).
        below, bottom: `z >= <below, x - centre> + bottom` likewise.
    """

    units: Tensor
    rows: Tensor
    top: Tensor
    chord: Tensor
    below: Tensor
    bottom: Tensor

    def part(self, which: Tensor) -> Planes:
        """Some of them."""
        return Planes(**{name: value[which] for name, value in vars(self).items()})


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

    def least(self, rows: Tensor, planes: Tensor) -> tuple[Tensor, Tensor]:
        """`min <rows, centre + d> + <planes, d>` over the box, (n, m), and the coefficients of d together.

        Args:
            rows, planes: (n, m, inputs).
        """
        found: tuple[Tensor, Tensor] = _Least.apply(rows, planes, self)  # type: ignore[no-untyped-call]
        return found


class _Least(torch.autograd.Function):
    """See `Offsets.least`; the coefficients have no gradients."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, planes: Tensor, offsets: Offsets) -> tuple[Tensor, Tensor]:
        whole = rows + planes
        ctx.save_for_backward(whole)
        ctx.offsets = offsets
        ctx.mark_non_differentiable(whole)
        return rows @ offsets.centre - offsets.support(whole), whole

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (whole,), on_least, offsets = ctx.saved_tensors, grads[0][..., None], ctx.offsets
        turned = whole.sign().mul_(offsets.reach).mul_(-on_least)
        return torch.addcmul(turned, on_least, offsets.centre), turned, None


@dataclass(frozen=True, kw_only=True)
class Signed:
    """Planes over a box, for sums over coordinates of many rows.

    The place of a coordinate is 1 where the plane's term is at its most, 0 where it is at its least.

    Attributes:
        hinges: how many of the units belong to a hinge, one hinge after the other.
        units, top, chord: as in Planes.
        rows: (U, inputs).
        left, rise: slope of the hinge's flat line, and what the steep one adds, (U,).
        slack: what rounding may add, (U,).
        offsets: the region.
    """

    hinges: Mapping[int, int]
    units: Tensor
    rows: Strips
    top: Tensor
    chord: Tensor
    left: Tensor
    rise: Tensor
    slack: Tensor
    offsets: Offsets

    @classmethod
    def of(cls, index: int, planes: Planes, hinge: tuple[float, float], offsets: Offsets) -> Signed:
        """Of all units with planes of one hinge."""
        planes = planes.part(planes.units.argsort())
        slack = 4 * slack_of(planes.rows, planes.rows.abs() * offsets.reach, planes.top, len(planes.units))
        return cls(
            hinges={index: len(planes.units)}, units=planes.units, rows=Strips.of(planes.rows), top=planes.top,
            chord=planes.chord, slack=slack, offsets=offsets, left=torch.full_like(planes.top, hinge[0]),
            rise=torch.full_like(planes.top, hinge[1] - hinge[0]),
        )  # fmt: skip

    @classmethod
    def joined(cls, parts: Sequence[Signed]) -> Signed:
        """Of several hinges."""
        names = [field.name for field in fields(cls) if field.name not in ("hinges", "rows", "offsets")]
        tensors = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
        hinges = {k: count for part in parts for k, count in part.hinges.items()}
        rows = Strips.joined([part.rows for part in parts])
        return cls(hinges=hinges, rows=rows, offsets=parts[0].offsets, **tensors)

    def split(self, of_units: Tensor) -> dict[int, Tensor]:
        """What is given for all units, (U, ...) by hinge."""
        return dict(zip(self.hinges, torch.split(of_units, list(self.hinges.values())), strict=True))

    def entries(self, maps: Mapping[int, Tensor]) -> Tensor:
        """What belongs to the units in maps (1, m, *shape) by hinge: (m, U)."""
        return torch.cat([flat_rows(maps[k])[0][:, units] for k, units in self.split(self.units).items()], 1)

    def part(self, chosen: Tensor) -> Signed:
        """Units where `chosen` (U,)."""
        if bool(chosen.all()):
            return self
        return replace(
            self, hinges={k: int(mask.sum()) for k, mask in self.split(chosen).items()}, units=self.units[chosen],
            rows=self.rows.part(chosen), top=self.top[chosen], chord=self.chord[chosen],
            left=self.left[chosen], rise=self.rise[chosen], slack=self.slack[chosen],
        )  # fmt: skip

    @cached_property
    def plain(self) -> bool:
        """Whether all hinges are ReLUs."""
        return bool((self.left == 0).all() & (self.rise == 1).all())

    @cached_property
    def sizes(self) -> Strips:
        return self.rows.like(self.rows.flat.abs())

    @cached_property
    def most(self) -> Tensor:
        """The largest value of `<rows, d>`, (U,)."""
        return self.sizes.sums(self.offsets.reach)

    def lines(self, given: Tensor) -> tuple[Tensor, Tensor]:
        """Constants (..., U) by the flat and by the steep line of planes with sums `given` of weights times terms' sizes;
        a plane's is the larger one, and slack."""
        flat = self.left * self.top + self.rise * given
        return flat, (self.left + self.rise) * self.top + self.rise * (self.most - given)


class Cover(ABC):
    """What takes a part of the rows that arrive at some hinges from below through planes on the input.

    Args:
        signed: the planes.

    Attributes:
        units: which arguments of a hinge have planes, by hinge.
        places: where they are among all units.
    """

    def __init__(self, signed: Signed) -> None:
        self.signed = signed
        self.units = signed.split(signed.units)
        self.places = signed.split(torch.arange(len(signed.units), device=signed.units.device))

    @property
    @abstractmethod
    def variables(self) -> list[Tensor]:
        """What an ascent may move, in [0, 1]; one entry a row in their second dimension, or one for all rows."""

    @property
    @abstractmethod
    def shares(self) -> list[float]:
        """Steps of the variables, in steps of slopes."""

    @abstractmethod
    def share(self, hinge: int) -> Tensor:
        """Of what arrives from below, the part that goes through planes, (n, m, U)."""

    def divert(self, hinge: int, a: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (n, m, *shape) that arrive at a hinge to what is left of them, and what is taken (n, m, U)."""
        units = self.units[hinge]
        flat = flat_rows(a)
        taken = flat[:, :, units].clamp_max(0) * self.share(hinge)
        return raised_rows(flat.index_add(2, units, -taken), tuple(a.shape[2:])), taken

    def least(self, rows: Tensor, taken: Mapping[int, Tensor]) -> tuple[Tensor, Tensor]:
        """Least values (n, m) over the box of rows (n, m, inputs) and what is taken, by hinge, together: with the rows
        (n, m, inputs) on offsets that give them."""
        return self.joined(rows, torch.cat([taken[k] for k in self.units], 2))

    @abstractmethod
    def joined(self, rows: Tensor, taken: Tensor) -> tuple[Tensor, Tensor]:
        """The same for what is taken of all hinges together, (n, m, U)."""

    @abstractmethod
    def turn(self, rows: Tensor, step: float) -> None:
        """Move what has no gradients, after a step of an ascent of that size, for rows (n, m, inputs) as found by `least`."""


def slack_of(a: Tensor, reach: Tensor, top: Tensor, units: int) -> Tensor:
    """What rounding may add to a plane's value in the region, and to its share of a sum over units."""
    terms = a.shape[-1] + units + 8
    return min(terms, 8 * math.sqrt(terms)) * torch.finfo(a.dtype).eps * (reach.sum(-1) + top.abs())
