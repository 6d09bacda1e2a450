"""The triangle relaxation of a ReLU MLP over a region as one sparse system, solved by HiGHS (LP, MILP) or Clarabel (QP).

Columns: the displacement d (for l_1 its positive and negative part), a pre-activation s and an activation a for every
hidden neuron, and, if the norm is the objective and not l_2, its value t. Everything is in units of the search radius.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import clarabel
import highspy
import numpy as np
from exact_network import Array, Bounds, Region, upper_line
from scipy import sparse

INF = highspy.kHighsInf
TOLERANCE = 1e-9


@dataclass
class System:
    """`row_low <= A v <= row_high`, `low <= v <= high`, with the places of its parts."""

    matrix: sparse.csr_matrix
    row_low: Array
    row_high: Array
    low: Array
    high: Array
    inputs: sparse.csr_matrix
    """d = inputs @ v."""
    s: list[slice]
    a: list[slice]
    triangle: list[slice]
    """Rows `a - slope s <= intercept`."""
    above: list[slice]
    """Rows `a - s >= 0`."""
    norm: int
    """Column of t, or -1."""

    @classmethod
    def build(
        cls, weights: list[Array], biases: list[Array], region: Region, bounds: Bounds, margin: tuple[Array, float],
        *, objective: bool,
    ) -> System:  # fmt: skip
        """With the target's `margin[0] @ a + margin[1] >= 0` over the last activations; `objective` adds t."""
        r, n = region.r, len(region.low)
        if r == 1:
            plus, minus = np.flatnonzero(region.high > 0), np.flatnonzero(region.low < 0)
            inputs = sparse.hstack([sparse.identity(n, format="csc")[:, plus], -sparse.identity(n, format="csc")[:, minus]])
            low, high = [np.zeros(len(plus) + len(minus))], [np.concatenate([region.high[plus], -region.low[minus]])]
        else:
            inputs = sparse.identity(n, format="csc")
            low, high = [region.low], [region.high]
        d = inputs.shape[1]
        sizes = [len(b) for b in biases[:-1]]
        total = d + 2 * sum(sizes) + (r != 2)
        norm = total - 1 if r != 2 else -1
        s, a, triangle, above = [], [], [], []
        blocks: list[sparse.spmatrix] = []
        row_low, row_high = [], []

        def put(parts: list[tuple[int, sparse.spmatrix]], lows: Array, highs: Array) -> slice:
            rows = parts[0][1].shape[0]
            block = sparse.hstack([
                piece for k, (start, part) in enumerate(parts) for piece in (
                    sparse.csr_matrix((rows, start - (parts[k - 1][0] + parts[k - 1][1].shape[1] if k else 0))), part)
            ] + [sparse.csr_matrix((rows, total - parts[-1][0] - parts[-1][1].shape[1]))])  # fmt: skip
            begin = sum(b.shape[0] for b in blocks)
            blocks.append(block)
            row_low.append(np.broadcast_to(lows, rows).astype(float))
            row_high.append(np.broadcast_to(highs, rows).astype(float))
            return slice(begin, begin + rows)

        before, place = inputs, 0
        for k, size in enumerate(sizes):
            column = d + 2 * sum(sizes[:k])
            s.append(slice(column, column + size))
            a.append(slice(column + size, column + 2 * size))
            eye = sparse.identity(size, format="csr")
            put([(place, -sparse.csr_matrix(weights[k] @ before)), (column, eye)], biases[k], biases[k])
            slope, intercept = upper_line(*bounds[k])
            above.append(put([(column, -eye), (column + size, eye)], 0.0, INF))
            triangle.append(put([(column, -sparse.diags(slope)), (column + size, eye)], -INF, intercept))
            low += [bounds[k][0], np.maximum(bounds[k][0], 0)]
            high += [bounds[k][1], np.maximum(bounds[k][1], 0)]
            before, place = sparse.identity(size, format="csr"), column + size
        put([(place, sparse.csr_matrix(margin[0][None] @ before))], -margin[1], INF)
        if r != 2:
            one = sparse.csr_matrix(np.ones((d, 1)))
            if r == 1:
                put([(0, sparse.csr_matrix(np.ones((1, d)))), (norm, sparse.csr_matrix([[-1.0]]))], -INF, 0.0)
            elif objective:
                put([(0, sparse.identity(d)), (norm, -one)], -INF, 0.0)
                put([(0, sparse.identity(d)), (norm, one)], 0.0, INF)
            low.append(np.zeros(1))
            high.append(np.full(1, region.radius))
        return cls(
            sparse.vstack(blocks, format="csr"), np.concatenate(row_low), np.concatenate(row_high),
            np.concatenate(low), np.concatenate(high), inputs.tocsr(), s, a, triangle, above, norm,
        )  # fmt: skip


def linear_program(system: System, cost: Array, binaries: list[Array] | None = None, bounds: Bounds | None = None) -> highspy.Highs:
    """A HiGHS model, minimising; with `binaries` (unstable neurons of each layer) a MILP with their phases."""
    matrix, row_low, row_high = system.matrix, system.row_low, system.row_high
    low, high, integer = system.low, system.high, 0
    if binaries is not None and bounds is not None:
        rows, width = [], matrix.shape[1]
        integer = sum(len(b) for b in binaries)
        done = 0
        for k, unstable in enumerate(binaries):
            l, h = bounds[k][0][unstable], bounds[k][1][unstable]
            m = len(unstable)
            pick = sparse.csr_matrix((np.ones(m), (range(m), unstable)), (m, len(bounds[k][0])))
            s = sparse.csr_matrix((np.ones(m), (range(m), system.s[k].start + unstable)), (m, width))
            a = sparse.csr_matrix((np.ones(m), (range(m), system.a[k].start + unstable)), (m, width))
            place = np.arange(m), done + np.arange(m)
            rows += [
                (sparse.hstack([a - s, sparse.csr_matrix((-l, place), (m, integer))]), -l),
                (sparse.hstack([a, sparse.csr_matrix((-h, place), (m, integer))]), np.zeros(m)),
            ]
            done += pick.shape[0]
        matrix = sparse.vstack([sparse.hstack([matrix, sparse.csr_matrix((matrix.shape[0], integer))])] + [r for r, _ in rows], format="csr")
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
    pieces += [-matrix[-1:], unit[:n], -unit[:n]]
    sides += [-system.row_low[-1:], system.high[:n], -system.low[:n]]
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
