"""Worst-case expected loss and support sizes, against closed forms and linear programs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import nn

from wassertight.attacks import PGD, ExpectedLoss, compare_supports
from wassertight.data import load_data
from wassertight.losses import loss_by_name
from wassertight.models import load_model
from wassertight.threats import PointwiseBall, WassersteinBall
from wassertight.types import InputError


def _linear() -> tuple[nn.Module, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    w = torch.randn(6, generator=generator)
    model = nn.Linear(6, 2)
    with torch.no_grad():
        model.weight.copy_(torch.stack((w, -w)))
        model.bias.zero_()
    x = torch.randn(20, 6, generator=generator)
    return model, x, torch.randint(0, 2, (20,), generator=generator), w


@pytest.mark.parametrize("p", [1.0, 2.0, 4.0, math.inf])
@pytest.mark.parametrize("r", [1.0, 2.0, math.inf])
def test_margin_of_a_linear_model_grows_at_its_slope(p: float, r: float) -> None:
    """Margin loss, two classes: V_p(radius) = mean loss + radius * ||2 w||_s for every p."""
    model, x, y, w = _linear()
    slope = 2 * float({1.0: w.abs().max(), 2.0: w.norm(), math.inf: w.abs().sum()}[r])
    found = ExpectedLoss(loss="margin")(model, x, y, WassersteinBall(radius=0.2, p=p, r=r, bounds=None))
    gain = found.value - found.clean
    assert gain == pytest.approx(0.2 * slope, rel=2e-3 if r == 1 else 5e-4)
    assert gain <= 0.2 * slope * (1 + 1e-5)


@pytest.mark.parametrize("loss", ["ce", "margin", "redlr"])
@pytest.mark.parametrize("p", [1.0, 2.0])
def test_the_measure_attains_the_optimum_over_its_points(loss: str, p: float) -> None:
    """The allocation is the linear program's optimum; atoms at most n + 1; the audited loss is the allocation's."""
    model, data = load_model("digits-mlp").model, load_data("digits", n=12)
    ball = WassersteinBall(radius=0.05, p=p, r=2.0)
    found = ExpectedLoss(loss=loss, grid=6, steps=6)(model, data.x, data.y, ball)
    n, m = found.growth.losses.shape
    cost = (found.growth.distances.numpy() / 0.05) ** p / n
    rows = np.kron(np.eye(n), np.ones(m))
    program = linprog(
        -found.growth.losses.numpy().ravel() / n, A_ub=cost.reshape(1, -1), b_ub=[1.0], A_eq=rows, b_eq=np.ones(n)
    )
    assert found.growth.spend(p, 0.05).value == pytest.approx(-program.fun, rel=1e-6, abs=1e-9)
    assert found.value == pytest.approx(-program.fun, rel=1e-4, abs=1e-4)
    assert len(found.measure) <= n + 1
    assert found.spent <= 0.05 * (1 + 1e-9)


def test_stronger_than_the_first_order_attack() -> None:
    model, data = load_model("digits-cnn-robust").model, load_data("digits", n=60)
    ball = WassersteinBall(radius=0.05, p=2, r=math.inf)
    law = PGD(loss="cross-entropy", mode="reference")(model, data.x, data.y, ball).measure
    with torch.no_grad():
        theirs = float((law.weights * loss_by_name("ce")(model(law.atoms), data.y[law.sources])).sum())
    found = ExpectedLoss()(model, data.x, data.y, ball)
    assert found.value > theirs > found.clean
    curve = found.curve(2, [0.0, 0.02, 0.05])
    assert curve == sorted(curve)


def test_dlr_is_refused_and_radius_zero_is_clean() -> None:
    with pytest.raises(InputError, match="unbounded"):
        ExpectedLoss(loss="dlr")
    model, x, y, _ = _linear()
    found = ExpectedLoss()(model, x, y, WassersteinBall(radius=0.0, p=1, r=2.0, bounds=None))
    assert found.value == pytest.approx(found.clean)


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_knapsack_needs_n_plus_one_atoms_and_equals_many(p: float) -> None:
    model, data = load_model("digits-cnn").model, load_data("digits", n=30)
    whole, stretched, knapsack, many = compare_supports(
        model, data.x, data.y, WassersteinBall(radius=0.05, p=p, r=math.inf), searches=2, passes=60
    )
    assert knapsack.atoms <= 31
    assert whole.atoms == 30
    assert many.accuracy == pytest.approx(knapsack.accuracy, abs=1e-9)
    assert knapsack.accuracy <= whole.accuracy < knapsack.accuracy + 1 / 30 + 1e-12
    assert stretched.accuracy >= knapsack.accuracy
    with pytest.raises(InputError, match="finite p"):
        compare_supports(model, data.x, data.y, PointwiseBall(radius=0.1, r=2.0))
