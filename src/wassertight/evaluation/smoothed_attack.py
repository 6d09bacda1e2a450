"""The attacked side of a run on a smoothed classifier: units of the attack, and the nearest confirmed flip of every image."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from wassertight.attacks import SmoothedFrankWolfe
from wassertight.certificates.smoothing import Smoother, Smoothing
from wassertight.evaluation.conclusion import Side
from wassertight.evaluation.plan import Plan, Unit, derived_seed
from wassertight.evaluation.store import Outcome, Store, Watch
from wassertight.evaluation.summaries import Known
from wassertight.evaluation.units import carry_out
from wassertight.transport import FlipDistances
from wassertight.types import InputError

_UNIT = 32


@dataclass(frozen=True, kw_only=True)
class AttackedSmoothing:
    """What the adversary makes of the smoothed classifier.

    Attributes:
        side: the finished units.
        right: images it answers rightly on the unmoved images (n,): by the certificate's votes, without one by the attack's.
        known: nearest confirmed flip of each of them over all radii attacked; distance 0 where it is not right.
    """

    side: Side
    right: Tensor
    known: Known


def check_pair(plan: Plan) -> None:
    """Refuse two sides that are not about the same classifier.

    Raises:
        InputError: where one side smooths and the other does not, or both smooth with different noise.
    """
    attack, method = plan.attack, plan.certificate
    if attack is None or method is None:
        return
    if not isinstance(attack, SmoothedFrankWolfe):
        raise InputError(
            f"{plan.certificate_name!r} certifies the smoothed classifier, which {plan.attack_name!r} does not attack; "
            "take 'smoothed-frank-wolfe', use 'wassertight certify', or leave the attack out (attack=None)"
        )
    if not isinstance(method, Smoothing):
        kind = "answers without random majorities" if isinstance(method, Smoother) else "certifies the model itself"
        raise InputError(
            f"{plan.attack_name!r} attacks majorities under random noise, {plan.certificate_name!r} {kind}; leave one out"
        )
    if attack.noise != method.noise:
        raise InputError(
            f"both sides need the same noise; the attack has {attack.noise}, the certificate {method.noise}"
        )


def attack_smoothed(plan: Plan, store: Store, watch: Watch, right: Tensor | None) -> AttackedSmoothing:
    """Attack the images that are answered rightly (all that the attack finds so, where `right` is None)."""

    def work(unit: Unit, step: Callable[[int, int], None]) -> Outcome:
        part = torch.arange(unit.start, unit.stop, device=plan.x.device)
        x, able = plan.x[part], slice(None) if right is None else right[part].nonzero().squeeze(1)
        tensors = {
            "points": x.clone(), "distances": x.new_full((len(x),), torch.inf, dtype=torch.float64),
            "clean": torch.zeros_like(part), "verdict": torch.zeros_like(part),
        }  # fmt: skip
        facts = {"forward": 0, "backward": 0, "seconds": 0.0}
        if len(part[able]):
            found = plan.attack(
                plan.model, x[able], plan.y[part][able], unit.threat, batch_size=plan.batch_size, seed=unit.seed,
                progress=step,
            )  # fmt: skip
            for name in tensors:
                tensors[name][able] = getattr(found, name)
            facts = {"forward": found.passes.forward, "backward": found.passes.backward, "seconds": found.seconds}
        return Outcome(tensors=tensors, facts=facts)

    units = [
        dataclasses.replace(
            unit, start=start, stop=min(start + _UNIT, unit.stop), seed=derived_seed(unit.seed, str(start))
        )
        for unit in plan.units("attack")
        for start in range(unit.start, unit.stop, _UNIT)
    ]
    side = carry_out(plan, store, watch, units, work)
    points, nearest = plan.x, torch.full((len(plan.x),), torch.inf, dtype=torch.float64, device=plan.x.device)
    for stage in side.outcomes:
        z, distances, clean, verdict = (
            side.joined(stage, name).to(plan.x.device) for name in ("points", "distances", "clean", "verdict")
        )
        right = clean == 1 if right is None else right
        flipped = (verdict == -1) & (distances < nearest)
        points = torch.where(flipped[:, None, None, None], z, points)
        nearest = torch.where(flipped, distances, nearest)
        nearest = torch.where(clean == -1, 0.0, nearest)
    assert right is not None
    known = Known(points=points, attacked=FlipDistances.attacked(torch.where(right, nearest, 0.0)))
    return AttackedSmoothing(side=side, right=right, known=known)
