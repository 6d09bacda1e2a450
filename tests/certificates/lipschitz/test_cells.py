"""Exact constants against enumeration: every cell by depth-first linear programmes written here, nothing shared."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, nnls
from torch import nn

from wassertight.certificates.lipschitz.cells import largest_gradient
from wassertight.certificates.lipschitz.constants import lipschitz_constants, local_lipschitz
from wassertight.certificates.lipschitz.infinity import far_slope
from wassertight.certificates.lipschitz.network import ReluNetwork, read_network
from wassertight.certificates.lipschitz.outcome import Effort
from wassertight.certificates.lipschitz.programmes import Domain
from wassertight.certificates.lipschitz.recession import lower_slope
from wassertight.types import InputError

DUAL = {1.0: math.inf, 2.0: 2.0, math.inf: 1.0}
SMALL = [(2, 4, 3), (2, 5, 5, 3), (3, 6, 2), (1, 6, 5, 3), (2, 4, 4, 3, 3), (4, 5, 3)]
LARGE = [(2, 8, 8, 3), (3, 6, 6, 4), (2, 16, 16, 4), (4, 6, 5, 3), (6, 7, 4), (3, 5, 4, 4, 3), (2, 12, 4)]


def _net(sizes: tuple[int, ...], seed: int, leak: float = 0.0) -> ReluNetwork:
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(b, a, generator=generator).double() / a**0.5 for a, b in itertools.pairwise(sizes)]
    biases = [torch.randn(b, generator=generator).double() * 0.5 for b in sizes[1:]]
    hidden = sizes[1:-1]
    return ReluNetwork(
        weights=tuple(weights), biases=tuple(biases),
        left=tuple(torch.full((n,), leak, dtype=torch.float64) for n in hidden),
        right=tuple(torch.ones(n, dtype=torch.float64) for n in hidden),
    )  # fmt: skip


def _cells(
    net: ReluNetwork, ends: tuple[float, float] | None, biased: bool = True
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows and shifts `A z + c >= 0` and the Jacobian of every cell with interior, neuron after neuron."""
    dim, layers = net.inputs, len(net.sizes)
    box = [ends or (None, None)] * dim

    def go(t: int, k: int, rows: list, shifts: list, value: np.ndarray, shift: np.ndarray, slopes: list, z: np.ndarray):  # type: ignore[no-untyped-def]
        if t == layers:
            yield np.array(rows).reshape(-1, dim), net.weights[-1].numpy() @ value
            return
        w, b = net.weights[t].numpy(), net.biases[t].numpy() * biased
        a, c = w @ value, w @ shift + b
        if k == len(b):
            d = np.array(slopes)
            yield from go(t + 1, 0, rows, shifts, d[:, None] * a, d * c, [], z)
            return
        for side, slope in ((1.0, float(net.right[t][k])), (-1.0, float(net.left[t][k]))):
            here, move = [*rows, side * a[k]], [*shifts, side * c[k]]
            point = z
            sizes = np.linalg.norm(here, axis=1)
            if min(np.array(here) @ z + move - 1e-7 * sizes) < 0 or (sizes[-1] == 0 and move[-1] <= 0):
                result = linprog(
                    np.r_[np.zeros(dim), -1.0], A_ub=np.c_[-np.array(here), sizes], b_ub=np.array(move),
                    bounds=[*box, (None, 1.0)], method="highs",
                )  # fmt: skip
                if result.status != 0 or -result.fun <= 1e-9:
                    continue
                point = result.x[:dim]
            yield from go(t, k + 1, here, move, value, shift, [*slopes, slope], point)

    start = np.full(dim, 0.0 if ends is None else sum(ends) / 2)
    yield from go(0, 0, [], [], np.eye(dim), np.zeros(dim), [], start)


def _differences(jacobian: np.ndarray, labels: list[int]) -> Iterator[np.ndarray]:
    for y in labels:
        for j in range(len(jacobian)):
            if j != y:
                yield jacobian[j] - jacobian[y]


def _brute(net: ReluNetwork, labels: list[int], ends: tuple[float, float] | None) -> dict[float, float]:
    best = dict.fromkeys(DUAL, 0.0)
    for _, jacobian in _cells(net, ends):
        for g in _differences(jacobian, labels):
            for r, s in DUAL.items():
                best[r] = max(best[r], float(np.linalg.norm(g, s)))
    return best


def _brute_far(net: ReluNetwork, labels: list[int]) -> tuple[dict[float, float], dict[float, float]]:
    """Lambda and l over all cones with interior."""
    lam, low = dict.fromkeys(DUAL, 0.0), dict.fromkeys(DUAL, 0.0)
    for rows, jacobian in _cells(net, None, biased=False):
        for g in _differences(jacobian, labels):
            dim = len(g)
            lam[2.0] = max(lam[2.0], nnls(rows.T, -g)[1])
            wide = linprog(-g, A_ub=-rows, b_ub=np.zeros(len(rows)), bounds=[(-1, 1)] * dim)
            lam[math.inf] = max(lam[math.inf], -wide.fun)
            split = np.c_[-rows, rows]
            thin = linprog(np.r_[-g, g], A_ub=np.r_[split, np.ones((1, 2 * dim))], b_ub=np.r_[np.zeros(len(rows)), 1.0])
            lam[1.0] = max(lam[1.0], -thin.fun)
            axis = np.zeros(dim)
            axis[np.abs(g).argmax()] = np.sign(g[np.abs(g).argmax()])
            for r, u in ((2.0, g / max(np.linalg.norm(g), 1e-12)), (math.inf, np.sign(g)), (1.0, axis)):
                if (rows @ u >= -1e-9).all():
                    low[r] = max(low[r], float(np.linalg.norm(g, DUAL[r])))
    return lam, low


def _check(sizes: tuple[int, ...], seed: int) -> None:
    net = _net(sizes, seed, leak=0.1 if seed % 4 == 3 else 0.0)
    labels = list(range(sizes[-1])) if seed % 2 else [0]
    ends = (0.0, 1.0) if seed % 3 == 0 else None
    truth = _brute(net, labels, ends)
    far, low = _brute_far(net, labels) if ends is None else ({}, {})
    for r in DUAL:
        found = largest_gradient(
            net, labels, r, Domain.of(net.inputs, ends), effort=Effort(tolerance=1e-9, seconds=900)
        )
        assert found.converged
        assert found.lower == pytest.approx(truth[r], rel=1e-7)
        assert found.lower <= found.upper <= truth[r] * (1 + 1e-6)
        if truth[r] == 0:
            continue
        assert found.point is not None
        assert found.mask is not None
        y, j = found.pair
        assert y in labels
        z = found.point.clone().requires_grad_(True)
        logits = net.logits(z[None])[0]
        (g,) = torch.autograd.grad(logits[j] - logits[y], z)
        assert float(torch.linalg.vector_norm(g, DUAL[r])) == pytest.approx(found.lower, rel=1e-9)
        assert torch.equal(net.arguments(z[None])[0] > 0, found.mask)
        if ends is not None:
            assert bool(((z >= 0) & (z <= 1)).all())
            continue
        lam = far_slope(net, labels, r)
        assert lam.lower == pytest.approx(far[r], rel=2e-6, abs=1e-9)
        assert lam.lower <= lam.upper <= far[r] * (1 + 1e-5) + 3e-6 * found.upper
        small = lower_slope(net, labels, r, lam.upper)
        assert small.lower == pytest.approx(low[r], rel=1e-7, abs=1e-9)
        assert small.lower <= lam.upper <= found.upper * (1 + 1e-5)
        if small.direction is not None:
            assert small.slack >= 0


@pytest.mark.parametrize("seed", [0, 2, 3])
def test_search_is_enumeration(seed: int) -> None:
    _check(SMALL[seed % len(SMALL)], seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, *range(4, 100)])
def test_search_is_enumeration_on_many(seed: int) -> None:
    every = SMALL + LARGE
    _check(every[seed % len(every)], seed)


@pytest.mark.slow
def test_search_is_enumeration_on_two_layers_of_sixteen() -> None:
    _check((6, 16, 16, 4), 0)


@pytest.mark.slow
@pytest.mark.parametrize("r", list(DUAL))
def test_large_random_network_closes_above_every_sample(r: float) -> None:
    net = _net((6, 16, 16, 4), 0)
    found = largest_gradient(net, range(4), r, Domain.of(6, None), effort=Effort(seconds=120, tolerance=1e-6))
    assert found.converged
    z = torch.randn(20_000, 6, generator=torch.Generator().manual_seed(1)).double() * 10
    spec = torch.eye(4, dtype=torch.float64)
    on = net.arguments(z) > 0
    for y in range(4):
        for j in range(y):
            g = net.gradients(on, (spec[j] - spec[y]).expand(len(z), -1))
            assert float(torch.linalg.vector_norm(g, DUAL[r], dim=1).max()) <= found.upper


@pytest.mark.parametrize("r", list(DUAL))
def test_no_time_still_gives_a_bracket(r: float) -> None:
    net = _net((3, 6, 6, 3), 5)
    truth = _brute(net, [0, 1, 2], (0.0, 1.0))[r]
    found = largest_gradient(net, range(3), r, Domain.of(3, (0.0, 1.0)), effort=Effort(seconds=0.0))
    assert found.lower <= truth * (1 + 1e-9)
    assert truth <= found.upper


@pytest.mark.parametrize("r", [2.0, math.inf])
def test_the_time_limit_binds(r: float) -> None:
    net, begun = _net((400, 24, 24, 10), 0), time.perf_counter()
    whole = Domain.of(net.inputs, None)
    top = largest_gradient(net, range(10), r, whole, effort=Effort(seconds=0.5))
    lam = far_slope(net, range(10), r, seconds=0.5)
    low = lower_slope(net, range(10), r, lam.upper, seconds=0.5)
    assert time.perf_counter() - begun < 3 * 0.5 + 5.0
    assert low.lower <= lam.upper
    assert lam.lower <= top.upper


@pytest.mark.parametrize("r", [math.inf, *(pytest.param(r, marks=pytest.mark.slow) for r in (1.0, 2.0))])
def test_local_constant_counts_the_cells_of_the_ball(r: float) -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double().eval()
    x = torch.rand(1, 2).double()
    whole = lipschitz_constants(model, x, torch.tensor([0]), norm=r, bounds=None, seconds=20)[-1]
    last = 0.0
    for radius in (1e-4, 0.5):
        found = local_lipschitz(model, x, radius, norm=r, labels=(0,), bounds=(-5.0, 5.0))
        assert found.exact
        z = x + (torch.rand(4000, 2).double() * 2 - 1) * radius
        z = z[torch.linalg.vector_norm(z - x, r, dim=1) <= radius].requires_grad_(True)
        logits = model(z)
        for j in (1, 2):
            (g,) = torch.autograd.grad((logits[:, j] - logits[:, 0]).sum(), z, retain_graph=True)
            assert float(torch.linalg.vector_norm(g, DUAL[r], dim=1).max()) <= found.upper
        assert last <= found.upper <= whole.upper * (1 + 1e-6)
        last = found.lower


def test_convolutions_fold_into_the_network() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(2, 3)
    ).double().eval()  # fmt: skip
    x = torch.rand(3, 1, 3, 3).double()
    net = read_network(model, x)
    assert torch.allclose(net.logits(x.flatten(1)), model(x))
    for bound in lipschitz_constants(model, x, torch.tensor([0, 1, 2]), norm=2, bounds=None, seconds=2):
        assert bound.lower <= bound.upper


def test_linear_models_have_one_constant() -> None:
    model = nn.Sequential(nn.Linear(3, 2)).double().eval()
    g = model[0].weight[1] - model[0].weight[0]
    (top,) = (
        b
        for b in lipschitz_constants(model, torch.rand(2, 3).double(), torch.tensor([0, 0]), norm=1, bounds=None)
        if b.name == "L"
    )
    assert top.exact
    assert top.lower == pytest.approx(float(g.detach().abs().max()))


def test_refusals() -> None:
    model = nn.Sequential(nn.Linear(2, 2)).eval()
    x, y = torch.rand(1, 2), torch.tensor([0])
    with pytest.raises(InputError, match="vanish"):
        lipschitz_constants(model, x, y, norm=2, loss="dlr")
    with pytest.raises(InputError, match="1, 2 and inf"):
        lipschitz_constants(model, x, y, norm=3)
