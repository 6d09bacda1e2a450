"""Problems over the plans of a budget: {Pi >= 0, rows sum to x, cost <= budget}; one multiplier an image solves each.

Budgets are in light times distance**p: `radius**p` times the light of the image. Reference: 2008.02883 (entropic oracle,
projection). Differs from the paper: 1. the linear problem is solved exactly, as a fractional knapsack over concave hulls;
2. targets outside the image are excluded, not priced at 1e6; 3. brackets and stops are per image and relative.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wassertight.transport.windows import LocalPlans

_CLOSE = 1e-7


@dataclass(frozen=True, kw_only=True, eq=False)
class Vertex:
    """A plan that sends each pixel's light to one place, but for one pixel an image, whose light is split.

    Attributes:
        offset: index of each bright pixel's target, (n, m).
        split: the split pixel's row (n,), its second target (n,) and the light that goes there (n,).
        cost: in light times distance**p, (n,), float64.
    """

    plans: LocalPlans
    offset: Int[Tensor, "n m"]
    split: Int[Tensor, " n"]
    second: Int[Tensor, " n"]
    light: Float[Tensor, " n"]
    cost: Float[Tensor, " n"]

    def image(self) -> Float[Tensor, "n c h w"]:
        """Column sums."""
        plans, row = self.plans, self.split[:, None]
        home = plans.base.gather(1, row)
        first = home + plans.shifts[self.offset.gather(1, row)]
        places = torch.cat((plans.base + plans.shifts[self.offset], first, home + plans.shifts[self.second[:, None]]), 1)
        return plans.scatter(places, torch.cat((plans.mass, -self.light[:, None], self.light[:, None]), 1))

    def add_to(self, plan: Float[Tensor, "n k m"], share: Float[Tensor, " n"]) -> None:
        """`plan += share * vertex`, in place."""
        m = plan.shape[2]
        part = share.to(plan.dtype)[:, None]
        plan.scatter_add_(1, self.offset[:, None, :], (part * self.plans.mass)[:, None, :])
        row = self.split[:, None]
        first = self.offset.gather(1, row) * m + row
        light = part * self.light[:, None]
        plan.view(len(plan), -1).scatter_add_(
            1, torch.cat((first, self.second[:, None] * m + row), 1), torch.cat((-light, light), 1)
        )


def exact_oracle(plans: LocalPlans, g: Float[Tensor, "n c h w"], budget: Float[Tensor, " n"]) -> Vertex:
    """The plan within the budget whose image has the largest inner product with g.

    `max sum_i x_i u_i(c_i)` with `sum_i x_i c_i <= budget`, u_i the concave hull of the best value g reaches at each
    distance from pixel i: hull segments are bought by slope, the last one in part. Exact, no iterations.
    """
    values = plans.pull(g, fill=-torch.inf)
    best = torch.stack([values[:, start:stop].amax(1) for start, stop in plans.classes], 1)
    prices = plans.costs[[start for start, _ in plans.classes]]
    path, slopes = _hulls(best, prices)
    lengths = (prices[path[:, 1:]] - prices[path[:, :-1]]) * plans.mass[:, None, :]
    n, steps, m = slopes.shape
    slope, order = slopes.flatten(1).sort(dim=1, descending=True, stable=True)
    paid = lengths.double().flatten(1).gather(1, order).cumsum(1)
    fits = (paid <= budget[:, None]) & (slope > 0)
    taken = torch.zeros_like(fits).scatter_(1, order, fits).view(n, steps, m)
    reached = path.gather(1, taken.sum(1, keepdim=True)).squeeze(1)
    count = fits.sum(1)
    last = count.clamp_max(steps * m - 1)[:, None]
    before = torch.where(count > 0, paid.gather(1, (count - 1).clamp_min(0)[:, None]).squeeze(1), 0.0)
    at = order.gather(1, last).squeeze(1)
    row, step = at % m, at // m
    partial = (count < steps * m) & (slope.gather(1, last).squeeze(1) > 0)
    rest = torch.where(partial, (budget - before).clamp_min(0), 0.0)
    images = torch.arange(n, device=g.device)
    there = path[images, torch.where(partial, step + 1, 0), row]
    here = reached[images, row]
    distance = (prices[there] - prices[here]).double()
    light = torch.where(partial & (distance > 0), rest / distance.clamp_min(1e-300), 0.0)
    light = torch.minimum(light, plans.mass[images, row].double())
    return Vertex(
        plans=plans,
        offset=_find(plans, values, best, reached),
        split=row,
        second=_find(plans, values[images, :, row, None], best[images, :, row, None], there[:, None]).squeeze(1),
        light=light.to(g.dtype),
        cost=before + light * distance,
    )


def _hulls(best: Tensor, prices: Tensor) -> tuple[Tensor, Tensor]:
    """Walk along the upper concave hull of (price, best): classes visited (n, D, m) and slopes (n, D - 1, m), 0 at the end."""
    n, count, m = best.shape
    here = torch.zeros(n, m, dtype=torch.long, device=best.device)
    value, price = best[:, 0], torch.zeros_like(best[:, 0])
    path, slopes = [here], []
    for step in range(1, count):
        steepest, there = torch.zeros_like(value), here
        for other in range(step, count):
            gap = prices[other] - price
            slope = torch.where(gap > 0, (best[:, other] - value) / gap.clamp_min(1e-12), -torch.inf)
            better = slope > steepest
            steepest = torch.where(better, slope, steepest)
            there = torch.where(better, other, there)
        here = there
        value, price = best.gather(1, here[:, None]).squeeze(1), prices[here]
        path.append(here)
        slopes.append(torch.minimum(steepest, slopes[-1]) if slopes else steepest)
    if not slopes:
        return torch.stack([here, here], 1), torch.zeros_like(best)
    return torch.stack(path, 1), torch.stack(slopes, 1)


def _find(plans: LocalPlans, values: Tensor, best: Tensor, reached: Tensor) -> Tensor:
    """Index of an offset that attains the best value of the class reached."""
    wanted = best.gather(1, reached[:, None]).squeeze(1)
    found = torch.zeros_like(reached)
    for number, (start, stop) in enumerate(plans.classes):
        for offset in range(start, stop):
            found = torch.where((reached == number) & (values[:, offset] == wanted), offset, found)
    return found


def entropic_oracle(
    plans: LocalPlans, g: Float[Tensor, "n c h w"], budget: Float[Tensor, " n"], *, gamma: float = 1e-3, steps: int = 50
) -> Float[Tensor, "n k m"]:
    """The plan within the budget with the largest `<g, image> + gamma * entropy`; smooth in g (2008.02883, dual LMO).

    Loses at most `gamma * ln(K)` a unit of light against the exact one. Scale g to largest entry 1 first.
    """
    values = plans.pull(g, fill=-torch.inf) / gamma
    levels = torch.stack([values[:, start:stop].logsumexp(1) for start, stop in plans.classes], 1)
    prices = plans.costs[[start for start, _ in plans.classes]]

    def shares(multiplier: Tensor) -> Tensor:
        return (levels - multiplier.to(g.dtype)[:, None, None] * prices[None, :, None] / gamma).softmax(1)

    def cost(multiplier: Tensor) -> Tensor:
        return ((shares(multiplier) * plans.mass[:, None, :]).sum(2, dtype=torch.float64)) @ prices.double()

    whole = plans.mass.sum(1, dtype=torch.float64) * float(plans.costs.double().sum())
    high = 2 * g.flatten(1).abs().amax(1).double() + gamma * (whole / budget.clamp_min(1e-300)).log().clamp(0, 80)
    share = shares(find_multiplier(cost, budget, high, steps))
    pieces = [
        values[:, start:stop].sub(levels[:, index, None]).exp() * share[:, index, None]
        for index, (start, stop) in enumerate(plans.classes)
    ]
    return within_budget(plans, torch.cat(pieces, 1) * plans.mass[:, None, :], budget)


def project(
    plans: LocalPlans, plan: Float[Tensor, "n k m"], budget: Float[Tensor, " n"], *, steps: int = 40
) -> Float[Tensor, "n k m"]:
    """The nearest plan within the budget in the Frobenius norm (2008.02883, dual projection)."""
    allowed = plans.pull(torch.ones_like(plans.push(plan))) > 0
    wide = torch.where(allowed, plan, -torch.inf)

    def rows(multiplier: Tensor) -> Tensor:
        return _onto_simplices(
            wide - multiplier.to(plan.dtype)[:, None, None] * plans.costs[None, :, None], plans.mass
        )

    high = 2 * plan.flatten(1).abs().amax(1).double() + plans.mass.amax(1).double()
    multiplier = find_multiplier(lambda lam: plans.spent(rows(lam)), budget, high, steps)
    return within_budget(plans, rows(multiplier), budget)


def _onto_simplices(v: Float[Tensor, "n k m"], mass: Float[Tensor, "n m"]) -> Float[Tensor, "n k m"]:
    """Rows (along K) moved to the nearest one that is >= 0 and sums to the mass: Newton on the threshold, exact in <= K steps."""
    threshold = v.amax(1) - mass
    for _ in range(v.shape[1]):
        above = (v - threshold[:, None]).clamp_min(0)
        excess = above.sum(1) - mass
        step = excess / (above > 0).sum(1).clamp_min(1)
        threshold = torch.where(mass > 0, threshold + step.clamp_min(0), threshold)
        if float(step.max()) <= torch.finfo(v.dtype).eps:
            break
    moved = (v - threshold[:, None]).clamp_min(0) * (mass > 0)[:, None]
    return moved * (mass / moved.sum(1).clamp_min(torch.finfo(v.dtype).tiny))[:, None]


def find_multiplier(
    cost: Callable[[Tensor], Tensor], budget: Float[Tensor, " n"], high: Float[Tensor, " n"], steps: int
) -> Float[Tensor, " n"]:
    """Per image the least multiplier >= 0 whose cost is within the budget, from the side that is within; cost falls in it."""
    low, zero = torch.zeros_like(high), torch.zeros_like(high)
    at_low, at_high = cost(low), cost(high)
    slack = at_low <= budget
    side = torch.zeros_like(high)
    for step in range(steps):
        if bool((slack | (budget - at_high <= _CLOSE * budget) | (high - low <= 1e-12 * high)).all()):
            break
        # Illinois: a secant whose end that stays twice counts half; every third step halves the bracket.
        up = (at_low - budget) * torch.where(side > 1, 0.5 ** (side - 1).clamp_min(0), 1.0)
        down = (budget - at_high) * torch.where(side < -1, 0.5 ** (-side - 1).clamp_min(0), 1.0)
        share = (up / (up + down).clamp_min(1e-300)).clamp(0.01, 0.99) if step % 3 else torch.full_like(up, 0.5)
        middle = low + share * (high - low)
        value = cost(middle)
        inside = value <= budget
        side = torch.where(inside, side.clamp_min(0) + 1, side.clamp_max(0) - 1)
        high, at_high = torch.where(inside, middle, high), torch.where(inside, value, at_high)
        low, at_low = torch.where(inside, low, middle), torch.where(inside, at_low, value)
    return torch.where(slack, zero, high)


def within_budget(
    plans: LocalPlans, plan: Float[Tensor, "n k m"], budget: Float[Tensor, " n"]
) -> Float[Tensor, "n k m"]:
    """The plan, mixed with staying where rounding or a small budget leaves it too expensive."""
    spent = plans.spent(plan)
    share = torch.where(spent > budget, budget / spent.clamp_min(1e-300), 1.0).to(plan.dtype)[:, None, None]
    mixed = plan * share
    mixed[:, 0] += (1 - share[:, 0]) * plans.mass
    return mixed
