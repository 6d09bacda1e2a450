"""Gradient ascent on pixels with projected Sinkhorn: Wong et al. (1902.07906) and Hu et al. (2004.12478).

Problem, for every correctly classified image: `max loss(z, y) subject to W_p(x, z) <= radius, 0 <= z <= cap`.

    z <- projected_sinkhorn(z + step(g))

`rule="sign"`: step 0.1 sign(g) (Wong); `rule="largest"`: step 0.06 S g / max |g| (Hu). The presets `sinkhorn-pgd-wong` and
`sinkhorn-pgd-hu` carry the published constants. Differs from both and their codes: 1. what the network sees is a member
of the set (column sums of a plan inside the budget, excess above the cap returned to its sender): the codes clamp pixels,
which destroys light, or accept 1 % of light and 1e-3 of cost too much; 2. the radius is the threat's own from the first
step, no schedule grows it (`frank-wolfe-distance` looks for the least radius); 3. an image stops at its first flip;
4. duals start from the last step's, every image stops by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wassertight.attacks.base import Attack, Found, Problem
from wassertight.attacks.image.climbing import Flips, ascend, image_flips, inner, light
from wassertight.geometry.norms import per_sample
from wassertight.losses import loss_by_name
from wassertight.queries import ModelQueries
from wassertight.threats import ImageWasserstein
from wassertight.transport.capacity import realised
from wassertight.transport.sinkhorn import Duals, projected_sinkhorn
from wassertight.types import InputError


@dataclass(frozen=True, kw_only=True)
class SinkhornPGD(Attack):
    """PGD with a soft projection on the ball; the published baseline.

    Args:
        steps: iterations, a forward and a backward pass each.
        rule: "largest" or "sign" (see the module).
        rate: of a step: a share of the image's light for "largest", pixel values for "sign".
        sharpness: of the projection (published: 1000 MNIST, 3000 CIFAR-10).
        rounds: of a projection at most.
        loss, targets, goal: as for `FrankWolfe`.

    >>> SinkhornPGD(rule="sign", rate=0.1).rounds
    100
    """

    name: ClassVar[str] = "sinkhorn-pgd"
    separable: ClassVar[bool] = True
    uses_radius: ClassVar[bool] = True

    steps: int = 200
    rule: Literal["largest", "sign"] = "largest"
    rate: float = 0.06
    sharpness: float = 1000.0
    rounds: int = 100
    loss: str = "cross-entropy"
    targets: int = 0
    goal: int | None = None

    def __post_init__(self) -> None:
        if min(self.steps, self.rounds) < 1 or not min(self.rate, self.sharpness) > 0 or self.targets < 0:
            raise InputError(
                "steps and rounds must be >= 1, rate and sharpness > 0, targets >= 0; got "
                f"{self.steps}, {self.rounds}, {self.rate}, {self.sharpness}, {self.targets}"
            )
        if self.rule not in ("largest", "sign"):
            raise InputError(f"rule must be 'largest' or 'sign', got {self.rule!r}")
        loss_by_name(self.loss)

    def find(self, problem: Problem) -> Found:
        """Flips inside the ball."""
        return image_flips(problem, self._search, self.goal)

    def _search(self, queries: ModelQueries, flips: Flips, threat: ImageWasserstein, generator: torch.Generator) -> int:
        if threat.radius == 0:
            return 0

        def start(rows: Tensor) -> _SinkhornWalk:
            return _SinkhornWalk(flips.x[rows], threat, self)

        rows = torch.arange(len(flips.x), device=flips.x.device)
        return ascend(queries, flips, rows, start, self.loss, self.targets, self.steps)


class _SinkhornWalk:
    """Where a walk is: its plan and the duals of the last projection."""

    def __init__(self, x: Tensor, threat: ImageWasserstein, method: SinkhornPGD) -> None:
        self.x, self.cap, self.order, self.method = x, threat.cap, threat.p, method
        self.plans = threat.plans(x)
        self.whole = light(x)
        self.budget = inner(torch.full_like(self.whole, threat.radius)) ** threat.p * self.whole
        self.plan, self.z = self.plans.stay(), x
        self.duals: Duals | None = None

    def point(self) -> Float[Tensor, "m c h w"]:
        self.z = realised(self.plans, self.plan, self.x, self.cap)
        return self.z

    @property
    def spent(self) -> Float[Tensor, " m"]:
        return (self.plans.spent(self.plan) / self.whole) ** (1 / self.order)

    def step(self, g: Float[Tensor, "m c h w"]) -> None:
        move = g.sign() if self.method.rule == "sign" else g * per_sample(self.whole, g)
        self.plan, self.duals = projected_sinkhorn(
            self.plans,
            self.z + self.method.rate * move,
            self.whole,
            self.budget,
            sharpness=self.method.sharpness,
            cap=self.cap,
            rounds=self.method.rounds,
            start=self.duals,
        )

    def keep(self, rows: Bool[Tensor, " m"]) -> None:
        self.x, self.z, self.plan, self.plans = self.x[rows], self.z[rows], self.plan[rows], self.plans.part(rows)
        self.whole, self.budget = self.whole[rows], self.budget[rows]
        self.duals = None if self.duals is None else self.duals.part(rows)
