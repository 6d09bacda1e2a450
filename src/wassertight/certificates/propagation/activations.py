"""What bound propagation asks of an elementwise function - its range, two enclosing lines - and the piecewise linear ones.

Every function `f` here answers for intervals `[low, high]`, elementwise and vectorised: the range of `f`, and two lines
with `f` between them. The sound line of least area touches the envelope of `f` at the midpoint of the interval, since
the area under a line over an interval is its value at the midpoint times the width; that is the default everywhere.
The other undominated lines touch the envelope elsewhere; `lower_choice` and `upper_choice` in [0, 1] run through them.

Reference: Zhang et al., 1811.00866 (CROWN), table 2 and section 3.3; Xu et al., 2011.13824, for optimised slopes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from wassertight.types import InputError


@dataclass(frozen=True, kw_only=True)
class Enclosure:
    """`lower_slope * a + lower_shift <= f(a) <= upper_slope * a + upper_shift` for a in [low, high], elementwise.

    The inequalities hold for the stored numbers in real arithmetic: shifts are moved outward by the rounding they took.
    """

    lower_slope: Tensor
    lower_shift: Tensor
    upper_slope: Tensor
    upper_shift: Tensor


@runtime_checkable
class Activation(Protocol):
    """An elementwise function that can be enclosed; all tensors share one shape, dtype and device.

    `enclose` and `interval` raise InputError for intervals that are crossed, infinite or NaN (piecewise linear
    functions have an interval for infinite ends too), and UnsupportedLayerError where the function has no finite bound.
    """

    @property
    def name(self) -> str:
        """What a message calls it."""
        ...

    def apply(self, a: Tensor) -> Tensor:
        """The function itself."""
        ...

    def interval(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Its range over [low, high], exact up to rounding and outward."""
        ...

    def enclose(
        self, low: Tensor, high: Tensor, lower_choice: Tensor | None = None, upper_choice: Tensor | None = None
    ) -> Enclosure:
        """Two lines around it over [low, high]; the choices, in [0, 1], pick among sound lines, differentiably."""
        ...

    def bend(self, low: Tensor, high: Tensor) -> Tensor:
        """Where the enclosure cannot be exact."""
        ...


def rounding(a: Tensor) -> float:
    """Relative size of an outward shift: eight machine epsilons, above what a line's dozen operations can lose."""
    return 8 * torch.finfo(a.dtype).eps


def check_intervals(name: str, low: Tensor, high: Tensor) -> None:
    """Refuse intervals that are crossed, infinite or NaN."""
    width = high - low
    if not bool(((width >= 0) & (width < math.inf)).all()):
        raise InputError(
            f"{name} is enclosed over finite intervals with low <= high; got crossed, infinite or NaN ends"
        )


@dataclass(frozen=True, kw_only=True)
class Hinge:
    """`f(a) = left * a` for a < 0, `right * a` for a >= 0: ReLU, leaky ReLU, PReLU, the absolute value.

    Where `left <= right` the upper line is the chord, and `lower_choice` c gives the lower line
    `(left + c (right - left)) a`; for ReLU c is its slope, by default 1 if high > -low else 0 (1811.00866).
    Where `left > right` the roles are exchanged.

    Args:
        left, right: slopes, numbers or tensors that broadcast against the units (one a channel for PReLU).
    """

    name: str
    left: float | Tensor
    right: float | Tensor = 1.0

    def apply(self, a: Tensor) -> Tensor:
        """The function itself."""
        left, right = self._slopes(a)
        return torch.where(a < 0, left * a, right * a)

    def interval(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Ends, and 0 where the interval straddles it; one rounding each, moved outward unless the slope is 0 or +-1."""
        ends = self.apply(low), self.apply(high)
        bottom, top = torch.minimum(*ends), torch.maximum(*ends)
        zero = self.bend(low, high)
        bottom, top = torch.where(zero, bottom.clamp_max(0), bottom), torch.where(zero, top.clamp_min(0), top)
        if self._representable:
            return bottom, top
        grain = rounding(low) / 4
        return bottom - grain * bottom.abs(), top + grain * top.abs()

    def enclose(
        self, low: Tensor, high: Tensor, lower_choice: Tensor | None = None, upper_choice: Tensor | None = None
    ) -> Enclosure:
        """The chord on one side, a line through the kink on the other; exact where the sign is known."""
        check_intervals(self.name, low, high)
        left, right = self._slopes(low)
        convex = left <= right
        bend = self.bend(low, high)
        midpoint = (high > -low).to(low)
        below = midpoint if lower_choice is None else lower_choice.to(low)
        above = midpoint if upper_choice is None else upper_choice.to(low)
        pivot = torch.lerp(left.expand_as(low), right.expand_as(low), torch.where(convex, below, above).expand_as(low))
        at_low, at_high = left * low, right * high
        chord = (at_high - at_low) / torch.where(bend, high - low, 1.0)
        shift = at_low - chord * low
        pad = rounding(low) * (at_low.abs() + at_high.abs()) + torch.finfo(low.dtype).tiny
        idle = torch.zeros_like(pad) if self._representable else pad
        exact = torch.where(low >= 0, right, left)
        return Enclosure(
            lower_slope=torch.where(bend, torch.where(convex, pivot, chord), exact),
            lower_shift=torch.where(bend & ~convex, shift - pad, -idle),
            upper_slope=torch.where(bend, torch.where(convex, chord, pivot), exact),
            upper_shift=torch.where(bend & convex, shift + pad, idle),
        )

    def bend(self, low: Tensor, high: Tensor) -> Tensor:
        """Units whose sign is not known."""
        return (low < 0) & (high > 0)

    @property
    def _representable(self) -> bool:
        """Whether slopes and products are free of rounding in every precision."""
        return all(isinstance(slope, (int, float)) and slope in (-1, 0, 1) for slope in (self.left, self.right))

    def _slopes(self, a: Tensor) -> tuple[Tensor, Tensor]:
        left = torch.as_tensor(self.left, dtype=a.dtype, device=a.device)
        return left, torch.as_tensor(self.right, dtype=a.dtype, device=a.device)


@dataclass(frozen=True, kw_only=True)
class Ramp:
    """`bottom` up to `start`, `top` from `stop` on, a straight rise between: hardtanh, ReLU6, clamp, hard sigmoid.

    Where `start` is inside the interval the lower line passes through that corner, with `lower_choice` times the
    steepest sound slope; where `stop` is inside, the upper line passes through that corner, with `upper_choice` likewise.
    Elsewhere lines are chords.

    Args:
        start, stop: the corners, start < stop.
        bottom, top: the values there, bottom < top.
    """

    name: str
    start: float
    stop: float
    bottom: float
    top: float

    def __post_init__(self) -> None:
        numbers = (self.start, self.stop, self.bottom, self.top)
        if not (all(map(math.isfinite, numbers)) and self.start < self.stop and self.bottom < self.top):
            raise InputError(f"{self.name} needs finite start < stop and bottom < top, got {numbers}")

    @property
    def rise(self) -> float:
        """Slope between the corners."""
        return (self.top - self.bottom) / (self.stop - self.start)

    def apply(self, a: Tensor) -> Tensor:
        """The function itself."""
        if self.start == self.bottom and self.stop == self.top:
            return a.clamp(self.start, self.stop)
        return (self.bottom + self.rise * (a - self.start)).clamp(self.bottom, self.top)

    def interval(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Its ends: the function never falls."""
        pad = 0.0 if self.start == self.bottom and self.stop == self.top else rounding(low) * self._size()
        bottom, top = self.apply(low) - pad, self.apply(high) + pad
        return bottom.clamp_min(self.bottom), top.clamp_max(self.top)

    def enclose(
        self, low: Tensor, high: Tensor, lower_choice: Tensor | None = None, upper_choice: Tensor | None = None
    ) -> Enclosure:
        """The lower line, and the upper one as the lower line of `-f(-a)`."""
        check_intervals(self.name, low, high)
        at_low, at_high = self.apply(low), self.apply(high)
        below = _under(low, high, at_low, at_high, lower_choice, self.start, self.bottom)
        above = _under(-high, -low, -at_high, -at_low, upper_choice, -self.stop, -self.top)
        flat, inner = (high <= self.start) | (low >= self.stop), (low >= self.start) & (high <= self.stop)
        lines = []
        for sign, (slope, shift) in ((-1, below), (1, (above[0], -above[1]))):
            slope = torch.where(flat, 0.0, torch.where(inner, self.rise, slope))
            shift = torch.where(flat, at_low, torch.where(inner, self.bottom - self.rise * self.start, shift))
            reach = slope.abs() * (torch.maximum(low.abs(), high.abs()) + abs(self.start) + abs(self.stop))
            exact = flat | (inner & (self.rise == 1))
            lines += [
                slope,
                torch.where(
                    exact, shift, shift + sign * (rounding(low) * (reach + self._size()) + torch.finfo(low.dtype).tiny)
                ),
            ]
        return Enclosure(lower_slope=lines[0], lower_shift=lines[1], upper_slope=lines[2], upper_shift=lines[3])

    def bend(self, low: Tensor, high: Tensor) -> Tensor:
        """Units with a corner inside."""
        return ((low < self.start) & (high > self.start)) | ((low < self.stop) & (high > self.stop))

    def _size(self) -> float:
        return abs(self.bottom) + abs(self.top)


def _under(
    low: Tensor, high: Tensor, at_low: Tensor, at_high: Tensor, choice: Tensor | None, start: float, bottom: float
) -> tuple[Tensor, Tensor]:
    """Slope and shift of a ramp's lower line: through its first corner where that is inside, else the chord."""
    corner = (low < start) & (high > start)
    share = (low + high > 2 * start).to(low) if choice is None else choice.to(low)
    steepest = (at_high - bottom) / torch.where(corner, high - start, 1.0)
    chord = (at_high - at_low) / torch.where(high > low, high - low, 1.0)
    slope = torch.where(corner, share * steepest, chord)
    return slope, torch.where(corner, bottom - slope * start, at_low - slope * low)


def relu() -> Hinge:
    """`max(a, 0)`."""
    return Hinge(name="relu", left=0.0)


def leaky_relu(slope: float = 0.01) -> Hinge:
    """`a` where positive, `slope * a` elsewhere."""
    return Hinge(name="leaky_relu", left=slope)


def prelu(weight: Tensor) -> Hinge:
    """Leaky ReLU with its own slope a channel; weight must broadcast against the units, as (channels, 1, 1) would."""
    return Hinge(name="prelu", left=weight.detach())


def absolute() -> Hinge:
    """`|a|`."""
    return Hinge(name="abs", left=-1.0)


def clamp(low: float = -1.0, high: float = 1.0) -> Ramp:
    """`min(max(a, low), high)`: hardtanh, and ReLU6 as clamp(0, 6)."""
    return Ramp(name="clamp", start=low, stop=high, bottom=low, top=high)


def hard_sigmoid() -> Ramp:
    """`min(max(a / 6 + 1/2, 0), 1)`."""
    return Ramp(name="hard_sigmoid", start=-3.0, stop=3.0, bottom=0.0, top=1.0)
