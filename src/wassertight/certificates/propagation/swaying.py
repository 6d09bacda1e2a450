"""Planes (see `hulls`) for many rows at once: weights that a point of the input determines, one point a row.

A plane touches its hinge at a point q of the region if its weights are right there. At a corner of a box they are known in
closed form: a coordinate whose term is at its most there has one weight, one at its least another. So a row needs a point
and two weights a unit, and what the planes of all hinges do to all rows together are a few products of matrices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from wassertight.certificates.propagation.hulls import Cover, Offsets, Planes, leaning, slack_of


@dataclass(frozen=True, kw_only=True)
class Signed:
    """Planes over a box, for sums over coordinates of many rows.

    The place of a coordinate is 1 where the plane's term is at its most, 0 where it is at its least.

    Attributes:
        hinges: how many of the units belong to a hinge, one hinge after the other.
        units, rows, top: as in Planes, some coordinates of the input alone.
        columns: which coordinates, (k,); all others have coefficient 0.
        chord: as in Planes.
        left, rise: slope of the hinge's flat line, and what the steep one adds, (U,).
        slack: what rounding may add, (U,).
        offsets: the region.
    """

    hinges: Mapping[int, int]
    units: Tensor
    rows: Tensor
    top: Tensor
    chord: Tensor
    left: Tensor
    rise: Tensor
    slack: Tensor
    columns: Tensor
    offsets: Offsets

    @classmethod
    def of(cls, index: int, planes: Planes, hinge: tuple[float, float], offsets: Offsets) -> Signed:
        """Of all units with planes of one hinge, and all coordinates."""
        slack = 4 * slack_of(planes.rows, planes.rows.abs() * offsets.reach, planes.top, len(planes.units))
        return cls(
            hinges={index: len(planes.units)}, units=planes.units, rows=planes.rows, top=planes.top, chord=planes.chord, slack=slack,
            columns=torch.arange(planes.rows.shape[1], device=planes.rows.device), offsets=offsets,
            left=torch.full_like(planes.top, hinge[0]), rise=torch.full_like(planes.top, hinge[1] - hinge[0]),
        )  # fmt: skip

    @classmethod
    def joined(cls, parts: Sequence[Signed]) -> Signed:
        """Of several hinges, all coordinates of each."""
        names = [field.name for field in fields(cls) if field.name not in ("hinges", "columns", "offsets")]
        tensors = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
        hinges = {k: count for part in parts for k, count in part.hinges.items()}
        return cls(hinges=hinges, columns=parts[0].columns, offsets=parts[0].offsets, **tensors)

    def split(self, of_units: Tensor) -> dict[int, Tensor]:
        """What is given for all units, (U, ...) by hinge."""
        return dict(zip(self.hinges, torch.split(of_units, list(self.hinges.values())), strict=True))

    def part(self, chosen: Tensor, *, narrow: bool = True) -> Signed:
        """Units where `chosen` (U,), and only the coordinates they have if `narrow`."""
        if bool(chosen.all()):
            return self
        rows = self.rows[chosen]
        present = (rows != 0).any(0).nonzero().squeeze(1) if narrow else torch.arange(rows.shape[1], device=rows.device)
        return replace(
            self, hinges={k: int(mask.sum()) for k, mask in self.split(chosen).items()}, units=self.units[chosen],
            rows=rows if len(present) == rows.shape[1] else rows[:, present], top=self.top[chosen], chord=self.chord[chosen],
            left=self.left[chosen], rise=self.rise[chosen], slack=self.slack[chosen],
            columns=self.columns[present],
        )  # fmt: skip

    @cached_property
    def reach(self) -> Tensor:
        """Of the offsets of these coordinates, (k,)."""
        return self.offsets.reach[self.columns]

    @cached_property
    def sizes(self) -> Tensor:
        return self.rows.abs()

    @cached_property
    def most(self) -> Tensor:
        """The largest value of `<rows, d>`, (U,)."""
        return self.sizes @ self.reach

    def shift(self, given: Tensor) -> tuple[Tensor, Tensor]:
        """Constants (..., U) of planes with sums `given` of weights times terms' sizes, and where they come from (`leaning`)."""
        flat = self.left * self.top + self.rise * given
        steep = (self.left + self.rise) * self.top + self.rise * (self.most - given)
        return torch.maximum(flat, steep) + self.slack, leaning(flat, steep, self.most)

    def at(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Weights at places 0 and 1 (..., U) of planes that touch their hinge at corners q (..., k) of the unit box."""
        value = ((2 * q - 1) * self.reach) @ self.rows.T
        z, whole, tiny = self.top + value, self.top + self.most, torch.finfo(q.dtype).tiny
        flat = (whole / (self.most - value).clamp_min(tiny)).clamp(0, 1)
        steep = (z / (self.most + value).clamp_min(tiny)).clamp(0, 1)
        return torch.where(z > 0, 1.0, flat), torch.where(z > 0, steep, 0.0)


class Swayed(Cover):
    """Planes for many rows over a box, every row with a point q of its own: weights are linear in a coordinate's place.

    A coordinate's place is `q_i` where its coefficient is positive, else `1 - q_i`.

    Args:
        signed: the planes.
        q: (1, m, k).
        ends: weights at places 0 and 1, (1, m, U) each.
        kept: share of a row that stays with the chord, (1, m, U).
    """

    def __init__(self, signed: Signed, q: Tensor, ends: tuple[Tensor, Tensor], kept: Tensor) -> None:
        self.signed, self.offsets = signed, signed.offsets
        self.q, self.ends, self.kept = q, ends, kept
        self.units = signed.split(signed.units)
        self._places = signed.split(torch.arange(len(signed.units), device=q.device))

    @property
    def variables(self) -> list[Tensor]:
        """Points, weights and shares."""
        return [self.q, *self.ends, self.kept]

    def share(self, hinge: int) -> Tensor:
        return 1 - self.kept[:, :, self._places[hinge]]

    def through(self, taken: Mapping[int, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        joined = torch.cat([taken[k] for k in self.units], 2)
        row, constant = _Through.apply(self.q, *self.ends, joined, self.signed)  # type: ignore[no-untyped-call]
        return row, self.signed.columns, constant


class _Through(torch.autograd.Function):
    """Rows and constants of what goes through planes; three products of matrices there, three back.

    With s = 2 q - 1 and weights `middle + half * (sign of a coefficient) * s` from 0 to 1, the plane's sums over
    coordinates are one product of s with its row, and the row is `even @ rows + s * (odd @ |rows|)`.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, first: Tensor, last: Tensor, taken: Tensor, signed: Signed
    ) -> tuple[Tensor, Tensor]:
        left, rise = signed.left, signed.rise
        s, middle, half = 2 * q - 1, (first + last) / 2, (last - first) / 2
        value = (s * signed.reach) @ signed.rows.T
        shift, side = signed.shift(middle * signed.most + half * value)
        lean = (taken * half * rise) @ signed.sizes
        row = torch.addcmul((taken * (left + rise * middle)) @ signed.rows, s, lean)
        ctx.save_for_backward(s, middle, half, value, taken, shift, side, lean)
        ctx.signed = signed
        return row, (taken * shift).sum(2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        s, middle, half, value, taken, shift, side, lean = ctx.saved_tensors
        signed, (on_row, on_constant) = ctx.signed, grads
        on_even, on_odd = on_row @ signed.rows.T, (on_row * s) @ signed.sizes.T
        on_given = signed.rise * side * on_constant[..., None] * taken
        weight = taken * signed.rise
        on_middle = torch.addcmul(on_given * signed.most, weight, on_even)
        on_half = torch.addcmul(on_given * value, weight, on_odd)
        on_s = torch.addcmul(on_row * lean, (on_given * half) @ signed.rows, signed.reach)
        slopes = (signed.left + signed.rise * middle) * on_even + signed.rise * half * on_odd
        on_taken = torch.addcmul(slopes, on_constant[..., None], shift)
        return 2 * on_s, (on_middle - on_half) / 2, (on_middle + on_half) / 2, on_taken, None
