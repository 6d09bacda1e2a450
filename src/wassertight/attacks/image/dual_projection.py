"""Projected gradient ascent on local transport plans: gradient steps on the plan, Frobenius projection (2008.02883).

Problem, for every correctly classified image: `max loss(z, y) subject to W_p(x, z) <= radius, 0 <= z <= cap`.

    plan <- project(plan + rate * pull(g) / max |g|)

Differs from the paper and its code: 1. with a cap the loss sees `realise(plan)` at every step, prices keep light away from
full pixels, and nothing is projected at the end; 2. targets outside the image are excluded, not priced at 1e6; 3. the
projection's multiplier is found per image to a relative tolerance, starting from the last step's; 4. an image stops at its
first flip, an earlier one than the last is not lost. `mode="reference"` has the published constants: 300 steps are
`steps=300`, no prices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wassertight.attacks.base import Attack, Found, Problem
from wassertight.attacks.image.climbing import Flips, ascend, image_flips, inner, light
from wassertight.losses import loss_by_name
from wassertight.queries import ModelQueries
from wassertight.threats import ImageWasserstein
from wassertight.transport.capacity import realised
from wassertight.transport.polytope import project
from wassertight.types import InputError


@dataclass(frozen=True, kw_only=True)
class DualProjection(Attack):
    """PGD over plans; slower and weaker than `FrankWolfe`, kept as the published yardstick.

    Args:
        steps: iterations, a forward and a backward pass each.
        rate: of a step, in pixel light (published: 0.1 MNIST, 0.01 CIFAR-10).
        loss, targets, goal: as for `FrankWolfe`.
        mode: "default", or "reference": no prices at the cap.

    >>> from wassertight.threats import ImageWasserstein
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2, bias=False))
    >>> _ = model[1].load_state_dict({"weight": torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])})
    >>> x, y = torch.tensor([[[[0.0, 1.0, 0.0, 0.0]]]]), torch.tensor([0])
    >>> DualProjection()(model, x, y, ImageWasserstein(radius=0.35)).accuracy
    0.0
    """

    name: ClassVar[str] = "dual-projection"
    separable: ClassVar[bool] = True
    uses_radius: ClassVar[bool] = True

    steps: int = 80
    rate: float = 0.1
    loss: str = "cross-entropy"
    targets: int = 0
    goal: int | None = None
    mode: Literal["default", "reference"] = "default"

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.rate > 0 or self.targets < 0:
            raise InputError(
                f"steps must be >= 1, rate > 0, targets >= 0; got {self.steps}, {self.rate}, {self.targets}"
            )
        if self.mode not in ("default", "reference"):
            raise InputError(f"mode must be 'default' or 'reference', got {self.mode!r}")
        loss_by_name(self.loss)

    def find(self, problem: Problem) -> Found:
        """Flips inside the ball."""
        return image_flips(problem, self._search, self.goal)

    def _search(self, queries: ModelQueries, flips: Flips, threat: ImageWasserstein, generator: torch.Generator) -> int:
        if threat.radius == 0:
            return 0

        def start(rows: Tensor) -> _ProjectedWalk:
            return _ProjectedWalk(flips.x[rows], threat, self.rate, priced=self.mode == "default")

        rows = torch.arange(len(flips.x), device=flips.x.device)
        return ascend(queries, flips, rows, start, self.loss, self.targets, self.steps)


class _ProjectedWalk:
    """Where a projected walk is: its plan, the last multiplier, prices at the cap."""

    def __init__(self, x: Tensor, threat: ImageWasserstein, rate: float, *, priced: bool) -> None:
        self.x, self.cap, self.order, self.rate = x, threat.cap, threat.p, rate
        self.plans = threat.plans(x)
        self.whole = light(x)
        self.budget = inner(torch.full_like(self.whole, threat.radius)) ** threat.p * self.whole
        self.plan, self.near = self.plans.stay(), torch.zeros_like(self.budget)
        self.prices = torch.zeros_like(x) if priced and threat.cap is not None else None

    def point(self) -> Float[Tensor, "m c h w"]:
        return realised(self.plans, self.plan, self.x, self.cap)

    @property
    def spent(self) -> Float[Tensor, " m"]:
        return (self.plans.spent(self.plan) / self.whole) ** (1 / self.order)

    def step(self, g: Float[Tensor, "m c h w"]) -> None:
        if self.prices is not None:
            self.prices = (self.prices + 0.3 * (self.plans.push(self.plan) - (self.cap or 0))).clamp_min(0)
            g = g - self.prices
        moved = self.plan + self.rate * self.plans.pull(g)
        self.plan, self.near = project(self.plans, moved, self.budget, near=self.near)

    def keep(self, rows: Bool[Tensor, " m"]) -> None:
        self.x, self.plan, self.plans, self.whole = (
            self.x[rows],
            self.plan[rows],
            self.plans.part(rows),
            self.whole[rows],
        )
        self.budget, self.near = self.budget[rows], self.near[rows]
        self.prices = None if self.prices is None else self.prices[rows]
