"""Proofs under re-weighting threats: never below an attack, valid at any price, and around the true law."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from wassertight.attacks import ARMOR, MinimumNorm
from wassertight.certificates import (
    GrowthBound,
    LinearPropagation,
    LossBound,
    Population,
    population_accuracy,
    proved_accuracy,
    reweighted_loss,
)
from wassertight.threats import DivergenceBall, threat
from wassertight.transport import KL, FlipDistances, HardBall, PowerCost, worst_error, worst_weights

TEXTS = [
    "KL+Linf@0.05,0.05",
    "KL+W1-Linf@0.1,0.05",
    "alpha2+L2@0.05,0.2",
    "alpha0.5+W2-L2@0.02,0.2",
    "renyi2.5+Linf@0.05,0.02",
]


def _ball(text: str) -> DivergenceBall:
    ball = threat(text)
    assert isinstance(ball, DivergenceBall)
    return ball


def _network(seed: int) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 3)).double()
    with torch.no_grad():
        for part in model.parameters():
            part.copy_(torch.randn(part.shape, generator=generator, dtype=torch.float64) * 0.8)
    x = torch.rand(20, 5, generator=generator, dtype=torch.float64)
    y = model(x).argmax(1)
    y[:2] = (y[:2] + 1) % 3
    return model, x, y


@pytest.mark.parametrize("seed", [0])
def test_attack_never_beats_the_proof(seed: int) -> None:
    model, x, y = _network(seed)
    for r in (math.inf, 2.0):
        balls = [ball for ball in map(_ball, TEXTS) if ball.r == r]
        for ball in balls:
            attacked = MinimumNorm(passes=60)(model, x, y, ball)
            bound = LinearPropagation()(model, x, y, ball)
            assert bound.accuracy <= attacked.accuracy + 1e-9, ball.name
            assert bound.accuracy > 0 or attacked.accuracy < 0.5


@pytest.mark.parametrize("text", [TEXTS[1], TEXTS[2], "KL+soft-Linf@0.05,0.02,0.01"])
def test_loss_bound_is_above_the_attack(text: str) -> None:
    model, x, y = _network(3)
    for loss in ("margin",):
        found = ARMOR(objective="loss", loss=loss, steps=8).expected_loss(model, x, y, _ball(text))
        bound = LossBound(loss=loss, grid=8)(model, x, y, _ball(text))
        assert found.clean <= found.value <= bound.value
        assert "mass" in bound.assumptions[-1]


def test_loss_bound_of_growing_lines() -> None:
    """G_i(t) = l_i + s t is exact: hard balls shift losses, p = 2 prices give l_i + s^2 / (4 lam A)."""
    losses = torch.rand(30, dtype=torch.float64) * 2
    grid = torch.tensor([0.0, 0.5, 5.0], dtype=torch.float64).expand(30, -1)
    growth = GrowthBound(
        radii=grid, values=losses[:, None] + 3 * grid, slopes=torch.full((30, 2), 3.0, dtype=torch.float64),
        tail=torch.zeros(30, dtype=torch.float64),
    )  # fmt: skip
    for divergence in ("KL", "alpha2", "renyi1.5"):
        ball = _ball(f"{divergence}+L2@0.1,0.4")
        alone = float(worst_weights(ball.divergence, losses, 0.1).value)
        assert reweighted_loss(growth, ball)[0] == pytest.approx(alone + 3 * 0.4, abs=1e-6)
    ball = _ball("KL+W2-L2@0.1,0.4")
    assert isinstance(ball.transport, PowerCost)
    price = ball.transport.price
    grid_lam = torch.logspace(-2, 2, 20001, dtype=torch.float64)
    log_mean = torch.logsumexp(losses / grid_lam[:, None], 1) - math.log(30)
    exact = float((grid_lam * 0.1 + grid_lam * log_mean + 9 / (4 * grid_lam * price)).min())
    value, lam = reweighted_loss(growth, ball)
    assert value == pytest.approx(exact, abs=1e-5)
    assert value >= exact - 1e-6
    still = reweighted_loss(growth, _ball("KL+L2@0,0.4"))
    assert still == (pytest.approx(float(losses.mean()) + 1.2), math.inf)
    assert lam > 0


def test_largest_loss_of_a_hard_ball_beyond_the_grid() -> None:
    """Growth known up to 0.1 only: beyond it the tail counts, however much the weights may change."""
    losses = torch.tensor([1.0, 2.0], dtype=torch.float64)
    grid = torch.tensor([0.0, 0.1], dtype=torch.float64).expand(2, -1)
    growth = GrowthBound(
        radii=grid, values=losses[:, None] + grid, slopes=torch.ones(2, 1).double(), tail=torch.ones(2).double()
    )
    assert reweighted_loss(growth, _ball("KL+L2@5,0.5"))[0] >= 2.5


def test_small_radius_law() -> None:
    """Gaussian losses, linear growth, p = 2, KL: value and share of re-weighting in closed form."""
    n = 4000
    losses = torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n)
    grid = torch.tensor([0.0, 50.0], dtype=torch.float64).expand(n, -1)
    growth = GrowthBound(
        radii=grid, values=losses[:, None] + grid, slopes=torch.ones(n, 1, dtype=torch.float64), tail=torch.zeros(n).double()
    )  # fmt: skip
    eps, price = 1e-3, 0.5
    ball = DivergenceBall(radius=eps, divergence=KL, transport=PowerCost(price=price, p=2, r=2.0), bounds=None)
    value, lam = reweighted_loss(growth, ball)
    var = float(losses.var(correction=0))
    assert value == pytest.approx(math.sqrt(2 * eps * (var + 1 / (2 * price))), rel=1e-3)
    assert lam == pytest.approx(math.sqrt((var / 2 + 1 / (4 * price)) / eps), rel=1e-2)


def test_proved_radii_at_the_edge_of_a_hard_ball() -> None:
    ball = DivergenceBall(radius=0.1, divergence=KL, transport=HardBall(reach=0.2, r=2.0))
    radii = torch.tensor([0.2] * 9 + [0.0], dtype=torch.float64)
    closed = proved_accuracy(FlipDistances.certified(radii, closed=True), ball)
    open_ = proved_accuracy(FlipDistances.certified(radii), ball)
    assert closed > 0.5
    assert open_ == 0
    assert closed == pytest.approx(
        1 - worst_error(torch.tensor([math.inf] * 9 + [0.0]).double(), 0.1, KL).value, abs=1e-8
    )
    assert proved_accuracy(FlipDistances.certified(radii), threat("W1-L2@0.1")) == FlipDistances.certified(radii).accuracy(1, 0.1)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("text", ["KL+W1-L2@0.01,0.05", "alpha2+L2@0.01,0.1"])
def test_population_bound_holds(text: str) -> None:
    """True flip distances uniform on [0, 1] plus a tenth at 0: the bound fails in no more than its share of the draws."""
    ball = _ball(text)
    rng = torch.Generator().manual_seed(0)
    grid = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    truth = torch.where(grid < 0.1, 0.0, (grid - 0.1) / 0.9)
    exact = 1 - worst_error(ball.transport.least(truth), ball.radius, ball.divergence).value
    failed = 0
    for _ in range(40):
        u = torch.rand(300, generator=rng, dtype=torch.float64)
        d = torch.where(u < 0.1, 0.0, (u - 0.1) / 0.9)
        low = population_accuracy(ball.transport.least(d), ball, Population(confidence=0.9), "certified")
        high = population_accuracy(ball.transport.least(d), ball, Population(confidence=0.9), "attacked")
        failed += not low <= exact <= high
    assert failed <= 12  # 0.2 * 40 = 8 expected at most for both sides
    costs = ball.transport.least(truth[::4])
    tight = population_accuracy(costs, ball, Population(confidence=0.9), "certified")
    assert 0 < exact - tight < 0.2
