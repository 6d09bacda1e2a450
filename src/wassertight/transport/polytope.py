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
        places = torch.cat(
            (plans.base + plans.shifts[self.offset], first, home + plans.shifts[self.second[:, None]]), 1
        )
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
    best = [values[:, start:stop].amax(1) for start, stop in plans.classes]
    prices = torch.tensor(plans.prices, dtype=g.dtype, device=g.device)
    slopes = _hull_slopes(best, plans.prices)
    n, m, steps = slopes.shape
    lengths = plans.mass[:, :, None] * prices.diff()
    slope, order = slopes.flatten(1).sort(dim=1, descending=True, stable=True)
    paid = lengths.flatten(1).double().gather(1, order).cumsum(1)
    fits = (paid <= budget[:, None]) & (slope > 0)
    reached = torch.zeros_like(fits).scatter_(1, order, fits).view(n, m, steps).sum(2)

    # The pixel that is split: it stops on a hull edge, between the edge's two ends.
    images = torch.arange(n, device=g.device)
    count = fits.sum(1)
    last = count.clamp_max(m * steps - 1)
    row = order[images, last] // steps
    edges = slopes[images, row]
    at = reached[images, row]
    partial = (count < m * steps) & (slope[images, last] > 0)
    rise = edges.gather(1, at.clamp_max(steps - 1)[:, None])
    low = torch.where(partial, (edges > rise).sum(1), at)
    high = torch.where(partial, (edges >= rise).sum(1), at)
    light = plans.mass[images, row].double()
    rest = torch.where(
        partial, budget - paid.gather(1, (count - 1).clamp_min(0)[:, None]).squeeze(1) * (count > 0), 0.0
    )
    done = light * (prices[at] - prices[low])
    width = (prices[high] - prices[low]).double()
    moved = torch.where(width > 0, ((done + rest) / width.clamp_min(1e-300)).clamp_min(0), 0.0)
    moved = torch.minimum(moved, light).to(g.dtype)
    reached[images, row] = low
    offset = torch.zeros_like(reached)
    b, i = reached.nonzero(as_tuple=True)
    offset[b, i] = _attaining(plans, values[b, :, i], reached[b, i])
    cost = (plans.mass * prices[reached]).sum(1, dtype=torch.float64) + moved.double() * width
    second = _attaining(plans, values[images, :, row], high)
    return Vertex(plans=plans, offset=offset, split=row, second=second, light=moved, cost=cost)


def _hull_slopes(best: list[Tensor], prices: tuple[float, ...]) -> Tensor:
    """Slopes of the least concave majorant of (price, best) between neighbouring prices, (n, m, D - 1), non-increasing.

    The slope after price k is the least over starts a <= k of the steepest chord from a to a later end b > k.
    """
    count = len(prices)
    slopes: list[Tensor | None] = [None] * (count - 1)
    for start in range(count - 1):
        steepest: Tensor | None = None
        for end in range(count - 1, start, -1):
            # In images smaller than the window both ends may lie outside: nothing is to be gained there.
            chord = ((best[end] - best[start]) / (prices[end] - prices[start])).nan_to_num(
                -torch.inf, torch.inf, -torch.inf
            )
            steepest = chord if steepest is None else torch.maximum(steepest, chord)
            known = slopes[end - 1]
            slopes[end - 1] = steepest if known is None else torch.minimum(known, steepest)
    return torch.stack([slope for slope in slopes if slope is not None], 2)


def _attaining(plans: LocalPlans, values: Float[Tensor, "q k"], reached: Int[Tensor, " q"]) -> Int[Tensor, " q"]:
    """The offset of the class reached at which g is largest."""
    number = torch.repeat_interleave(
        torch.arange(len(plans.classes), device=values.device),
        torch.tensor([stop - start for start, stop in plans.classes], device=values.device),
    )
    return torch.where(number == reached[:, None], values, -torch.inf).argmax(1)


def entropic_oracle(
    plans: LocalPlans, g: Float[Tensor, "n c h w"], budget: Float[Tensor, " n"], *, gamma: float = 1e-3, steps: int = 50
) -> Float[Tensor, "n k m"]:
    """The plan within the budget with the largest `<g, image> + gamma * entropy`; smooth in g (2008.02883, dual LMO).

    Loses at most `gamma * ln(K)` a unit of light against the exact one. Scale g to largest entry 1 first.
    """
    values = plans.pull(g, fill=-torch.inf) / gamma
    levels = torch.stack([values[:, start:stop].logsumexp(1) for start, stop in plans.classes], 1)
    prices = torch.tensor(plans.prices, dtype=g.dtype, device=g.device)

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
    plans: LocalPlans,
    plan: Float[Tensor, "n k m"],
    budget: Float[Tensor, " n"],
    *,
    steps: int = 40,
    near: Float[Tensor, " n"] | None = None,
) -> tuple[Float[Tensor, "n k m"], Float[Tensor, " n"]]:
    """The nearest plan within the budget in the Frobenius norm, and the budget's multiplier (2008.02883, dual projection).

    `near` is a guess of the multiplier, for instance that of the step before.
    """
    allowed = plans.pull(torch.ones_like(plans.push(plan))) > 0
    wide = torch.where(allowed, plan, -torch.inf)

    def rows(multiplier: Tensor) -> Tensor:
        return _onto_simplices(wide - multiplier.to(plan.dtype)[:, None, None] * plans.costs[None, :, None], plans.mass)

    high = 2 * plan.flatten(1).abs().amax(1).double() + plans.mass.amax(1).double()
    multiplier = find_multiplier(lambda lam: plans.spent(rows(lam)), budget, high, steps, near)
    return within_budget(plans, rows(multiplier), budget), multiplier


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
    cost: Callable[[Tensor], Tensor],
    budget: Float[Tensor, " n"],
    high: Float[Tensor, " n"],
    steps: int,
    near: Float[Tensor, " n"] | None = None,
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
        if near is not None and step < 2:
            guess = near * (1.05 if step == 0 else 0.95)
            middle = torch.where((guess > low) & (guess < high), guess, middle)
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
