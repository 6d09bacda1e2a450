"""UDR (2202.13437): adversarial training whose ball has a soft edge and a price, over PGD-AT, TRADES or MART."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from wassertight.geometry import dual_direction, project_ball, project_box
from wassertight.threats import ThreatModel
from wassertight.training.base import Context, Crafted, Metrics, Objective, Outer, check_settings, crafting
from wassertight.training.climbing import Moving, begin, climb, length
from wassertight.types import InputError, ThreatError

_LEAST_PRICE, _REFERENCE_EVERY, _REFERENCE_RATE = 1e-3, 10, 0.02


@dataclass(frozen=True, kw_only=True)
class UDR(Objective):
    """`min over theta, price >= 0 of price * budget + E sup over z of { l(x, y, z) - price * c(x, z) }`.

    l is the per-sample loss of the base and `c(x, z) = ||d - P(d)||_2^2 / (2 tau)`, d = z - x, P the projection onto the
    base's ball: moving inside the ball is free. A fixed point under a constant gradient lies tau / price outside.

    Args:
        base: PGDTraining, TRADES or MART with a pointwise threat.
        price: the price of transport, or its start; inf is the hard ball, that is the base itself.
        overshoot: tau / price at the start, how far beyond the ball a price of one lets samples go; None is a
            quarter of the radius (2/255 at 8/255).
        dual: "fixed"; "descent": `price <- max(price - rate (budget - mean c), 0.001)`; "reference": the released
            rule, every 10 batches `price <- price - 0.02 (radius - mean |d|)`, with its explicit pull and tau = step.
        rate, budget: of "descent".

    Differs from the released code: 1. the pull back into the ball is the exact proximal step, stable for every price
    (theirs oscillates from price 2 on); 2. attack, loss and dual use one cost; `dual="reference"` keeps their rule.
    """

    name: ClassVar[str] = "udr"
    dual_name: ClassVar[str] = "price"

    base: Moving
    price: float = 1.0
    overshoot: float | None = None
    dual: Literal["fixed", "descent", "reference"] = "fixed"
    rate: float = 0.02
    budget: float = 0.0

    def __post_init__(self) -> None:
        check_settings(
            self.name,
            at_least_zero={"rate": self.rate, "budget": self.budget},
            positive={"price": self.price, "overshoot": 1.0 if self.overshoot is None else self.overshoot},
        )
        if self.dual not in ("fixed", "descent", "reference"):
            raise InputError(f"dual must be fixed, descent or reference, got {self.dual!r}")
        if not math.isinf(self.threat.p):
            raise ThreatError(f"UDR softens a pointwise ball; got {self.threat.name}, use L<r>@<radius>")

    @property
    def threat(self) -> ThreatModel:
        return self.base.threat

    @property
    def softness(self) -> float:
        """tau, in the unit of the radius."""
        if self.dual == "reference":
            return length(self.base)
        overshoot = self.threat.radius / 4 if self.overshoot is None else self.overshoot
        return overshoot * (self.price if math.isfinite(self.price) else 1.0)

    def cost(self, z: Tensor, x: Tensor) -> Tensor:
        """`||d - P(d)||_2^2 / (2 tau)` of every sample, (n,)."""
        d = z - x
        if self.softness == 0:
            return torch.zeros(len(x), dtype=x.dtype, device=x.device)
        excess = (d - project_ball(d, self.threat.radius, self.threat.r)).flatten(1)
        return (excess**2).sum(1) / (2 * self.softness)

    @property
    def unit(self) -> float:
        """Cost in the unit of `notes["cost"]` that a price of one charges."""
        return 1.0

    def resting(self, clean: Tensor, y: Tensor) -> Tensor:
        """The base's loss of a sample that does not move."""
        return self.base.resting(clean, y)

    def harm(self, model: nn.Module, crafted: Crafted, context: Context) -> Outer:
        """The base's loss at z, moving not charged."""
        return self.base.outer(model, crafted, context)

    def craft(self, model: nn.Module, x: Tensor, y: Tensor, context: Context) -> Crafted:
        """The base's ascent with the soft edge in place of the projection."""
        price, step = context.number("price", self.price), length(self.base)
        if self.threat.radius == 0 and math.isinf(price):
            return Crafted(x=x, y=y, z=x, notes={"cost": torch.zeros(len(x), dtype=x.dtype, device=x.device)})
        ratio = step * price / self.softness if self.softness > 0 else math.inf
        share = 1 - ratio if self.dual == "reference" else 1 / (1 + ratio)

        def advance(z: Tensor, g: Tensor) -> Tensor:
            d = z + step * dual_direction(g, self.threat.r) - x
            inside = project_ball(d, self.threat.radius, self.threat.r)
            return project_box(x + inside + share * (d - inside), self.threat.bounds)

        def paid(z: Tensor) -> Tensor:
            cost = self.cost(z, x)
            return price * cost if math.isfinite(price) else torch.zeros_like(cost)

        with crafting(model, context):
            value = self.base.value(model, x, y, full=True)
            z = climb(value, begin(self.base, x, context), advance, self.base.steps, self.base.keep, paid)
        return Crafted(x=x, y=y, z=z, notes={"cost": self.cost(z, x)})

    def outer(self, model: nn.Module, crafted: Crafted, context: Context) -> Outer:
        """The base's loss at z less what moving cost, plus the price of the budget."""
        inner, price = self.harm(model, crafted, context), context.number("price", self.price)
        if math.isinf(price):
            return inner
        each = inner.each + price * (self.budget - crafted.notes["cost"])
        return dataclasses.replace(inner, each=each, loss=each.mean())

    def update(self, crafted: Crafted, outer: Outer, context: Context) -> Metrics:
        """The dual step of the price."""
        price, cost = context.number("price", self.price), context.gather(crafted.notes["cost"]).mean()
        if self.dual == "descent":
            context.put("price", max(price - self.rate * (self.budget - float(cost)), _LEAST_PRICE))
        elif self.dual == "reference" and (context.step + 1) % _REFERENCE_EVERY == 0:
            moved = float(context.gather((crafted.z - crafted.x).abs().flatten(1).mean(1)).mean())
            context.put("price", max(price - _REFERENCE_RATE * (self.threat.radius - moved), 0.0))
        return {"price": price, "cost": cost}
