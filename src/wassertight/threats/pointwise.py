"""The pointwise threat: every sample may move by the radius in an l_r norm, inside the box."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from wassertight.geometry import dual_direction, norm_name, project_ball, project_box, sample_ball
from wassertight.threats.base import check_ball, threat_name
from wassertight.transport import sample_distances
from wassertight.types import Bounds


@dataclass(frozen=True, kw_only=True)
class PointwiseBall:
    """`||z_i - x_i||_r <= radius` for every sample; the same as W_inf over the data.

    Args:
        radius: in the inputs' units, >= 0 (0 = clean).
        r: order of the ground norm, 1, 2 or inf (projections), any r >= 1 (directions).
        bounds: box of admissible inputs, or None for the whole space.

    >>> PointwiseBall(radius=8 / 255, r=float("inf")).name
    'Linf@0.0314'
    """

    radius: float
    r: float
    bounds: Bounds = (0.0, 1.0)

    def __post_init__(self) -> None:
        check_ball(self.radius, math.inf, self.r, self.bounds)

    @property
    def p(self) -> float:
        return math.inf

    @property
    def order(self) -> float:
        return math.inf

    @property
    def ground(self) -> str:
        return norm_name(self.r)

    @property
    def name(self) -> str:
        return threat_name(self.radius, self.p, self.r)

    def cost(self, z: Tensor, x: Tensor) -> Float[Tensor, " n"]:
        """`||z_i - x_i||_r` in float64."""
        return sample_distances(z, x, self.r)

    def steepest(self, g: Tensor, weights: Tensor | None = None) -> Tensor:
        """Unit step of each sample: sign(g) for r = inf, g / ||g||_2 for r = 2, one coordinate for r = 1."""
        return dual_direction(g, self.r)

    def project(self, z: Tensor, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """Exact projection onto the ball, then onto the box (which only shortens the displacement)."""
        return project_box(x + project_ball(z - x, self.radius, self.r), self.bounds)

    def sample(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Uniform in the ball, clipped to the box."""
        return project_box(x + sample_ball(x, self.radius, self.r, generator), self.bounds)

    def linear_oracle(self, g: Tensor, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """x plus the radius times the steepest unit step."""
        return x + self.radius * self.steepest(g)

    def with_radius(self, radius: float) -> PointwiseBall:
        return replace(self, radius=radius)
