"""DeepFool in l_1, l_2 and l_inf (1511.04599, algorithm 2): repeated moves onto the nearest linearised boundary.

Problem, for every correctly classified sample: `min ||z - x||_r subject to argmax f(z) != y`; a fast heuristic.

At each iterate every class margin is linearised, and the total displacement grows by the shortest step that crosses
the nearest half-space; the walk ends at the first misclassified point.

Differs from the paper: 1. the step onto the half-space respects the box (the paper ignores it); 2. the overshoot is
tried at 0.1 %, then at its full 2 %, as the classifier demands; 3. classes are limited to the `candidates` most
likely ones, as in the released code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from wassertight.attacks.base import Attack, Found, Problem
from wassertight.attacks.incumbent import Incumbent
from wassertight.attacks.minimum_norm.search import check_steps, nearest_flips
from wassertight.attacks.minimum_norm.starts import nearest_half_space
from wassertight.geometry import project_box
from wassertight.queries import ModelQueries
from wassertight.threats import ThreatModel


@dataclass(frozen=True, kw_only=True)
class DeepFool(Attack):
    """Walk to the nearest linearised boundary until the class changes.

    Args:
        steps: iterations at most; each costs `candidates` forward and backward passes.
        candidates: classes considered, the largest wrong logits; None for all.
        overshoot: relative lengthening of the displacement.
    """

    name: ClassVar[str] = "deepfool"
    separable: ClassVar[bool] = True
    uses_radius: ClassVar[bool] = False

    steps: int = 50
    candidates: int | None = 9
    overshoot: float = 0.02

    def __post_init__(self) -> None:
        check_steps(self.steps, overshoot=self.overshoot, candidates=self.candidates or 1)

    def find(self, problem: Problem) -> Found:
        """First flips on the way."""
        return nearest_flips(problem, self._search)

    def _search(
        self, queries: ModelQueries, incumbent: Incumbent, threat: ThreatModel, generator: torch.Generator
    ) -> int:
        rows = torch.arange(len(incumbent.x), device=incumbent.x.device)
        z = incumbent.x
        for step in range(self.steps):
            x, y = incumbent.x[rows], incumbent.y[rows]
            plane = nearest_half_space(queries, z, y, threat, self.candidates)
            keep = ~incumbent.offer(z, plane.logits, rows)
            rows, z, x, d = rows[keep], z[keep], x[keep], plane.displacement[keep]
            if len(rows) == 0:
                return step
            z = z + d
            for stretch in (1.001, 1 + self.overshoot):
                end = project_box(x + stretch * (z - x), threat.bounds)
                keep = ~incumbent.offer(end, queries.logits(end), rows)
                rows, z, x = rows[keep], z[keep], x[keep]
                if len(rows) == 0:
                    return step
            z = project_box(x + (1 + self.overshoot) * (z - x), threat.bounds)
        return self.steps
