"""The step function behind comparisons with a number (binarised inputs, hard gates): enclosed, though not continuous."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wassertight.certificates.propagation.activations import Enclosure, check_intervals, rounding


@dataclass(frozen=True, kw_only=True)
class Step:
    """1 above a threshold, 0 below; at the threshold 1 if `closed`.

    Arguments closer to the threshold than the rounding of the threshold itself (a float32 model compares with a float32
    number) count as undecided. Above, lines pass through 1 at the threshold; below, through 0 there.
    """

    name: str = "step"
    threshold: float = 0.0
    closed: bool = False

    def apply(self, a: Tensor) -> Tensor:
        """The function itself."""
        return (a >= self.threshold if self.closed else a > self.threshold).to(a.dtype)

    def interval(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """0 or 1 where decided, both else."""
        first, last = self._reach()
        return (low > last).to(low.dtype), (high >= first).to(low.dtype)

    def enclose(
        self, low: Tensor, high: Tensor, lower_choice: Tensor | None = None, upper_choice: Tensor | None = None
    ) -> Enclosure:
        """Choice 0 gives a constant, 1 the steepest line, through the value at the far end of the interval."""
        check_intervals(self.name, low, high)
        first, last = self._reach()
        bend, middle = self.bend(low, high), (low + high) / 2
        below = (middle > last).to(low) if lower_choice is None else lower_choice.to(low)
        above = (middle < first).to(low) if upper_choice is None else upper_choice.to(low)
        lower = torch.where(bend & (high > last), below / (high - last).clamp_min(torch.finfo(low.dtype).tiny), 0.0)
        upper = torch.where(bend & (low < first), above / (first - low).clamp_min(torch.finfo(low.dtype).tiny), 0.0)
        lower, upper = (torch.where(slope.isfinite(), slope, 0.0) for slope in (lower, upper))
        grain, size = rounding(low), torch.maximum(low.abs(), high.abs()) + abs(self.threshold)
        bottom, top = self.interval(low, high)
        return Enclosure(
            lower_slope=lower,
            lower_shift=torch.where(bend, -lower * last - grain * lower * size, bottom),
            upper_slope=upper,
            upper_shift=torch.where(bend, 1 - upper * first + grain * (upper * size + (upper > 0)), top),
        )

    def bend(self, low: Tensor, high: Tensor) -> Tensor:
        """Arguments that may lie on either side."""
        first, last = self._reach()
        return (low <= last) & (high >= first)

    def split(self, low: Tensor, high: Tensor) -> Tensor:
        """The threshold."""
        return torch.full_like(low, self.threshold)

    def _reach(self) -> tuple[float, float]:
        pad = torch.finfo(torch.float32).eps * abs(self.threshold)
        return self.threshold - pad, self.threshold + pad
