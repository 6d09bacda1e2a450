"""Dual variables as the released code has them: parameters with a fixed learning rate instead of a solved equation.

For comparisons with published numbers only (2309.03791 and its code for alpha-divergences): `(lam, nu)` start at
`(1, -0.35)` (or `(1, 1)`) and take one AdamW step of rate 4e-6 a batch on `lam radius + nu + lam E f*((l - nu) / lam)`.
They move by about the rate a step, a few tenths in a whole training, so the weights belong to a far smaller radius than the
one asked for; they are not normalised, which also scales gradients. `worst_weights` solves the same problem.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from wassertight.types import InputError

_BETAS, _EPS, _DECAY = (0.9, 0.999), 1e-8, 0.01


@dataclass(frozen=True, kw_only=True)
class LearnedDual:
    """One state of the pair (lam, nu) and of its optimiser; `updated` gives the next one.

    Args:
        order: a > 1 of the alpha-divergence.
        lam, nu: price and shift.
        rate: learning rate, 4e-6 (UDR, TRADES) or 6e-6 (MART) in the released scripts.

    >>> dual = LearnedDual(order=6.0)
    >>> after = dual.updated(torch.rand(128).double(), radius=0.5)
    >>> abs(after.lam - dual.lam) < 1e-5
    True
    """

    order: float
    lam: float = 1.0
    nu: float = -0.35
    rate: float = 4e-6
    steps: int = 0
    first: tuple[float, float] = (0.0, 0.0)
    second: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        if not self.order > 1:
            raise InputError(f"learned duals are those of alpha-divergences of order > 1, got {self.order}")

    def weights(self, losses: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """`((a - 1) (l - nu) / lam)_+ ** (1 / (a - 1))`: their mean is not one."""
        k = self.order - 1
        return (k * (losses.detach().to(torch.float64) - self.nu) / self.lam).clamp_min(0.0) ** (1 / k)

    def updated(self, losses: Float[Tensor, " n"], radius: float) -> LearnedDual:
        """The state after one optimiser step on a batch of losses."""
        a, values = self.order, losses.detach().to(torch.float64)
        w = self.weights(values)
        y = (values - self.nu) / self.lam
        conjugate = w**a / a + 1 / (a * (a - 1))
        slopes = (radius + float((conjugate - w * y).mean()), 1 - float(w.mean()))
        steps, moved = self.steps + 1, []
        first = tuple(_BETAS[0] * m + (1 - _BETAS[0]) * g for m, g in zip(self.first, slopes, strict=True))
        second = tuple(_BETAS[1] * v + (1 - _BETAS[1]) * g * g for v, g in zip(self.second, slopes, strict=True))
        for value, m, v in zip((self.lam, self.nu), first, second, strict=True):
            size = (m / (1 - _BETAS[0] ** steps)) / (math.sqrt(v / (1 - _BETAS[1] ** steps)) + _EPS)
            moved.append(value * (1 - self.rate * _DECAY) - self.rate * size)
        return replace(
            self, lam=max(moved[0], 1e-12), nu=moved[1], steps=steps,
            first=(first[0], first[1]), second=(second[0], second[1]),
        )  # fmt: skip
