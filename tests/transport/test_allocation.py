"""The knapsack against linear programming, its dual, closed forms and the table of degenerate cases."""

from __future__ import annotations

import math

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from wassertight.transport import DiscreteMeasure, FlipDistances, allocate_segments, mean_cost
from wassertight.types import InputError

DISTANCES = st.lists(
    st.one_of(st.floats(0.01, 3), st.just(0.0), st.just(math.inf), st.just(0.5)), min_size=1, max_size=12
)
ORDERS = st.sampled_from([1.0, 1.5, 2.0, 5.0])


def _tensor(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _program(d: np.ndarray, w: np.ndarray, p: float, radius: float) -> float:
    use = np.isfinite(d)
    if not use.any():
        return 0.0
    cost = w[use] * (d[use] / radius) ** p
    return -float(linprog(-w[use], A_ub=cost[None], b_ub=[1.0], bounds=[(0, 1)] * int(use.sum())).fun)


@settings(max_examples=150, deadline=None)
@given(DISTANCES, ORDERS, st.floats(0.05, 2), st.integers(0, 2**31))
def test_greedy_equals_linear_program_and_dual(d: list[float], p: float, radius: float, seed: int) -> None:
    w = np.random.default_rng(seed).uniform(0.1, 1, len(d))
    flips = FlipDistances.attacked(_tensor(d), torch.tensor(w))
    plan = flips.allocate(p, radius)
    assert plan.value == pytest.approx(_program(np.array(d), w / w.sum(), p, radius), abs=1e-7)
    assert 1 - plan.value == pytest.approx(flips.accuracy(p, radius), abs=1e-12)
    assert plan.spent <= radius * (1 + 1e-12)
    assert int(((plan.fractions > 0) & (plan.fractions < 1)).sum()) <= 1
    for t in (0.3, 1.0, radius, 2.5):
        assert flips.dual_value(p, radius, t) >= plan.value - 1e-12
    if math.isfinite(plan.threshold):
        assert flips.dual_value(p, radius, plan.threshold) == pytest.approx(plan.value, abs=1e-10)


@settings(max_examples=80, deadline=None)
@given(DISTANCES, ORDERS, st.floats(0.01, 1))
def test_properties(d: list[float], p: float, radius: float) -> None:
    flips = FlipDistances.attacked(_tensor(d))
    a = flips.accuracy(p, radius)
    assert flips.accuracy(p, 1.1 * radius) <= a + 1e-12
    assert flips.accuracy(p + 1, radius) >= a - 1e-12
    assert a <= flips.accuracy(math.inf, radius) + 1e-12
    scaled = FlipDistances.attacked(2 * _tensor(d))
    assert scaled.accuracy(p, 2 * radius) == pytest.approx(a, abs=1e-9)
    doubled = FlipDistances.attacked(_tensor(d + d))
    assert doubled.accuracy(p, radius) == pytest.approx(a, abs=1e-9)
    weighted = FlipDistances.attacked(_tensor(d), torch.full((len(d),), 3.0))
    assert weighted.accuracy(p, radius) == pytest.approx(a, abs=1e-12)
    budgets = [0.5 * radius**p, radius**p, 1.5 * radius**p]
    low, middle, high = (1 - flips.accuracy(p, b ** (1 / p)) for b in budgets)
    assert middle >= (low + high) / 2 - 1e-9, "K is concave in the budget"
    far = _tensor(d)
    far = torch.where((far > radius) & (far < 1.01 * radius), 2 * radius, far)
    calm = FlipDistances.attacked(far)
    assert calm.accuracy(5000.0, radius) == pytest.approx(calm.accuracy(math.inf, radius), abs=1e-6)


@pytest.mark.parametrize("p", [1.0, 2.0, 4.0])
def test_uniform_law(p: float) -> None:
    n, delta = 200_000, 0.05
    d = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    exact = 1 - (p + 1) ** (1 / (p + 1)) * delta ** (p / (p + 1))
    assert FlipDistances.attacked(d).accuracy(p, delta) == pytest.approx(exact, abs=1e-6)


def test_two_defaults_for_missing() -> None:
    d = _tensor([math.nan, 0.5])
    assert FlipDistances.attacked(d).accuracy(math.inf, 0.1) == 1.0
    assert FlipDistances.certified(d).accuracy(math.inf, 0.1) == 0.5


def test_ties_at_infinity_and_closed_balls() -> None:
    d = _tensor([0.1, 0.2])
    assert FlipDistances.attacked(d).accuracy(math.inf, 0.1) == 0.5
    assert FlipDistances.certified(d).accuracy(math.inf, 0.1) == 0.5
    assert FlipDistances.certified(d, closed=True).accuracy(math.inf, 0.1) == 1.0


@pytest.mark.parametrize("d", [[0.0, 0.0], [math.inf, math.inf], [0.3], [0.3, 0.3]])
@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
@pytest.mark.parametrize("radius", [0.0, 0.1, 100.0])
def test_degenerate_cases_are_quiet(d: list[float], p: float, radius: float) -> None:
    flips = FlipDistances.attacked(_tensor(d))
    expected = 1 - min(1.0, (radius / 0.3) ** p) if d[0] == 0.3 and math.isfinite(p) else None
    plan = flips.allocate(p, radius)
    assert 1 - plan.value == pytest.approx(flips.accuracy(p, radius), abs=1e-12)
    if expected is not None:
        assert flips.accuracy(p, radius) == pytest.approx(expected)
    if radius == 0:
        assert plan.value == float(d[0] == 0)


def test_budget_left_over_and_label_cost() -> None:
    flips = FlipDistances.attacked(_tensor([0.1, math.inf]))
    plan = flips.allocate(1, 5.0)
    assert (plan.value, plan.threshold, plan.multiplier) == (0.5, math.inf, 0.0)
    assert plan.spent == pytest.approx(0.05)
    assert flips.relabelled(0.05).values.tolist() == [0.05, 0.05]


@pytest.mark.parametrize(
    ("d", "w"), [([-1.0], None), ([], None), ([1.0], [math.nan]), ([1.0], [0.0]), ([1.0], [1.0, 1.0])]
)
def test_bad_input(d: list[float], w: list[float] | None) -> None:
    with pytest.raises(InputError):
        FlipDistances.attacked(_tensor(d), None if w is None else _tensor(w))


@pytest.mark.parametrize(("p", "radius"), [(0.5, 0.1), (1.0, -0.1), (1.0, math.nan)])
def test_bad_budget(p: float, radius: float) -> None:
    with pytest.raises(InputError):
        FlipDistances.attacked(_tensor([1.0])).allocate(p, radius)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(2, 5), st.integers(0, 2**31), st.floats(0, 3))
def test_segments_against_linear_program(n: int, m: int, seed: int, budget: float) -> None:
    rng = np.random.default_rng(seed)
    c = np.sort(rng.uniform(0, 2, (n, m)), 1)
    c[:, 0] = 0
    h, w = rng.normal(size=(n, m)), rng.uniform(0.2, 1, n)
    w /= w.sum()
    got = allocate_segments(torch.tensor(c), torch.tensor(h), budget, torch.tensor(w))
    equal = np.kron(np.eye(n), np.ones(m))
    program = linprog(
        -(w[:, None] * h).ravel(), A_ub=(w[:, None] * c).ravel()[None], b_ub=[budget], A_eq=equal, b_eq=np.ones(n)
    )
    assert got.value == pytest.approx(-program.fun, abs=1e-7)
    assert got.spent <= budget + 1e-12
    assert int((got.lower != got.upper).sum()) <= 1


def test_segments_contain_the_knapsack() -> None:
    d = torch.rand(30, dtype=torch.float64) + 0.05
    c = torch.stack((torch.zeros(30, dtype=torch.float64), d**2), 1)
    h = torch.tensor([[0.0, 1.0]], dtype=torch.float64).expand(30, 2)
    got = allocate_segments(c, h, 0.2**2)
    assert got.value == pytest.approx(FlipDistances.attacked(d).allocate(2, 0.2).value, abs=1e-12)


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_cost_against_pot(p: float) -> None:
    """The knapsack's measure costs what optimal transport says, when every atom is nearest to its own source."""
    rng = torch.Generator().manual_seed(0)
    x = torch.arange(8, dtype=torch.float64)[:, None] * 10
    z = x + torch.rand(8, 1, generator=rng, dtype=torch.float64)
    flips = FlipDistances.attacked((z - x).abs().squeeze(1))
    plan = flips.allocate(p, 0.2)
    law = DiscreteMeasure.mixture(x, z, plan.fractions, flips.weights)
    assert len(law) <= 9
    matrix = (x - law.atoms.T).abs().numpy() ** p
    exact = ot.emd2(flips.weights.numpy(), law.weights.numpy(), matrix) ** (1 / p)
    assert plan.spent == pytest.approx(exact, abs=1e-9)
    assert plan.spent == pytest.approx(0.2, abs=1e-9)
    whole = mean_cost((z - x).abs().squeeze(1), flips.weights, p)
    assert whole == pytest.approx(
        ot.emd2(flips.weights.numpy(), flips.weights.numpy(), (x - z.T).abs().numpy() ** p) ** (1 / p)
    )


def test_population_bound_holds() -> None:
    rng, failures, draws = torch.Generator().manual_seed(0), 0, 400
    for _ in range(draws):
        d = torch.empty(200, dtype=torch.float64).exponential_(generator=rng)
        t = 0.6
        budget, truth = 1 - (1 + t) * math.exp(-t), math.exp(-t)
        failures += FlipDistances.certified(d).population_accuracy(1, budget, eta=0.05) > truth
    assert failures / draws <= 0.05
