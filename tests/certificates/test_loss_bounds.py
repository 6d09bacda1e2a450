"""Loss certificates: closed forms on linear models, never below what attacks reach, refusals."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import wassertight as wt
from wassertight.attacks import ExpectedLoss
from wassertight.certificates import LossBound
from wassertight.evaluation import bracket_loss
from wassertight.geometry import conjugate, norm
from wassertight.threats import WassersteinBall
from wassertight.types import InputError

NORMS = [1.0, 2.0, math.inf]


def _linear(k: int = 3, dim: int = 4) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(dim, k)).double().eval()
    x = 0.3 + 0.4 * torch.rand(6, dim, dtype=torch.float64)
    return model, x, model(x).argmax(1).detach()


@pytest.mark.parametrize("r", NORMS)
@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_two_classes_and_a_linear_model_are_exact(r: float, p: float) -> None:
    model, x, y = _linear(2)
    ball = WassersteinBall(radius=0.01, p=p, r=r, bounds=None)
    w = model[0].weight.detach()
    slope = float(norm((w[0] - w[1])[None], conjugate(r)))
    logits = model(x).detach()
    clean = (logits.gather(1, 1 - y[:, None]) - logits.gather(1, y[:, None])).mean()
    found = LossBound(loss="margin")(model, x, y, ball)
    assert found.value == pytest.approx(float(clean) + 0.01 * slope, rel=1e-5)


@pytest.mark.parametrize("bounds", [(0.0, 1.0), None])
@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
@pytest.mark.parametrize("loss", ["cross-entropy", "margin"])
def test_no_radius_is_the_clean_loss(loss: str, p: float, bounds: tuple[float, float] | None) -> None:
    model, x, y = _linear()
    found = LossBound(loss=loss)(model, x, y, WassersteinBall(radius=0.0, p=p, r=2, bounds=bounds))
    clean = float(wt.attacks.expected_loss.loss_by_name(loss)(model(x).detach(), y).mean())
    assert found.clean == pytest.approx(clean, rel=1e-12)
    assert clean <= found.value <= clean + 1e-8 * abs(clean)


@pytest.mark.parametrize("radius", [0.0, 0.01])
@pytest.mark.parametrize("p", [1.0, math.inf])
def test_curves_hold_beyond_the_threats_radius(radius: float, p: float) -> None:
    model, x, y = _linear(2)
    found = LossBound(loss="margin")(model, x, y, WassersteinBall(radius=radius, p=p, r=2))
    w = model[0].weight.detach()
    u = (w[1] - w[0]) / (w[1] - w[0]).norm()
    for t, bound in zip((0.02, 0.1), found.curve(math.inf, [0.02, 0.1]), strict=True):
        z = x + torch.where(y == 0, t, -t)[:, None] * u
        assert ((z >= 0) & (z <= 1)).all()
        logits = model(z).detach()
        worst = (logits.gather(1, 1 - y[:, None]) - logits.gather(1, y[:, None])).mean()
        assert float(worst) <= bound + 1e-9


def test_curves_keep_the_samples_weights() -> None:
    model, x, y = _linear(2)
    y = y.clone()
    y[0] = 1 - y[0]
    ball = WassersteinBall(radius=0.01, p=1, r=2)
    weights = torch.tensor([0.95, *[0.01] * 5], dtype=torch.float64)
    found = LossBound(loss="margin")(model, x, y, ball, weights=weights)
    assert found.curve(1, [0.01])[0] >= found.clean
    assert found.curve(1, [0.01])[0] == pytest.approx(found.rules["growth"])


@pytest.mark.parametrize(("loss", "r"), [("cross-entropy", math.inf), ("margin", 2.0), ("cross-entropy", 1.0)])
def test_attacks_stay_below(loss: str, r: float) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 3)).double().eval()
    x = torch.rand(3, 4, dtype=torch.float64)
    y = model(x).argmax(1).detach()
    for p in (1.0, math.inf) if r == 1 else (2.0,):
        ball = WassersteinBall(radius=0.1, p=p, r=r)
        found = bracket_loss(model, x, y, ball, loss=loss, grid=6)
        assert found.clean <= found.attacked + 1e-9
        assert found.attacked <= found.certified + 1e-9
        others = [LossBound(loss=loss, slopes=kind, grid=6)(model, x, y, ball).value for kind in ("interval", "none")]
        assert found.certified <= others[0] + 1e-9 <= others[1] + 2e-9


def test_growth_bounds_hold_at_random_points() -> None:
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)).double().eval()
    x = torch.rand(4, 3, dtype=torch.float64)
    y = torch.randint(3, (4,))
    for loss in ("cross-entropy", "margin"):
        bound = LossBound(loss=loss)(model, x, y, WassersteinBall(radius=0.1, p=1, r=2.0)).growth
        for t in (0.02, 0.1, 0.3, 0.8):
            step = torch.randn(500, 4, 3, dtype=torch.float64)
            z = (x + t * step / step.norm(dim=2, keepdim=True)).clamp(0, 1)
            logits = model(z.flatten(0, 1)).detach()
            values = wt.attacks.expected_loss.loss_by_name(loss)(logits, y.repeat(500)).view(500, 4)
            assert (values.amax(0) <= bound.at(t) + 1e-9).all()


def test_the_bracket_of_the_embedded_network() -> None:
    model, data = wt.load_model("digits-mlp").model, wt.load_data("digits", n=10)
    ball = WassersteinBall(radius=0.01, p=1, r=math.inf)
    certificate = LossBound(grid=8)(model, data.x, data.y, ball)
    attack = ExpectedLoss(grid=8)(model, data.x, data.y, ball)
    assert attack.clean < attack.value <= certificate.value
    assert certificate.value == min(certificate.rules.values())
    assert (
        certificate.rules["growth"] < certificate.rules["Lipschitz, Jacobian"] < certificate.rules["Lipschitz, product"]
    )
    assert certificate.curve(1, [0.005, 0.01])[0] < certificate.value
    assert certificate.clean == pytest.approx(attack.clean, abs=1e-5)


def test_the_last_ball_covers_the_box() -> None:
    x = torch.rand(50, 3, dtype=torch.float64)
    for r in NORMS:
        for p in (1.0, 3.0):
            radii = LossBound(grid=7).radii(x, WassersteinBall(radius=0.013, p=p, r=r))
            farthest = norm(torch.maximum(x, 1 - x), r)
            assert (radii[:, -1] >= farthest).all()
            assert (radii.diff(dim=1) >= 0).all()


def test_refusals_teach() -> None:
    with pytest.raises(InputError, match="DLR is not Lipschitz"):
        LossBound(loss="redlr")
    with pytest.raises(InputError, match="grid must be at least 1"):
        LossBound(grid=0)
    with pytest.raises(InputError, match="slopes must be"):
        LossBound(slopes="exact")
