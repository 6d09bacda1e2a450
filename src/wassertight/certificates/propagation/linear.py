"""Interval and backward linear bounds (CROWN, 1811.00866) of a chain over input regions, batched over samples.

Pre-activation bounds are computed block by block: interval arithmetic first, then backward linear bounds for the
units that intervals leave unstable; the better of both is kept. An unstable ReLU with bounds l < 0 < u is enclosed by
`alpha a <= relu(a) <= u (a - l) / (u - l)`, alpha = 1 if u > -l else 0. Margins `z_y - z_j` are bounded with the
specification folded into the last block.

Differs from CROWN as published: 1. the first block under l_1 and l_2 balls takes the better of the dual norm and the
box; 2. final margins use the exact minimum over ball and box; 3. convolutional blocks keep coefficients as patches
(the receptive field of each unit) instead of whole images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from wassertight.certificates.propagation.network import Chain
from wassertight.certificates.propagation.patches import patch_lower_bounds, patches_pay
from wassertight.certificates.propagation.region import Region
from wassertight.geometry import conjugate, norm

_MEMORY = 3 * 10**7
"""Coefficients held at once, about 240 MB in float64."""


@dataclass(frozen=True, kw_only=True)
class Relaxation:
    """Linear enclosure of a ReLU layer, tensors (n, *features): `lower * a <= relu(a) <= upper * a + shift`."""

    lower: Tensor
    upper: Tensor
    shift: Tensor

    @classmethod
    def of(cls, low: Tensor, high: Tensor) -> Relaxation:
        unstable = (low < 0) & (high > 0)
        active = (low >= 0).to(low.dtype)
        slope = torch.where(unstable, high / (high - low).clamp_min(1e-30), active)
        lower = torch.where(unstable, (high > -low).to(low.dtype), active)
        return cls(lower=lower, upper=slope, shift=torch.where(unstable, -slope * low, 0.0))


class Propagation:
    """Bounds of one chain under one ground norm.

    Args:
        chain: the network.
        r: order of the ground norm.
        backward: whether unstable units get backward linear bounds; False is interval propagation alone.
    """

    def __init__(self, chain: Chain, r: float, *, backward: bool) -> None:
        self.chain, self.r, self.backward = chain, r, backward
        self.row_norms = None if math.isinf(r) else self._first_row_norms()

    def margins(self, region: Region, y: Tensor) -> Tensor:
        """Proved lower bound of `min over j != y of z_j's deficit, z_y - z_j`, one number a sample."""
        bounds: list[tuple[Tensor, Tensor]] = []
        last = len(self.chain.blocks) - 1
        for index in range(last):
            low, high = self._intervals(index, region, bounds)
            if self.backward and index > 0:
                low, high = self._tighten(index, region, bounds, low, high)
            bounds.append((low, torch.maximum(low, high)))
        classes = self.chain.blocks[-1][-1].target[0]
        spec = self._specification(y, classes)
        result = self._spec_interval(spec, region, bounds).amin(1)
        if self.backward:
            relaxations = [Relaxation.of(*pair) for pair in bounds]
            lowest = self._lower_bounds(spec, last, region, relaxations, tight=True).amin(1)
            result = torch.maximum(result, lowest)
        return result

    def _specification(self, y: Tensor, classes: int) -> Tensor:
        """Rows e_y - e_j for every j != y, (n, k - 1, k)."""
        eye = torch.eye(classes, dtype=self.row_dtype, device=y.device)
        others = torch.arange(classes, device=y.device).expand(len(y), classes)
        others = others[others != y[:, None]].view(len(y), classes - 1)
        return eye[y][:, None] - eye[others]

    @property
    def row_dtype(self) -> torch.dtype:
        for block in self.chain.blocks:
            for op in block:
                for name in ("weight", "scale"):
                    if hasattr(op, name):
                        dtype: torch.dtype = getattr(op, name).dtype
                        return dtype
        return torch.float64

    def _intervals(self, index: int, region: Region, bounds: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Pre-activation bounds of a block by interval arithmetic over its input's box."""
        low, high = (region.low, region.high) if index == 0 else (bounds[-1][0].relu(), bounds[-1][1].relu())
        centre, width = (low + high) / 2, (high - low) / 2
        for op in self.chain.blocks[index]:
            centre, width = op.apply(centre), op.spread(width)
        low, high = centre - width, centre + width
        if index == 0 and self.row_norms is not None:
            middle = region.x
            for op in self.chain.blocks[0]:
                middle = op.apply(middle)
            reach = region.t.view(-1, *(1,) * (middle.ndim - 1)) * self.row_norms
            low, high = torch.maximum(low, middle - reach), torch.minimum(high, middle + reach)
        return low, high

    def _first_row_norms(self) -> Tensor:
        """Dual norm of every row of the first block's matrix, shaped like its output."""
        block = self.chain.blocks[0]
        target = block[-1].target if block else self.chain.source
        units, size = math.prod(target), math.prod(self.chain.source)
        norms = []
        step = max(1, _MEMORY // (4 * size))
        for begin in range(0, units, step):
            rows = torch.arange(begin, min(begin + step, units))
            a = torch.zeros(len(rows), units, dtype=self.row_dtype)
            a[torch.arange(len(rows)), rows] = 1
            a = a.view(len(rows), *target).to(self._device())
            for op in reversed(block):
                a, _ = op.pull(a)
            norms.append(norm(a, conjugate(self.r)))
        return torch.cat(norms).view(target)

    def _device(self) -> torch.device:
        for block in self.chain.blocks:
            for op in block:
                for name in ("weight", "scale"):
                    if hasattr(op, name):
                        device: torch.device = getattr(op, name).device
                        return device
        return torch.device("cpu")

    def _tighten(
        self, index: int, region: Region, bounds: list[tuple[Tensor, Tensor]], low: Tensor, high: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Backward linear bounds for the units of a block that intervals leave unstable."""
        relaxations = [Relaxation.of(*pair) for pair in bounds]
        unstable = ((low < 0) & (high > 0)).flatten(1)
        if not bool(unstable.any()):
            return low, high
        if patches_pay(self.chain, index):
            lower = patch_lower_bounds(self.chain, index, region, relaxations, sign=1, memory=_MEMORY)
            upper = -patch_lower_bounds(self.chain, index, region, relaxations, sign=-1, memory=_MEMORY)
            return torch.maximum(low, lower), torch.minimum(high, upper)
        shape, most = low.shape, int(unstable.sum(1).max())
        rows = unstable.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most]
        hot = torch.zeros(*rows.shape, unstable.shape[1], dtype=low.dtype, device=low.device)
        hot.scatter_(2, rows[:, :, None], 1.0)
        hot = hot.view(*rows.shape, *shape[1:])
        lower = self._lower_bounds(hot, index, region, relaxations, tight=False)
        upper = -self._lower_bounds(-hot, index, region, relaxations, tight=False)
        low, high = low.flatten(1).clone(), high.flatten(1).clone()
        low.scatter_(1, rows, torch.maximum(low.gather(1, rows), lower))
        high.scatter_(1, rows, torch.minimum(high.gather(1, rows), upper))
        return low.view(shape), high.view(shape)

    def _lower_bounds(
        self, a: Tensor, index: int, region: Region, relaxations: list[Relaxation], *, tight: bool
    ) -> Tensor:
        """Lower bounds of linear forms a (n, m, *target of block index) over the region, (n, m), in row chunks."""
        widest = max(math.prod(op.source) for block in self.chain.blocks[: index + 1] for op in block)
        step = max(1, _MEMORY // (4 * widest * len(a)))
        parts = [self._pull(part, index, region, relaxations, tight) for part in torch.split(a, step, dim=1)]
        return torch.cat(parts, 1)

    def _pull(self, a: Tensor, index: int, region: Region, relaxations: list[Relaxation], tight: bool) -> Tensor:
        n, m = a.shape[:2]
        constant = a.new_zeros(n, m)
        for block in range(index, -1, -1):
            flat = a.flatten(0, 1)
            for op in reversed(self.chain.blocks[block]):
                flat, shift = op.pull(flat)
                constant = constant + shift.view(n, m)
            a = flat.view(n, m, *flat.shape[1:])
            if block > 0:
                relax = relaxations[block - 1]
                negative = a.clamp_max(0).flatten(2)
                constant = constant + (negative @ relax.shift.flatten(1)[:, :, None]).squeeze(2)
                a = a * torch.where(a > 0, relax.lower[:, None], relax.upper[:, None])
        return constant + region.minimum(a, tight=tight)

    def _spec_interval(self, spec: Tensor, region: Region, bounds: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Specification rows over the last block's input box."""
        flat = spec.flatten(0, 1)
        constant = flat.new_zeros(len(flat))
        for op in reversed(self.chain.blocks[-1]):
            flat, shift = op.pull(flat)
            constant = constant + shift
        a = flat.view(*spec.shape[:2], *flat.shape[1:])
        constant = constant.view(spec.shape[:2])
        if not bounds:
            return constant + region.minimum(a, tight=True)
        low, high = bounds[-1][0].relu()[:, None], bounds[-1][1].relu()[:, None]
        return constant + (a.clamp_min(0) * low + a.clamp_max(0) * high).flatten(2).sum(2)
