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
_STEPS, _DONE, _WIDTH = 200, 1e-13, 2e-15
_STRIDE = math.log(4)


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


def tilt_to_radius(gaps: Tensor, budget: Tensor, order: float, mu: Tensor) -> tuple[Tensor, int]:
    """Tilts t (rows, 1) with `D_a(w(t)) = budget`, the budget (rows, 1) positive and below saturation; and evaluations.

    `D' = Cov_w(gap, h) t / E[e]**(a - 1)`; since `sqrt(2 D) ~ t sd(l)` the equation is nearly a line in logarithms.
    """
    mean = (mu * gaps).sum(-1, keepdim=True)
    deviation = (mu * (gaps - mean) ** 2).sum(-1, keepdim=True).sqrt()
    scale = deviation.clamp_min(1e-300)

    def rise(s: Tensor) -> tuple[Tensor, Tensor]:
        t = s.exp()
        at = tilted(gaps, t, order, mu)
        value = moment_divergence(at.density, at.excess, order, mu).clamp_min(1e-300)
        mass = mu * at.density
        centre = (mass * gaps).sum(-1, keepdim=True)
        covariance = (mass * (gaps - centre) * at.slope).sum(-1, keepdim=True)
        steep = t * t * covariance * torch.exp((1 - order) * at.log_mean) / (2 * value)
        return (value / budget).log() / 2, steep

    start = ((2 * budget).sqrt() / scale).clamp(1e-280, 1e280).log()
    s, steps = _root(rise, start)
    return s.exp(), steps


def tilt_to_price(gaps: Tensor, order: float, mu: Tensor, *, renyi: bool) -> Tensor:
    """Tilts t (rows, 1) at which one unit of divergence is worth one unit of loss: `lam(t) = 1`.

    `lam = E[e]**(a - 1) / t` for alpha-divergences, `E[e**a] / (t E[e])` for Renyi's.
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

    s, _ = _root(rise, torch.zeros_like(gaps[..., :1]))
    return s.exp()


def _root(rise: Callable[[Tensor], tuple[Tensor, Tensor]], s: Tensor) -> tuple[Tensor, int]:
    """Root of an increasing function of s, row by row: Newton inside a bracket.

    A step that leaves the bracket, or follows one that did not halve the value, becomes its middle; while one side of
    the bracket is open, steps are at most a factor 4 in t beyond Newton's own.
    """
    low, high = torch.full_like(s, -math.inf), torch.full_like(s, math.inf)
    before = torch.full_like(s, math.inf)
    done = torch.zeros_like(s, dtype=torch.bool)
    steps = 0
    for _ in range(_STEPS):
        value, slope = rise(s)
        steps += 1
        low, high = torch.where(value < 0, s, low), torch.where(value > 0, s, high)
        narrow = (high - low) <= _WIDTH * (1 + s.abs())
        done = done | (value.abs() <= _DONE) | narrow
        if bool(done.all()):
            break
        newton = s - (value / slope).clamp(-6.0, 6.0)
        middle = torch.where(low.isinf(), high - _STRIDE, torch.where(high.isinf(), low + _STRIDE, (low + high) / 2))
        closed = low.isfinite() & high.isfinite()
        stuck = closed & (value.abs() > before / 2)
        usable = newton.isfinite() & (newton > low) & (newton < high) & ~stuck
        before = torch.where(usable, value.abs(), math.inf)
        s = torch.where(done, s, torch.where(usable, newton, middle))
    return s, steps
