"""The largest radius of every sample at which bounds of the margin stay positive, by batched bracketing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from wassertight.certificates.base import Task
from wassertight.certificates.propagation.bounds import Bounds, Ends
from wassertight.certificates.propagation.graph import Graph
from wassertight.certificates.propagation.propagation import Propagation
from wassertight.certificates.propagation.reading import assemble, record
from wassertight.certificates.propagation.region import Region, covering_radius
from wassertight.certificates.propagation.rounding import Rounding
from wassertight.geometry import conjugate, norm
from wassertight.types import Bounds as Box
from wassertight.types import InputError

PRECISIONS = {"float64": torch.float64, "float32": torch.float32}
_FIRST = 0.5
"""Share of the distance to the boundary, by the gradient or an attack, at which the search begins."""
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


class _Outer:
    """Of every sample, bounds of nodes over the last region that was too large; it contains all regions still to come."""

    def __init__(self, nodes: tuple[int, ...], samples: int) -> None:
        self.nodes, self.samples, self.ends = nodes, samples, dict[int, tuple[Tensor, Tensor]]()

    def of(self, rows: Tensor) -> Ends:
        """What is known of some samples."""
        return {index: (low[rows], high[rows]) for index, (low, high) in self.ends.items()}

    def learn(self, rows: Tensor, found: Bounds, which: Tensor) -> None:
        """Keep what was found for `which` of the samples bounded last, whose numbers are `rows`."""
        fine = which & ~found.lost
        rows = rows[fine[which]]
        for index in self.nodes if bool(fine.any()) else ():
            if index not in found.low:
                continue
            if index not in self.ends:
                like = found.low[index]
                empty = like.new_full((self.samples, *like.shape[1:]), math.inf)
                self.ends[index] = (-empty, empty)
            for kept, new in zip(self.ends[index], (found.low[index], found.high[index]), strict=True):
                kept[rows] = new[fine]


class RadiusSearch:
    """Bracketing of the largest t whose verified margin is positive; keeps the verified end.

    The verified margin falls as `start - slope t - bend t**power`: its slope at 0 is the margin's own gradient, bend and
    power are fitted to the ends of the bracket. The next trial lies just inside the model's root; a sample is done when
    its bracket is closed or the root lies within the tolerance of what is verified.
    """

    def __init__(self, propagation: Propagation, bounds: Box, tolerance: float, steps: int) -> None:
        self.propagation, self.bounds = propagation, bounds
        self.linear = propagation.affine
        self.tolerance, self.steps = (1e-9, max(steps, 60)) if self.linear else (tolerance, steps)
        self.propagations = self.rounds = 0
        self.converged = True
        # intervals over a smaller region are inside those over the larger one anyway
        self._kept = propagation.graph.bent if propagation.method == "crown" else ()

    def run(self, x: Tensor, y: Tensor, upper: Tensor) -> Tensor:
        """Largest verified radius of every sample; inf where the whole box is verified.

        Args:
            upper: distances known to flip (n,), inf where none is: where to search.
        """
        r = self.propagation.r
        start = self.propagation.margins(self._region(x, x.new_zeros(len(x))), y, method="interval")
        if bool((start <= 0).any()):  # rounding alone may undo intervals of deep networks
            start = torch.maximum(start, self._bounded(x, y, x.new_zeros(len(x)), None)[0])
        cap, slope = covering_radius(x, r, self.bounds), self._slope(x, y)
        low, low_margin = torch.zeros_like(start), start.clone()
        high, high_margin = torch.full_like(start, math.inf), torch.full_like(start, -math.inf)
        straight = torch.minimum(start / slope, torch.where(upper > 0, upper, math.inf))
        t = torch.minimum(torch.where(straight.isfinite(), _FIRST * straight, 1e-3), cap)
        active, outer = start > 0, _Outer(self._kept, len(x))
        for step in range(self.steps):
            rows = active.nonzero().squeeze(1)
            if len(rows) == 0:
                break
            self.rounds = max(self.rounds, step + 1)
            margin, found = self._bounded(x[rows], y[rows], t[rows], outer.of(rows))
            good = margin > 0
            up, down = rows[good], rows[~good]
            outer.learn(down, found, ~good)
            low[up], low_margin[up] = t[up], margin[good]
            high[down], high_margin[down] = t[down], margin[~good]
            low[up[t[up] >= cap[up]]] = math.inf
            root = self._root(low, low_margin, high, high_margin, start, slope)
            closed = torch.isfinite(high) & (high - low <= self.tolerance * high)
            near = (low > 0) & (root <= low * (1 + self.tolerance)) & torch.isfinite(high)
            done = closed | near | (low_margin <= 1e-9 * start) | torch.isinf(low)
            active &= ~done
            t = torch.minimum(self._next(step, low, high, root), cap)
        self.converged &= not bool(active.any())
        return torch.where(start > 0, low, 0.0)

    def _root(
        self, low: Tensor, low_margin: Tensor, high: Tensor, high_margin: Tensor, start: Tensor, slope: Tensor
    ) -> Tensor:
        """Where the margin is expected to vanish."""
        bracketed, aim = torch.isfinite(high), 2e-10 * start
        mean = (start - low_margin) / low.clamp_min(1e-30)
        if self.linear:
            chord = low + (high - low) * (low_margin - aim) / (low_margin - high_margin)
            return torch.where(bracketed, chord, low + (low_margin - aim) / mean.clamp_min(1e-30))
        lag_low, lag_high = start - slope * low - low_margin, start - slope * high - high_margin
        power = torch.log(lag_high / lag_low) / torch.log(high / low)
        power = torch.where((lag_low > 0) & bracketed & power.isfinite(), power.clamp(1.2, 12.0), 3.0)
        end, lag = torch.where(bracketed, high, low), torch.where(bracketed, lag_high, lag_low).clamp_min(0)
        # where the margin fell slower than its gradient says: a line from the verified end, and a cubic to the other one
        slower = (lag_low <= 0) & (low > 0)
        rest = (low_margin - high_margin - mean * (high - low)).clamp_min(0)
        left, right = low, torch.where(bracketed, high, 4 * low)
        for _ in range(40):
            middle = (left + right) / 2
            fall = slope * middle + lag * (middle / end) ** power
            cubic = torch.where(bracketed, rest * ((middle - low) / (high - low)) ** 3, 0.0)
            fall = torch.where(slower, start - low_margin + mean * (middle - low) + cubic, fall)
            below = fall < start - aim
            left, right = torch.where(below, middle, left), torch.where(below, right, middle)
        return torch.where(bracketed & high_margin.isinf(), (low + high) / 2, left)  # nothing is known there: halve

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

    def _slope(self, x: Tensor, y: Tensor) -> Tensor:
        """How fast the smallest margin falls at x: the dual norm of its gradient where the box leaves room."""
        with torch.enable_grad():
            z = x.detach().clone().requires_grad_()
            logits = self.propagation.logits(z)
            others = logits.scatter(1, y[:, None], -math.inf)
            (g,) = torch.autograd.grad((logits.gather(1, y[:, None]).squeeze(1) - others.amax(1)).sum(), z)
        g = g.nan_to_num()
        if self.bounds is not None:
            g = torch.where(torch.where(g > 0, x <= self.bounds[0], x >= self.bounds[1]), 0.0, g)
        return norm(g, conjugate(self.propagation.r)).clamp_min(1e-30)

    def _bounded(self, x: Tensor, y: Tensor, t: Tensor, outer: Ends | None) -> tuple[Tensor, Bounds]:
        self.propagations += len(x)
        return self.propagation.bounded(self._region(x, t), y, outer=outer)

    def _region(self, x: Tensor, t: Tensor) -> Region:
        return Region.of(x, t, self.propagation.r, self.bounds)


def _dtype(precision: str, graph: Graph, model: torch.dtype) -> torch.dtype:
    """Float64 for small networks and float64 models, float32 else, unless the caller chose."""
    if precision != "auto":
        return PRECISIONS[precision]
    return torch.float32 if graph.units > _SMALL and model != torch.float64 else torch.float64
