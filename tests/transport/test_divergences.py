"""Worst weights against a general convex solver, optimality conditions, closed forms and every degenerate case."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, minimize, root

from divergence_cases import ALL, definition, name
from wassertight.transport import (
    KL,
    AlphaDivergence,
    Ending,
    LearnedDual,
    Renyi,
    divergence_named,
    weights_at_price,
    worst_weights,
)  # fmt: skip
from wassertight.transport.weighting import Divergence
from wassertight.types import InputError

ALPHAS = [d for d in ALL if isinstance(d, AlphaDivergence) and d.order >= 0]  # scipy's root finder gets lost below


def _losses(n: int, seed: int = 0, kind: str = "gamma") -> torch.Tensor:
    rng = np.random.default_rng(seed)
    draws = {"gamma": rng.gamma(2.0, 1.0, n), "lognormal": rng.lognormal(0, 3, n), "uniform": rng.random(n)}
    return torch.from_numpy(draws[kind])


def _slopes(w: np.ndarray, a: float) -> np.ndarray:
    return np.log(w) if a == 1 else (w ** (a - 1) - 1) / (a - 1)


def _spent(w: np.ndarray, d: Divergence) -> float:
    value, a = definition(w, d.moment), d.moment
    return math.log1p(a * (a - 1) * value) / (a * (a - 1)) if isinstance(d, Renyi) and a != 0 else value


@pytest.mark.parametrize("divergence", ALL, ids=name)
@pytest.mark.parametrize("radius", [1e-8, 1e-3, 0.2])
def test_against_a_general_solver(divergence: Divergence, radius: float) -> None:
    """SLSQP on the primal, in the variable (w - 1) / sqrt(2 radius)."""
    l = _losses(25, seed=3).numpy()  # noqa: E741
    size, a = math.sqrt(2 * radius), divergence.moment
    budget = float(divergence.budget(torch.tensor(radius, dtype=torch.float64)))
    floor = -1 / size if a >= 1 else -(1 - 1e-9) / size

    def inside(v: np.ndarray) -> float:
        return 1 - definition(np.maximum(1 + size * v, 0 if a > 0 else 1e-12), a) / budget

    def steep(v: np.ndarray) -> np.ndarray:
        return -_slopes(np.maximum(1 + size * v, 1e-12), a) * size / budget / len(v)

    solved = minimize(
        lambda v: -np.mean(v * l), (l - l.mean()) / l.std() * 0.5, jac=lambda v: -l / len(l), method="SLSQP",
        bounds=[(floor, None)] * len(l), options={"maxiter": 500, "ftol": 1e-15},
        constraints=[{"type": "ineq", "fun": inside, "jac": steep}, {"type": "eq", "fun": lambda v: np.mean(v), "jac": lambda v: np.ones_like(v) / len(v)}],
    )  # fmt: skip
    found = worst_weights(divergence, torch.from_numpy(l), radius)
    assert float(found.value) == pytest.approx(l.mean() - size * solved.fun, abs=1e-7)
    assert np.abs(found.density.numpy() - (1 + size * solved.x)).max() < 2e-5  # the solver's weights, not ours
    assert _spent(found.density.numpy(), divergence) <= radius * (1 + 1e-10)


@pytest.mark.parametrize("divergence", ALL, ids=name)
@pytest.mark.parametrize(("n", "kind"), [(2, "gamma"), (60, "lognormal"), (1000, "uniform"), (1000, "gamma")])
def test_optimality_conditions(divergence: Divergence, n: int, kind: str) -> None:
    """Feasible, tight and stationary: by convexity nothing else can be optimal. Radii up to almost the maximum."""
    losses = _losses(n, seed=n, kind=kind)
    a = divergence.moment
    peak = np.zeros(n)
    peak[int(losses.argmax())] = n
    full = _spent(peak, divergence) if a > 0 else 3.0
    for radius in (1e-8, 1e-4, 0.05 * full, 0.97 * full):
        found = worst_weights(divergence, losses, radius)
        w, l = found.density.numpy(), losses.numpy()  # noqa: E741
        assert int(found.ending) == Ending.SOLVED
        assert w.mean() == pytest.approx(1, abs=1e-12)
        assert w.min() >= 0
        assert _spent(w, divergence) == pytest.approx(radius, rel=2e-8 if radius < 1e-6 else 1e-9)
        assert float(found.spent) <= radius * (1 + 1e-12)
        lam = float(found.price)
        scale = 1 / (1 + a * (a - 1) * definition(w, a)) if isinstance(divergence, Renyi) and a != 0 else 1.0
        inner = w > 1e-9
        shift = l[inner] - lam * scale * _slopes(w[inner], a)
        assert np.ptp(shift) <= (1e-5 if a > 2 else 1e-6) * (1 + np.ptp(l))
        if (~inner).any() and a > 1:
            assert (l[~inner] + lam * scale / (a - 1)).max() <= shift.mean() + 1e-6 * (1 + np.ptp(l))


@pytest.mark.parametrize("divergence", ALL, ids=name)
def test_primal_equals_dual(divergence: Divergence) -> None:
    for kind in ("gamma", "lognormal", "uniform"):
        losses = _losses(200, kind=kind)
        for radius in (1e-6, 0.1, 0.5):
            found = worst_weights(divergence, losses, radius)
            dual = found.price * radius + found.price * divergence.conjugate(losses / found.price)
            assert float(dual) == pytest.approx(float(found.value), rel=1e-9)


@pytest.mark.parametrize("divergence", ALPHAS, ids=name)
def test_learned_pair_of_equations(divergence: AlphaDivergence) -> None:
    """scipy's root finder on the two dual equations, n = 1,000."""
    losses, a, radius = _losses(1000, seed=5), divergence.order, 0.15
    found = worst_weights(divergence, losses, radius)
    l = losses.numpy()  # noqa: E741

    def weights(s: np.ndarray) -> np.ndarray:
        y = (l - s[1]) / math.exp(s[0])
        return np.exp(y) if a == 1 else np.maximum(1 + (a - 1) * y, 0 if a > 1 else 1e-9) ** (1 / (a - 1))

    def equations(s: np.ndarray) -> list[float]:
        w = weights(s)
        return [w.mean() - 1, definition(w / w.mean(), a) / radius - 1]

    lam = float(found.price)
    shift = float(
        np.mean((l - lam * _slopes(np.maximum(found.density.numpy(), 1e-300), a))[found.density.numpy() > 1e-6])
    )
    start = np.array([math.log(lam) + 1e-3, shift + 1e-3])
    solved = root(equations, start, tol=1e-14)
    assert np.mean(weights(solved.x) * l) == pytest.approx(float(found.value), abs=1e-7)
    assert np.abs(weights(solved.x) - found.density.numpy()).max() < 1e-7 * found.density.max()


@pytest.mark.parametrize("divergence", ALL, ids=name)
def test_two_valued_losses(divergence: Divergence) -> None:
    """The worst mean is the inverted two-point divergence."""
    m, a = 0.2, divergence.moment
    losses = torch.tensor([1.0] * 20 + [0.0] * 80, dtype=torch.float64)

    def two(v: float) -> float:
        return _spent(np.array([v / m] * 20 + [(1 - v) / (1 - m)] * 80), divergence)

    v = brentq(lambda v: two(v) - 0.1, m, 1 - 1e-9, xtol=1e-14)
    assert float(worst_weights(divergence, losses, 0.1).value) == pytest.approx(v, abs=1e-10)
    if a == 1:
        assert v * math.log(v / m) + (1 - v) * math.log((1 - v) / (1 - m)) == pytest.approx(0.1)


def test_closed_forms() -> None:
    losses = _losses(300)
    mean, sd = losses.mean(), losses.std(correction=0)
    chi = worst_weights(AlphaDivergence(order=2.0), losses, 1e-3)
    assert torch.allclose(chi.density, 1 + math.sqrt(2e-3) * (losses - mean) / sd, atol=1e-12)


@pytest.mark.parametrize("a", [2.0, 3.0])
def test_one_dimensional_formula(a: float) -> None:
    """value = inf over nu of nu + (1 + eps a (a - 1))^(1/a) ||(l - nu)_+||_a'."""
    losses, eps, dual = _losses(300), 0.4, a / (a - 1)
    best = minimize(
        lambda nu: nu[0] + (1 + eps * a * (a - 1)) ** (1 / a) * np.mean(np.maximum(losses.numpy() - nu[0], 0) ** dual) ** (1 / dual),
        [0.0], method="Nelder-Mead", options={"xatol": 1e-12, "fatol": 1e-14},
    )  # fmt: skip
    assert float(worst_weights(AlphaDivergence(order=a), losses, eps).value) == pytest.approx(best.fun, abs=1e-9)


def test_families_meet() -> None:
    losses = _losses(80)
    for b in (0.4, 1.25, 2.95):
        a, eps = 1 - b, 0.2
        same = math.expm1(a * (a - 1) * eps) / (a * (a - 1))
        left = worst_weights(Renyi(order=b), losses, eps)
        right = worst_weights(AlphaDivergence(order=a), losses, same)
        assert torch.allclose(left.density, right.density, atol=1e-10)
    for limit in (0.0, 1.0):
        near = worst_weights(AlphaDivergence(order=limit + 1e-5), losses, 0.2).value
        assert float(near) == pytest.approx(
            float(worst_weights(AlphaDivergence(order=limit), losses, 0.2).value), abs=1e-5
        )
    small = [float(worst_weights(d, losses, 1e-7).value - losses.mean()) for d in ALL]
    assert max(small) == pytest.approx(min(small), rel=2e-3)


@pytest.mark.parametrize("divergence", ALL, ids=name)
def test_invariances(divergence: Divergence) -> None:
    losses, radius = _losses(30), 0.2
    base = worst_weights(divergence, losses, radius)
    moved = worst_weights(divergence, 7 * losses - 3, radius)
    assert torch.allclose(moved.density, base.density, atol=1e-9)
    assert float(moved.price) == pytest.approx(7 * float(base.price), rel=1e-8)
    order = torch.randperm(30)
    assert torch.allclose(worst_weights(divergence, losses[order], radius).density, base.density[order], atol=1e-10)
    twice = torch.cat((losses, losses[:1]))
    mu = torch.full((30,), 1 / 31, dtype=torch.float64)
    mu[0] = 2 / 31
    assert float(worst_weights(divergence, losses, radius, mu).value) == pytest.approx(
        float(worst_weights(divergence, twice, radius).value), abs=1e-10
    )
    empty = torch.cat((mu, torch.zeros(1, dtype=torch.float64)))
    padded = torch.cat((losses, torch.full((1,), 1e3, dtype=torch.float64)))
    assert float(worst_weights(divergence, padded, radius, empty).value) == pytest.approx(
        float(worst_weights(divergence, losses, radius, mu).value), abs=1e-10
    )


@pytest.mark.parametrize("divergence", [KL, AlphaDivergence(order=2.0), AlphaDivergence(order=3.0), Renyi(order=1.25)], ids=name)  # fmt: skip
def test_envelope_theorem(divergence: Divergence) -> None:
    losses = _losses(12).requires_grad_(True)
    worst_weights(divergence, losses, 0.1).value.backward()  # type: ignore[no-untyped-call]
    step, grad = 1e-6, losses.grad
    assert grad is not None
    for i in range(12):
        bump = torch.zeros(12, dtype=torch.float64)
        bump[i] = step
        up, down = (worst_weights(divergence, losses.detach() + s * bump, 0.1).value for s in (1, -1))
        assert float(grad[i]) == pytest.approx(float(up - down) / (2 * step), abs=1e-7)


@pytest.mark.parametrize("divergence", ALL, ids=name)
def test_degenerate_cases(divergence: Divergence) -> None:
    losses = torch.stack((_losses(6), torch.full((6,), 2.0), torch.tensor([1.0, 1, 0, 0, 0, 0]))).double()
    radii = torch.tensor([0.0, 0.5, 50.0], dtype=torch.float64)
    found = worst_weights(divergence, losses, radii)
    last = Ending.SATURATED if divergence.moment > 0 else Ending.SOLVED
    assert found.ending.tolist() == [Ending.RADIUS_ZERO, Ending.EQUAL_LOSSES, last]
    assert torch.equal(found.density[:2], torch.ones(2, 6).double())
    assert found.price[0] == math.inf
    assert found.price[1] == 0
    assert float(found.value[0]) == pytest.approx(float(losses[0].mean()))
    if divergence.moment > 0:
        assert float(found.value[2]) == pytest.approx(1.0)
        assert found.density[2].tolist() == [3.0, 3.0, 0, 0, 0, 0]
    one = worst_weights(divergence, torch.tensor([5.0]), 0.3)
    assert (float(one.value), int(one.ending)) == (5.0, Ending.EQUAL_LOSSES)


def test_bad_input_is_named() -> None:
    with pytest.raises(InputError, match=r"index \(1,\)"):
        worst_weights(KL, torch.tensor([0.0, math.nan]), 0.1)
    with pytest.raises(InputError, match="radius"):
        worst_weights(KL, torch.tensor([0.0, 1.0]), -0.1)
    for make in (
        lambda: Renyi(order=0.0),
        lambda: AlphaDivergence(order=math.nan),
        lambda: divergence_named("jeffreys"),
    ):
        with pytest.raises(InputError):
            make()
    assert divergence_named("revKL") == AlphaDivergence(order=0.0)


@pytest.mark.parametrize("divergence", ALL, ids=name)
def test_weights_at_a_price_maximise(divergence: Divergence) -> None:
    losses = _losses(20)
    w = weights_at_price(divergence, losses, 0.7)
    best = float((w * losses).mean() - 0.7 * divergence.value(w))
    assert best == pytest.approx(0.7 * float(divergence.conjugate(losses / 0.7)), abs=1e-9)
    for seed in range(50):
        other = w * torch.exp(0.1 * torch.randn(20, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
        other = other / other.mean()
        assert float((other * losses).mean() - 0.7 * divergence.value(other)) <= best + 1e-12


def test_learned_duals_hardly_move() -> None:
    """Rows of the released code: about the rate a step, so that the radius in force is far below the one asked for."""
    losses, dual = _losses(128, seed=1), LearnedDual(order=6.0)
    for _ in range(1000):
        dual = dual.updated(losses, 0.5)
    assert 1e-3 < abs(dual.lam - 1) < 1000 * 4e-6 * 1.2
    w = dual.weights(losses)
    assert float(w.mean()) != pytest.approx(1, abs=1e-2)
    assert float(AlphaDivergence(order=6.0).value(w / w.mean())) < 0.05
