"""Derivatives of the operations that are not affine, known to lie between bounds: pushed forward and pulled back.

Every map holds an interval of Jacobians. `forward` takes exact directions at the arguments to an interval of
directions at the value; `backward` takes intervals of cotangents at the value to intervals at the arguments. Tensors are
(n, *shape); directions carry a dimension of rows, (n, k, *shape). Intervals travel as centre and half-width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from wassertight.certificates.lipschitz.derivatives import slope_range
from wassertight.certificates.lipschitz.linked import slope_lines
from wassertight.certificates.propagation.activations import Activation, Enclosure
from wassertight.certificates.propagation.operations import Maximum, Product

Interval = tuple[Tensor, Tensor]
"""Centre and half-width."""


@runtime_checkable
class LocalMap(Protocol):
    """An interval of Jacobians of one operation, one a sample."""

    def forward(self, rows: Sequence[Tensor | None]) -> Interval:
        """Directions (n, k, *argument), None where zero, to the interval of (n, k, *value)."""

    def backward(self, g: Interval) -> list[Interval]:
        """Cotangents (n, *value) to those of every argument, (n, *argument)."""

    def exact(self) -> Tensor | bool:
        """Where (n, *value) the Jacobian is one number, so that cotangents need no bounds of their own."""


def interval(low: Tensor, high: Tensor) -> Interval:
    """Centre and half-width of [low, high]."""
    return (low + high) / 2, (high - low) / 2


def hull(least: Tensor, most: Tensor, g: Interval) -> Interval:
    """Range of s * g for s in [least, most] and g in its interval."""
    low, high = g[0] - g[1], g[0] + g[1]
    corners = torch.stack((least * low, least * high, most * low, most * high))
    return interval(corners.amin(0), corners.amax(0))


def meet(a: Interval, b: Interval) -> Interval:
    """What two intervals share; both are known to hold."""
    low, high = torch.maximum(a[0] - a[1], b[0] - b[1]), torch.minimum(a[0] + a[1], b[0] + b[1])
    return interval(low, torch.maximum(low, high))


def repeated(part: LocalMap, times: int) -> LocalMap:
    """The same map with every sample `times` in a row."""
    assert isinstance(part, (Slopes, Factors, Largest, Shares, Normed))
    return replace(part, **{f.name: _repeated(getattr(part, f.name), times) for f in fields(part)})


def _repeated(value: Any, times: int) -> Any:
    if isinstance(value, Enclosure):
        return Enclosure(**{f.name: _repeated(getattr(value, f.name), times) for f in fields(value)})
    return value.repeat_interleave(times, 0) if isinstance(value, Tensor) else value


@dataclass(frozen=True, kw_only=True)
class Slopes:
    """An elementwise function whose slope lies in [least, most].

    Attributes:
        lines: lines around the slope as a function of the argument, or None.
    """

    least: Tensor
    most: Tensor
    lines: Enclosure | None = None

    @classmethod
    def of(cls, activation: Activation, low: Tensor, high: Tensor) -> Slopes:
        """Over bounds of the argument."""
        least, most = slope_range(activation, low, high)
        return cls(least=least, most=most, lines=slope_lines(activation, low, high))

    def forward(self, rows: Sequence[Tensor | None]) -> Interval:
        """Entry times slope."""
        a, (centre, width) = rows[0], interval(self.least[:, None], self.most[:, None])
        assert a is not None
        return a * centre, a.abs() * width

    def backward(self, g: Interval) -> list[Interval]:
        """The same."""
        return [hull(self.least, self.most, g)]

    def exact(self) -> Tensor:
        """Where the slope is known."""
        return self.least == self.most


@dataclass(frozen=True, kw_only=True)
class Factors:
    """A product, by bounds of both factors."""

    operation: Product
    x: Tensor
    x_width: Tensor
    y: Tensor
    y_width: Tensor

    def forward(self, rows: Sequence[Tensor | None]) -> Interval:
        """`dx y + x dy`."""
        a, b = rows
        of, parts = self.operation.of, []
        if a is not None:
            parts.append((of(a, self.y[:, None]), of(a.abs(), self.y_width[:, None])))
        if b is not None:
            parts.append((of(self.x[:, None], b), of(self.x_width[:, None], b.abs())))
        return sum(p[0] for p in parts[1:]) + parts[0][0], sum(p[1] for p in parts[1:]) + parts[0][1]

    def backward(self, g: Interval) -> list[Interval]:
        """`g y'` and `x' g`."""
        if not self.operation.matrices:
            return [
                hull(self.y - self.y_width, self.y + self.y_width, g),
                hull(self.x - self.x_width, self.x + self.x_width, g),
            ]
        left, right, size = self.operation.pull_left, self.operation.pull_right, g[0].abs() + g[1]
        return [
            (left(g[0], self.y), left(g[1], self.y.abs()) + left(size, self.y_width)),
            (right(g[0], self.x), right(g[1], self.x.abs()) + right(size, self.x_width)),
        ]

    def exact(self) -> bool:
        """Never, up to rounding."""
        return False


@dataclass(frozen=True, kw_only=True)
class Largest:
    """A maximum over windows: the derivative is a mixture of the entries that may be the largest.

    Attributes:
        rivals: those entries, 1 or 0, (n, *value, entries).
    """

    operation: Maximum
    rivals: Tensor

    def forward(self, rows: Sequence[Tensor | None]) -> Interval:
        """Between the least and the greatest of the rivals' entries."""
        a = rows[0]
        assert a is not None
        parts = self.operation.windows(a.flatten(0, 1), outside=0.0)
        parts, among = parts.view(*a.shape[:2], *parts.shape[1:]), self.rivals[:, None] > 0
        low = torch.where(among, parts, torch.inf).amin(-1)
        return interval(low, torch.where(among, parts, -torch.inf).amax(-1))

    def backward(self, g: Interval) -> list[Interval]:
        """Shares of the cotangent between 0 and 1, or all of it for the only rival."""
        sole = self.rivals * (self.rivals.sum(-1, keepdim=True) == 1)
        low, high = (g[0] - g[1])[..., None], (g[0] + g[1])[..., None]
        low = torch.where(sole > 0, low, low.clamp_max(0)) * self.rivals
        high = torch.where(sole > 0, high, high.clamp_min(0)) * self.rivals
        return [interval(self.operation.fold(low), self.operation.fold(high))]

    def exact(self) -> Tensor:
        """Where there is one rival."""
        return self.rivals.sum(-1) == 1


@dataclass(frozen=True, kw_only=True)
class Shares:
    """A softmax over the last axis, `J a = p (a - <p, a>)`, by bounds of p; J is symmetric.

    Entry k of `J a` is also `sum over j of p_j p_k (a_k - a_j)` with `p_j p_k <= 1/4`; the better of both ways is kept.
    """

    least: Tensor
    most: Tensor

    def forward(self, rows: Sequence[Tensor | None]) -> Interval:
        """Directions are exact cotangents."""
        a = rows[0]
        assert a is not None
        return self._apply(self.least[:, None], self.most[:, None], (a, torch.zeros_like(a)))

    def backward(self, g: Interval) -> list[Interval]:
        """J is symmetric."""
        return [self._apply(self.least, self.most, g)]

    def _apply(self, least: Tensor, most: Tensor, a: Interval) -> Interval:
        low, high = a[0] - a[1], a[0] + a[1]
        gap = interval(low[..., :, None] - high[..., None, :], high[..., :, None] - low[..., None, :])
        off = 1 - torch.eye(least.shape[-1], dtype=least.dtype, device=least.device)
        pair = least[..., :, None] * least[..., None, :], (most[..., :, None] * most[..., None, :]).clamp_max(0.25)
        centre, width = hull(pair[0] * off, pair[1] * off, gap)
        pairs = centre.sum(-1), width.sum(-1)
        middle = interval(low.amin(-1, keepdim=True), high.amax(-1, keepdim=True))
        middle = middle[0].expand_as(low), middle[1].expand_as(low)
        whole = hull(least, most, (a[0] - middle[0], a[1] + middle[1]))
        return meet(pairs, whole)

    def exact(self) -> bool:
        """Never, up to rounding."""
        return False


@dataclass(frozen=True, kw_only=True)
class Normed:
    """`c v` with `v = 1 / sqrt(mean c^2 + eps)` over the last axes: `J a = v (a - u <u, a> / k)`, u = c v; J is symmetric.

    Attributes:
        value, value_width: bounds of u.
        least, most: of v, one entry a group.
        axes: how many last axes form a group of k entries.
    """

    value: Tensor
    value_width: Tensor
    least: Tensor
    most: Tensor
    axes: int

    def forward(self, rows: Sequence[Tensor | None]) -> Interval:
        """Directions are exact cotangents."""
        a = rows[0]
        assert a is not None
        more = (self.value[:, None], self.value_width[:, None], self.least[:, None], self.most[:, None])
        return self._apply((a, torch.zeros_like(a)), *more)

    def backward(self, g: Interval) -> list[Interval]:
        """J is symmetric."""
        return [self._apply(g, self.value, self.value_width, self.least, self.most)]

    def _apply(self, a: Interval, u: Tensor, width: Tensor, least: Tensor, most: Tensor) -> Interval:
        dims = list(range(-self.axes, 0))
        count = u[0].numel() // least[0].numel()
        parts = hull(u - width, u + width, a)
        dot = parts[0].sum(dims, keepdim=True), parts[1].sum(dims, keepdim=True)
        # |u| <= sqrt(k), so |<u, a>| <= sqrt(k) |a|
        reach = (a[0].abs() + a[1]).square().sum(dims, keepdim=True).sqrt() * count**0.5
        dot = meet(dot, (torch.zeros_like(reach), reach))
        along = hull(u - width, u + width, (dot[0].expand_as(a[0]) / count, dot[1].expand_as(a[0]) / count))
        return hull(least.expand_as(a[0]), most.expand_as(a[0]), (a[0] - along[0], a[1] + along[1]))

    def exact(self) -> bool:
        """Never, up to rounding."""
        return False
