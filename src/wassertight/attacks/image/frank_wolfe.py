"""Frank-Wolfe on local transport plans: each step moves light where the linearised loss gains most per distance.

Problem, for every correctly classified image: `max loss(z, y) subject to W_p(x, z) <= radius, 0 <= z <= cap`.

    plan <- plan + 2 / (t + 2) (oracle(x, g - mu) - plan),  mu <- max(0, mu + rate (image(plan) - cap))

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
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wassertight.attacks.base import Attack, Found, Problem
from wassertight.attacks.image.climbing import GUARD, Flips, aims, climb, image_flips, light, shrink_to_flip
from wassertight.geometry.norms import per_sample
from wassertight.losses import loss_by_name
from wassertight.queries import ModelQueries
from wassertight.threats import ImageWasserstein
from wassertight.transport.capacity import balanced, return_to_sender
from wassertight.transport.polytope import entropic_oracle, exact_oracle
from wassertight.transport.windows import LocalPlans
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
        overdraw: budget of a last run on survivors, in radii (p = 1); 1 for none.
        mode: "default", or "reference" (see the module).

    >>> from wassertight.threats import ImageWasserstein
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2, bias=False))
    >>> _ = model[1].load_state_dict({"weight": torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])})
    >>> x, y = torch.tensor([[[[0.0, 1.0, 0.0, 0.0]]]]), torch.tensor([0])
    >>> [FrankWolfe()(model, x, y, ImageWasserstein(radius=radius)).accuracy for radius in (0.3, 0.35)]
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
    overdraw: float = 1.1
    mode: Literal["default", "reference"] = "default"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1 or self.targets < 0 or not self.rate > 0 or not self.overdraw >= 1:
            raise InputError(
                "steps and restarts must be >= 1, targets >= 0, rate > 0 and overdraw >= 1; got "
                f"{self.steps}, {self.restarts}, {self.targets}, {self.rate}, {self.overdraw}"
            )
        if self.mode not in ("default", "reference"):
            raise InputError(f"mode must be 'default' or 'reference', got {self.mode!r}")
        loss_by_name(self.loss)

    def find(self, problem: Problem) -> Found:
        """Flips inside the ball."""
        return image_flips(problem, self._search, self.goal)

    def _search(
        self, queries: ModelQueries, flips: Flips, threat: ImageWasserstein, generator: torch.Generator
    ) -> int:
        radius = light(flips.x).new_full((len(flips.x),), threat.radius)
        taken = self.within(queries, flips, threat, radius, generator)
        if self.overdraw > 1 and threat.p == 1 and self.mode == "default":
            beyond = Flips(flips.x, flips.y, flips.jitter, flips.goal)
            beyond.spent[flips.found] = 0
            taken += self.within(queries, beyond, threat, radius * self.overdraw, generator)
            rows = (~flips.found & beyond.found).nonzero().squeeze(1)
            shrink_to_flip(queries, beyond, _HALVINGS, rows)
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
            for labels, loss in aims(queries, flips, rows, self.targets, loss_by_name(self.loss)):
                left = ~flips.found[rows]
                if not bool(left.any()):
                    break
                some = rows[left]
                walk = _PlanWalk(flips.x[some], threat, radius[some], self.rate, entropic=self.mode == "reference")
                if restart > 0:
                    walk.leave(generator)
                climb(queries, walk, flips, some, labels[left], loss, self.steps)
                taken += self.steps
        return taken


class _PlanWalk:
    """A Frank-Wolfe walk; without a cap only the image and its cost are kept, both being linear in the plan."""

    def __init__(
        self, x: Tensor, threat: ImageWasserstein, radius: Tensor, rate: float, *, entropic: bool = False
    ) -> None:
        self.x, self.threat, self.rate, self.entropic = x, threat, rate, entropic
        self.plans = LocalPlans.of(x, threat.window, threat.p, threat.r)
        self.whole = light(x)
        self.budget = (radius * GUARD) ** threat.p * self.whole
        self.image, self.cost = x.clone(), torch.zeros_like(self.budget)
        self.plan = None if threat.cap is None else self.plans.stay()
        self.prices = torch.zeros_like(x)
        self.time = 0

    def point(self) -> Float[Tensor, "m c h w"]:
        cap = self.threat.cap
        if self.plan is None or cap is None:
            return balanced(self.x, self.image)
        _, image = return_to_sender(self.plans, self.plan, cap)
        bad = image.flatten(1).amax(1) > cap * (1 + 1e-5)
        return balanced(self.x, torch.where(per_sample(bad.to(image.dtype), image) > 0, self.x, image), cap)

    @property
    def spent(self) -> Float[Tensor, " m"]:
        return (self.cost / self.whole) ** (1 / self.threat.p)

    def step(self, g: Float[Tensor, "m c h w"]) -> None:
        if self.threat.cap is not None and not self.entropic:
            self.prices = (self.prices + self.rate * (self.image - self.threat.cap)).clamp_min(0)
        self._towards(g - self.prices, 2 / (self.time + 2))
        self.time += 1

    def leave(self, generator: torch.Generator) -> None:
        """Start at a random vertex, part of the way."""
        g = torch.randn(self.x.shape, generator=generator).to(self.x)
        share = torch.rand(1, generator=generator).item()
        self._towards(g, share)
        self.time = 1

    def _towards(self, g: Tensor, share: float) -> None:
        if self.entropic:
            plan = entropic_oracle(self.plans, g, self.budget)
            image, cost = self.plans.push(plan), self.plans.spent(plan)
            if self.plan is not None:
                self.plan = self.plan + share * (plan - self.plan)
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
        self.plans, self.budget, self.cost, self.whole = (
            self.plans.part(rows), self.budget[rows], self.cost[rows], self.whole[rows],
        )  # fmt: skip
        self.plan = None if self.plan is None else self.plan[rows]
