"""Solvers over the triangle relaxation: LP, MILP and bound tightening with HiGHS, the l_2 QP with Clarabel."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import clarabel
import highspy
import numpy as np
import numpy.typing as npt
from exact_network import Array, Bounds, System, upper_line
from scipy import sparse

INF = highspy.kHighsInf
TOLERANCE = 1e-9


def linear_program(system: System, cost: Array, bounds: Bounds | None = None) -> highspy.Highs:
    """A HiGHS model, minimising; with `bounds` a MILP with the phases of the neurons they leave unstable."""
    matrix, row_low, row_high = system.matrix, system.row_low, system.row_high
    low, high, integer = system.low, system.high, 0
    if bounds is not None:
        binaries = [np.flatnonzero((low < 0) & (high > 0)) for low, high in bounds]
        rows, width = [], matrix.shape[1]
        integer = sum(len(b) for b in binaries)
        done = 0
        for k, unstable in enumerate(binaries):
            lows, highs = bounds[k][0][unstable], bounds[k][1][unstable]
            m = len(unstable)
            s = sparse.csr_matrix((np.ones(m), (range(m), system.s[k].start + unstable)), (m, width))
            a = sparse.csr_matrix((np.ones(m), (range(m), system.a[k].start + unstable)), (m, width))
            place = np.arange(m), done + np.arange(m)
            rows += [
                (sparse.hstack([a - s, sparse.csr_matrix((-lows, place), (m, integer))]), -lows),
                (sparse.hstack([a, sparse.csr_matrix((-highs, place), (m, integer))]), np.zeros(m)),
            ]
            done += m
        matrix = sparse.vstack(
            [sparse.hstack([matrix, sparse.csr_matrix((matrix.shape[0], integer))])] + [r for r, _ in rows],
            format="csr",
        )
        row_high = np.concatenate([row_high] + [h for _, h in rows])
        row_low = np.concatenate([row_low, np.full(len(row_high) - len(row_low), -INF)])
        low, high = np.concatenate([low, np.zeros(integer)]), np.concatenate([high, np.ones(integer)])
        cost = np.concatenate([cost, np.zeros(integer)])
    matrix = matrix.tocsc()
    matrix.eliminate_zeros()
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = matrix.shape[1], matrix.shape[0]
    lp.col_cost_, lp.col_lower_, lp.col_upper_ = cost, low, high
    lp.row_lower_, lp.row_upper_ = row_low, row_high
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_, lp.a_matrix_.index_, lp.a_matrix_.value_ = matrix.indptr, matrix.indices, matrix.data
    if integer:
        kinds = [highspy.HighsVarType.kContinuous] * (matrix.shape[1] - integer)
        lp.integrality_ = kinds + [highspy.HighsVarType.kInteger] * integer
    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    solver.setOptionValue("threads", 1)
    for name in ("primal_feasibility_tolerance", "dual_feasibility_tolerance", "mip_feasibility_tolerance"):
        solver.setOptionValue(name, TOLERANCE)
    solver.passModel(lp)
    return solver


@dataclass(frozen=True)
class Quadratic:
    """Answer of the QP relaxation: a proved lower bound of the distance, d, s, a and the triangle rows' multipliers."""

    bound: float
    d: Array
    s: list[Array]
    a: list[Array]
    price: list[Array]


@dataclass(frozen=True)
class _Cone:
    """The relaxation as `matrix v + slack = side`, the first `zeros` slacks zero and the others not negative."""

    matrix: sparse.csc_matrix
    side: Array
    zeros: int
    places: list[tuple[npt.NDArray[np.intp], int]]
    """Unstable neurons of each layer and the row where their triangles begin."""

    @classmethod
    def of(cls, system: System, bounds: Bounds, fixed: Bounds) -> _Cone:
        """`fixed` are the root's bounds, whose stable neurons need no sign constraint."""
        n, matrix = system.inputs.shape[1], system.matrix
        equal = np.flatnonzero(system.row_low == system.row_high)
        pieces, sides = [matrix[equal]], [system.row_high[equal]]
        unit = sparse.identity(matrix.shape[1], format="csr")
        for k, (low, high) in enumerate(bounds):
            active, inactive = np.flatnonzero(low >= 0), np.flatnonzero((high <= 0) & (low < 0))
            pieces += [matrix[system.above[k].start + active], unit[system.a[k].start + inactive]]
            sides += [np.zeros(len(active)), np.zeros(len(inactive))]
        begin = zeros = sum(p.shape[0] for p in pieces)
        places = []
        for k, (low, high) in enumerate(bounds):
            unstable = np.flatnonzero((low < 0) & (high > 0))
            active = np.flatnonzero((low >= 0) & (fixed[k][0] < 0))
            inactive = np.flatnonzero((high <= 0) & (fixed[k][1] > 0))
            rows = [
                (matrix[system.triangle[k].start + unstable], system.row_high[system.triangle[k].start + unstable]),
                (-matrix[system.above[k].start + unstable], np.zeros(len(unstable))),
                (-unit[system.a[k].start + unstable], np.zeros(len(unstable))),
                (-unit[system.s[k].start + active], np.zeros(len(active))),
                (unit[system.s[k].start + inactive], np.zeros(len(inactive))),
            ]
            pieces += [p for p, _ in rows]
            sides += [side for _, side in rows]
            places.append((unstable, begin))
            begin += sum(p.shape[0] for p, _ in rows)
        pieces += [-matrix[system.row], unit[:n], -unit[:n]]
        sides += [-system.row_low[[system.row]], system.high[:n], -system.low[:n]]
        return cls(sparse.vstack(pieces, format="csc"), np.concatenate(sides), zeros, places)

    def solve(self, system: System, cost: Array, radius: float | None) -> tuple[float, Array, Array, bool]:
        """Proved minimum of cost @ v in the ball, or of ||d||^2 / 2 without a radius; v; multipliers; feasible or not."""
        n, width = system.inputs.shape[1], self.matrix.shape[1]
        matrix, side = self.matrix, self.side
        cones = [clarabel.ZeroConeT(self.zeros), clarabel.NonnegativeConeT(len(side) - self.zeros)]
        quadratic = sparse.csc_matrix((width, width))
        if radius is None:
            quadratic = sparse.csc_matrix((np.ones(n), (range(n), range(n))), (width, width))
        else:
            ball = -sparse.identity(width, format="csc")[:n]
            matrix = sparse.vstack([matrix, sparse.csc_matrix((1, width)), ball], format="csc")
            side = np.concatenate([side, [radius], np.zeros(n)])
            cones.append(clarabel.SecondOrderConeT(n + 1))
        settings = clarabel.DefaultSettings()
        settings.verbose = False
        answer = clarabel.DefaultSolver(quadratic, cost, matrix, side, cones, settings).solve()
        z = np.asarray(answer.z)
        weight = 1.0 if radius is None else max(float(z[len(self.side)]) / radius, 1e-12)
        z = np.concatenate([z[: self.zeros], np.maximum(z[self.zeros : len(self.side)], 0)])
        feasible = "Infeasible" not in str(answer.status)
        bound = self._dual(system, cost, z, weight) - (0 if radius is None else weight * radius**2 / 2)
        if not feasible:  # z is a ray that proves it if the Lagrangian rises along it
            rises = [self._dual(system, cost, z * 10.0**k, weight) for k in range(9)]
            bound = max([bound] + [b - weight * (radius or 0) ** 2 / 2 for b in rises])
        return bound, np.asarray(answer.x), z, feasible

    def _dual(self, system: System, cost: Array, z: Array, weight: float) -> float:
        """Minimum of the Lagrangian over the columns' box, a lower bound whatever the multipliers are."""
        g, n = cost + self.matrix.T @ z, system.inputs.shape[1]
        d = np.clip(-g[:n] / weight, system.low[:n], system.high[:n])
        rest = np.where(g[n:] > 0, system.low[n:], system.high[n:]) @ g[n:]
        return float(weight * (d @ d) / 2 + g[:n] @ d + rest - self.side @ z)


def quadratic_program(system: System, bounds: Bounds, fixed: Bounds) -> Quadratic:
    """Shortest d in l_2; `fixed` are the root's bounds, whose stable neurons need no sign constraint."""
    cone, n = _Cone.of(system, bounds, fixed), system.inputs.shape[1]
    value, v, z, _ = cone.solve(system, np.zeros(system.matrix.shape[1]), None)
    price = []
    for (unstable, begin), (low, _) in zip(cone.places, bounds, strict=True):
        full = np.zeros(len(low))
        full[unstable] = z[begin : begin + len(unstable)]
        price.append(full)
    bound = math.sqrt(2 * max(0.0, value))
    return Quadratic(bound, v[:n], [v[c] for c in system.s], [v[c] for c in system.a], price)


def tighten_ball(system: System, bounds: Bounds, radius: float) -> Bounds:
    """Bounds of the unstable neurons from second-order cone programs in the l_2 ball, proved by their multipliers."""
    cone = _Cone.of(system, bounds, bounds)
    bounds = [(low.copy(), high.copy()) for low, high in bounds]
    for k, (low, high) in enumerate(bounds):
        for i in np.flatnonzero((low < 0) & (high > 0)):
            for sign in (1.0, -1.0):
                if low[i] >= 0 or high[i] <= 0:
                    break
                cost = np.zeros(system.matrix.shape[1])
                cost[system.s[k].start + i] = sign
                value = cone.solve(system, cost, radius)[0]
                if sign > 0:
                    low[i] = np.fmax(low[i], value)
                else:
                    high[i] = np.fmin(high[i], -value)
    return bounds


def intersect(bounds: Bounds, others: Bounds) -> Bounds:
    """Both at once."""
    return [(np.maximum(a, c), np.minimum(b, d)) for (a, b), (c, d) in zip(bounds, others, strict=True)]


def tighten(system: System, bounds: Bounds, deadline: float) -> Bounds | None:
    """Bounds of the unstable neurons from LPs over the relaxation, margin and radius included; None if it is empty."""
    cost = np.zeros(system.matrix.shape[1])
    solver = linear_program(system, cost)
    solver.setOptionValue("presolve", "off")
    bounds = [(low.copy(), high.copy()) for low, high in bounds]
    for k, (low, high) in enumerate(bounds):
        for i in np.flatnonzero((low < 0) & (high > 0)):
            s, a, row = system.s[k].start + int(i), system.a[k].start + int(i), system.triangle[k].start + int(i)
            for sign in (1.0, -1.0):
                if low[i] >= 0 or high[i] <= 0:
                    break
                solver.changeColCost(s, sign)
                solver.setOptionValue("time_limit", max(0.01, solver.getRunTime() + deadline - time.process_time()))
                solver.run()
                status = solver.getModelStatus()
                if status == highspy.HighsModelStatus.kInfeasible:
                    return None
                if status == highspy.HighsModelStatus.kOptimal:
                    value = sign * solver.getInfo().objective_function_value
                    slack = TOLERANCE * 10 * (1 + abs(value))
                    if sign > 0:
                        low[i] = max(low[i], value - slack)
                    else:
                        high[i] = min(high[i], value + slack)
            solver.changeColCost(s, 0.0)
            slope, intercept = upper_line(low[i : i + 1], high[i : i + 1])
            solver.changeColBounds(s, low[i], high[i])
            solver.changeColBounds(a, max(low[i], 0.0), max(high[i], 0.0))
            solver.changeCoeff(row, s, -float(slope[0]))
            solver.changeRowBounds(row, -INF, float(intercept[0]))
    return bounds


def norm_cost(system: System) -> Array:
    """The cost that makes the norm the objective."""
    cost = np.zeros(system.matrix.shape[1])
    cost[system.norm] = 1
    return cost


def count_unstable(bounds: Bounds) -> int:
    """Neurons whose phase the bounds leave open."""
    return sum(int(((low < 0) & (high > 0)).sum()) for low, high in bounds)


def is_empty(bounds: Bounds) -> bool:
    """Whether bounds contradict each other by more than rounding."""
    return any((low > high + 1e-9).any() for low, high in bounds)


def minimum(solver: highspy.Highs, deadline: float) -> tuple[float, Array | None]:
    """Proved lower bound (inf if infeasible) and the best point."""
    solver.setOptionValue("time_limit", max(0.01, deadline - time.process_time()))
    solver.run()
    status, info = solver.getModelStatus(), solver.getInfo()
    if status == highspy.HighsModelStatus.kInfeasible:
        return math.inf, None
    whole = bool(len(solver.getLp().integrality_))
    solution = solver.getSolution()
    point = np.asarray(solution.col_value) if solution.value_valid else None
    if whole:
        return (info.mip_dual_bound if math.isfinite(info.mip_dual_bound) else 0.0), point
    return (info.objective_function_value if status == highspy.HighsModelStatus.kOptimal else 0.0), point


def worst_neuron(s: list[Array], a: list[Array], price: list[Array], bounds: Bounds) -> tuple[int, int]:
    """Layer and neuron whose activation is furthest above its ReLU, weighted with the upper line's multiplier."""
    best, place = -1.0, (-1, -1)
    for k, (low, high) in enumerate(bounds):
        for i in np.flatnonzero((low < 0) & (high > 0)):
            excess = max(float(a[k][i] - max(s[k][i], 0.0)), 0.0)
            score = excess * (price[k][i] + 1e-3)
            if score > best:
                best, place = score, (k, int(i))
    return place
