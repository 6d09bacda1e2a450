"""Laplace flow smoothing: the published certificate, and the tight one from the same votes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from wassertight.certificates.smoothing.estimation import VoteBounds
from wassertight.certificates.smoothing.smoothed import Smoothing
from wassertight.transport.flow_noise import LaplaceFlow, Noise

ROUND_DOWN = 1 - 1e-9


@dataclass(frozen=True, kw_only=True)
class LaplaceFlowSmoothing(Smoothing):
    """Certify against moving light by independent Laplace noise on the flow of every edge.

    Problem: the largest rho such that the smoothed answer is the same for every z with W_1(x, z) < rho. For r = 1,
    W_1 is the least |flow|_1 from x to z, so it is an L1 certificate in flow space. With scale b = sigma / sqrt(2):

        published:  rho_1 = (b / 2) log(v / v_B)
        tight:      rho_1 = (b / 2) (q(v) - q(v_B)), q the quantile of the unit Laplace law; -b log(2 (1 - v)) for v_B = 1 - v

    and rho_r = rho_1 / 2**(1 - 1/r), because d_1 <= 2**(1 - 1/r) d_r in the plane.

    Args:
        tight: False: the published, differential-privacy form.

    Reference: 1910.10783 theorem 1 and its code (r = 2); the tight form follows Teng et al. 2019.

    >>> LaplaceFlowSmoothing(sigma=0.005, n=10_000, alpha=0.05).name
    'laplace-flow'
    """

    name: ClassVar[str] = "laplace-flow"
    tight: bool = True

    @property
    def noise(self) -> Noise:
        return LaplaceFlow(sigma=self.sigma)

    def bound(self, votes: VoteBounds, x: Tensor, r: float) -> Float[Tensor, " n"]:
        link = laplace_quantile if self.tight else torch.log
        radius = self.sigma / math.sqrt(8) * (link(votes.lower) - link(votes.upper))
        return radius * ROUND_DOWN / 2 ** (1 - 1 / r)


def laplace_quantile(v: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Quantile of the Laplace law of scale one; its values bound the shift of votes in steps of the scale."""
    return torch.where(v < 0.5, (2 * v).log(), -(2 * (1 - v)).log())
