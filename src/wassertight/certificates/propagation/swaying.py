"""Planes (see `hulls`) for many rows at once: weights that a point of the input determines, one point a row.

A plane touches its hinge at a point q of the region if its weights are right there. At a corner of a box they are known in
closed form: a coordinate whose term is at its most there has one weight, one at its least another. So a row needs a point
and two weights a unit, and what planes do to all rows together are products of matrices.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from wassertight.certificates.propagation.hulls import Offsets, Planes, leaning, slack_of, taken_from


@dataclass(frozen=True, kw_only=True)
class Signed:
    """Planes over a box, for sums over coordinates of many rows.

    The place of a coordinate is 1 where the plane's term is at its most, 0 where it is at its least.

    Attributes:
        units, rows, top: as in Planes, some coordinates of the input alone.
        columns: which coordinates, (k,); all others have coefficient 0.
        reach: of the offsets of these coordinates, (k,).
        gap: largest distance of chord and hinge, (U,).
        slack: what rounding may add, (U,).
        centre: of all coordinates, float64.
    """

    units: Tensor
    rows: Tensor
    top: Tensor
    columns: Tensor
    reach: Tensor
    gap: Tensor
    slack: Tensor
    centre: Tensor

    @classmethod
    def of(cls, planes: Planes, offsets: Offsets) -> Signed:
        """Of all units and coordinates."""
        slack = 4 * slack_of(planes.rows, planes.rows.abs() * offsets.reach, planes.top, len(planes.units))
        return cls(
            units=planes.units, rows=planes.rows, top=planes.top, reach=offsets.reach, slack=slack,
            columns=torch.arange(planes.rows.shape[1], device=planes.rows.device), centre=offsets.centre,
            gap=(planes.top + offsets.support(planes.rows)) * (1 - planes.chord),
        )  # fmt: skip

    def part(self, units: Tensor, columns: Tensor) -> Signed:
        """Some units, whose coefficients are 0 at all but some coordinates."""
        rows = self.rows[units]
        return replace(
            self, units=self.units[units], top=self.top[units], slack=self.slack[units], gap=self.gap[units],
            rows=rows if len(columns) == rows.shape[1] else rows[:, columns],
            columns=self.columns[columns], reach=self.reach[columns],
        )  # fmt: skip

    @cached_property
    def sizes(self) -> Tensor:
        return self.rows.abs()

    @cached_property
    def most(self) -> Tensor:
        """The largest value of `<rows, d>`, (U,)."""
        return self.sizes @ self.reach

    def at(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Weights at places 0 and 1 (..., U) of planes that touch the hinge at corners q (..., k) of the unit box."""
        value = ((2 * q - 1) * self.reach) @ self.rows.T
        z, whole, tiny = self.top + value, self.top + self.most, torch.finfo(q.dtype).tiny
        flat = (whole / (self.most - value).clamp_min(tiny)).clamp(0, 1)
        steep = (z / (self.most + value).clamp_min(tiny)).clamp(0, 1)
        return torch.where(z > 0, 1.0, flat), torch.where(z > 0, steep, 0.0)


class Swayed:
    """Planes for many rows over a box, every row with a point q of its own: weights are linear in a coordinate's place.

    A coordinate's place is `q_i` where its coefficient is positive, else `1 - q_i`.

    Args:
        signed: the planes.
        hinge: its slopes, 0 <= left <= right.
        q: (1, m, k).
        ends: weights at places 0 and 1, (1, m, U) each.
        share: of a row that stays with the chord, (1, m, U).
    """

    def __init__(
        self, signed: Signed, hinge: tuple[float, float], q: Tensor, ends: tuple[Tensor, Tensor], share: Tensor
    ) -> None:
        self.signed, self.hinge, self.centre = signed, hinge, signed.centre
        self.q, self.ends, self.share = q, ends, share

    @property
    def variables(self) -> list[Tensor]:
        """Points, weights and shares."""
        return [self.q, *self.ends, self.share]

    def divert(self, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        signed = self.signed
        rest, taken = taken_from(a, signed.units, 1 - self.share)
        row, constant = _Through.apply(self.q, *self.ends, taken, signed, self.hinge)  # type: ignore[no-untyped-call]
        if len(signed.columns) < len(signed.centre):
            row = row.new_zeros(*row.shape[:2], len(signed.centre)).index_copy(2, signed.columns, row)
        return rest, row, constant


class _Through(torch.autograd.Function):
    """Rows and constants of what goes through planes; three products of matrices there, three back.

    With s = 2 q - 1 and weights `middle + half * (sign of a coefficient) * s` from 0 to 1, the plane's sums over
    coordinates are one product of s with its row, and the row is `even @ rows + s * (odd @ |rows|)`.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, first: Tensor, last: Tensor, taken: Tensor, signed: Signed, hinge: tuple[float, float]
    ) -> tuple[Tensor, Tensor]:
        (left, right), gap = hinge, hinge[1] - hinge[0]
        s, middle, half = 2 * q - 1, (first + last) / 2, (last - first) / 2
        value = (s * signed.reach) @ signed.rows.T
        given = middle * signed.most + half * value
        flat, steep = left * signed.top + gap * given, right * signed.top + gap * (signed.most - given)
        shift = torch.maximum(flat, steep) + signed.slack
        lean = (taken * half * gap) @ signed.sizes
        row = torch.addcmul((taken * (left + gap * middle)) @ signed.rows, s, lean)
        side = leaning(flat, steep, signed.most)
        ctx.save_for_backward(s, middle, half, value, taken, shift, side, lean)
        ctx.signed, ctx.hinge = signed, hinge
        return row, (taken * shift).sum(2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        s, middle, half, value, taken, shift, side, lean = ctx.saved_tensors
        signed, (on_row, on_constant), left, gap = ctx.signed, grads, ctx.hinge[0], ctx.hinge[1] - ctx.hinge[0]
        on_even, on_odd = on_row @ signed.rows.T, (on_row * s) @ signed.sizes.T
        on_given = gap * side * on_constant[..., None] * taken
        on_middle = torch.addcmul(on_given * signed.most, taken, on_even, value=gap)
        on_half = torch.addcmul(on_given * value, taken, on_odd, value=gap)
        on_s = torch.addcmul(on_row * lean, (on_given * half) @ signed.rows, signed.reach)
        on_taken = on_constant[..., None] * shift + (left + gap * middle) * on_even + gap * half * on_odd
        return 2 * on_s, (on_middle - on_half) / 2, (on_middle + on_half) / 2, on_taken, None, None
