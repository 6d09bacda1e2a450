"""Other libraries' attacks in our knapsack, and ours in their pipelines: confirmed, between the proof and the best attack."""

from __future__ import annotations

import math
import sys
import types
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import wassertight as wt
from other_libraries import library
from wassertight.attacks import APGD, Foreign, WDAPlusPlus, as_foolbox, as_torchattacks
from wassertight.certificates import LinearPropagation
from wassertight.cli.main import run
from wassertight.evaluation import find_method, foreign_methods
from wassertight.threats import PointwiseBall, WassersteinBall, threat
from wassertight.transport import FlipDistances
from wassertight.types import InputError, PackageError, ThreatError

QUICK = WDAPlusPlus(passes=50)
STILL = {"random_start": False}


@cache
def digits() -> tuple[nn.Module, Tensor, Tensor]:
    data = wt.load_data("digits", n=20)
    return wt.load_model("digits-cnn-robust").model, data.x, data.y


@cache
def known(r: float) -> tuple[Tensor, Tensor]:
    """Proved radii and our best distances."""
    model, x, y = digits()
    ours = WDAPlusPlus(passes=200)(model, x, y, PointwiseBall(radius=0.1, r=r)).distances.values
    proved = LinearPropagation()(model, x, y, PointwiseBall(radius=0.1, r=r), upper=ours).radii.values
    return proved, ours


CASES = [
    ("foolbox:LinfPGD", {"steps": 10}, "W1-Linf@0.05"), ("foolbox:L2DeepFoolAttack", {}, "W2-L2@0.3"),
    ("foolbox:LinfDeepFoolAttack", {"steps": 10}, "W3-Linf@0.05"), ("foolbox:SparseL1DescentAttack", {"steps": 5}, "W2-L1@1"),
    ("torchattacks:APGD", {"steps": 5}, "W1-L2@0.3"), ("torchattacks:PGDL2", {"steps": 5}, "W2-L2@0.3"),
    ("torchattacks:FAB", {"steps": 3}, "W1-Linf@0.05"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "settings", "text"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_flips_are_real_and_between_the_bounds(name: str, settings: dict[str, Any], text: str) -> None:
    library(name.partition(":")[0])
    model, x, y = digits()
    ball = threat(text)
    found = Foreign(attack=name, settings=settings)(model, x, y, ball)
    far = found.distances.values
    flipped = torch.isfinite(far) & (far > 0)
    assert int(flipped.sum()) >= 10
    with torch.no_grad():
        assert bool((model.eval()(found.points[flipped]).argmax(1) != y[flipped]).all())
    assert ((found.points >= 0) & (found.points <= 1)).all()
    size = (found.points - x).double().flatten(1).norm(p=ball.r, dim=1)
    torch.testing.assert_close(size[flipped], far[flipped], rtol=1e-6, atol=0)
    proved, ours = known(ball.r)
    assert (proved <= far * (1 + 1e-6)).all()
    best, least = FlipDistances.attacked(ours), FlipDistances.certified(proved)
    assert found.accuracy >= best.accuracy(ball.p, ball.radius) - 0.05
    assert least.accuracy(ball.p, ball.radius) <= found.accuracy <= found.clean_accuracy
    assert found.spent <= ball.radius * (1 + 1e-9)
    assert found.method == name
    assert found.passes.forward > len(x)
    assert found.passes.backward > 0


def test_at_a_pointwise_radius_it_is_the_librarys_own_call(foolbox: Any, torchattacks: Any) -> None:
    model, x, y = digits()
    ball = PointwiseBall(radius=0.15, r=math.inf)
    seen = foolbox.PyTorchModel(model.eval(), bounds=(0, 1))
    theirs = foolbox.attacks.LinfPGD(steps=10, **STILL)(seen, x, y, epsilons=0.15)[2].logical_not().sum()
    ours = Foreign(attack="foolbox:LinfPGD", settings={"steps": 10, **STILL})(model, x, y, ball)
    assert abs(ours.accuracy * len(x) - float(theirs)) <= 1
    assert ours.passes.backward == 10 * int((ours.distances.values > 0).sum())
    moved = torchattacks.PGD(model, eps=0.15, alpha=0.0375, steps=10, random_start=False)(x, y)
    left = int((model(moved).argmax(1) == y).sum())
    other = Foreign(attack="torchattacks:PGD", settings=STILL)(model, x, y, ball)
    assert abs(other.accuracy * len(x) - left) <= 1


@pytest.mark.parametrize(
    ("attack", "r"), [("foolbox:FGSM", math.inf), ("foolbox:FGM", 2.0), ("torchattacks:PGDL2", 2.0)]
)
def test_exact_on_a_linear_model_in_any_box(attack: str, r: float) -> None:
    """One gradient step finds the exact direction: the bisected, drawn-in distance is that to the hyperplane."""
    library(attack.partition(":")[0])
    model, x = nn.Linear(12, 2), torch.rand(20, 1, 3, 4) * 4 - 1
    net = nn.Sequential(nn.Flatten(), model)
    with torch.no_grad():
        w, height = model.weight[1] - model.weight[0], net(x).diff(dim=1).squeeze(1)
        exact = (height.abs() / w.norm(p={2.0: 2.0, math.inf: 1.0}[r])).double()
    settings = {"random_start": False}
    ball = WassersteinBall(radius=0.5, p=1, r=r, bounds=(-30.0, 40.0))
    result = Foreign(attack=attack, settings=settings, halvings=12)(net, x, (height > 0).long(), ball)
    torch.testing.assert_close(result.distances.values, exact, rtol=0.01, atol=1e-5)


def test_one_search_serves_all_radii_of_a_run(foolbox: Any, tmp_path: Any) -> None:
    model, x, y = digits()
    before = np.random.get_state()[1].copy()
    drawn = torch.random.get_rng_state()
    report = wt.benchmark(
        model, (x, y), ["W1-Linf@0.02,0.05", "W2-Linf@0.05", "Linf@0.15"], attack="foolbox:LinfPGD", run_dir=tmp_path,
        attack_options={"steps": 5, "halvings": 4, **STILL}, progress=False,
    )  # fmt: skip
    assert report.ok
    first, second, third, pointwise = report.results
    assert first.passes == second.passes == third.passes
    assert report.record.passes.backward - first.passes.backward < first.passes.backward
    direct = Foreign(attack="foolbox:LinfPGD", settings={"steps": 5, **STILL}, halvings=4)
    alone = direct(model, x, y, threat("Linf@0.15"))
    assert pointwise.attacked is not None
    assert pointwise.attacked <= alone.accuracy
    for result, text in ((first, "W1-Linf@0.02"), (third, "W2-Linf@0.05")):
        assert result.attacked is not None
        assert result.attacked <= direct(model, x, y, threat(text)).accuracy + 1e-9
    settings = report.record.settings["attack"]
    assert (settings["name"], settings["settings"]["steps"], settings["halvings"]) == ("foolbox:LinfPGD", 5, 4)
    assert settings["version"][0].isdigit()
    assert (np.random.get_state()[1] == before).all()
    assert torch.equal(torch.random.get_rng_state(), drawn)


class Fake:
    """Stands in for AutoAttack: keeps what it was given, answers with `Fake.answer`."""

    calls: list[dict[str, Any]] = []
    answer: Any = None

    def __init__(
        self,
        model: Any,
        norm: str,
        eps: float,
        seed: int,
        version: str,
        device: Any,
        verbose: bool,
        attacks_to_run: Any = (),
    ) -> None:
        self.model, self.eps = model, eps
        self.fab = self.apgd_targeted = types.SimpleNamespace(n_target_classes=9)
        Fake.calls.append({"norm": norm, "eps": eps, "version": version, "verbose": verbose, "attack": self})

    def run_standard_evaluation(self, x: Tensor, y: Tensor, bs: int) -> Tensor:
        print("robust accuracy: 0.00%")
        moved: Tensor = Fake.answer(self, x, y)
        return moved


def _sign_step(fake: Fake, x: Tensor, y: Tensor) -> Tensor:
    z = x.clone().requires_grad_(True)
    nn.functional.cross_entropy(fake.model(z), y, reduction="sum").backward()
    assert z.grad is not None
    return (x + fake.eps * z.grad.sign()).clamp(0, 1)


@pytest.fixture
def autoattack(monkeypatch: pytest.MonkeyPatch) -> type[Fake]:
    module = types.ModuleType("autoattack")
    module.AutoAttack = Fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "autoattack", module)
    Fake.calls, Fake.answer = [], _sign_step
    return Fake


def test_autoattack_by_its_interface(autoattack: type[Fake], capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(1)
    model, x = nn.Linear(6, 4), torch.rand(8, 6)
    y = model(x).argmax(1)
    attack = Foreign(attack="autoattack:standard")
    at = attack(model, x, y, threat("Linf@0.3"))
    (call,) = autoattack.calls
    assert (call["norm"], call["version"], call["verbose"]) == ("Linf", "standard", False)
    assert call["eps"] == pytest.approx(0.3, rel=1e-4)
    assert call["attack"].fab.n_target_classes == 3
    assert at.accuracy < 1
    assert at.passes.backward == 8
    assert capsys.readouterr().out == ""
    curve = attack(model, x, y, threat("W2-Linf@0.1"))
    assert curve.accuracy < 1
    assert len({call["eps"] for call in autoattack.calls}) > 4
    assert Foreign(attack="autoattack:custom", settings={"attacks_to_run": ["fab"]}).name == "autoattack:custom"
    with pytest.raises(InputError, match="standard, plus, rand, custom"):
        Foreign(attack="autoattack:stand")
    with pytest.raises(InputError, match="has no setting 'eps'; it has: attacks_to_run"):
        Foreign(attack="autoattack:standard", settings={"eps": 0.1})


@pytest.mark.parametrize(
    "lie",
    [lambda f, x, y: x, lambda f, x, y: x * math.nan, lambda f, x, y: x + math.inf, lambda f, x, y: x.double() + 1e-30],
)
def test_what_they_return_is_not_believed(lie: Any, autoattack: type[Fake]) -> None:
    torch.manual_seed(1)
    model, x = nn.Linear(6, 4), torch.rand(8, 6)
    autoattack.answer = staticmethod(lie)
    found = Foreign(attack="autoattack:standard")(model, x, model(x).argmax(1), threat("W1-Linf@0.1"))
    assert found.accuracy == 1
    assert torch.isinf(found.distances.values).all()
    assert torch.equal(found.points, x)


def test_outside_the_box_is_put_inside_and_judged_again(autoattack: type[Fake]) -> None:
    model, x = nn.Linear(1, 2), torch.full((3, 1), 0.9)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0], [1.0]]))
        model.bias.copy_(torch.tensor([1.5, 0.0]))
    autoattack.answer = staticmethod(lambda f, x, y: x + 5)
    found = Foreign(attack="autoattack:standard")(model, x, torch.zeros(3, dtype=torch.long), threat("Linf@0.05"))
    assert found.accuracy == 1, "a flip at 5.9 is none in [0, 1]"


def test_errors_teach(autoattack: type[Fake], monkeypatch: pytest.MonkeyPatch, foolbox: Any, torchattacks: Any) -> None:
    model, x, y = digits()
    with pytest.raises(InputError, match="did you mean 'LinfPGD'"):
        Foreign(attack="foolbox:LinfPDG")
    with pytest.raises(InputError, match="no setting 'stepz'; it has: rel_stepsize"):
        find_method("attack", "foolbox:LinfPGD").build({"stepz": 3})
    with pytest.raises(InputError, match="foolbox:<attack>"):
        find_method("attack", "cleverhans:PGD")
    with pytest.raises(ThreatError, match="made for Linf"):
        Foreign(attack="torchattacks:PGD")(model, x, y, threat("W1-L2@0.3"))
    with pytest.raises(ThreatError, match="needs a box"):
        Foreign(attack="foolbox:LinfPGD")(model, x, y, WassersteinBall(radius=0.1, p=1, r=math.inf, bounds=None))
    with pytest.raises(InputError, match=r"stopped on .* ValueError: unknown loss"):
        Foreign(attack="torchattacks:APGD", settings={"loss": "?"})(model, x, y, threat("Linf@0.1"))
    autoattack.answer = staticmethod(lambda f, x, y: x[:1])
    with pytest.raises(InputError, match="returned"):
        Foreign(attack="autoattack:plus")(model, x, y, threat("Linf@0.1"))
    for name in ("autoattack:standard", "foolbox:LinfPGD", "torchattacks:PGD"):
        monkeypatch.setitem(sys.modules, name.partition(":")[0], None)  # type: ignore[arg-type]
        with pytest.raises(PackageError, match="pip install"):
            Foreign(attack=name)
    assert run(["attack", "-n", "5", "-a", "autoattack:standard"]) == 2


def test_forms_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list", "methods", "--json"]) == 0
    shown = capsys.readouterr().out
    assert all(f'"{method.name}"' in shown for method in foreign_methods())


@pytest.mark.parametrize("text", ["Linf@0.15", "W2-L2@0.3"])
def test_ours_as_torchattacks(text: str, torchattacks: Any) -> None:
    model, x, y = digits()
    model.train()
    atk, ball = as_torchattacks(model, text, QUICK), threat(text)
    moved = atk(x, y)
    assert model.training
    model.eval()
    cost = (moved - x).double().flatten(1).norm(p=ball.r, dim=1)
    spent = float(cost.max() if math.isinf(ball.p) else cost.pow(ball.p).mean() ** (1 / ball.p))
    assert 0 < spent <= ball.radius * (1 + 1e-6)
    left = float((model(moved).argmax(1) == y).double().mean())
    ours = QUICK(model, x, y, ball).accuracy
    assert ours - 1e-9 <= left <= ours + 1 / len(x) + 1e-9
    both = torchattacks.MultiAttack([torchattacks.FGSM(model, eps=0.01), atk])(x, y)
    assert both.shape == x.shape
    with pytest.raises(ThreatError, match="one threat"):
        as_torchattacks(model, "KL+Linf@0.1,0.05")


def test_ours_as_foolbox(foolbox: Any) -> None:
    model, x, y = digits()
    seen = foolbox.PyTorchModel(model.eval(), bounds=(0, 1))
    raw, clipped, success = as_foolbox(QUICK, r=2.0)(seen, x, y, epsilons=[0.2, 0.6, None])
    far = QUICK(model, x, y, PointwiseBall(radius=1.0, r=2)).distances.values
    for index, epsilon in enumerate((0.2, 0.6, math.inf)):
        assert torch.equal(success[index], far <= epsilon)
        assert (((clipped[index] - x).flatten(1).norm(dim=1)) <= epsilon * (1 + 1e-5)).all()
    assert (raw[0] == raw[2]).all()
    fixed = as_foolbox(APGD(steps=5))(seen, x, foolbox.criteria.Misclassification(y), epsilons=0.15)[2]
    assert 0 < int(fixed.sum()) < len(x)
    again = as_foolbox(QUICK, r=2.0).repeat(2)(seen, x, y, epsilons=None)[2]
    assert bool(again.all())
    with pytest.raises(InputError, match="Misclassification"):
        as_foolbox()(seen, x, foolbox.criteria.TargetedMisclassification(y), epsilons=0.1)
