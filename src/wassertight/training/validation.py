"""Validation by a cheap attack: the score that chooses weights and stops a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypeAlias

from torch import Tensor, nn

from wassertight.attacks import PGD, WDAPlusPlus
from wassertight.inputs import check_inputs
from wassertight.queries import ModelQueries
from wassertight.threats import ThreatModel

Validate: TypeAlias = Callable[[nn.Module], Mapping[str, float]]
"""Numbers of a network, among them "score", which is to be large."""


def cheap_attack(
    x: Tensor, y: Tensor, threat: ThreatModel | None, *, steps: int = 10, seed: int = 0, batch_size: int = 512
) -> Validate:
    """Clean accuracy and accuracy under the threat, by an attack whose passes are a few training steps' worth.

    PGD for a pointwise threat, WDA++ with `3 * steps` passes where the samples share a budget; without a threat the clean
    accuracy is the score. An upper bound, and not the attack that crafts in training: choose weights by it, report others.
    """
    x, y = check_inputs(x, y, None if threat is None else threat.bounds)
    attack = None if threat is None else _attack(threat, steps)

    def validate(model: nn.Module) -> dict[str, float]:
        if threat is None or attack is None:
            with ModelQueries(model, batch_size=batch_size) as queries:
                clean = float((queries.clean_logits(x, y).argmax(1) == y).double().mean())
            return {"score": clean, "validated clean": clean}
        found = attack(model, x, y, threat, batch_size=batch_size, seed=seed)
        return {"score": found.accuracy, "validated clean": found.clean_accuracy, "validated robust": found.accuracy}

    return validate


def _attack(threat: ThreatModel, steps: int) -> PGD | WDAPlusPlus:
    if math.isinf(threat.p):
        return PGD(steps=steps, step_factor=2.5, random_start=True)
    return WDAPlusPlus(passes=3 * steps)
