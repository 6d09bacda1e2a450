"""Transposed convolutions with a stride, to few channels, as one ordinary convolution whose channels are the phases.

Output row `o = stride * q + phase` of a transposed convolution sums the kernel rows `o + padding - stride * i` over
inputs i. For a fixed phase these are an ordinary correlation in q, so all phases together are one convolution with
`stride**2` times the channels, followed by interleaving: two to three times faster on CPUs where channels are few.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, kw_only=True)
class Phases:
    """A transposed convolution, ready to be applied.

    Attributes:
        weight: (channels * stride**2, inputs, taps, taps).
        first: input row that the first tap of output row 0 reads, <= 0.
        stride: of the transposed convolution.
    """

    weight: Tensor
    first: int
    stride: int

    @classmethod
    def of(cls, weight: Tensor, stride: int, padding: int) -> Phases:
        """From a kernel (inputs, channels, size, size) as `conv_transpose2d` takes it."""
        inputs, channels, size, _ = weight.shape
        reach = range(-size, size + padding + 1)
        taps = sorted({j for phase in range(stride) for j in reach if 0 <= phase + padding - stride * j < size})
        found = weight.new_zeros(channels, stride, stride, inputs, len(taps), len(taps))
        for a in range(stride):
            for b in range(stride):
                for i, row in enumerate(taps):
                    for j, column in enumerate(taps):
                        at = a + padding - stride * row, b + padding - stride * column
                        if min(at) >= 0 and max(at) < size:
                            found[:, a, b, :, i, j] = weight[:, :, at[0], at[1]].T
        found = found.flatten(0, 2).contiguous(memory_format=torch.channels_last)
        return cls(weight=found, first=taps[0], stride=stride)

    def apply(self, a: Tensor, height: int, width: int) -> Tensor:
        """The transposed convolution of (m, inputs, rows, columns), cut to (m, channels, height, width)."""
        taps, lead = self.weight.shape[2], -self.first
        needed = [-(-size // self.stride) for size in (height, width)]
        margin = max(0, lead, *(n + taps - 1 - lead - have for n, have in zip(needed, a.shape[2:], strict=True)))
        out = functional.conv2d(a, self.weight, padding=margin)
        begin = margin - lead
        out = out[:, :, begin : begin + needed[0], begin : begin + needed[1]]
        return functional.pixel_shuffle(out, self.stride)[:, :, :height, :width]
