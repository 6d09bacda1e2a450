"""FMN: fast minimum-norm attack in l_1, l_2 and l_inf (2102.12827, algorithm 1).

Problem, for every correctly classified sample: `min ||z - x||_r subject to argmax f(z) != y, z in the box`.

Each iteration takes an l_2-normalised gradient step on the margin, adapts a per-sample radius eps - shrinking it by
the factor 1 - gamma after a success, enlarging it by 1 + gamma after a failure, and as long as nothing was found
setting it to the distance at which the linearised margin vanishes - and projects on that ball and on the box. Step
and gamma decay along a cosine.

Differs from the paper: 1. untargeted only; 2. no starting point from another class (the paper's optional
initialisation); 3. an iterate counts only when its margin exceeds a few roundings, which are added to the distance
estimate - the plain estimate approaches the boundary from inside and may never cross it; 4. as long as nothing was
found the distance estimate is added to the length before the box cut the step, not to the length after - otherwise
the box takes away what the radius has gained, and on images with many pixels at the walls most samples stall inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from wassertight.attacks.base import Attack, Found, Problem
from wassertight.attacks.incumbent import Incumbent, decision_slack
from wassertight.attacks.minimum_norm.search import check_steps, cosine, farthest, nearest_flips
from wassertight.geometry import conjugate, norm, project_ball, project_box
from wassertight.geometry.norms import per_sample
from wassertight.losses import margin
from wassertight.queries import ModelQueries
from wassertight.threats import ThreatModel


@dataclass(frozen=True, kw_only=True)
class FMN(Attack):
    """Fast minimum-norm attack.

    Args:
        steps: iterations, a forward and a backward pass each.
        step: first length of the l_2-normalised step, in pixel units.
        last_step: last length, or None for `step / 100`.
        gamma, last_gamma: first and last relative change of the radius.

    >>> from wassertight.threats import PointwiseBall
    >>> model = torch.nn.Linear(2, 2)
    >>> _ = model.load_state_dict({"weight": torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), "bias": torch.zeros(2)})
    >>> ball = PointwiseBall(radius=0.5, r=2.0, bounds=(-1.0, 1.0))
    >>> round(float(FMN()(model, torch.tensor([[0.25, 0.5]]), torch.tensor([0]), ball).distances.values[0]), 2)
    0.25
    """

    name: ClassVar[str] = "fmn"
    separable: ClassVar[bool] = True
    uses_radius: ClassVar[bool] = False

    steps: int = 100
    step: float = 1.0
    last_step: float | None = None
    gamma: float = 0.05
    last_gamma: float = 0.001

    def __post_init__(self) -> None:
        check_steps(self.steps, step=self.step, gamma=self.gamma, last_gamma=self.last_gamma)

    def find(self, problem: Problem) -> Found:
        """Closest flips."""
        return nearest_flips(problem, self._search)

    def _search(
        self, queries: ModelQueries, incumbent: Incumbent, threat: ThreatModel, generator: torch.Generator
    ) -> int:
        x, y, r = incumbent.x, incumbent.y, threat.r
        tiny = torch.finfo(x.dtype).tiny
        rows = torch.arange(len(x), device=x.device)
        d = torch.zeros_like(x)
        radius, reach = torch.full_like(incumbent.distance, torch.inf), torch.zeros_like(incumbent.distance)
        most = farthest(x, r, threat.bounds).to(radius)
        for step in range(self.steps):
            length = cosine(self.step, self.step / 100 if self.last_step is None else self.last_step, step, self.steps)
            gamma = cosine(self.gamma, self.last_gamma, step, self.steps)
            logits, height, g = queries.gradient(x + d, y, margin)
            wrong = incumbent.offer(x + d, logits, rows)
            missing = height.abs() + decision_slack(logits)
            ahead = reach + (missing / norm(g, conjugate(r)).clamp_min(tiny)).to(reach)
            outside = torch.where(incumbent.found, radius * (1 + gamma), ahead)
            radius = torch.where(wrong, torch.minimum(radius * (1 - gamma), incumbent.distance), outside)
            radius = torch.minimum(radius, most)
            d = d + g * per_sample(length / norm(g, 2.0).clamp_min(tiny), g)
            d = project_ball(d, radius, r)
            reach = norm(d, r)
            d = project_box(x + d, threat.bounds) - x
        incumbent.offer(x + d, queries.logits(x + d), rows)
        return self.steps
