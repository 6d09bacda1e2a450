"""What a graph's nodes do: affine operations, sums, products of two bounded tensors, and maxima over an axis.

Shapes never include the batch dimension. Coefficients travel as rows (m, *shape), one linear form a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional

from wassertight.certificates.propagation.layout import channels_last, flat_maps

Shape = tuple[int, ...]


@runtime_checkable
class Affine(Protocol):
    """An affine map from one tensor to another.

    Attributes:
        source, target: shapes of argument and value.
        terms: most products summed in one entry of the value; rounding grows with it.
    """

    @property
    def source(self) -> Shape: ...
    @property
    def target(self) -> Shape: ...
    @property
    def terms(self) -> int: ...

    def apply(self, z: Tensor) -> Tensor:
        """The map on a batch (n, *source)."""

    def linear(self, z: Tensor) -> Tensor:
        """The map without its shift."""

    def spread(self, width: Tensor) -> Tensor:
        """Absolute weights times non-negative widths (n, *source)."""

    def size(self, magnitude: Tensor) -> Tensor:
        """`spread` plus the absolute shift: the magnitude of everything that is summed."""

    def pull(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (m, *target) to rows (m, *source), and the constant (m,) the shift contributes."""


@dataclass(frozen=True, kw_only=True)
class Dense:
    """z -> W z + b over the last axis."""

    weight: Tensor
    bias: Tensor
    source: Shape
    target: Shape

    @property
    def terms(self) -> int:
        return self.weight.shape[1] + 1

    def apply(self, z: Tensor) -> Tensor:
        return functional.linear(z, self.weight, self.bias)

    def linear(self, z: Tensor) -> Tensor:
        return functional.linear(z, self.weight)

    def spread(self, width: Tensor) -> Tensor:
        return functional.linear(width, self.weight.abs())

    def size(self, magnitude: Tensor) -> Tensor:
        return functional.linear(magnitude, self.weight.abs(), self.bias.abs())

    def pull(self, a: Tensor) -> tuple[Tensor, Tensor]:
        constant = a @ self.bias
        return a @ self.weight, constant.flatten(1).sum(1) if constant.ndim > 1 else constant


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """2-d convolution with zero padding; average pooling is one with a channel a group."""

    weight: Tensor
    bias: Tensor
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    source: Shape
    target: Shape

    @property
    def terms(self) -> int:
        return self.weight[0].numel() + 1

    def apply(self, z: Tensor) -> Tensor:
        return self._convolve(z, self.weight, self.bias)

    def linear(self, z: Tensor) -> Tensor:
        return self._convolve(z, self.weight, None)

    def spread(self, width: Tensor) -> Tensor:
        return self._convolve(width, self.weight.abs(), None)

    def size(self, magnitude: Tensor) -> Tensor:
        return self._convolve(magnitude, self.weight.abs(), self.bias.abs())

    def _convolve(self, z: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return functional.conv2d(z, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def pull(self, a: Tensor) -> tuple[Tensor, Tensor]:
        extra = [
            self.source[1 + k]
            - (self.target[1 + k] - 1) * self.stride[k]
            + 2 * self.padding[k]
            - self.dilation[k] * (self.weight.shape[2 + k] - 1)
            - 1
            for k in (0, 1)
        ]
        back = functional.conv_transpose2d(
            channels_last(a),
            self.weight,
            None,
            self.stride,
            self.padding,
            (extra[0], extra[1]),
            self.groups,
            self.dilation,
        )
        return back, a.sum((2, 3)) @ self.bias


@dataclass(frozen=True, kw_only=True)
class Elementwise:
    """z -> scale * z + shift, both of the feature shape."""

    scale: Tensor
    shift: Tensor
    source: Shape
    target: Shape
    terms: int = 2

    def apply(self, z: Tensor) -> Tensor:
        return self.scale * z + self.shift

    def linear(self, z: Tensor) -> Tensor:
        return self.scale * z

    def spread(self, width: Tensor) -> Tensor:
        return self.scale.abs() * width

    def size(self, magnitude: Tensor) -> Tensor:
        return self.scale.abs() * magnitude + self.shift.abs()

    def pull(self, a: Tensor) -> tuple[Tensor, Tensor]:
        return a * self.scale, (flat_maps(a) @ flat_maps(self.shift[None]).T).squeeze(1)


@dataclass(frozen=True, kw_only=True)
class Rearrangement:
    """A linear map with non-negative weights and no shift, given as a function of batches: reshape, slice, pad, mean.

    Attributes:
        function: the map on (n, *source).
        inverse: the transposed map on rows, where it is known; otherwise automatic differentiation finds it.
    """

    function: Callable[[Tensor], Tensor]
    source: Shape
    target: Shape
    inverse: Callable[[Tensor], Tensor] | None = None
    terms: int = 1

    def apply(self, z: Tensor) -> Tensor:
        return self.function(z)

    def linear(self, z: Tensor) -> Tensor:
        return self.function(z)

    def spread(self, width: Tensor) -> Tensor:
        return self.function(width)

    def size(self, magnitude: Tensor) -> Tensor:
        return self.function(magnitude)

    def pull(self, a: Tensor) -> tuple[Tensor, Tensor]:
        if self.inverse is not None:
            return self.inverse(a), a.new_zeros(len(a))
        like = a.new_zeros(1).expand(len(a), *self.source)
        transposed = torch.func.vjp(self.function, like)[1]
        return transposed(a)[0], a.new_zeros(len(a))


@dataclass(frozen=True, kw_only=True)
class Add:
    """Sum of its parents, all of one shape."""

    target: Shape


@dataclass(frozen=True, kw_only=True)
class Product:
    """Product of two bounded tensors: elementwise, or of matrices over the last two axes.

    With centres c and half-widths w of the factors, `|x y - (c_x y + x c_y - c_x c_y)| <= w_x w_y`: McCormick's
    envelope, its two planes on either side averaged.
    """

    matrices: bool
    target: Shape

    def of(self, x: Tensor, y: Tensor) -> Tensor:
        return x @ y if self.matrices else x * y

    def pull_left(self, a: Tensor, y: Tensor) -> Tensor:
        """Rows on x of `<a, x y>`; y broadcasts over rows."""
        return a @ y.transpose(-1, -2) if self.matrices else a * y

    def pull_right(self, a: Tensor, x: Tensor) -> Tensor:
        return x.transpose(-1, -2) @ a if self.matrices else a * x


@dataclass(frozen=True, kw_only=True)
class Maximum:
    """Maximum over the last axis; entries outside `mask` do not exist (padding)."""

    source: Shape
    target: Shape
    mask: Tensor | None = None

    def present(self, z: Tensor) -> Tensor:
        return z if self.mask is None else z.masked_fill(~self.mask, -torch.inf)
