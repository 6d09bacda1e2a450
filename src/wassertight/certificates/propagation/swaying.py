"""Planes (see `hulls`) for many rows at once: weights that a point of the input determines, one point a row.

A plane touches its hinge at a point q of the region if its weights are right there. At a corner of a box they are known in
closed form: a coordinate whose term is at its most there has one weight, one at its least another. So a row needs a point
and two weights a unit, and what the planes of all hinges do to all rows together are a few products of matrices.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wassertight.certificates.propagation.hulls import Cover, Signed


class Swayed(Cover):
    """Planes for many rows over a box, every row with a point q of its own: weights are linear in a coordinate's place.

    A coordinate's place is `q_i` where its coefficient is positive, else `1 - q_i`.

    Args:
        signed: the planes.
        q: (1, m, inputs).
        ends: weights at places 0 and 1, (1, m, U) each.
        kept: share of a row that stays with the chord, (1, m, U).
    """

    def __init__(self, signed: Signed, q: Tensor, ends: tuple[Tensor, Tensor], kept: Tensor) -> None:
        super().__init__(signed)
        self.q, self.ends, self.kept = q, ends, kept

    @property
    def variables(self) -> list[Tensor]:
        """Points, weights and shares."""
        return [self.q, *self.ends, self.kept]

    def share(self, hinge: int) -> Tensor:
        return 1 - self.kept[:, :, self.places[hinge]]

    def sent(self, taken: Tensor) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = _Through.apply(self.q, *self.ends, taken, self.signed)  # type: ignore[no-untyped-call]
        return found


class _Through(torch.autograd.Function):
    """Rows and constants of what goes through planes; three products of matrices there, three back.

    With s = 2 q - 1 and weights `middle + half * (sign of a coefficient) * s` from 0 to 1, the plane's sums over
    coordinates are one product of s with its row, and the row is `even @ rows + s * (odd @ |rows|)`.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, first: Tensor, last: Tensor, taken: Tensor, signed: Signed
    ) -> tuple[Tensor, Tensor]:
        left, rise, reach = signed.left, signed.rise, signed.offsets.reach
        s, middle, half = 2 * q - 1, (first + last) / 2, (last - first) / 2
        value = signed.rows.onto(s * reach)
        shift, side = signed.shift(middle * signed.most + half * value)
        lean = signed.sizes.across(taken * half * rise)
        row = torch.addcmul(signed.rows.across(taken * (left + rise * middle)), s, lean)
        ctx.save_for_backward(s, middle, half, value, taken, shift, side, lean)
        ctx.signed = signed
        return row, (taken * shift).sum(2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        s, middle, half, value, taken, shift, side, lean = ctx.saved_tensors
        signed, (on_row, on_constant) = ctx.signed, grads
        on_even, on_odd = signed.rows.onto(on_row), signed.sizes.onto(on_row * s)
        on_given = signed.rise * side * on_constant[..., None] * taken
        weight = taken * signed.rise
        on_middle = torch.addcmul(on_given * signed.most, weight, on_even)
        on_half = torch.addcmul(on_given * value, weight, on_odd)
        on_s = torch.addcmul(on_row * lean, signed.rows.across(on_given * half), signed.offsets.reach)
        slopes = (signed.left + signed.rise * middle) * on_even + signed.rise * half * on_odd
        on_taken = torch.addcmul(slopes, on_constant[..., None], shift)
        return 2 * on_s, (on_middle - on_half) / 2, (on_middle + on_half) / 2, on_taken, None
