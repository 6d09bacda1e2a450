"""Gaussian flow smoothing: one constant, the effective resistance, serves every ground metric between L1 and L2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from wassertight.certificates.smoothing.estimation import VoteBounds
from wassertight.certificates.smoothing.laplace_flow import ROUND_DOWN
from wassertight.certificates.smoothing.smoothed import Smoothing
from wassertight.transport.flow_noise import GaussianFlow, Noise
from wassertight.transport.flows import flow_grid
from wassertight.transport.mass_limits import limited_radius


@dataclass(frozen=True, kw_only=True)
class GaussianFlowSmoothing(Smoothing):
    """Certify against moving light by Gaussian noise on the flow of every edge.

    Problem: the largest rho such that the smoothed answer is the same for every z with W_p(x, z) < rho, p >= 1.
    Noise `D sqrt(c) sigma g` has covariance sigma**2 L_c, the weighted grid Laplacian. A move m shifts normal quantiles of
    probabilities by at most |m|_c / sigma, |m|_c**2 = m^T L_c^+ m, and splitting mass cannot raise this norm, so that
    |m|_c <= W_p / kappa with kappa = 1 / sqrt(largest effective resistance of an edge):

        rho = kappa sigma (Q(v) - Q(v_B)) / 2,  Q the normal quantile; kappa sigma Q(v) for v_B = 1 - v.

    `mass_limits` adds what the image itself allows: no pixel can give more light than it has.

    Args:
        weighted: edge weights that make all edges equally resistant (kappa 1.3896 instead of 1.1972 on 28 x 28).
        mass_limits: use the light each pixel has; needs pixels >= 0. Off for grids above 2500 pixels.

    Reference: wasserstein_smoothing.md theorem 2 and 4.2, ours; the noise on flows is that of 1910.10783.

    >>> smoothing = GaussianFlowSmoothing(sigma=0.01, n=10_000, alpha=0.05, mass_limits=False)
    >>> from wassertight.threats import threat
    >>> round(smoothing.reach(torch.ones(1, 1, 28, 28), threat("image-W1@0.01")), 4)
    0.0477
    """

    name: ClassVar[str] = "wasserstein-smoothing"
    weighted: bool = True
    mass_limits: bool = True

    @property
    def noise(self) -> Noise:
        return GaussianFlow(sigma=self.sigma, weighted=self.weighted)

    def bound(self, votes: VoteBounds, x: Tensor, r: float) -> Float[Tensor, " n"]:
        shift = quantile_shift(votes, self.sigma)
        radius = shift * self.kappa(x, r)
        grid = flow_grid(x.shape[-2], x.shape[-1], self.weighted)
        if not self.mass_limits or grid.inverse is None or not 1 <= r <= 2:
            return radius
        return torch.maximum(radius, limited_radius(x, shift.clamp_min(0), grid, r))

    def kappa(self, x: Tensor, r: float) -> float:
        return flow_grid(x.shape[-2], x.shape[-1], self.weighted).kappa(r)

    def assumptions(self) -> tuple[str, ...]:
        noise = "noise is drawn with the edge weights whose resistances were bounded, independently in every channel"
        return (noise, "no pixel of the unmoved image is negative") if self.mass_limits else (noise,)


def quantile_shift(votes: VoteBounds, sigma: float) -> Float[Tensor, " n"]:
    """The largest noise-weighted norm of a move that keeps the first class first: half the gap of normal quantiles."""
    gap: Tensor = torch.special.ndtri(votes.lower) - torch.special.ndtri(votes.upper)
    return gap * (sigma / 2 * ROUND_DOWN)
