"""The exact worst-case accuracy over a W_p ball: a fractional knapsack over flip distances, with its dual.

With d_i the distance from sample i to the nearest misclassified input, the worst accuracy over the ball is
`1 - K`, `K = max sum w_i a_i subject to 0 <= a_i <= 1, sum w_i a_i d_i**p <= radius**p` (worst_case.md 3;
for the 0-1 loss the duality is that of 2306.09844 and 2510.10000). An attack's distances (from above) make it
an upper bound on worst-case accuracy, a certificate's radii (from below) a proved lower bound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from wassertight.types import InputError


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """How the budget is spent.

    Attributes:
        value: K, the mass made wrong.
        fractions: share of each sample's mass that is moved, (n,) float64; at most one lies strictly between 0 and 1.
        threshold: t*, the distance up to which samples are bought; inf when everything that can flip does.
        multiplier: lambda, the price of budget at the optimum (0 when budget is left over).
        spent: (sum w_i a_i d_i**p) ** (1/p), at most the radius; the largest distance moved for p = inf.
        split: index of the sample whose mass splits, or None.
    """

    value: float
    fractions: Float[Tensor, " n"]
    threshold: float
    multiplier: float
    spent: float
    split: int | None


@dataclass(frozen=True, kw_only=True)
class FlipDistances:
    """Per-sample flip distances of one side, from which every order p and every radius follows.

    Use the constructors: `attacked` treats a missing value as "not found" (inf), `certified` as "not proved" (0).

    >>> found = FlipDistances.attacked(torch.tensor([0.1, 0.3, torch.inf, 0.0], dtype=torch.float64))
    >>> round(found.accuracy(p=1, radius=0.1), 12), found.accuracy(p=float("inf"), radius=0.1)
    (0.25, 0.5)
    """

    values: Float[Tensor, " n"]
    weights: Float[Tensor, " n"]
    side: Literal["attacked", "certified"]
    closed: bool = False

    @classmethod
    def attacked(cls, distances: Tensor, weights: Tensor | None = None) -> FlipDistances:
        """Distances of misclassified points: upper bounds on d_i. NaN (not found) becomes inf; 0 is already wrong."""
        return cls(values=_clean(distances, missing=math.inf), weights=_mass(distances, weights), side="attacked")

    @classmethod
    def certified(cls, radii: Tensor, weights: Tensor | None = None, *, closed: bool = False) -> FlipDistances:
        """Proved radii: lower bounds on d_i. NaN (not proved) becomes 0.

        Args:
            radii: shape (n,), >= 0.
            weights: sample masses, or None for 1/n.
            closed: True if the verifier proved the closed ball, so that a radius equal to the budget counts at p = inf.
        """
        return cls(values=_clean(radii, missing=0.0), weights=_mass(radii, weights), side="certified", closed=closed)

    def relabelled(self, label_cost: float) -> FlipDistances:
        """The same with labels that may move at a finite cost kappa: `min(d_i, kappa)` where d_i > 0. Exact.

        At p = inf a relabelling that costs exactly the radius is allowed, so a closed ball no longer counts as closed.
        """
        if not label_cost > 0:
            raise InputError(f"a label cost must be > 0 (inf = labels never move), got {label_cost}")
        values = torch.where(self.values > 0, self.values.clamp_max(label_cost), self.values)
        return replace(self, values=values, closed=self.closed and math.isinf(label_cost))

    def accuracy(self, p: float, radius: float) -> float:
        """Worst-case accuracy over the W_p ball: `1 - K`."""
        return float(self.curve(p, [radius])[0])

    def curve(self, p: float, radii: Sequence[float] | Tensor) -> Float[Tensor, " m"]:
        """Worst-case accuracy at every radius, one sort for all of them, float64."""
        budgets = torch.as_tensor(radii, dtype=torch.float64, device=self.values.device)
        _check_order(p)
        if (budgets < 0).any() or torch.isnan(budgets).any():
            raise InputError("radii must be numbers >= 0 (0 = clean)")
        d, w = _sorted(self.values, self.weights)
        if math.isinf(p):
            after = torch.searchsorted(d, budgets, right=self._takes_equal(p))
            lost = torch.cat((w.new_zeros(1), w.cumsum(0)))[after]
        else:
            lost = torch.stack([_fill(d, w, p, float(b))[0] for b in budgets.tolist()]) if len(budgets) else budgets
        clean_loss = w[d == 0].sum()
        return (1 - torch.where(budgets == 0, clean_loss, lost)).clamp(0, 1)

    def allocate(self, p: float, radius: float) -> Allocation:
        """Spend `radius**p` on the cheapest flips, splitting at most one sample (stable order: distance, then index).

        Raises:
            InputError: for p < 1 or a negative radius.
        """
        _check_order(p)
        if math.isnan(radius) or radius < 0:
            raise InputError(f"radius must be a number >= 0 (0 = clean), got {radius}")
        order = self.values.argsort(stable=True)
        d, w = self.values[order], self.weights[order]
        if math.isinf(p) or radius == 0:
            take = d == 0 if radius == 0 else ((d <= radius) if self._takes_equal(p) else (d < radius))
            taken = take.to(torch.float64)
            threshold, multiplier = float(radius), 0.0
        else:
            _, index, share = _fill(d, w, p, radius)
            taken = (torch.arange(len(d), device=d.device) < index).to(torch.float64)
            if index < len(d) and math.isfinite(float(d[index])):
                taken[index] = share
                threshold = float(d[index])
                multiplier = threshold ** (-p) if threshold > 0 else math.inf
            else:
                threshold, multiplier = math.inf, 0.0
        fractions = torch.empty_like(taken).scatter(0, order, taken)
        partial = ((fractions > 0) & (fractions < 1)).nonzero()
        moved = (taken > 0) & (d > 0)
        top = float(d[moved].max()) if moved.any() else 0.0
        if top > 0 and not math.isinf(p):
            spent = top * float((w * taken)[moved].dot((d[moved] / top) ** p)) ** (1 / p)
        else:
            spent = top
        return Allocation(
            value=float((self.weights * fractions).sum()),
            fractions=fractions,
            threshold=threshold,
            multiplier=multiplier,
            spent=spent,
            split=int(partial[0, 0]) if len(partial) else None,
        )

    def dual_value(self, p: float, radius: float, threshold: float) -> float:
        """`D(t) = F(t) + (radius**p - M(t)) / t**p >= K` for every t > 0: any t proves an accuracy of 1 - D(t)."""
        _check_order(p)
        if math.isinf(p) or not threshold > 0:
            raise InputError(f"the dual needs a finite p and a threshold > 0, got p = {p}, t = {threshold}")
        below = self.values <= threshold
        ratio = (self.values[below] / threshold) ** p
        return float((radius / threshold) ** p + (self.weights[below] * (1 - ratio)).sum())

    def population_accuracy(self, p: float, radius: float, *, eta: float = 0.05) -> float:
        """Certified accuracy around the *true* law, with probability >= 1 - eta over the draw of the samples.

        Subtracts `sqrt(log(1/eta) / (2 n))` (worst_case.md theorem 3, one-sided DKW-Massart); needs equal weights,
        independent test data that nothing was tuned on, and finite p.
        """
        if self.side != "certified" or math.isinf(p) or not 0 < eta <= 0.5:
            raise InputError("the population bound needs certified radii, a finite p and 0 < eta <= 0.5")
        n = len(self.values)
        if not torch.allclose(self.weights, self.weights.new_full((n,), 1 / n), rtol=0, atol=1e-12):
            raise InputError("the population bound needs equal weights")
        return max(0.0, self.accuracy(p, radius) - math.sqrt(math.log(1 / eta) / (2 * n)))

    def _takes_equal(self, p: float) -> bool:
        return self.side == "attacked" or not self.closed


def _fill(d: Tensor, w: Tensor, p: float, radius: float) -> tuple[Tensor, int, float]:
    """K, the number of samples bought whole, and the share of the next one; d sorted, radius >= 0, p finite."""
    if radius == 0:
        count = int((d == 0).sum())
        return w[:count].sum(), count, 0.0
    finite = int(torch.isfinite(d).sum())
    price = (d[:finite] / radius) ** p
    paid = (w[:finite] * price).cumsum(0)
    index = int(torch.searchsorted(paid, paid.new_ones(()), right=True))
    bought = w[:index].sum()
    if index == finite:
        return bought, index, 0.0
    left = 1 - (float(paid[index - 1]) if index else 0.0)
    cost = float(w[index] * price[index])
    share = min(1.0, max(0.0, left / cost)) if math.isfinite(cost) and cost > 0 else 0.0
    return bought + w[index] * share, index, share


def _sorted(d: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    order = d.argsort(stable=True)
    return d[order], w[order]


def _clean(values: Tensor, *, missing: float) -> Tensor:
    if values.ndim != 1 or len(values) == 0:
        raise InputError(f"distances must have shape (n,) with n >= 1, got {tuple(values.shape)}")
    clean = torch.nan_to_num(values.detach().to(torch.float64), nan=missing, posinf=math.inf, neginf=-math.inf)
    if (clean < 0).any():
        raise InputError(f"distances must be >= 0, got {float(clean.min())}")
    return clean


def _mass(values: Tensor, weights: Tensor | None) -> Tensor:
    n = len(values)
    if weights is None:
        return torch.full((n,), 1 / n, dtype=torch.float64, device=values.device)
    mass = weights.detach().to(device=values.device, dtype=torch.float64)
    if mass.shape != (n,) or not torch.isfinite(mass).all() or (mass < 0).any() or not mass.sum() > 0:
        raise InputError(f"weights must be {n} finite numbers >= 0 with a positive sum, got shape {tuple(mass.shape)}")
    return mass / mass.sum()


def _check_order(p: float) -> None:
    if not p >= 1:
        raise InputError(f"the Wasserstein order p must be a number >= 1 or inf, got {p}")
