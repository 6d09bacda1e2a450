"""The certificate "auto": branch and bound only on samples that can still move a threat's certified accuracy."""

from __future__ import annotations

import time

import torch

from wassertight.certificates import Auto, BranchAndBound
from wassertight.certificates.propagation import matters
from wassertight.evaluation.conclusion import Side
from wassertight.evaluation.plan import Plan, norm_label, shared_threat
from wassertight.evaluation.store import Outcome, Store, Watch
from wassertight.queries import ModelQueries


def sharpen(
    plan: Plan, store: Store, watch: Watch, queries: ModelQueries, certificate: Side, upper: dict[float, torch.Tensor]
) -> Side:
    """The certified side with the samples that matter searched one after the other; every search is stored.

    Args:
        upper: for every norm attack distances (n,), inf where none is known.
    """
    auto = plan.certificate
    assert isinstance(auto, Auto)
    right = (queries.clean_logits(plan.x, plan.y).argmax(1) == plan.y).nonzero().squeeze(1).cpu()
    weights = torch.full((len(right),), 1 / len(plan.x), dtype=torch.float64)
    method = BranchAndBound(seconds=auto.seconds, precision=auto.precision)
    outcomes, end = dict(certificate.outcomes), time.perf_counter() + (auto.total or float("inf"))
    for r in plan.norms:
        stage, ball = f"certificate-{norm_label(r)}", shared_threat(plan.threats, r)
        radii, parts = certificate.joined(stage, "radii").clone(), list(outcomes[stage])
        threats = [threat for threat in plan.threats if threat.r == r]
        searched: set[int] = set()
        while True:
            rows = dict.fromkeys(
                int(right[k])
                for threat in threats
                for k in matters(radii[right], upper[r][right], weights, threat)
                if int(right[k]) not in searched
            )
            watch(f"sharpen-{norm_label(r)}", len(searched), len(searched) + len(rows))
            if not rows:
                break
            row = next(iter(rows))
            outcome = store.load(f"sharpen-{norm_label(r)}-{row:07d}")
            if outcome is None:
                if time.perf_counter() > end:
                    break
                part, begun = slice(row, row + 1), time.perf_counter()
                found = method(plan.model, plan.x[part], plan.y[part], ball, upper=upper[r][part])
                facts = dict(parts[0].facts) | {
                    "forward": found.passes.forward,
                    "backward": found.passes.backward,
                    "seconds": time.perf_counter() - begun,
                }
                outcome = Outcome(tensors={"radii": found.radii.values.cpu()}, facts=facts)
                store.save(f"sharpen-{norm_label(r)}-{row:07d}", outcome)
            radii[row] = torch.maximum(radii[row], outcome.tensors["radii"][0])
            parts.append(outcome)
            searched.add(row)
        if searched:
            facts = dict(parts[0].facts) | {
                key: sum(part.facts[key] for part in parts) for key in ("forward", "backward", "seconds")
            }
            outcomes[stage] = [Outcome(tensors={"radii": radii}, facts=facts)]
    return Side(outcomes=outcomes)
