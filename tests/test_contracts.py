"""One contract for all methods, on linear classifiers, where every answer has a closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from wassertight.attacks import FGSM, PGD, MinimumNorm, WDAPlusPlus
from wassertight.certificates import IntervalPropagation, LinearPropagation
from wassertight.geometry import closest_on_hyperplane, norm
from wassertight.threats import PointwiseBall, WassersteinBall
from wassertight.transport import FlipDistances
from wassertight.types import Bounds, ThreatError

ORDERS = [1.0, 2.0, math.inf]
BOXES: list[Bounds] = [None, (0.0, 1.0)]


def _problem(classes: int, bounds: Bounds) -> tuple[nn.Sequential, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(classes)
    model = nn.Sequential(nn.Linear(8, classes)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.randn(classes, 8, generator=generator, dtype=torch.float64))
        model[0].bias.copy_(
            -model[0].weight.sum(1) / 2 + 0.1 * torch.randn(classes, generator=generator, dtype=torch.float64)
        )
    x = torch.rand(40, 8, generator=generator, dtype=torch.float64)
    y = model(x).argmax(1)
    y[:4] = (y[:4] + 1) % classes
    return model, x, y


def _exact(model: nn.Sequential, x: Tensor, y: Tensor, r: float, bounds: Bounds) -> Tensor:
    """Distance to the nearest half-space of another class; the solver behind it is tested against LPs by itself."""
    weight, logits = model[0].weight.detach(), model(x).detach()
    best = torch.full((len(x),), math.inf, dtype=torch.float64)
    for j in range(len(weight)):
        rise = (logits.gather(1, y[:, None]) - logits[:, [j]]).squeeze(1)
        d, reached = closest_on_hyperplane(x, weight[j] - weight[y], rise, r, bounds)
        best = torch.where((y != j) & reached, torch.minimum(best, norm(d, r)), best)
    return torch.where(logits.argmax(1) != y, 0.0, best)


@pytest.mark.parametrize("bounds", BOXES, ids=["space", "box"])
@pytest.mark.parametrize("r", ORDERS)
@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("attack", [WDAPlusPlus(), MinimumNorm(passes=60)], ids=lambda attack: attack.name)
def test_attack_distances_and_accuracies_are_exact(attack: WDAPlusPlus, classes: int, r: float, bounds: Bounds) -> None:
    model, x, y = _problem(classes, bounds)
    exact = _exact(model, x, y, r, bounds)
    truth = FlipDistances.attacked(exact)
    for p in ORDERS:
        radius = 0.7 * float(exact.median())
        result = attack(model, x, y, WassersteinBall(radius=radius, p=p, r=r, bounds=bounds))
        finite = torch.isfinite(exact)
        assert torch.equal(torch.isfinite(result.distances.values), finite)
        assert torch.allclose(result.distances.values[finite], exact[finite], atol=1e-6, rtol=0)
        assert result.accuracy == pytest.approx(truth.accuracy(p, radius), abs=1e-6)
        assert result.audit.ok
        assert len(result.measure) <= len(x) + 1


@pytest.mark.parametrize("bounds", BOXES, ids=["space", "box"])
@pytest.mark.parametrize("r", ORDERS)
@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("method", [LinearPropagation(), IntervalPropagation()], ids=lambda method: method.name)
def test_certified_radii_and_curves_are_exact(
    method: LinearPropagation, classes: int, r: float, bounds: Bounds
) -> None:
    model, x, y = _problem(classes, bounds)
    exact = _exact(model, x, y, r, bounds)
    bound = method(model, x, y, PointwiseBall(radius=0.05, r=r, bounds=bounds))
    found = bound.radii.values
    assert (found <= exact * (1 + 1e-12)).all(), "sound"
    finite = torch.isfinite(exact)
    assert torch.allclose(found[finite], exact[finite], atol=1e-6, rtol=0)
    for p in ORDERS:
        radii = torch.linspace(0, float(exact[finite].max()), 9, dtype=torch.float64)
        certified, truth = bound.curve(p, radii), FlipDistances.certified(exact).curve(p, radii)
        assert (certified <= truth + 1e-12).all() or p == math.inf
        if math.isfinite(p):
            assert torch.allclose(certified, truth, atol=1e-5)


@pytest.mark.parametrize("r", ORDERS)
@pytest.mark.parametrize("p", [2.0, 4.0, math.inf])
@pytest.mark.parametrize("attack", [PGD(loss="margin"), FGSM(loss="margin")], ids=lambda attack: attack.name)
def test_one_loop_over_threats_is_exact_for_two_classes(attack: PGD, p: float, r: float) -> None:
    """Without walls the first-order direction is the optimal one, so pull-back and knapsack give the exact value."""
    model, x, y = _problem(2, None)
    exact = _exact(model, x, y, r, None)
    radius = 0.5 * float(exact.median())
    result = attack(model, x, y, WassersteinBall(radius=radius, p=p, r=r, bounds=None))
    assert result.accuracy == pytest.approx(FlipDistances.attacked(exact).accuracy(p, radius), abs=1e-6)


@pytest.mark.parametrize("mode", ["default", "reference"])
@pytest.mark.parametrize("p", [1.5, 2.0, math.inf])
@pytest.mark.parametrize("r", [2.0, math.inf])
def test_w_pgd_never_beats_the_truth(mode: str, p: float, r: float) -> None:
    model, x, y = _problem(5, (0.0, 1.0))
    exact = FlipDistances.attacked(_exact(model, x, y, r, (0.0, 1.0)))
    ball = WassersteinBall(radius=0.1, p=p, r=r)
    result = PGD(mode=mode)(model, x, y, ball)  # type: ignore[arg-type]
    assert exact.accuracy(p, 0.1) - 1e-9 <= result.accuracy <= result.clean_accuracy
    assert result.spent <= 0.1 * (1 + 1e-6)


def test_default_w_pgd_is_never_above_its_reference() -> None:
    model, x, y = _problem(5, (0.0, 1.0))
    ball = WassersteinBall(radius=0.1, p=2, r=math.inf)
    assert PGD()(model, x, y, ball).accuracy <= PGD(mode="reference")(model, x, y, ball).accuracy + 1e-12


def test_w1_has_no_first_order_attack() -> None:
    model, x, y = _problem(2, None)
    with pytest.raises(ThreatError, match=r"wda\+\+"):
        PGD()(model, x, y, WassersteinBall(radius=0.1, p=1, r=2, bounds=None))


@pytest.mark.parametrize("attack", [WDAPlusPlus(), MinimumNorm(), PGD(), FGSM(), WDAPlusPlus(mode="reference")])
@pytest.mark.parametrize("p", [2.0, math.inf])
def test_radius_zero_is_clean(attack: PGD, p: float) -> None:
    model, x, y = _problem(3, (0.0, 1.0))
    result = attack(model, x, y, WassersteinBall(radius=0.0, p=p, r=2.0))
    assert result.accuracy == pytest.approx(result.clean_accuracy)
    assert result.spent == 0


def test_reference_wda_reaches_exactly_steps_times_step() -> None:
    model, x, y = _problem(5, None)
    result = WDAPlusPlus(mode="reference")(model, x, y, PointwiseBall(radius=0.1, r=2.0, bounds=None))
    found = result.distances.values[torch.isfinite(result.distances.values)]
    assert float(found.max()) <= 0.1 * (1 + 1e-9)
