"""The lower slope l of 2510.10000: the largest gradient whose own steepest direction its cell contains out to infinity.

Where that direction M_r(g) is in the interior of a cone of the network without shifts, it is a fixed point of
`u <- M_r(grad (f_0,j - f_0,y)(u))`. For r = 1 the 2 dim candidates are all tried, for r = inf all corners where they are
few; for r = 2 cones are enumerated in the time given. Cones without interior are left out (an assumption; Lambda does
not need it).
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from wassertight.certificates.lipschitz.climbing import dual_norm
from wassertight.certificates.lipschitz.far_programme import specification
from wassertight.certificates.lipschitz.infinity import ROUNDS, AtInfinity, cone_of, ordered_pairs, starts
from wassertight.certificates.lipschitz.network import ReluNetwork
from wassertight.certificates.lipschitz.programmes import INTERIOR, Cells, Domain, argument_bounds
from wassertight.geometry import conjugate, dual_direction

_CORNERS = 14
"""Most inputs whose sign corners are all tried."""
_ENTRIES = 2**23
"""Most entries of gradients at once."""


def lower_slope(
    network: ReluNetwork, labels: Sequence[int], r: float, upper: float, *, seconds: float = 30.0, seed: int = 0
) -> AtInfinity:  # fmt: skip
    """l, between a triple that was found and `upper` (Lambda's bound), exactly where the candidates could all be tried."""
    begun, net = time.perf_counter(), network.homogeneous
    end = begun + seconds
    pairs = ordered_pairs(labels, net.classes)
    spec = specification(net, pairs)
    tried, every = 0, True
    best: tuple[float, int, Tensor | None] = (0.0, 0, None)

    def offer(u: Tensor) -> None:
        nonlocal best, tried
        for part in torch.split(u, max(1, _ENTRIES // (len(spec) * net.inputs))) if len(u) else ():
            if time.perf_counter() > end:
                break
            tried += len(part)
            value, pair, k = _fixed(net, spec, r, part)
            if value > best[0]:
                best = (value, pair, part[k])

    eye = torch.eye(net.inputs, dtype=torch.float64)
    if r == 1:
        offer(torch.cat((eye, -eye)))
    elif math.isinf(r) and net.inputs <= _CORNERS:
        offer(torch.tensor(list(itertools.product((-1.0, 1.0), repeat=net.inputs)), dtype=torch.float64))
    else:
        u = starts(net, seed, len(spec))
        for c in spec:
            if time.perf_counter() > end:
                break
            v = u
            for _ in range(ROUNDS):
                v = dual_direction(net.gradients(net.arguments(v) > 0, c), r)
            offer(v[own_direction(net, c[None], r, v).squeeze(1) > 0])
        every = r == 2 and _cones(net, end, lambda on: offer(_steepest(net, spec, on, r)))
    exact = every and time.perf_counter() <= end
    mask, slack = cone_of(net, best[2])
    return AtInfinity(
        lower=best[0], upper=best[0] if exact else max(upper, best[0]), pair=pairs[best[1]], direction=best[2], mask=mask,
        slack=slack, nodes=tried, seconds=time.perf_counter() - begun,
    )  # fmt: skip


def _steepest(net: ReluNetwork, spec: Tensor, on: Tensor, r: float) -> Tensor:
    return dual_direction(net.gradients(on, spec), r)


def own_direction(net: ReluNetwork, c: Tensor, r: float, u: Tensor) -> Tensor:
    """The dual norm of the gradient where a direction (n, inputs) is its own steepest one, else 0.

    Args:
        net: without shifts.
        c: logit weights (pairs, classes) for all directions, or (n, pairs, classes).

    Returns:
        (n, pairs).
    """
    g = net.gradients((net.arguments(u) > 0)[:, None], c)
    size = dual_norm(g, conjugate(r))
    own = (g * u[:, None]).sum(2) >= size * (1 - 1e-9)
    return torch.where(own, size, 0.0)


def _fixed(net: ReluNetwork, spec: Tensor, r: float, u: Tensor) -> tuple[float, int, int]:
    """The largest gradient among directions (n, inputs) that are their own steepest one; its pair and its row."""
    found = own_direction(net, spec, r, u)
    top = int(found.argmax())
    return float(found.flatten()[top]), top % len(spec), top // len(spec)


def _cones(net: ReluNetwork, end: float, visit: Callable[[Tensor], None]) -> bool:
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
