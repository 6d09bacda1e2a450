"""The smooth activations, each said by its value, its derivative and its inflections; `Curve` encloses them all.

`slack` is 0 but for softplus, which PyTorch replaces by its asymptote beyond a threshold.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from wassertight.certificates.propagation.curves import Curve
from wassertight.types import InputError

_SILU_BEND, _SILU_TURN = 2.3993572805154677, -1.2784645427610738
_GELU_TURN = -0.7517915246935645
_GELU_TANH_BEND, _GELU_TANH_TURN = 1.4185040087908284, -0.7524614220710163
_MISH_BENDS, _MISH_TURN = (-2.2563763963607931, 1.4905711794854285), -1.1924312145154952


def sigmoid() -> Curve:
    """`1 / (1 + exp(-a))`."""
    return Curve(
        name="sigmoid",
        function=torch.sigmoid,
        value=torch.sigmoid,
        slope=lambda a: torch.sigmoid(a) * torch.sigmoid(-a),
        bends=(0.0,),
        image=(0.0, 1.0),
    )


def tanh() -> Curve:
    """The hyperbolic tangent."""
    return Curve(
        name="tanh",
        function=torch.tanh,
        value=torch.tanh,
        slope=lambda a: 4 * torch.sigmoid(2 * a) * torch.sigmoid(-2 * a),
        bends=(0.0,),
        image=(-1.0, 1.0),
    )


def erf() -> Curve:
    """The error function."""
    return Curve(
        name="erf",
        function=torch.erf,
        value=torch.erf,
        slope=lambda a: torch.exp(-a * a) * (2 / math.sqrt(math.pi)),
        bends=(0.0,),
        image=(-1.0, 1.0),
    )


def gelu(approximate: str = "none") -> Curve:
    """`a` times the normal distribution function of a, or PyTorch's 'tanh' approximation of it."""
    if approximate == "tanh":
        root, cubic = 2 * math.sqrt(2 / math.pi), 0.044715

        def gate(a: Tensor) -> Tensor:
            return torch.sigmoid(root * (a + cubic * a**3))

        def slope(a: Tensor) -> Tensor:
            s = gate(a)
            return s + a * s * gate(-a) * root * (1 + 3 * cubic * a * a)

        return Curve(
            name="gelu (tanh)",
            function=lambda a: functional.gelu(a, approximate="tanh"),
            value=lambda a: a * gate(a),
            slope=slope,
            bends=(-_GELU_TANH_BEND, _GELU_TANH_BEND),
            convex_first=False,
            turn=_GELU_TANH_TURN,
            cancels=1.0,
        )
    if approximate != "none":
        raise InputError(f"gelu is offered with approximate = 'none' or 'tanh', got {approximate!r}")
    half = math.sqrt(0.5)
    return Curve(
        name="gelu",
        function=functional.gelu,
        value=lambda a: 0.5 * a * torch.erfc(-half * a),
        slope=lambda a: 0.5 * torch.erfc(-half * a) + a * torch.exp(-0.5 * a * a) / math.sqrt(2 * math.pi),
        bends=(-math.sqrt(2), math.sqrt(2)),
        convex_first=False,
        turn=_GELU_TURN,
        cancels=1.0,
    )


def silu(beta: float = 1.0) -> Curve:
    """`a * sigmoid(beta * a)`: SiLU (Swish); beta = 1.702 is the quick GELU."""
    _positive("beta", beta)

    def slope(a: Tensor) -> Tensor:
        s = torch.sigmoid(beta * a)
        return s * (1 + beta * a * torch.sigmoid(-beta * a))

    return Curve(
        name="silu",
        function=lambda a: a * torch.sigmoid(beta * a) if beta != 1 else functional.silu(a),
        value=lambda a: a * torch.sigmoid(beta * a),
        slope=slope,
        bends=(-_SILU_BEND / beta, _SILU_BEND / beta),
        convex_first=False,
        turn=_SILU_TURN / beta,
    )


def mish() -> Curve:
    """`a * tanh(softplus(a))`."""

    def gate(a: Tensor) -> Tensor:
        return torch.tanh(torch.logaddexp(a, torch.zeros_like(a)))

    def slope(a: Tensor) -> Tensor:
        g = gate(a)
        return g + a * torch.sigmoid(a) * (1 - g * g)

    return Curve(
        name="mish",
        function=functional.mish,
        value=lambda a: a * gate(a),
        slope=slope,
        bends=_MISH_BENDS,
        convex_first=False,
        turn=_MISH_TURN,
    )


def hard_swish() -> Curve:
    """`a * min(max(a + 3, 0), 6) / 6`: quadratic between the kinks at -3 and 3, which stand for inflections."""
    return Curve(
        name="hard_swish",
        function=functional.hardswish,
        value=functional.hardswish,
        slope=lambda a: (2 * a + 3) / 6,
        slope_above=lambda a: (a > 0).to(a),
        bends=(-3.0, 3.0),
        convex_first=False,
        turn=-1.5,
    )


def softplus(beta: float = 1.0, threshold: float = 20.0) -> Curve:
    """`log(1 + exp(beta a)) / beta`, which PyTorch replaces by `a` where beta * a > threshold."""
    _positive("beta", beta)
    return Curve(
        name="softplus",
        function=lambda a: functional.softplus(a, beta=beta, threshold=threshold),
        value=lambda a: torch.logaddexp(beta * a, torch.zeros_like(a)) / beta,
        slope=lambda a: torch.sigmoid(beta * a),
        image=(0.0, math.inf),
        slack=math.exp(-threshold) / beta,
    )


def elu(alpha: float = 1.0, scale: float = 1.0) -> Curve:
    """`scale * a` where positive, `scale * alpha * (exp(a) - 1)` elsewhere; SELU is one of them.

    For alpha <= 1 it is convex; for alpha > 1 convex, then a concave kink at 0, then linear.
    """
    _positive("alpha", alpha)
    _positive("scale", scale)

    def value(a: Tensor) -> Tensor:
        return scale * (a.clamp_min(0) + alpha * torch.expm1(a.clamp_max(0)))

    def left(a: Tensor) -> Tensor:
        return scale * alpha * torch.exp(a.clamp_max(0))

    kinked = alpha > 1
    return Curve(
        name="elu",
        function=value,
        value=value,
        slope=left if kinked else lambda a: torch.where(a > 0, scale, left(a)),
        slope_above=(lambda a: torch.full_like(a, scale)) if kinked else None,
        bends=(0.0,) if kinked else (),
        grain=scale * max(alpha, 1.0),
        cancels=scale * alpha,
    )


def exponential() -> Curve:
    """`exp(a)`."""
    return Curve(name="exp", function=torch.exp, value=torch.exp, slope=torch.exp, image=(0.0, math.inf), grain=0.0)


def logarithm() -> Curve:
    """`log(a)` for a > 0."""
    return Curve(
        name="log",
        function=torch.log,
        value=torch.log,
        slope=torch.reciprocal,
        convex_first=False,
        avoid=(-math.inf, 0.0),
        grain=0.0,
    )


def reciprocal() -> Curve:
    """`1 / a` for intervals without 0: convex right of it, concave left."""
    return Curve(
        name="reciprocal",
        function=torch.reciprocal,
        value=torch.reciprocal,
        slope=lambda a: -torch.reciprocal(a * a),
        bends=(0.0,),
        convex_first=False,
        avoid=(0.0, 0.0),
        grain=0.0,
    )


def square_root() -> Curve:
    """`sqrt(a)` for a > 0."""
    return Curve(
        name="sqrt",
        function=torch.sqrt,
        value=torch.sqrt,
        slope=lambda a: 0.5 * torch.rsqrt(a),
        convex_first=False,
        image=(0.0, math.inf),
        avoid=(-math.inf, 0.0),
        grain=0.0,
    )


def reciprocal_root(least: float = -math.inf) -> Curve:
    """`1 / sqrt(a)` for a > 0."""
    return Curve(
        least=least,
        name="rsqrt",
        function=torch.rsqrt,
        value=torch.rsqrt,
        slope=lambda a: -0.5 * torch.rsqrt(a) / a,
        image=(0.0, math.inf),
        avoid=(-math.inf, 0.0),
        grain=0.0,
    )


def square() -> Curve:
    """`a * a`."""
    return Curve(
        name="square",
        function=torch.square,
        value=torch.square,
        slope=lambda a: 2 * a,
        turn=0.0,
        image=(0.0, math.inf),
        grain=0.0,
    )


def _positive(name: str, number: float) -> None:
    if not 0 < number < math.inf:
        raise InputError(f"{name} must be positive and finite, got {number}")
