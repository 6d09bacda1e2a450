"""MART (ICLR 2020, Wang et al.): boosted cross-entropy at z, and a divergence weighted by how unsure x is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from wassertight.losses import cross_entropy
from wassertight.threats import ThreatModel
from wassertight.training.base import Context, Crafted, Outer, check_settings, divergence
from wassertight.training.climbing import Keep, Moving, Start, Value, check_moving

_ABOVE_ONE, _JUST_ABOVE_ONE, _FLOOR = 1.0001, 1.0000001, 1e-12
"""Floors of the released code (YisenWang/MART)."""


@dataclass(frozen=True, kw_only=True)
class MART(Moving):
    """`min E[ BCE(z) + beta (1 - prob(x)_y) KL(x, z) ]`, `BCE = -log prob(z)_y - log(1 - max over k != y of prob(z)_k)`.

    Args:
        threat: where z may go.
        beta: weight of the second term (5 or 6 on CIFAR-10).
        inner: what z maximises: "ce", CE(z) as published, or "full", the whole loss, which makes it a min-max
            problem (ARMOR needs that).
        steps, step, start, noise, keep: of the ascent.

    Gradients flow through the weight. Differs from the released code: 1. logarithms of probabilities are taken from
    logits, not of probabilities plus 1e-12.
    """

    name: ClassVar[str] = "mart"

    threat: ThreatModel
    beta: float = 5.0
    inner: Literal["ce", "full"] = "ce"
    steps: int = 10
    step: float | None = None
    start: Start = "noise"
    noise: float = 0.001
    keep: Keep = "last"

    def __post_init__(self) -> None:
        check_moving(self)
        check_settings(self.name, at_least_zero={"beta": self.beta}, positive={})

    def value(self, model: nn.Module, x: Tensor, y: Tensor, *, full: bool = False) -> Value:
        """CE(z), or the whole loss with the answer at x fixed."""
        if not full and self.inner == "ce":
            return lambda z: cross_entropy(model(z), y)
        with torch.no_grad():
            clean = model(x)
        return lambda z: self.each(clean, model(z), y)

    def resting(self, clean: Tensor, y: Tensor) -> Tensor:
        """The boosted cross-entropy: the divergence vanishes."""
        return boosted(clean, y)

    def each(self, clean: Tensor, moved: Tensor, y: Tensor) -> Tensor:
        """The loss of every sample from its logits at x and z."""
        sure = clean.softmax(1).gather(1, y[:, None]).squeeze(1)
        return boosted(moved, y) + self.beta * (_JUST_ABOVE_ONE - sure) * divergence(clean, moved)

    def outer(self, model: nn.Module, crafted: Crafted, context: Context) -> Outer:
        """The mean loss, a pass at x and one at z."""
        clean, moved = model(crafted.x), model(crafted.z)
        return Outer.mean(self.each(clean, moved, crafted.y), clean=clean, moved=moved)


def boosted(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy plus the logarithmic margin to the best wrong class."""
    log_prob = functional.log_softmax(logits, 1)
    other = log_prob.scatter(1, y[:, None], -torch.inf).amax(1).exp()
    return -log_prob.gather(1, y[:, None]).squeeze(1) - (_ABOVE_ONE - other + _FLOOR).log()
