"""The largest radius of every sample at which bounds of the margin stay positive, by batched bracketing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from wassertight.certificates.base import Task
from wassertight.certificates.propagation.graph import Graph
from wassertight.certificates.propagation.propagation import Propagation
from wassertight.certificates.propagation.reading import assemble, record
from wassertight.certificates.propagation.region import Region, covering_radius
from wassertight.certificates.propagation.rounding import Rounding
from wassertight.types import Bounds, InputError

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
        if precision == "float32" and task.dtype == torch.float64:
            raise InputError("precision='float32' would round the inputs of a float64 model; use 'float64' or 'auto'")
        program = record(task.model, sample)
        graph = assemble(program, task.model, sample, dtype=torch.float64, device=sample.device)
        dtype = _dtype(precision, graph, task.dtype)
        if dtype != torch.float64:
            graph = assemble(program, task.model, sample, dtype=dtype, device=sample.device)
        return cls(graph=graph, dtype=dtype, rounding=Rounding.between(task.dtype, dtype), model_dtype=task.dtype)

    def assumptions(self) -> tuple[str, ...]:
        own, model = (str(d).removeprefix("torch.") for d in (self.dtype, self.model_dtype))
        return (
            f"bounds computed in {own}; rounding of the model in {model} and of the bounds is covered: k u for a sum of k "
            "products, 8 sqrt(k) u for k > 64 (errors of single operations taken as independent), elementary functions to "
            "8 units in the last place (no TF32, no Winograd convolutions)",
            "labels do not move; the network is the deterministic eval-mode network that was read and checked on data",
        )


class RadiusSearch:
    """Bracketing of the largest t whose verified margin is positive; keeps the verified end.

    The verified margin is a smooth, mostly concave function of t, so its root is estimated by the parabola (first the
    line) through the last points, and the next trial lies just inside; a sample is done when its bracket is closed or
    the estimate lies within the tolerance of what is verified.
    """

    def __init__(self, propagation: Propagation, bounds: Bounds, tolerance: float, steps: int) -> None:
        self.propagation, self.bounds = propagation, bounds
        self.linear = propagation.affine
        self.tolerance, self.steps = (1e-9, max(steps, 60)) if self.linear else (tolerance, steps)
        self.propagations = self.rounds = 0
        self.converged = True

    def run(self, x: Tensor, y: Tensor, upper: Tensor | None) -> Tensor:
        """Largest verified radius of every sample; inf where the whole box is verified."""
        r = self.propagation.r
        start = self.propagation.margins(self._region(x, x.new_zeros(len(x))), y, method="interval")
        if bool((start <= 0).any()):  # rounding alone may undo intervals of deep networks
            start = torch.maximum(start, self._margins(x, y, x.new_zeros(len(x))))
        cap = covering_radius(x, r, self.bounds)
        low, low_margin = torch.zeros_like(start), start.clone()
        high, high_margin = torch.full_like(start, math.inf), torch.full_like(start, -math.inf)
        known = torch.zeros_like(start, dtype=torch.bool) if upper is None else torch.isfinite(upper) & (upper > 0)
        t = torch.zeros_like(start)
        if not bool(known.all()):
            t = self._guess(x, y, start, r)
        if upper is not None:
            t = torch.where(known, 0.6 * upper, t)
        t = torch.minimum(t, cap)
        third, third_margin = torch.zeros_like(start), start.clone()
        active = start > 0
        for step in range(self.steps):
            rows = active.nonzero().squeeze(1)
            if len(rows) == 0:
                break
            self.rounds = max(self.rounds, step + 1)
            margin = self._margins(x[rows], y[rows], t[rows])
            good = margin > 0
            up, down = rows[good], rows[~good]
            third[up], third_margin[up] = low[up], low_margin[up]
            third[down], third_margin[down] = high[down], high_margin[down]
            low[up], low_margin[up] = t[up], margin[good]
            high[down], high_margin[down] = t[down], margin[~good]
            whole = up[t[up] >= cap[up]]
            low[whole] = math.inf
            root = self._root(low, low_margin, high, high_margin, third, third_margin, start)
            closed = torch.isfinite(high) & (high - low <= self.tolerance * high)
            near = (low > 0) & (root <= low * (1 + self.tolerance)) & torch.isfinite(high)
            done = closed | near | (low_margin <= 1e-9 * start) | torch.isinf(low)
            active &= ~done
            t = torch.minimum(self._next(step, low, high, root), cap)
        self.converged &= not bool(active.any())
        return torch.where(start > 0, low, 0.0)

    def _root(
        self,
        low: Tensor,
        low_margin: Tensor,
        high: Tensor,
        high_margin: Tensor,
        third: Tensor,
        third_margin: Tensor,
        start: Tensor,
    ) -> Tensor:
        """Where the margin is expected to vanish."""
        aim = 2e-10 * start
        bracketed = torch.isfinite(high)
        chord = low + (high - low) * (low_margin - aim) / (low_margin - high_margin)
        chord = torch.where(high_margin.isfinite(), chord, (low + high) / 2)  # nothing is known there: halve
        slope = (start - low_margin) / low.clamp_min(1e-30)
        line = low + (low_margin - aim) / slope.clamp_min(1e-30)
        # inverse quadratic through three points, where they are distinct and give a root inside the bracket
        a, b, c = low_margin - aim, high_margin - aim, third_margin - aim
        inverse = (
            low * b * c / ((a - b) * (a - c)) + high * a * c / ((b - a) * (b - c)) + third * a * b / ((c - a) * (c - b))
        )
        usable = bracketed & torch.isfinite(third_margin) & (inverse > low) & (inverse < high)
        return torch.where(usable, inverse, torch.where(bracketed, chord, line))

    def _next(self, step: int, low: Tensor, high: Tensor, root: Tensor) -> Tensor:
        """Just inside the expected root; every fourth step halves a bracket that does not close."""
        bracketed = torch.isfinite(high)
        if self.linear:
            inside = torch.where(torch.tensor(step % 4 == 3), low + (high - low) / 2, root)
        else:
            inside = root - torch.minimum(0.5 * (root - low), 0.7 * self.tolerance * root)
            if step % 4 == 3:
                inside = torch.where(high - low > 16 * self.tolerance * high, low + (high - low) / 2, inside)
        further = root if self.linear else 0.95 * root
        grown = torch.minimum(torch.maximum(further, 1.1 * low), 4 * low.clamp_min(1e-12))
        return torch.where(bracketed, inside, grown)

    def _margins(self, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        self.propagations += len(x)
        return self.propagation.margins(self._region(x, t), y)

    def _region(self, x: Tensor, t: Tensor) -> Region:
        return Region.of(x, t, self.propagation.r, self.bounds)

    def _guess(self, x: Tensor, y: Tensor, start: Tensor, r: float) -> Tensor:
        """A first radius: a tiny probe's slope, extended half-way to its root."""
        probe = 1e-3 * self._cover_scale(x, r)
        drop = (start - self._margins(x, y, probe)).clamp_min(1e-30)
        drop = torch.where(drop.isinf(), 100 * start.clamp_min(1e-30), drop)
        return 0.7 * probe * start.clamp_min(0) / drop

    def _cover_scale(self, x: Tensor, r: float) -> Tensor:
        return torch.full(
            (len(x),), x[0].numel() ** (0.0 if math.isinf(r) else 0.5 / r), dtype=x.dtype, device=x.device
        )


def _dtype(precision: str, graph: Graph, model: torch.dtype) -> torch.dtype:
    """Float64 for small networks and float64 models, float32 else, unless the caller chose."""
    if precision != "auto":
        return PRECISIONS[precision]
    units = sum(math.prod(graph.nodes[index].shape) for index in graph.bent)
    return torch.float32 if units > _SMALL and model != torch.float64 else torch.float64
