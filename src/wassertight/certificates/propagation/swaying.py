"""Planes (see `hulls`) for many rows at once: weights that a point of the input determines, one point a row.

At a corner of a box the plane that touches its hinge there is known in closed form: a coordinate whose term is at its most
has one weight, one at its least another. In between, weights that are linear in a coordinate's place give the lowest plane
at the point, among those whose constant is the same by either of the hinge's lines. So a row needs a point and what it
leaves to chords, and what the planes of all hinges do to all rows together are a few products of matrices.

Where the bound of a row is least, planes should touch. That place jumps from corner to corner as planes change, so the
point of a row takes short steps towards it, which end between the corners that take turns.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wassertight.certificates.propagation.hulls import Cover, Signed

_TURN = 0.8
"""Step of points, in steps of slopes."""
_SHARE = 1.5
"""Step of what stays with the chord, likewise."""


class Swayed(Cover):
    """Planes for many rows over a box, lowest at one point a row.

    Args:
        signed: the planes.
        point: places of coordinates between -1 and 1, the ends of the box, (1, m, inputs).
        kept: share of a row that stays with the chord, (1, m, U).
    """

    def __init__(self, signed: Signed, point: Tensor, kept: Tensor) -> None:
        super().__init__(signed)
        self.point, self.kept = point, kept

    @property
    def variables(self) -> list[Tensor]:
        """Shares; points have steps of their own."""
        return [self.kept]

    @property
    def shares(self) -> list[float]:
        return [_SHARE]

    def turn(self, rows: Tensor, step: float) -> None:
        self.point.sub_(rows.sign(), alpha=_TURN * step).clamp_(-1, 1)

    def share(self, hinge: int) -> Tensor:
        return 1 - self.kept[:, :, self.places[hinge]]

    def joined(self, rows: Tensor, taken: Tensor) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = _Joined.apply(rows, taken, self.point, self.signed)  # type: ignore[no-untyped-call]
        return found


def _weights(signed: Signed, value: Tensor) -> tuple[Tensor, Tensor]:
    """Middle and half the difference of the weights of terms at their most and at their least, for planes that are lowest
    where `<rows, d>` is `value` (1, m, U)."""
    z, tiny = signed.top + value, torch.finfo(value.dtype).tiny
    flat = ((signed.top + signed.most) / (signed.most - value).clamp_min(tiny)).clamp(0, 1)
    steep = (z / (signed.most + value).clamp_min(tiny)).clamp(0, 1)
    half = torch.where(z > 0, steep - 1, -flat) / 2
    return torch.where(z > 0, 1 + half, -half), half


class _Joined(torch.autograd.Function):
    """See `Cover.joined`; three products of matrices there, two back. The rows on offsets have no gradients.

    With weights `middle + half * (sign of a coefficient) * point`, planes are `middle * rows + half * |rows| * point`.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, taken: Tensor, point: Tensor, signed: Signed) -> tuple[Tensor, Tensor]:
        offsets = signed.offsets
        value = signed.rows.onto(point * offsets.reach)
        middle, half = _weights(signed, value)
        shift = torch.maximum(*signed.lines(middle * signed.most + half * value)) + signed.slack
        even, odd = signed.left + signed.rise * middle, signed.rise * half
        whole = signed.sizes.across(taken * odd).mul_(point).add_(rows)
        signed.rows.across(taken * even, whole)
        ctx.save_for_backward(whole, point, even, odd, shift)
        ctx.signed = signed
        ctx.mark_non_differentiable(whole)
        return rows @ offsets.centre - offsets.support(whole) + (taken * shift).sum(2), whole

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (whole, point, even, odd, shift), signed, on_least = ctx.saved_tensors, ctx.signed, grads[0][..., None]
        turned = whole.sign().mul_(signed.offsets.reach).mul_(-on_least)
        on_taken = even * signed.rows.onto(turned)
        on_taken.addcmul_(odd, signed.sizes.onto(turned * point)).addcmul_(on_least, shift)
        return turned.addcmul_(on_least, signed.offsets.centre), on_taken, None, None
