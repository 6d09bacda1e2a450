"""What a graph's nodes do: affine operations, sums, products of two bounded tensors, and maxima over windows.

Shapes never include the batch dimension. Coefficients travel as rows (m, *shape), one linear form a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional

from wassertight.certificates.propagation.layout import channels_last, flat_maps
from wassertight.certificates.propagation.transposed import Phases

Shape = tuple[int, ...]
_FEW = 8  # most channels for which phases are faster than a transposed convolution


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

    @property
    def kernel(self) -> tuple[int, int]:
        return (self.weight.shape[2], self.weight.shape[3])

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

    @cached_property
    def phases(self) -> Phases | None:
        """The transposed convolution by phases, where that is faster."""
        even = all(len(set(pair)) == 1 for pair in (self.stride, self.padding, self.weight.shape[2:]))
        few = self.source[0] <= _FEW and self.stride[0] > 1
        if even and few and self.groups == 1 and self.dilation == (1, 1):
            return Phases.of(self.weight, self.stride[0], self.padding[0])
        return None

    def pull(self, a: Tensor) -> tuple[Tensor, Tensor]:
        if self.phases is not None:
            back = self.phases.apply(channels_last(a), self.source[1], self.source[2])
            return back, a.sum((2, 3)) @ self.bias
        extra = [
            self.source[1 + k]
            - (self.target[1 + k] - 1) * self.stride[k]
            + 2 * self.padding[k]
            - self.dilation[k] * (self.weight.shape[2 + k] - 1)
            - 1
            for k in (0, 1)
        ]
        more = (extra[0], extra[1])
        back = functional.conv_transpose2d(
            channels_last(a), self.weight, None, self.stride, self.padding, more, self.groups, self.dilation
        )
        return back, a.sum((2, 3)) @ self.bias


@dataclass(frozen=True, kw_only=True)
class Elementwise:
    """z -> scale * z + shift, both of the feature shape.

    Attributes:
        heft: magnitude of what was summed to give the shift, where the model sums it anew; its own otherwise.
    """

    scale: Tensor
    shift: Tensor
    source: Shape
    target: Shape
    terms: int = 2
    heft: Tensor | None = None

    def apply(self, z: Tensor) -> Tensor:
        return self.scale * z + self.shift

    def linear(self, z: Tensor) -> Tensor:
        return self.scale * z

    def spread(self, width: Tensor) -> Tensor:
        return self.scale.abs() * width

    def size(self, magnitude: Tensor) -> Tensor:
        return self.scale.abs() * magnitude + (self.shift.abs() if self.heft is None else self.heft)

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

    def interval(self, parents: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Range of the product, from low, high and rounding error of both factors."""
        (xl, xh, xe), (yl, yh, ye) = parents
        cx, wx, cy, wy = (xl + xh) / 2, (xh - xl) / 2 + xe, (yl + yh) / 2, (yh - yl) / 2 + ye
        centre = self.of(cx, cy)
        width = self.of(wx, cy.abs()) + self.of(cx.abs(), wy) + self.of(wx, wy)
        if self.matrices:
            return centre - width, centre + width
        corners = torch.stack([(cx + s * wx) * (cy + q * wy) for s in (-1, 1) for q in (-1, 1)])
        return corners.amin(0), corners.amax(0)

    def pull_left(self, a: Tensor, y: Tensor) -> Tensor:
        """Rows on x of `<a, x y>`; y broadcasts over rows."""
        return a @ y.transpose(-1, -2) if self.matrices else a * y

    def pull_right(self, a: Tensor, x: Tensor) -> Tensor:
        return x.transpose(-1, -2) @ a if self.matrices else a * x


@dataclass(frozen=True, kw_only=True)
class Maximum:
    """Maxima over the windows of a feature map (channels, height, width); padding holds no entries."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    source: Shape
    target: Shape

    def windows(self, z: Tensor, outside: float = -torch.inf) -> Tensor:
        """The entries of every window, (n, *source) to (n, *target, entries)."""
        (up, left), (rows, columns) = self.padding, self.kernel
        z = functional.pad(z, (left, left, up, up), value=outside) if up or left else z
        down, right = self.dilation
        z = z.unfold(2, down * (rows - 1) + 1, self.stride[0]).unfold(3, right * (columns - 1) + 1, self.stride[1])
        return z[..., ::down, ::right].flatten(4)

    def apply(self, z: Tensor) -> Tensor:
        return self.windows(z).amax(-1)

    def fold(self, rows: Tensor) -> Tensor:
        """The transpose of `windows` on rows (m, *target, entries)."""
        (up, left), (height, width) = self.padding, self.source[1:]
        spread = self.spread(rows)
        missing = (width + left - spread.shape[-1], height + up - spread.shape[-2])
        return functional.pad(spread, (-left, missing[0], -up, missing[1]))

    def spread(self, rows: Tensor) -> Tensor:
        """Entries (m, channels, h, w, entries) of h times w neighbouring windows, summed on the map they cover."""
        (down, right), (vertical, horizontal) = self.dilation, self.stride
        h, w = rows.shape[2:4]
        size = [
            (n - 1) * s + d * (k - 1) + 1
            for n, s, d, k in zip((h, w), self.stride, self.dilation, self.kernel, strict=True)
        ]
        out = rows.new_zeros(*rows.shape[:2], *size)
        for k, part in enumerate(rows.unbind(-1)):
            i, j = down * (k // self.kernel[1]), right * (k % self.kernel[1])
            out[:, :, i : i + (h - 1) * vertical + 1 : vertical, j : j + (w - 1) * horizontal + 1 : horizontal] += part
        return out
