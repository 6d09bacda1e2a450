"""MinimumNorm: our default minimum-norm attack, a scale-free search along the decision boundary.

Problem, for every correctly classified sample: `min ||z - x||_r subject to argmax f(z) != y, z in the box`.

1. Linearise every class margin at x; the class whose half-space is nearest in l_r (box included) is the first
   target. On a linear classifier this is already the exact answer. (DeepFool's class choice, 1511.04599; the
   box-aware projection is FAB's, 1907.02044.)
2. Where that fails, walk out with growing sign steps; where even that fails, start from the nearest sample of the
   batch that the model puts into another class.
3. Descend: keep z in the ball just inside the incumbent, step up the margin, shrink on success (FMN's idea,
   2102.12827). Steps are relative to the incumbent's distance, so no step size is tied to a scale. Two arms - sign
   and normalised steps, or short and long ones where these coincide - run on every sample, and each sample goes
   on with the one that served it better; cycles alternate with the next nearest target classes.
4. What is left of a large budget goes to a portfolio of restarts, searches from outside and refinements
   (portfolio.py), each sample by what serves it.
5. Pull back along the segment, then project onto the linearised boundary; keep the best.

Differs from FMN: 1. steps and shrinking are relative to the incumbent's distance; 2. gradients are masked where
the box stops them; 3. warm start; 4. two arms and a portfolio; 5. per-sample best, boundary projection at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from wassertight.attacks.base import Attack, Found, Problem
from wassertight.attacks.incumbent import Incumbent, pull_back
from wassertight.attacks.minimum_norm.descent import polish
from wassertight.attacks.minimum_norm.opening import Opening
from wassertight.attacks.minimum_norm.portfolio import CHEAPEST, Portfolio
from wassertight.attacks.minimum_norm.search import check_norm
from wassertight.losses import margin
from wassertight.queries import ModelQueries
from wassertight.types import InputError, Status

Effort: TypeAlias = int | Literal["quick", "strong"]
"""Passes a sample, or a preset's name."""
PRESETS: dict[str, int] = {"quick": 100, "strong": 2000}
_OPENING = {1.0: 200, 2.0: 200}
_LONG_OPENING = 300
_PULLS, _POLISHES = 6, 4
_FINAL = _PULLS + 2 * _POLISHES + 1


@dataclass(frozen=True, kw_only=True)
class MinimumNorm(Attack):
    """Nearest misclassified points in l_1, l_2 or l_inf within a budget of passes.

    Args:
        passes: forward plus backward passes a sample, on average over the correctly classified ones; at least 30.
            Or a preset: "quick" (100) or "strong" (2,000).
        targets: classes that are linearised and may become targets, at most.
        stop_inside: a sample is done as soon as a flip within the threat's radius is known (pointwise questions).

    Otherwise only the threat's norm and box matter for the search; its radius and order for the result's accuracy.

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

    passes: Effort = 200
    targets: int = 9
    stop_inside: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.passes, str) and self.passes not in PRESETS:
            raise InputError(f"passes must be a number or one of {', '.join(PRESETS)}; got {self.passes!r}")
        if self.budget < 30 or self.targets < 1:
            raise InputError(f"passes must be >= 30 and targets >= 1, got {self.passes} and {self.targets}")

    @property
    def budget(self) -> int:
        """Passes a sample as a number."""
        return PRESETS[self.passes] if isinstance(self.passes, str) else self.passes

    @property
    def uses_radius(self) -> bool:
        """Whether the points depend on the radius."""
        return self.stop_inside

    def find(self, problem: Problem) -> Found:
        """Nearest misclassified points, chunk by chunk of the batch size."""
        floor = torch.full((len(problem.x),), problem.threat.radius if self.stop_inside else 0.0)
        return self.improve(problem, problem.x, floor)

    def improve(self, problem: Problem, points: Tensor, floor: Tensor) -> Found:
        """The search from points already known, (n, *features); samples at most `floor` (n,) away are done.

        Args:
            points: misclassified points, or the samples themselves where none is known.
            floor: distances that need not be improved, for example proved lower bounds.
        """
        check_norm(problem.threat)
        found, steps, stagnated = problem.x.clone(), 0, True
        generator = problem.generator()
        for rows, part in problem.chunks():
            found[rows], taken, early = self._chunk(part, points[rows], floor[rows], generator)
            steps, stagnated = max(steps, taken), stagnated and early
        return Found(points=found, steps=steps, status=Status.STAGNATED if stagnated else Status.PASSES_SPENT)

    def _chunk(
        self, part: Problem, known: Tensor, floor: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, int, bool]:
        queries, x, y, threat = part.queries, part.x, part.y, part.threat
        clean = queries.clean_logits(x, y)
        right = (clean.argmax(1) == y).nonzero().squeeze(1)
        points = x.clone()
        if len(right) == 0:
            return points, 0, True
        incumbent = Incumbent(x[right], y[right], threat.r, margin(clean[right], y[right]), queries.jitter(x))
        if bool((known != x).any()):
            incumbent.offer(known[right], queries.logits(known[right]), torch.arange(len(right), device=x.device))
        floor = floor[right].to(incumbent.distance) * (1 - 1e-5)
        opening = min(self.budget, _OPENING.get(threat.r, _LONG_OPENING))
        final = opening == self.budget
        search = Opening(queries, incumbent, threat, opening - 1 - (0 if final else _FINAL), floor)
        targets = min(self.targets, clean.shape[1] - 1, max(1, opening // 20))
        search.start(targets, donor_logits=clean, donor_x=x)
        early = search.cycles()
        self._finish(queries, incumbent, search.pulls, search.polishes, part)
        steps = search.steps
        if not final:
            steps += self._spend(part, incumbent, search, floor, self.budget - opening, generator)
            early = False
        points[right] = incumbent.points
        return points, steps, early

    def _spend(
        self,
        part: Problem,
        incumbent: Incumbent,
        search: Opening,
        floor: Tensor,
        passes: int,
        generator: torch.Generator,
    ) -> int:
        """Portfolio rounds until every sample has used its passes or is done; then the finish again."""
        portfolio = Portfolio(part.queries, incumbent, part.threat, generator, search.ranked, search.classes)
        while True:
            affordable = (portfolio.spent + CHEAPEST <= passes - _FINAL).to(floor.device)
            rows = (affordable & incumbent.found & (incumbent.distance > floor)).nonzero().squeeze(1)
            if len(rows) == 0:
                break
            portfolio.round(rows, passes - _FINAL)
            part.tell(int(portfolio.spent.max()), passes)
        self._finish(part.queries, incumbent, _PULLS, _POLISHES, part)
        return portfolio.steps

    def _finish(self, queries: ModelQueries, incumbent: Incumbent, pulls: int, polishes: int, part: Problem) -> None:
        pull_back(queries, incumbent, pulls)
        polish(queries, incumbent, part.threat, polishes)
