"""Certificates under re-weighting threats: what no law in a divergence ball can go below, or exceed in expected loss.

Problem: bounds over all laws Q with `inf D(w) + E[w c] <= radius` (`threats.DivergenceBall`). For every price lam > 0

    sup E_Q[loss] <= lam radius + lam Lambda(U / lam)      whenever  U_i >= sup_z loss(z, y_i) - lam c(x_i, z),

Lambda the conjugate of the divergence, itself evaluated as a dual in one shift, so that no search need be exact.
1. Accuracy: `c_i >= least(l_i)` for a proved radius l_i makes U_i = (1 - lam c_i)_+: the tilted knapsack's bound.
2. Loss: U from bounds of the growth functions (`growth`).
3. The true law: with probability 1 - eta the distribution function of the true flip costs is below the samples' own plus
   the margin of `curves.Population`, for all costs at once (one-sided DKW-Massart), and the worst error only depends on,
   and never falls with, that function. So the bound of the law "margin at cost 0, as much taken from the dearest" holds.
   Differs from our notes: valid for every divergence, and at least as good for KL, where they only subtract one a sample.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from wassertight.certificates.curves import Population
from wassertight.certificates.growth import GrowthBound, lowest
from wassertight.inputs import check_weights
from wassertight.threats import DivergenceBall, ThreatModel
from wassertight.transport import FlipDistances, HardBall, SoftBall, dual_slack, worst_error
from wassertight.types import InputError

_SLACK = 1e-9


def proved_accuracy(radii: FlipDistances, threat: ThreatModel) -> float:
    """Certified accuracy of a threat from proved radii: the knapsack of W_p balls, or the tilted one with its slack."""
    if not isinstance(threat, DivergenceBall):
        return radii.accuracy(threat.order, threat.radius)
    found = worst_error(threat.flip_costs(radii), threat.radius, threat.divergence, radii.weights)
    return max(0.0, 1 - found.bound)


def population_accuracy(
    costs: Float[Tensor, " n"], ball: DivergenceBall, population: Population, side: Literal["certified", "attacked"]
) -> float:
    """Worst-case accuracy around the true law, from flip costs (n,) of equally weighted samples, with the confidence.

    >>> from wassertight.transport import KL, HardBall
    >>> ball = DivergenceBall(radius=0.01, divergence=KL, transport=HardBall(reach=0.1, r=2.0))
    >>> costs = torch.tensor([0.0] * 100 + [torch.inf] * 900).double()
    >>> round(population_accuracy(costs, ball, Population(), "certified"), 3)
    0.81
    """
    n, margin = len(costs), population.margin(len(costs))
    order = costs.to(torch.float64).sort(descending=side == "certified").values
    taken = torch.full((n,), 1 / n, dtype=torch.float64, device=costs.device)
    kept = taken - (margin - (taken.cumsum(0) - taken)).clamp(0.0, 1.0).minimum(taken)
    extra = torch.tensor([0.0 if side == "certified" else math.inf], dtype=torch.float64, device=costs.device)
    mass = torch.cat((kept, (1 - kept.sum()).clamp_min(0.0).reshape(1)))
    found = worst_error(torch.cat((order, extra)), ball.radius, ball.divergence, mass)
    return max(0.0, 1 - found.bound) if side == "certified" else min(1.0, 1 - found.value)


def reweighted_loss(growth: GrowthBound, ball: DivergenceBall, weights: Tensor | None = None) -> tuple[float, float]:
    """A proved bound of the worst-case expected loss over the ball, and the price lam it is proved with.

    Args:
        growth: bounds of the growth functions of the ball's ground norm.
        weights: sample masses, or None for 1/n.

    Returns:
        inf where nothing is proved; price 0 stands for the largest loss anywhere.
    """
    mu = check_weights(weights, len(growth.radii)).to(growth.values)
    if ball.radius == 0:
        still = _penalised(growth, ball, math.inf)
        value = float((mu * still).sum())
        return value + _SLACK * (1 + abs(value)), math.inf

    def dual(lam: float) -> float:
        upper = _penalised(growth, ball, lam)
        if bool(upper[mu > 0].isinf().any()):
            return math.inf
        value = lam * (ball.radius + ball.divergence.conjugate(upper / lam, mu))
        return float(value + dual_slack(ball.divergence, value, value.new_tensor(lam)))

    if isinstance(ball.transport, HardBall):
        whole = float(growth.at(ball.transport.reach)[mu > 0].max())
    else:
        whole = float(growth.starts[:, -1][mu > 0].max()) if bool((growth.tail == 0).all()) else math.inf
    spread = float((growth.starts[:, -1] - growth.values[:, 0]).abs().max()) + float(
        growth.values[:, 0].std(correction=0)
    )
    centre = math.log(max(spread, 1e-12) / (1 + math.sqrt(2 * ball.radius)))
    found = [*lowest(dual, centre - 30.0, centre + 30.0), (whole + _SLACK * (1 + abs(whole)), 0.0)]
    if ball.p == 1:  # below the steepest tail the dual is infinite, and there it often has its minimum
        steepest = float(growth.tail.max()) / float(ball.transport.least(mu.new_ones(1)))
        if 0 < steepest < math.inf:
            found.append((dual(steepest), steepest))
    return min(found)


def _penalised(growth: GrowthBound, ball: DivergenceBall, lam: float) -> Tensor:
    """Upper bounds of `sup_z loss - lam c`, (n,)."""
    cost = ball.transport
    if isinstance(cost, SoftBall):
        if math.isinf(lam):
            return growth.at(cost.reach)
        if not bool((growth.tail == 0).all()):
            raise InputError("a soft ball is certified where the last ball of the growth bound covers the whole box")
        start, end, base = growth.radii[:, :-1], growth.radii[:, 1:], growth.starts
        far = torch.minimum(torch.maximum(cost.reach + growth.slopes * cost.tau / lam, start), end)
        rise = torch.where(far > start, growth.slopes * (far - start), 0.0)
        line = base[:, :-1] + rise - lam * _least(cost, far)
        found = torch.minimum(line.nan_to_num(nan=math.inf), base[:, 1:] - lam * _least(cost, start))
        return torch.maximum(base[:, 0], found.amax(1))
    if math.isinf(cost.p):
        return growth.at(ball.contained.radius)
    if math.isinf(lam):
        return growth.values[:, 0]
    return growth.penalised(lam * float(cost.least(growth.radii.new_ones(1))), cost.p, 1.0)


def _least(cost: SoftBall, t: Tensor) -> Tensor:
    return cost.least(t.flatten()).view_as(t)
