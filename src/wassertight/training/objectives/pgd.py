"""PGD adversarial training (1706.06083) and, as settings of it, FGSM-RS (2001.03994)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from wassertight.losses import cross_entropy
from wassertight.threats import ThreatModel
from wassertight.training.base import Context, Crafted, Outer
from wassertight.training.climbing import Keep, Moving, Start, Value, check_moving


@dataclass(frozen=True, kw_only=True)
class PGDTraining(Moving):
    """`min E max over ||z - x||_r <= radius of CE(z)`; under a W_p ball the samples of a batch share the budget.

    Args:
        threat: where z may go.
        steps: K = 10 on CIFAR-10, 40 on MNIST. FGSM-RS: 1 step of 1.25 radius from a uniform start.
        step: absolute length of a step; None is radius / 4 under l_inf and 2 radius / steps otherwise.
        start: "uniform" in the ball (published), "noise", "zero".
        noise: of the start "noise".
        keep: "last" (published) or "best".

    Reference: 1706.06083 equation 2.1; 2001.03994 algorithm 3.
    """

    name: ClassVar[str] = "pgd"

    threat: ThreatModel
    steps: int = 10
    step: float | None = None
    start: Start = "uniform"
    noise: float = 0.001
    keep: Keep = "last"

    def __post_init__(self) -> None:
        check_moving(self)

    def value(self, model: nn.Module, x: Tensor, y: Tensor, *, full: bool = False) -> Value:
        """Cross-entropy at z."""
        return lambda z: cross_entropy(model(z), y)

    def outer(self, model: nn.Module, crafted: Crafted, context: Context) -> Outer:
        """Mean cross-entropy at the moved points."""
        logits = model(crafted.z)
        return Outer.mean(cross_entropy(logits, crafted.y), moved=logits)


def fgsm_rs(threat: ThreatModel, step_factor: float = 1.25) -> PGDTraining:
    """FGSM with a random start (2001.03994): one step of 1.25 radius. Can collapse: validate with PGD and stop early.

    Args:
        threat: where z may go.
        step_factor: length of the step, in radii.
    """
    return PGDTraining(threat=threat, steps=1, step=step_factor * threat.radius or None)
