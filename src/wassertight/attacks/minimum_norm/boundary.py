"""MinimumNorm: our default minimum-norm attack, a scale-free descent along the decision boundary.

Problem, for every correctly classified sample: `min ||z - x||_r subject to argmax f(z) != y, z in the box`.

1. Linearise every class margin at x; the class whose half-space is nearest in l_r (box included) is the first
   target. On a linear classifier this is already the exact answer. (DeepFool's class choice, 1511.04599; the
   box-aware projection is FAB's, 1907.02044.)
2. Where that fails, walk out with growing sign steps; where even that fails, start from the nearest sample of the
   batch that the model puts into another class.
3. Descend: keep z in the ball just inside the incumbent, step up the margin, shrink on success (FMN's idea,
   2102.12827). Steps are relative to the incumbent's distance, so no step size is tied to a scale. Two arms - sign
   and normalised steps, or short and long ones where these coincide - run on every sample, and each sample goes
   on with the one that served it better.
4. Further cycles alternate between warm restarts and the next nearest target classes, until the pass budget is
   used or two cycles in a row brought nothing.
5. Pull back along the segment, then project onto the linearised boundary; keep the best.

Differs from FMN: 1. steps and shrinking are relative to the incumbent's distance; 2. gradients are masked where
the box stops them; 3. warm start; 4. two arms; 5. per-sample best, boundary projection at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wassertight.attacks.base import Attack, Found, Problem
from wassertight.attacks.incumbent import Incumbent, pull_back
from wassertight.attacks.minimum_norm.descent import Arm, arms_for, descend, lean_arm, polish
from wassertight.attacks.minimum_norm.starts import donors, linearised_classes, walk_out
from wassertight.losses import margin
from wassertight.queries import ModelQueries
from wassertight.threats import ThreatModel
from wassertight.types import InputError, Status

_LEAN = 30
"""With fewer iterations left than this, one arm takes them all."""


@dataclass(frozen=True, kw_only=True)
class MinimumNorm(Attack):
    """Nearest misclassified points in l_1, l_2 or l_inf within a budget of passes.

    Args:
        passes: forward plus backward passes a sample, on average over the correctly classified ones; at least 30.
        targets: classes that are linearised and may become targets, at most.

    Only the threat's norm and box matter for the search; its radius and order for the result's accuracy.

    >>> from wassertight.threats import PointwiseBall
    >>> model = torch.nn.Linear(2, 2)
    >>> _ = model.load_state_dict({"weight": torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), "bias": torch.zeros(2)})
    >>> ball = PointwiseBall(radius=0.5, r=2.0, bounds=(-1.0, 1.0))
    >>> result = MinimumNorm()(model, torch.tensor([[0.25, 0.5]]), torch.tensor([0]), ball)
    >>> round(float(result.distances.values[0]), 4), result.accuracy
    (0.25, 0.0)
    """

    name: ClassVar[str] = "min-norm"
    separable: ClassVar[bool] = True
    uses_radius: ClassVar[bool] = False

    passes: int = 200
    targets: int = 9

    def __post_init__(self) -> None:
        if self.passes < 30 or self.targets < 1:
            raise InputError(f"passes must be >= 30 and targets >= 1, got {self.passes} and {self.targets}")

    def find(self, problem: Problem) -> Found:
        """Nearest misclassified points, chunk by chunk of the batch size."""
        points, steps, stagnated = problem.x.clone(), 0, True
        for rows, part in problem.chunks():
            points[rows], taken, early = self._chunk(part.queries, part.x, part.y, part.threat)
            steps, stagnated = max(steps, taken), stagnated and early
        return Found(points=points, steps=steps, status=Status.STAGNATED if stagnated else Status.PASSES_SPENT)

    def _chunk(self, queries: ModelQueries, x: Tensor, y: Tensor, threat: ThreatModel) -> tuple[Tensor, int, bool]:
        clean = queries.clean_logits(x, y)
        right = (clean.argmax(1) == y).nonzero().squeeze(1)
        points = x.clone()
        if len(right) == 0:
            return points, 0, True
        incumbent = Incumbent(x[right], y[right], threat.r, margin(clean[right], y[right]))
        budget = queries.passes.total + (self.passes - 1) * len(right)
        search = _Search(queries, incumbent, threat, budget)
        targets = min(self.targets, clean.shape[1] - 1, max(1, self.passes // 20))
        search.start(clean[right], targets, donor_logits=clean, donor_x=x)
        early = search.cycles()
        search.finish()
        points[right] = incumbent.points
        return points, search.steps, early


class _Search:
    """One chunk's search: its incumbent, its remaining passes and its ranked targets."""

    def __init__(self, queries: ModelQueries, incumbent: Incumbent, threat: ThreatModel, budget: int) -> None:
        self.queries, self.incumbent, self.threat, self.budget = queries, incumbent, threat, budget
        self.steps = 0
        each = (budget - queries.passes.total) // len(incumbent.x)
        self.far = torch.zeros(len(incumbent.x), dtype=torch.bool, device=incumbent.x.device)
        self.pulls, self.polishes = (6, 4) if each >= 100 else (4, 1)
        self.ranked: Int[Tensor, "n c"] | None = None
        self.starts: Float[Tensor, "n c *features"] | None = None

    def remaining(self, samples: int) -> int:
        """Iterations (a forward and a backward pass) left for that many samples, the final ones set aside."""
        final = (self.pulls + 2 * self.polishes + 1) * len(self.incumbent.x)
        return max(0, (self.budget - self.queries.passes.total - final) // (2 * max(1, samples)))

    def start(self, clean: Tensor, targets: int, *, donor_logits: Tensor, donor_x: Tensor) -> None:
        """Linearised starts, then the fallbacks for samples without a flip."""
        everything = torch.arange(len(self.incumbent.x), device=self.incumbent.x.device)
        self.ranked, self.starts = linearised_classes(self.queries, self.incumbent, clean, targets, self.threat)
        logits = self.queries.logits(self.starts[:, 0])
        self.incumbent.offer(self.starts[:, 0], logits, everything)
        missing = (~self.incumbent.found).nonzero().squeeze(1)
        if len(missing):
            polish(self.queries, self.incumbent, self.threat, 3, rows=missing, start=self.starts[missing, 0])
            self.far = ~self.incumbent.found
            walk_out(self.queries, self.incumbent, self.threat)
            donors(self.queries, self.incumbent, donor_x, donor_logits)
        pull_back(self.queries, self.incumbent, self.pulls - 1, missing)

    def cycles(self) -> bool:
        """Both arms, then the better one in cycles until the budget is used; True if all samples stagnated."""
        best, incumbent = self.incumbent, self.incumbent
        n = len(best.x)
        found = best.found.nonzero().squeeze(1)
        if len(found) == 0:
            return True
        arms = arms_for(best.r)
        lean = self.remaining(len(found)) < _LEAN
        length = self.remaining(len(found)) if lean else max(10, self.remaining(len(found)) // 5)
        progress = []
        for arm in arms[:1] if lean else arms:
            before = best.distance.clone()
            chosen = [lean_arm(best.r, far=far) for far in self.far.tolist()] if lean else [arm] * n
            self._descend(found, min(length, self.remaining(len(found))), chosen)
            progress.append(torch.nan_to_num(best.distance / before, nan=1.0))
        better = [arms[0]] * n
        if len(progress) == 2:
            final_gain = (progress[1] < 1 - 1e-3).tolist()
            better = [arms[1] if gain else arms[0] for gain in final_gain]
        quiet = torch.zeros(n, dtype=torch.int64, device=best.x.device)
        cycle = 0
        while True:
            rows = (best.found & (quiet < 3)).nonzero().squeeze(1)
            left = self.remaining(len(rows))
            if len(rows) == 0 or left < 4:
                return len(rows) == 0
            before = best.distance.clone()
            cycle += 1
            other = cycle % 3 == 2 and self.ranked is not None and self.ranked.shape[1] > 1
            if other:
                column = 1 + (cycle // 3) % (self.ranked.shape[1] - 1)  # type: ignore[union-attr]
                self._descend(rows, min(max(8, length // 2), left), better, column=column)
            else:
                if cycle % 3 == 0:
                    better = [arms[1 - arms.index(arm)] for arm in better]
                self._descend(rows, min(length, left), better)
            gained = incumbent.distance < before * (1 - 1e-4)
            quiet = torch.where(gained, 0, quiet + 1)

    def _descend(self, rows: Tensor, steps: int, arms: list[Arm], column: int | None = None) -> None:
        chosen = [arms[i] for i in rows.tolist()]
        target = start = None
        if column is not None and self.ranked is not None and self.starts is not None:
            target, start = self.ranked[rows, column], self.starts[rows, column]
        descend(self.queries, self.incumbent, self.threat, steps, rows, chosen, target=target, start=start)
        self.steps += steps

    def finish(self) -> None:
        pull_back(self.queries, self.incumbent, self.pulls)
        polish(self.queries, self.incumbent, self.threat, self.polishes)
