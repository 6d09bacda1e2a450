"""ARMOR and the penalised ascent: exact on linear classifiers, fixed points, ordered against proofs and released ways."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from wassertight.attacks import ARMOR, MinimumNorm, Penalty, WDAPlusPlus
from wassertight.certificates import LinearPropagation, LossBound
from wassertight.losses import cross_entropy
from wassertight.queries import ModelQueries
from wassertight.threats import DivergenceBall, threat
from wassertight.transport import HardBall, PowerCost, SoftBall, worst_error, worst_weights
from wassertight.types import InputError, ThreatError

TEXTS = [
    "KL+Linf@0.05,0.05",
    "KL+W1-Linf@0.1,0.05",
    "alpha2+L2@0.05,0.2",
    "renyi1.5+W2-L2@0.05,0.2",
    "KL+soft-Linf@0.05,0.03,0.01",
]


def _ball(text: str) -> DivergenceBall:
    ball = threat(text)
    assert isinstance(ball, DivergenceBall)
    return ball


def _linear() -> tuple[nn.Module, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two classes, so that the flip distance is |margin| / ||g||_s; half the box is far from the boundary's ends."""
    model = nn.Linear(4, 2).double()
    g = torch.tensor([1.0, -0.5, 0.25, 0.75], dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(torch.stack((g, -g)) / 2)
        model.bias.copy_(torch.tensor([-0.375, 0.375]))
    x = 0.3 + 0.4 * torch.rand(40, 4, dtype=torch.float64)
    y = (model(x).argmax(1)).clone()
    y[:3] = 1 - y[:3]
    return model, x, y, (model(x)[:, 0] - model(x)[:, 1]).abs().detach()


@pytest.mark.parametrize("text", [text for text in TEXTS if "soft" not in text])
def test_linear_classifier_is_exact_from_both_sides(text: str) -> None:
    model, x, y, margin = _linear()
    ball = _ball(text)
    slope = 2.5 if math.isinf(ball.r) else math.sqrt(1 + 0.25 + 0.0625 + 0.5625)
    d = torch.where(model(x).argmax(1) == y, margin / slope, 0.0)
    costs = ball.transport.least(d)
    exact = 1 - worst_error(costs, ball.radius, ball.divergence).value
    found = WDAPlusPlus()(model, x, y, ball)
    bound = LinearPropagation()(model, x, y, ball)
    assert found.accuracy == pytest.approx(exact, abs=1e-4)
    assert bound.accuracy == pytest.approx(exact, abs=1e-4)
    assert bound.accuracy <= found.accuracy + 1e-9
    part = found.reweighting
    assert part is not None
    assert part.spent_divergence + part.spent_transport <= ball.radius * (1 + 1e-9)
    assert ARMOR()(model, x, y, ball).accuracy == pytest.approx(found.accuracy, abs=1e-4)


@pytest.mark.parametrize("text", TEXTS)
def test_loss_attack_stays_below_its_certificate(text: str) -> None:
    model, x, y, _ = _linear()
    ball = _ball(text)
    found = ARMOR(objective="loss", steps=6)(model, x, y, ball)
    value = ARMOR(objective="loss", steps=10).expected_loss(model, x, y, ball)
    bound = LossBound(grid=10)(model, x, y, ball)
    split = value.reweighting
    assert split is not None
    assert split.decomposition.nominal <= min(split.decomposition.reweighting, split.decomposition.transport) + 1e-9
    assert max(split.decomposition.reweighting, split.decomposition.transport) <= value.value + 1e-6
    assert value.value <= bound.value
    if ball.p == math.inf and "soft" not in text:
        assert bound.value <= value.value * 1.02 + 1e-6  # linear: the bound is exact on a ball
    assert found.accuracy >= WDAPlusPlus()(model, x, y, ball).accuracy - 1e-6  # the error's own worst law is worse
    assert found.audit.ok


def test_reweighting_alone_is_the_divergence_ball() -> None:
    model, x, y, _ = _linear()
    found = ARMOR(objective="loss").expected_loss(model, x, y, _ball("KL+Linf@0.1,0"))
    alone = worst_weights(_ball("KL+Linf@0.1,0").divergence, cross_entropy(model(x).detach(), y), 0.1)
    assert found.value == pytest.approx(float(alone.value), abs=1e-9)
    part = found.reweighting
    assert part is not None
    assert torch.allclose(part.density, alone.density, atol=1e-8)


def _constant_sign() -> tuple[ModelQueries, torch.Tensor, torch.Tensor]:
    model = nn.Linear(3, 2).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0, 0, 0], [1.0, 2.0, -0.5]]))
        model.bias.zero_()
    return ModelQueries(model), torch.zeros(1, 3, dtype=torch.float64), torch.tensor([0])


@pytest.mark.parametrize("lam", [0.5, 1.0, 4.0])
def test_soft_ball_fixed_points(lam: float) -> None:
    queries, x, y = _constant_sign()
    cost, step = SoftBall(reach=0.1, tau=0.02), 0.02
    sign = torch.tensor([[1.0, 1.0, -1.0]], dtype=torch.float64)
    z = x
    search = Penalty(loss="margin", steps=1, step=step)
    for _ in range(100):
        z = x + search._move(z - x, sign, cost, lam)
    assert torch.allclose(z, sign * (0.1 + 0.02 / lam), atol=1e-9)
    released = Penalty(loss="margin", steps=101, step=step, pull="explicit")
    end = released(queries, x, y, cost, lam, None).abs()
    if lam < 2:
        assert torch.allclose(end, torch.full_like(end, 0.1 + step / lam), atol=1e-9)
    else:  # it oscillates
        assert float((end - (0.1 + step / lam)).abs().max()) > 1e-3
    free = released(queries, x, y, cost, 0.0, (-1.0, 1.0)).abs()
    assert torch.allclose(free, torch.ones_like(free))


def test_wrm_and_hard_ball_steps() -> None:
    queries, x, y = _constant_sign()
    g = torch.tensor([[1.0, 2.0, -0.5]], dtype=torch.float64)
    moved = Penalty(loss="margin", steps=300)(queries, x, y, PowerCost(price=0.5, p=2, r=2.0), 3.0, None)
    assert torch.allclose(moved, g / 3, atol=1e-9)
    ball = HardBall(reach=0.1, r=2.0)
    moved = Penalty(loss="margin", steps=20)(queries, x, y, ball, 1.0, None)
    assert torch.allclose(moved, 0.1 * g / g.norm(), atol=1e-5)
    assert torch.isfinite(ball.cost(moved, x)).all()
    with pytest.raises(InputError, match="closed"):
        Penalty()(queries, x, y, PowerCost(price=1, p=1, r=math.inf), 1.0, None)
    with pytest.raises(InputError, match="explicit"):
        Penalty(pull="explicit")(queries, x, y, ball, 1.0, None)


@pytest.mark.parametrize(
    "text", ["KL+soft-Linf@0.1,0.02,0.01", "alpha3+soft-Linf@0.1,0.02,0.01", "renyi1.5+Linf@0.05,0.05"]
)
def test_released_way_is_weaker_and_inside(text: str) -> None:
    model, x, y, _ = _linear()
    ball = _ball(text)
    ours = ARMOR(objective="loss").expected_loss(model, x, y, ball)
    theirs = ARMOR(objective="loss", mode="reference", kappa=0.1).expected_loss(model, x, y, ball)
    assert theirs.audit.ok
    assert theirs.value <= ours.value + 1e-6
    if text.startswith("alpha"):
        part = theirs.reweighting
        assert part is not None
        assert part.spent_divergence < 0.5 * ball.radius  # frozen duals do not reach the radius


def test_what_it_refuses() -> None:
    model, x, y, _ = _linear()
    with pytest.raises(ThreatError, match="KL"):
        ARMOR()(model, x, y, threat("W1-Linf@0.1"))
    with pytest.raises(InputError, match="rounds"):
        ARMOR(rounds=-1)
    with pytest.raises(InputError, match="reference"):
        ARMOR(mode="reference")


def test_degenerate_balls() -> None:
    model, x, y, _ = _linear()
    clean = float((model(x).argmax(1) == y).double().mean())
    attack = MinimumNorm(passes=60)
    assert attack(model, x, y, _ball("KL+Linf@0,0")).accuracy == pytest.approx(clean)
    assert attack(model, x, y, _ball("KL+Linf@50,0.02")).accuracy == 0
    pointwise = attack(model, x, y, threat("Linf@0.02")).accuracy
    assert attack(model, x, y, _ball("KL+Linf@0,0.02")).accuracy == pytest.approx(pointwise)
    right = model(x).argmax(1)
    assert attack(model, x, right, _ball("KL+Linf@5,0")).accuracy == 1  # no error, nothing to lean on
    assert attack(model, x[5:6], right[5:6], _ball("KL+Linf@5,0")).accuracy == 1
