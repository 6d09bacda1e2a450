"""The record of a run on a smoothed classifier: both sides of its bracket, checked image by image, curves and settings."""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from wassertight import __version__
from wassertight.certificates import Certificate, SmoothedCertificate, Verdict
from wassertight.certificates.smoothing import NoisyVoteCertificate
from wassertight.certificates.smoothing.smoothed import Poll
from wassertight.evaluation.conclusion import moved_light, stage_of
from wassertight.evaluation.plan import Plan
from wassertight.evaluation.smoothed_attack import AttackedSmoothing
from wassertight.evaluation.summaries import Known, summarise_brackets, summarise_distances
from wassertight.geometry import norm_name
from wassertight.records import Audit, Curve, Flag, PassCount, Record, Result, Seconds
from wassertight.threats import ThreatModel
from wassertight.transport import FlipDistances

_GRID, _BINS, _BEYOND = 129, 24, 1.25
_ROUNDING = 1e-6


def conclude_smoothed(
    plan: Plan,
    poll: Poll | None,
    found: Sequence[Certificate],
    attacked: AttackedSmoothing | None,
    flags: list[Flag],
) -> tuple[Record, dict[str, Tensor]]:
    """Record and arrays; a certified radius beyond a confirmed flip is a violation, never hidden."""
    first = found[0] if found else None
    radii = first.radii if isinstance(first, SmoothedCertificate) else None
    nearest = None if attacked is None else attacked.known.attacked
    violations = [] if radii is None or nearest is None else _contradictions(radii, nearest, plan)
    known = Known(certified=radii, attacked=nearest)
    if isinstance(first, SmoothedCertificate):
        right = torch.tensor([v is Verdict.CERTIFIED for v in first.verdicts], device=plan.x.device)
    else:
        right = torch.ones_like(plan.y, dtype=torch.bool) if attacked is None else attacked.right
    results = [
        _result(plan, threat, found[index] if found else None, attacked, right)
        for index, threat in enumerate(plan.threats)
    ]
    distances = summarise_distances(known, right)
    settings = {key: v for key, v in plan.configuration.items() if key not in ("model", "data", "n", "seed")}
    if isinstance(first, SmoothedCertificate):
        settings["smoothing"] = smoothing_facts(first)
    if isinstance(first, NoisyVoteCertificate):
        names = ("sigma", "kappa", "n", "alpha", "confidence", "votes", "mean")
        settings["noisy_votes"] = {name: getattr(first, name) for name in names}
    side = None if attacked is None else attacked.side
    spent = PassCount(forward=0 if first is None else first.passes.forward)
    arrays = _arrays(plan, poll, first, attacked)
    record = Record(
        command=plan.command, model=plan.model_name, data=plan.data_name, n=len(plan.x), seed=plan.seed,
        versions={"wassertight": __version__, "torch": str(torch.__version__), "python": platform.python_version()},
        results=results, distances=distances, distances_by_norm={norm_name(plan.threats[0].r): distances}, flags=flags,
        audit=Audit(ok=not violations, violations=len(violations), details=violations), device=plan.device.type,
        settings=settings, methods={"attack": plan.attack_name, "certificate": plan.certificate_name},
        assumptions=[*(first.assumptions if first else ()), *(_attack_assumptions(plan) if attacked else ())],
        passes=spent if side is None else PassCount.total(spent, side.passes()),
        seconds=Seconds(
            certificate=None if first is None else round(first.seconds, 3), attack=None if side is None else side.seconds()
        ),
        arrays="arrays.safetensors", curves=_curves(plan, found, nearest),
        brackets=[] if violations or (isinstance(first, SmoothedCertificate) and first.allowance > 0) else summarise_brackets(plan.threats, {plan.threats[0].r: known}),
    )  # fmt: skip
    return record, arrays


def _contradictions(radii: FlipDistances, nearest: FlipDistances, plan: Plan) -> list[str]:
    above = radii.values > nearest.values * (1 + _ROUNDING) + _ROUNDING / 10
    return [
        f"image {i}: certified radius {float(radii.values[i]):.6g} exceeds the distance {float(nearest.values[i]):.6g} of a "
        "confirmed flip; a defect, or one of the errors that alpha allows"
        for i in above.nonzero().squeeze(1).tolist()
    ]


def _result(
    plan: Plan, threat: ThreatModel, proved: Certificate | None, attacked: AttackedSmoothing | None, right: Tensor
) -> Result:
    clean = float(right.double().mean()) if not isinstance(proved, NoisyVoteCertificate) else proved.clean
    high = spent = None
    passes, seconds = PassCount(forward=0 if proved is None else proved.passes.forward), Seconds()
    if attacked is not None and attacked.known.attacked is not None:
        flips = attacked.known.attacked
        high = min(flips.accuracy(threat.order, threat.radius), clean)
        spent = _spent(flips, threat)
        stage = stage_of(plan, "attack", threat)
        passes, seconds.attack = PassCount.total(passes, attacked.side.passes(stage)), attacked.side.seconds(stage)
    low = None if proved is None else min(proved.accuracy, clean)
    if proved is not None:
        seconds.certificate = round(proved.seconds, 3)
    if low is not None and high is not None and low <= high + _ROUNDING:
        low = min(low, high)
    return Result(
        threat=threat.name, p=threat.order, r=threat.r, radius=threat.radius, clean=clean, attacked=high, certified=low,
        spent=spent, passes=passes, seconds=seconds,
    )  # fmt: skip


def _spent(flips: FlipDistances, threat: ThreatModel) -> float:
    """What the adversary pays in the same mean as the budget."""
    bought = flips.allocate(threat.order, threat.radius).fractions
    moved = (bought > 0) & torch.isfinite(flips.values)
    paid, share = flips.values[moved], (bought * flips.weights)[moved]
    if math.isinf(threat.order):
        return float(paid.max()) if len(paid) else 0.0
    return float((paid**threat.order * share).sum() ** (1 / threat.order))


def _arrays(
    plan: Plan, poll: Poll | None, first: Certificate | None, attacked: AttackedSmoothing | None
) -> dict[str, Tensor]:
    n = len(plan.x)
    arrays = {"x": plan.x, "y": plan.y, "weight": torch.full((n,), 1 / n, dtype=torch.float64)}
    if poll is not None:
        arrays |= {"picked": poll.picked, "votes": poll.votes}
    if isinstance(first, SmoothedCertificate):
        arrays |= {"certified_distance": first.radii.values, "probability": first.probability}
    if attacked is not None and attacked.known.attacked is not None and attacked.known.points is not None:
        arrays |= {"attacked_distance": attacked.known.attacked.values, "z": attacked.known.points}
        arrays |= moved_light(plan, attacked.known)
    return {name: tensor.detach().cpu().clone() for name, tensor in arrays.items()}


def smoothing_facts(found: SmoothedCertificate) -> dict[str, Any]:
    """What a record keeps of a smoothing certificate: its noise and draws, how images ended, radii as a histogram."""
    radii = found.radii.values[[verdict is Verdict.CERTIFIED for verdict in found.verdicts]].cpu()
    top = float(radii.max()) if len(radii) and float(radii.max()) > 0 else 1.0
    return {
        "sigma": _or_none(found.sigma), "kappa": _or_none(found.kappa), "n0": found.n0, "n": found.n, "alpha": found.alpha,
        "rule": found.rule, "allowance": found.allowance, "confidence": found.confidence, "reach": found.reach,
        **{verdict.value: found.share(verdict) for verdict in Verdict},
        "median": float(found.radii.values.median()),
        "histogram": {
            "edges": torch.linspace(0, top, _BINS + 1, dtype=torch.float64).tolist(),
            "counts": torch.histc(radii, _BINS, 0, top).to(torch.int64).tolist(),
        },
    }  # fmt: skip


def _curves(plan: Plan, found: Sequence[Certificate], nearest: FlipDistances | None) -> list[Curve]:
    """Pointwise and average budgets, and the orders asked for; as far as either side has something to say."""
    ends = [_BEYOND * max(threat.radius for threat in plan.threats)]
    if found:
        ends.append(1.05 * float(found[0].radii.values.max()))
    if nearest is not None:
        flips = nearest.values[torch.isfinite(nearest.values)]
        ends.append(1.05 * float(flips.quantile(0.95)) if len(flips) else 0.0)
    radii = torch.linspace(0, max(ends) or 1.0, _GRID, dtype=torch.float64)
    return [
        Curve(
            p=p, r=plan.threats[0].r, radii=radii.tolist(),
            certified=found[0].curve(p, radii.tolist()).tolist() if found else None,
            attacked=None if nearest is None else nearest.curve(p, radii).tolist(),
        )
        for p in sorted({1.0, math.inf, *(threat.order for threat in plan.threats)})
    ]  # fmt: skip


def _attack_assumptions(plan: Plan) -> list[str]:
    return [
        "attacked: accuracy of the smoothed classifier, abstentions on unmoved images counted as errors; a flip counts if "
        f"{plan.attack.confirm} fresh votes show another class first (wrong with probability at most {plan.attack.alpha:g} a flip)"
    ]


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
