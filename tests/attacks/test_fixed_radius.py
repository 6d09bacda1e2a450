"""Fixed-radius attacks and WDA, A3: inside their ball, in their order, and with the right weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from wassertight.attacks import A3, APGD, WDA, Attack, AutoAttack, MinimumNorm, Square
from wassertight.data import load_data
from wassertight.losses import targeted_dlr
from wassertight.models import load_model
from wassertight.threats import PointwiseBall, WassersteinBall
from wassertight.types import InputError

RADII = {math.inf: 0.12, 2.0: 0.6, 1.0: 2.0}
ATTACKS: list[Attack] = [
    APGD(steps=25), APGD(steps=25, loss="dlr"), APGD(steps=15, targets=3), Square(queries=150),
    AutoAttack(steps=10, targets=2, queries=50), A3(rounds=2), A3(rounds=2, inner="wda"), WDA(steps=20),
]  # fmt: skip


@pytest.mark.parametrize("r", RADII)
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_inside_the_ball_and_not_below_the_truth(attack: Attack, r: float) -> None:
    """Nothing found lies outside the ball, and something is found where a minimum-norm search says so."""
    model, data = load_model("digits-cnn").model, load_data("digits", n=30)
    ball = PointwiseBall(radius=RADII[r], r=r)
    best = MinimumNorm(passes=400)(model, data.x, data.y, ball)
    found = attack(model, data.x, data.y, ball)
    assert found.audit.ok
    assert found.spent <= RADII[r] * (1 + 1e-6)
    assert best.accuracy < best.clean_accuracy - 0.1
    weak = attack.name == "square" or r == 1.0
    assert best.accuracy - 2 / 30 <= found.accuracy <= best.clean_accuracy - (0.0 if weak else 0.1)


def test_the_ensemble_is_at_least_as_strong_as_its_first_member() -> None:
    model, data = load_model("digits-mlp-robust").model, load_data("digits", n=40)
    ball = PointwiseBall(radius=0.15, r=math.inf)
    first = APGD(steps=20)(model, data.x, data.y, ball)
    whole = AutoAttack(steps=20, targets=3, queries=60)(model, data.x, data.y, ball)
    assert whole.accuracy <= first.accuracy + 1e-12
    with pytest.raises((InputError, TypeError), match="apgd-ce"):
        AutoAttack(members=("pgd",))  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(16,), (1, 4, 4), (3, 8, 8)])
@pytest.mark.parametrize("r", RADII)
def test_square_takes_any_shape_and_no_gradient(shape: tuple[int, ...], r: float) -> None:
    class Rounded(nn.Module):
        """A model without gradients."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            mean = (x.flatten(1).mean(1) * 1000).round() / 1000
            return torch.stack((mean - 0.5, 0.5 - mean), 1)

    x = torch.full((6, *shape), 0.52)
    dim = math.prod(shape)
    radius = {math.inf: 0.05, 2.0: 0.06 * dim**0.5, 1.0: 0.2 * dim}[r]
    found = Square(queries=200)(Rounded(), x, torch.zeros(6, dtype=torch.long), PointwiseBall(radius=radius, r=r))
    assert found.passes.backward == 0
    assert found.audit.ok
    assert found.accuracy < 1


def test_apgd_with_two_classes_uses_the_margin() -> None:
    model = nn.Linear(3, 2)
    x, y = torch.rand(8, 3), torch.zeros(8, dtype=torch.long)
    ball = PointwiseBall(radius=0.5, r=2.0)
    for attack in (APGD(loss="dlr"), APGD(targets=9), AutoAttack(steps=10, queries=20)):
        assert attack(model, x, y, ball).audit.ok
    with pytest.raises(InputError, match="4 classes"):
        targeted_dlr(torch.zeros(1, 3), torch.tensor([[0, 1]]))


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("stretch", [1.0, 2.0])
def test_wda_mixture_costs_at_most_the_radius(p: float, stretch: float) -> None:
    """Weight stretch**-p: every sample moved by the whole stretch would cost exactly the radius."""
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
        model.bias.zero_()
    x, y = torch.tensor([[5.0, 0.0], [6.0, 0.0]]), torch.tensor([0, 0])
    ball = WassersteinBall(radius=0.5, p=p, r=2.0, bounds=None)
    found = WDA(stretch=stretch, mode="reference")(model, x, y, ball)
    assert found.spent == pytest.approx(0.5, rel=1e-4)
    assert len(found.measure) == (2 if stretch == 1 else 4)


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_wda_default_is_never_above_its_reference(p: float) -> None:
    model, data = load_model("digits-cnn").model, load_data("digits", n=40)
    ball = WassersteinBall(radius=0.05, p=p, r=math.inf)
    for stretch in (1.0, 2.0):
        reference = WDA(stretch=stretch, mode="reference")(model, data.x, data.y, ball)
        ours = WDA(stretch=stretch)(model, data.x, data.y, ball)
        assert ours.accuracy <= reference.accuracy + 1e-9
        assert reference.accuracy <= reference.clean_accuracy


@pytest.mark.parametrize("attack", [WDA(probe_steps=0), WDA(metric="margin", candidates=3), WDA(probe_steps=2)])
def test_wda_probes(attack: WDA) -> None:
    model, data = load_model("digits-cnn").model, load_data("digits", n=20)
    found = attack(model, data.x, data.y, PointwiseBall(radius=0.15, r=math.inf))
    assert found.accuracy < found.clean_accuracy


def test_bad_settings_say_what_is_allowed() -> None:
    x, y = torch.rand(2, 3), torch.zeros(2, dtype=torch.long)
    with pytest.raises(InputError, match="stretch must be 1"):
        WDA(stretch=2.0)(nn.Linear(3, 2), x, y, PointwiseBall(radius=0.1, r=2.0))
    for make in (lambda: WDA(stretch=0.5), lambda: APGD(steps=0), lambda: Square(queries=0), lambda: A3(inner="fgsm")):  # type: ignore[arg-type]
        with pytest.raises((InputError, TypeError)):
            make()
