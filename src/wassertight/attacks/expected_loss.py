"""Worst-case expected loss over a W_p ball, from below: growth functions, concave majorants, one multiplier.

Problem: `sup E_Q[loss(z, y)]` over laws Q within W_p distance `radius` of the data. With the growth functions
`G_i(t) = sup {loss(z, y_i) : ||z - x_i||_r <= t}` it equals (2306.09844, 2510.10000 for the duality)

    sup { sum w_i Hhat_i(tau_i) : sum w_i tau_i <= radius**p } = inf over lambda of
        { lambda radius**p + sum w_i sup_t [G_i(t) - lambda t**p] },

Hhat_i the least concave majorant of G_i(t**(1/p)). Every G_i is sampled from below on a grid of radii by warm-started
projected ascents on the loss; the majorants' segments are pooled and bought by slope until the budget is used. The
returned measure has at most n + 1 atoms and attains the value; it is audited. On the grid the solution of the pooled
problem is exact; the value is a lower bound of the supremum, as every attack's is.

The ratio losses DLR and ReDLR: DLR is unbounded at finite distance with more than three classes (its denominator can
vanish), so its supremum is infinite and it is refused; ReDLR is at most 0 and allowed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from wassertight.attacks.minimum_norm.search import check_norm, check_steps, cosine, farthest
from wassertight.attacks.reweighting import Reweighting
from wassertight.geometry import dual_direction, norm, project_ball, project_box
from wassertight.geometry.norms import per_sample
from wassertight.inputs import check_inputs, check_weights
from wassertight.losses import loss_by_name
from wassertight.queries import LossFunction, ModelQueries
from wassertight.threats import AuditReport, ThreatModel, audit_measure
from wassertight.transport import DiscreteMeasure, SegmentAllocation, allocate_segments, sample_distances
from wassertight.types import AuditError, InputError, Model, Passes, Progress

_GUARD = 1 - 1e-5
_BELOW = 16.0
"""The smallest grid radius is the threat's divided by this."""


@dataclass(frozen=True, kw_only=True)
class Growth:
    """Growth functions sampled from below.

    Attributes:
        distances: distance of every point from its sample, (n, m), float64, non-decreasing in each row, first 0.
        losses: loss at that point, (n, m), float64.
        points: the points, (n, m, *features).
    """

    distances: Float[Tensor, "n m"]
    losses: Float[Tensor, "n m"]
    points: Tensor = field(repr=False)

    def spend(self, p: float, radius: float, weights: Tensor | None = None) -> SegmentAllocation:
        """The exact optimum over these points for any order and radius.

        For p = inf the best point within the radius of every sample.
        """
        if math.isinf(p):
            inside = torch.where(self.distances <= radius * (1 + 1e-6), self.losses, -torch.inf)
            best = inside.argmax(1)
            mass = check_weights(weights, len(best)).to(self.losses)
            value = float((mass * inside.gather(1, best[:, None]).squeeze(1)).sum())
            moved = float(self.distances.gather(1, best[:, None]).max())
            zero = torch.zeros_like(mass)
            return SegmentAllocation(value=value, lower=best, upper=best, share=zero, multiplier=0.0, spent=moved)
        scale = max(radius, 1e-12)
        bought = allocate_segments((self.distances / scale) ** p, self.losses, (radius / scale) ** p, weights)
        unit = scale**p
        return replace(bought, multiplier=bought.multiplier / unit, spent=bought.spent * unit)


@dataclass(frozen=True, kw_only=True)
class LossResult:
    """Worst-case expected loss found.

    Attributes:
        loss: name of the loss.
        threat: the threat attacked.
        clean: expected loss on the samples.
        value: expected loss under `measure`, recomputed from fresh passes in float64.
        spent: W_p cost of `measure`, recomputed by the audit.
        multiplier: lambda at the optimum, the price of a unit of radius**p.
        measure: at most n + 1 atoms.
        growth: the sampled growth functions, good for any other p and radius.
        passes, seconds: what it cost.
        audit: the audit of the measure.
        reweighting: how the budget splits, under a re-weighting threat (`ARMOR.expected_loss`).
    """

    loss: str
    threat: ThreatModel
    clean: float
    value: float
    spent: float
    multiplier: float
    measure: DiscreteMeasure = field(repr=False)
    growth: Growth = field(repr=False)
    passes: Passes
    seconds: float
    audit: AuditReport = field(repr=False)
    reweighting: Reweighting | None = None

    def curve(self, p: float, radii: list[float] | Tensor) -> list[float]:
        """Worst-case expected loss at other radii and orders, from the same growth functions."""
        return [self.growth.spend(p, float(radius)).value for radius in radii]


@dataclass(frozen=True, kw_only=True)
class ExpectedLoss:
    """Attack on the expected loss.

    Args:
        loss: "cross-entropy", "margin" or "redlr".
        grid: radii at which every growth function is sampled, besides 0.
        steps: ascent steps a radius (a forward and a backward pass each).

    >>> from wassertight.threats import WassersteinBall
    >>> model = torch.nn.Linear(2, 2)
    >>> _ = model.load_state_dict({"weight": torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), "bias": torch.zeros(2)})
    >>> x, y = torch.tensor([[0.2, 0.0], [0.4, 0.0]]), torch.tensor([0, 0])
    >>> ball = WassersteinBall(radius=0.1, p=1, r=2, bounds=None)
    >>> round(ExpectedLoss(loss="margin")(model, x, y, ball).value, 3)
    -0.4
    """

    loss: str = "cross-entropy"
    grid: int = 12
    steps: int = 12

    def __post_init__(self) -> None:
        check_steps(self.steps, grid=self.grid)
        loss_by_name(self.loss)
        if self.loss.lower() == "dlr":
            raise InputError(
                "the ratio DLR is unbounded at finite distance, so its worst case is infinite; use 'redlr'"
            )

    def __call__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        threat: ThreatModel,
        *,
        batch_size: int | None = None,
        seed: int = 0,
        weights: Tensor | None = None,
        progress: Progress | None = None,
    ) -> LossResult:
        """Attack the expected loss of exactly these samples; arguments as for every attack.

        Raises:
            AuditError: if the measure breaks the threat; that is a defect of this method.
        """
        begun = time.perf_counter()
        check_norm(threat)
        x, y = check_inputs(x, y, threat.bounds)
        mass = check_weights(weights, len(x)).to(x.device)
        loss = loss_by_name(self.loss)
        with ModelQueries(model, batch_size=batch_size) as queries:
            queries.clean_logits(x[:1], y)
            growth = self.grow(queries, x, y, threat, progress=progress)
            passes = queries.passes
            bought = growth.spend(threat.p, threat.radius, mass)
            measure = self._measure(x, growth, bought, mass)
            audit = audit_measure(model, x, y, threat, measure, weights=mass, batch_size=queries.batch_size or 256)
            if not audit.ok:
                raise AuditError(f"expected loss under {threat.name} failed its audit: " + "; ".join(audit.violations))
            value = loss(queries.logits(measure.atoms).double(), y[measure.sources])
        return LossResult(
            loss=self.loss,
            threat=threat,
            clean=float((mass * growth.losses[:, 0]).sum()),
            value=float((measure.weights * value).sum()),
            spent=audit.spent,
            multiplier=bought.multiplier,
            measure=measure,
            growth=growth,
            passes=passes,
            seconds=time.perf_counter() - begun,
            audit=audit,
        )

    def grow(
        self,
        queries: ModelQueries,
        x: Tensor,
        y: Tensor,
        threat: ThreatModel,
        *,
        radii: Sequence[float] | None = None,
        progress: Progress | None = None,
    ) -> Growth:
        """Sample every growth function on the radii (the grid's by default), each ascent warm-started from the last."""
        loss = loss_by_name(self.loss)
        first, _ = self._value(queries, x, y, loss)
        points, losses = [x], [first]
        z = x
        radii = self.radii(x, threat) if radii is None else radii
        for index, radius in enumerate(radii):
            z, value = self._ascend(queries, x, y, z, radius * _GUARD, threat, loss)
            points.append(z)
            losses.append(value)
            if progress is not None:
                progress(index + 1, len(radii))
        stacked = torch.stack(points, 1)
        distance = torch.stack([sample_distances(point, x, threat.r) for point in points], 1)
        order = distance.argsort(dim=1, stable=True)
        at = order.view(*order.shape, *(1,) * (x.ndim - 1)).expand_as(stacked)
        return Growth(
            distances=distance.gather(1, order),
            losses=torch.stack(losses, 1).gather(1, order),
            points=stacked.gather(1, at),
        )

    def radii(self, x: Tensor, threat: ThreatModel) -> list[float]:
        """The grid: only the radius itself for p = inf; otherwise geometric, up to what one sample could be given."""
        if threat.radius == 0:
            return []
        if math.isinf(threat.p):
            return [threat.radius]
        alone = threat.radius * len(x) ** (1 / threat.p)
        top = min(alone, float(farthest(x, threat.r, threat.bounds).max()))
        low = min(threat.radius / _BELOW, top / 2)
        inner = [low * (top / low) ** (k / max(1, self.grid - 1)) for k in range(self.grid)]
        return sorted({*inner, min(threat.radius, top)})

    def _ascend(
        self,
        queries: ModelQueries,
        x: Tensor,
        y: Tensor,
        z: Tensor,
        radius: float,
        threat: ThreatModel,
        loss: LossFunction,
    ) -> tuple[Tensor, Tensor]:
        """Projected steepest ascent with steps falling from the radius to a hundredth; the best iterate of each sample.

        Starts from the best point of the smaller ball, stretched out to the new sphere.
        """
        size = norm(z - x, threat.r).clamp_min(torch.finfo(x.dtype).tiny)
        stretched = project_ball((z - x) * per_sample((radius / size).clamp_max(1e6), x), radius, threat.r)
        best, top = z, torch.full((len(x),), -torch.inf, dtype=torch.float64, device=x.device)
        z = project_box(x + stretched, threat.bounds)
        for step in range(self.steps + 1):
            value, g = self._value(queries, z, y, loss)
            better = value > top
            top = torch.where(better, value, top)
            best = torch.where(per_sample(better.to(x.dtype), x) > 0, z, best)
            if step < self.steps:
                move = z + cosine(_first(threat.r), 0.01, step, self.steps) * radius * _direction(g, threat.r) - x
                z = project_box(x + project_ball(move, radius, threat.r), threat.bounds)
        return best, top

    def _value(self, queries: ModelQueries, z: Tensor, y: Tensor, loss: LossFunction) -> tuple[Tensor, Tensor]:
        """Loss of every sample in float64, and its gradient; a loss that is not finite counts as -inf."""
        logits, _, g = queries.gradient(z, y, loss)
        return torch.nan_to_num(loss(logits.double(), y), nan=-1e300, posinf=-1e300, neginf=-1e300), g

    def _measure(self, x: Tensor, growth: Growth, bought: SegmentAllocation, mass: Tensor) -> DiscreteMeasure:
        rows = torch.arange(len(x), device=x.device)
        low, high = growth.points[rows, bought.lower], growth.points[rows, bought.upper]
        return DiscreteMeasure.mixture(low, high, torch.where(bought.lower != bought.upper, bought.share, 0.0), mass)


def _first(r: float) -> float:
    """First step relative to the radius: long under l_1, whose projection throws most of it away."""
    return 2.0 if r == 1 else 1.0


def _direction(g: Tensor, r: float) -> Tensor:
    """Steepest direction; under l_1 the l_2-normalised gradient, which the projection makes sparse as it should be."""
    if r == 1:
        return g / per_sample(norm(g, 2.0).clamp_min(torch.finfo(g.dtype).tiny), g)
    return dual_direction(g, r)
