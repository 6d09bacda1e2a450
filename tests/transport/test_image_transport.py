"""Transport between pixels against independent solvers: linear programmes, SLSQP, POT and the flow form of W_1."""

from __future__ import annotations

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize
from torch import Tensor

from wassertight.transport.capacity import balanced, realised, return_to_sender
from wassertight.transport.exact import image_distance
from wassertight.transport.polytope import entropic_oracle, exact_oracle, project
from wassertight.transport.sinkhorn import projected_sinkhorn, wright_omega
from wassertight.transport.windows import LocalPlans

Arcs = tuple[np.ndarray, np.ndarray, np.ndarray]


def images(n: int, *shape: int, dark: float = 0.3) -> Tensor:
    return torch.rand(n, *shape, dtype=torch.float64) * (torch.rand(n, *shape) > dark)


def arcs(h: int, w: int, k: int, p: float = 1, r: float = 2) -> Arcs:
    """Sources, targets and costs of every window arc inside an image."""
    m = k // 2
    found = [
        (y * w + x, (y + dy) * w + x + dx, (abs(dy) ** r + abs(dx) ** r) ** (p / r))
        for y in range(h) for x in range(w) for dy in range(-m, m + 1) for dx in range(-m, m + 1)
        if 0 <= y + dy < h and 0 <= x + dx < w
    ]  # fmt: skip
    sources, targets, costs = zip(*found, strict=True)
    return np.array(sources), np.array(targets), np.array(costs)


def rows_matrix(index: np.ndarray, count: int) -> np.ndarray:
    matrix = np.zeros((count, len(index)))
    matrix[index, np.arange(len(index))] = 1
    return matrix


@pytest.mark.parametrize("k", [3, 5])
@pytest.mark.parametrize(("p", "r"), [(1, 2), (1, 1), (2, 2)])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("h", "w"), [(4, 5), (2, 2), (1, 4)])
def test_exact_oracle_solves_the_linear_programme(k: int, p: float, r: float, ties: bool, h: int, w: int) -> None:
    x, g = images(4, 1, h, w), torch.randn(4, 1, h, w, dtype=torch.float64)
    g = g.round() if ties else g
    budget = torch.tensor([0.0, 1e-3, 0.4, 100.0], dtype=torch.float64)
    plans = LocalPlans.of(x, k, p, r)
    vertex = exact_oracle(plans, g, budget)
    plan = torch.zeros_like(plans.stay())
    vertex.add_to(plan, torch.ones(4, dtype=torch.float64))
    assert torch.allclose(plans.push(plan), vertex.image(), atol=1e-12)
    assert torch.allclose(plan.sum(1), plans.mass, atol=1e-12)
    assert float(plan.min()) >= -1e-15
    assert torch.allclose(plans.spent(plan), vertex.cost, atol=1e-12)
    assert bool((vertex.cost <= budget + 1e-12).all())
    sources, targets, costs = arcs(h, w, k, p, r)
    for i in range(4):
        best = linprog(
            -g[i].flatten().numpy()[targets], A_eq=rows_matrix(sources, h * w), b_eq=x[i].flatten().numpy(),
            A_ub=costs[None], b_ub=[float(budget[i])],
        )  # fmt: skip
        assert -best.fun == pytest.approx(float((vertex.image()[i] * g[i]).sum()), abs=1e-8)


def test_entropic_oracle_loses_at_most_its_entropy() -> None:
    x, g = images(3, 2, 5, 4), torch.randn(3, 2, 5, 4, dtype=torch.float64)
    g /= g.flatten(1).abs().amax(1).view(-1, 1, 1, 1)
    budget = torch.tensor([1e-3, 0.7, 100.0], dtype=torch.float64)
    plans = LocalPlans.of(x, 5)
    plan = entropic_oracle(plans, g, budget, gamma=1e-3)
    assert bool((plans.spent(plan) <= budget * (1 + 1e-9)).all())
    assert torch.allclose(plan.sum(1), plans.mass)
    loss = ((exact_oracle(plans, g, budget).image() - plans.push(plan)) * g).sum((1, 2, 3))
    assert bool((loss >= -1e-9).all())
    assert bool((loss <= 1e-3 * x.sum((1, 2, 3)) * np.log(25) + 1e-9).all())


@pytest.mark.parametrize("budget", [0.05, 0.3])
def test_projection_is_the_nearest_plan(budget: float) -> None:
    x = images(1, 1, 3, 3, dark=0.2)
    plans = LocalPlans.of(x, 3)
    wanted = plans.stay() + 0.3 * torch.randn(plans.stay().shape, dtype=torch.float64)
    limit = torch.tensor([budget], dtype=torch.float64)
    plan, multiplier = project(plans, wanted, limit, steps=80)
    assert float(multiplier) > 0
    assert float(plans.spent(plan)) == pytest.approx(budget, rel=1e-5)
    inside = (plans.pull(torch.ones_like(x)) > 0)[0].numpy()
    flat = inside.nonzero()
    target = wanted[0].numpy()[flat]
    costs = np.broadcast_to(plans.costs[:, None].numpy(), inside.shape)[flat]
    sums = rows_matrix(flat[1], inside.shape[1])
    solved = minimize(
        lambda v: 0.5 * ((v - target) ** 2).sum(), np.clip(target, 0, None), jac=lambda v: v - target, method="SLSQP",
        bounds=[(0, None)] * len(target), options={"ftol": 1e-14, "maxiter": 500},
        constraints=[
            {"type": "eq", "fun": lambda v: sums @ v - plans.mass[0].numpy(), "jac": lambda v: sums},
            {"type": "ineq", "fun": lambda v: budget - costs @ v, "jac": lambda v: -costs},
        ],
    )  # fmt: skip
    assert np.abs(plan[0].numpy()[flat] - solved.x).max() < 1e-5
    again, _ = project(plans, plan, limit, steps=80)
    assert torch.allclose(again, plan, atol=1e-6)


def test_projection_inside_the_budget_has_no_multiplier() -> None:
    x = images(2, 1, 4, 4)
    plans = LocalPlans.of(x, 3)
    plan, multiplier = project(plans, plans.stay(), torch.full((2,), 0.5, dtype=torch.float64))
    assert torch.allclose(plan, plans.stay())
    assert float(multiplier.max()) == 0


def test_push_and_pull_are_adjoint_and_corners_keep_their_light() -> None:
    x, g = images(2, 3, 5, 6), torch.randn(2, 3, 5, 6, dtype=torch.float64)
    plans = LocalPlans.of(x, 5)
    inside = plans.pull(torch.ones_like(x))
    plan = torch.rand(plans.stay().shape, dtype=torch.float64) * inside * (plans.mass > 0)[:, None]
    assert torch.allclose((plans.push(plan) * g).sum((1, 2, 3)), (plan * plans.pull(g)).sum((1, 2)))
    corner = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    corner[..., 0, 0] = 1
    moved = exact_oracle(LocalPlans.of(corner, 5), torch.randn_like(corner), torch.full((1,), 9.0, dtype=torch.float64))
    assert float(moved.image().sum()) == pytest.approx(1)


def test_omega() -> None:
    t = torch.linspace(-70, 2000, 500, dtype=torch.float64)
    y = wright_omega(t)
    assert torch.allclose(y + y.log(), t, atol=1e-12)
    assert bool(torch.isfinite(wright_omega(torch.tensor([-torch.inf, 1e6]))).all())


@pytest.mark.parametrize("cap", [None, 0.8])
def test_sinkhorn_solves_its_programme(cap: float | None) -> None:
    x = images(1, 1, 3, 3, dark=0.2).clamp(0, 0.8)
    w = (x + 0.2 * torch.randn_like(x)).clamp(-0.1, 1.2)
    light, sharpness, radius = x.sum((1, 2, 3)), 40.0, 0.2
    plans = LocalPlans.of(x, 3)
    plan, duals = projected_sinkhorn(
        plans, w, light, radius * light, sharpness=sharpness, cap=cap, rounds=4000, tolerance=1e-14
    )
    mine = plans.push(plan)[0, 0].flatten().numpy() / float(light)
    sources, targets, costs = arcs(3, 3, 3)
    share, wanted = (x / light).flatten().numpy(), (w / light).flatten().numpy()
    keep = share[sources] > 0
    sources, targets, costs = sources[keep], targets[keep], costs[keep]
    out, into = rows_matrix(sources, 9), rows_matrix(targets, 9)

    def value(v: np.ndarray) -> float:
        return float(sharpness / 2 * ((wanted - into @ v) ** 2).sum() + (v * np.log(np.maximum(v, 1e-300))).sum())

    def slope(v: np.ndarray) -> np.ndarray:
        return sharpness * into.T @ (into @ v - wanted) + np.log(np.maximum(v, 1e-300)) + 1

    rules = [
        {"type": "eq", "fun": lambda v: (out @ v - share)[share > 0], "jac": lambda v: out[share > 0]},
        {"type": "ineq", "fun": lambda v: radius - costs @ v, "jac": lambda v: -costs},
    ]
    if cap is not None:
        rules.append({"type": "ineq", "fun": lambda v: cap / float(light) - into @ v, "jac": lambda v: -into})
    count = np.bincount(sources, minlength=9)
    solved = minimize(
        value, share[sources] / count[sources], jac=slope, method="SLSQP", bounds=[(1e-12, None)] * len(sources),
        constraints=rules, options={"ftol": 1e-15, "maxiter": 1000},
    )  # fmt: skip
    assert np.abs(mine - into @ solved.x).max() < 1e-5
    assert bool(duals.converged.all())
    assert duals.rounds < 4000


@pytest.mark.parametrize("sharpness", [1000.0, 1e5])
def test_sinkhorn_in_single_precision_never_overflows(sharpness: float) -> None:
    x = images(3, 1, 8, 8, dark=0.6)
    w = x + torch.randn_like(x)
    light = x.sum((1, 2, 3))
    for dtype in (torch.float32, torch.float64):
        plans = LocalPlans.of(x.to(dtype), 5)
        plan, _ = projected_sinkhorn(plans, w.to(dtype), light, 0.2 * light, sharpness=sharpness, cap=1.0, rounds=60)
        assert bool(torch.isfinite(plan).all())
        assert torch.allclose(plan.sum(1), plans.mass, rtol=1e-5, atol=1e-6)
        assert bool((plans.spent(plan) <= 0.2 * light * (1 + 1e-6)).all())


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), k=st.sampled_from([3, 5]))
def test_return_to_sender(seed: int, k: int) -> None:
    torch.manual_seed(seed)
    x = images(2, 1, 5, 5, dark=0.1)
    plans = LocalPlans.of(x, k)
    plan = torch.rand(plans.stay().shape, dtype=torch.float64) ** 4 * plans.pull(torch.ones_like(x)) + 1e-9
    plan *= plans.pull(torch.ones_like(x))
    plan *= (plans.mass / plan.sum(1).clamp_min(1e-300))[:, None]
    back, image = return_to_sender(plans, plan, 1.0, sweeps=2000, tolerance=1e-9)
    assert torch.allclose(back.sum(1), plans.mass)
    assert float(back.min()) >= 0
    assert float(image.max()) <= 1 + 1e-9
    assert bool((plans.spent(back) <= plans.spent(plan) + 1e-12).all())
    z = realised(plans, plan.float(), x.float(), 1.0)
    assert float(z.max()) <= 1
    assert torch.allclose(z.double().sum((1, 2, 3)), x.float().double().sum((1, 2, 3)), rtol=1e-6)


def test_white_images_cannot_move_under_the_cap() -> None:
    x = torch.ones(1, 1, 6, 6)
    plans = LocalPlans.of(x, 3)
    plan = plans.stay()
    exact_oracle(plans, torch.randn_like(x), torch.full((1,), 5.0, dtype=torch.float64)).add_to(plan, torch.ones(1))
    plan /= 2
    assert torch.allclose(realised(plans, plan, x, 1.0), x, atol=2e-5)


def test_balancing_stays_between_both_images() -> None:
    x, z = images(3, 2, 6, 6), images(3, 2, 6, 6)
    z = z * (x.sum((2, 3)) / z.sum((2, 3)))[:, :, None, None] * (1 + 1e-4 * torch.randn(3, 2, 1, 1))
    even = balanced(x, z)
    assert torch.allclose(even.sum((2, 3)), x.sum((2, 3)), atol=1e-12)
    low, high = torch.minimum(x, z), torch.maximum(x, z)
    assert bool(((even >= low - 1e-12) & (even <= high + 1e-12)).all())


def pot_distance(x: np.ndarray, z: np.ndarray, p: float, r: float) -> float:
    """The full programme of POT, without the residual trick."""
    grid = np.argwhere(np.ones_like(x[0]))
    cost = (np.abs(grid[:, None] - grid[None]) ** r).sum(2) ** (p / r)
    total = sum(
        a.sum() * ot.emd2(a.ravel() / a.sum(), b.ravel() / b.sum(), cost, numItermax=10**6)
        for a, b in zip(x, z, strict=True)
    )
    return float((total / x.sum()) ** (1 / p))


@pytest.mark.parametrize(("p", "r"), [(1, 2), (1, 1), (2, 2), (1.5, 2)])
def test_distance_is_that_of_pot(p: float, r: float) -> None:
    x, z = images(4, 2, 7, 6), images(4, 2, 7, 6)
    z = z * (x.sum((2, 3)) / z.sum((2, 3)))[:, :, None, None]
    found = image_distance(x, z, p=p, r=r)
    for i in range(4):
        assert float(found[i]) == pytest.approx(pot_distance(x[i].numpy(), z[i].numpy(), p, r), rel=1e-9)


def test_distance_is_the_least_flow() -> None:
    """r = 1: min sum |flow| over the edges of the grid with divergence z - x."""
    x, z = images(3, 1, 6, 6), images(3, 1, 6, 6)
    z = z * (x.sum((2, 3)) / z.sum((2, 3)))[:, :, None, None]
    edges = [(y * 6 + i, y * 6 + i + 1) for y in range(6) for i in range(5)]
    edges += [(y * 6 + i, y * 6 + i + 6) for y in range(5) for i in range(6)]
    net = np.zeros((36, 2 * len(edges)))
    for k, (a, b) in enumerate(edges):
        net[[a, b], k], net[[a, b], k + len(edges)] = (-1, 1), (1, -1)
    for i in range(3):
        flow = linprog(np.ones(2 * len(edges)), A_eq=net, b_eq=(z[i] - x[i]).flatten().numpy())
        found = float(image_distance(x[i : i + 1], z[i : i + 1], r=1))
        assert found == pytest.approx(flow.fun / float(x[i].sum()), rel=1e-7)


def test_distance_is_a_metric_that_scales_along_segments() -> None:
    a, b, c = (images(3, 1, 6, 6) for _ in range(3))
    b, c = (v * (a.sum((1, 2, 3)) / v.sum((1, 2, 3))).view(-1, 1, 1, 1) for v in (b, c))
    ab, bc, ac = image_distance(a, b), image_distance(b, c), image_distance(a, c)
    assert bool((ac <= ab + bc + 1e-9).all())
    assert torch.allclose(image_distance(a, a + 0.3 * (b - a)), 0.3 * ab, atol=1e-9)
    assert bool((ab <= image_distance(a, b, r=1) + 1e-12).all())
    assert bool((ab <= image_distance(a, b, p=2) + 1e-12).all())


def test_distance_refuses_what_is_no_moved_image() -> None:
    x = images(1, 2, 4, 4)
    assert float(image_distance(x, x.flip(1))) == float("inf")
    assert float(image_distance(x, 1.01 * x)) == float("inf")
    negative = x.clone()
    negative[0, 0, 0, 0] -= 1
    negative[0, 0, 1, 1] += 1
    assert float(image_distance(x.clamp(0, 0.5), negative.clamp_max(0.5))) == float("inf")
    black = torch.zeros_like(x)
    assert float(image_distance(black, black)) == 0


def test_rounding_noise_does_not_break_the_programme() -> None:
    x = images(1, 1, 12, 12).float()
    z = x.clone()
    z[0, 0, :6] += 1e-9 * torch.rand(6, 12)
    z[0, 0, 0, 0], z[0, 0, 0, 1] = x[0, 0, 0, 0] * 0.5, x[0, 0, 0, 1] + x[0, 0, 0, 0] * 0.5
    assert float(image_distance(x, z)) == pytest.approx(float(x[0, 0, 0, 0] * 0.5 / x.sum()), rel=1e-4, abs=1e-9)
