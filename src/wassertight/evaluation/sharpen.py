"""The certificate "auto": branch and bound only on samples that can still move a threat's certified accuracy."""

from __future__ import annotations

import time

import torch

from wassertight.certificates import Auto, Task
from wassertight.certificates.propagation import Reading, goal, in_turn
from wassertight.evaluation.conclusion import Side
from wassertight.evaluation.plan import Plan
from wassertight.evaluation.store import Outcome, Store, Watch
from wassertight.evaluation.targets import shared_threat
from wassertight.geometry import norm_name
from wassertight.queries import ModelQueries
from wassertight.threats import moves_alone


def sharpen(
    plan: Plan, store: Store, watch: Watch, queries: ModelQueries, certificate: Side, upper: dict[float, torch.Tensor]
) -> Side:
    """The certified side with the samples that matter searched one after the other; every search is stored.

    Args:
        upper: for every norm attack distances (n,), inf where none is known.
    """
    auto = plan.certificate
    assert isinstance(auto, Auto)
    clean = queries.clean_logits(plan.x, plan.y)
    right = (clean.argmax(1) == plan.y).nonzero().squeeze(1)
    outcomes, end, reading = dict(certificate.outcomes), auto.deadline(), None
    for r in plan.norms:
        label, search = norm_name(r), None
        stage, threats = f"certificate-{label}", [moves_alone(one) for one in plan.threats if one.r == r]
        radii, parts = certificate.joined(stage, "radii").clone(), list(outcomes[stage])
        rows = right.cpu()
        task = Task(
            model=plan.model, x=plan.x[right], y=plan.y[right], threat=shared_threat(plan.threats, r),
            weights=torch.full((len(rows),), 1 / len(plan.x), dtype=torch.float64), upper=upper[r][rows],
            dtype=clean.dtype, batch_size=plan.batch_size,
        )  # fmt: skip
        known, done = radii[rows], 0
        for done, (k, left) in enumerate(in_turn(known, task.upper, task.weights, threats), 1):
            watch(f"sharpen-{label}", done - 1, done + left)
            key = f"sharpen-{label}-{int(rows[k]):07d}"
            outcome = store.load(key)
            if outcome is None:
                if time.perf_counter() > end:
                    break
                with torch.no_grad():
                    reading = reading or Reading.of(task, auto.precision)
                    search = search or auto.search(task, reading)
                    begun, before = time.perf_counter(), search.evaluations
                    found = search.run(task.x[k], task.y[k], float(known[k]), float(task.upper[k]), goal(threats))
                facts = {"forward": 0, "backward": search.evaluations - before, "seconds": time.perf_counter() - begun}
                outcome = Outcome(tensors={"radii": torch.tensor([found], dtype=radii.dtype)}, facts=facts)
                store.save(key, outcome)
            known[k] = torch.maximum(known[k], outcome.tensors["radii"][0])
            parts.append(outcome)
        if done:
            watch(f"sharpen-{label}", done, done)
            radii[rows] = known
            facts = dict(parts[0].facts) | {
                name: sum(part.facts[name] for part in parts) for name in ("forward", "backward", "seconds")
            }
            outcomes[stage] = [Outcome(tensors={"radii": radii}, facts=facts)]
    return Side(outcomes=outcomes)
