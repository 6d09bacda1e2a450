"""Re-weighting and transport out of one budget: the exact worst case over a table of candidates, and of the 0-1 loss.

Problem: `max E[w l]` subject to `D(w) + E[w c] <= radius`, where every sample chooses (or mixes) among candidates k of
loss `L_ik` at the transport cost `c_ik`. The Lagrangian maximises over candidates first and over weights then:

    inf over lam > 0 of  lam radius + lam Lambda(phi(lam) / lam),    phi_i(lam) = max_k L_ik - lam c_ik,

Lambda the conjugate of D (2309.03791; proofs in our notes). Spent budget falls as lam rises, with jumps where a sample is
indifferent between two candidates: lam is bisected, and at a jump the indifferent samples are filled in index order, the
last one by a fraction. With candidates {stay, flip} and the 0-1 loss this is the tilted knapsack: for KL, `T = 1 / lam`,
`worst error = inf over T of (radius + log E exp((T - c)_+)) / T`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wassertight.transport.tilting import moment_divergence, tilted
from wassertight.transport.weighting import Divergence, Ending, gaps_below, worst_weights
from wassertight.types import InputError

_SLACK = 1e-9
"""Outward slack of a bound, relative to its size: the dual is evaluated in float64."""
_HALVINGS, _DOUBLINGS = 50, 12


@dataclass(frozen=True, kw_only=True)
class JointAllocation:
    """How one budget is spent on weights and moves.

    Attributes:
        value: worst mean reached, by the density and choices below.
        bound: proved: no law in the ball over these candidates (or cheaper, less harmful ones) gives more.
        density: w, (n,) float64; masses are `mu * w`.
        lower, upper: candidate of each sample, and the one the share of its mass goes to, (n,); equal but for ties.
        share: (n,) float64, strictly between 0 and 1 for at most one sample.
        price: lam, gain a unit of radius; 0 where the radius is not used up.
        spent_divergence, spent_transport: the two parts of the budget, together at most the radius.
        ending: how the solve ended.
    """

    value: float
    bound: float
    density: Float[Tensor, " n"] = field(repr=False)
    lower: Int[Tensor, " n"] = field(repr=False)
    upper: Int[Tensor, " n"] = field(repr=False)
    share: Float[Tensor, " n"] = field(repr=False)
    price: float
    spent_divergence: float
    spent_transport: float
    ending: Ending

    @property
    def effective(self) -> float:
        """Share of samples that carry the mean, `1 / E[w**2]` with equal masses."""
        return float(1 / (self.density**2).mean())


@dataclass(frozen=True, kw_only=True)
class _Solved:
    """The same for several radii at once, (m, ...)."""

    density: Tensor
    lower: Tensor
    upper: Tensor
    share: Tensor
    price: Tensor
    bound: Tensor
    ending: Tensor


@dataclass(frozen=True)
class _At:
    """The best answer to prices lam (m, 1)."""

    density: Tensor
    choice: Tensor
    cost: Tensor
    divergence: Tensor
    bound: Tensor

    @property
    def spent(self) -> Tensor:
        return self.divergence + self.cost


def allocate_jointly(
    losses: Float[Tensor, "n k"],
    costs: Float[Tensor, "n k"],
    radius: float,
    divergence: Divergence,
    weights: Tensor | None = None,
) -> JointAllocation:
    """The exact worst case over a table of candidates.

    Args:
        losses: finite, (n, k).
        costs: >= 0, (n, k), inf switches a candidate off; the first column is 0 (the sample itself).
        radius: budget of divergence and transport together, >= 0.
        divergence: KL, AlphaDivergence or Renyi.
        weights: sample masses, or None for 1/n.

    Raises:
        InputError: a table without a free candidate, whose dual would be unbounded, or values that cannot be used.

    >>> from wassertight.transport.divergences import KL
    >>> table = torch.tensor([[0.0, 1.0], [0.0, 1.0]]), torch.tensor([[0.0, 0.1], [0.0, 0.5]])
    >>> found = allocate_jointly(*table, 0.1, KL)
    >>> round(found.value, 3), round(found.spent_divergence + found.spent_transport, 9)
    (0.658, 0.1)
    """
    loss, cost = losses.detach().to(torch.float64), costs.detach().to(torch.float64)
    mu = _checked(loss, cost, weights)
    limit = torch.tensor([[radius]], dtype=torch.float64, device=loss.device)
    found = _solve(loss, cost, limit, divergence, mu)
    low, high = found.lower[0], found.upper[0]
    w, share = found.density[0], found.share[0]
    mass = mu * w
    value = (1 - share) * _pick(loss, low) + share * _pick(loss, high)
    moved = (1 - share) * _pick(cost, low) + torch.where(share > 0, share * _pick(cost, high), 0.0)
    return JointAllocation(
        value=float((mass * value).sum()), bound=float(found.bound[0]), density=w, lower=low, upper=high, share=share,
        price=float(found.price[0]), spent_divergence=float(divergence.value(w, mu)),
        spent_transport=float((mass * moved).sum()), ending=Ending(int(found.ending[0])),
    )  # fmt: skip


def joint_curve(
    losses: Float[Tensor, "n k"],
    costs: Float[Tensor, "n k"],
    radii: Tensor,
    divergence: Divergence,
    weights: Tensor | None = None,
) -> tuple[Float[Tensor, " m"], Float[Tensor, " m"]]:
    """Values reached and proved bounds at many radii, solved together."""
    loss, cost = losses.detach().to(torch.float64), costs.detach().to(torch.float64)
    mu = _checked(loss, cost, weights)
    found = _solve(loss, cost, radii.to(loss)[:, None], divergence, mu)
    reached = (1 - found.share) * _pick(loss, found.lower) + found.share * _pick(loss, found.upper)
    return (mu * found.density * reached).sum(1), found.bound


def flip_table(costs: Float[Tensor, " n"]) -> tuple[Float[Tensor, "n 2"], Float[Tensor, "n 2"]]:
    """Losses and costs of the candidates {stay, flip}: 0-1 loss, flip costs (n,), 0 if already wrong, inf if none."""
    flip = costs.detach().to(torch.float64)
    stay = torch.zeros_like(flip)
    return torch.stack((stay, torch.ones_like(flip)), 1), torch.stack((stay, flip), 1)


def worst_error(
    costs: Float[Tensor, " n"], radius: float, divergence: Divergence, weights: Tensor | None = None
) -> JointAllocation:
    """The tilted knapsack: worst error over the ball, from the cost of every sample's cheapest flip.

    Costs from an attack make `value` an error that is reached, costs from a certificate make `bound` a proved one.

    Args:
        costs: (n,), 0 if already wrong, inf if no flip is known (attack) or possible (certificate).

    >>> from wassertight.transport.divergences import KL
    >>> hard = torch.tensor([0.0, torch.inf, torch.inf, torch.inf], dtype=torch.float64)
    >>> round(worst_error(hard, 0.1, KL).value, 4)  # the v > 1/4 whose relative entropy from 1/4 is 0.1
    0.4602
    """
    return allocate_jointly(*flip_table(costs), radius, divergence, weights)


def _checked(loss: Tensor, cost: Tensor, weights: Tensor | None) -> Tensor:
    if loss.shape != cost.shape or loss.ndim != 2 or loss.numel() == 0:
        raise InputError(f"losses and costs must share a shape (n, k), got {tuple(loss.shape)} and {tuple(cost.shape)}")
    if not torch.isfinite(loss).all() or bool(cost.isnan().any()) or bool((cost < 0).any()):
        raise InputError("losses must be finite and costs numbers >= 0 (inf = not allowed)")
    if bool((cost[:, 0] != 0).any()):
        raise InputError(
            "the first candidate of every sample must be free (the sample itself); the dual is unbounded else"
        )
    if weights is None:
        return torch.full((len(loss),), 1 / len(loss), dtype=torch.float64, device=loss.device)
    return weights.to(loss) / weights.to(loss).sum()


def _solve(loss: Tensor, cost: Tensor, limit: Tensor, divergence: Divergence, mu: Tensor) -> _Solved:
    """Radii (m, 1) against one table; the ends of the bracket of lam give both choices of indifferent samples."""
    if bool((limit < 0).any()) or bool(limit.isnan().any()):
        raise InputError("the radius of a divergence ball must be a number >= 0")
    free, at_free = torch.where(cost == 0, loss, -math.inf).max(1)
    reach = torch.where(cost.isfinite(), loss, -math.inf).amax(1)
    m, n = len(limit), len(loss)
    if bool((mu * (reach - free)).sum() == 0):  # nothing to be bought: weights alone
        found = worst_weights(divergence, free.expand(m, n), limit[:, 0], mu)
        lam = torch.where(found.price.isfinite(), found.price, 0.0)[:, None]
        safe = lam.clamp_min(1e-300)
        dual = lam[:, 0] * limit[:, 0] + lam[:, 0] * divergence.conjugate(free / safe, mu.expand(m, n))
        bound = torch.where(lam[:, 0] > 0, dual, found.value)
        choice = at_free.expand(m, n)
        return _Solved(
            density=found.density, lower=choice, upper=choice, share=torch.zeros_like(found.density),
            price=found.price, bound=_outward(bound), ending=found.ending,
        )  # fmt: skip
    full = _everything(loss, cost, divergence, mu)
    low, high = _bracket(loss, cost, limit, divergence, mu)
    for _ in range(_HALVINGS):
        middle = (low * high).sqrt()
        over = _answer(middle, loss, cost, divergence, mu, limit).spent > limit
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    cheap, dear = (_answer(lam, loss, cost, divergence, mu, limit) for lam in (low, high))
    mass = mu * dear.density
    step = torch.where(cheap.choice != dear.choice, _pick(cost, cheap.choice) - _pick(cost, dear.choice), 0.0)
    price = mass * step.clamp_min(0.0)
    left = (limit - dear.spent).clamp_min(0.0) - (price.cumsum(1) - price)
    share = torch.where(price > 0, (left / price.clamp_min(1e-300)).clamp(0.0, 1.0), 0.0)
    bound = torch.minimum(cheap.bound, dear.bound)
    slack = (full.spent <= limit) & (limit > 0)
    none = limit == 0
    ending = torch.where(none, Ending.RADIUS_ZERO, torch.where(slack, Ending.SATURATED, Ending.SOLVED))
    lower = torch.where(slack, full.choice, torch.where(none, at_free, dear.choice))
    return _Solved(
        density=torch.where(slack, full.density, torch.where(none, torch.ones_like(mass), dear.density)),
        lower=lower,
        upper=torch.where(slack | none, lower, cheap.choice),
        share=torch.where(slack | none, 0.0, share),
        price=torch.where(slack, 0.0, torch.where(none, math.inf, high)).squeeze(1),
        bound=_outward(torch.where(slack, full.bound, torch.where(none, (mu * free).sum(), bound)).squeeze(1)),
        ending=ending.squeeze(1),
    )


def _answer(lam: Tensor, loss: Tensor, cost: Tensor, divergence: Divergence, mu: Tensor, limit: Tensor) -> _At:
    """Candidates and weights that answer a price, what they spend, and the dual value there."""
    value, choice = (loss[None] / lam[..., None] - cost[None]).max(2)
    top, gaps, mass = gaps_below(value, mu)
    return _weigh(top, gaps, mass, choice, lam, cost, divergence, limit)


def _weigh(
    top: Tensor, gaps: Tensor, mass: Tensor, choice: Tensor, lam: Tensor, cost: Tensor, divergence: Divergence, limit: Tensor
) -> _At:  # fmt: skip
    at = tilted(gaps, divergence.tilt(gaps, mass), divergence.moment, mass)
    spent = divergence.spend(moment_divergence(at.density, at.excess, divergence.moment, mass))
    moved = (mass * torch.where(at.density > 0, at.density * _pick(cost, choice), 0.0)).sum(1, keepdim=True)
    conjugate = divergence.conjugate(top - gaps, mass)[:, None]
    return _At(at.density, choice, moved, spent, lam * limit + lam * conjugate)


def _everything(loss: Tensor, cost: Tensor, divergence: Divergence, mu: Tensor) -> _At:
    """All mass at the largest loss, as cheaply as it goes: the limit lam -> 0. Spends inf where that is impossible."""
    top = torch.where((mu[:, None] > 0) & cost.isfinite(), loss, -math.inf).max()
    least, choice = torch.where(loss == top, cost, math.inf).min(1)
    gaps = torch.where(mu > 0, least - torch.where(mu > 0, least, math.inf).min(), 0.0)[None]
    mass = mu[None]
    if divergence.moment <= 0 and bool(gaps.isinf().any()):
        infinite = torch.full((1, 1), math.inf, dtype=loss.dtype, device=loss.device)
        return _At(torch.ones_like(mass), choice[None], infinite, infinite, top.expand(1, 1))
    at = tilted(gaps, divergence.tilt(gaps, mass), divergence.moment, mass)
    spent = divergence.spend(moment_divergence(at.density, at.excess, divergence.moment, mass))
    moved = (mass * torch.where(at.density > 0, at.density * least, 0.0)).sum(1, keepdim=True)
    return _At(at.density, choice[None], moved, spent, top.expand(1, 1))


def _bracket(loss: Tensor, cost: Tensor, limit: Tensor, divergence: Divergence, mu: Tensor) -> tuple[Tensor, Tensor]:
    """Prices that spend too much and not too much (the former only where the radius is not slack)."""
    spread = torch.where(cost.isfinite(), loss, -math.inf).max() - loss[:, 0].min()
    start = spread / (1 + (2 * limit).sqrt())
    low, high = start.clone(), start.clone()
    for factor, outer in ((0.5, low), (2.0, high)):
        step = factor
        for _ in range(_DOUBLINGS):
            over = _answer(outer, loss, cost, divergence, mu, limit).spent > limit
            wrong = ~over if factor < 1 else over
            if not bool(wrong.any()):
                break
            outer.copy_(torch.where(wrong, outer * step, outer))
            step = max(step * step, 1e-8) if factor < 1 else min(step * step, 1e8)
    return low, high


def _pick(table: Tensor, choice: Tensor) -> Tensor:
    """Entries (..., n) of a table (n, k) at choices (..., n)."""
    return table[torch.arange(len(table), device=table.device), choice]


def _outward(bound: Tensor) -> Tensor:
    return bound + _SLACK * (1 + bound.abs())
