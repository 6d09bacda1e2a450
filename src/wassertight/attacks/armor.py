"""ARMOR: the adversary that moves samples and changes their weights out of one budget (2309.03791), with exact duals.

Problem: `sup E_Q[loss]` over the ball `D^c(Q || P) <= radius`; its dual is one price lam. `objective="error"` (0-1 loss) is
solved on minimum-norm flips by the tilted knapsack. `objective="loss"` samples every growth function on a table of
candidates, solves the table exactly, improves candidates by prox steps at the price found (only ever adding some), and
returns the law: one atom a sample, two for the split one, none for samples that lose all their mass.

`mode="reference"` follows the released code where published numbers are to be compared: one fixed price 1 and the explicit
pull in the attack, weights by dual parameters that took `updates` optimiser steps (alpha-divergences of order > 1), or by
the exact dual with the price floored at `kappa` (KL, Renyi).

Differs from the released code:
1. lam, nu solved on every call, not parameters of fixed rate (`reference` keeps them, `transport.learned`).
2. no penalty kappa (`reference` keeps it as a floor on lam).
3. one price and one cost in attack and loss; there the attack uses the last batch's price and ignores the cost's scale.
4. prox step instead of the explicit pull (`reference` keeps the pull).
5. Renyi duals are a root in one variable; there a two-variable search whose success flag is ignored. Kept nowhere.
6. points are clipped to the box, the law is audited; a reference law outside the ball is mixed with the data until inside.
Their CIFAR-100 scripts craft at another radius than they evaluate at; give `reference` the radius you mean.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from wassertight.attacks.armor_released import released_law
from wassertight.attacks.base import Attack, Found, Problem
from wassertight.attacks.expected_loss import ExpectedLoss, Growth, LossResult
from wassertight.attacks.minimum_norm import Effort, MinimumNorm
from wassertight.attacks.penalty import Penalty
from wassertight.attacks.reweighting import Reweighting, atoms_of, density_of
from wassertight.inputs import check_inputs, check_weights
from wassertight.losses import loss_by_name
from wassertight.queries import ModelQueries
from wassertight.threats import Decomposition, DivergenceBall, ThreatModel, audit_measure
from wassertight.transport import (
    DiscreteMeasure,
    JointAllocation,
    PowerCost,
    SoftBall,
    allocate_jointly,
    allocate_segments,
    worst_weights,
)
from wassertight.types import AuditError, InputError, Model, Progress, ThreatError

_BEYOND = (0.5, 1.0, 1.15, 1.35, 1.6, 2.0, 3.0)
"""Radii of the candidate table of a soft ball, in units of its reach (or of what the budget pays for)."""
_GAIN = 1e-4


@dataclass(frozen=True, kw_only=True)
class ARMOR(Attack):
    """Worst law of a re-weighting threat.

    Args:
        objective: "error" (accuracy) or "loss".
        loss: the loss of the latter, "cross-entropy", "margin" or "redlr".
        grid, steps: radii of the candidate table, ascent steps a radius.
        rounds: prox rounds at the price found, where the cost has a prox step (soft ball; L2 with p = 1 or 2).
        passes: of the minimum-norm search, objective "error".
        mode: "default" or "reference" (see the module; objective "loss").
        updates: reference: optimiser steps the learned duals have taken.
        kappa: reference: floor on lam for KL and Renyi.

    >>> from wassertight.threats import threat
    >>> model = torch.nn.Linear(2, 2)
    >>> _ = model.load_state_dict({"weight": torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), "bias": torch.zeros(2)})
    >>> x, y = torch.tensor([[0.2, 0.0], [0.4, 0.0]]), torch.tensor([0, 0])
    >>> found = ARMOR()(model, x, y, threat("KL+L2@0.1,0.3", bounds=(-1.0, 1.0)))
    >>> round(found.accuracy, 4), round(found.reweighting.spent_divergence, 6)
    (0.2809, 0.1)
    """

    name: ClassVar[str] = "armor"
    separable: ClassVar[bool] = False
    uses_radius: ClassVar[bool] = True
    reweights: ClassVar[bool] = True

    objective: Literal["error", "loss"] = "error"
    loss: str = "cross-entropy"
    grid: int = 10
    steps: int = 12
    rounds: int = 3
    passes: Effort = 200
    mode: Literal["default", "reference"] = "default"
    updates: int = 1000
    kappa: float = 0.0

    def __post_init__(self) -> None:
        if self.objective not in ("error", "loss") or self.mode not in ("default", "reference"):
            raise InputError(
                f"objective must be 'error' or 'loss', mode 'default' or 'reference', got {self.objective!r}, {self.mode!r}"
            )
        if self.mode == "reference" and self.objective == "error":
            raise InputError("the reference mode maximises a loss: give objective='loss'")
        if self.rounds < 0 or self.updates < 0 or not self.kappa >= 0:
            raise InputError("rounds, updates and kappa must be >= 0")
        MinimumNorm(passes=self.passes)
        ExpectedLoss(loss=self.loss, grid=self.grid, steps=self.steps)

    def find(self, problem: Problem) -> Found:
        """Flips (objective "error"), or the law that solves the table (objective "loss")."""
        ball = _reweighting(problem.threat)
        if self.objective == "error":
            return MinimumNorm(passes=self.passes).find(replace(problem, threat=ball.contained))
        table, bought, measure = self._solve(
            problem.queries, problem.x, problem.y, ball, problem.mass, problem.progress
        )
        rows = torch.arange(len(problem.x), device=problem.x.device)
        points = table.points[rows, torch.maximum(bought.lower, bought.upper)]
        return Found(points=points, steps=self.steps * table.points.shape[1], measure=measure, price=bought.price)

    def expected_loss(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        threat: ThreatModel,
        *,
        batch_size: int | None = None,
        weights: Tensor | None = None,
        progress: Progress | None = None,
    ) -> LossResult:
        """The worst expected loss reached, with its audited law; arguments as for every attack.

        Raises:
            AuditError: if the measure breaks the threat; that is a defect of this method.
        """
        begun, ball = time.perf_counter(), _reweighting(threat)
        x, y = check_inputs(x, y, ball.bounds)
        mass, loss = check_weights(weights, len(x)).to(x.device), loss_by_name(self.loss)
        with ModelQueries(model, batch_size=batch_size) as queries:
            clean = loss(queries.clean_logits(x, y).double(), y)
            table, bought, measure = self._solve(queries, x, y, ball, mass, progress)
            passes = queries.passes
            audit = audit_measure(model, x, y, ball, measure, weights=mass, batch_size=queries.batch_size or 256)
            if not audit.ok:
                raise AuditError(f"expected loss under {ball.name} failed its audit: " + "; ".join(audit.violations))
            value = float((measure.weights * loss(queries.logits(measure.atoms).double(), y[measure.sources])).sum())
        costs, (divergence, transport) = self._costs(table, x, ball), audit.parts or (0.0, 0.0)
        density = density_of(measure, mass)
        split = Decomposition(
            nominal=float((mass * clean).sum()),
            reweighting=float(worst_weights(ball.divergence, clean, ball.radius, mass).value),
            transport=_moves_only(costs, table.losses, ball.radius, mass), joint=value,
        )  # fmt: skip
        return LossResult(
            loss=self.loss, threat=ball, clean=split.nominal, value=value, spent=audit.spent, multiplier=bought.price,
            measure=measure, growth=table, passes=passes, seconds=time.perf_counter() - begun, audit=audit,
            reweighting=Reweighting(
                spent_divergence=divergence, spent_transport=transport, lam=bought.price,
                effective=len(x) / float((mass * density**2).sum()), density=density, decomposition=split,
            ),
        )  # fmt: skip

    def _solve(
        self, queries: ModelQueries, x: Tensor, y: Tensor, ball: DivergenceBall, mass: Tensor, progress: Progress | None
    ) -> tuple[Growth, JointAllocation, DiscreteMeasure]:
        if self.mode == "reference":
            return released_law(queries, x, y, ball, mass, self.loss, self.steps, self.updates, self.kappa)
        ascents = ExpectedLoss(loss=self.loss, grid=self.grid, steps=self.steps)
        table = ascents.grow(queries, x, y, ball.contained, radii=self._radii(ball), progress=progress)
        bought = allocate_jointly(table.losses, self._costs(table, x, ball), ball.radius, ball.divergence, mass)
        for _ in range(self.rounds if _has_prox(ball) and ball.radius > 0 else 0):
            before, lam = bought.value, max(bought.price, 1e-6)
            rows = torch.arange(len(x), device=x.device)
            search = Penalty(loss=self.loss, steps=self.steps, step=_step(ball, lam))
            z = search(queries, x, y, ball.transport, lam, ball.bounds, table.points[rows, bought.lower])
            table = _with(table, z, loss_by_name(self.loss)(queries.logits(z).double(), y), ball.contained.cost(z, x))
            bought = allocate_jointly(table.losses, self._costs(table, x, ball), ball.radius, ball.divergence, mass)
            if bought.value - before <= _GAIN * abs(before):
                break
        return table, bought, atoms_of(table.points, bought, mass)

    def _radii(self, ball: DivergenceBall) -> list[float] | None:
        """Of a soft ball, which has no grid of its own."""
        if not isinstance(ball.transport, SoftBall):
            return None
        size = max(ball.transport.reach, math.sqrt(2 * ball.transport.tau * ball.radius))
        return [factor * size for factor in _BEYOND]

    def _costs(self, table: Growth, x: Tensor, ball: DivergenceBall) -> Tensor:
        return torch.stack([ball.cost(table.points[:, k], x) for k in range(table.points.shape[1])], 1)


def _reweighting(threat: ThreatModel) -> DivergenceBall:
    if not isinstance(threat, DivergenceBall):
        raise ThreatError(f"armor takes re-weighting threats such as KL+Linf@0.1,8/255; got {threat.name}. Use 'wda++'")
    return threat


def _has_prox(ball: DivergenceBall) -> bool:
    cost = ball.transport
    return isinstance(cost, SoftBall) or (isinstance(cost, PowerCost) and cost.r == 2 and cost.p in (1, 2))


def _step(ball: DivergenceBall, lam: float) -> float:
    """Half the inverse curvature of the penalty for power costs; a tenth of the travel for soft balls."""
    cost = ball.transport
    if isinstance(cost, SoftBall):
        return max(0.1 * (cost.reach + cost.tau / lam), 1e-6)
    return 0.25 / (lam * cost.price) if isinstance(cost, PowerCost) else 0.1


def _with(table: Growth, z: Tensor, losses: Tensor, distances: Tensor) -> Growth:
    """The table with one more candidate a sample."""
    return Growth(
        distances=torch.cat((table.distances, distances[:, None]), 1),
        losses=torch.cat((table.losses, losses[:, None]), 1),
        points=torch.cat((table.points, z[:, None]), 1),
    )


def _moves_only(costs: Tensor, losses: Tensor, radius: float, mass: Tensor) -> float:
    """Worst expected loss with the samples' own weights."""
    order = costs.argsort(dim=1, stable=True)
    return allocate_segments(costs.gather(1, order), losses.gather(1, order), radius, mass).value
