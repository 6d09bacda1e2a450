"""The largest certified radius of every sample, by batched bracketing on a verified margin."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from wassertight.certificates.base import Certificate
from wassertight.certificates.propagation.graph import Graph
from wassertight.certificates.propagation.propagation import Propagation
from wassertight.certificates.propagation.reading import read_graph
from wassertight.certificates.propagation.region import Region
from wassertight.certificates.propagation.rounding import Rounding
from wassertight.geometry import norm
from wassertight.inputs import check_inputs, check_weights
from wassertight.queries import ModelQueries
from wassertight.threats import ThreatModel
from wassertight.transport import FlipDistances
from wassertight.types import Bounds, InputError, Model, Passes, Progress, Status

_PRECISIONS = {"float64": torch.float64, "float32": torch.float32}
_SMALL = 1024
"""Networks with at most this many hidden units are bounded in float64 when the precision is "auto"."""


@dataclass(frozen=True, kw_only=True)
class LinearPropagation:
    """Certified radii by backward linear bound propagation (CROWN, 1811.00866) in l_1, l_2 or l_inf balls cut by the box.

    For feed-forward ReLU networks of Linear, Conv2d, Flatten, BatchNorm (eval), average pooling and input
    normalisation. The radius of a sample is the largest one that was verified, found by batched bracketing to a
    relative `tolerance`; on a network without ReLU it is exact.

    Args:
        tolerance: relative width at which the bracket of a radius is closed.
        steps: propagations a sample at most.
        precision: "float64"; "float32" (two to three times faster, with a four times larger allowance for rounding);
            or "auto": float64 for networks of at most 1,024 hidden units and for float64 models, else float32.

    Raises:
        UnsupportedLayerError: names the first layer that cannot be bounded.

    >>> from wassertight.threats import PointwiseBall
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    >>> _ = model[0].load_state_dict({"weight": torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), "bias": torch.zeros(2)})
    >>> ball = PointwiseBall(radius=0.2, r=2.0, bounds=(-1.0, 1.0))
    >>> found = LinearPropagation()(model, torch.tensor([[0.25, 0.5]]), torch.tensor([0]), ball)
    >>> round(float(found.radii.values[0]), 4), found.accuracy
    (0.25, 1.0)
    """

    name: ClassVar[str] = "crown"

    tolerance: float = 1e-3
    steps: int = 14
    precision: str = "auto"

    def __post_init__(self) -> None:
        _check(self.tolerance, self.steps, self.precision)

    def __call__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        threat: ThreatModel,
        *,
        batch_size: int | None = None,
        weights: Tensor | None = None,
        upper: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Certificate:
        """Certify the empirical law of exactly these samples."""
        return _certify(self, model, x, y, threat, "crown", batch_size, weights, upper, progress)


@dataclass(frozen=True, kw_only=True)
class IntervalPropagation:
    """Certified radii by interval bound propagation (1810.12715): cheap, and tight only for networks trained for it.

    Args:
        tolerance, steps, precision: as for LinearPropagation.
    """

    name: ClassVar[str] = "interval"

    tolerance: float = 1e-3
    steps: int = 20
    precision: str = "auto"

    def __post_init__(self) -> None:
        _check(self.tolerance, self.steps, self.precision)

    def __call__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        threat: ThreatModel,
        *,
        batch_size: int | None = None,
        weights: Tensor | None = None,
        upper: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Certificate:
        """Certify the empirical law of exactly these samples."""
        return _certify(self, model, x, y, threat, "interval", batch_size, weights, upper, progress)


def _check(tolerance: float, steps: int, precision: str) -> None:
    if not 0 < tolerance < 1 or steps < 1 or precision not in ("auto", *_PRECISIONS):
        raise InputError(
            f"tolerance must be in (0, 1), steps >= 1 and precision one of auto, {', '.join(_PRECISIONS)}; "
            f"got {tolerance}, {steps}, {precision!r}"
        )


def _certify(
    method: LinearPropagation | IntervalPropagation,
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    kind: str,
    batch_size: int | None,
    weights: Tensor | None,
    upper: Tensor | None,
    progress: Progress | None,
) -> Certificate:
    begun = time.perf_counter()
    x, y = check_inputs(x, y, threat.bounds)
    mass = check_weights(weights, len(x)).to(x.device)
    size = batch_size or 64
    with ModelQueries(model, batch_size=batch_size) as queries, torch.no_grad():
        clean = queries.clean_logits(x, y)
        device = queries.device or x.device
        graph = read_graph(model, x[:2].to(device), dtype=torch.float64, device=device)
        dtype = _dtype(method.precision, graph, clean.dtype)
        if dtype != torch.float64:
            graph = read_graph(model, x[:2].to(device), dtype=dtype, device=device)
        rounding = Rounding.between(clean.dtype, dtype)
        propagation = Propagation(graph, threat.r, method=kind, rounding=rounding)
        radii = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        right = (clean.argmax(1) == y).nonzero().squeeze(1)
        search = _Search(propagation, threat.bounds, method.tolerance, method.steps)
        for begin in range(0, len(right), size):
            rows = right[begin : begin + size]
            start = None if upper is None else upper[rows].to(device=device, dtype=dtype)
            radii[rows] = search.run(x[rows].to(device=device, dtype=dtype), y[rows].to(device), start).to(radii)
            if progress is not None:
                progress(min(begin + size, len(right)), len(right))
    found = FlipDistances.certified(radii, mass, closed=True)
    return Certificate(
        method=method.name,
        threat=threat,
        accuracy=found.accuracy(threat.p, threat.radius),
        radii=found,
        assumptions=(
            f"bounds computed in {str(dtype).removeprefix('torch.')}; rounding of the model in "
            f"{str(clean.dtype).removeprefix('torch.')} and of the bounds is covered for sums in any order and elementary "
            "functions to 8 units in the last place (no TF32, no Winograd convolutions)",
            "labels do not move; the network is the deterministic eval-mode network that was read and checked on data",
        ),
        status=Status.COMPLETE,
        steps=search.rounds,
        converged=search.converged,
        passes=Passes(forward=search.propagations, backward=search.propagations if kind != "interval" else 0),
        seconds=time.perf_counter() - begun,
    )


class _Search:
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
        return _PRECISIONS[precision]
    units = sum(math.prod(graph.nodes[index].shape) for index in graph.bent)
    return torch.float32 if units > _SMALL and model != torch.float64 else torch.float64
