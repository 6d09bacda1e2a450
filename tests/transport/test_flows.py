"""Flows against linear programmes; effective resistances against what is known about them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from wassertight.transport.exact import image_distance
from wassertight.transport.flows import (
    FlowGrid,
    apply_flow,
    edge_count,
    edge_differences,
    edge_ends,
    edge_resistances,
    flow_grid,
    laplacian_inverse,
    pair_distances,
)
from wassertight.types import ThreatError


def incidence(h: int, w: int) -> np.ndarray:
    """D as a matrix, from flows of one edge each."""
    edges = torch.eye(edge_count(h, w), dtype=torch.float64)
    return apply_flow(torch.zeros(len(edges), h, w, dtype=torch.float64), edges).flatten(1).T.numpy()


def least_flow(move: np.ndarray, h: int, w: int) -> float:
    """min |flow|_1 with D flow = move."""
    d = incidence(h, w)
    found = linprog(np.ones(2 * d.shape[1]), A_eq=np.hstack((d, -d)), b_eq=move, method="highs")
    return float(found.fun)


@pytest.mark.parametrize("shape", [(1, 3, 3), (1, 5, 4), (3, 3, 4), (1, 1, 6), (2, 6, 6)])
def test_w1_is_the_least_flow(shape: tuple[int, int, int]) -> None:
    c, h, w = shape
    for _ in range(3):
        x = torch.rand(1, c, h, w, dtype=torch.float64)
        z = torch.rand(1, c, h, w, dtype=torch.float64)
        z = z / z.sum((2, 3), keepdim=True) * x.sum((2, 3), keepdim=True)
        move = ((z - x) / x.sum())[0].flatten(1).numpy()
        flow = sum(least_flow(part, h, w) for part in move)
        manhattan, euclid = (float(image_distance(x, z, r=r)) for r in (1.0, 2.0))
        assert flow == pytest.approx(manhattan, abs=1e-8)
        assert euclid <= manhattan + 1e-9
        assert manhattan <= math.sqrt(2) * euclid + 1e-9


def test_applying_flows() -> None:
    x, a, b = torch.rand(2, 3, 5, 4, dtype=torch.float64), *torch.randn(2, 2, 3, 31, dtype=torch.float64)
    both = apply_flow(apply_flow(x, a), b)
    assert torch.allclose(both, apply_flow(x, a + b), atol=1e-12)
    assert torch.allclose(both.sum((-1, -2)), x.sum((-1, -2)), atol=1e-12)
    potential = torch.randn(5, 4, dtype=torch.float64)
    moved = apply_flow(torch.zeros(5, 4, dtype=torch.float64), a[0, 0])
    assert float((moved * potential).sum()) == pytest.approx(float((a[0, 0] * edge_differences(potential)).sum()))
    assert apply_flow(x[:, None], a[None, :, 0, None].expand(2, 2, 3, 31)).shape == (2, 2, 3, 5, 4)


@pytest.mark.parametrize(("h", "w"), [(3, 3), (5, 4), (4, 5), (1, 7), (28, 28)])
def test_weights_make_all_edges_equally_resistant(h: int, w: int) -> None:
    grid, edges = flow_grid(h, w), edge_count(h, w)
    weights = grid.roots.double() ** 2
    found = edge_resistances(laplacian_inverse(h, w, weights), h, w)
    assert float((weights * found).sum()) == pytest.approx(h * w - 1, rel=1e-9)
    assert float(found.max()) == pytest.approx((h * w - 1) / edges, rel=1e-6)
    assert grid.resistance >= float(found.max()) * (1 - 1e-12)
    assert grid.kappa(2) < math.sqrt(edges / (h * w - 1)) * (1 + 1e-7)


def test_published_constants() -> None:
    assert flow_grid(28, 28).kappa() == pytest.approx(1.38962, abs=1e-5)
    assert flow_grid(28, 28, weighted=False).kappa() == pytest.approx(1.19724, abs=1e-5)
    assert flow_grid(28, 28).kappa(math.inf) == pytest.approx(1.189, abs=1e-3)
    assert flow_grid(8, 8).kappa() == pytest.approx(4 / 3, abs=1e-5)
    weights = flow_grid(28, 28).roots.double() ** 2
    assert (float(weights.min()), float(weights.max())) == pytest.approx((0.967, 1.413), abs=1e-3)


def test_resistance_is_a_metric_and_neighbours_attain_kappa() -> None:
    h, w = 4, 5
    begin, end = edge_ends(h, w)
    for _ in range(5):
        weights = torch.rand(edge_count(h, w), dtype=torch.float64) + 0.05
        inverse = laplacian_inverse(h, w, weights)
        grid = FlowGrid(h=h, w=w, roots=weights.sqrt().float(), resistance=0.0, inverse=inverse)
        r = grid.pair_resistances()
        assert bool((r[:, :, None] + r[None, :, :] - r[:, None, :] >= -1e-12).all())
        top = float(r[begin, end].max())
        for order in (1.0, 1.5, 2.0):
            ratio = (pair_distances(h, w, order) / r.sqrt()).nan_to_num(math.inf)
            assert float(ratio.min()) == pytest.approx(1 / math.sqrt(top), rel=1e-9)


def test_taking_edges_away_raises_resistances() -> None:
    full = flow_grid(6, 6, weighted=False).pair_resistances().view(6, 6, 6, 6)[:4, :5, :4, :5].reshape(20, 20)
    part = flow_grid(4, 5, weighted=False).pair_resistances()
    assert bool((part >= full - 1e-12).all())


def test_large_grids_are_bounded_by_windows() -> None:
    exact = edge_resistances(laplacian_inverse(52, 50, torch.ones(edge_count(52, 50))), 52, 50)
    grid = flow_grid(52, 50)
    assert grid.inverse is None
    assert float(exact.max()) <= grid.resistance <= float(exact.max()) * 1.001
    assert grid.kappa() >= 1.1972
    with pytest.raises(ThreatError, match="too large for all pairs"):
        grid.kappa(math.inf)


def test_weights_are_exactly_as_symmetric_as_the_grid() -> None:
    for h, w in ((6, 6), (5, 7)):
        weights, other = flow_grid(h, w).roots, flow_grid(w, h).roots
        down, right = weights[: (h - 1) * w].view(h - 1, w), weights[(h - 1) * w :].view(h, w - 1)
        for axis in (0, 1):
            assert torch.equal(down, down.flip(axis))
            assert torch.equal(right, right.flip(axis))
        assert torch.equal(other[: (w - 1) * h].view(w - 1, h), right.T)
