"""FAB: fast adaptive boundary attack, untargeted and targeted, in l_1, l_2 and l_inf (1907.02044, algorithm 1).

Problem, for every correctly classified sample: `min ||z - x||_r subject to argmax f(z) != y, z in the box`.

Each iteration linearises the boundary at the current point, projects the current point and the original sample onto
the half-space inside the box, mixes the two projections - the more weight on the sample's own the closer it is -,
overshoots by eta, and after a success moves back towards the sample by the factor beta. Restarts begin at random points.

Differs from the paper: 1. the untargeted version linearises the `candidates` most likely classes; 2. the final search
is this library's pull-back along the segment; 3. the best point counts only when its margin exceeds a few roundings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from wassertight.attacks.base import Attack, Found, Problem
from wassertight.attacks.incumbent import Incumbent, pull_back
from wassertight.attacks.minimum_norm.search import check_steps, nearest_flips
from wassertight.attacks.minimum_norm.starts import half_spaces, nearest_half_space
from wassertight.geometry import closest_on_hyperplane, norm, project_box, sample_ball
from wassertight.geometry.norms import per_sample
from wassertight.queries import ModelQueries
from wassertight.threats import ThreatModel
from wassertight.types import InputError


@dataclass(frozen=True, kw_only=True)
class FAB(Attack):
    """Fast adaptive boundary attack; `targets` makes it FAB-T.

    Args:
        steps: iterations of a run.
        restarts: runs; the first starts at the sample, the others at random points half-way to the best flip.
        targets: number of target classes, one run each, or None for the untargeted version.
        candidates: untargeted: classes linearised at each step (a forward and a backward pass each), None for all.
        mix: largest weight of the sample's own projection (alpha_max).
        overshoot: relative overshoot of the projections (eta).
        back: factor of the step back after a success (beta).
        halvings: evaluations of the final search along the segment.
    """

    name: ClassVar[str] = "fab"
    separable: ClassVar[bool] = True
    uses_radius: ClassVar[bool] = False

    steps: int = 100
    restarts: int = 1
    targets: int | None = None
    candidates: int | None = None
    mix: float = 0.1
    overshoot: float = 1.05
    back: float = 0.9
    halvings: int = 3

    def __post_init__(self) -> None:
        check_steps(self.steps, restarts=self.restarts, mix=self.mix, back=self.back)
        if self.overshoot < 1 or not self.back < 1 or (self.targets is not None and self.targets < 1):
            raise InputError(
                f"overshoot must be >= 1, back < 1 and targets >= 1, got {self.overshoot}, {self.back}, {self.targets}"
            )

    def find(self, problem: Problem) -> Found:
        """Closest flips."""
        return nearest_flips(problem, self.search)

    def within(
        self, queries: ModelQueries, incumbent: Incumbent, threat: ThreatModel, generator: torch.Generator
    ) -> int:
        """Attack only the samples of the incumbent that have no flip inside the threat's ball yet."""
        rows = (incumbent.distance > threat.radius).nonzero().squeeze(1)
        if len(rows) == 0:
            return 0
        piece = incumbent.part(rows)
        taken = self.search(queries, piece, threat, generator)
        incumbent.merge(piece, rows)
        return taken

    def search(
        self, queries: ModelQueries, incumbent: Incumbent, threat: ThreatModel, generator: torch.Generator
    ) -> int:
        """Improve every sample of the incumbent."""
        classes: list[Tensor | None] = [None]
        if self.targets is not None:
            clean = queries.logits(incumbent.x)
            count = min(self.targets, clean.shape[1] - 1)
            ranked = clean.scatter(1, incumbent.y[:, None], -torch.inf).topk(count, dim=1).indices
            classes = [ranked[:, column] for column in range(count)]
        for restart in range(self.restarts):
            for target in classes:
                start = incumbent.x
                if restart:
                    reach = torch.nan_to_num(incumbent.distance, posinf=1.0).clamp_max(1.0) / 2
                    start = project_box(start + sample_ball(start, reach, threat.r, generator), threat.bounds)
                self._run(queries, incumbent, threat, start, target)
        pull_back(queries, incumbent, self.halvings)
        return self.steps * self.restarts * len(classes)

    def _run(
        self, queries: ModelQueries, incumbent: Incumbent, threat: ThreatModel, z: Tensor, target: Tensor | None
    ) -> None:
        x, y = incumbent.x, incumbent.y
        rows = torch.arange(len(x), device=x.device)
        tiny = torch.finfo(x.dtype).tiny
        for _ in range(self.steps):
            if target is None:
                plane = nearest_half_space(queries, z, y, threat, self.candidates)
            else:
                (plane,) = half_spaces(queries, z, y, [target], threat)
            own = plane.displacement
            climb = plane.rise - (plane.g * (x - z)).flatten(1).sum(1)
            home, _ = closest_on_hyperplane(x, plane.g, climb, threat.r, threat.bounds)
            near, far = norm(own, threat.r), norm(home, threat.r)
            share = (near / (near + far).clamp_min(tiny)).clamp_max(self.mix)
            forward, direct = z + self.overshoot * own, x + self.overshoot * home
            z = project_box(forward + per_sample(share, x) * (direct - forward), threat.bounds)
            wrong = incumbent.offer(z, queries.logits(z), rows)
            z = x + per_sample(torch.where(wrong, self.back, 1.0), x) * (z - x)
