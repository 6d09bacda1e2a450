"""Slopes far away on the whole space: Lambda of the network without shifts, and the lower slope l of 2510.10000.

`Lambda = max over ||u||_r <= 1, labels y, classes j of [(f_0,j - f_0,y)(u)]_+`, f_0 the network without shifts. Any u is
a proof from below. From above a mixed-integer programme a pair of classes is solved over the unit ball; for r = 2 the
ball is cut out by half-spaces, and every mask met is settled by one more: if p is the projection of the mask's gradient
on its cone, then `<u, p / ||p||> <= 1` already keeps the objective below ||p|| everywhere in that cone.

`l` is the largest gradient g of a cell whose own steepest direction M_r(g) the cell contains out to infinity; where that
direction is in the interior of a cone of f_0, it is a fixed point of `u <- M_r(grad (f_0,j - f_0,y)(u))`. For r = 1 the
2 dim candidates are all tried, for r = inf all corners where they are few; otherwise cones are enumerated in the time
given. Cones without interior are left out (an assumption; Lambda does not need it).
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from wassertight.certificates.lipschitz.climbing import dual_norm
from wassertight.certificates.lipschitz.network import ReluNetwork
from wassertight.certificates.lipschitz.programmes import INTERIOR, Cells, Domain, argument_bounds
from wassertight.geometry import conjugate, dual_direction, norm

_ROUNDS = 40
_STARTS = 256
_CORNERS = 14
"""Most inputs whose sign corners are all tried."""
_SLACK = 1e-6
"""Relative enlargement of a solver's bound: its tolerances on constraints and integers."""


@dataclass(frozen=True, kw_only=True)
class AtInfinity:
    """A slope at infinity, between bounds.

    Attributes:
        lower: attained by `direction`.
        upper: proved.
        pair: (y, j).
        direction: u, (inputs,), of norm 1; None where lower is 0.
        mask: of the cone u lies in, (units,) bool.
        slack: smallest `(2 D - I) A u` over the units that see the input: how far inside the cone u lies.
    """

    lower: float
    upper: float
    pair: tuple[int, int]
    direction: Tensor | None = field(repr=False)
    mask: Tensor | None = field(repr=False)
    slack: float
    nodes: int
    seconds: float


def ordered_pairs(labels: Sequence[int], classes: int) -> list[tuple[int, int]]:
    """All (y, j), y in labels and j another class."""
    return [(y, j) for y in sorted(set(labels)) for j in range(classes) if j != y]


def far_slope(
    network: ReluNetwork, labels: Sequence[int], r: float, *, seconds: float = 60.0, tolerance: float = 1e-6, seed: int = 0
) -> AtInfinity:  # fmt: skip
    """Lambda, exactly where the programmes end in time."""
    begun, net = time.perf_counter(), network.homogeneous
    pairs = ordered_pairs(labels, net.classes)
    u, value = _rise(net, pairs, r, seed)
    uppers, nodes = [], 0
    best = int(value.argmax())
    for k in value.argsort(descending=True).tolist():
        left = begun + seconds - time.perf_counter()
        programme = _Programme(net, pairs[k], r, u[k])
        upper, found, count = programme.solve(float(value.max()), tolerance, left)
        nodes += count
        if found is not None and found[1] > float(value[k]):
            u[k], value[k] = found
        best = int(value.argmax())
        uppers.append(upper)
    top = max(float(value[best]), 0.0)
    upper = max(top, *uppers)
    direction = u[best] if top > 0 else None
    mask, slack = _cone(net, direction)
    return AtInfinity(
        lower=top, upper=max(upper, 0.0), pair=pairs[best], direction=direction, mask=mask, slack=slack, nodes=nodes,
        seconds=time.perf_counter() - begun,
    )  # fmt: skip


def _rise(net: ReluNetwork, pairs: list[tuple[int, int]], r: float, seed: int) -> tuple[Tensor, Tensor]:
    """The best direction found for every pair, (pairs, inputs), and its slope."""
    generator = torch.Generator().manual_seed(seed)
    spec = _spec(net, pairs)
    start = torch.randn(_STARTS, net.inputs, generator=generator, dtype=torch.float64)
    u = start.repeat(len(pairs), 1)
    c = spec.repeat_interleave(_STARTS, 0)
    best, kept = torch.full((len(u),), -math.inf, dtype=torch.float64), u.clone()
    for step in range(_ROUNDS):
        u = u / norm(u, r)[:, None].clamp_min(1e-300)
        value = (net.logits(u) * c).sum(1)
        better = value > best
        best, kept = torch.where(better, value, best), torch.where(better[:, None], u, kept)
        g = net.gradients(net.arguments(kept) > 0, c)
        share = 1.0 if step % 2 == 0 else 0.5 ** (1 + step / 4)
        u = (1 - share) * kept + share * dual_direction(g, r)
    best, kept = best.view(len(pairs), _STARTS), kept.view(len(pairs), _STARTS, -1)
    value, k = best.max(1)
    return kept[torch.arange(len(pairs)), k], value


def _spec(net: ReluNetwork, pairs: list[tuple[int, int]]) -> Tensor:
    eye = torch.eye(net.classes, dtype=torch.float64)
    return torch.stack([eye[j] - eye[y] for y, j in pairs])


def _cone(net: ReluNetwork, u: Tensor | None) -> tuple[Tensor | None, float]:
    """The mask at a direction and the smallest distance of an argument that is not constant from its hinge."""
    if u is None:
        return None, 0.0
    a = net.arguments(u[None])[0]
    live = a != 0
    return a > 0, float(a[live].abs().min()) if bool(live.any()) else math.inf


class _Programme:
    """The mixed-integer programme of one pair; variables u (or its two parts), values of all units, their sides."""

    def __init__(self, net: ReluNetwork, pair: tuple[int, int], r: float, start: Tensor) -> None:
        self.net, self.r, self.c = net, r, _spec(net, [pair])[0]
        zero = torch.zeros(net.inputs, dtype=torch.float64)
        low, high = argument_bounds(net, Domain.of(net.inputs, None, zero, 1.0, r))
        self.low, self.high = low.numpy(), high.numpy()
        w = net.weights[0].numpy()
        if r == 1:
            self.basis = np.hstack((np.eye(net.inputs), -np.eye(net.inputs)))
        elif r == 2 and len(w) < net.inputs:
            self.basis = np.asarray(np.linalg.qr(w.T)[0])
        else:
            self.basis = np.eye(net.inputs)
        self.cuts = [start.numpy() @ self.basis] if r == 2 and float(start.norm()) > 0 else []

    def solve(self, best: float, tolerance: float, seconds: float) -> tuple[float, tuple[Tensor, float] | None, int]:
        """An upper bound of the pair's slope (no more than what matters above `best`), a better direction, nodes."""
        upper, found, nodes = math.inf, None, 0
        end = time.perf_counter() + seconds
        while True:
            left = end - time.perf_counter()
            goal = max(best * (1 + tolerance), _SLACK * self._cheap())
            if left <= 0:
                return min(upper, self._cheap()), found, nodes
            bound, v, count = self._once(goal, left)
            nodes += count
            upper = min(upper, max(bound, goal))
            if v is None:
                return min(upper, self._cheap()), found, nodes
            u = torch.from_numpy(self.basis @ v)
            value = float(self.net.logits(u[None])[0] @ self.c) / max(float(norm(u[None], self.r)), 1e-300)
            if found is None or value > found[1]:
                found = (u / norm(u[None], self.r), value)
            best = max(best, value)
            if self.r != 2 or float(norm(u[None], 2.0)) <= 1 + _SLACK:
                return upper, found, nodes
            cut, top, direction = self._settle(u)
            if top > found[1]:
                found, best = (direction, top), max(best, top)
            if bound <= max(goal, best * (1 + tolerance)) * (1 + 2 * _SLACK):
                return min(upper, max(bound, best)), found, nodes
            self.cuts += cut

    def _cheap(self) -> float:
        """The last layer's interval."""
        size = self.net.sizes[-1]
        low, high = torch.from_numpy(self.low[-size:]), torch.from_numpy(self.high[-size:])
        left, right = self.net.left[-1], self.net.right[-1]
        ends = torch.stack(
            [torch.where(e > 0, right * e, left * e) for e in (low, high)] + [torch.zeros(size, dtype=torch.float64)]
        )
        c = self.c @ self.net.weights[-1]
        return float((c.clamp_min(0) * ends.amax(0) + c.clamp_max(0) * ends.amin(0)).sum()) * (1 + _SLACK)

    def _settle(self, u: Tensor) -> tuple[list[np.ndarray], float, Tensor]:
        """The cuts that bound the cone of u, and the best direction in it."""
        from scipy.optimize import nnls

        on = self.net.arguments(u[None])[0] > 0
        g = self.net.gradients(on, self.c).numpy() @ self.basis
        rows, at = [], 0
        value = np.asarray(self.basis)
        for w, left, right in zip(self.net.weights, self.net.left, self.net.right, strict=False):
            a = w.numpy() @ value
            side = on[at : at + len(w)].numpy()
            rows.append(np.where(side, 1.0, -1.0)[:, None] * a)
            value = np.where(side, right.numpy(), left.numpy())[:, None] * a
            at += len(w)
        matrix = np.concatenate(rows)
        matrix = matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-300)
        beta, top = nnls(matrix.T, -g, maxiter=50 * len(matrix))
        p = g + matrix.T @ beta
        cuts = [v / np.linalg.norm(v) for v in (p, u.numpy() @ self.basis) if np.linalg.norm(v) > 1e-9]
        direction = torch.from_numpy(self.basis @ (p / max(float(top), 1e-300)))
        value_at = float(self.net.logits(direction[None])[0] @ self.c) / max(float(direction.norm()), 1e-300)
        return cuts, value_at, direction / direction.norm().clamp_min(1e-300)

    def _once(self, goal: float, seconds: float) -> tuple[float, np.ndarray | None, int]:
        """One call of the solver: bound, the variables of u or None if nothing exceeds the goal, nodes."""
        from scipy.optimize import Bounds, LinearConstraint, milp

        net, size, units = self.net, self.basis.shape[1], self.net.units
        total = size + 2 * units
        value = np.zeros((net.inputs, total))
        value[:, :size] = self.basis
        rows, tops, at = [], [], 0
        for w, left, right in zip(net.weights, net.left, net.right, strict=False):
            a = w.numpy() @ value
            n = len(w)
            h, b = np.zeros((n, total)), np.zeros((n, total))
            h[range(n), range(size + at, size + at + n)] = 1
            b[range(n), range(size + units + at, size + units + at + n)] = 1
            lo, hi = np.minimum(self.low[at : at + n], 0), np.maximum(self.high[at : at + n], 0)
            for slope, room, side in ((left.numpy(), hi, b), (right.numpy(), -lo, -b)):
                # h = slope a on its own side; off by at most |right - left| times the room of the other side.
                width = (np.abs(right.numpy() - left.numpy()) * room)[:, None]
                spare = np.zeros(n) if side is b else width[:, 0]
                rows += [h - slope[:, None] * a - width * side, slope[:, None] * a - h - width * side]
                tops += [spare, spare]
            rows += [a - hi[:, None] * b, -a - lo[:, None] * b]
            tops += [np.zeros(n), -lo]
            value, at = h, at + n
        objective = (self.c @ net.weights[-1]).numpy() @ value
        rows.append(-objective[None])
        tops.append(np.array([-goal]))
        low, high = np.full(total, -np.inf), np.full(total, np.inf)
        low[:size], high[:size] = (0.0 if self.r == 1 else -1.0), 1.0
        low[size + units :], high[size + units :] = 0, 1
        if self.r == 1:
            rows.append(np.r_[np.ones(size), np.zeros(2 * units)][None])
            tops.append(np.ones(1))
        for cut in self.cuts:
            rows.append(np.r_[cut, np.zeros(2 * units)][None])
            tops.append(np.ones(1))
        result = milp(
            -objective, constraints=LinearConstraint(np.concatenate(rows), -np.inf, np.concatenate(tops)),
            bounds=Bounds(low, high), integrality=np.r_[np.zeros(size + units), np.ones(units)],
            options={"time_limit": max(seconds, 0.05), "mip_rel_gap": 1e-7},
        )  # fmt: skip
        nodes = int(getattr(result, "mip_node_count", 0) or 0)
        if result.status == 2:
            return goal * (1 + _SLACK), None, nodes
        dual = getattr(result, "mip_dual_bound", None)
        bound = -float(dual) * (1 + _SLACK) if dual is not None and math.isfinite(dual) else math.inf
        return bound, None if result.x is None else result.x[:size], nodes


def lower_slope(
    network: ReluNetwork, labels: Sequence[int], r: float, upper: float, *, seconds: float = 30.0, seed: int = 0
) -> AtInfinity:  # fmt: skip
    """l, between a triple that was found and `upper` (Lambda's bound), exactly where the candidates could all be tried."""
    begun, net = time.perf_counter(), network.homogeneous
    pairs = ordered_pairs(labels, net.classes)
    spec = _spec(net, pairs)
    complete = True
    tried = 0
    best: tuple[float, int, Tensor | None] = (0.0, 0, None)

    def offer(u: Tensor) -> None:
        nonlocal best, tried
        tried += len(u)
        value, pair, k = _fixed(net, spec, r, u)
        if value > best[0]:
            best = (value, pair, u[k])

    eye = torch.eye(net.inputs, dtype=torch.float64)
    if r == 1:
        offer(torch.cat((eye, -eye)))
    elif math.isinf(r) and net.inputs <= _CORNERS:
        corners = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=net.inputs)), dtype=torch.float64)
        for part in corners.split(4096):
            offer(part)
    else:
        u = torch.randn(_STARTS, net.inputs, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        for c in spec:
            v = u
            for _ in range(_ROUNDS):
                v = dual_direction(net.gradients(net.arguments(v) > 0, c), r)
            offer(v)
        complete = r == 2 and _cones(net, begun + seconds, lambda on: offer(_steepest(net, spec, on, r)))
    mask, slack = _cone(net, best[2])
    return AtInfinity(
        lower=best[0], upper=best[0] if complete else max(upper, best[0]), pair=pairs[best[1]], direction=best[2], mask=mask,
        slack=slack, nodes=tried, seconds=time.perf_counter() - begun,
    )  # fmt: skip


def _steepest(net: ReluNetwork, spec: Tensor, on: Tensor, r: float) -> Tensor:
    return dual_direction(net.gradients(on, spec), r)


def _fixed(net: ReluNetwork, spec: Tensor, r: float, u: Tensor) -> tuple[float, int, int]:
    """The largest gradient among directions (n, inputs) that are their own steepest one; its pair and its row."""
    g = net.gradients((net.arguments(u) > 0)[:, None], spec)
    size = dual_norm(g, conjugate(r))
    own = (g * u[:, None]).sum(2) >= size * (1 - 1e-9)
    found = torch.where(own, size, 0.0)
    top = int(found.argmax())
    return float(found.flatten()[top]), top % len(spec), top // len(spec)


def _cones(net: ReluNetwork, end: float, visit) -> bool:  # type: ignore[no-untyped-def]
    """Visits the mask of every cone with interior, unit by unit; whether all were visited in time."""
    whole = Domain.of(net.inputs, None)
    cells = Cells(net, whole, *argument_bounds(net, whole))
    stack = [(np.full(net.units, -1, dtype=np.int8), torch.zeros(net.inputs, dtype=torch.float64))]
    while stack:
        if time.perf_counter() > end:
            return False
        phase, z = stack.pop()
        free = np.flatnonzero(phase < 0)
        if not len(free):
            visit(torch.from_numpy(phase == 1))
            continue
        a = net.arguments(z[None])[0].numpy()
        for side in (0, 1):
            child = phase.copy()
            child[free[0]] = side
            if (a[free[0]] > 0) == bool(side) and abs(a[free[0]]) > INTERIOR:
                stack.append((child, z))
                continue
            radius, point = cells.meets(child)
            if radius > INTERIOR:
                stack.append((child, point))
    return True
