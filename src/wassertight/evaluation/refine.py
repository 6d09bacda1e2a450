"""The preset "auto": strong searches only where the bracket is open and a threat's value depends on it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from wassertight.attacks import MinimumNorm, Problem
from wassertight.attacks.base import flip_distances
from wassertight.evaluation.conclusion import Side
from wassertight.evaluation.plan import Plan
from wassertight.evaluation.store import Outcome, Store, Watch
from wassertight.evaluation.targets import shared_threat
from wassertight.geometry import norm_name
from wassertight.queries import ModelQueries
from wassertight.threats import ThreatModel, moves_alone
from wassertight.transport import FlipDistances

_CLOSED = 0.01
"""A bracket narrower than this, relatively, counts as closed."""


def open_samples(found: Tensor, proved: Tensor, threats: Sequence[ThreatModel]) -> Tensor:
    """Samples whose distance may still fall and change the attacked value of a threat, mask (n,).

    Args:
        found: flip distances of the attack (n,), inf where none is known, 0 where already misclassified.
        proved: certified lower bounds (n,), 0 where there is none.

    For p = inf those with proved < radius < found; for a finite p those whose lower bound is below the distance up to
    which the knapsack buys now: it never buys beyond, however much other samples fall.
    """
    ajar = (found > proved * (1 + _CLOSED)) & (found > 0)
    matters = torch.zeros_like(ajar)
    for threat in threats:
        if math.isinf(threat.order):
            matters |= (proved < threat.radius) & (found > threat.radius)
        else:
            bought = FlipDistances.attacked(found).allocate(threat.order, threat.radius).threshold
            matters |= proved < bought
    return ajar & matters


def refine(plan: Plan, store: Store, watch: Watch, queries: ModelQueries, attack: Side, certificate: Side) -> Side:
    """The attacked side with the open samples of every norm searched again at the strong preset; resumable."""
    right = queries.clean_logits(plan.x, plan.y).argmax(1) == plan.y
    outcomes = dict(attack.outcomes)
    for r in plan.norms:
        stage, threat = f"attack-{norm_name(r)}", shared_threat(plan.threats, r)
        points = attack.joined(stage, "points").to(plan.x.device)
        found = flip_distances(queries.logits, plan.x, plan.y, points, threat, right)
        proved = torch.zeros_like(found)
        if certificate.outcomes:
            proved = certificate.joined(f"certificate-{norm_name(r)}", "radii").to(found)
        chosen = (
            open_samples(found, proved, [moves_alone(one) for one in plan.threats if one.r == r]).nonzero().squeeze(1)
        )
        parts = list(outcomes[stage])
        for begin in range(0, len(chosen), plan.batch_size):
            rows = chosen[begin : begin + plan.batch_size]
            key = f"refine-{norm_name(r)}-{begin:07d}"
            watch(f"refine-{norm_name(r)}", begin, len(chosen))
            outcome = store.load(key)
            if outcome is None or len(outcome.tensors.get("points", ())) != len(rows):
                outcome = _search(plan, rows, threat, points[rows], proved[rows])
                store.save(key, outcome)
            points[rows] = outcome.tensors["points"].to(points)
            parts.append(outcome)
        watch(f"refine-{norm_name(r)}", len(chosen), len(chosen))
        if len(chosen):
            outcomes[stage] = [Outcome(tensors={"points": points.cpu()}, facts=_sum(parts))]
    return Side(outcomes=outcomes)


def _search(plan: Plan, rows: Tensor, threat: ThreatModel, points: Tensor, proved: Tensor) -> Outcome:
    begun = time.perf_counter()
    with ModelQueries(plan.model, batch_size=plan.batch_size) as queries:
        torch.manual_seed(plan.seed)
        problem = Problem(queries=queries, x=plan.x[rows], y=plan.y[rows], threat=threat, seed=plan.seed)
        found = MinimumNorm(passes="strong").improve(problem, points, proved * (1 + _CLOSED))
        passes = queries.passes
    facts = {"forward": passes.forward, "backward": passes.backward, "steps": found.steps, "status": found.status.value}
    return Outcome(tensors={"points": found.points.cpu()}, facts={**facts, "seconds": time.perf_counter() - begun})


def _sum(parts: Sequence[Outcome]) -> dict[str, object]:
    facts: dict[str, object] = {key: sum(p.facts[key] for p in parts) for key in ("forward", "backward", "seconds")}
    return {**facts, "steps": max(part.facts["steps"] for part in parts), "status": parts[-1].facts["status"]}
