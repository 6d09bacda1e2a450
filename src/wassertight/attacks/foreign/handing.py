"""Our attacks for pipelines written for torchattacks (`atk(x, y)`) and Foolbox (`attack(fmodel, x, y, epsilons=...)`)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from wassertight.attacks.base import Attack
from wassertight.attacks.wda_plus import WDAPlusPlus
from wassertight.geometry.norms import per_sample_mask
from wassertight.packages import optional_package
from wassertight.threats import DivergenceBall, PointwiseBall, ThreatModel, parse
from wassertight.types import InputError, Model, ThreatError


def as_torchattacks(model: Model, threat: str | ThreatModel, attack: Attack | None = None, *, seed: int = 0) -> Any:
    """Our attack as a `torchattacks.attack.Attack`: `atk(images, labels)` are the moved images.

    A batch is one law: under a Wasserstein threat the flips that the batch's budget pays for in full are moved, so that
    the batch as a whole stays inside the ball; under a pointwise one every flip inside it. All others stay as they are.

    Args:
        model: as torchattacks takes it, an `nn.Module` on inputs in [0, 1].
        threat: what the adversary may do with a batch, for example "W1-Linf@8/255" or "Linf@8/255".
        attack: ours; by default `WDAPlusPlus()`.
        seed: of every draw; the same in every call.

    Raises:
        PackageError: torchattacks is not installed.
        ThreatError: several radii, or a re-weighting threat, which moves masses and not only images.
    """
    library = optional_package("torchattacks.attack", "as_torchattacks")
    ball = _one(threat)
    ours = attack or WDAPlusPlus()

    class Ours(library.Attack):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__(ours.name, model)
            self.threat = ball.name

        def forward(self, inputs: Tensor, labels: Tensor) -> Tensor:
            x, y = inputs.clone().detach().to(self.device), labels.clone().detach().to(self.device)
            found = ours(self.get_logits, x, y, ball, seed=seed)
            paid: Tensor = found.allocation.fractions  # type: ignore[union-attr]
            return torch.where(per_sample_mask((paid >= 1).to(x.device), x), found.points, x)

    return Ours()


def as_foolbox(attack: Attack | None = None, *, r: float = math.inf, seed: int = 0) -> Any:
    """Our attack as a Foolbox `MinimizationAttack`: `raw, clipped, success = attack(fmodel, x, y, epsilons=...)`.

    Images without a flip come back as they are; success, clipping and lists of epsilons are Foolbox's own.

    Args:
        attack: ours; by default `WDAPlusPlus()`. One that looks at a radius is given the smallest epsilon.
        r: order of the ground norm: 1, 2 or inf.
        seed: of every draw; the same in every call.

    Raises:
        PackageError: foolbox is not installed.
    """
    foolbox, base = (optional_package(part, "as_foolbox") for part in ("foolbox", "foolbox.attacks.base"))
    ours = attack or WDAPlusPlus()

    class Ours(base.MinimizationAttack):  # type: ignore[misc,name-defined]
        distance = foolbox.distances.LpDistance(r)

        def run(self, model: Any, inputs: Any, criterion: Any, *, early_stop: float | None = None, **rest: Any) -> Any:
            base.raise_if_kwargs(rest)
            x, criterion = getattr(inputs, "raw", inputs), base.get_criterion(criterion)
            if not isinstance(x, Tensor) or not isinstance(criterion, foolbox.criteria.Misclassification):
                raise InputError(
                    f"{ours.name} takes torch tensors and the criterion Misclassification, got {type(x).__name__} and "
                    f"{type(criterion).__name__}"
                )
            bounds = (float(model.bounds.lower), float(model.bounds.upper))
            ball = PointwiseBall(radius=bounds[1] - bounds[0] if early_stop is None else early_stop, r=r, bounds=bounds)
            found = ours(model, x, criterion.labels.raw, ball, seed=seed)
            return found.points if x is inputs else type(inputs)(found.points)

    return Ours()


def _one(threat: str | ThreatModel) -> ThreatModel:
    balls = parse(threat) if isinstance(threat, str) else (threat,)
    if len(balls) != 1 or isinstance(balls[0], DivergenceBall):
        raise ThreatError(f"a batch is attacked under one threat that moves images, got {threat!r}")
    return balls[0]
