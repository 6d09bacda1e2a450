"""ARMOR (2309.03791): training against adversaries who re-weight samples and move them, around another objective."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from wassertight.geometry.norms import per_sample_mask
from wassertight.losses import cross_entropy
from wassertight.training.base import Context, Crafted, Metrics, Objective, Outer, check_settings
from wassertight.training.objectives.udr import UDR
from wassertight.training.objectives.wrm import WRM
from wassertight.transport.divergences import divergence_named
from wassertight.transport.tilting import moment_divergence, tilted
from wassertight.transport.weighting import Divergence, gaps_below
from wassertight.types import InputError, ThreatError

_PRICES = (1e-3, 1e6)
"""Prices stay within these: a slack or an empty budget has none."""
_HALVINGS = 14


@dataclass(frozen=True, kw_only=True)
class ARMOR(Objective):
    """`min natural E CE(x) + (1 - natural) sup { E_Q l : D^c(Q || P) <= eps }`, over a batch.

    The supremum is solved for every batch. With a hard ball (PGD, TRADES, MART as base) moving is free inside
    it and the weights answer the losses; with UDR or WRM as base moving and re-weighting share the budget, and a
    sample stays where it is if that is the better buy. The gradient is that of the weighted loss (Danskin).

    Args:
        base: the method that moves samples. MART should craft on its full loss (`inner="full"`).
        eps: budget; 0.02 gives weights a standard deviation of 0.2.
        divergence: "KL", "chi2", "alpha<order>", "renyi<order>".
        natural: share t of the clean loss.
        weights: "worst"; "shuffled" within the batch, the control of every claim about re-weighting; "uniform".
        movable: classes whose samples may move; None is all.

    Differs from the released code: 1. duals are solved, not learned at a fixed rate, and the weights are normalised;
    2. one price and one cost in attack and loss; 3. no floor on the price; 4. no mass where there is no sample.
    The attack's price is that of the batch before.
    """

    name: ClassVar[str] = "armor"

    base: Objective
    eps: float = 0.02
    divergence: str = "KL"
    natural: float = 0.0
    weights: Literal["worst", "shuffled", "uniform"] = "worst"
    movable: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check_settings(self.name, at_least_zero={"eps": self.eps}, positive={})
        divergence_named(self.divergence)
        if not 0 <= self.natural <= 1 or self.weights not in ("worst", "shuffled", "uniform"):
            raise InputError(
                "armor: natural must be in [0, 1] and weights worst, shuffled or uniform, "
                f"got {self.natural} and {self.weights!r}"
            )
        threat = getattr(self.base, "threat", None)
        if threat is not None and not math.isinf(threat.p) and not isinstance(self.base, WRM):
            raise ThreatError(
                f"armor moves samples inside a pointwise ball (Linf@8/255) or, with wrm, at a squared price; got {threat.name}"
            )

    def prepare(self, model: nn.Module, x: Tensor, y: Tensor, context: Context) -> None:
        """The base's."""
        self.base.prepare(model, x, y, context)

    def craft(self, model: nn.Module, x: Tensor, y: Tensor, context: Context) -> Crafted:
        """The base's; samples of classes that may not move are put back."""
        crafted = self.base.craft(model, x, y, context)
        if self.movable is not None:
            free = torch.isin(y, torch.tensor(self.movable, device=y.device))
            crafted.z = torch.where(per_sample_mask(free, x), crafted.z, x)
            if "cost" in crafted.notes:
                crafted.notes["cost"] = torch.where(free, crafted.notes["cost"], 0.0)
        return crafted

    def outer(self, model: nn.Module, crafted: Crafted, context: Context) -> Outer:
        """The weighted loss, with the natural share."""
        if isinstance(self.base, UDR | WRM):
            inner = self._priced(self.base, model, crafted, context)
        else:
            inner = self.base.outer(model, crafted, context)
            if crafted.weights is None:
                crafted.weights = self._weigh(inner.each, crafted, context)
        assert crafted.weights is not None
        loss = (crafted.weights.to(inner.each) * inner.each).mean()
        if self.natural > 0:
            clean = model(crafted.x) if inner.clean is None else inner.clean
            loss = (1 - self.natural) * loss + self.natural * cross_entropy(clean, crafted.y).mean()
            inner = dataclasses.replace(inner, clean=clean)
        return dataclasses.replace(inner, loss=loss)

    def update(self, crafted: Crafted, outer: Outer, context: Context) -> Metrics:
        """The price for the next batch's crafting; what was spent."""
        metrics: Metrics = {}
        if isinstance(self.base, UDR | WRM):
            if self.weights != "uniform" and "lam" in crafted.notes:
                price = min(max(float(crafted.notes["lam"]), _PRICES[0]), _PRICES[1])
                context.put(self.base.dual_name, price * self.base.unit)
            metrics["cost"] = context.gather(crafted.notes["cost"]).mean()
        else:
            metrics |= self.base.update(crafted, outer, context)
        w = crafted.weights
        if w is not None:
            everyone = context.gather(w).double()
            metrics["effective share"] = everyone.sum() ** 2 / (len(everyone) * (everyone**2).sum())
            metrics["divergence"] = divergence_named(self.divergence).value(everyone)
        if "lam" in crafted.notes:
            metrics["lam"] = crafted.notes["lam"]
        return metrics

    def _weigh(self, each: Tensor, crafted: Crafted, context: Context) -> Tensor:
        """Worst weights of the gathered losses; this process's part."""
        if self.weights == "uniform":
            return torch.ones_like(each)
        everyone = context.gather(each.detach())
        found = divergence_named(self.divergence).worst_weights(everyone, self.eps)
        crafted.notes["lam"] = found.price
        return self._shuffled(context.local(found.density, len(each)), context)

    def _priced(self, base: UDR | WRM, model: nn.Module, crafted: Crafted, context: Context) -> Outer:
        """Candidates {stay, moved} of every sample under one budget."""
        inner = base.harm(model, crafted, context)
        clean = model(crafted.x) if inner.clean is None else inner.clean
        stay, cost = base.resting(clean, crafted.y), crafted.notes["cost"] * base.unit
        if self.weights == "uniform":
            price = context.number(base.dual_name, math.inf) / base.unit
            crafted.weights = torch.ones_like(stay)
            charged = inner.each - price * cost if math.isfinite(price) else inner.each
            return dataclasses.replace(inner, each=charged, clean=clean)
        if crafted.weights is None:
            losses = torch.stack((context.gather(stay.detach()), context.gather(inner.each.detach())), 1)
            gathered = context.gather(cost)
            start = min(max(context.number(base.dual_name, 1.0) / base.unit, _PRICES[0]), _PRICES[1])
            divergence = divergence_named(self.divergence)
            density, moved, price = solve_price(losses[:, 0], losses[:, 1], gathered, self.eps, divergence, start)
            crafted.weights = self._shuffled(context.local(density, len(stay)), context)
            crafted.notes["moved share"] = context.local(moved, len(stay)).to(stay)
            crafted.notes["lam"] = torch.tensor(price, dtype=torch.float64)
        share = crafted.notes["moved share"]
        return dataclasses.replace(inner, each=(1 - share) * stay + share * inner.each, clean=clean)

    def _shuffled(self, w: Tensor, context: Context) -> Tensor:
        if self.weights != "shuffled":
            return w
        return w[torch.randperm(len(w), generator=context.generator).to(w.device)]


def solve_price(
    stay: Tensor, move: Tensor, cost: Tensor, eps: float, divergence: Divergence, start: float
) -> tuple[Tensor, Tensor, float]:
    """Densities, moves (0 or 1) and the price at which re-weighting and moving together spend at most eps.

    `transport.allocate_jointly` to 1e-4 of the price, warm-started, on the affordable side, without splitting a sample:
    ten times faster, which is what a training step needs.

    Args:
        stay, move, cost: losses at x and at z, and the cost of z, (n,).
    """
    losses, cost = torch.stack((stay, move), 1).double(), cost.double()
    if eps == 0:
        return torch.ones_like(cost), ((cost == 0) & (move > stay)).double(), math.inf

    def answer(price: float) -> tuple[Tensor, Tensor, float]:
        value, choice = torch.stack((losses[:, 0] / price, losses[:, 1] / price - cost), 1).max(1)
        _, gaps, mass = gaps_below(value[None], None)
        at = tilted(gaps, divergence.tilt(gaps, mass), divergence.moment, mass)
        spent = divergence.spend(moment_divergence(at.density, at.excess, divergence.moment, mass))
        return at.density[0], choice.double(), float(spent) + float((at.density[0] * cost * choice).mean())

    low = high = start
    while high < _PRICES[1] and answer(high)[2] > eps:
        low, high = high, high * 4
    while low > _PRICES[0] and answer(low)[2] <= eps:
        low, high = low / 4, low
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if answer(middle)[2] > eps else (low, middle)
    density, moved, _ = answer(high)
    return density, moved, high
