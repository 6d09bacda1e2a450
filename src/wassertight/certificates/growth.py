"""Bounds of growth functions, and what no law in a W_p ball can exceed in expected loss because of them.

With `G_i(t) = sup {loss(z, y_i) : ||z - x_i||_r <= t}` the worst case over the ball of radius `delta` is

    inf over lambda >= 0 of  lambda delta**p + sum w_i sup over t of [G_i(t) - lambda t**p]      (p finite),

and `sum w_i G_i(delta)` for p = inf (duality of 2306.09844 and 2510.10000; labels fixed). Any `g_i >= G_i` and any lambda
give a proved upper bound. Here g_i is, between two radii of a grid, the smaller of a value proved on the larger ball and
a line whose slope is proved on the larger ball; the inner supremum is then closed form, piece by piece.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from wassertight.inputs import check_weights
from wassertight.types import InputError

_SLACK = 1e-9
"""Outward slack, relative to the sizes summed: the dual is evaluated in float64."""
_STEPS = 120
_RATIO = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, kw_only=True)
class GrowthBound:
    """Upper bounds of growth functions, one a sample, in pieces.

    On `(radii[:, k], radii[:, k + 1]]` the bound is `min(values[:, k + 1], at[k] + slopes[:, k] (t - radii[:, k]))`, where
    `at[k]` is the bound at the piece's start; beyond the last radius it rises with `tail`.

    Attributes:
        radii: (n, m + 1), float64, ascending from 0.
        values: bounds of the loss on the balls of these radii, (n, m + 1); inf where nothing is proved.
        slopes: bounds of the loss's slope on the larger ball of every piece, (n, m); inf where nothing is proved.
        tail: (n,) slope beyond the last radius; 0 where the last ball covers the whole box.

    >>> one = torch.tensor([[0.0, 1.0]]).double()
    >>> line = GrowthBound(radii=one, values=one + 2, slopes=one[:, 1:], tail=torch.zeros(1).double())
    >>> round(line.worst(1, 0.5)[0], 6), round(line.worst(float("inf"), 0.25)[0], 6)
    (2.5, 2.25)
    """

    radii: Float[Tensor, "n m1"]
    values: Float[Tensor, "n m1"] = field(repr=False)
    slopes: Float[Tensor, "n m"] = field(repr=False)
    tail: Float[Tensor, " n"] = field(repr=False)

    def __post_init__(self) -> None:
        if not bool((self.radii[:, 0] == 0).all() and (self.radii.diff(dim=1) >= 0).all()):
            raise InputError("radii of a growth bound ascend from 0")

    @property
    def starts(self) -> Tensor:
        """The bound at every radius, (n, m + 1)."""
        found = [self.values[:, 0]]
        for k in range(self.slopes.shape[1]):
            width = self.radii[:, k + 1] - self.radii[:, k]
            rise = torch.where(width > 0, self.slopes[:, k] * width, 0.0)
            # a bound on a larger ball may be the looser one: growth functions never fall, so neither do their bounds
            found.append(torch.maximum(found[-1], torch.minimum(self.values[:, k + 1], found[-1] + rise)))
        return torch.stack(found, 1)

    def at(self, t: float) -> Float[Tensor, " n"]:
        """The bounds at one radius."""
        starts, inner = self.starts, self.radii < t
        k = (inner.sum(1) - 1).clamp_min(0)[:, None]
        last = self.slopes.shape[1]
        slope = torch.cat((self.slopes, self.tail[:, None]), 1).gather(1, k).squeeze(1)
        ceiling = torch.cat((self.values[:, 1:], self.values.new_full((len(k), 1), math.inf)), 1)
        base, begin = starts.gather(1, k).squeeze(1), self.radii.gather(1, k).squeeze(1)
        top = torch.maximum(ceiling.gather(1, k.clamp_max(last)).squeeze(1), base)
        far = (t - begin).clamp_min(0)
        return torch.minimum(base + torch.where(far > 0, slope * far, 0.0).nan_to_num(math.inf), top)

    def worst(self, p: float, radius: float, weights: Tensor | None = None) -> tuple[float, float]:
        """An upper bound of the worst-case expected loss over the W_p ball, and the multiplier lambda it is proved with.

        Raises:
            InputError: for p < 1, a negative radius, or weights that are no masses.
        """
        if not p >= 1 or not radius >= 0:
            raise InputError(f"p must be a number >= 1 or inf and the radius >= 0, got p = {p}, radius = {radius}")
        w = check_weights(weights, len(self.radii)).to(self.values)
        if radius == 0:
            return _outward(self.values[:, 0], w), math.inf
        if math.isinf(p):
            return _outward(self.at(radius), w), 0.0

        def dual(price: float) -> float:
            """With distances in units of the radius."""
            return price + _outward(self.penalised(price, p, radius), w)

        sizes = torch.cat((self.slopes.flatten() * radius, self.tail * radius, self.values.abs().flatten()))
        sizes = sizes[sizes.isfinite() & (sizes > 0)]
        if len(sizes) == 0:
            return _outward(self.starts[:, -1], w), 0.0
        low, high = math.log(float(sizes.min()) * 1e-9), math.log(float(sizes.max()) * 1e3)
        # for p = 1 the dual is infinite below the steepest tail, where it often has its minimum
        special = [0.0, *(float(s) * radius for s in {float(self.tail.max())} if math.isfinite(s))]
        value, price = min(*lowest(dual, low, high), *((dual(price), price) for price in special))
        return value, price / radius**p

    def penalised(self, price: float, p: float, radius: float) -> Tensor:
        """`sup over t of g_i(t) - price (t / radius)**p`, (n,)."""
        start, base = self.radii / radius, self.starts
        slope = torch.cat((self.slopes, self.tail[:, None]), 1) * radius
        end = torch.cat((start[:, 1:], torch.full_like(start[:, :1], math.inf)), 1)
        ceiling = torch.cat(
            (torch.maximum(self.values[:, 1:], base[:, :-1]), torch.full_like(base[:, :1], math.inf)), 1
        )
        knot = torch.minimum(end, start + torch.where(slope > 0, (ceiling - base) / slope, 0.0))
        if p == 1:
            t = torch.where(slope > price, knot, start)
        elif price == 0:
            t = torch.where(slope > 0, knot, start)
        else:
            t = torch.minimum(torch.maximum((slope / (price * p)) ** (1 / (p - 1)), start), knot)
        inside = base + torch.where(t > start, slope * (t - start), 0.0) - torch.where(t > 0, price * t**p, 0.0)
        steep = torch.where(slope.isinf(), ceiling - price * start**p, inside)
        empty = end <= start
        empty[:, 0] = False
        return torch.where(empty, -math.inf, steep.nan_to_num(nan=math.inf, posinf=math.inf)).amax(1)


def lowest(dual: Callable[[float], float], low: float, high: float) -> list[tuple[float, float]]:
    """Golden-section search for the least dual value, its price between exp(low) and exp(high): two pairs (value, price)."""
    a, b = high - _RATIO * (high - low), low + _RATIO * (high - low)
    left, right = dual(math.exp(a)), dual(math.exp(b))
    for _ in range(_STEPS):
        if left <= right and math.isfinite(left):
            high, b, right = b, a, left
            a = high - _RATIO * (high - low)
            left = dual(math.exp(a))
        else:
            low, a, left = a, b, right
            b = low + _RATIO * (high - low)
            right = dual(math.exp(b))
    return [(left, math.exp(a)), (right, math.exp(b))]


def _outward(values: Tensor, w: Tensor) -> float:
    """`sum w v`, with the rounding of the sum on the safe side."""
    used = torch.where(w > 0, values, 0.0)
    return float((w * used).sum() + _SLACK * (w * used.abs()).sum())
