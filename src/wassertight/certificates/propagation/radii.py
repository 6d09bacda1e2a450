"""The largest radius of every sample at which bounds of the margin stay positive, by batched bracketing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from wassertight.certificates.base import Task
from wassertight.certificates.propagation.graph import Graph
from wassertight.certificates.propagation.propagation import Propagation
from wassertight.certificates.propagation.reading import read_graph
from wassertight.certificates.propagation.region import Region
from wassertight.certificates.propagation.rounding import Rounding
from wassertight.geometry import norm
from wassertight.types import Bounds

PRECISIONS = {"float64": torch.float64, "float32": torch.float32}
_SMALL = 1024
"""Networks with at most this many hidden units are bounded in float64 when the precision is "auto"."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A model read once, in the dtype of the bounds."""

    graph: Graph
    dtype: torch.dtype
    rounding: Rounding
    model_dtype: torch.dtype

    @classmethod
    def of(cls, task: Task, precision: str) -> Reading:
        sample = task.x[:2]
        graph = read_graph(task.model, sample, dtype=torch.float64, device=sample.device)
        dtype = _dtype(precision, graph, task.dtype)
        if dtype != torch.float64:
            graph = read_graph(task.model, sample, dtype=dtype, device=sample.device)
        return cls(graph=graph, dtype=dtype, rounding=Rounding.between(task.dtype, dtype), model_dtype=task.dtype)

    def assumptions(self) -> tuple[str, ...]:
        own, model = (str(d).removeprefix("torch.") for d in (self.dtype, self.model_dtype))
        return (
            f"bounds computed in {own}; rounding of the model in {model} and of the bounds is covered for sums in any "
            "order and elementary functions to 8 units in the last place (no TF32, no Winograd convolutions)",
            "labels do not move; the network is the deterministic eval-mode network that was read and checked on data",
        )


class RadiusSearch:
    """Bracketing of the largest t whose verified margin is positive; keeps the verified end."""

    def __init__(self, propagation: Propagation, bounds: Bounds, tolerance: float, steps: int) -> None:
        self.propagation, self.bounds = propagation, bounds
        self.linear = len(propagation.graph.nodes) - 1 in propagation.graph.straight
        self.tolerance, self.steps = (1e-9, max(steps, 60)) if self.linear else (tolerance, steps)
        self.propagations = self.rounds = 0
        self.converged = True

    def run(self, x: Tensor, y: Tensor, upper: Tensor | None) -> Tensor:
        """Largest verified radius of every sample; inf where the whole box is verified."""
        r = self.propagation.r
        start = self._margins(x, y, x.new_zeros(len(x)))
        cap = self._cover(x, r)
        low, low_margin = torch.zeros_like(start), start.clone()
        high, high_margin = torch.full_like(start, math.inf), torch.full_like(start, -math.inf)
        t = self._guess(x, y, start, r)
        if upper is not None:
            t = torch.where(torch.isfinite(upper) & (upper > 0), torch.minimum(0.6 * upper, t), t)
        t = torch.minimum(t, cap)
        active = start > 0
        for step in range(self.steps):
            rows = active.nonzero().squeeze(1)
            if len(rows) == 0:
                break
            self.rounds = max(self.rounds, step + 1)
            margin = self._margins(x[rows], y[rows], t[rows])
            good = margin > 0
            up, down = rows[good], rows[~good]
            low[up], low_margin[up] = t[up], margin[good]
            high[down], high_margin[down] = t[down], margin[~good]
            whole = up[t[up] >= cap[up]]
            low[whole] = math.inf
            closed = torch.isfinite(high) & (high - low <= self.tolerance * high)
            done = closed | (low_margin <= 1e-9 * start) | torch.isinf(low)
            active &= ~done
            t = torch.minimum(self._next(step, low, low_margin, high, high_margin, start), cap)
        self.converged &= not bool(active.any())
        return torch.where(start > 0, low, 0.0)

    def _next(
        self, step: int, low: Tensor, low_margin: Tensor, high: Tensor, high_margin: Tensor, start: Tensor
    ) -> Tensor:
        """Secant towards a margin just above zero, kept inside the bracket; every second step bisects."""
        aim = 2e-10 * start
        bracketed = torch.isfinite(high)
        linear = self.linear
        share = ((low_margin - aim) / (low_margin - high_margin)).clamp(0.1, 1.0 if linear else 0.9)
        if step % 2 == 1 and not (linear and step % 4 == 1):
            share = torch.full_like(share, 0.5)
        inside = low + torch.where(bracketed, high - low, 0.0) * share
        slope = (start - low_margin) / low.clamp_min(1e-30)
        further = low + (low_margin - aim) / slope.clamp_min(1e-30)
        grown = torch.minimum(torch.maximum(further * (1.0 if linear else 0.95), 1.1 * low), 4 * low.clamp_min(1e-12))
        return torch.where(bracketed, inside, grown)

    def _margins(self, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        self.propagations += len(x)
        return self.propagation.margins(Region.of(x, t, self.propagation.r, self.bounds), y)

    def _guess(self, x: Tensor, y: Tensor, start: Tensor, r: float) -> Tensor:
        """A first radius: a tiny probe's slope, extended half-way to its root."""
        probe = 1e-3 * self._cover_scale(x, r)
        drop = (start - self._margins(x, y, probe)).clamp_min(1e-30)
        return 0.7 * probe * start.clamp_min(0) / drop

    def _cover_scale(self, x: Tensor, r: float) -> Tensor:
        return torch.full(
            (len(x),), x[0].numel() ** (0.0 if math.isinf(r) else 0.5 / r), dtype=x.dtype, device=x.device
        )

    def _cover(self, x: Tensor, r: float) -> Tensor:
        """Radius of the ball that covers the whole box."""
        if self.bounds is None:
            return torch.full((len(x),), math.inf, dtype=x.dtype, device=x.device)
        return norm(torch.maximum(x - self.bounds[0], self.bounds[1] - x), r)


def _dtype(precision: str, graph: Graph, model: torch.dtype) -> torch.dtype:
    """Float64 for small networks and float64 models, float32 else, unless the caller chose."""
    if precision != "auto":
        return PRECISIONS[precision]
    units = sum(math.prod(graph.nodes[index].shape) for index in graph.bent)
    return torch.float32 if units > _SMALL and model != torch.float64 else torch.float64
