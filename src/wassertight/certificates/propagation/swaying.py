"""Planes (see `hulls`) for many rows at once: weights that a point of the input determines, one point a row.

A plane touches its hinge at a point q of the region if its weights are right there. At a corner of a box they are known in
closed form: a coordinate whose term is at its most there has one weight, one at its least another. So a row needs a point
and two weights a unit, and what planes do to all rows together are products of matrices.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from wassertight.certificates.propagation.hulls import Offsets, Planes, slack_of, taken_from


@dataclass(frozen=True, kw_only=True)
class Signed:
    """Planes over a box with positive and negative coefficients apart, for sums over coordinates of many rows.

    The place of a coordinate is 1 where the plane's term is at its most, 0 where it is at its least.

    Attributes:
        units, top: as in Planes.
        columns: coordinates of the input that are kept, (k,); all others have coefficient 0.
        plus, minus: coefficients above and below zero, (U, k).
        low, high: of the offsets of these coordinates, (k,).
        gap: largest distance of chord and hinge, (U,).
        slack: what rounding may add, (U,).
        centre: of all coordinates, float64.
    """

    units: Tensor
    top: Tensor
    columns: Tensor
    plus: Tensor
    minus: Tensor
    low: Tensor
    high: Tensor
    gap: Tensor
    slack: Tensor
    centre: Tensor

    @classmethod
    def of(cls, planes: Planes, offsets: Offsets) -> Signed:
        """Of all units and coordinates."""
        reach = torch.maximum((planes.rows * offsets.low).abs(), (planes.rows * offsets.high).abs())
        return cls(
            units=planes.units, top=planes.top, columns=torch.arange(planes.rows.shape[1], device=planes.rows.device),
            plus=planes.rows.clamp_min(0), minus=planes.rows.clamp_max(0), low=offsets.low, high=offsets.high,
            gap=(planes.top + offsets.support(planes.rows)) * (1 - planes.chord),
            slack=4 * slack_of(planes.rows, reach, planes.top, len(planes.units)), centre=offsets.centre,
        )  # fmt: skip

    def part(self, units: Tensor, columns: Tensor) -> Signed:
        """Some units, whose coefficients are 0 at all but some coordinates."""
        return replace(
            self, units=self.units[units], top=self.top[units], columns=columns, slack=self.slack[units],
            plus=self.plus[units][:, columns], minus=self.minus[units][:, columns],
            low=self.low[columns], high=self.high[columns], gap=self.gap[units],
        )  # fmt: skip

    @cached_property
    def rows(self) -> Tensor:
        return self.plus + self.minus

    @cached_property
    def _turns(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`towards` as an affine map of q."""
        low, high = self.low, self.high
        least, most = self.plus * low - self.minus * high, self.plus * high - self.minus * low
        return least, self.minus @ high, most, self.minus @ low

    @cached_property
    def least(self) -> Tensor:
        return self.plus @ self.low + self.minus @ self.high

    @cached_property
    def most(self) -> Tensor:
        return self.plus @ self.high + self.minus @ self.low

    def towards(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Sums over coordinates of place times least and times most values (..., U), for points q (..., inputs).

        The place of a coordinate is q_i where its coefficient is positive, else 1 - q_i: 1 where it is at its most.
        """
        on_least, at_least, on_most, at_most = self._turns
        return q @ on_least.T + at_least, q @ on_most.T + at_most

    def at(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Weights at places 0 and 1 (..., U) of planes that touch the hinge at corners q."""
        below, above = self.towards(q)
        z = self.top + above + self.least - below
        whole = self.top + self.most
        tiny = torch.finfo(q.dtype).tiny
        flat = (whole / (self.most - above - self.least + below).clamp_min(tiny)).clamp(0, 1)
        steep = (z / (above - below).clamp_min(tiny)).clamp(0, 1)
        return torch.where(z > 0, 1.0, flat), torch.where(z > 0, steep, 0.0)


class Swayed:
    """Planes for many rows over a box, every row with a point q of its own: weights are linear in a coordinate's place.

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
        signed, (left, right) = self.signed, self.hinge
        first, last = self.ends
        rest, taken = taken_from(a, signed.units, 1 - self.share)
        below, above = signed.towards(self.q)
        turn, gap = last - first, right - left
        least = first * signed.least + turn * below
        most = (1 - first) * signed.most - turn * above
        shift = torch.maximum(left * signed.top - gap * least, right * signed.top + gap * most) + signed.slack
        even, odd = taken * (left + gap * first), taken * (gap * turn)
        flat = even @ signed.rows + self.q * (odd @ signed.plus) + (1 - self.q) * (odd @ signed.minus)
        if len(signed.columns) < len(signed.centre):
            flat = flat.new_zeros(*flat.shape[:2], len(signed.centre)).index_copy(2, signed.columns, flat)
        return rest, flat, (taken * shift).sum(2)
