"""WRM (Sinha, Namkoong, Duchi; 1710.10571): Lagrangian training against the W_2 ball with squared Euclidean cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from wassertight.geometry import norm, project_box
from wassertight.losses import cross_entropy
from wassertight.threats import ThreatModel
from wassertight.training.base import Context, Crafted, Metrics, Objective, Outer, check_settings, crafting
from wassertight.training.climbing import climb
from wassertight.types import InputError, ThreatError


@dataclass(frozen=True, kw_only=True)
class WRM(Objective):
    """`min E phi`, `phi = sup over z of CE(z) - gamma ||z - x||_2^2`.

    `gamma radius^2 + E phi` bounds the loss over the W_2 ball of the radius when phi is exact; with a searched z it is
    an estimate. The search is strongly concave once 2 gamma exceeds the smoothness of the loss in x, which needs smooth
    activations (ELU, GELU).

    Args:
        threat: a W_2 ball with ground norm L2; its radius is only used by `rate`, and to report the bound.
        gamma: price of transport; inf trains on clean samples. 0.385 is the published MNIST value.
        steps: steps after the first one (15).
        keep: "best" of the penalised value (ours) or "last" (published).
        rate: step of `gamma <- gamma - rate (radius^2 - E ||z - x||^2)`, 0 keeps it fixed (published).

    Differs from the released code: 1. points are clipped to the box; 2. the best iterate is kept.
    """

    name: ClassVar[str] = "wrm"
    dual_name: ClassVar[str] = "gamma"

    threat: ThreatModel
    gamma: float = 0.385
    steps: int = 15
    keep: Literal["last", "best"] = "best"
    rate: float = 0.0

    def __post_init__(self) -> None:
        check_settings(
            self.name, at_least_zero={"rate": self.rate}, positive={"gamma": self.gamma, "steps": self.steps}
        )
        if self.threat.r != 2 or self.threat.p not in (2, math.inf):
            raise ThreatError(
                f"WRM's cost is the squared Euclidean distance: use W2-L2@<radius>; got {self.threat.name}"
            )
        if self.keep not in ("last", "best"):
            raise InputError(f"keep must be 'last' or 'best', got {self.keep!r}")

    @property
    def unit(self) -> float:
        """Cost of a squared distance of one at price one (ARMOR's A)."""
        return self.gamma

    def resting(self, clean: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy."""
        return cross_entropy(clean, y)

    def harm(self, model: nn.Module, crafted: Crafted, context: Context) -> Outer:
        """Cross-entropy at z, moving not charged."""
        logits = model(crafted.z)
        return Outer.mean(cross_entropy(logits, crafted.y), moved=logits)

    def craft(self, model: nn.Module, x: Tensor, y: Tensor, context: Context) -> Crafted:
        """The published iteration: `d <- d + (e g(z) - d) / sqrt(k + 2)`, e = 1 / (2 gamma)."""
        gamma = context.number("gamma", self.gamma)
        with crafting(model, context):
            z, cost = penalised(model, x, y, gamma, self.steps, self.threat, keep_best=self.keep == "best")
        return Crafted(x=x, y=y, z=z, notes={"cost": cost})

    def outer(self, model: nn.Module, crafted: Crafted, context: Context) -> Outer:
        """`CE(z) - gamma ||z - x||^2`; the cost does not depend on the parameters."""
        gamma, inner = context.number("gamma", self.gamma), self.harm(model, crafted, context)
        if math.isinf(gamma):
            return inner
        return Outer.mean(inner.each - gamma * crafted.notes["cost"], moved=inner.moved)

    def update(self, crafted: Crafted, outer: Outer, context: Context) -> Metrics:
        """Moves gamma where asked; reports the dual estimate of the worst-case loss."""
        gamma, spent = context.number("gamma", self.gamma), float(context.gather(crafted.notes["cost"]).mean())
        bound = gamma * self.threat.radius**2 + outer.loss.detach() if math.isfinite(gamma) else outer.loss.detach()
        if self.rate > 0:
            context.put("gamma", max(gamma - self.rate * (self.threat.radius**2 - spent), 1e-6))
        return {"gamma": gamma, "spent": math.sqrt(spent), "worst-case loss, estimate": bound}


def penalised(
    model: nn.Module, x: Tensor, y: Tensor, gamma: float, steps: int, threat: ThreatModel, *, keep_best: bool
) -> tuple[Tensor, Tensor]:
    """Points of large `CE(z) - gamma ||z - x||_2^2` and their costs `||z - x||_2^2`."""
    if math.isinf(gamma):
        return x, torch.zeros(len(x), dtype=x.dtype, device=x.device)
    d = torch.zeros_like(x)
    count = iter(range(steps + 1))

    def advance(z: Tensor, g: Tensor) -> Tensor:
        nonlocal d
        d = d + (g / (2 * gamma) - d) / math.sqrt(next(count) + 1)
        return project_box(x + d, threat.bounds)

    def paid(z: Tensor) -> Tensor:
        return gamma * norm(z - x, 2.0) ** 2

    z = climb(lambda z: cross_entropy(model(z), y), x, advance, steps + 1, "best" if keep_best else "last", paid)
    return z, norm(z - x, 2.0) ** 2
