"""Solvers over the triangle relaxation: LP, MILP and bound tightening with HiGHS, the l_2 QP with Clarabel."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import clarabel
import highspy
import numpy as np
from exact_network import Array, Bounds, System, upper_line
from scipy import sparse

INF = highspy.kHighsInf
TOLERANCE = 1e-9


def linear_program(
    system: System, cost: Array, binaries: list[Array] | None = None, bounds: Bounds | None = None
) -> highspy.Highs:
    """A HiGHS model, minimising; with `binaries` (unstable neurons of each layer) a MILP with their phases."""
    matrix, row_low, row_high = system.matrix, system.row_low, system.row_high
    low, high, integer = system.low, system.high, 0
    if binaries is not None and bounds is not None:
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


def quadratic_program(system: System, bounds: Bounds, fixed: Bounds) -> Quadratic:
    """Shortest d in l_2; `fixed` are the root's bounds, whose stable neurons need no sign constraint."""
    n = system.inputs.shape[1]
    rows, sides, zeros = [], [], 0
    matrix = system.matrix
    width = matrix.shape[1]
    equal = np.flatnonzero(system.row_low == system.row_high)
    pieces = [matrix[equal]]
    sides = [system.row_high[equal]]
    unit = sparse.identity(width, format="csr")
    for k, (low, high) in enumerate(bounds):
        active, inactive = np.flatnonzero(low >= 0), np.flatnonzero((high <= 0) & (low < 0))
        pieces += [matrix[system.above[k].start + active], unit[system.a[k].start + inactive]]
        sides += [np.zeros(len(active)), np.zeros(len(inactive))]
    zeros = sum(p.shape[0] for p in pieces)
    places = []
    begin = zeros
    for k, (low, high) in enumerate(bounds):
        open_ = np.flatnonzero((low < 0) & (high > 0))
        active = np.flatnonzero((low >= 0) & (fixed[k][0] < 0))
        inactive = np.flatnonzero((high <= 0) & (fixed[k][1] > 0))
        rows = [
            (matrix[system.triangle[k].start + open_], system.row_high[system.triangle[k].start + open_]),
            (-matrix[system.above[k].start + open_], np.zeros(len(open_))),
            (-unit[system.a[k].start + open_], np.zeros(len(open_))),
            (-unit[system.s[k].start + active], np.zeros(len(active))),
            (unit[system.s[k].start + inactive], np.zeros(len(inactive))),
        ]
        pieces += [p for p, _ in rows]
        sides += [side for _, side in rows]
        places.append((open_, begin))
        begin += sum(p.shape[0] for p, _ in rows)
    pieces += [-matrix[system.row], unit[:n], -unit[:n]]
    sides += [-system.row_low[[system.row]], system.high[:n], -system.low[:n]]
    stacked = sparse.vstack(pieces, format="csc")
    side = np.concatenate(sides)
    objective = sparse.csc_matrix((np.ones(n), (range(n), range(n))), (width, width))
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    cones = [clarabel.ZeroConeT(zeros), clarabel.NonnegativeConeT(len(side) - zeros)]
    answer = clarabel.DefaultSolver(objective, np.zeros(width), stacked, side, cones, settings).solve()
    v, z = np.asarray(answer.x), np.asarray(answer.z)
    z = np.concatenate([z[:zeros], np.maximum(z[zeros:], 0)])
    scales = [1.0] if "Solved" in str(answer.status) else [1.0, *10.0 ** np.arange(1, 9)]
    bound = max(_dual(z * scale, stacked, side, system) for scale in scales)
    price = []
    for (open_, begin), (low, _) in zip(places, bounds, strict=True):
        full = np.zeros(len(low))
        full[open_] = z[begin : begin + len(open_)]
        price.append(full)
    return Quadratic(bound, v[:n], [v[c] for c in system.s], [v[c] for c in system.a], price)


def _dual(z: Array, matrix: sparse.csc_matrix, side: Array, system: System) -> float:
    """The Lagrangian's minimum over the columns' box: a lower bound of the distance whatever the multipliers z are."""
    g, n = matrix.T @ z, system.inputs.shape[1]
    d = np.clip(-g[:n], system.low[:n], system.high[:n])
    rest = np.where(g[n:] > 0, system.low[n:], system.high[n:]) @ g[n:]
    return math.sqrt(2 * max(float(d @ d / 2 + g[:n] @ d + rest - side @ z), 0.0))


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
                solver.setOptionValue("time_limit", max(0.01, solver.getRunTime() + deadline - time.perf_counter()))
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
    solver.setOptionValue("time_limit", max(0.01, deadline - time.perf_counter()))
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
