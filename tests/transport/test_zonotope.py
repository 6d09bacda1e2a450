"""The zonotope's sampler: tree frequencies, uniformity, and how much a shift takes out of it."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.optimize import linprog

from wassertight.transport.flow_noise import Noise
from wassertight.transport.flows import apply_flow, edge_count, edge_resistances, flow_grid, pair_distances
from wassertight.transport.zonotope import ZonotopeFlow, spanning_trees, zonotope_flows


@pytest.mark.parametrize(("h", "w"), [(3, 3), (2, 4)])
def test_tree_frequencies_are_weights_times_resistances(h: int, w: int) -> None:
    count, grid = 30_000, flow_grid(h, w)
    assert grid.inverse is not None
    parents, used = spanning_trees(h, w, count)
    branch = parents != torch.arange(h * w)
    assert bool((branch.sum(1) == h * w - 1).all())
    found = torch.bincount(used[branch], minlength=edge_count(h, w)).double() / count
    wanted = grid.roots.double() ** 2 * edge_resistances(grid.inverse, h, w)
    assert float((found - wanted).abs().max()) < 4 * math.sqrt(0.25 / count)


def test_a_shift_takes_out_no_more_than_the_bound() -> None:
    h = w = 3
    grid, count = flow_grid(h, w), 400
    d = apply_flow(torch.zeros(edge_count(h, w), h, w), torch.eye(edge_count(h, w))).flatten(1).T.double().numpy()
    weights = (grid.roots.double() ** 2).numpy()
    flows = zonotope_flows(h, w, count)
    assert float((flows.abs() / grid.roots.double() ** 2).max()) <= 1 + 1e-9
    noise = apply_flow(torch.zeros(h, w, dtype=torch.float64), flows).flatten(1)
    resistances = grid.pair_resistances()
    for i, j, shift in ((0, 1, 0.4), (0, 8, 0.3)):
        move = torch.zeros(9, dtype=torch.float64)
        move[i], move[j] = shift, -shift
        out = sum(
            linprog(0 * weights, A_eq=d, b_eq=(one + move).numpy(), bounds=[(-c, c) for c in weights]).status == 2
            for one in noise
        )
        bound = shift * float(resistances[i, j]) / 2
        assert out / count <= bound + 4 * math.sqrt(bound / count)
        assert out / count >= 0.5 * bound


def test_noise_keeps_light_and_has_the_known_energy() -> None:
    noise = ZonotopeFlow(half_width=0.1)
    assert isinstance(noise, Noise)
    x = torch.rand(2, 2, 5, 5)
    found = noise(x, 3, torch.Generator().manual_seed(0))
    assert found.shape == (3, 2, 2, 5, 5)
    assert torch.allclose(found.sum((-1, -2)), x.sum((-1, -2)).expand(3, 2, 2), atol=1e-3)
    assert torch.equal(found, noise(x, 3, torch.Generator().manual_seed(0)))
    assert float(pair_distances(5, 5, 2.0)[0, 6]) == pytest.approx(math.sqrt(2))
