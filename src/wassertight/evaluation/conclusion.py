"""From finished units to the record: audited results, certified values, soundness checks, curves and summaries."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from wassertight import __version__
from wassertight.attacks.base import AttackResult, Found, conclude, flip_distances
from wassertight.certificates import proved_accuracy
from wassertight.evaluation.plan import Plan
from wassertight.evaluation.reweighting import budget_curves, describe_threat
from wassertight.evaluation.sanity import outcome_flags
from wassertight.evaluation.store import Outcome
from wassertight.evaluation.summaries import Known, draw_curves, summarise_brackets, summarise_distances
from wassertight.evaluation.targets import identity, shared_threat
from wassertight.geometry import norm_name
from wassertight.geometry.norms import per_sample_mask
from wassertight.queries import ModelQueries
from wassertight.records import Audit, Flag, PassCount, Record, Result, Seconds
from wassertight.threats import DivergenceBall, ImageWasserstein, ThreatModel, moves_alone
from wassertight.transport import DiscreteMeasure, FlipDistances
from wassertight.transport.exact import image_flow
from wassertight.types import AuditError, Status

_DRAWN = 6
"""Images whose moving light is kept for the picture."""
_ROUNDING = 1e-6
"""Relative excess of a certified radius over an attack distance that is rounding, not a contradiction."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """What one kind of units left, by stage and in sample order."""

    outcomes: Mapping[str, list[Outcome]]

    def joined(self, stage: str, name: str) -> Tensor:
        """One tensor over all samples."""
        return torch.cat([outcome.tensors[name] for outcome in self.outcomes[stage]])

    def passes(self, stage: str | None = None) -> PassCount:
        parts = self._parts(stage)
        return PassCount(
            forward=sum(part.facts["forward"] for part in parts), backward=sum(part.facts["backward"] for part in parts)
        )

    def seconds(self, stage: str | None = None) -> float | None:
        parts = self._parts(stage)
        return round(sum(part.facts["seconds"] for part in parts), 3) if parts else None

    def _parts(self, stage: str | None) -> list[Outcome]:
        stages = list(self.outcomes) if stage is None else [stage] if stage in self.outcomes else []
        return [outcome for name in stages for outcome in self.outcomes[name]]


@dataclass(kw_only=True)
class _Findings:
    violations: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, count: int, text: str) -> None:
        self.count += count
        self.violations.append(text)


def conclude_run(
    plan: Plan, queries: ModelQueries, clean: Tensor, attack: Side, certificate: Side, flags: list[Flag]
) -> tuple[Record, dict[str, Tensor]]:
    """The record and the arrays of a run whose units are all there.

    Every number of the attacked side is recomputed from the stored points by fresh passes and audited; certified
    radii are checked against attack distances sample by sample. A contradiction is reported, never hidden.
    """
    right = clean.argmax(1) == plan.y
    findings = _Findings()
    norms = {r: _pool(plan, queries, right, attack, certificate, r, findings) for r in plan.norms}
    results, arrays = [], _arrays(plan, norms)
    for index, threat in enumerate(plan.threats):
        known = norms[threat.r]
        stages = {kind: stage_of(plan, kind, threat) for kind in ("attack", "certificate")}
        found = _attacked(plan, queries, attack, stages["attack"], threat, known, findings)
        accuracy = float(right.double().mean())
        attacked = None if found is None else min(found.accuracy, accuracy)
        certified = None if known.certified is None else proved_accuracy(known.certified, threat)
        if attacked is not None and certified is not None:
            if certified > attacked + _ROUNDING:
                findings.add(1, f"{threat.name}: certified accuracy {certified} is above the attacked one, {attacked}")
            else:
                certified = min(certified, attacked)
        spent = [side.passes(stages[kind]) for kind, side in (("attack", attack), ("certificate", certificate))]
        results.append(
            Result(
                threat=threat.name,
                p=threat.order,
                r=threat.r,
                radius=threat.radius,
                clean=accuracy,
                attacked=attacked,
                certified=certified,
                spent=None if found is None else found.spent,
                passes=PassCount.total(*spent),
                seconds=Seconds(
                    attack=attack.seconds(stages["attack"]), certificate=certificate.seconds(stages["certificate"])
                ),
                reweighting=describe_threat(threat, found, known, plan.x, plan.y),
            )
        )
        if found is not None:
            arrays |= _law(found.measure, index)
    arrays |= moved_light(plan, next(iter(norms.values())))
    moves = [moves_alone(threat) for threat in plan.threats]
    summaries = {norm_name(r): summarise_distances(known, right) for r, known in norms.items()}
    record = Record(
        command=plan.command,
        model=plan.model_name,
        data=plan.data_name,
        n=len(plan.x),
        seed=plan.seed,
        versions={"wassertight": __version__, "torch": str(torch.__version__), "python": platform.python_version()},
        results=results,
        distances=next(iter(summaries.values())),
        distances_by_norm=summaries,
        audit=Audit(ok=not findings.count, violations=findings.count, details=findings.violations),
        flags=[*flags, *_masking(plan, norms, right)],
        device=plan.device.type,
        settings={key: value for key, value in plan.configuration.items() if key not in ("model", "data", "n", "seed")},
        methods={"attack": plan.attack_name, "certificate": plan.certificate_name if certificate.outcomes else None},
        assumptions=_assumptions(plan, certificate),
        passes=PassCount.total(attack.passes(), certificate.passes()),
        seconds=Seconds(attack=attack.seconds(), certificate=certificate.seconds()),
        arrays="arrays.safetensors",
        curves=[*draw_curves(moves, norms), *budget_curves(plan.threats, norms, plan.x)],
        brackets=summarise_brackets(moves, norms),
    )
    return record, arrays


def stage_of(plan: Plan, kind: str, threat: ThreatModel) -> str | None:
    """The stage whose units serve a threat."""
    asked = identity(plan.target(kind, threat))
    for unit in plan.units("attack" if kind == "attack" else "certificate"):
        same = identity(unit.threat) == asked
        if unit.threat.r == threat.r and (unit.shared or same):
            return unit.stage
    return None


def _pool(
    plan: Plan, queries: ModelQueries, right: Tensor, attack: Side, certificate: Side, r: float, findings: _Findings
) -> Known:
    """Nearest flip of every sample over all attack stages of a norm, and its proved radius."""
    known = Known()
    threat = shared_threat(plan.threats, r)
    stages = dict.fromkeys(unit.stage for unit in plan.units("attack") if unit.threat.r == r)
    for stage in stages:
        points = attack.joined(stage, "points").to(plan.x.device)
        distances = flip_distances(queries.logits, plan.x, plan.y, points, threat, right)
        flipped = torch.isfinite(distances) & (distances > 0)
        points = torch.where(per_sample_mask(flipped, points), points, plan.x)
        if known.points is None or known.attacked is None:
            known.points, known.attacked = points, FlipDistances.attacked(distances)
        else:
            nearer = distances < known.attacked.values
            known.points = torch.where(per_sample_mask(nearer, points), points, known.points)
            known.attacked = FlipDistances.attacked(torch.minimum(distances, known.attacked.values))
    stage = f"certificate-{threat.ground}"
    if stage in certificate.outcomes:
        radii = certificate.joined(stage, "radii").to(plan.x.device)
        closed = all(outcome.facts["closed"] for outcome in certificate.outcomes[stage])
        if known.attacked is not None:
            upper = known.attacked.values
            above = radii > upper * (1 + _ROUNDING) + _ROUNDING / 10
            if bool(above.any()):
                first = int(above.nonzero()[0, 0])
                findings.add(
                    int(above.sum()),
                    f"{norm_name(r)}: {int(above.sum())} certified radii exceed the distance of a found flip, "
                    f"first at sample {first} ({float(radii[first]):.9g} > {float(upper[first]):.9g})",
                )
            else:
                radii = torch.minimum(radii, upper)
        known.certified = FlipDistances.certified(radii, closed=closed)
    return known


def _attacked(
    plan: Plan,
    queries: ModelQueries,
    attack: Side,
    stage: str | None,
    threat: ThreatModel,
    known: Known,
    findings: _Findings,
) -> AttackResult | None:
    """The audited result for one threat; a method's own measure stands, otherwise pooled flips are bought afresh."""
    if stage is None or known.points is None:
        return None
    outcomes = attack.outcomes[stage]
    measure = _stored_measure(outcomes[0], plan.x.device) if len(outcomes) == 1 else None
    published = getattr(plan.attack, "mode", "default") == "reference"
    points = attack.joined(stage, "points").to(plan.x.device) if published else known.points
    found = Found(
        points=points,
        steps=max(outcome.facts["steps"] for outcome in outcomes),
        status=Status(outcomes[-1].facts["status"]),
        measure=measure,
        price=outcomes[0].facts.get("price"),
    )
    try:
        return conclude(plan.attack_name or "attack", queries, plan.x, plan.y, threat, found)
    except AuditError as error:
        findings.add(1, str(error))
        return None


def _stored_measure(outcome: Outcome, device: torch.device) -> DiscreteMeasure | None:
    if "atoms" not in outcome.tensors:
        return None
    parts = {name: outcome.tensors[name].to(device) for name in ("atoms", "weights", "sources")}
    return DiscreteMeasure(**parts)


def _arrays(plan: Plan, norms: Mapping[float, Known]) -> dict[str, Tensor]:
    n = len(plan.x)
    arrays = {"x": plan.x, "y": plan.y, "weight": torch.full((n,), 1 / n, dtype=torch.float64)}
    for index, (r, known) in enumerate(norms.items()):
        suffix = f".{norm_name(r)}" if index else ""
        if known.attacked is not None and known.points is not None:
            arrays |= {f"attacked_distance{suffix}": known.attacked.values, f"z{suffix}": known.points}
        if known.certified is not None:
            arrays[f"certified_distance{suffix}"] = known.certified.values
    return {name: tensor.detach().cpu().clone() for name, tensor in arrays.items()}


def moved_light(plan: Plan, known: Known) -> dict[str, Tensor]:
    """Image threats: how light moves in the first few flips, for the picture."""
    threat = plan.threats[0]
    if not isinstance(threat, ImageWasserstein) or known.attacked is None or known.points is None:
        return {}
    found = known.attacked.values
    rows = (torch.isfinite(found) & (found > 0)).nonzero().squeeze(1)[:_DRAWN]
    if len(rows) == 0:
        return {}
    return {"flow": image_flow(plan.x[rows], known.points[rows], r=threat.r), "flow.images": rows.cpu()}


def _law(measure: DiscreteMeasure, index: int) -> dict[str, Tensor]:
    """The worst-case law of one result: mass and source of every atom; its place follows from `z` or is stored."""
    return {
        f"law.{index}.atoms": measure.atoms.detach().cpu().clone(),
        f"law.{index}.weights": measure.weights.detach().cpu().clone(),
        f"law.{index}.sources": measure.sources.detach().cpu().clone(),
    }


def _masking(plan: Plan, norms: Mapping[float, Known], right: Tensor) -> list[Flag]:
    bounds, features = plan.threats[0].bounds, plan.x[0].numel()
    if bounds is None or isinstance(plan.threats[0], ImageWasserstein):
        return []
    half = (bounds[1] - bounds[0]) / 2
    attacked = {norm_name(r): known.attacked.values[right] for r, known in norms.items() if known.attacked is not None}
    return outcome_flags(attacked, {norm_name(r): half if math.isinf(r) else half * features ** (1 / r) for r in norms})


def _assumptions(plan: Plan, certificate: Side) -> list[str]:
    parts = [outcome for outcomes in certificate.outcomes.values() for outcome in outcomes]
    texts = [text for outcome in parts for text in outcome.facts["assumptions"]]
    if parts and any(isinstance(threat, DivergenceBall) for threat in plan.threats):
        texts.append(
            "re-weighting threats: no mass appears where there is no sample; bounds are duals in float64, moved outward "
            "by 1e-9 relatively"
        )
    return list(dict.fromkeys(texts))
