"""The joint allocation against a general solver, its dual, the tilted knapsack's closed forms and limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from divergence_cases import ALL, definition, name
from wassertight.transport import (
    KL,
    AlphaDivergence,
    Ending,
    FlipDistances,
    Renyi,
    allocate_jointly,
    allocate_segments,
    flip_table,
    joint_curve,
    worst_error,
    worst_weights,
)  # fmt: skip
from wassertight.transport.weighting import Divergence
from wassertight.types import InputError


def _table(n: int, k: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    costs = np.sort(rng.random((n, k)), 1)
    costs[:, 0] = 0
    return torch.from_numpy(rng.gamma(2.0, 1.0, (n, 1)) + np.sort(rng.random((n, k)), 1) * 2), torch.from_numpy(costs)


@pytest.mark.parametrize("divergence", ALL, ids=name)
def test_primal_programme(divergence: Divergence) -> None:
    """SLSQP in the masses m_ik: concave objective, one convex constraint."""
    n, k, radius, a = 4, 3, 0.15, divergence.moment
    losses, costs = _table(n, k, seed=1)
    flat_l, flat_c = losses.numpy().ravel(), costs.numpy().ravel()

    def spent(m: np.ndarray) -> float:
        w = np.maximum(m.reshape(n, k).sum(1) * n, 1e-10)
        value = definition(w, a)
        if isinstance(divergence, Renyi) and a != 0:
            value = math.log1p(a * (a - 1) * value) / (a * (a - 1))
        return value + float(m @ flat_c)

    best = -math.inf
    for seed in range(2):
        start = np.random.default_rng(seed).dirichlet(np.ones(n * k) * 5)
        solved = minimize(
            lambda m: -m @ flat_l, start, method="SLSQP", bounds=[(0, 1)] * (n * k),
            options={"maxiter": 800, "ftol": 1e-14},
            constraints=[{"type": "eq", "fun": lambda m: m.sum() - 1}, {"type": "ineq", "fun": lambda m: radius - spent(m)}],
        )  # fmt: skip
        if radius - spent(solved.x) > -1e-7:
            best = max(best, -solved.fun)
    found = allocate_jointly(losses, costs, radius, divergence)
    assert found.value == pytest.approx(best, abs=2e-5)
    assert found.value >= best - 1e-6


@pytest.mark.parametrize("divergence", ALL, ids=name)
def test_value_equals_bound_and_budget_is_spent(divergence: Divergence) -> None:
    for seed, radius in [(0, 1e-6), (1, 0.1)]:
        losses, costs = _table(40, 5, seed)
        found = allocate_jointly(losses, costs, radius, divergence)
        assert found.value <= found.bound <= found.value + 1e-7 * (1 + abs(found.value))
        assert found.spent_divergence + found.spent_transport == pytest.approx(radius, rel=1e-9)
        assert found.spent_divergence + found.spent_transport <= radius * (1 + 1e-12)
        assert int(((found.share > 0) & (found.share < 1)).sum()) <= 1
        assert found.ending == Ending.SOLVED


def test_tilted_knapsack_is_its_scan() -> None:
    """KL: inf over T of (radius + log E exp((T - c)_+)) / T on a dense grid, with ties, zeros and infinities."""
    grid = torch.logspace(-2, 2, 40_001, dtype=torch.float64)
    for seed in range(2):
        c = torch.from_numpy(np.random.default_rng(seed).random(30)) ** 2
        c[:3], c[3:6], c[6:12] = 0, math.inf, 0.25
        for radius in (1e-4, 0.05, 0.3):
            k = torch.logsumexp((grid[:, None] - c).clamp_min(0), 1) - math.log(30)
            scan = min(1.0, float(((radius + k) / grid).min()))
            found = worst_error(c, radius, KL)
            assert found.value == pytest.approx(scan, abs=5e-5)
            assert found.value <= scan + 1e-12
        full = -math.log(float(torch.exp(-c[c.isfinite()]).sum() / 30))
        assert worst_error(c, full * 1.0001, KL).ending == Ending.SATURATED
        assert worst_error(c, full * 1.0001, KL).value == pytest.approx(1)
        assert worst_error(c, full * 0.9999, KL).value < 1


@pytest.mark.parametrize("divergence", ALL, ids=name)
def test_hard_ball_is_the_binary_inversion(divergence: Divergence) -> None:
    c = torch.tensor([0.0] * 3 + [math.inf] * 17, dtype=torch.float64)
    two = worst_weights(divergence, torch.tensor([1.0, 0.0]), 0.1, torch.tensor([0.15, 0.85], dtype=torch.float64))
    assert worst_error(c, 0.1, divergence).value == pytest.approx(float(two.value), abs=1e-10)
    nothing = worst_error(torch.full((5,), math.inf).double(), 3.0, divergence)
    assert nothing.value == 0  # an error of 0 stays 0
    assert nothing.ending == Ending.EQUAL_LOSSES


@pytest.mark.parametrize("divergence", [KL, Renyi(order=1.25)], ids=name)
def test_limits(divergence: Divergence) -> None:
    d = torch.from_numpy(np.random.default_rng(1).random(50))
    d[:4] = 0
    flips = FlipDistances.attacked(d)
    # re-weighting off: everything priced up but the moves, radius and prices scaled together
    for p in (2.0,):
        tiny = 1e-8
        found = worst_error(tiny * (d / 0.2) ** p, tiny, divergence)
        assert found.value == pytest.approx(1 - flips.accuracy(p, 0.2), abs=2e-4)
    # transport off
    still = torch.where(d == 0, 0.0, math.inf).double()
    assert worst_error(1e9 * d, 0.1, divergence).value == pytest.approx(
        worst_error(still, 0.1, divergence).value, abs=1e-6
    )
    # radius 0, one sample
    assert worst_error(d, 0.0, divergence).value == pytest.approx(4 / 50)
    assert worst_error(torch.tensor([0.3]).double(), 0.2, divergence).value == pytest.approx(0.2 / 0.3)
    # general losses with the weights priced out
    losses, costs = _table(20, 4, 0)
    moves = allocate_segments(costs, losses.cummax(1).values, 0.1).value
    assert allocate_jointly(losses.cummax(1).values, 1e-8 * costs, 1e-9, divergence).value == pytest.approx(
        moves, abs=1e-3
    )


FEW = [KL, AlphaDivergence(order=3.0), Renyi(order=1.25)]


@pytest.mark.parametrize("divergence", FEW, ids=name)
def test_ball_contains_both_of_its_parts(divergence: Divergence) -> None:
    """D^c <= min(D, C): worse than weights alone, worse than moves alone, and monotone in budget and price."""
    losses, costs = _table(30, 4, 7)
    losses = losses.cummax(1).values
    values = []
    for radius in (0.01, 0.05, 0.2):
        joint = allocate_jointly(losses, costs, radius, divergence).value
        assert joint >= float(worst_weights(divergence, losses[:, 0], radius).value) - 1e-9
        assert joint >= allocate_segments(costs, losses, radius).value - 1e-9
        assert joint >= allocate_jointly(losses, 2 * costs, radius, divergence).value - 1e-9
        values.append(joint)
    assert values == sorted(values)
    value, bound = joint_curve(losses, costs, torch.tensor([0.01, 0.05, 0.2], dtype=torch.float64), divergence)
    assert value.tolist() == pytest.approx(values, abs=1e-10)
    assert bool((bound >= value).all())


def test_a_dear_budget_goes_to_few_and_a_table_needs_its_samples() -> None:
    losses, costs = flip_table(torch.tensor([0.1, 0.2]))
    with pytest.raises(InputError, match="free"):
        allocate_jointly(losses[:, 1:], costs[:, 1:], 0.1, KL)
    with pytest.raises(InputError, match="radius"):
        allocate_jointly(losses, costs, -1.0, KL)
    with pytest.raises(InputError, match="finite"):
        allocate_jointly(losses * math.nan, costs, 1.0, KL)


def test_masses_count_as_copies() -> None:
    c = torch.tensor([0.0, 0.1, 0.3, 0.5], dtype=torch.float64)
    mu = torch.tensor([0.2, 0.4, 0.2, 0.2], dtype=torch.float64)
    copies = torch.tensor([0.0, 0.1, 0.1, 0.3, 0.5], dtype=torch.float64)
    for divergence in FEW[1:2]:
        assert worst_error(c, 0.1, divergence, mu).value == pytest.approx(
            worst_error(copies, 0.1, divergence).value, abs=1e-9
        )


@pytest.mark.parametrize("divergence", [KL, AlphaDivergence(order=-3.0), Renyi(order=5.0), Renyi(order=0.05)], ids=name)
def test_bounds_stay_above_at_extreme_scales(divergence: Divergence) -> None:
    """Prices of 1e10 multiply the rounding of the dual; the slack must cover that."""
    c = torch.tensor([0.0, 0.1, 0.2, math.inf] * 5, dtype=torch.float64)
    for radius in (1e-14, 1.0):
        for costs in (c, c * 1e-9, c * 1e9):
            found = worst_error(costs, radius, divergence)
            assert -1e-12 <= found.value <= found.bound
            assert found.spent_divergence + found.spent_transport <= radius * (1 + 1e-9)
