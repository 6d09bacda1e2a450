"""Local transport plans: the light of every bright pixel spread over the window around it, and sums along both ends."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad


@lru_cache
def _offsets(size: int, p: float, r: float) -> tuple[tuple[tuple[int, int], ...], tuple[float, ...]]:
    reach = range(-(size // 2), size // 2 + 1)
    steps = [(dy, dx) for dy in reach for dx in reach]
    priced = sorted((_cost(dy, dx, p, r), abs(dy) + abs(dx), dy, dx) for dy, dx in steps)
    return tuple((dy, dx) for _, _, dy, dx in priced), tuple(cost for cost, *_ in priced)


def _cost(dy: int, dx: int, p: float, r: float) -> float:
    length = max(abs(dy), abs(dx)) if r == float("inf") else (abs(dy) ** r + abs(dx) ** r) ** (1 / r)
    return round(float(length**p), 12)


@dataclass(frozen=True, kw_only=True, eq=False)
class LocalPlans:
    """Where light may go: every bright pixel has K targets, the offsets of its window, cheapest (itself) first.

    A plan is (n, K, m): m the most bright pixels an image has, channels counted together; rows of absent pixels hold
    nothing. Targets outside the image lie in a margin around it, where gathered values are a fill and sums are dropped.

    Attributes:
        shape: of the images, (c, h, w).
        margin: half the window.
        base: each bright pixel's place in the image with its margin, flattened, (n, m).
        mass: its light, (n, m), 0 where an image has fewer.
        shifts: of each offset in that flat place, (K,).
        costs: of each offset, distance to the power p, non-decreasing, (K,).
        classes: distinct costs, each as a slice of offsets (start, stop).
    """

    shape: tuple[int, int, int]
    margin: int
    base: Int[Tensor, "n m"]
    mass: Float[Tensor, "n m"]
    shifts: Int[Tensor, " k"]
    costs: Float[Tensor, " k"]
    classes: tuple[tuple[int, int], ...]

    @staticmethod
    def of(x: Float[Tensor, "n c h w"], size: int, p: float = 1.0, r: float = 2.0) -> LocalPlans:
        """The plans of images x."""
        _, c, h, w = x.shape
        steps, prices = _offsets(size, p, r)
        margin = size // 2
        wide = w + 2 * margin
        places = LocalPlans._places(x, margin)
        flat = x.flatten(1)
        bright = flat > 0
        most = max(1, int(bright.sum(1).max()))
        chosen = bright.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most]
        starts = [0] + [k for k in range(1, len(prices)) if prices[k] > prices[k - 1] + 1e-9] + [len(prices)]
        return LocalPlans(
            shape=(c, h, w),
            margin=margin,
            base=places[chosen],
            mass=flat.gather(1, chosen),
            shifts=torch.tensor([dy * wide + dx for dy, dx in steps], device=x.device),
            costs=torch.tensor(prices, dtype=x.dtype, device=x.device),
            classes=tuple(pairwise(starts)),
        )

    @cached_property
    def prices(self) -> tuple[float, ...]:
        """The distinct costs."""
        return tuple(float(self.costs[start]) for start, _ in self.classes)

    @staticmethod
    def like(plans: LocalPlans) -> LocalPlans:
        """The same windows around every pixel, dark ones too; its masses mean nothing."""
        c, h, w = plans.shape
        blank = plans.mass.new_zeros(1, c, h, w)
        places = LocalPlans._places(blank, plans.margin)
        return replace(
            plans, base=places.expand(len(plans.mass), -1), mass=blank.flatten(1).expand(len(plans.mass), -1)
        )

    @staticmethod
    def _places(x: Tensor, margin: int) -> Tensor:
        """Flat place of every pixel in the image with its margin."""
        _, c, h, w = x.shape
        wide = w + 2 * margin
        places = torch.arange((h + 2 * margin) * wide * c, device=x.device).view(c, h + 2 * margin, wide)
        return places[:, margin : margin + h, margin : margin + w].reshape(-1)

    def part(self, rows: Tensor) -> LocalPlans:
        """The plans of some of the images."""
        return replace(self, base=self.base[rows], mass=self.mass[rows])

    @cached_property
    def targets(self) -> Int[Tensor, "n km"]:
        """Flat place of every target, offsets outermost."""
        return (self.base[:, None, :] + self.shifts[None, :, None]).flatten(1)

    def stay(self) -> Float[Tensor, "n k m"]:
        """The plan that moves nothing."""
        plan = self.mass.new_zeros(len(self.mass), len(self.shifts), self.mass.shape[1])
        plan[:, 0] = self.mass
        return plan

    def pull(self, g: Float[Tensor, "n c h w"], fill: float = 0.0) -> Float[Tensor, "n k m"]:
        """g at every target; `fill` outside the image. The adjoint of `push` for fill = 0."""
        edge = (self.margin,) * 4
        return pad(g, edge, value=fill).flatten(1).gather(1, self.targets).view(len(g), len(self.shifts), -1)

    def push(self, plan: Float[Tensor, "n k m"]) -> Float[Tensor, "n c h w"]:
        """Column sums: the image the plan makes."""
        return self.scatter(self.targets, plan.flatten(1))

    def scatter(self, places: Int[Tensor, "n q"], light: Float[Tensor, "n q"]) -> Float[Tensor, "n c h w"]:
        """Light added up at flat places, as images; what lies in the margin is dropped."""
        c, h, w = self.shape
        a = self.margin
        whole = light.new_zeros(len(light), c * (h + 2 * a) * (w + 2 * a)).scatter_add_(1, places, light)
        return whole.view(-1, c, h + 2 * a, w + 2 * a)[:, :, a : a + h, a : a + w]

    def scatter_onto(self, a: Float[Tensor, "n m"], fill: float) -> Float[Tensor, "n c h w"]:
        """Values of bright pixels as images, `fill` at the others."""
        c, h, w = self.shape
        edge = self.margin
        whole = a.new_full((len(a), c * (h + 2 * edge) * (w + 2 * edge)), fill)
        whole.scatter_reduce_(1, self.base, a, "amax")
        return whole.view(-1, c, h + 2 * edge, w + 2 * edge)[:, :, edge : edge + h, edge : edge + w]

    def spent(self, plan: Float[Tensor, "n k m"]) -> Float[Tensor, " n"]:
        """Cost of each plan in light times distance**p, float64."""
        return plan.sum(2, dtype=torch.float64) @ self.costs.double()
