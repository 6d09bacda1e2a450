"""From found flips to the worst law of a re-weighting threat: weights and moves bought together, split and described."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from wassertight.threats import AuditReport, Decomposition, DivergenceBall
from wassertight.transport import DiscreteMeasure, FlipDistances, JointAllocation, worst_error


@dataclass(frozen=True, kw_only=True)
class Reweighting:
    """How a law in a divergence ball spends its budget.

    Attributes:
        spent_divergence, spent_transport: the two parts, recomputed by the audit from the law itself.
        lam: price of the budget, the gain a unit; None where the law was not made by a dual.
        effective: effective number of samples, `n / E[w**2]`.
        density: w, mass of every sample over its own (n,), moved or not.
        decomposition: worst-case accuracies of the found flips with either freedom alone.
    """

    spent_divergence: float
    spent_transport: float
    lam: float | None
    effective: float
    density: Float[Tensor, " n"] = field(repr=False)
    decomposition: Decomposition

    def heaviest(self, count: int = 5) -> list[int]:
        """Samples whose mass grew most, heaviest first."""
        order = self.density.argsort(descending=True, stable=True)
        return [int(index) for index in order[:count]]


def buy(ball: DivergenceBall, flips: FlipDistances, points: Tensor, x: Tensor) -> tuple[JointAllocation, Tensor]:
    """The tilted knapsack on found flips; also the price of every flip (n,)."""
    costs = ball.flip_costs(flips, points, x)
    return worst_error(costs, ball.radius, ball.divergence, flips.weights), costs


def worst_law(x: Tensor, points: Tensor, flips: FlipDistances, bought: JointAllocation) -> DiscreteMeasure:
    """Atoms at samples and flips; samples that lose all their mass are left out."""
    moved = torch.where(bought.lower == 1, 1.0, torch.where(bought.upper == 1, bought.share, 0.0))
    moved = torch.where(flips.values > 0, moved, 0.0)
    mass = flips.weights * bought.density
    return _without_empty(DiscreteMeasure.mixture(x, points, moved, mass / mass.sum()))


def atoms_of(points: Tensor, bought: JointAllocation, mass: Tensor) -> DiscreteMeasure:
    """The law of an allocation over candidate points (n, k, *features): an atom a sample, two for the split one."""
    rows = torch.arange(len(points), device=points.device)
    share = torch.where(bought.lower != bought.upper, bought.share, 0.0)
    eta = mass * bought.density
    low, high = points[rows, bought.lower], points[rows, bought.upper]
    return _without_empty(DiscreteMeasure.mixture(low, high, share, eta / eta.sum()))


def density_of(measure: DiscreteMeasure, mass: Tensor) -> Tensor:
    """Mass of the atoms of every sample over the sample's own, (n,)."""
    eta = torch.zeros_like(mass).index_add_(0, measure.sources.to(mass.device), measure.weights.to(mass.device))
    return torch.where(mass > 0, eta / mass.clamp_min(1e-300), 0.0)


def _without_empty(law: DiscreteMeasure) -> DiscreteMeasure:
    kept = law.weights > 0
    return DiscreteMeasure(atoms=law.atoms[kept], weights=law.weights[kept], sources=law.sources[kept])


def describe(
    ball: DivergenceBall,
    flips: FlipDistances,
    costs: Tensor,
    measure: DiscreteMeasure,
    audit: AuditReport,
    lam: float | None,
) -> Reweighting:
    """What an audited law spends and which samples it leans on."""
    mass = flips.weights
    density = density_of(measure, mass)
    divergence, transport = audit.parts or (0.0, 0.0)
    return Reweighting(
        spent_divergence=divergence, spent_transport=transport, lam=lam,
        effective=len(mass) / float((mass * density**2).sum()), density=density,
        decomposition=ball.decompose(flips, costs),
    )  # fmt: skip
