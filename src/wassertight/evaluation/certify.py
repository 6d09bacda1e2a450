"""The certified side of a run: one certificate call a unit of samples, started where the attack ended."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from wassertight.certificates import Auto, BranchAndBound, LinearPropagation
from wassertight.evaluation.conclusion import Side
from wassertight.evaluation.plan import Plan, Unit
from wassertight.evaluation.store import Outcome, Store, Watch
from wassertight.evaluation.units import carry_out
from wassertight.records import Flag
from wassertight.types import UnsupportedLayerError


def certify_units(plan: Plan, store: Store, watch: Watch, known: dict[float, Tensor]) -> Side:
    """Radii of every sample, with attack distances (n,) by norm as upper ends of the search."""

    def work(unit: Unit, step: Callable[[int, int], None]) -> Outcome:
        part = slice(unit.start, unit.stop)
        begun = time.perf_counter()
        torch.manual_seed(unit.seed)
        bound = _first(plan.certificate)(
            plan.model,
            plan.x[part],
            plan.y[part],
            unit.threat,
            batch_size=plan.batch_size,
            upper=known[unit.threat.r][part],
            progress=step,
        )
        facts = {
            "forward": bound.passes.forward,
            "backward": bound.passes.backward,
            "steps": bound.steps,
            "status": bound.status.value,
            "closed": bound.radii.closed,
            "assumptions": list(bound.assumptions),
            "seconds": time.perf_counter() - begun,
        }
        return Outcome(tensors={"radii": bound.radii.values}, facts=facts)

    return carry_out(plan, store, watch, list(plan.units("certificate")), work)


def _first(method: Any) -> Any:
    """What certifies every sample: for "auto" its cheap part."""
    return LinearPropagation(precision=method.precision) if isinstance(method, Auto) else method


def uppers(plan: Plan, attack: Side) -> dict[float, Tensor]:
    """For every norm the distances an attack found, inf where none is known or they depend on radii."""
    found = {r: torch.full((len(plan.x),), torch.inf, dtype=torch.float64) for r in plan.norms}
    for unit in plan.units("attack"):
        if unit.shared and unit.start == 0:
            points = attack.joined(unit.stage, "points")
            distance = unit.threat.cost(points.to(plan.x.device), plan.x).cpu()
            found[unit.threat.r] = torch.where(distance > 0, distance.to(torch.float64), torch.inf)
    return found


def probe(plan: Plan, store: Store) -> None:
    """Certify one sample roughly, so that a model the certificate cannot read is refused before the attack has run."""
    first = next(plan.units("certificate"), None)
    if first is None or (store.path is not None and store.load(first.key) is not None):
        return
    method = _first(plan.certificate)
    method = LinearPropagation(precision=method.precision) if isinstance(method, BranchAndBound) else method
    if dataclasses.is_dataclass(method) and any(item.name == "steps" for item in dataclasses.fields(method)):
        method = dataclasses.replace(method, steps=1)  # type: ignore[type-var]
    method(plan.model, plan.x[:1], plan.y[:1], first.threat)


def no_certificate(plan: Plan, error: UnsupportedLayerError) -> Flag:
    """Says that the certified side is missing, and why."""
    return Flag(
        name="no-certificate",
        message=f"{plan.certificate_name} cannot read the model, so nothing is certified: {error}",
        remedy="replace the operation, or name another certificate",
    )
