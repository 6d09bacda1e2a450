"""What a record says about re-weighting threats: split of the budget, freedoms, heaviest samples, curve over budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from wassertight.attacks import AttackResult
from wassertight.evaluation.summaries import Known
from wassertight.geometry import norm_name
from wassertight.records import Curve, Freedoms, HeavySample, Reweighted
from wassertight.threats import Decomposition, DivergenceBall, ThreatModel
from wassertight.transport import HardBall, PowerCost, flip_table, joint_curve, sample_distances

_GRID, _BEYOND, _HEAVY = 41, 2.0, 5


def describe_threat(
    threat: ThreatModel, found: AttackResult | None, known: Known, x: Tensor, y: Tensor
) -> Reweighted | None:
    """The part of a result that only re-weighting threats have."""
    if not isinstance(threat, DivergenceBall):
        return None
    part = None if found is None else found.reweighting
    attacked = None if part is None else _freedoms(part.decomposition)
    if attacked is not None and found is not None:
        attacked = attacked.model_copy(update={"joint": min(found.accuracy, attacked.nominal)})
    certified = None
    if known.certified is not None:
        certified = _freedoms(threat.decompose(known.certified, threat.flip_costs(known.certified)))
    return Reweighted(
        text=threat.text, divergence=threat.divergence.name, family=_family(threat), attacked=attacked, certified=certified,
        spent_divergence=None if part is None else part.spent_divergence,
        spent_transport=None if part is None else part.spent_transport,
        lam=None if part is None else part.lam, effective=None if part is None else part.effective,
        heaviest=[] if found is None else _heaviest(found, x, y),
    )  # fmt: skip


def budget_curves(threats: Sequence[ThreatModel], norms: Mapping[float, Known], x: Tensor) -> list[Curve]:
    """Both sides against the budget, one curve for each family of re-weighting threats that differ in the budget only."""
    families: dict[str, list[DivergenceBall]] = {}
    for threat in threats:
        if isinstance(threat, DivergenceBall):
            families.setdefault(_family(threat, 9), []).append(threat)
    curves = []
    for balls in families.values():
        known, ball = norms[balls[0].r], balls[0]
        top = _BEYOND * max(one.radius for one in balls) or 1.0
        radii = torch.linspace(0, top, _GRID, dtype=torch.float64)
        lines: dict[str, list[float] | None] = {"attacked": None, "certified": None}
        for side, flips in (("attacked", known.attacked), ("certified", known.certified)):
            if flips is None:
                continue
            costs = ball.flip_costs(flips, known.points if side == "attacked" else None, x)
            value, bound = joint_curve(*flip_table(costs), radii.to(costs), ball.divergence, flips.weights)
            lines[side] = (1 - (value if side == "attacked" else bound)).clamp(0, 1).tolist()
        curves.append(
            Curve(
                p=ball.p,
                r=ball.r,
                radii=radii.tolist(),
                family=_family(ball),
                attacked=lines["attacked"],
                certified=lines["certified"],
            )
        )
    return curves


def _family(ball: DivergenceBall, digits: int = 3) -> str:
    def number(value: float) -> str:
        return f"{value:.{digits}g}"

    cost, norm, kind = ball.transport, norm_name(ball.r), ball.divergence.name
    if isinstance(cost, HardBall):
        return f"{kind}, moves within {norm} {number(cost.reach)}"
    if isinstance(cost, PowerCost):
        power = "" if cost.p == 1 else f"^{cost.p:g}"
        return f"{kind}, moves priced {number(cost.price)} x {norm}{power}"
    return f"{kind}, moves within {norm} {number(cost.reach)}, softly ({number(cost.tau)})"


def _freedoms(found: Decomposition) -> Freedoms:
    return Freedoms(nominal=found.nominal, reweighting=found.reweighting, transport=found.transport, joint=found.joint)


def _heaviest(found: AttackResult, x: Tensor, y: Tensor) -> list[HeavySample]:
    """Those whose mass grew, heaviest first; among equally heavy ones, those that moved furthest."""
    assert found.reweighting is not None
    density, law = found.reweighting.density, found.measure
    distance = sample_distances(law.atoms, x[law.sources], found.threat.r) * law.weights
    mass = torch.zeros_like(density).index_add_(0, law.sources, law.weights)
    moved = torch.zeros_like(density).index_add_(0, law.sources, distance) / mass.clamp_min(1e-300)
    grown = [i for i in range(len(density)) if float(density[i]) > 1 + 1e-9]
    order = sorted(grown, key=lambda i: (-round(float(density[i]), 9), -float(moved[i]), i))
    return [
        HeavySample(sample=i, label=int(y[i]), weight=float(density[i]), moved=float(moved[i])) for i in order[:_HEAVY]
    ]
