"""Log-softmax, and its enclosure: `z` less the logarithm of a sum of exponentials, which lies between two planes.

That logarithm is convex, so from below a tangent plane encloses it; from above every exponential lies under its chord,
and the logarithm of a sum of chords, which is concave, under its tangent (the pieces of 2303.01713, section 4). The sum
is the same for all entries of a row, so a form of several entries meets one of the two planes only. Nothing overflows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wassertight.certificates.propagation.operations import Shape
from wassertight.certificates.propagation.relaxations import dot


@dataclass(frozen=True, kw_only=True)
class LogSoftmax:
    """`z_k - log sum over j of exp(z_j)`, j and k along the last axis."""

    source: Shape

    @property
    def terms(self) -> int:
        return self.source[-1]

    def apply(self, z: Tensor) -> Tensor:
        return z.log_softmax(-1)

    def interval(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Its range, outward by the rounding it takes: it rises with its own entry and falls with the others."""
        itself = torch.eye(self.terms, dtype=torch.bool, device=low.device)

        def end(own: Tensor, others: Tensor) -> Tensor:
            rest = others[..., None, :].masked_fill(itself, -torch.inf).logsumexp(-1)
            return own - torch.logaddexp(own, rest)

        bottom, top = end(low, high), end(high, low)
        grain = (16 + self.terms) * torch.finfo(low.dtype).eps
        size = 1 + torch.maximum(low.abs(), high.abs()).amax(-1, keepdim=True)
        return bottom - grain * size, (top + grain * size).clamp_max(0)


@dataclass(frozen=True, kw_only=True)
class Planes:
    """`<lower_slope, z> + lower_shift <= log sum exp(z) <= <upper_slope, z> + upper_shift`; all slopes are positive.

    Attributes:
        lower_slope, upper_slope: (n, 1, *source).
        lower_shift, upper_shift: (n, 1, *source[:-1], 1), rounding of the arguments of the sum included.
        error: that rounding, (n, 1, *source), which an entry itself brings too.
    """

    lower_slope: Tensor
    lower_shift: Tensor
    upper_slope: Tensor
    upper_shift: Tensor
    error: Tensor

    @classmethod
    def of(cls, low: Tensor, high: Tensor, error: Tensor) -> Planes:
        """From bounds (n, *source) of the argument; both planes touch their side at the middle of the box."""
        low, high = low - error, high + error
        middle, width = low + (high - low) / 2, high - low
        value, lower = middle.logsumexp(-1, keepdim=True), middle.softmax(-1)
        top = high.amax(-1, keepdim=True)
        at_low, at_high = (low - top).exp(), (high - top).exp()
        share = torch.where(width > 0, -torch.expm1(-width) / torch.where(width > 0, width, 1.0), 1.0)
        mean = ((at_low + at_high) / 2).sum(-1, keepdim=True)
        upper, height = at_high * share / mean, top + mean.log()
        shifts = []
        for sign, slope, at in ((-1, lower, value), (1, upper, height)):
            reach = (slope * (middle.abs() + width)).sum(-1, keepdim=True) + at.abs() + 1
            pad = (16 + 2 * low.shape[-1]) * torch.finfo(low.dtype).eps * reach
            moved, charge = ((slope * v).sum(-1, keepdim=True) for v in (middle, error))
            shifts.append((at - moved + sign * (pad + charge))[:, None])
        return cls(
            lower_slope=lower[:, None], lower_shift=shifts[0],
            upper_slope=upper[:, None], upper_shift=shifts[1], error=error[:, None],
        )  # fmt: skip

    def pull(self, a: Tensor) -> tuple[list[Tensor], Tensor]:
        """Rows on the argument, and the constant of the lower bound."""
        total = a.sum(-1, keepdim=True)
        above = total.clamp_min(0)
        below = total - above
        constant = -dot(above, self.upper_shift) - dot(below, self.lower_shift) - dot(a.abs(), self.error)
        return [a - above * self.upper_slope - below * self.lower_slope], constant
