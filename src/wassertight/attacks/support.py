"""How many atoms a worst-case law needs: N, 2N with one stretch, n + 1, or K a sample, from the same points.

2510.10000 leaves open how large the support of a good attack must be. For the 0-1 loss the answer follows from the
knapsack (docs, "How many atoms?"): with the distances fixed, n + 1 atoms attain the optimum over all laws whose moved
atoms come from the pool, however many a sample has; one atom a sample without splitting is worse by less than 1/n (equal
weights); 2N atoms with one common stretch lose much more. This file measures all four on the same pool.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from wassertight.attacks.base import Problem, flip_distances
from wassertight.attacks.minimum_norm import Effort, MinimumNorm
from wassertight.inputs import check_inputs
from wassertight.queries import ModelQueries
from wassertight.threats import ThreatModel, audit_measure
from wassertight.transport import DiscreteMeasure, FlipDistances, allocate_segments
from wassertight.types import AuditError, InputError, Model, Progress


@dataclass(frozen=True, kw_only=True)
class Support:
    """One kind of law: its name, atoms of positive mass, audited accuracy and cost."""

    name: str
    atoms: int
    accuracy: float
    spent: float


def compare_supports(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    searches: int = 3,
    passes: Effort = 200,
    batch_size: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Support]:
    """Worst accuracies with N, 2N, n + 1 and K atoms a sample, all from one pool of flips, all audited.

    Args:
        threat: a Wasserstein ball with finite p (with p = inf one atom a sample is always enough).
        searches: K, independent minimum-norm searches (seeds) that each give a candidate atom to every sample.
        passes: of each search.
        batch_size, seed, progress: as for every attack.

    Returns:
        four rows: "N atoms, none split", "2N atoms, one stretch", "n + 1 atoms, knapsack", "K atoms a sample, LP".

    Raises:
        InputError: for p = inf or fewer than one search.
    """
    if math.isinf(threat.p) or searches < 1:
        raise InputError(
            f"support sizes differ only for finite p, and searches must be >= 1; got {threat.name}, {searches}"
        )
    x, y = check_inputs(x, y, threat.bounds)
    n, p, radius = len(x), threat.p, threat.radius
    mass = torch.full((n,), 1 / n, dtype=torch.float64, device=x.device)
    with ModelQueries(model, batch_size=batch_size) as queries:
        right = queries.clean_logits(x, y).argmax(1) == y
        pool, distances = [], []
        for index in range(searches):
            problem = Problem(queries=queries, x=x, y=y, threat=threat, seed=seed + index)
            points = MinimumNorm(passes=passes).find(problem).points
            pool.append(points)
            distances.append(flip_distances(queries.logits, x, y, points, threat, right))
            if progress is not None:
                progress(index + 1, searches)
        stacked = torch.stack(distances, 1)
        nearest, which = stacked.min(1)
        points = torch.stack(pool, 1)[torch.arange(n, device=x.device), which]
        flips = FlipDistances.attacked(nearest, mass)
        shares = {
            "N atoms, none split": _whole(flips, p, radius),
            "2N atoms, one stretch": _stretched(flips, p, radius),
            "n + 1 atoms, knapsack": torch.where(nearest > 0, flips.allocate(p, radius).fractions, 0.0),
        }
        laws = {name: DiscreteMeasure.mixture(x, points, share, mass) for name, share in shares.items()}
        laws["K atoms a sample, LP"] = _many(x, pool, stacked, p, radius, mass)
        rows = []
        for name, law in laws.items():
            audit = audit_measure(model, x, y, threat, law, batch_size=batch_size or 256)
            if not audit.ok:
                raise AuditError(f"{name} under {threat.name} failed its audit: " + "; ".join(audit.violations))
            rows.append(Support(name=name, atoms=len(law), accuracy=audit.accuracy, spent=audit.spent))
    return rows


def _whole(flips: FlipDistances, p: float, radius: float) -> Tensor:
    """Fractions of the knapsack without the split sample."""
    fractions = flips.allocate(p, radius).fractions
    return torch.where((fractions < 1) | (flips.values == 0), 0.0, fractions)


def _stretched(flips: FlipDistances, p: float, radius: float) -> Tensor:
    """The same fraction stretch**-p of every flip within stretch * radius, at the best stretch >= 1."""
    u = flips.values
    candidates = u[torch.isfinite(u) & (u > radius)]
    stretches = torch.cat((torch.ones(1, dtype=u.dtype, device=u.device), candidates / radius))
    reached = ((u[None, :] <= stretches[:, None] * radius) & (u > 0)[None, :]).double()
    gain = stretches**-p * (reached * flips.weights[None, :]).sum(1)
    best = int(gain.argmax())
    return reached[best] * float(stretches[best] ** -p) * (1 - 1e-12)


def _many(x: Tensor, pool: list[Tensor], distances: Tensor, p: float, radius: float, mass: Tensor) -> DiscreteMeasure:
    """The optimum when every sample may use all of its points at once: pooled majorants of 0-1 gains."""
    costs = torch.cat((torch.zeros_like(distances[:, :1]), distances / radius), 1) ** p
    gains = torch.where(distances > 0, 1.0, 0.0)
    gains = torch.cat((torch.zeros_like(gains[:, :1]), torch.where(torch.isfinite(distances), gains, 0.0)), 1)
    costs, order = costs.sort(dim=1, stable=True)
    gains = gains.gather(1, order)
    bought = allocate_segments(costs, gains, 1.0, mass)
    rows = torch.arange(len(x), device=x.device)
    stacked = torch.stack((x, *pool), 1)
    at = [stacked[rows, order.gather(1, index[:, None]).squeeze(1)] for index in (bought.lower, bought.upper)]
    share = torch.where(bought.lower != bought.upper, bought.share, 0.0) * (1 - 1e-12)
    return DiscreteMeasure.mixture(at[0], at[1], share, mass)
