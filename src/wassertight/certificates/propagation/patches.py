"""Backward linear bounds of convolutional blocks with coefficients kept as patches, one receptive field a unit.

The coefficients of unit (c, i, j) with respect to an earlier feature map are non-zero only in a window whose size,
stride and padding compose from layer to layer; keeping the window instead of the whole map saves the ratio of areas.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from wassertight.certificates.propagation.network import Chain
from wassertight.certificates.propagation.operators import Affine, Convolution, Elementwise
from wassertight.certificates.propagation.region import Region
from wassertight.geometry import conjugate

if TYPE_CHECKING:
    from wassertight.certificates.propagation.linear import Relaxation


def patches_pay(chain: Chain, index: int) -> bool:
    """Whether all blocks up to this one are convolutional and the receptive field is smaller than the input."""
    kernel, stride = [1, 1], [1, 1]
    ops: list[Affine] = [op for block in chain.blocks[: index + 1] for op in block]
    if not ops or not all(isinstance(op, (Convolution, Elementwise)) and len(op.target) == 3 for op in ops):
        return False
    for op in ops:
        if isinstance(op, Convolution):
            for k in (0, 1):
                kernel[k] += op.dilation[k] * (op.weight.shape[2 + k] - 1) * stride[k]
                stride[k] *= op.stride[k]
    return kernel[0] * kernel[1] < chain.source[1] * chain.source[2]


def patch_lower_bounds(
    chain: Chain, index: int, region: Region, relaxations: list[Relaxation], *, sign: int, memory: int
) -> Tensor:
    """Lower bounds of `sign * a` for every unit a of a convolutional block, shaped (n, *target)."""
    target = chain.blocks[index][-1].target
    ops = [op for block in chain.blocks[: index + 1] for op in block if isinstance(op, Convolution)]
    window = max(math.prod(op.weight.shape[1:]) * 4 for op in ops)
    step = max(1, memory // (math.prod(target) * window))
    parts = []
    for begin in range(0, len(region.x), step):
        rows = slice(begin, begin + step)
        parts.append(_Window(chain, index, region, relaxations, sign, rows).bounds())
    return torch.cat(parts).view(-1, *target)


class _Window:
    """Coefficients (n, units, positions, channels, height, width) and the geometry of their windows."""

    def __init__(
        self, chain: Chain, index: int, region: Region, relaxations: list[Relaxation], sign: int, rows: slice
    ) -> None:
        self.chain, self.index, self.region, self.relaxations, self.rows = chain, index, region, relaxations, rows
        self.units, self.height, self.width = chain.blocks[index][-1].target
        x = region.x[rows]
        self.a = sign * torch.eye(self.units, dtype=x.dtype, device=x.device).view(1, self.units, 1, self.units, 1, 1)
        self.constant = x.new_zeros(1, self.units, 1)
        self.stride, self.padding = [1, 1], [0, 0]

    def bounds(self) -> Tensor:
        """Pull through every block, then take the minimum over the region; (n, units, positions)."""
        for block in range(self.index, -1, -1):
            for op in reversed(self.chain.blocks[block]):
                self._affine(op)
            if block > 0:
                relax = self.relaxations[block - 1]
                shift = self._windows(relax.shift[self.rows])
                self.constant = self.constant + (self.a.clamp_max(0) * shift).sum((3, 4, 5))
                lower, upper = self._windows(relax.lower[self.rows]), self._windows(relax.upper[self.rows])
                self.a = self.a * torch.where(self.a > 0, lower, upper)
        return self._minimum()

    def _windows(self, v: Tensor) -> Tensor:
        """Every position's window of a map (n, channels, H, W): (n, 1, positions, channels, h, w), zero outside."""
        h, w = self.a.shape[4:]
        padded = functional.pad(v, (self.padding[1], self.padding[1], self.padding[0], self.padding[0]))
        view = padded.unfold(2, h, self.stride[0]).unfold(3, w, self.stride[1])
        view = view[:, :, : self.height, : self.width]
        return view.permute(0, 2, 3, 1, 4, 5).reshape(len(v), 1, self.height * self.width, v.shape[1], h, w)

    def _affine(self, op: Affine) -> None:
        if isinstance(op, Elementwise):
            shift, scale = self._windows(op.shift[None]), self._windows(op.scale[None])
            self.constant = self.constant + (self.a * shift).sum((3, 4, 5))
            self.a = self.a * scale
            return
        if not isinstance(op, Convolution):
            raise TypeError(f"patches go through convolutions only, got {type(op).__name__}")
        if any(self.padding):
            self.a = self.a * self._windows(torch.ones(1, *op.target, dtype=self.a.dtype, device=self.a.device))
        self.constant = self.constant + self.a.sum((4, 5)) @ op.bias
        flat = functional.conv_transpose2d(
            self.a.flatten(0, 2), op.weight, None, op.stride, 0, 0, op.groups, op.dilation
        )
        self.a = flat.view(*self.a.shape[:3], *flat.shape[1:])
        for k in (0, 1):
            self.padding[k] = self.padding[k] * op.stride[k] + op.padding[k]
            self.stride[k] *= op.stride[k]

    def _minimum(self) -> Tensor:
        region, rows = self.region, self.rows
        low, high = self._windows(region.low[rows]), self._windows(region.high[rows])
        box = (self.a * torch.where(self.a > 0, low, high)).sum((3, 4, 5))
        if not math.isinf(region.r):
            size = torch.linalg.vector_norm(self.a.flatten(3), ord=conjugate(region.r), dim=3)
            centre = (self.a * self._windows(region.x[rows])).sum((3, 4, 5))
            box = torch.maximum(box, centre - region.t[rows].view(-1, 1, 1) * size)
        return self.constant + box
