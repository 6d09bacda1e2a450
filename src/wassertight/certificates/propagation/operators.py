"""Affine operators between feature shapes: apply, spread of widths, and pull-back of coefficients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor
from torch.nn import functional


@runtime_checkable
class Affine(Protocol):
    """An affine map between feature shapes (no batch dimension in the shapes)."""

    @property
    def source(self) -> tuple[int, ...]: ...
    @property
    def target(self) -> tuple[int, ...]: ...

    def apply(self, z: Tensor) -> Tensor:
        """The map on a batch (n, *source)."""

    def spread(self, width: Tensor) -> Tensor:
        """|W| times non-negative widths (n, *source)."""

    def pull(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients (m, *target) to coefficients (m, *source) and the constant (m,) the shift contributes."""


@dataclass(frozen=True, kw_only=True)
class Dense:
    """z -> W z + b."""

    weight: Tensor
    bias: Tensor
    source: tuple[int, ...]
    target: tuple[int, ...]

    def apply(self, z: Tensor) -> Tensor:
        return functional.linear(z, self.weight, self.bias)

    def spread(self, width: Tensor) -> Tensor:
        return functional.linear(width, self.weight.abs())

    def pull(self, a: Tensor) -> tuple[Tensor, Tensor]:
        return a @ self.weight, a @ self.bias


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """2-d convolution with zero padding; average pooling is one with a channel a group."""

    weight: Tensor
    bias: Tensor
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    source: tuple[int, ...]
    target: tuple[int, ...]

    def apply(self, z: Tensor) -> Tensor:
        return functional.conv2d(z, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def spread(self, width: Tensor) -> Tensor:
        weight = self.weight.abs()
        return functional.conv2d(width, weight, None, self.stride, self.padding, self.dilation, self.groups)

    def pull(self, a: Tensor) -> tuple[Tensor, Tensor]:
        extra = [
            self.source[1 + k]
            - (
                (self.target[1 + k] - 1) * self.stride[k]
                - 2 * self.padding[k]
                + self.dilation[k] * (self.weight.shape[2 + k] - 1)
                + 1
            )
            for k in (0, 1)
        ]
        back = functional.conv_transpose2d(
            a, self.weight, None, self.stride, self.padding, (extra[0], extra[1]), self.groups, self.dilation
        )
        return back, a.sum((2, 3)) @ self.bias


@dataclass(frozen=True, kw_only=True)
class Elementwise:
    """z -> scale * z + shift, both broadcast to the feature shape."""

    scale: Tensor
    shift: Tensor
    source: tuple[int, ...]
    target: tuple[int, ...]

    def apply(self, z: Tensor) -> Tensor:
        return self.scale * z + self.shift

    def spread(self, width: Tensor) -> Tensor:
        return self.scale.abs() * width

    def pull(self, a: Tensor) -> tuple[Tensor, Tensor]:
        return a * self.scale, (a * self.shift).flatten(1).sum(1)


@dataclass(frozen=True, kw_only=True)
class Reshape:
    """Flatten."""

    source: tuple[int, ...]
    target: tuple[int, ...]

    def apply(self, z: Tensor) -> Tensor:
        return z.reshape(len(z), *self.target)

    def spread(self, width: Tensor) -> Tensor:
        return self.apply(width)

    def pull(self, a: Tensor) -> tuple[Tensor, Tensor]:
        return a.reshape(len(a), *self.source), a.new_zeros(len(a))
