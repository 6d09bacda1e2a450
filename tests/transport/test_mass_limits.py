"""Radii from the light of each pixel against adversaries that climb the norm over the exact ball."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

from wassertight.transport.flows import flow_grid, pair_distances
from wassertight.transport.mass_limits import limited_radius


def best_plan(gain: np.ndarray, shares: np.ndarray, cost: np.ndarray, budget: float) -> np.ndarray:
    """The move m with the largest <gain, m> over plans from `shares` of cost at most `budget`; channels share it."""
    c, v = shares.shape
    rise = (gain[:, None, :] - gain[:, :, None]).reshape(c, -1)
    rows = np.kron(np.eye(c * v), np.ones(v))
    found = linprog(
        -rise.ravel(),
        A_ub=np.tile(cost.ravel(), c)[None],
        b_ub=[budget],
        A_eq=rows,
        b_eq=shares.ravel(),
        method="highs",
    )
    plan = found.x.reshape(c, v, v)
    return np.asarray(plan.sum(1) - plan.sum(2))


def climbed(shares: Tensor, budget: float, h: int, w: int, r: float, starts: int = 3) -> float:
    """The largest |m|_c that ascent by linear programmes finds in the ball."""
    inverse = flow_grid(h, w).inverse
    assert inverse is not None
    inner, cost = inverse.numpy(), pair_distances(h, w, r).numpy()
    mass = shares.flatten(1).double().numpy()
    best = 0.0
    for _ in range(starts):
        gain = np.random.default_rng(len(mass) + _).normal(size=mass.shape)
        for _ in range(6):
            move = best_plan(gain, mass, cost, budget)
            gain = move @ inner
        best = max(best, float(np.sqrt((move * gain).sum())))
    return best


@pytest.mark.parametrize(("channels", "h", "w"), [(1, 4, 3), (2, 3, 3)])
@pytest.mark.parametrize("r", [1.0, 2.0])
def test_no_plan_exceeds_the_norm(channels: int, h: int, w: int, r: float) -> None:
    grid = flow_grid(h, w)
    x = torch.rand(2, channels, h, w) ** 3
    x[0, 0, 1, 1] += 2.0
    for scale in (0.05, 0.25):
        shift = torch.full((2,), scale, dtype=torch.float64)
        radius = limited_radius(x, shift, grid, r)
        assert bool((radius >= scale * grid.kappa(r) * (1 - 1e-5)).all())
        for image, reach in zip(x, radius.tolist(), strict=True):
            assert climbed(image / image.sum(), reach, h, w, r) <= scale * (1 + 1e-6)


def test_spread_light_gains_and_one_pixel_does_not() -> None:
    grid, shift = flow_grid(6, 5), torch.tensor([0.05, 0.05], dtype=torch.float64)
    x = torch.ones(2, 1, 6, 5)
    x[1] = 0
    x[1, 0, 0, 0] = 1
    for r in (1.0, 2.0):
        spread, single = (limited_radius(x, shift, grid, r) / (0.05 * grid.kappa(r))).tolist()
        assert spread > 1.15
        assert single == pytest.approx(1.0, abs=1e-4)


def test_reflected_and_turned_images_have_the_same_radius() -> None:
    x, shift = torch.rand(1, 1, 5, 5), torch.tensor([0.1], dtype=torch.float64)
    grid = flow_grid(5, 5)
    for r in (1.0, 2.0):
        first = float(limited_radius(x, shift, grid, r))
        for other in (x.flip(-1), x.flip(-2), x.mT, x.rot90(1, (-2, -1))):
            assert float(limited_radius(other, shift, grid, r)) == pytest.approx(first, rel=1e-6)
