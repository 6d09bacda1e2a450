"""Linear programmes that decide whether a cell - the inputs on which a network uses one mask - meets a domain.

Variables are the input, the values of undecided units where later ones depend on them, and one radius: every argument
whose side is decided keeps at least so much distance from its hinge. With every unit decided the programme is exact, and
its maximum, if positive, is the radius of the largest ball in the cell around a point of the domain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wassertight.certificates.lipschitz.network import ReluNetwork
from wassertight.types import InputError

Array = npt.NDArray[np.float64]
INTERIOR = 1e-9
"""Cells whose largest ball is no larger are taken to be empty."""
EMPTY = -1e-9
"""A partial mask whose programme has a maximum below this is dropped."""
_CUTS = 40


@dataclass(frozen=True, kw_only=True)
class Domain:
    """Where gradients count: the whole space, a box, or a ball cut with a box.

    Attributes:
        low, high: ends of every input, (inputs,) float64, infinite where there is none.
        centre: of the ball, or None.
        radius, r: of the ball.
    """

    low: Tensor
    high: Tensor
    centre: Tensor | None = None
    radius: float = math.inf
    r: float = math.inf

    @classmethod
    def of(
        cls, inputs: int, bounds: tuple[float, float] | None, centre: Tensor | None = None, radius: float = math.inf,
        r: float = math.inf,
    ) -> Domain:  # fmt: skip
        """From the library's `bounds`, and a ball round a flat centre (inputs,)."""
        low, high = (-math.inf, math.inf) if bounds is None else bounds
        bottom = torch.full((inputs,), float(low), dtype=torch.float64)
        top = torch.full((inputs,), float(high), dtype=torch.float64)
        if centre is None:
            return cls(low=bottom, high=top)
        if r not in (1, 2) and not math.isinf(r):
            raise InputError(f"balls of order 1, 2 and inf are offered, got r = {r}")
        centre = centre.detach().double().flatten()
        bottom, top = torch.maximum(bottom, centre - radius), torch.minimum(top, centre + radius)
        return cls(low=bottom, high=top, centre=centre, radius=float(radius), r=r)

    @property
    def bounded(self) -> bool:
        return bool(torch.isfinite(self.low).all() and torch.isfinite(self.high).all())

    def contains(self, z: Tensor) -> Tensor:
        """Points (n, inputs) inside, (n,); the ball up to a relative 1e-9."""
        inside = ((z >= self.low) & (z <= self.high)).all(1)
        if self.centre is not None:
            inside &= torch.linalg.vector_norm(z - self.centre, self.r, dim=1) <= self.radius * (1 + 1e-9)
        return inside

    def points(self, n: int, generator: torch.Generator) -> Tensor:
        """Random points inside: corners, sparse and uniform ones of a box, or normal ones at many scales."""
        size = len(self.low)
        noise = torch.rand(n, size, generator=generator, dtype=torch.float64)
        if not self.bounded:
            wide = torch.randn(n, size, generator=generator, dtype=torch.float64)
            return wide * 10 ** (4 * noise[:, :1] - 1)
        share = torch.linspace(0, 1, n, dtype=torch.float64)[:, None]
        corner = torch.rand(n, size, generator=generator, dtype=torch.float64) < share.roll(n // 3, 0)
        z = self.low + (self.high - self.low) * torch.where(noise < 0.5, corner.double(), 2 * noise - 1)
        if self.centre is not None and not math.isinf(self.r):
            far = torch.linalg.vector_norm(z - self.centre, self.r, dim=1, keepdim=True)
            z = self.centre + (z - self.centre) * (self.radius / far.clamp_min(self.radius)) * (1 - 1e-12)
            z = torch.minimum(torch.maximum(z, self.low), self.high)
        return z


def argument_bounds(network: ReluNetwork, domain: Domain) -> tuple[Tensor, Tensor]:
    """Bounds of every hinge's argument over the domain, (units,); intervals, with the ball's norm in the first layer."""
    if not domain.bounded:
        wide = torch.full((network.units,), math.inf, dtype=torch.float64)
        return -wide, wide
    lows, highs = [], []
    low, high = domain.low, domain.high
    for t, (w, b, left, right) in enumerate(
        zip(network.weights, network.biases, network.left, network.right, strict=False)
    ):
        middle, width = w @ ((low + high) / 2) + b, w.abs() @ ((high - low) / 2)
        pad = 1e-12 * (w.abs() @ torch.maximum(low.abs(), high.abs()) + b.abs())
        below, above = middle - width - pad, middle + width + pad
        if t == 0 and domain.centre is not None:
            s = 2.0 if domain.r == 2 else (1.0 if math.isinf(domain.r) else math.inf)
            at, reach = w @ domain.centre + b, domain.radius * torch.linalg.vector_norm(w, s, dim=1) + pad
            below, above = torch.maximum(below, at - reach), torch.minimum(above, at + reach)
        lows.append(below)
        highs.append(above)
        ends = torch.stack([torch.where(e > 0, right * e, left * e) for e in (below, above)])
        zero = (below < 0) & (above > 0)
        low = torch.where(zero, ends.amin(0).clamp_max(0), ends.amin(0))
        high = torch.where(zero, ends.amax(0).clamp_min(0), ends.amax(0))
    return torch.cat(lows) if lows else low[:0], torch.cat(highs) if highs else high[:0]


@dataclass
class Cells:
    """Programmes over one network and one domain; `low`, `high` are known bounds of all arguments, (units,).

    Partial masks that a programme has shown to be empty are remembered, cut down to the units whose constraints the
    programme's dual uses (and the decided units of layers before those): the same few sides are empty in every mask.
    """

    network: ReluNetwork
    domain: Domain
    low: Tensor
    high: Tensor
    conflicts: npt.NDArray[np.int8] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.conflicts = np.zeros((0, self.network.units), dtype=np.int8)

    @cached_property
    def _basis(self) -> Array:
        """z = basis @ variables (+ the centre): the span of the first layer's rows where the domain is the whole space."""
        size = self.network.inputs
        eye = np.eye(size)
        if self.domain.bounded:
            return np.hstack((eye, -eye)) if self.domain.r == 1 and self.domain.centre is not None else eye
        if bool(torch.isfinite(self.domain.low).any() or torch.isfinite(self.domain.high).any()):
            return eye
        w = self.network.weights[0].numpy()
        if len(w) >= size:
            return eye
        return np.asarray(np.linalg.qr(w.T)[0])

    @cached_property
    def _layers(self) -> list[tuple[Array, Array, Array, Array]]:
        net = self.network
        found = []
        for w, b, left, right in zip(net.weights, net.biases, net.left, net.right, strict=False):
            found.append((w.numpy(), b.numpy(), left.numpy(), right.numpy()))
        return found

    @cached_property
    def _box(self) -> tuple[Array, Array, Array]:
        """Offset of the input, and ends of the input's variables."""
        d, columns = self.domain, self._basis.shape[1]
        size = self.network.inputs
        if d.centre is not None and d.r == 1:
            centre = d.centre.numpy()
            high = np.concatenate((d.high.numpy() - centre, centre - d.low.numpy()))
            return centre, np.zeros(columns), np.maximum(high, 0)
        if columns != size:
            return np.zeros(size), np.full(columns, -np.inf), np.full(columns, np.inf)
        return np.zeros(size), d.low.numpy(), d.high.numpy()

    def meets(self, phase: npt.NDArray[np.int8]) -> tuple[float, Tensor]:
        """The largest distance decided units can keep from their hinges, and a point that keeps it.

        The distance is exact for a full mask, an upper bound for a partial one (undecided units are relaxed to the
        triangle between their slopes); -inf where the programme has no solution at all.
        """
        rows, limits, columns, norms, units = self._constraints(phase)
        offset, low, high = self._box
        cuts: list[Array] = []
        while True:
            solution = self._solve(rows, limits, norms, columns, low, high, cuts)
            if solution is None:
                return -math.inf, torch.zeros(self.network.inputs, dtype=torch.float64)
            radius, v, used = solution
            if radius < EMPTY:
                self._learn(phase, units[used[: len(units)]])
            z = torch.from_numpy(offset + self._basis @ v)
            z = torch.minimum(torch.maximum(z, self.domain.low), self.domain.high)
            if self.domain.centre is None or self.domain.r != 2:
                return radius, z
            step = (z - self.domain.centre).numpy()
            far = float(np.linalg.norm(step))
            if far <= self.domain.radius * (1 + 1e-9) or radius <= INTERIOR or len(cuts) >= _CUTS:
                return radius, z
            cuts.append(step / far)

    def clashes(self, phase: npt.NDArray[np.int8]) -> bool:
        """Whether a partial mask contains one that is known to be empty."""
        return bool(((self.conflicts < 0) | (self.conflicts == phase)).all(1).any())

    def _learn(self, phase: npt.NDArray[np.int8], units: npt.NDArray[np.int64]) -> None:
        """Remembers what of a mask is empty, from the units whose constraints say so."""
        ends = np.cumsum(self.network.sizes)
        last = int(np.searchsorted(ends, units.max(initial=0), side="right"))
        needed = np.arange(len(phase)) < (ends[last - 1] if last else 0)
        needed[units] = True
        self.conflicts = np.vstack((self.conflicts, np.where(needed, phase, -1).astype(np.int8)))

    def _constraints(self, phase: npt.NDArray[np.int8]) -> tuple[Array, Array, int, Array, npt.NDArray[np.int64]]:
        """Rows @ variables + norms * radius <= limits, and the unit of every row."""
        inputs = self._basis.shape[1]
        decided = [p >= 0 for p in np.split(phase, np.cumsum(self.network.sizes)[:-1])]
        deepest = max((t for t, d in enumerate(decided) if d.any()), default=-1)
        loose = int(sum((~d).sum() for d in decided[:deepest]))
        total = inputs + loose
        value, shift = np.zeros((self.network.inputs, total)), self._box[0]
        value[:, :inputs] = self._basis
        rows, limits, norms, units = [], [], [], []
        column, at = inputs, 0
        for t in range(deepest + 1):
            w, b, left, right = self._layers[t]
            a, c = w @ value, w @ shift + b
            known, on = decided[t], phase[at : at + len(b)] == 1
            sign = np.where(on, 1.0, -1.0)[known]
            rows.append(-sign[:, None] * a[known])
            limits.append(sign * c[known])
            norms.append(np.linalg.norm(a[known], axis=1))
            units += (at + np.flatnonzero(known)).tolist()
            slope = np.where(on, right, left)
            value, shift = slope[:, None] * a, slope * c
            if t < deepest:
                for k in np.flatnonzero(~known):
                    lo, hi = float(self.low[at + k]), float(self.high[at + k])
                    value[k], shift[k] = 0.0, 0.0
                    value[k, column] = 1.0
                    column += 1
                    side = 1.0 if left[k] <= right[k] else -1.0
                    for s in (left[k], right[k]):
                        rows.append(side * (s * a[k] - value[k])[None])
                        limits.append(np.array([-side * s * c[k]]))
                        norms.append(np.zeros(1))
                        units.append(at + int(k))
                    if math.isfinite(lo) and math.isfinite(hi) and hi > lo:
                        first, last = (left if lo < 0 else right)[k] * lo, (right if hi > 0 else left)[k] * hi
                        chord = (last - first) / (hi - lo)
                        rows.append(side * (value[k] - chord * a[k])[None])
                        limits.append(np.array([side * (first + chord * (c[k] - lo))]))
                        norms.append(np.zeros(1))
                        units.append(at + int(k))
            at += len(b)
        if not rows:
            return np.zeros((0, total)), np.zeros(0), total, np.zeros(0), np.zeros(0, dtype=np.int64)
        found = np.concatenate(rows), np.concatenate(limits), total, np.concatenate(norms)
        return *found, np.array(units, dtype=np.int64)

    def _solve(
        self, rows: Array, limits: Array, norms: Array, columns: int, low: Array, high: Array, cuts: list[Array]
    ) -> tuple[float, Array, npt.NDArray[np.bool_]] | None:
        """Maximum, the input's variables, and the rows the dual uses."""
        from scipy.optimize import linprog

        size = len(low)
        matrix, right = np.column_stack((rows, norms)), limits
        domain = self.domain
        if domain.centre is not None and domain.r == 1:
            matrix = np.vstack((matrix, np.r_[np.ones(size), np.zeros(columns - size + 1)]))
            right = np.r_[right, domain.radius]
        for cut in cuts:
            assert domain.centre is not None
            matrix = np.vstack((matrix, np.r_[cut, np.zeros(columns - size + 1)]))
            right = np.r_[right, domain.radius + cut @ domain.centre.numpy()]
        ends = np.empty((columns + 1, 2))
        ends[:size, 0], ends[:size, 1] = low, high
        ends[size:columns] = -np.inf, np.inf
        ends[columns] = -np.inf, 1.0
        result = linprog(
            np.r_[np.zeros(columns), -1.0], A_ub=matrix, b_ub=right, bounds=ends, method="highs",
            options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
        )  # fmt: skip
        if result.status not in (0, 2, 3, 4) or result.x is None:
            return None if result.status == 2 else (1.0, np.zeros(size), np.ones(len(matrix), dtype=bool))
        return -float(result.fun), np.asarray(result.x[:size]), np.asarray(result.ineqlin.marginals) != 0
