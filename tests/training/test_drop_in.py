"""`robust_loss` in a loop of one's own: clean at radius 0, gradients, a falling loss, state that is kept."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import wassertight as wt
from wassertight.errors import InputError, ThreatError
from wassertight.training import Context


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.BatchNorm1d(16), nn.Linear(16, 3))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    x = torch.rand(60, 4)
    return x, (x[:, 0] > 0.5).long() + (x[:, 1] > 0.5).long()


@pytest.mark.parametrize("objective", ["trades", "pgd", "trades+awp"])
@pytest.mark.parametrize("threat", ["Linf@0", "W2-L2@0"])
def test_radius_zero_is_the_clean_loss(objective: str, threat: str) -> None:
    model, (x, y) = net().eval(), batch()
    loss = wt.robust_loss(
        model, x, y, threat, objective=objective, settings={"gamma": 0.0} if "awp" in objective else None
    )
    torch.testing.assert_close(loss, nn.functional.cross_entropy(model(x), y))


@pytest.mark.parametrize(
    ("objective", "threat"), [("trades", "W2-Linf@0.1"), ("knapsack", "W1-L2@0.1"), ("armor-kl-udr-trades", "Linf@0.1")]
)
def test_gradient_flows_and_nothing_else_changes(objective: str, threat: str) -> None:
    model, (x, y) = net(), batch()
    model[2].eval()
    modes = [module.training for module in model.modules()]
    loss = wt.robust_loss(model, x, y, threat, objective=objective)
    assert loss.ndim == 0
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [module.training for module in model.modules()] == modes
    loss.backward()
    assert all(parameter.grad is not None and bool(parameter.grad.isfinite().all()) for parameter in model.parameters())


def test_it_is_the_objectives_own_loss_and_above_the_clean_one() -> None:
    from wassertight.training import make_objective

    model, (x, y) = net().eval(), batch()
    ball = wt.threat("Linf@0.1")
    context = Context(generator=torch.Generator().manual_seed(5))
    expected = make_objective("pgd", ball, {"steps": 3})(
        model, x, y, Context(generator=torch.Generator().manual_seed(5))
    )
    got = wt.robust_loss(model, x, y, ball, objective="pgd", settings={"steps": 3}, state=context)
    torch.testing.assert_close(got, expected)
    assert got > nn.functional.cross_entropy(model(x), y)


def test_a_short_loop_lowers_the_loss_and_raises_attacked_accuracy() -> None:
    model, (x, y) = net(), batch()
    attack, ball = wt.attacks.WDAPlusPlus(passes=60), wt.threat("W2-L2@0.05")
    before = attack(model, x, y, ball).accuracy
    optimiser, losses = torch.optim.Adam(model.parameters(), 0.02), []
    for _ in range(60):
        loss = wt.robust_loss(model, x, y, ball)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    assert attack(model, x, y, ball).accuracy > before + 0.2


def test_state_is_kept_between_batches_and_randomness_follows_torch() -> None:
    model, (x, y) = net(), batch()
    state = Context()
    for _ in range(3):
        wt.robust_loss(model, x, y, "W1-L2@0.05", objective="knapsack", state=state)
    assert state.step == 3
    assert len(state.state["queue"]) == 3 * len(x)
    values = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        values.append(wt.robust_loss(model.eval(), x, y, "Linf@0.1", objective="fgsm-rs").item())
    assert values[0] == values[1] != values[2]


def test_errors_teach() -> None:
    model, (x, y) = net(), batch()
    with pytest.raises(ThreatError, match="knapsack"):
        wt.robust_loss(model, x, y, "W1-Linf@0.1")
    with pytest.raises(InputError, match="did you mean 'trades'"):
        wt.robust_loss(model, x, y, "Linf@0.1", objective="trade")
    with pytest.raises(InputError, match="box"):
        wt.robust_loss(model, 3 * x, y, "Linf@0.1")
    assert wt.robust_loss(model, 3 * x, y, "Linf@0.1", bounds=None).isfinite()
