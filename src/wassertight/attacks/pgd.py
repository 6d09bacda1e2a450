"""PGD and its Wasserstein version W-PGD: one ascent loop over the threat's oracles.

    z <- threat.project(z + a * threat.steepest(grad loss(z)), x)

With a pointwise ball this is PGD (1706.06083); with a W_p ball it is W-PGD (2306.09844, section 4), whose step is the
first-order optimal displacement of the whole batch and whose projection scales all displacements together.

Differs from the released code of 2306.09844:
1. `mode="reference"` keeps its constants (step 1.875 radius / steps, 50 steps, zero start, best common iterate of
   1..steps), but never pushes points outwards onto the sphere (its l_2 pointwise projection does), and shrinks the
   radius by 1e-5 and half the spacing of floats, so that rounding cannot leave the ball.
2. `mode="default"` keeps the closest misclassified iterate of every sample, looks further out along the found
   direction (a distributional budget reaches beyond the radius), pulls back along the segment and spends the budget
   by the exact knapsack; its accuracy is never above that of its own iterates.
3. p = 1 is refused with advice: the first-order optimum puts the whole budget on one sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from wassertight.attacks.base import Attack, Found, Problem
from wassertight.attacks.incumbent import Incumbent, pull_back
from wassertight.attacks.minimum_norm.search import within_rounding
from wassertight.geometry import project_box
from wassertight.losses import loss_by_name, margin
from wassertight.queries import ModelQueries
from wassertight.threats import ThreatModel
from wassertight.transport import DiscreteMeasure
from wassertight.types import InputError

_REACH = (1.25, 1.6, 2.0, 2.6, 3.4, 4.5, 6.0)
"""Multiples of the found displacement that are tried for samples still right, when the budget is shared."""
_HALVINGS = 12


@dataclass(frozen=True, kw_only=True)
class PGD(Attack):
    """Projected gradient ascent under any threat; with a WassersteinBall it is W-PGD.

    Args:
        steps: iterations (a forward and a backward pass each).
        step_factor: step size is `step_factor * radius / steps`; published W-PGD: 1.875.
        loss: "cross-entropy", "margin", "dlr", "redlr", or None: cross-entropy for pointwise threats, ReDLR for a
            shared budget (margin where there are only two classes).
        restarts: independent runs; all but the first start at random points of the ball.
        random_start: whether the first run starts at random too.
        mode: "default" ends in pull-back and exact allocation; "reference" returns the published measure.

    >>> from wassertight.threats import WassersteinBall
    >>> model = torch.nn.Linear(2, 2)
    >>> _ = model.load_state_dict({"weight": torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), "bias": torch.zeros(2)})
    >>> ball = WassersteinBall(radius=0.25, p=2, r=2, bounds=(-1.0, 1.0))
    >>> x, y = torch.tensor([[0.2, 0.0], [0.9, 0.0]]), torch.tensor([0, 0])
    >>> PGD()(model, x, y, ball).accuracy < 0.5
    True
    """

    name: ClassVar[str] = "pgd"
    separable: ClassVar[bool] = False
    uses_radius: ClassVar[bool] = True

    steps: int = 50
    step_factor: float = 1.875
    loss: str | None = None
    restarts: int = 1
    random_start: bool = False
    mode: Literal["default", "reference"] = "default"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1 or not self.step_factor > 0:
            raise InputError(
                f"steps and restarts must be >= 1 and step_factor > 0, got {self.steps}, {self.restarts}, {self.step_factor}"
            )
        if self.mode not in ("default", "reference"):
            raise InputError(f"mode must be 'default' or 'reference', got {self.mode!r}")
        if self.loss is not None:
            loss_by_name(self.loss)

    def find(self, problem: Problem) -> Found:
        """Ascend, keep what flips; in reference mode also the best common iterate's measure."""
        queries, x, y, threat = problem.queries, problem.x, problem.y, problem.threat
        clean = queries.clean_logits(x, y)
        loss = loss_by_name(self.loss or _default_loss(threat.p, clean.shape[1]))
        generator, mass = problem.generator(), problem.mass
        inner = threat.with_radius(float(within_rounding(torch.tensor(threat.radius, dtype=torch.float64), x)))
        right = (clean.argmax(1) == y).nonzero().squeeze(1)
        rows = torch.arange(len(right), device=x.device)
        incumbent = Incumbent(x[right], y[right], threat.r, margin(clean[right], y[right]), queries.jitter(x))
        lowest, common, last = math.inf, x, x
        step = self.step_factor * threat.radius / self.steps
        for restart in range(self.restarts):
            z = inner.sample(x, generator) if self.random_start or restart > 0 else x
            for index in range(self.steps + 1):
                if index == self.steps or threat.radius == 0:
                    logits = queries.logits(z)
                else:
                    logits, _, g = queries.gradient(z, y, loss)
                incumbent.offer(z[right], logits[right], rows)
                accuracy = float(mass[(logits.argmax(1) == y) | ~torch.isfinite(logits).all(1)].sum())
                if index > 0 and accuracy < lowest:
                    lowest, common = accuracy, z
                if index == self.steps or threat.radius == 0:
                    break
                z = ascent_step(inner, z, x, g, step, mass)
                problem.tell(restart * self.steps + index + 1, self.restarts * self.steps)
            last = z
        points = x.clone()
        if self.mode == "reference":
            points = common
            measure = DiscreteMeasure.moved(common, mass)
        else:
            self._reach_further(queries, incumbent, last[right], threat)
            pull_back(queries, incumbent, _HALVINGS)
            points[right] = incumbent.points
            measure = None
        return Found(points=points, steps=self.steps * self.restarts, measure=measure)

    def _reach_further(self, queries: ModelQueries, incumbent: Incumbent, last: Tensor, threat: ThreatModel) -> None:
        """Extend the final displacement of samples that are still right; only where mass may exceed the radius."""
        if math.isinf(threat.p) or threat.radius == 0:
            return
        rows = (~incumbent.found).nonzero().squeeze(1)
        for factor in _REACH:
            if len(rows) == 0:
                return
            z = project_box(incumbent.x[rows] + factor * (last[rows] - incumbent.x[rows]), threat.bounds)
            rows = rows[~incumbent.offer(z, queries.logits(z), rows)]


def ascent_step(
    threat: ThreatModel, z: Tensor, x: Tensor, g: Tensor, length: float, mass: Tensor | None = None
) -> Tensor:
    """One step of the given length along the threat's steepest direction, back into its ball and box; detached."""
    return threat.project(z + length * threat.steepest(g, mass), x, mass).detach()


def _default_loss(p: float, classes: int) -> str:
    if math.isinf(p):
        return "cross-entropy"
    return "redlr" if classes >= 3 else "margin"
