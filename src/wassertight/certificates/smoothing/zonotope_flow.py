"""Uniform noise on the flow zonotope: better than Gaussian noise while votes are below about 0.88."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from wassertight.certificates.smoothing.estimation import VoteBounds
from wassertight.certificates.smoothing.smoothed import Smoothing
from wassertight.transport.flow_noise import Noise
from wassertight.transport.flows import ROUNDING, flow_grid, pair_distances
from wassertight.transport.zonotope import ZonotopeFlow

_ENERGY = 1.0973
"""Half width over sigma at which the noise has the energy of Gaussian flow noise on 28 x 28 pixels."""


@dataclass(frozen=True, kw_only=True)
class ZonotopeFlowSmoothing(Smoothing):
    """Certify against moving light by noise that is uniform on `lam D diag(c) [-1, 1]^E`, lam = 1.0973 sigma.

    Moving light s from pixel i to j takes a share of at most `s R(i, j) / (2 lam)` out of the zonotope, so that

        rho = lam (v - v_B) min over i != j of d(i, j) / R(i, j).

    Reference: wasserstein_smoothing.md 6, ours. Sampling walks until a spanning tree is found: slow, see `ZonotopeFlow`.
    """

    name: ClassVar[str] = "zonotope-flow"

    @property
    def noise(self) -> Noise:
        return ZonotopeFlow(half_width=_ENERGY * self.sigma)

    def bound(self, votes: VoteBounds, x: Tensor, r: float) -> Float[Tensor, " n"]:
        return _ENERGY * self.sigma * (votes.lower - votes.upper) * least_ratio(x.shape[-2], x.shape[-1], r)


@functools.lru_cache(maxsize=16)
def least_ratio(h: int, w: int, r: float) -> float:
    """`min d_r(i, j) / R(i, j)` over all pairs of pixels, rounded down."""
    grid = flow_grid(h, w)
    if r == 1:
        return (1 - ROUNDING) / grid.resistance
    return (1 - ROUNDING) * float((pair_distances(h, w, r) / grid.pair_resistances()).nan_to_num(float("inf")).min())
