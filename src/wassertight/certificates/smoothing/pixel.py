"""Baselines with noise on pixels instead of flows: Laplace, Gauss, uniform and splitting noise.

A move of cost W changes the shares of light by at most 2 W in the L1 and sqrt(2) W in the L2 norm, whatever the ground metric,
as long as different pixels are at least one step apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from wassertight.certificates.smoothing.estimation import VoteBounds
from wassertight.certificates.smoothing.gaussian_flow import quantile_shift
from wassertight.certificates.smoothing.laplace_flow import ROUND_DOWN, laplace_quantile
from wassertight.certificates.smoothing.smoothed import Smoothing
from wassertight.transport.flow_noise import GaussianPixels, LaplacePixels, Noise, SplittingPixels, UniformPixels, light


@dataclass(frozen=True, kw_only=True)
class LaplacePixelSmoothing(Smoothing):
    """Certify against moving light by Laplace noise on pixels: half of the L1 radius.

    With b = sigma / sqrt(2): `rho = (b / 4) (q(v) - q(v_B))`, q the Laplace quantile, or the published
    `(b / 4) log(v / v_B)` (1910.10783, its baseline).

    Args:
        tight: False: the published form.
    """

    name: ClassVar[str] = "pixel-laplace"
    tight: bool = True

    @property
    def noise(self) -> Noise:
        return LaplacePixels(sigma=self.sigma)

    def bound(self, votes: VoteBounds, x: Tensor, r: float) -> Float[Tensor, " n"]:
        link = laplace_quantile if self.tight else torch.log
        return self.sigma / math.sqrt(32) * (link(votes.lower) - link(votes.upper)) * ROUND_DOWN


@dataclass(frozen=True, kw_only=True)
class GaussianPixelSmoothing(Smoothing):
    """Certify against moving light by Gaussian noise on pixels: `rho = sigma (Q(v) - Q(v_B)) / (2 sqrt(2))`.

    The honest baseline of flow noise: at equal energy its radius is the same for equal votes, but votes are worse, because
    low frequencies are noisy too. Reference: 1902.02918 theorem 1.
    """

    name: ClassVar[str] = "pixel-gauss"

    @property
    def noise(self) -> Noise:
        return GaussianPixels(sigma=self.sigma)

    def bound(self, votes: VoteBounds, x: Tensor, r: float) -> Float[Tensor, " n"]:
        return quantile_shift(votes, self.sigma) * self.kappa(x, r)

    def kappa(self, x: Tensor, r: float) -> float:
        return 1 / math.sqrt(2)


@dataclass(frozen=True, kw_only=True)
class UniformPixelSmoothing(Smoothing):
    """Certify against moving light by uniform noise on pixels: `rho = lam (v - v_B) / 2`, lam = sqrt(3) sigma (2002.08118)."""

    name: ClassVar[str] = "pixel-uniform"

    @property
    def noise(self) -> Noise:
        return UniformPixels(sigma=self.sigma)

    def bound(self, votes: VoteBounds, x: Tensor, r: float) -> Float[Tensor, " n"]:
        return math.sqrt(3) * self.sigma / 2 * (votes.lower - votes.upper) * ROUND_DOWN


@dataclass(frozen=True, kw_only=True)
class SplittingSmoothing(Smoothing):
    """Certify against moving light by splitting noise (SSN): the model sees which cell of a random grid a pixel is in.

    L1 radius `lam (v - v_B)` in the pixels' own units, lam = sqrt(3) sigma half the spacing, so in shares of light
    `rho = lam (v - v_B) / (2 S)`, S the image's light. Here sigma is in pixel units. Reference: 2103.10834 theorem 2.
    """

    name: ClassVar[str] = "pixel-splitting"
    sigma: float = 1.0

    @property
    def noise(self) -> Noise:
        return SplittingPixels(half_width=math.sqrt(3) * self.sigma)

    def bound(self, votes: VoteBounds, x: Tensor, r: float) -> Float[Tensor, " n"]:
        lam = math.sqrt(3) * self.sigma
        mass = light(x.to(torch.float64)).flatten().to(votes.lower)
        return lam / 2 * (votes.lower - votes.upper) / mass * ROUND_DOWN
