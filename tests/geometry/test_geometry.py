"""Norms, dual directions, projections, sampling and hyperplanes against independent answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize

from wassertight.geometry import closest_on_hyperplane, conjugate, dual_direction, norm, project_ball, sample_ball
from wassertight.types import InputError

ORDERS = [1.0, 2.0, math.inf]


@pytest.mark.parametrize("r", [1.0, 2.0, 3.0, math.inf])
def test_dual_direction_attains_the_dual_norm(r: float) -> None:
    g = torch.randn(50, 3, 4, dtype=torch.float64)
    u = dual_direction(g, r)
    assert torch.allclose(norm(u, r), torch.ones(50, dtype=torch.float64))
    assert torch.allclose((g * u).flatten(1).sum(1), norm(g, conjugate(r)))


@pytest.mark.parametrize("r", [1.0, 2.0, 3.0, math.inf])
def test_zero_gradient_gives_zero_direction(r: float) -> None:
    assert torch.equal(dual_direction(torch.zeros(2, 5), r), torch.zeros(2, 5))


@pytest.mark.parametrize("r", ORDERS)
def test_projection_is_the_closest_point(r: float) -> None:
    d = torch.randn(40, 6, dtype=torch.float64)
    z = project_ball(d, 0.8, r)
    assert (norm(z, r) <= 0.8 + 1e-12).all()
    assert torch.allclose(project_ball(z, 0.8, r), z)
    others = sample_ball(d, 0.8, r, torch.Generator().manual_seed(1))
    assert (((d - z) * (others - z)).sum(1) <= 1e-9).all(), "the variational inequality of a projection"


def test_projection_per_sample_radius_and_refusal() -> None:
    d = torch.ones(2, 4)
    assert torch.allclose(norm(project_ball(d, torch.tensor([0.5, 9.0]), 1.0), 1.0), torch.tensor([0.5, 4.0]))
    with pytest.raises(InputError, match="L1, L2 and Linf"):
        project_ball(d, 1.0, 3.0)


@pytest.mark.parametrize("r", [1.0, 2.0, 3.0, math.inf])
def test_samples_are_uniform_in_the_ball(r: float) -> None:
    z = sample_ball(torch.zeros(20_000, 3, dtype=torch.float64), 2.0, r, torch.Generator().manual_seed(0))
    size = norm(z, r) / 2
    assert (size <= 1 + 1e-12).all()
    assert abs(float((size**3).mean()) - 0.5) < 0.01, "the volume inside radius s grows like s**dim"
    assert float(z.mean(0).abs().max()) < 0.03


def _reference(x: np.ndarray, g: np.ndarray, rise: float, r: float) -> float:
    room = np.where(g > 0, 1 - x, x)
    size = np.abs(g)
    if math.isinf(r):
        got = linprog([1] + [0] * len(g), A_ub=np.vstack([np.r_[0, -size][None], np.c_[-np.ones(len(g)), np.eye(len(g))]]),
                      b_ub=np.r_[-rise, np.zeros(len(g))], bounds=[(0, None), *[(0, v) for v in room]])  # fmt: skip
        return float(got.x[0])
    if r == 1:
        return float(linprog(np.ones(len(g)), A_ub=-size[None], b_ub=[-rise], bounds=[(0, v) for v in room]).fun)
    got = minimize(lambda d: (d**2).sum(), room / 2, jac=lambda d: 2 * d, bounds=[(0, v) for v in room], method="SLSQP",
                   constraints={"type": "ineq", "fun": lambda d: size @ d - rise, "jac": lambda d: size},
                   options={"ftol": 1e-14, "maxiter": 500})  # fmt: skip
    return float(np.sqrt(got.fun))


@pytest.mark.parametrize("r", ORDERS)
def test_hyperplane_matches_a_solver(r: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(25):
        x, g = rng.random(6), rng.normal(size=6)
        reach = (np.abs(g) * np.where(g > 0, 1 - x, x)).sum()
        rise = float(rng.uniform(0.05, 0.95) * reach)
        d, ok = closest_on_hyperplane(
            torch.tensor(x)[None], torch.tensor(g)[None], torch.tensor([rise], dtype=torch.float64), r, (0.0, 1.0)
        )
        assert bool(ok)
        assert float(norm(d, r)) == pytest.approx(_reference(x, g, rise, r), abs=2e-6)
        assert float((torch.tensor(g) * d[0]).sum()) == pytest.approx(rise, abs=1e-9)
        assert ((torch.tensor(x) + d[0]) >= -1e-12).all()
        assert ((torch.tensor(x) + d[0]) <= 1 + 1e-12).all()


@pytest.mark.parametrize("r", ORDERS)
def test_hyperplane_unbounded_unreachable_and_done(r: float) -> None:
    x, g = torch.full((1, 3), 0.5, dtype=torch.float64), torch.tensor([[1.0, -2.0, 0.0]], dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    d, ok = closest_on_hyperplane(x, g, one, r, None)
    assert bool(ok)
    assert float(norm(d, r)) == pytest.approx(1 / float(norm(g, conjugate(r))))
    d, ok = closest_on_hyperplane(x, g, 9 * one, r, (0.0, 1.0))
    assert not bool(ok)
    assert d.tolist() == [[0.5, -0.5, 0.0]]
    assert closest_on_hyperplane(x, g, -one, r, None)[0].abs().sum() == 0
