"""Growth bounds: their dual against linear programmes, closed forms, and what they promise in the limits."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from wassertight.certificates import GrowthBound
from wassertight.types import InputError


def _bound(n: int, m: int, seed: int, tail: float = 0.0) -> GrowthBound:
    generator = torch.Generator().manual_seed(seed)

    def ascending(scale: float) -> torch.Tensor:
        return scale * torch.rand(n, m, generator=generator, dtype=torch.float64).sort(1).values

    zero = torch.zeros(n, 1, dtype=torch.float64)
    first = torch.rand(n, 1, generator=generator, dtype=torch.float64)
    return GrowthBound(
        radii=torch.cat((zero, ascending(1.0)), 1),
        values=torch.cat((first, 1 + ascending(3.0)), 1),
        slopes=ascending(6.0),
        tail=torch.full((n,), tail, dtype=torch.float64),
    )


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 4.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_dual_is_the_linear_programme_on_a_grid(p: float, seed: int) -> None:
    bound = _bound(4, 3, seed)
    grid = np.linspace(0, 1.1, 441)
    growth = torch.stack([bound.at(float(t)) for t in grid], 1).numpy()
    assert (np.diff(growth, axis=1) >= -1e-12).all()
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    for radius in (0.02, 0.1, 0.4, 1.0):
        price = np.concatenate([w * grid**p for w in weights.tolist()])[None]
        mass = np.kron(np.eye(4), np.ones((1, len(grid))))
        gains = -(growth * weights[:, None].numpy()).ravel()
        found = linprog(gains, A_ub=price, b_ub=[radius**p], A_eq=mass, b_eq=np.ones(4))
        value, multiplier = bound.worst(p, radius, weights)
        assert -found.fun - 1e-7 <= value <= -found.fun + 5e-3
        assert multiplier >= 0


def test_any_price_proves_and_the_best_is_found() -> None:
    bound = _bound(6, 4, 3)
    value, multiplier = bound.worst(2, 0.2)
    for factor in (0.5, 0.9, 1.1, 2.0):
        price = multiplier * factor * 0.2**2
        other = price + float(bound.penalised(price, 2, 0.2).mean())
        assert other >= value - 1e-9


def test_lines_without_end() -> None:
    one = torch.zeros(2, 1, dtype=torch.float64)
    bound = GrowthBound(
        radii=one,
        values=torch.tensor([[1.0], [2.0]]).double(),
        slopes=one[:, :0],
        tail=torch.tensor([3.0, 5.0]).double(),
    )
    assert bound.worst(1, 0.1)[0] == pytest.approx(1.5 + 0.5, rel=1e-6)
    assert bound.worst(2, 0.1)[0] == pytest.approx(1.5 + 0.1 * math.sqrt((9 + 25) / 2), rel=1e-6)
    assert bound.worst(math.inf, 0.1)[0] == pytest.approx(1.5 + 0.1 * 4, rel=1e-6)


def test_limits_and_order() -> None:
    bound = _bound(5, 4, 5)
    assert bound.worst(2, 0.0)[0] == pytest.approx(float(bound.values[:, 0].mean()), abs=1e-8)
    values = [bound.worst(1.0, radius)[0] for radius in (0.01, 0.1, 0.5, 5.0)]
    assert values == sorted(values)
    assert values[-1] == pytest.approx(float(bound.starts[:, -1].mean()), abs=1e-6)
    orders = [bound.worst(p, 0.1)[0] for p in (1.0, 2.0, 8.0, math.inf)]
    assert all(a >= b - 1e-9 for a, b in itertools.pairwise(orders))
    with pytest.raises(InputError, match="p must be a number >= 1"):
        bound.worst(0.5, 0.1)


def test_steps_without_slopes_and_nothing_proved() -> None:
    steps = GrowthBound(
        radii=torch.tensor([[0.0, 1.0, 2.0]]).double(), values=torch.tensor([[0.0, 1.0, 4.0]]).double(),
        slopes=torch.full((1, 2), math.inf).double(), tail=torch.zeros(1).double(),
    )  # fmt: skip
    # at once 1; beyond distance 1 four, at price 1 a unit of mass
    assert steps.worst(1, 0.25)[0] == pytest.approx(1 + 0.25 * 3, rel=1e-6)
    unknown = GrowthBound(
        radii=torch.tensor([[0.0, 1.0]]).double(), values=torch.tensor([[0.0, math.inf]]).double(),
        slopes=torch.full((1, 1), math.inf).double(), tail=torch.zeros(1).double(),
    )  # fmt: skip
    assert math.isinf(unknown.worst(1, 0.25)[0])
