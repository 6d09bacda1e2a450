"""Frank-Wolfe on local transport plans: each step moves light where the linearised loss gains most per distance.

Problem, for every correctly classified image: `max loss(z, y) subject to W_p(x, z) <= radius, 0 <= z <= cap`.

    mu <- max(0, mu + rate (image(plan + s (oracle(x, g - mu) - plan)) - cap)),  a few times
    plan <- plan + s (oracle(x, g - mu) - plan),  s = 2 / (t + 2)

(2008.02883 algorithm 3, with the exact oracle.) The loss, its gradient and the flip test see `realise(plan)`, a member of
the set: light above the cap goes back to its sender. mu prices pixels at the cap: the dual of the capped problem, solved on
the way. `mode="reference"` is the released attack: entropic oracle (1e-3, 50 bisections), 300 steps, no prices.

Differs from the paper and its code: 1. exact linear oracle; 2. prices and realisation instead of a projection at the end;
3. network and score see the same image (the code clamps in one of them; the reference mode here realises in both);
4. an image stops at its first flip (the code returns the last iterate); 5. radii are per image; 6. images that survive are
tried once more with `overdraw` times the budget: their plan is not the cheapest coupling of its ends, so the exact distance
of a flip, shortened along the segment to the image, often lies inside the ball; what does not is thrown away.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wassertight.attacks.base import Attack, Found, Problem
from wassertight.attacks.image.climbing import Flips, ascend, image_flips, inner, light, shrink_to_flip
from wassertight.losses import loss_by_name
from wassertight.queries import ModelQueries
from wassertight.threats import ImageWasserstein
from wassertight.transport.capacity import balanced, realised
from wassertight.transport.polytope import entropic_oracle, exact_oracle
from wassertight.types import InputError

_HALVINGS = 12


@dataclass(frozen=True, kw_only=True)
class FrankWolfe(Attack):
    """The strongest attack on image-space Wasserstein balls here; the points are flips inside the ball, or the images.

    Args:
        steps: iterations of a run, a forward and a backward pass each.
        loss: "cross-entropy", "margin", "dlr" or "redlr".
        targets: 0 for the untargeted attack, k for a run towards each of the k most likely wrong classes.
        goal: a class every image is to be given, or None.
        restarts: runs; all but the first start at random points of the ball.
        rate: of the prices at the cap, in units of the largest gradient entry.
        pricings: updates of the prices a step, each with an oracle call of its own.
        overdraw: budget of a last run on survivors, in radii (p = 1); 1 for none.
        mode: "default", or "reference" (see the module).

    >>> from wassertight.threats import ImageWasserstein
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2, bias=False))
    >>> _ = model[1].load_state_dict({"weight": torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])})
    >>> x, y = torch.tensor([[[[0.0, 1.0, 0.0, 0.0]]]]), torch.tensor([0])
    >>> [FrankWolfe(steps=5)(model, x, y, ImageWasserstein(radius=radius)).accuracy for radius in (0.3, 0.35)]
    [1.0, 0.0]
    """

    name: ClassVar[str] = "frank-wolfe"
    separable: ClassVar[bool] = True
    uses_radius: ClassVar[bool] = True

    steps: int = 80
    loss: str = "cross-entropy"
    targets: int = 0
    goal: int | None = None
    restarts: int = 1
    rate: float = 0.3
    pricings: int = 3
    overdraw: float = 1.1
    mode: Literal["default", "reference"] = "default"

    def __post_init__(self) -> None:
        least = min(self.steps, self.restarts, self.pricings)
        if least < 1 or self.targets < 0 or not self.rate > 0 or not self.overdraw >= 1:
            raise InputError(
                "steps, restarts and pricings must be >= 1, targets >= 0, rate > 0 and overdraw >= 1; got "
                f"{self.steps}, {self.restarts}, {self.pricings}, {self.targets}, {self.rate}, {self.overdraw}"
            )
        if self.mode not in ("default", "reference"):
            raise InputError(f"mode must be 'default' or 'reference', got {self.mode!r}")
        loss_by_name(self.loss)

    def find(self, problem: Problem) -> Found:
        """Flips inside the ball."""
        return image_flips(problem, self._search, self.goal)

    def _search(self, queries: ModelQueries, flips: Flips, threat: ImageWasserstein, generator: torch.Generator) -> int:
        radius = light(flips.x).new_full((len(flips.x),), threat.radius)
        taken = self.within(queries, flips, threat, radius, generator)
        if self.overdraw > 1 and threat.p == 1 and self.mode == "default":
            beyond = Flips(flips.x, flips.y, flips.jitter, flips.goal)
            beyond.spent[flips.found] = 0
            taken += self.within(queries, beyond, threat, radius * self.overdraw, generator)
            rows = (~flips.found & beyond.found).nonzero().squeeze(1)
            shrink_to_flip(queries, beyond, _HALVINGS, rows, threat.p)
            exact = threat.cost(beyond.points[rows], beyond.x[rows])
            inside = rows[exact <= threat.radius]
            flips.points[inside], flips.spent[inside] = beyond.points[inside], exact[exact <= threat.radius]
        return taken

    def within(
        self,
        queries: ModelQueries,
        flips: Flips,
        threat: ImageWasserstein,
        radius: Float[Tensor, " n"],
        generator: torch.Generator,
    ) -> int:
        """Attack the images without a flip, each inside its own radius; the threat's is ignored."""
        taken = 0
        for restart in range(self.restarts):
            rows = (~flips.found & (radius > 0)).nonzero().squeeze(1)
            if len(rows) == 0:
                break
            start = partial(self._walk, flips.x, threat, radius, generator if restart else None)
            taken += ascend(queries, flips, rows, start, self.loss, self.targets, self.steps)
        return taken

    def _walk(
        self, x: Tensor, threat: ImageWasserstein, radius: Tensor, generator: torch.Generator | None, rows: Tensor
    ) -> PlanWalk:
        """The walk of some images, from a random point of the ball where a generator is given."""
        walk = PlanWalk(
            x[rows], threat, radius[rows], rate=self.rate, pricings=self.pricings, entropic=self.mode == "reference"
        )
        if generator is not None:
            walk.leave(generator)
        return walk


class PlanWalk:
    """A Frank-Wolfe walk; without a cap only the image and its cost are kept, both being linear in the plan."""

    def __init__(
        self,
        x: Float[Tensor, "m c h w"],
        threat: ImageWasserstein,
        radius: Float[Tensor, " m"],
        *,
        rate: float = 0.3,
        pricings: int = 3,
        entropic: bool = False,
    ) -> None:
        self.x, self.cap, self.order, self.entropic = x, threat.cap, threat.p, entropic
        self.rate, self.pricings = rate, 0 if threat.cap is None or entropic else pricings
        self.plans = threat.plans(x)
        self.whole = light(x)
        self.budget = inner(radius) ** threat.p * self.whole
        self.image, self.cost = x.clone(), torch.zeros_like(self.budget)
        self.plan = None if threat.cap is None else self.plans.stay()
        self.prices = torch.zeros_like(x)
        self.time = 0

    def point(self) -> Float[Tensor, "m c h w"]:
        if self.plan is None or self.cap is None:
            return balanced(self.x, self.image)
        return realised(self.plans, self.plan, self.x, self.cap)

    @property
    def spent(self) -> Float[Tensor, " m"]:
        return (self.cost / self.whole) ** (1 / self.order)

    def step(self, g: Float[Tensor, "m c h w"]) -> None:
        share = 2 / (self.time + 2)
        for _ in range(self.pricings):
            vertex = exact_oracle(self.plans, g - self.prices, self.budget)
            ahead = self.image + share * (vertex.image() - self.image)
            self.prices = (self.prices + self.rate * (ahead - (self.cap or 0))).clamp_min(0)
        self.towards(g - self.prices, share)
        self.time += 1

    def leave(self, generator: torch.Generator) -> None:
        """Start at a random vertex, part of the way."""
        g = torch.randn(self.x.shape, generator=generator).to(self.x)
        self.towards(g, float(torch.rand(1, generator=generator)))
        self.time = 1

    def towards(self, g: Float[Tensor, "m c h w"], share: float) -> None:
        """Mix in the oracle's answer to g."""
        if self.entropic:
            plan = entropic_oracle(self.plans, g, self.budget)
            image, cost = self.plans.push(plan), self.plans.spent(plan)
            self.plan = None if self.plan is None else self.plan + share * (plan - self.plan)
        else:
            vertex = exact_oracle(self.plans, g, self.budget)
            image, cost = vertex.image(), vertex.cost
            if self.plan is not None:
                self.plan *= 1 - share
                vertex.add_to(self.plan, torch.full_like(cost, share))
        self.image = self.image + share * (image - self.image)
        self.cost = self.cost + share * (cost - self.cost)

    def keep(self, rows: Bool[Tensor, " m"]) -> None:
        self.x, self.image, self.prices = self.x[rows], self.image[rows], self.prices[rows]
        self.plans, self.whole = self.plans.part(rows), self.whole[rows]
        self.budget, self.cost = self.budget[rows], self.cost[rows]
        self.plan = None if self.plan is None else self.plan[rows]
