"""The audit: recomputes mass, box, cost and accuracy of a returned measure from scratch, in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wassertight.threats.base import ThreatModel
from wassertight.threats.divergence import DivergenceBall
from wassertight.threats.image import ImageWasserstein
from wassertight.transport import DiscreteMeasure, HardBall, PowerCost, Renyi
from wassertight.transport.exact import image_distance
from wassertight.types import Model, logits_of


@dataclass(frozen=True, kw_only=True)
class AuditReport:
    """What the audit recomputed; only these numbers are reported to users.

    Attributes:
        accuracy: expectation of "correct" under the measure; a NaN logit counts as correct, so never as success.
        spent: cost of the coupling sample -> atom, `(sum w d**p)**(1/p)`, the maximum for p = inf.
        violations: sentences, empty when the measure is admissible.
        correct: whether each atom is classified correctly, (m,).
        parts: what re-weighting and moving cost, where the threat allows both; their sum is `spent`.
    """

    accuracy: float
    spent: float
    violations: tuple[str, ...]
    correct: Tensor
    parts: tuple[float, float] | None = None

    @property
    def ok(self) -> bool:
        return not self.violations


def audit_measure(
    model: Model,
    x: Float[Tensor, "n *features"],
    y: Int[Tensor, " n"],
    threat: ThreatModel,
    measure: DiscreteMeasure,
    *,
    weights: Tensor | None = None,
    batch_size: int = 256,
) -> AuditReport:
    """Check a measure against the data, the threat and the model; shares no code with any attack.

    Recomputes, in float64 from the stored atoms: the mass of every source (1e-12), non-negative weights, atoms
    finite and exactly inside the box, the transport cost against `radius * (1 + 1e-9)` (`1 + 1e-6` for p = inf),
    and the accuracy by fresh passes. worst_case.md 9. Under a re-weighting threat the masses of sources may change:
    their divergence from the samples' plus the price of the moves is held against the radius, by formulas of its own.
    The caller puts the model in eval mode.

    >>> from wassertight.threats import PointwiseBall
    >>> x, y = torch.tensor([[0.2, 0.8]]), torch.tensor([1])
    >>> ball = PointwiseBall(radius=0.1, r=2.0)
    >>> audit_measure(torch.nn.Identity(), x, y, ball, DiscreteMeasure.empirical(x)).accuracy
    1.0
    """
    violations = []
    n = len(x)
    share = torch.full((n,), 1 / n, dtype=torch.float64, device=x.device)
    if weights is not None:
        share = weights.to(share)
    sources = measure.sources.to(x.device)
    mass = measure.weights.to(x.device)
    if bool((sources < 0).any()) or bool((sources >= n).any()):
        return _refused("an atom names a source that is not a sample", measure)
    if bool((mass < 0).any()) or not bool(torch.isfinite(mass).all()):
        violations.append("an atom has negative or non-finite mass")
    gathered = torch.zeros(n, dtype=torch.float64, device=x.device).index_add_(0, sources, mass)
    reweighted = isinstance(threat, DivergenceBall)
    off = abs(float(gathered.sum() - share.sum())) if reweighted else float((gathered - share).abs().max())
    if not off <= 1e-12:
        which = "the total mass" if reweighted else "the mass of a sample"
        violations.append(f"{which} is off by {off:.2e} (allowed 1e-12)")
    atoms = measure.atoms
    if not bool(torch.isfinite(atoms).all()):
        violations.append("an atom is not finite")
    if threat.bounds is not None:
        low, high = threat.bounds
        if bool((atoms < low).any()) or bool((atoms > high).any()):
            violations.append(f"an atom lies outside the box [{low:g}, {high:g}]")
    moved, correct = [], []
    for start in range(0, len(atoms), batch_size):
        part = slice(start, start + batch_size)
        moved.append(_moved(x[sources[part]], atoms[part], threat))
        logits = _answers(model, atoms[part])
        wrong = (logits.argmax(1) != y[sources[part]].to(logits.device)) & torch.isfinite(logits).all(1)
        correct.append(~wrong.to(x.device))
    distance, right = torch.cat(moved), torch.cat(correct)
    positive, parts = mass > 0, None
    if isinstance(threat, DivergenceBall):
        parts = (_divergence(threat, gathered, share), float((mass[positive] * distance[positive]).sum()))
        spent, allowed = sum(parts), threat.radius * (1 + 1e-9) + 1e-15
    elif math.isinf(threat.order):
        spent = float(distance[positive].max()) if bool(positive.any()) else 0.0
        allowed = threat.radius * (1 + 1e-6)
    else:
        spent = float((mass[positive] * distance[positive] ** threat.order).sum()) ** (1 / threat.order)
        allowed = threat.radius * (1 + 1e-9)
    if not spent <= allowed:
        violations.append(f"the measure costs {spent:.9g}, more than the radius {threat.radius:.9g}")
    accuracy = float((mass * right).sum())
    return AuditReport(accuracy=accuracy, spent=spent, violations=tuple(violations), correct=right, parts=parts)


def _price(threat: DivergenceBall, distance: Tensor, difference: Tensor) -> Tensor:
    """Transport price of atoms from their l_r distance and coordinate differences, both float64."""
    rule = threat.transport
    if isinstance(rule, HardBall):
        return torch.zeros_like(distance).masked_fill(distance > rule.reach * (1 + 1e-6), math.inf)
    if isinstance(rule, PowerCost):
        return rule.price * distance.pow(rule.p)
    return torch.relu(difference - rule.reach).square().sum(1) / (2 * rule.tau)


def _divergence(threat: DivergenceBall, eta: Tensor, share: Tensor) -> float:
    """Divergence of the masses eta from the samples' own, by definition; each term is written so that it is >= 0."""
    if bool((eta[share == 0] > 0).any()):
        return math.inf
    eta, share = eta[share > 0], share[share > 0]
    change = (eta - share) / share
    ratio = eta / share
    log = torch.where(change.abs() < 0.5, torch.log1p(change), torch.log(ratio))
    kind = threat.divergence
    a = 1 - kind.order if isinstance(kind, Renyi) else kind.order
    if abs(a - 1) < 1e-6:
        terms = torch.where(ratio > 0, ratio * log, 0.0) - change
    elif abs(a) < 1e-6:
        terms = change - log
    else:
        terms = (torch.expm1(a * log) - a * change) / (a * (a - 1))
    total = float((share * terms).sum())
    if isinstance(kind, Renyi) and abs(a) >= 1e-6:
        total = math.log1p(a * (a - 1) * total) / (a * (a - 1))
    return total


def _moved(x: Tensor, z: Tensor, threat: ThreatModel) -> Tensor:
    """How far atoms are from their samples, float64: by the norm, its price, or exact transport on the full grid."""
    if isinstance(threat, ImageWasserstein):
        still = (z == x).flatten(1).all(1)
        return torch.where(
            still, 0.0, image_distance(x, torch.where(still[:, None, None, None], x, z), p=threat.p, r=threat.r)
        )
    difference = (z.double() - x.double()).flatten(1).abs()
    distance = difference.amax(1) if math.isinf(threat.r) else (difference**threat.r).sum(1) ** (1 / threat.r)
    return _price(threat, distance, difference) if isinstance(threat, DivergenceBall) else distance


def _answers(model: Model, atoms: Tensor) -> Tensor:
    parameter = next(model.parameters(), None) if isinstance(model, torch.nn.Module) else None
    with torch.no_grad():
        answers: Tensor = logits_of(model(atoms if parameter is None else atoms.to(parameter.device)))
    return answers


def _refused(reason: str, measure: DiscreteMeasure) -> AuditReport:
    nothing = torch.ones(len(measure), dtype=torch.bool, device=measure.atoms.device)
    return AuditReport(accuracy=1.0, spent=math.inf, violations=(reason,), correct=nothing)
