"""What moving a sample costs when weights may change too: free inside a ball, a power of the distance, a soft ball."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from wassertight.geometry import norm, norm_name, project_ball
from wassertight.geometry.norms import per_sample
from wassertight.transport.costs import sample_distances
from wassertight.types import InputError


@dataclass(frozen=True, kw_only=True)
class HardBall:
    """`c = 0` where `||z - x||_r <= reach`, infinite elsewhere: the usual pointwise perturbation, free of charge.

    >>> HardBall(reach=0.5, r=2.0).least(torch.tensor([0.4, 0.6]).double()).tolist()
    [0.0, inf]
    """

    reach: float
    r: float

    def __post_init__(self) -> None:
        _check(self.r, reach=self.reach)

    @property
    def p(self) -> float:
        return math.inf

    def text(self, radius: float) -> tuple[str, tuple[float, ...]]:
        """Its part of a threat string: name, and the numbers after the divergence's radius."""
        return norm_name(self.r), (self.reach,)

    def cost(self, z: Tensor, x: Tensor) -> Float[Tensor, " n"]:
        """Price of every move, float64."""
        return _infinite(sample_distances(z, x, self.r) > self.reach)

    def least(self, distance: Float[Tensor, " n"], *, closed: bool = False) -> Float[Tensor, " n"]:
        """Smallest price of any point at l_r distance `distance` or more (beyond it where the ball was `closed`)."""
        beyond = distance >= self.reach if closed else distance > self.reach
        return _infinite(beyond & (distance > 0) | distance.isinf())

    def prox(self, d: Tensor, step: float) -> Tensor:
        """`argmin over u of step c(u) + ||u - d||**2 / 2`: the projection."""
        return project_ball(d, self.reach, self.r)


@dataclass(frozen=True, kw_only=True)
class PowerCost:
    """`c = price * ||z - x||_r ** p`.

    >>> PowerCost(price=2.0, p=2.0, r=2.0).least(torch.tensor([3.0]).double()).tolist()
    [18.0]
    """

    price: float
    p: float
    r: float

    def __post_init__(self) -> None:
        _check(self.r, price=self.price)
        if not 1 <= self.p < math.inf or not self.price > 0:
            raise InputError(f"a power cost needs price > 0 and 1 <= p < inf, got price = {self.price}, p = {self.p}")

    def text(self, radius: float) -> tuple[str, tuple[float, ...]]:
        """Its part of a threat string: the number is the W_p radius that the whole budget would pay for."""
        return f"W{in_full(self.p)}-{norm_name(self.r)}", ((radius / self.price) ** (1 / self.p),)

    def cost(self, z: Tensor, x: Tensor) -> Float[Tensor, " n"]:
        """Price of every move, float64."""
        return self.price * sample_distances(z, x, self.r) ** self.p

    def least(self, distance: Float[Tensor, " n"], *, closed: bool = False) -> Float[Tensor, " n"]:
        """Smallest price of any point at l_r distance `distance` or more."""
        return self.price * distance.to(torch.float64) ** self.p

    def prox(self, d: Tensor, step: float) -> Tensor:
        """`argmin over u of step c(u) + ||u - d||**2 / 2`, closed for r = 2 and p = 1 or 2.

        Raises:
            InputError: for other orders, which have no closed form.
        """
        if self.r != 2 or self.p not in (1, 2):
            raise InputError(f"the prox step is closed for r = 2 and p = 1 or 2, got r = {self.r}, p = {self.p}")
        if self.p == 2:
            return d / (1 + 2 * step * self.price)
        size = norm(d, 2.0).clamp_min(torch.finfo(d.dtype).tiny)
        return d * per_sample((1 - step * self.price / size).clamp_min(0.0), d)


@dataclass(frozen=True, kw_only=True)
class SoftBall:
    """`c = sum_j (|z_j - x_j| - reach)_+ ** 2 / (2 tau)`: free inside a box, a quadratic price outside (UDR's).

    >>> round(float(SoftBall(reach=0.1, tau=0.5).cost(torch.tensor([[0.3, 0.0]]), torch.zeros(1, 2))), 6)
    0.04
    """

    reach: float
    tau: float

    def __post_init__(self) -> None:
        _check(math.inf, reach=self.reach)
        if not 0 < self.tau < math.inf:
            raise InputError(f"a soft ball needs tau > 0, got {self.tau}")

    @property
    def r(self) -> float:
        return math.inf

    @property
    def p(self) -> float:
        return math.inf

    def text(self, radius: float) -> tuple[str, tuple[float, ...]]:
        """Its part of a threat string."""
        return "soft-Linf", (self.reach, self.tau)

    def cost(self, z: Tensor, x: Tensor) -> Float[Tensor, " n"]:
        """Price of every move, float64."""
        d = (z.detach().to(torch.float64) - x.detach().to(torch.float64)).flatten(1)
        return ((d.abs() - self.reach).clamp_min(0.0) ** 2).sum(1) / (2 * self.tau)

    def least(self, distance: Float[Tensor, " n"], *, closed: bool = False) -> Float[Tensor, " n"]:
        """Smallest price of any point at l_inf distance `distance` or more: one coordinate goes there."""
        return (distance.to(torch.float64) - self.reach).clamp_min(0.0) ** 2 / (2 * self.tau)

    def prox(self, d: Tensor, step: float) -> Tensor:
        """`argmin over u of step c(u) + ||u - d||**2 / 2`: what exceeds the reach is divided by `1 + step / tau`."""
        size = d.abs()
        return d.sign() * torch.minimum(size, self.reach + (size - self.reach).clamp_min(0.0) / (1 + step / self.tau))


MoveCost: TypeAlias = HardBall | PowerCost | SoftBall


def in_full(value: float) -> str:
    """A number with every digit it needs, as threat strings write it.

    >>> in_full(2.0), in_full(1 / 3), in_full(1e-5)
    ('2', '0.3333333333333333', '1e-05')
    """
    return repr(float(value)).removesuffix(".0")


def _infinite(where: Tensor) -> Tensor:
    return torch.zeros(where.shape, dtype=torch.float64, device=where.device).masked_fill(where, math.inf)


def _check(r: float, **amounts: float) -> None:
    if not r >= 1:
        raise InputError(f"the ground norm's order r must be a number >= 1 or inf, got {r}")
    for name, amount in amounts.items():
        if not 0 <= amount < math.inf:
            raise InputError(f"{name} must be a finite number >= 0, got {amount}")
