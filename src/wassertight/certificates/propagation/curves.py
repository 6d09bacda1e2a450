"""One enclosure for every smooth function of one variable that has few inflections: tangents found, then made sound.

The best lower line of `f` over [low, high] supports its convex envelope. On a piece where `f` is convex the envelope
is `f` itself between the two points whose tangents pass through the interval's ends, and a straight line elsewhere; the
tangent at t lies under the left end iff t is right of the first point, under the right end iff left of the second,
so each is the root of a monotone function of t. With no such tangent the line is the chord. The upper line is
the same thing for `-f`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from wassertight.certificates.propagation.activations import Enclosure, check_intervals, rounding
from wassertight.types import InputError, UnsupportedLayerError

_HALVINGS, _SECANTS = 11, 4
"""Root-finding rounds: they decide tightness only, soundness holds after any number."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A function that alternates between convex and concave pieces.

    Why the lines are sound. Take t in a convex piece, and lower the tangent at t until it is under `f` at low and at
    high. On t's own piece it is under `f` by convexity; on a neighbouring concave piece `f` minus a line is least at
    the ends, and those are the interval's ends or t's piece. That covers one convex piece between concave ones. A second
    convex piece is allowed where every slope of the left one exceeds every slope of the right one: `f` minus the tangent
    is then monotone on the other piece, and again least at an end. If every tangent passes above an end, the chord is
    under `f`. At a kink that ends t's piece the line may turn towards the interval's end. (For upper lines exchange convex and concave, least and greatest, exceeds and is below.)

    Choices place the tangent point in its sound range: 0 at its left end, 1 at its right one. Gradients pass
    through the choice, and through low and high with the sound range held fixed.

    Args:
        function: the function as deployed.
        value: an accurate form of it.
        slope: its derivative.
        bends: inflections, ascending; kinks may stand for them.
        convex_first: whether the leftmost piece is convex.
        slope_above: derivative on concave pieces, where kinks make it differ from `slope`, which is then that on convex
            ones; each must extend past its pieces' ends.
        turn: the one interior extremum, if there is one.
        image: the function's range over the line.
        avoid: closed set the interval must not touch, where the function is not finite or not defined.
        least: what the argument is known to be at least, whatever its bounds say.
        grain: scale of the absolute error of value and slope, in machine epsilons; 0 if they are relatively accurate.
        cancels: scale of the absolute error of `function` where it subtracts large terms, as 1 + erf(a) does.
        slack: how far `function` may differ from `value` by design.
    """

    name: str
    function: Callable[[Tensor], Tensor]
    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    bends: tuple[float, ...] = ()
    convex_first: bool = True
    slope_above: Callable[[Tensor], Tensor] | None = None
    turn: float | None = None
    image: tuple[float, float] = (-math.inf, math.inf)
    avoid: tuple[float, float] | None = None
    least: float = -math.inf
    grain: float = 1.0
    cancels: float = 0.0
    slack: float = 0.0

    def apply(self, a: Tensor) -> Tensor:
        """The function itself."""
        return self.function(a)

    def interval(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Values at the ends, and at the turn where it is inside."""
        low, high = low.clamp_min(self.least), high.clamp_min(self.least)
        at_low, at_high = self._ends(low, high)
        bottom, top = torch.minimum(at_low, at_high), torch.maximum(at_low, at_high)
        if self.turn is not None:
            inside = (low < self.turn) & (high > self.turn)
            turn = self.value(torch.full_like(low, self.turn))
            bottom = torch.where(inside, torch.minimum(bottom, turn), bottom)
            top = torch.where(inside, torch.maximum(top, turn), top)
        least = torch.finfo(low.dtype).tiny + self.slack
        bottom = bottom - rounding(low) * (bottom.abs() + self.grain) - least
        top = top + rounding(low) * (top.abs() + self.grain) + least
        return bottom.clamp_min(self.image[0]), top.clamp_max(self.image[1])

    def enclose(
        self, low: Tensor, high: Tensor, lower_choice: Tensor | None = None, upper_choice: Tensor | None = None
    ) -> Enclosure:
        """The tightest lines at the midpoint, or those the choices pick."""
        low, high = low.clamp_min(self.least), high.clamp_min(self.least)
        ends = self._ends(low, high)
        below = self._line(low, high, *ends, lower_choice, 1)
        above = self._line(low, high, *ends, upper_choice, -1)
        return Enclosure(lower_slope=below[0], lower_shift=below[1], upper_slope=above[0], upper_shift=above[1])

    def bend(self, low: Tensor, high: Tensor) -> Tensor:
        """Intervals wider than rounding."""
        return high - low > rounding(low) * (low.abs() + high.abs()) + torch.finfo(low.dtype).tiny

    def _ends(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Values at the ends of admissible intervals."""
        check_intervals(self.name, low, high)
        if self.avoid is not None and not bool(((high < self.avoid[0]) | (low > self.avoid[1])).all()):
            raise UnsupportedLayerError(
                f"{self.name} has no finite bound on an interval that touches {list(self.avoid)}; "
                f"its input ranges from {float(low.min()):.4g} to {float(high.max()):.4g}"
            )
        at_low, at_high = self.value(low), self.value(high)
        if not bool(torch.isfinite(at_low + at_high).all()):
            raise InputError(f"{self.name} overflows between {float(low.min()):.4g} and {float(high.max()):.4g}")
        return at_low, at_high

    def finite(self, low: Tensor, high: Tensor) -> Tensor:
        """Where an interval can be enclosed: the function is defined and finite on it."""
        low, high = low.clamp_min(self.least), high.clamp_min(self.least)
        defined = torch.isfinite(self.value(low) + self.value(high))
        if self.avoid is not None:
            defined &= (high < self.avoid[0]) | (low > self.avoid[1])
        return defined

    def _pieces(self, sign: int) -> list[tuple[float, float]]:
        """The pieces where `sign * f` is convex."""
        edges = (-math.inf, *self.bends, math.inf)
        first = 0 if self.convex_first == (sign > 0) else 1
        return [(edges[i], edges[i + 1]) for i in range(first, len(edges) - 1, 2)]

    def _line(
        self, low: Tensor, high: Tensor, at_low: Tensor, at_high: Tensor, choice: Tensor | None, sign: int
    ) -> tuple[Tensor, Tensor]:
        """Slope and shift of the lower line (sign 1) or the upper one (sign -1)."""
        derivative = self.slope if sign > 0 or self.slope_above is None else self.slope_above
        extreme = torch.minimum if sign > 0 else torch.maximum
        middle = low + (high - low) / 2
        wide = high > low
        slope = torch.where(wide, (at_high - at_low) / torch.where(wide, high - low, 1.0), derivative(middle))
        value_there, there = at_low, low
        for begin, end in self._pieces(sign):
            first, last = low.clamp_min(begin), high.clamp_max(end)
            found = first <= last
            first, last = torch.where(found, first, low), torch.where(found, last, low)
            left, right = first, last
            with torch.no_grad():
                if math.isfinite(begin):
                    left, exists = self._touch(low, at_low, first, last, sign, derivative)
                    found = found & exists
                if math.isfinite(end):
                    right, exists = self._touch(high, at_high, last, first, sign, derivative)
                    found = found & exists
            if choice is None:
                point = torch.maximum(torch.minimum(middle, right), left)
            else:
                point = left + choice.to(low) * (right - left)
            point = torch.where(found, point, middle)
            tangent = derivative(point)
            if choice is None and self.slope_above is not None:
                ahead, behind = (point == end) & (middle > end), (point == begin) & (middle < begin)
                run = torch.where(ahead, high - point, torch.where(behind, low - point, 1.0))
                chord = (torch.where(ahead, at_high, at_low) - self.value(point)) / run
                tangent = torch.where(ahead | behind, chord, tangent)
            slope = torch.where(found, tangent, slope)
            value_there = torch.where(found, self.value(point), value_there)
            there = torch.where(found, point, there)
        shift = extreme(value_there - slope * there, extreme(at_low - slope * low, at_high - slope * high))
        reach = (slope.abs() + self.grain) * torch.maximum(low.abs(), high.abs())
        pad = rounding(low) * (reach + at_low.abs() + at_high.abs() + self.grain) + torch.finfo(low.dtype).tiny
        return slope, shift - sign * (pad + self.slack + torch.finfo(low.dtype).tiny)

    def _touch(
        self,
        end: Tensor,
        at_end: Tensor,
        near: Tensor,
        far: Tensor,
        sign: int,
        derivative: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, Tensor]:
        """The point between near and far, nearest to near, whose tangent is on the right side of `f` at an end.

        How far the tangent errs there falls from near to far. Bisection, then false position with Illinois' halving;
        the side that does not err is returned. The mask says where there is such a point.
        """

        def excess(t: Tensor, end: Tensor, at_end: Tensor) -> Tensor:
            return sign * (self.value(t) + derivative(t) * (end - t) - at_end)

        inside = near == end
        first, last = excess(near, end, at_end), excess(far, end, at_end)
        done = inside | (first <= 0)
        exists = done | (last <= 0)
        work = exists & ~done
        result = torch.where(done, near, far)
        if not bool(work.any()):
            return result, exists
        end, at_end, bad, good, over, under = (v[work] for v in (end, at_end, near, far, first, last))
        before = torch.zeros_like(over)
        for index in range(_HALVINGS + _SECANTS):
            t = bad + (good - bad) * (over / (over - under) if index >= _HALVINGS else 0.5)
            now = excess(t, end, at_end)
            sound, side = now <= 0, now.sign()
            kept = torch.where(side == before, 0.5, 1.0) if index > _HALVINGS else 1.0
            bad, good = torch.where(sound, bad, t), torch.where(sound, t, good)
            over, under = torch.where(sound, over * kept, now), torch.where(sound, now, under * kept)
            before = side
        result[work] = good
        return result, exists
