"""TRADES (1901.08573): clean cross-entropy plus the divergence of answers between a sample and its worst neighbour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from wassertight.losses import cross_entropy
from wassertight.threats import ThreatModel
from wassertight.training.base import Context, Crafted, Outer, check_settings, divergence
from wassertight.training.climbing import Keep, Moving, Start, Value, check_moving
from wassertight.types import InputError


@dataclass(frozen=True, kw_only=True)
class TRADES(Moving):
    """`min E[ CE(x) + beta max over z of KL(x, z) ]`, gradients through both x and z.

    Args:
        threat: where z may go.
        beta: weight of the robust term, 1 to 10 (6 on CIFAR-10, 1 on MNIST).
        steps, step, start, noise, keep: of the ascent. The start noise is essential: the gradient of KL(x, z)
            vanishes at z = x, so start "zero" never moves and is refused.

    Reference: 1901.08573 equation 5, algorithm 1.
    """

    name: ClassVar[str] = "trades"

    threat: ThreatModel
    beta: float = 6.0
    steps: int = 10
    step: float | None = None
    start: Start = "noise"
    noise: float = 0.001
    keep: Keep = "last"

    def __post_init__(self) -> None:
        check_moving(self)
        check_settings(self.name, at_least_zero={"beta": self.beta}, positive={})
        refuse_zero_start(self)

    def value(self, model: nn.Module, x: Tensor, y: Tensor, *, full: bool = False) -> Value:
        """`KL(x, z)` with the answer at x fixed; with `full` times beta, the clean term being constant."""
        with torch.no_grad():
            clean = model(x)
        factor = self.beta if full else 1.0
        return lambda z: factor * divergence(clean, model(z))

    def outer(self, model: nn.Module, crafted: Crafted, context: Context) -> Outer:
        """`CE(x) + beta KL(x, z)`, a pass each."""
        clean, moved = model(crafted.x), model(crafted.z)
        each = cross_entropy(clean, crafted.y) + self.beta * divergence(clean, moved)
        return Outer.mean(each, clean=clean, moved=moved)


def refuse_zero_start(objective: Moving) -> None:
    """A divergence between answers at x and z has no gradient at z = x."""
    if objective.start == "zero" or (objective.start == "noise" and objective.noise == 0):
        raise InputError(
            f"objective {objective.name!r}: the gradient of KL(x, z) vanishes at z = x, so a zero start never moves; "
            "use start='noise' (0.001) or 'uniform'"
        )
