"""Information divergences: what re-weighting costs, and the worst weights of a list of losses for a given cost.

Problem: `max E[w l]` over densities `w >= 0, E[w] = 1` with `D(w) <= radius`, E under the sample masses mu. With
`M_a = E[w**a]`: alpha-divergence `D_a = (M_a - 1) / (a (a - 1))`, KL for a = 1, reverse KL for a = 0, `Var(w) / 2` for
a = 2; Renyi, nominal law first, `R_b = log(M_a) / (a (a - 1))` with a = 1 - b (2309.03791; duals derived in our notes).

Differs from the paper's released code: 1. the dual is solved to 1e-10 on every call instead of being a parameter with a
fixed learning rate (`attacks.learned`), a bounded quasi-Newton on the CPU, or a bisection that gives up at 100;
2. the adversary's law is always absolutely continuous: for Renyi divergences mass would otherwise come from nowhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wassertight.transport.moves import in_full
from wassertight.transport.tilting import LIMIT, moment_divergence, tilt_to_price, tilted
from wassertight.transport.weighting import Divergence, WorstWeights, gaps_below, worst_weights
from wassertight.types import InputError


@dataclass(frozen=True, kw_only=True)
class AlphaDivergence:
    """The alpha-divergence of an order; `KL` is the one of order 1.

    Args:
        order: a, any number from -50 to 50. Above 1 samples may lose all their mass; from 0 down no radius is large
            enough to reach the maximum.

    >>> loss = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    >>> round(float(AlphaDivergence(order=2.0).worst_weights(loss, 0.1).value), 4)
    0.4436
    """

    order: float

    def __post_init__(self) -> None:
        if not -50 <= self.order <= 50:
            raise InputError(f"the order of an alpha-divergence must be a number in [-50, 50], got {self.order}")

    @property
    def name(self) -> str:
        return "KL" if self.order == 1 else f"alpha{in_full(self.order)}"

    @property
    def moment(self) -> float:
        """Order of the moment it is a function of: its own."""
        return self.order

    def budget(self, radius: Tensor) -> Tensor:
        """The radius in terms of D_a: itself."""
        return radius

    def spend(self, moment: Tensor) -> Tensor:
        """The divergence from D_a: itself."""
        return moment

    def value(self, density: Tensor, mu: Tensor | None = None) -> Tensor:
        """Divergence of densities (..., n) from one."""
        return _value(self, density, mu)

    def tilt(self, gaps: Tensor, mu: Tensor, near: Tensor | None = None) -> Tensor:
        """Tilt of the best density at price one, searched from `near`."""
        return tilt_to_price(gaps, self.order, mu, renyi=False, near=near)

    def price(self, density: Tensor, log_mean: Tensor, t: Tensor, mu: Tensor) -> Tensor:
        """Gain a unit of radius at tilt t: `E[e]**(a - 1) / t`."""
        return torch.exp((self.order - 1) * log_mean) / t

    def conjugate(self, g: Tensor, mu: Tensor | None = None) -> Tensor:
        """`sup over w of E[w g] - D(w)`, evaluated as its dual `nu + E f*(g - nu)`: an upper bound whatever nu, (...)."""
        top, gaps, mass = gaps_below(g, mu)
        log_mean = tilted(gaps, self.tilt(gaps, mass), self.order, mass).log_mean
        a = self.order
        if abs(a - 1) < LIMIT:
            return (top + log_mean).squeeze(-1)
        shift = torch.exp((1 - a) * log_mean)
        inner = (shift - (a - 1) * gaps).clamp_min(0.0)
        best = -inner.log() if abs(a) < LIMIT else (inner ** (a / (a - 1)) - 1) / a
        mean = torch.where(mass > 0, mass * best, 0.0).sum(-1, keepdim=True)
        return (top - torch.expm1((1 - a) * log_mean) / (a - 1) + mean).squeeze(-1)

    def worst_weights(self, losses: Tensor, radius: float | Tensor, mu: Tensor | None = None) -> WorstWeights:
        """Worst densities within the radius; see `worst_weights`."""
        return worst_weights(self, losses, radius, mu)


KL = AlphaDivergence(order=1.0)
"""Relative entropy `E[w log w]`."""


@dataclass(frozen=True, kw_only=True)
class Renyi:
    """Renyi's divergence of the nominal law from the re-weighted one, order b in (0, 50]; b = 1 is reverse KL.

    The density may not create mass where there is no sample, although the divergence alone would let it.

    >>> Renyi(order=1.5).name
    'renyi1.5'
    """

    order: float

    def __post_init__(self) -> None:
        if not 0 < self.order <= 50:
            raise InputError(f"the order of a Renyi divergence must be a number in (0, 50], got {self.order}")

    @property
    def name(self) -> str:
        return f"renyi{in_full(self.order)}"

    @property
    def moment(self) -> float:
        """Order a = 1 - b of the moment it is a function of."""
        return 1 - self.order

    @property
    def _factor(self) -> float:
        return self.moment * (self.moment - 1)

    def budget(self, radius: Tensor) -> Tensor:
        """The radius in terms of D_a, `expm1(a (a - 1) radius) / (a (a - 1))`."""
        return radius if abs(self.moment) < LIMIT else torch.expm1(self._factor * radius) / self._factor

    def spend(self, moment: Tensor) -> Tensor:
        """The divergence from D_a."""
        return moment if abs(self.moment) < LIMIT else torch.log1p(self._factor * moment) / self._factor

    def value(self, density: Tensor, mu: Tensor | None = None) -> Tensor:
        """Divergence of densities (..., n) from one."""
        return _value(self, density, mu)

    def tilt(self, gaps: Tensor, mu: Tensor, near: Tensor | None = None) -> Tensor:
        """Tilt of the best density at price one, searched from `near`."""
        return tilt_to_price(gaps, self.moment, mu, renyi=True, near=near)

    def price(self, density: Tensor, log_mean: Tensor, t: Tensor, mu: Tensor) -> Tensor:
        """Gain a unit of radius at tilt t: `E[e**a] / (t E[e])`."""
        a = self.moment
        power = torch.where(mu > 0, mu * density**a, 0.0).sum(-1, keepdim=True)
        return power * torch.exp((a - 1) * log_mean) / t

    def conjugate(self, g: Tensor, mu: Tensor | None = None) -> Tensor:
        """`sup over w of E[w g] - R(w)` as its dual in one shift `rho > max g`: an upper bound whatever rho, (...)."""
        top, gaps, mass = gaps_below(g, mu)
        b = self.order
        reach = 1 / (b * self.tilt(gaps, mass))
        inner = (gaps + reach).log()
        if abs(b - 1) < LIMIT:
            mean = torch.where(mass > 0, mass * inner, 0.0).sum(-1, keepdim=True)
        else:
            power = (b - 1) / b
            mean = torch.logsumexp(torch.where(mass > 0, mass.log() + power * inner, -math.inf), -1, keepdim=True)
            mean = mean / (b - 1)
        return (top + reach - (1 + math.log(b)) / b - mean).squeeze(-1)

    def worst_weights(self, losses: Tensor, radius: float | Tensor, mu: Tensor | None = None) -> WorstWeights:
        """Worst densities within the radius; see `worst_weights`."""
        return worst_weights(self, losses, radius, mu)


def _value(divergence: Divergence, density: Tensor, mu: Tensor | None) -> Tensor:
    w = density.to(torch.float64)
    mass = torch.full_like(w, 1 / w.shape[-1]) if mu is None else mu.to(w).expand(w.shape)
    return divergence.spend(moment_divergence(w, w - 1, divergence.moment, mass)).squeeze(-1)


def divergence_named(text: str) -> AlphaDivergence | Renyi:
    """The divergence of a name: KL, revKL, chi2, alpha<a>, renyi<b>.

    >>> divergence_named("chi2").name, divergence_named("Renyi1.5").name
    ('alpha2', 'renyi1.5')
    """
    known: Sequence[tuple[str, AlphaDivergence]] = (
        ("kl", KL), ("revkl", AlphaDivergence(order=0.0)), ("chi2", AlphaDivergence(order=2.0))
    )  # fmt: skip
    name = text.strip().lower()
    for key, divergence in known:
        if name == key:
            return divergence
    try:
        if name.startswith("alpha"):
            return AlphaDivergence(order=float(name[5:]))
        if name.startswith("renyi"):
            return Renyi(order=float(name[5:]))
    except ValueError as error:
        if isinstance(error, InputError):
            raise
    raise InputError(f"unknown divergence {text!r}; allowed: KL, revKL, chi2, alpha<order>, renyi<order>")
