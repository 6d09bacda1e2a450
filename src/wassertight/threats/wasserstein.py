"""The W_p ball over the data: samples share one budget `mean of ||z - x||_r ** p <= radius ** p`."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from wassertight.geometry import conjugate, dual_direction, norm, norm_name, project_ball, project_box, sample_ball
from wassertight.geometry.norms import per_sample
from wassertight.threats.base import check_ball, threat_name
from wassertight.threats.pointwise import PointwiseBall
from wassertight.transport import mean_cost, sample_distances
from wassertight.types import Bounds, ThreatError


@dataclass(frozen=True, kw_only=True)
class WassersteinBall:
    """All laws within W_p distance `radius` of the data, ground norm l_r, labels fixed.

    Args:
        radius: in the inputs' units, >= 0 (0 = clean).
        p: Wasserstein order, >= 1 or inf (inf is the pointwise threat).
        r: order of the ground norm.
        bounds: box of admissible inputs, or None for the whole space.
        projection: "scaling" shrinks all displacements by one factor, as the published W-PGD does (2306.09844;
            for r = inf it clamps each displacement to the factor times its own norm); "euclidean" is the exact
            metric projection, offered for r = 2.

    Global quantities are sums over the samples of one call, weighted by `weights` (1/n by default).

    >>> ball = WassersteinBall(radius=0.5, p=2, r=2)
    >>> moved = ball.project(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.zeros(2, 2))
    >>> round(ball.spent(moved, torch.zeros(2, 2)), 6)
    0.5
    """

    radius: float
    p: float
    r: float
    bounds: Bounds = (0.0, 1.0)
    projection: Literal["scaling", "euclidean"] = "scaling"

    def __post_init__(self) -> None:
        check_ball(self.radius, self.p, self.r, self.bounds)
        if self.projection not in ("scaling", "euclidean"):
            raise ThreatError(f"projection must be 'scaling' or 'euclidean', got {self.projection!r}")
        if self.projection == "euclidean" and self.r != 2 and not math.isinf(self.p):
            raise ThreatError(f"the euclidean projection onto a W_p ball is offered for L2 only, got r = {self.r}")

    @property
    def order(self) -> float:
        return self.p

    @property
    def ground(self) -> str:
        return norm_name(self.r)

    @property
    def name(self) -> str:
        return threat_name(self.radius, self.p, self.r)

    @property
    def pointwise(self) -> PointwiseBall:
        """The pointwise ball of the same radius."""
        return PointwiseBall(radius=self.radius, r=self.r, bounds=self.bounds)

    def cost(self, z: Tensor, x: Tensor) -> Float[Tensor, " n"]:
        """`||z_i - x_i||_r` in float64."""
        return sample_distances(z, x, self.r)

    def spent(self, z: Tensor, x: Tensor, weights: Tensor | None = None) -> float:
        """`(mean ||z - x||_r ** p) ** (1/p)`: the budget one atom a sample uses."""
        return mean_cost(self.cost(z, x), _mass(weights, x), self.p)

    def steepest(self, g: Tensor, weights: Tensor | None = None) -> Tensor:
        """First-order optimal displacement of unit W_p length: `M_r(g_i) ||g_i||_s**(q-1) / (mean ||g||_s**q)**(1/p)`.

        2306.09844 theorem 4.1. Raises ThreatError for p = 1, where the whole budget would go to one sample.
        """
        if math.isinf(self.p):
            return self.pointwise.steepest(g)
        if self.p == 1:
            raise ThreatError(
                "W_1 has no useful steepest direction for a batch: all budget goes to the sample of largest gradient; "
                "use the WDA++ attack (method 'wda++'), which buys whole flips instead"
            )
        q = conjugate(self.p)
        size = norm(g, conjugate(self.r), dtype=torch.float64)
        top = size.max().clamp_min(torch.finfo(torch.float64).tiny)
        share = size / top
        length = share ** (q - 1) / (_mass(weights, g) * share**q).sum().clamp_min(1e-300) ** (1 / self.p)
        return dual_direction(g, self.r) * per_sample(length, g)

    def project(self, z: Tensor, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """A point of the ball and the box, by the named projection; the box comes last and only shortens."""
        if math.isinf(self.p):
            return self.pointwise.project(z, x)
        d = z - x
        if self.projection == "euclidean":
            d = self._shrink(d, _mass(weights, x))
        else:
            size = norm(d, self.r, dtype=torch.float64)
            length = mean_cost(size, _mass(weights, x), self.p)
            factor = min(1.0, self.radius / length) if length > 0 else 1.0
            d = project_ball(d, factor * size, self.r) if math.isinf(self.r) else d * factor
        return project_box(x + d, self.bounds)

    def sample(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Every sample uniform in the pointwise ball of the radius, clipped to the box: inside the W_p ball."""
        return project_box(x + sample_ball(x, self.radius, self.r, generator), self.bounds)

    def linear_oracle(self, g: Tensor, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """x plus the radius times the steepest displacement."""
        return x + self.radius * self.steepest(g, weights)

    def with_radius(self, radius: float) -> WassersteinBall:
        return replace(self, radius=radius)

    def _shrink(self, d: Tensor, mass: Tensor) -> Tensor:
        """Projection for r = 2: norms rho become rho' with `rho' + theta p rho'**(p-1) = rho`; bisection on theta."""
        rho = norm(d, 2.0, dtype=torch.float64)
        if mean_cost(rho, mass, self.p) <= self.radius or self.radius == 0:
            return d if self.radius > 0 else torch.zeros_like(d)
        low, high = 0.0, 1.0
        while mean_cost(_shrunk_norms(rho, high, self.p), mass, self.p) > self.radius:
            high *= 2
        for _ in range(80):
            middle = (low + high) / 2
            if mean_cost(_shrunk_norms(rho, middle, self.p), mass, self.p) > self.radius:
                low = middle
            else:
                high = middle
        return d * per_sample(_shrunk_norms(rho, high, self.p) / rho.clamp_min(1e-300), d)


def _shrunk_norms(rho: Tensor, theta: float, p: float) -> Tensor:
    """Solve `s + theta p s**(p-1) = rho` for s in [0, rho], one number a sample."""
    if p == 1:
        return (rho - theta).clamp_min(0)
    if p == 2:
        return rho / (1 + 2 * theta)
    low, high = torch.zeros_like(rho), rho.clone()
    for _ in range(80):
        middle = (low + high) / 2
        above = middle + theta * p * middle ** (p - 1) > rho
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return low


def _mass(weights: Tensor | None, x: Tensor) -> Tensor:
    if weights is None:
        return torch.full((len(x),), 1 / len(x), dtype=torch.float64, device=x.device)
    return weights.to(device=x.device, dtype=torch.float64)
