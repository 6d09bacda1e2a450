"""Mixed-integer programmes for the slope at infinity of one pair of classes, over the unit ball of the ground norm."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wassertight.certificates.lipschitz.network import ReluNetwork
from wassertight.certificates.lipschitz.programmes import Domain, argument_bounds
from wassertight.geometry import norm

Array = npt.NDArray[np.float64]
SLACK = 1e-6
"""Relative enlargement of a solver's bound: its tolerances on constraints and integers."""


def specification(net: ReluNetwork, pairs: list[tuple[int, int]]) -> Tensor:
    """Rows e_j - e_y, (pairs, classes)."""
    eye = torch.eye(net.classes, dtype=torch.float64)
    return torch.stack([eye[j] - eye[y] for y, j in pairs])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The solver writes stray lines to standard output, where `--json` promises one object: they go to standard error."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


class FarProgramme:
    """The mixed-integer programme of one pair; variables u (or its two parts), values of all units, their sides."""

    def __init__(self, net: ReluNetwork, pair: tuple[int, int], r: float, start: Tensor) -> None:
        self.net, self.r, self.c = net, r, specification(net, [pair])[0]
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
            goal = max(best * (1 + tolerance), SLACK * self._cheap())
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
            if self.r != 2 or float(norm(u[None], 2.0)) <= 1 + SLACK:
                return upper, found, nodes
            cut, top, direction = self._settle(u)
            if top > found[1]:
                found, best = (direction, top), max(best, top)
            if bound <= max(goal, best * (1 + tolerance)) * (1 + 2 * SLACK):
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
        return float((c.clamp_min(0) * ends.amax(0) + c.clamp_max(0) * ends.amin(0)).sum()) * (1 + SLACK)

    def _settle(self, u: Tensor) -> tuple[list[Array], float, Tensor]:
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

    def _once(self, goal: float, seconds: float) -> tuple[float, Array | None, int]:
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
        with _quiet():
            result = milp(
                -objective, constraints=LinearConstraint(np.concatenate(rows), -np.inf, np.concatenate(tops)),
                bounds=Bounds(low, high), integrality=np.r_[np.zeros(size + units), np.ones(units)],
                options={"time_limit": max(seconds, 0.05), "mip_rel_gap": 1e-7},
            )  # fmt: skip
        nodes = int(getattr(result, "mip_node_count", 0) or 0)
        if result.status == 2:
            return goal * (1 + SLACK), None, nodes
        dual = getattr(result, "mip_dual_bound", None)
        bound = -float(dual) * (1 + SLACK) if dual is not None and math.isfinite(dual) else math.inf
        return bound, None if result.x is None else result.x[:size], nodes
