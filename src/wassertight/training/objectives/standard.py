"""Standard training: the mean cross-entropy of the samples as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from wassertight.losses import cross_entropy
from wassertight.training.base import Context, Crafted, Objective, Outer


@dataclass(frozen=True, kw_only=True)
class Standard(Objective):
    """`min E CE(x)`: nothing moves; the yardstick of clean accuracy."""

    name: ClassVar[str] = "standard"

    def craft(self, model: nn.Module, x: Tensor, y: Tensor, context: Context) -> Crafted:
        """The samples themselves."""
        return Crafted(x=x, y=y, z=x)

    def outer(self, model: nn.Module, crafted: Crafted, context: Context) -> Outer:
        """Mean cross-entropy."""
        logits = model(crafted.x)
        return Outer.mean(cross_entropy(logits, crafted.y), clean=logits)
