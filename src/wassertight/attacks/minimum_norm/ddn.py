"""DDN: decoupled direction and norm, the l_2 minimum-norm attack of 1811.09600 (algorithm 1).

Problem, for every correctly classified sample: `min ||z - x||_2 subject to argmax f(z) != y, z in the box`.

Steps up the cross-entropy with l_2-normalised gradients; the iterate is rescaled to a sphere whose radius shrinks by
1 - gamma after a success and grows by 1 + gamma after a failure.

Differs from the paper: 1. no quantisation to 8 bits (the threat has none); 2. zero gradients leave the point where it
is instead of drawing a random direction; 3. the final iterate is evaluated too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from wassertight.attacks.base import Attack, Found, Problem
from wassertight.attacks.incumbent import Incumbent
from wassertight.attacks.minimum_norm.search import check_steps, cosine, farthest, nearest_flips
from wassertight.geometry import norm, project_box
from wassertight.geometry.norms import per_sample
from wassertight.losses import cross_entropy
from wassertight.queries import ModelQueries
from wassertight.threats import ThreatModel
from wassertight.types import ThreatError


@dataclass(frozen=True, kw_only=True)
class DDN(Attack):
    """Decoupled direction and norm, l_2 only.

    Args:
        steps: iterations, a forward and a backward pass each.
        radius: first radius of the sphere, in pixel units.
        gamma: relative change of the radius.
        step, last_step: first and last step length.
    """

    name: ClassVar[str] = "ddn"
    separable: ClassVar[bool] = True
    uses_radius: ClassVar[bool] = False

    steps: int = 100
    radius: float = 1.0
    gamma: float = 0.05
    step: float = 1.0
    last_step: float = 0.01

    def __post_init__(self) -> None:
        check_steps(self.steps, radius=self.radius, gamma=self.gamma, step=self.step, last_step=self.last_step)

    def find(self, problem: Problem) -> Found:
        """Closest flips.

        Raises:
            ThreatError: for a ground norm other than l_2.
        """
        if problem.threat.r != 2:
            raise ThreatError(f"DDN is an L2 attack; got {problem.threat.name}. Use 'fmn' or 'min-norm'")
        return nearest_flips(problem, self._search)

    def _search(
        self, queries: ModelQueries, incumbent: Incumbent, threat: ThreatModel, generator: torch.Generator
    ) -> int:
        x, y = incumbent.x, incumbent.y
        tiny = torch.finfo(x.dtype).tiny
        rows = torch.arange(len(x), device=x.device)
        z = x
        most = farthest(x, 2.0, threat.bounds).to(incumbent.distance)
        radius = torch.full_like(incumbent.distance, self.radius).minimum(most)
        for step in range(self.steps):
            logits, _, g = queries.gradient(z, y, cross_entropy)
            wrong = incumbent.offer(z, logits, rows)
            radius = torch.minimum(radius * torch.where(wrong, 1 - self.gamma, 1 + self.gamma), most)
            length = cosine(self.step, self.last_step, step, self.steps)
            d = z - x + g * per_sample(length / norm(g, 2.0).clamp_min(tiny), g)
            z = project_box(x + d * per_sample(radius / norm(d, 2.0).clamp_min(tiny), d), threat.bounds)
        incumbent.offer(z, queries.logits(z), rows)
        return self.steps
