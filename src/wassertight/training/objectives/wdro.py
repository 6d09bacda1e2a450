"""W-DRO TRADES with W-PGD-Budget (2502.09352): the adversary couples the samples, and each batch gets its own radius."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from wassertight.attacks.pgd import ascent_step
from wassertight.geometry import conjugate, norm
from wassertight.losses import cross_entropy, margin, redlr
from wassertight.threats import ThreatModel
from wassertight.training.base import (
    Context,
    Crafted,
    Metrics,
    Objective,
    Outer,
    check_settings,
    check_threat,
    crafting,
    divergence,
)
from wassertight.training.climbing import Value, climb, started
from wassertight.types import InputError

_NARROWEST, _WIDEST = 0.25, 4.0
"""The ratio of a batch's sensitivity to the population's is kept within these: gradient norms have heavy tails."""
_SUBSET = 2048


@dataclass(frozen=True, kw_only=True)
class WDRO(Objective):
    """`min E CE(x) + beta sup { E J(x, z, y) : couplings with (E ||z - x||_r^p)^(1/p) <= radius }`.

    A batch B is attacked by W-PGD with the radius `radius (U_B / U)^(q - 1)`, U the q-mean of gradient norms over all
    samples (moving average of the q-th power), so that `E radius_B^p = radius^p`. The attack climbs another loss than
    the one trained on: KL(x, z) has no first order at z = x, all budget would go to one sample.

    Args:
        threat: a W_p ball, p > 1 (p = 2 with Linf published). A pointwise ball is TRADES-like with equal radii.
        beta: weight of the robust term (not published; proposed 1 to 6).
        inner: what the attack climbs: "redlr" (published; the margin with two classes) or "kl".
        margin_share: this much of the rectified margin is added to "redlr", against masking (proposed, 0 is published).
        robust: what the parameters see: "ce", CE(z), or "kl", KL(x, z) (which of them is not published).
        steps, factor: of W-PGD; a step is `factor * radius_B / steps` long (1.875 published).
        noise: standard deviation of the start.
        memory: rate of the moving average (proposed).

    Proposed, not published: beta, steps, noise, memory, margin_share, the clip of the ratio to [1/4, 4].
    Reference: 2502.09352; the direction is 2306.09844 theorem 4.1.
    """

    name: ClassVar[str] = "w-dro"

    threat: ThreatModel
    beta: float = 3.0
    inner: Literal["redlr", "kl"] = "redlr"
    margin_share: float = 0.0
    robust: Literal["ce", "kl"] = "ce"
    steps: int = 10
    factor: float = 1.875
    noise: float = 0.001
    memory: float = 0.05

    def __post_init__(self) -> None:
        check_threat(self.threat, self.name)
        check_settings(
            self.name,
            at_least_zero={"beta": self.beta, "noise": self.noise, "margin_share": self.margin_share},
            positive={"steps": self.steps, "factor": self.factor, "memory": self.memory},
        )
        if self.inner not in ("redlr", "kl") or self.robust not in ("ce", "kl"):
            raise InputError(f"inner must be redlr or kl and robust ce or kl, got {self.inner!r} and {self.robust!r}")
        if self.inner == "kl" and self.noise == 0:
            raise InputError("the gradient of KL(x, z) vanishes at z = x: give inner='kl' a start noise > 0")

    def prepare(self, model: nn.Module, x: Tensor, y: Tensor, context: Context) -> None:
        """The sensitivity of the untrained (or the given) network on a subset."""
        if "sensitivity" in context.state or self.threat.radius == 0:
            return
        with crafting(model, context):
            sizes = [
                self._slopes(self._gradient(model, part, label, self._start(part, context)))
                for part, label in zip(torch.split(x[:_SUBSET], 256), torch.split(y[:_SUBSET], 256), strict=True)
            ]
        context.put("sensitivity", float(context.gather(torch.cat(sizes)).mean()))

    def craft(self, model: nn.Module, x: Tensor, y: Tensor, context: Context) -> Crafted:
        """W-PGD with the batch's own radius."""
        if self.threat.radius == 0:
            return Crafted(x=x, y=y, z=x)
        with crafting(model, context):
            value = self._value(model, x, y)
            z = self._start(x, context)
            g = _slope(value, z)
            slopes = self._slopes(g)
            population = context.number("sensitivity", float(slopes.mean()))
            radius = batch_radius(self.threat.radius, float(slopes.mean()), population, self.threat.p)
            ball = self.threat.with_radius(radius)
            step = self.factor * radius / self.steps
            z = ascent_step(ball, z, x, g, step)
            z = climb(value, z, lambda z, g: ascent_step(ball, z, x, g, step), self.steps - 1)
        return Crafted(x=x, y=y, z=z, notes={"slopes": slopes, "radius": torch.full_like(slopes, radius)})

    def outer(self, model: nn.Module, crafted: Crafted, context: Context) -> Outer:
        """`CE(x) + beta CE(z)` or `CE(x) + beta KL(x, z)`."""
        clean, moved = model(crafted.x), model(crafted.z)
        robust = cross_entropy(moved, crafted.y) if self.robust == "ce" else divergence(clean, moved)
        return Outer.mean(cross_entropy(clean, crafted.y) + self.beta * robust, clean=clean, moved=moved)

    def update(self, crafted: Crafted, outer: Outer, context: Context) -> Metrics:
        """The moving average of the sensitivity's q-th power."""
        if "slopes" not in crafted.notes:
            return {}
        now = float(context.gather(crafted.notes["slopes"]).mean())
        average = (1 - self.memory) * context.number("sensitivity", now) + self.memory * now
        context.put("sensitivity", average)
        q = conjugate(self.threat.p)
        return {"batch radius": crafted.notes["radius"].mean(), "sensitivity": average ** (1 / q)}

    def _start(self, x: Tensor, context: Context) -> Tensor:
        return started(self.threat, x, "noise" if self.noise > 0 else "zero", self.noise, context.generator)

    def _value(self, model: nn.Module, x: Tensor, y: Tensor) -> Value:
        if self.inner == "redlr":
            return lambda z: rectified(model(z), y, self.margin_share)
        with torch.no_grad():
            clean = model(x)
        return lambda z: divergence(clean, model(z))

    def _gradient(self, model: nn.Module, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        return _slope(self._value(model, x, y), z)

    def _slopes(self, g: Tensor) -> Tensor:
        """`||g_i||_s^q` of every sample, float64."""
        return norm(g, conjugate(self.threat.r), dtype=torch.float64) ** conjugate(self.threat.p)


def rectified(logits: Tensor, y: Tensor, share: float) -> Tensor:
    """ReDLR (the rectified margin where there are two classes) plus `share` times the rectified margin."""
    bounded = margin(logits, y).clamp_max(0)
    return (redlr(logits, y) if logits.shape[1] >= 3 else bounded) + share * bounded


def batch_radius(radius: float, batch: float, population: float, p: float) -> float:
    """`radius (U_B / U)^(q - 1)` from the q-th powers of both sensitivities, the ratio kept in [1/4, 4].

    The only first-order rule with `E radius_B^p = radius^p` when `U^q = E U_B^q`.

    >>> batch_radius(0.1, 4.0, 1.0, 2.0), batch_radius(0.1, 4.0, 1.0, float("inf"))
    (0.2, 0.1)
    """
    if math.isinf(p) or population <= 0:
        return radius
    q = conjugate(p)
    ratio: float = (batch / population) ** ((q - 1) / q)
    return radius * min(max(ratio, _NARROWEST), _WIDEST)


def _slope(value: Value, z: Tensor) -> Tensor:
    z = z.detach().requires_grad_(True)
    with torch.enable_grad():
        (g,) = torch.autograd.grad(value(z).sum(), z)
    return g
