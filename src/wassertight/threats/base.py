"""The questions algorithms ask a threat model."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from wassertight.geometry import norm_name
from wassertight.types import Bounds, ThreatError


@runtime_checkable
class ThreatModel(Protocol):
    """A ball of data laws the adversary may choose from. Inputs x and points z are batches (n, *features).

    For balls of a norm `order` is p: `p = inf` means that every sample has the whole radius to itself (the ordinary
    pointwise threat); for finite p the samples of one call share a budget `mean(d**p) <= radius**p`. For light moving
    inside images p belongs to the distance d itself, and `order` is a number of its own.
    """

    @property
    def radius(self) -> float: ...
    @property
    def p(self) -> float: ...
    @property
    def r(self) -> float: ...
    @property
    def order(self) -> float:
        """How samples share the budget: inf - each has the whole radius; finite - `mean(d**order) <= radius**order`."""

    @property
    def ground(self) -> str:
        """Name of the distance between samples: `Linf`, `image-W1`."""

    @property
    def bounds(self) -> Bounds: ...
    @property
    def name(self) -> str: ...

    def cost(self, z: Tensor, x: Tensor) -> Float[Tensor, " n"]:
        """Ground distance of each moved point, float64, in pixel units."""

    def steepest(self, g: Tensor, weights: Tensor | None = None) -> Tensor:
        """Displacement of unit size in the threat's own norm that gains most along the gradients g."""

    def project(self, z: Tensor, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """A point of the ball and the box near z."""

    def sample(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """A random point of the ball and the box."""

    def linear_oracle(self, g: Tensor, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """The point of the ball (box ignored) with the largest inner product with g."""

    def with_radius(self, radius: float) -> ThreatModel:
        """The same threat at another radius."""


def threat_name(radius: float, p: float, r: float) -> str:
    """Name as users write it, radius to three digits: `Linf@0.0314`, `W2-L2@0.5`."""
    prefix = "" if p == float("inf") else f"W{p:g}-"
    return f"{prefix}{norm_name(r)}@{radius:.3g}"


def check_ball(radius: float, p: float, r: float, bounds: Bounds) -> None:
    """Refuse parameters that are not a ball."""
    if not 0 <= radius < float("inf"):
        raise ThreatError(f"radius must be a finite number >= 0 (0 = clean), got {radius}")
    if not p >= 1:
        raise ThreatError(f"the Wasserstein order p must be a number >= 1 or inf, got {p}")
    if not r >= 1:
        raise ThreatError(f"the ground norm's order r must be a number >= 1 or inf, got {r}")
    if bounds is not None and not bounds[0] < bounds[1]:
        raise ThreatError(f"bounds must be (low, high) with low < high, or None, got {bounds}")
