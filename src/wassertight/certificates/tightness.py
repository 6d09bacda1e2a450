"""The bracket between proved and attacked distances: how wide it is, where it is widest, where it closes.

With `l_i <= d_i <= u_i` the worst-case accuracy lies between two curves. For finite p both are piecewise linear in
`radius**p`, with corners where a sample has just been bought whole; so width, extremes, crossings and areas are exact,
taken at the corners of both curves and not on a grid.

Notes on areas and means ("tightness = mean certified / mean attacked radius, the areas under the two p = 1 curves"):
1. The area under the p = inf curve is the mean distance, misclassified samples counting 0: the integral of `w(d > t)`.
2. The area under the p = 1 curve is not the mean but half the mean of the smaller of two independent draws,
   `1/2 sum_ij w_i w_j min(d_i, d_j)`; its ratio differs from that of the means (d uniform on (0, D): D/6 against D/2).
3. The p = 1 curve does show the mean: it reaches zero at exactly that radius (at order p: at `mean(d**p)**(1/p)`).
So tightness is the ratio of the areas under the two p = inf curves, or of the radii at which the p = 1 curves reach 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from wassertight.transport import FlipDistances
from wassertight.types import InputError

_ROUNDING = 1e-9
"""Accuracies this close count as equal where the bracket is said to be closed for good."""


@dataclass(frozen=True, kw_only=True)
class Gap:
    """The width of a bracket at one order p over all radii; accuracies in [0, 1], radii in the inputs' units.

    Attributes:
        p: Wasserstein order.
        largest: largest width.
        at: smallest radius at which it is reached.
        area: integral of the width from 0 to `reach`.
        mean: `area / reach`, the width at a radius drawn at random below `reach`; 0 where reach is 0.
        reach: radius from which on neither curve changes any more.
        closes_at: radius from which on both curves are equal (both at zero, or at the mass nothing can flip); inf
            where they never meet for good.
        closed: intervals (from, to) in which the width is at most `tolerance`; the last may end at inf.
        tolerance: the width that counts as closed there.
    """

    p: float
    largest: float
    at: float
    area: float
    mean: float
    reach: float
    closes_at: float
    closed: tuple[tuple[float, float], ...]
    tolerance: float


@dataclass(frozen=True, kw_only=True)
class Bracket:
    """Proved and attacked distances of the same samples under one ground norm.

    Raises:
        InputError: where a side is in the wrong place, samples or weights differ, or a proved radius exceeds an attack
            distance (a contradiction: one of the two is wrong).

    >>> bracket = Bracket(
    ...     certified=FlipDistances.certified(torch.tensor([0.1, 0.2, 0.0])),
    ...     attacked=FlipDistances.attacked(torch.tensor([0.2, 0.3, 0.0])),
    ... )
    >>> gap = bracket.gap(1)
    >>> round(bracket.tightness, 6), round(gap.largest, 6), round(gap.at, 6), round(gap.closes_at, 6)
    (0.6, 0.222222, 0.1, 0.166667)
    """

    certified: FlipDistances = field(repr=False)
    attacked: FlipDistances = field(repr=False)

    def __post_init__(self) -> None:
        low, high = self.certified, self.attacked
        if (low.side, high.side) != ("certified", "attacked"):
            raise InputError(
                f"a bracket needs certified radii below attacked distances, got {low.side} and {high.side}"
            )
        if len(low.values) != len(high.values) or not torch.allclose(low.weights, high.weights, rtol=0, atol=1e-12):
            raise InputError(
                f"both sides of a bracket need the same samples and weights, got {len(low.values)} and {len(high.values)}"
            )
        above = low.values > high.values
        if bool(above.any()):
            first = int(above.nonzero()[0, 0])
            raise InputError(
                f"{int(above.sum())} proved radii exceed the distance of a found flip, first at sample {first} "
                f"({float(low.values[first]):.9g} > {float(high.values[first]):.9g}); one of the two sides is wrong"
            )

    def relabelled(self, label_cost: float) -> Bracket:
        """The bracket with labels that may move at a cost."""
        return Bracket(certified=self.certified.relabelled(label_cost), attacked=self.attacked.relabelled(label_cost))

    def width(self, p: float, radii: Sequence[float] | Tensor) -> Float[Tensor, " m"]:
        """Attacked minus certified accuracy at every radius."""
        return self.attacked.curve(p, radii) - self.certified.curve(p, radii)

    @property
    def tightness(self) -> float | None:
        """Mean proved radius over mean attack distance, correctly classified samples only; 1 is a closed bracket.

        Samples proved to be unflippable (both distances inf) are left out. None where nothing is left, or where for
        a sample that is left no flip was found: an infinite mean says nothing about the proof.
        """
        use = (self.attacked.values > 0) & torch.isfinite(self.certified.values)
        low, high = self.certified.values[use], self.attacked.values[use]
        weights = self.attacked.weights[use]
        if not bool(use.any()) or not bool(torch.isfinite(high).all()) or not float(weights.sum()) > 0:
            return None
        return float(weights @ low) / float(weights @ high)

    def gap(self, p: float, *, tolerance: float = 0.01) -> Gap:
        """Width at order p over all radii, exact up to rounding.

        Args:
            p: Wasserstein order, >= 1 or inf.
            tolerance: width that counts as closed in `Gap.closed`, an accuracy in [0, 1).
        """
        if not 0 <= tolerance < 1:
            raise InputError(f"tolerance is an accuracy in [0, 1), for example 0.01; got {tolerance}")
        knots = _distinct(torch.cat((_corners(self.certified, p), _corners(self.attacked, p))))
        width = (_accuracy(self.attacked, p, knots) - _accuracy(self.certified, p, knots)).clamp_min(0)
        top = int((width >= width.max() - _ROUNDING).nonzero()[0, 0])
        area, reach = _integral(knots, width, p), float(knots[-1])
        settled = _runs(knots, width, p, _ROUNDING)
        return Gap(
            p=p,
            largest=float(width[top]),
            at=float(knots[top]),
            area=area,
            mean=area / reach if reach > 0 else 0.0,
            reach=reach,
            closes_at=settled[-1][0] if settled and math.isinf(settled[-1][1]) else math.inf,
            closed=_runs(knots, width, p, tolerance),
            tolerance=tolerance,
        )


def area_under(distances: FlipDistances, p: float) -> float:
    """Area under the worst-case accuracy curve of order p; inf where some mass is never flipped.

    >>> d = FlipDistances.attacked(torch.tensor([0.1, 0.3]))
    >>> round(area_under(d, float("inf")), 6), round(area_under(d, 1), 6)
    (0.2, 0.075)
    """
    knots = _corners(distances, p)
    accuracy = _accuracy(distances, p, knots)
    return math.inf if float(accuracy[-1]) > _ROUNDING else _integral(knots, accuracy, p)


def _bought(distances: FlipDistances, p: float) -> tuple[Tensor, Tensor]:
    """Of the finite positive distances in order: log of `sum w d**p` up to each (stable for any p), and that mass."""
    use = torch.isfinite(distances.values) & (distances.values > 0) & (distances.weights > 0)
    d, order = distances.values[use].sort(stable=True)
    w = distances.weights[use][order]
    return torch.logcumsumexp(w.log() + p * d.log(), 0), w.cumsum(0)


def _corners(distances: FlipDistances, p: float) -> Tensor:
    """Radii at which the curve bends (finite p) or jumps (p = inf: at a distance or just after it), and 0."""
    start = distances.values.new_zeros(1)
    if math.isinf(p):
        d = distances.values[torch.isfinite(distances.values)]
        return _distinct(torch.cat((start, d, torch.nextafter(d, torch.full_like(d, math.inf)))))
    if not p >= 1:
        raise InputError(f"the Wasserstein order p must be a number >= 1 or inf, got {p}")
    return _distinct(torch.cat((start, (_bought(distances, p)[0] / p).exp())))


def _distinct(values: Tensor) -> Tensor:
    values = values.sort().values
    return values[torch.cat((values.new_ones(1), values.diff())) > 0]


def _accuracy(distances: FlipDistances, p: float, radii: Tensor) -> Tensor:
    """The curve at many radii in one pass: linear in `radius**p` between corners, logarithms throughout."""
    if math.isinf(p):
        return distances.curve(p, radii)
    clean = 1 - float(distances.weights[distances.values == 0].sum())
    paid, mass = _bought(distances, p)
    if not len(paid):
        return torch.full_like(radii, clean)
    before = torch.cat((paid.new_full((1,), -math.inf), paid))[:-1]
    index = torch.searchsorted((paid / p).exp(), radii, right=True)
    following = index.clamp_max(len(paid) - 1)
    whole = torch.cat((mass.new_zeros(1), mass))
    empty = (before - paid)[following].exp()
    share = (((p * radii.log() - paid[following]).exp() - empty) / (1 - empty)).clamp(0, 1)
    part = torch.where(index < len(paid), share * (whole[following + 1] - whole[following]), 0.0)
    return (clean - whole[index] - torch.nan_to_num(part)).clamp(0, 1)


def _integral(knots: Tensor, values: Tensor, p: float) -> float:
    """Integral over [first, last knot] of a function linear in `radius**p` between knots (p = inf: constant)."""
    a, b = knots[:-1], knots[1:]
    low, high = values[:-1], values[1:]
    if math.isinf(p):
        return float(((b - a) * low).sum())
    t = a / b
    close = 1 - t < 1e-6
    safe = torch.where(close, 0.5, t)
    share = ((1 - safe ** (p + 1)) / (p + 1) - safe**p * (1 - safe)) / (1 - safe**p)
    weight = torch.where(close, (b - a) / 2, b * share)
    return float((low * (b - a) + (high - low) * weight).sum())


def _runs(knots: Tensor, width: Tensor, p: float, tolerance: float) -> tuple[tuple[float, float], ...]:
    """Intervals in which the width stays at or below the tolerance; constant after the last knot."""
    shut = (width <= tolerance).to(torch.int8)
    edges = torch.diff(shut, prepend=shut.new_zeros(1), append=shut.new_zeros(1))
    starts, stops = (edges == 1).nonzero().squeeze(1).tolist(), (edges == -1).nonzero().squeeze(1).tolist()
    x, v = knots.tolist(), width.tolist()
    found = []
    for first, after in zip(starts, stops, strict=True):
        begin = x[first] if first == 0 else _crossing(x, v, first - 1, first, p, tolerance)
        end = math.inf if after == len(x) else _crossing(x, v, after - 1, after, p, tolerance)
        found.append((begin, end))
    return tuple(found)


def _crossing(x: list[float], v: list[float], left: int, right: int, p: float, level: float) -> float:
    """Radius between two neighbouring knots at which the width passes the level."""
    if math.isinf(p):
        return x[right]
    share = min(1.0, max(0.0, (level - v[left]) / (v[right] - v[left])))
    t = (x[left] / x[right]) ** p
    return float(x[right] * (t + share * (1 - t)) ** (1 / p))
