"""Transposed convolutions, faster than the general routine: by phases, and as one matrix on small windows.

With a stride and to few channels they are one ordinary convolution whose channels are the phases: output row `o = stride * q + phase` of a transposed convolution sums the kernel rows `o + padding - stride * i` over
inputs i. For a fixed phase these are an ordinary correlation in q, so all phases together are one convolution with
`stride**2` times the channels, followed by interleaving: two to three times faster on CPUs where channels are few.

On a window hardly larger than the kernel most entries of the whole matrix are filled, and one product of matrices is
two to four times faster than the general routine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

_SPARSEST = 7
"""Entries of the matrix for every product of the convolution, above which the matrix is slower."""


@dataclass(frozen=True, kw_only=True)
class Phases:
    """A transposed convolution, ready to be applied.

    Attributes:
        weight: (stride**2 * channels, inputs, taps, taps), channels innermost.
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
        found = weight.new_zeros(stride, stride, channels, inputs, len(taps), len(taps))
        for a in range(stride):
            for b in range(stride):
                for i, row in enumerate(taps):
                    for j, column in enumerate(taps):
                        at = a + padding - stride * row, b + padding - stride * column
                        if min(at) >= 0 and max(at) < size:
                            found[a, b, :, :, i, j] = weight[:, :, at[0], at[1]].T
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
        blocks = out.movedim(1, -1).reshape(len(a), *needed, self.stride, self.stride, -1).transpose(2, 3)
        whole = blocks.reshape(len(a), self.stride * needed[0], self.stride * needed[1], -1)
        return whole.movedim(-1, 1)[:, :, :height, :width]


def unrolled(
    weight: Tensor, size: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> Tensor | None:
    """The matrix (h w inputs, H W channels) of a transposed convolution on windows (h, w), None where it is too sparse.

    Args:
        weight: (inputs, channels, *kernel), one group.
        size: (h, w) of the windows; nothing is padded.
        stride: of the convolution.
        dilation: of its kernel.
    """
    kernel = weight.shape[2:]
    large = [(size[k] - 1) * stride[k] + dilation[k] * (kernel[k] - 1) + 1 for k in (0, 1)]
    if math.prod(large) > _SPARSEST * math.prod(kernel):
        return None
    units = math.prod(size) * len(weight)
    each = torch.eye(units, dtype=weight.dtype, device=weight.device).view(units, *size, len(weight)).movedim(-1, 1)
    out = functional.conv_transpose2d(each, weight, None, stride, dilation=dilation)
    return out.movedim(1, -1).flatten(1).contiguous()
