"""The worst weights of many lists of losses at once, for any divergence, with every degenerate case and its ending."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from wassertight.transport.tilting import moment_divergence, tilt_to_radius, tilted
from wassertight.types import InputError

_EQUAL = 1e-12
"""Losses that differ by less, relatively, are equal."""


@runtime_checkable
class Divergence(Protocol):
    """What re-weighting costs: a function of one moment `E[w**a]`."""

    @property
    def name(self) -> str: ...
    @property
    def moment(self) -> float:
        """Order a of the moment."""

    def budget(self, radius: Tensor) -> Tensor:
        """A radius in terms of `D_a`."""

    def spend(self, moment: Tensor) -> Tensor:
        """The divergence in terms of `D_a`."""

    def price(self, density: Tensor, log_mean: Tensor, t: Tensor, mu: Tensor) -> Tensor:
        """Gain a unit of radius at tilt t."""

    def value(self, density: Tensor, mu: Tensor | None = None) -> Tensor:
        """Divergence of densities (..., n) from one."""

    def tilt(self, gaps: Tensor, mu: Tensor) -> Tensor:
        """Tilt of the best density at price one."""

    def conjugate(self, g: Tensor, mu: Tensor | None = None) -> Tensor:
        """`sup over w of E[w g] - D(w)`, from above."""


class Ending(IntEnum):
    """How a solve ended; a slack or saturated radius is never reported as a solved one."""

    SOLVED = 0
    RADIUS_ZERO = 1
    EQUAL_LOSSES = 2
    SATURATED = 3


@dataclass(frozen=True, kw_only=True)
class WorstWeights:
    """Worst-case re-weighting of one or many lists of losses.

    Attributes:
        density: w, shape of the losses (..., n); the adversary's masses are `mu * w`.
        value: worst-case mean `E[w l]`, (...); its gradient in the losses is `mu * w` (envelope theorem).
        price: lam, the gain a unit of radius (...): inf at radius 0, 0 where the radius is not used up.
        spent: divergence of the density, at most the radius, (...).
        effective: `1 / E[w**2]`, the share of samples that carry the mean, (...).
        ending: an `Ending` a list, (...) int64.
        steps: evaluations of the curve.
    """

    density: Tensor = field(repr=False)
    value: Tensor
    price: Tensor
    spent: Tensor
    effective: Tensor
    ending: Tensor
    steps: int


def worst_weights(
    divergence: Divergence, losses: Tensor, radius: float | Tensor, mu: Tensor | None = None
) -> WorstWeights:
    """Maximise `E[w l]` over densities with `D(w) <= radius`, for many lists of losses at once.

    Args:
        losses: (..., n), finite; float64 arithmetic on their device. `value` is differentiable in them.
        radius: number >= 0, or a tensor (...) of them.
        mu: sample masses (n,) or (..., n), summing to one; 1/n by default. Samples of mass 0 are left out.

    Raises:
        InputError: for losses that are not finite (naming the first), or a radius that is no number >= 0.

    >>> from wassertight.transport.divergences import KL
    >>> found = worst_weights(KL, torch.tensor([1.0, 2.0, 3.0]), 0.0)
    >>> float(found.value), Ending(int(found.ending)).name
    (2.0, 'RADIUS_ZERO')
    """
    n = losses.shape[-1] if losses.ndim else 0
    bad = (~torch.isfinite(losses)).nonzero()
    if n == 0 or len(bad):
        where = f"not finite at index {tuple(bad[0].tolist())}" if len(bad) else f"of shape {tuple(losses.shape)}"
        raise InputError(f"losses must be a list of finite numbers, got one {where}")
    rows = losses.detach().to(torch.float64).reshape(-1, n)
    limit = torch.as_tensor(radius, dtype=torch.float64, device=rows.device).expand(losses.shape[:-1]).reshape(-1, 1)
    if bool((limit < 0).any()) or bool(limit.isnan().any()):
        raise InputError("the radius of a divergence ball must be a number >= 0")
    top, gaps, mass = gaps_below(rows, None if mu is None else mu.detach().to(rows).expand(losses.shape).reshape(-1, n))
    density, price, ending, steps = _solve(divergence, top, gaps, mass, limit)
    spent = divergence.spend(moment_divergence(density, density - 1, divergence.moment, mass))
    value = (mass.reshape(losses.shape) * density.reshape(losses.shape) * losses.to(torch.float64)).sum(-1)
    head = losses.shape[:-1]
    return WorstWeights(
        density=density.reshape(losses.shape), value=value, price=price.reshape(head), spent=spent.reshape(head),
        effective=(1 / (mass * density**2).sum(-1)).reshape(head), ending=ending.reshape(head), steps=steps,
    )  # fmt: skip


def weights_at_price(divergence: Divergence, losses: Tensor, lam: float, mu: Tensor | None = None) -> Tensor:
    """Density (..., n) that maximises `E[w l] - lam D(w)`, lam > 0.

    >>> from wassertight.transport.divergences import KL
    >>> weights_at_price(KL, torch.tensor([0.0, math.log(3.0)]), 1.0).tolist()
    [0.5..., 1.5...]
    """
    if not lam > 0:
        raise InputError(f"the price must be > 0, got {lam}")
    _, gaps, mass = gaps_below(losses.detach() / lam, mu)
    return tilted(gaps, divergence.tilt(gaps, mass), divergence.moment, mass).density


def _solve(
    divergence: Divergence, top: Tensor, gaps: Tensor, mass: Tensor, limit: Tensor
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Density (rows, n), price (rows, 1), ending (rows, 1) and evaluations."""
    order, budget = divergence.moment, divergence.budget(limit)
    first = (gaps == 0) & (mass > 0)
    share = (mass * first).sum(-1, keepdim=True)
    peak = torch.where(first, 1 / share, 0.0)
    full = moment_divergence(peak, peak - 1, order, mass)
    ending = torch.full_like(limit, Ending.SOLVED, dtype=torch.int64)
    ending = torch.where(budget >= full, Ending.SATURATED, ending)
    ending = torch.where(gaps.amax(-1, keepdim=True) <= _EQUAL * top.abs().clamp_min(1.0), Ending.EQUAL_LOSSES, ending)
    ending = torch.where(limit == 0, Ending.RADIUS_ZERO, ending)
    density = torch.where(ending == Ending.SATURATED, peak, 1.0)
    price = torch.where(ending == Ending.RADIUS_ZERO, math.inf, 0.0).to(limit)
    rows, steps = (ending == Ending.SOLVED).squeeze(-1).nonzero().squeeze(-1), 0
    if len(rows):
        inner = (gaps[rows], mass[rows] if len(mass) > 1 else mass)
        t, steps = tilt_to_radius(inner[0], budget[rows].clamp_max(1e300), order, inner[1])
        at = tilted(inner[0], t, order, inner[1])
        # inside whatever the last rounding did: the divergence is convex, so mixing with w = 1 cannot leave the ball
        over = moment_divergence(at.density, at.excess, order, inner[1])
        mixed = (1 - budget[rows] / over.clamp_min(1e-300)).clamp_min(0.0)
        density[rows] = (1 - mixed) * at.density + mixed
        price[rows] = divergence.price(at.density, at.log_mean, t, inner[1])
    return density, price, ending, steps


def gaps_below(g: Tensor, mu: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Largest entry of every row, gaps to it, and masses; samples of mass 0 count as if at the top."""
    g = g.to(torch.float64)
    mass = torch.full_like(g[..., :1], 1 / g.shape[-1]).expand(g.shape) if mu is None else mu.to(g).expand(g.shape)
    top = torch.where(mass > 0, g, -math.inf).amax(-1, keepdim=True)
    return top, torch.where(mass > 0, top - g, 0.0), mass
