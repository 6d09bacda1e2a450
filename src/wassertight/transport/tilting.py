"""The tilted weights of a list of losses: one curve for every order of divergence, followed to a radius or to a price.

With `gap_i = max l - l_i` and a tilt t > 0 the worst-case density of a divergence of order a is
`w_i(t) = e_i / E[e]`, `e_i = [1 - (a - 1) t gap_i]_+ ** (1 / (a - 1))` (`exp(-t gap_i)` for a = 1). Everything here is
batched over rows, float64, and written in `u = w - 1`, so that radii of 1e-12 lose no digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

LIMIT = 1e-6
"""Orders this close to 0 or 1 are treated as the limit."""
_STEPS, _DONE, _WIDTH = 200, 5e-14, 2e-15
_STRIDE = math.log(4)
_LARGE = 1e-3
"""Budgets above this are found from a few sums, smaller ones in w - 1."""


@dataclass(frozen=True)
class Tilted:
    """The curve at one tilt a row.

    Attributes:
        density: w (rows, n), mean one under mu.
        excess: w - 1, accurate where it is small.
        log_mean: log E[e], (rows, 1).
        slope: `E_w[h]`, `E_w[gap h]` and h itself, h = gap / (1 - (a - 1) t gap), are what derivatives need: h (rows, n).
    """

    density: Tensor
    excess: Tensor
    log_mean: Tensor
    slope: Tensor


def tilted(gaps: Tensor, t: Tensor, order: float, mu: Tensor) -> Tilted:
    """The curve at tilts t (rows, 1) for gaps (rows, n) >= 0; an infinite gap shuts a sample out (order > 0)."""
    k = order - 1
    x = t * gaps
    if abs(k) < LIMIT:
        exponent, base = -x, torch.ones_like(x)
    else:
        base = (1 - k * x).clamp_min(0.0)
        exponent = torch.log1p((-k * x).clamp_min(-1.0)) / k
    e, below = exponent.exp(), torch.expm1(exponent)
    mean = (mu * e).sum(-1, keepdim=True)
    excess = (below - (mu * below).sum(-1, keepdim=True)) / mean
    slope = torch.where(e > 0, gaps / base, 0.0)
    return Tilted(e / mean, excess, mean.log(), slope)


def moment_divergence(density: Tensor, excess: Tensor, order: float, mu: Tensor) -> Tensor:
    """`D_a = E[(w**a - 1 - a (w - 1)) / (a (a - 1))]` of every row, a sum of terms >= 0, (rows, 1)."""
    small = excess.abs() < 1e-3
    log = torch.where(excess.abs() < 0.5, torch.log1p(excess.clamp(-0.5, 0.5)), density.log())
    if abs(order - 1) < LIMIT:
        large = torch.where(density > 0, density * log, 0.0) - excess
    elif abs(order) < LIMIT:
        large = excess - log
    else:
        large = (torch.expm1(order * log) - order * excess) / (order * (order - 1))
    v = excess.clamp(-1e-3, 1e-3)
    term, series = v * v / 2, v * v / 2
    for j in range(2, 8):
        term = term * v * (order - j) / (j + 1)
        series = series + term
    terms = torch.where(small, series, large)
    return torch.where(mu > 0, mu * terms, 0.0).sum(-1, keepdim=True)


def tilt_to_radius(gaps: Tensor, budget: Tensor, order: float, mu: Tensor) -> tuple[Tensor, Tensor, int]:
    """Tilts t (rows, 1) with `D_a(w(t)) = budget`, the budget (rows, 1) positive and below saturation; and evaluations.

    Two of them, between which the root lies: equal, and inside by 1e-13 relatively, but for orders above 2, where a
    sample that enters makes `D_a` so steep that neighbouring floats lie on both sides.
    `D' = Cov_w(gap, h) t / E[e]**(a - 1)`; since `sqrt(2 D) ~ t sd(l)` the equation is nearly a line in logarithms.
    """
    mean = (mu * gaps).sum(-1, keepdim=True)
    scale = (mu * (gaps - mean) ** 2).sum(-1, keepdim=True).sqrt().clamp_min(1e-300)
    rough = bool((budget > _LARGE).all())
    done = 1e-12 if rough else _DONE

    def rise(s: Tensor) -> tuple[Tensor, Tensor]:
        t = s.exp()
        value, slope = (_rough if rough else _careful)(gaps, t, order, mu)
        value = value.clamp_min(1e-300)
        return (value / budget).log() / 2 + done, t * slope / (2 * value)

    low, high, steps = _root(rise, ((2 * budget).sqrt() / scale).clamp(1e-280, 1e280).log(), done)
    return low.exp(), high.exp(), steps


def _careful(gaps: Tensor, t: Tensor, order: float, mu: Tensor) -> tuple[Tensor, Tensor]:
    """`D_a(w(t))` and its derivative, accurate however small."""
    at = tilted(gaps, t, order, mu)
    mass = mu * at.density
    centre = (mass * gaps).sum(-1, keepdim=True)
    covariance = (mass * (gaps - centre) * at.slope).sum(-1, keepdim=True)
    value = moment_divergence(at.density, at.excess, order, mu)
    return value, t * covariance * torch.exp((1 - order) * at.log_mean)


def _rough(gaps: Tensor, t: Tensor, order: float, mu: Tensor) -> tuple[Tensor, Tensor]:
    """The same from few sums (`e**a = e (1 - (a - 1) t gap)`), accurate to 1e-15 absolutely."""
    k, x = order - 1, t * gaps
    if abs(k) < LIMIT:
        e = torch.exp(-x)
        steep = e
    else:
        base = (1 - k * x).clamp_min(0.0)
        e = base if k == 1 else base.log().div_(k).exp_()
        steep = torch.where(base > 0, e / base, 0.0) if k > 0 else e / base
    mass, pull = mu * e, gaps * (mu * steep)
    total, first = mass.sum(-1, keepdim=True), (mass * gaps).sum(-1, keepdim=True)
    covariance = (pull * gaps).sum(-1, keepdim=True) / total - first * pull.sum(-1, keepdim=True) / total**2
    slope = t * covariance * total ** (1 - order)
    if abs(k) < LIMIT:
        return -t * first / total - total.log(), slope
    if abs(order) < LIMIT:
        return (mu * base.log()).sum(-1, keepdim=True) + total.log(), slope
    return ((total - k * t * first) / total**order - 1) / (order * k), slope


def tilt_to_price(gaps: Tensor, order: float, mu: Tensor, *, renyi: bool, near: Tensor | None = None) -> Tensor:
    """Tilts t (rows, 1) at which one unit of divergence is worth one unit of loss: `lam(t) = 1`.

    `lam = E[e]**(a - 1) / t` for alpha-divergences, `E[e**a] / (t E[e])` for Renyi's. `near` is where to start.
    """
    if abs(order - 1) < LIMIT:
        return torch.ones_like(gaps[..., :1])

    def rise(s: Tensor) -> tuple[Tensor, Tensor]:
        t = s.exp()
        at = tilted(gaps, t, order, mu)
        h = t * at.slope
        lost = (mu * at.density * h).sum(-1, keepdim=True)
        if not renyi:
            return s - (order - 1) * at.log_mean, 1 + (order - 1) * lost
        power = torch.where(mu > 0, mu * at.density**order, 0.0)
        moment = power.sum(-1, keepdim=True)
        # E[e**a] = E[w**a] E[e]**a
        value = s + (1 - order) * at.log_mean - moment.log()
        return value, 1 - lost + order * (power * h).sum(-1, keepdim=True) / moment

    return _root(rise, torch.zeros_like(gaps[..., :1]) if near is None else near.log())[0].exp()


def _root(
    rise: Callable[[Tensor], tuple[Tensor, Tensor]], s: Tensor, close: float = _DONE
) -> tuple[Tensor, Tensor, int]:
    """Both ends of the root of an increasing function of s, row by row: Newton inside a bracket.

    A step that leaves the bracket, or follows one that did not halve the value, becomes its middle; while one side of
    the bracket is open, and Newton has no say, t changes by a factor 4.
    """
    low, high = torch.full_like(s, -math.inf), torch.full_like(s, math.inf)
    before = torch.full_like(s, math.inf)
    done = torch.zeros_like(s, dtype=torch.bool)
    steps = 0
    for _ in range(_STEPS):
        value, slope = rise(s)
        steps += 1
        low, high = torch.where((value < 0) & ~done, s, low), torch.where((value > 0) & ~done, s, high)
        narrow = (high - low) <= _WIDTH * (1 + s.abs())
        hit = value.abs() <= close
        low, high = torch.where(hit & ~done, s, low), torch.where(hit & ~done, s, high)
        done = done | hit | narrow
        if bool(done.all()):
            break
        newton = s - (value / slope).clamp(-1.5, 1.5)
        middle = torch.where(low.isinf(), high - _STRIDE, torch.where(high.isinf(), low + _STRIDE, (low + high) / 2))
        closed = low.isfinite() & high.isfinite()
        stuck = closed & (value.abs() > before / 2)
        usable = newton.isfinite() & (newton > low) & (newton < high) & ~stuck
        before = torch.where(usable, value.abs(), math.inf)
        s = torch.where(done, s, torch.where(usable, newton, middle))
    return torch.where(low.isfinite(), low, s), torch.where(high.isfinite(), high, s), steps
