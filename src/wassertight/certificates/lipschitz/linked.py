"""Lines around an activation's derivative over intervals: they let a bound of the Jacobian follow the derivative's argument.

For sigmoid-like functions, exponentials, powers and softplus the derivative is again a function that alternates between
convex and concave pieces, enclosed as one. For GELU, SiLU and Mish it has too many pieces; there the lines are the chord,
moved by `width^2 / 8` times a bound of the third derivative, which is tight on short intervals.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from wassertight.certificates.propagation import smooth
from wassertight.certificates.propagation.activations import Activation, Enclosure, rounding
from wassertight.certificates.propagation.curves import Curve

_TANH_BEND, _SIGMOID_BEND = 0.6584789484624084, 1.3169578969248166
THIRD = {"gelu": 0.78, "gelu (tanh)": 0.78, "silu": 0.309, "mish": 0.59}
"""Bounds of the third derivative's absolute value on the line."""


def slope_lines(activation: Activation, low: Tensor, high: Tensor) -> Enclosure | None:
    """Two lines around the derivative over [low, high], elementwise; None where the function has kinks.

    Where the derivative has no finite lines the result holds infinite or undefined shifts.
    """
    if not isinstance(activation, Curve) or activation.slope_above is not None or activation.slack:
        return None
    if activation.name in _DERIVATIVES:
        derivative, factor = _DERIVATIVES[activation.name]()
        low, high = low.clamp_min(activation.least), high.clamp_min(activation.least)
        fine = derivative.finite(low, high) & (high - low < math.inf)
        lines = derivative.enclose(torch.where(fine, low, 1.0), torch.where(fine, high, 1.0))
        pair = (lines.lower_slope, lines.lower_shift), (lines.upper_slope, lines.upper_shift)
        (lower, under), (upper, over) = pair if factor > 0 else pair[::-1]
        return Enclosure(
            lower_slope=factor * lower,
            lower_shift=torch.where(fine, factor * under, -math.inf),
            upper_slope=factor * upper,
            upper_shift=torch.where(fine, factor * over, math.inf),
        )
    if activation.name in THIRD and activation.bends == _PLAIN[activation.name]().bends:
        at_low, at_high = activation.slope(low), activation.slope(high)
        slope = (at_high - at_low) / torch.where(high > low, high - low, 1.0)
        shift = at_low - slope * low
        reach = rounding(low) * (2 + slope.abs() * (low.abs() + high.abs()))
        gap = THIRD[activation.name] * (high - low) ** 2 / 8 + reach
        return Enclosure(lower_slope=slope, lower_shift=shift - gap, upper_slope=slope, upper_shift=shift + gap)
    return None


def _bell(name: str, value: Callable[[Tensor], Tensor], slope: Callable[[Tensor], Tensor], bend: float) -> Curve:
    """A bell-shaped function: convex, concave between -bend and bend, convex."""
    return Curve(name=name, function=value, value=value, slope=slope, bends=(-bend, bend), turn=0.0)


def _of_tanh() -> tuple[Curve, float]:
    curve = smooth.tanh()
    return _bell("tanh'", curve.slope, lambda a: -2 * torch.tanh(a) * curve.slope(a), _TANH_BEND), 1.0


def _of_sigmoid() -> tuple[Curve, float]:
    curve = smooth.sigmoid()
    return _bell("sigmoid'", curve.slope, lambda a: -torch.tanh(a / 2) * curve.slope(a), _SIGMOID_BEND), 1.0


def _of_erf() -> tuple[Curve, float]:
    curve = smooth.erf()
    return _bell("erf'", curve.slope, lambda a: -2 * a * curve.slope(a), math.sqrt(0.5)), 1.0


def _of_square() -> tuple[Curve, float]:
    return Curve(name="square'", function=lambda a: a, value=lambda a: a, slope=torch.ones_like), 2.0


def _power(exponent: float) -> Curve:
    """`a` to a negative power, for a > 0."""
    return Curve(
        name="power",
        function=lambda a: a**exponent,
        value=lambda a: a**exponent,
        slope=lambda a: exponent * a ** (exponent - 1),
        avoid=(-math.inf, 0.0),
        grain=0.0,
    )


_DERIVATIVES: dict[str, Callable[[], tuple[Curve, float]]] = {
    "tanh": _of_tanh,
    "sigmoid": _of_sigmoid,
    "erf": _of_erf,
    "exp": lambda: (smooth.exponential(), 1.0),
    "square": _of_square,
    "reciprocal": lambda: (_power(-2.0), -1.0),
    "log": lambda: (_power(-1.0), 1.0),
    "sqrt": lambda: (_power(-0.5), 0.5),
    "rsqrt": lambda: (_power(-1.5), -0.5),
}
_PLAIN: dict[str, Callable[[], Curve]] = {
    "gelu": smooth.gelu,
    "gelu (tanh)": lambda: smooth.gelu("tanh"),
    "silu": smooth.silu,
    "mish": smooth.mish,
}
