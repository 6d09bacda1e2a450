"""Attacks agree with foolbox and torchattacks on the same networks and budgets, and keep what their papers promise.

The comparisons are skipped where those libraries are not installed (`pip install foolbox`, and `pip install --no-deps
torchattacks`, whose metadata asks for a torchvision it does not import).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wassertight import attacks as wt
from wassertight.data import load_data
from wassertight.models import load_model
from wassertight.threats import PointwiseBall

NETWORKS = ("digits-mlp", "digits-cnn", "digits-cnn-robust")
NORMS = {math.inf: "Linf", 2.0: "L2"}
TOLERANCE = 2
"""Samples of 60 by which seeds alone make two runs of one attack differ."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """A network, samples, and a ball in which two fifths of them have a flip."""

    model: nn.Module
    x: Tensor
    y: Tensor
    ball: PointwiseBall
    nearest: Tensor

    def survivors(self, attack: wt.Attack) -> int:
        """Samples that our attack leaves correctly classified."""
        return round(attack(self.model, self.x, self.y, self.ball).accuracy * len(self.y))

    def distances(self, attack: wt.Attack) -> Tensor:
        return attack(self.model, self.x, self.y, self.ball).distances.values

    def measured(self, points: Tensor) -> Tensor:
        """Distances of another library's points; inf where they are not misclassified or outside the box."""
        with torch.no_grad():
            clean, wrong = (self.model(z).argmax(1) != self.y for z in (self.x, points))
        inside = ((points >= 0) & (points <= 1)).flatten(1).all(1)
        size = (points - self.x).double().flatten(1).norm(p=self.ball.r, dim=1)
        return torch.where(clean, 0.0, torch.where(wrong & inside, size, math.inf))

    def survivors_of(self, points: Tensor) -> int:
        """Samples without a flip inside the ball, float32 rounding of the other library allowed for."""
        return int((self.measured(points) > self.ball.radius * (1 + 1e-5)).sum())


def _case(model: object, x: Tensor, y: Tensor, r: float) -> Case:
    assert isinstance(model, nn.Module)
    nearest = wt.MinimumNorm(passes=200)(model, x, y, PointwiseBall(radius=1.0, r=r)).distances.values
    ball = PointwiseBall(radius=float(nearest.quantile(0.4)), r=r)
    return Case(model=model.eval(), x=x, y=y, ball=ball, nearest=nearest)


@cache
def digits(name: str, r: float) -> Case:
    data = load_data("digits", n=60)
    return _case(load_model(name).model, data.x, data.y, r)


FIXED: dict[str, tuple[wt.Attack, Callable[..., Any]]] = {
    "apgd-ce": (wt.APGD(steps=30), lambda ta, **common: ta.APGD(steps=30, loss="ce", **common)),
    "apgd-dlr": (wt.APGD(steps=30, loss="dlr"), lambda ta, **common: ta.APGD(steps=30, loss="dlr", **common)),
    "apgd-t": (wt.APGD(steps=10, targets=9), lambda ta, **common: ta.APGDT(steps=10, **common)),
    "fab": (wt.FAB(steps=10), lambda ta, **common: ta.FAB(steps=10, **common)),
    "fab-t": (wt.FAB(steps=10, targets=9), lambda ta, **common: ta.FAB(steps=10, multi_targeted=True, **common)),
    "square": (wt.Square(queries=150), lambda ta, **common: ta.Square(n_queries=150, **common)),
}


@pytest.mark.parametrize("name", ["digits-mlp", "digits-cnn-robust"])
@pytest.mark.parametrize("r", NORMS)
@pytest.mark.parametrize("kind", FIXED)
def test_fixed_radius_attacks_are_as_strong_as_torchattacks(kind: str, r: float, name: str, torchattacks: Any) -> None:
    case, (ours, build) = digits(name, r), FIXED[kind]
    theirs = build(torchattacks, model=case.model, norm=NORMS[r], eps=case.ball.radius)(case.x, case.y)
    assert case.survivors(ours) <= case.survivors_of(theirs) + TOLERANCE


@pytest.mark.parametrize(("name", "r"), [("digits-cnn-robust", math.inf), ("digits-mlp", 2.0)])
def test_autoattack_is_as_strong_as_torchattacks(name: str, r: float, torchattacks: Any) -> None:
    case = digits(name, r)
    theirs = torchattacks.AutoAttack(case.model, norm=NORMS[r], eps=case.ball.radius, seed=0)
    theirs._autoattack.attacks[-1].n_queries = 150
    assert case.survivors(wt.AutoAttack(steps=10, queries=150)) <= case.survivors_of(theirs(case.x, case.y)) + 1


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("r", NORMS)
def test_deterministic_attacks_give_the_same_accuracy(r: float, name: str, foolbox: Any) -> None:
    """One step of the radius, and PGD from the sample with the same steps: no draw, so no difference."""
    case, attacks = digits(name, r), foolbox.attacks
    step, walk = (attacks.FGSM, attacks.LinfPGD) if math.isinf(r) else (attacks.FGM, attacks.L2PGD)
    model = foolbox.PyTorchModel(case.model, bounds=(0, 1))
    twenty = walk(rel_stepsize=0.1, steps=20, random_start=False)
    for ours, theirs in ((wt.FGSM(), step(random_start=False)), (wt.PGD(steps=20, step_factor=2.0), twenty)):
        points = theirs(model, case.x, case.y, epsilons=case.ball.radius)[1]
        assert abs(case.survivors(ours) - case.survivors_of(points)) <= 1


@pytest.mark.parametrize("name", NETWORKS)
def test_l1_apgd_is_as_strong_as_sparse_descent(name: str, foolbox: Any) -> None:
    """SLIDE is foolbox's strongest l_1 attack at a fixed radius; 2103.01208 reports APGD above it."""
    case = digits(name, 1.0)
    model = foolbox.PyTorchModel(case.model, bounds=(0, 1))
    theirs = foolbox.attacks.SparseL1DescentAttack(steps=30)(model, case.x, case.y, epsilons=case.ball.radius)[1]
    assert case.survivors(wt.APGD(steps=30)) <= case.survivors_of(theirs) + TOLERANCE


MINIMUM: dict[tuple[str, float], tuple[wt.Attack, Callable[[Any], Any], float, float]] = {
    # Same algorithm: within 10 %. FMN's radius departs where the box cuts a step (fmn.py, 4), which only helps: foolbox
    # loses up to half of the samples under l_1, and its l_2 version never projects (it divides a norm by itself).
    # DeepFool's step respects the box (deepfool.py, 1) while foolbox leaves it and clips: up to 15 % either way.
    ("ddn", 2.0): (wt.DDN(steps=60), lambda fa: fa.DDNAttack(steps=60), 0.9, 1.1),
    ("fmn", math.inf): (wt.FMN(steps=60), lambda fa: fa.LInfFMNAttack(steps=60), 0.9, 1.1),
    ("fmn", 2.0): (wt.FMN(steps=60), lambda fa: fa.L2FMNAttack(steps=60), 0.0, 1.0),
    ("fmn", 1.0): (wt.FMN(steps=60), lambda fa: fa.L1FMNAttack(steps=60), 0.0, 1.1),
    ("deepfool", math.inf): (wt.DeepFool(), lambda fa: fa.LinfDeepFoolAttack(), 0.85, 1.15),
    ("deepfool", 2.0): (wt.DeepFool(), lambda fa: fa.L2DeepFoolAttack(), 0.85, 1.15),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("kind", "r"), MINIMUM)
def test_minimum_norm_attacks_match_foolbox(kind: str, r: float, name: str, foolbox: Any) -> None:
    case, (ours, build, low, high) = digits(name, r), MINIMUM[kind, r]
    points = build(foolbox.attacks)(foolbox.PyTorchModel(case.model, bounds=(0, 1)), case.x, case.y, epsilons=None)[0]
    found, theirs = case.distances(ours), case.measured(points)
    assert torch.isfinite(found).all()
    assert low <= float(found.median() / theirs.median()) <= high
    assert float(case.nearest.median()) <= min(float(found.median()), float(theirs.median()))


def test_agreement_on_a_shared_network(shared: Path, foolbox: Any, torchattacks: Any) -> None:
    data = load_data(str(shared / "mnist.npz"), n=30)
    case = _case(load_model(f"{shared / 'manifest.json'}#mnist_cnn_a_adv").model, data.x, data.y, 2.0)
    theirs = torchattacks.APGD(case.model, norm="L2", eps=case.ball.radius, steps=30)(case.x, case.y)
    assert case.survivors(wt.APGD(steps=30)) <= case.survivors_of(theirs) + TOLERANCE
    model = foolbox.PyTorchModel(case.model, bounds=(0, 1))
    median = float(case.measured(foolbox.attacks.DDNAttack(steps=60)(model, case.x, case.y, epsilons=None)[0]).median())
    assert float(case.distances(wt.DDN(steps=60)).median()) == pytest.approx(median, rel=0.1)
    assert float(case.nearest.median()) <= median


MORE = [
    (wt.DDN, 20, 2.0),
    *((wt.FMN, 20, r) for r in (1.0, *NORMS)),
    (wt.PDPGD, 150, 1.0),
    *(pytest.param(wt.PDPGD, 150, r, marks=pytest.mark.slow) for r in NORMS),
]


@pytest.mark.parametrize(("kind", "few", "r"), MORE)
def test_more_steps_are_not_worse(kind: type[wt.DDN | wt.FMN | wt.PDPGD], few: int, r: float) -> None:
    """PDPGD's dual variables need some 150 steps before the norm counts: a hundredfold in steps of 10 %."""
    case = digits("digits-mlp", r)
    short, long = (case.distances(kind(steps=steps)) for steps in (few, 2 * few))
    assert torch.isfinite(long).all()
    assert float(long.median()) <= 1.01 * float(short.median())
    assert float(case.nearest.median()) <= float(long.median())


@pytest.mark.parametrize("r", [pytest.param(1.0, marks=pytest.mark.slow), *NORMS])
def test_the_ensemble_is_as_strong_as_its_members(r: float) -> None:
    case, steps, queries = digits("digits-mlp", r), 10, 100
    left = case.survivors(wt.AutoAttack(steps=steps, queries=queries))
    assert left <= case.survivors(wt.APGD(steps=steps))
    for member in (wt.APGD(steps=steps, targets=9), wt.FAB(steps=steps, targets=9), wt.Square(queries=queries)):
        assert left <= case.survivors(member) + 1


@pytest.mark.parametrize("r", [1.0, *NORMS])
def test_square_asks_for_no_gradient_and_keeps_its_queries(r: float) -> None:
    case = digits("digits-mlp", r)
    result = wt.Square(queries=50)(case.model, case.x, case.y, case.ball)
    assert result.passes.backward == 0
    assert result.passes.forward <= (50 + 1) * len(case.y)


@pytest.mark.parametrize("targets", [None, 3])
@pytest.mark.parametrize("r", [1.0, *NORMS])
def test_apgd_stays_inside_the_ball(r: float, targets: int | None) -> None:
    case = digits("digits-mlp", r)
    result = wt.APGD(steps=20, targets=targets)(case.model, case.x, case.y, case.ball)
    flips = result.distances.values
    assert result.audit.ok
    assert result.spent <= case.ball.radius
    assert int(((flips > 0) & (flips <= case.ball.radius)).sum()) > 10


GENERAL = (wt.MinimumNorm(passes=60), wt.FMN(), wt.DeepFool(), wt.FAB(), wt.BisectedAPGD(), wt.PDPGD())
LINEAR = [(wt.DDN(steps=1000, gamma=0.01), 2.0), *((attack, r) for attack in GENERAL for r in (1.0, *NORMS))]


@pytest.mark.parametrize(("attack", "r"), LINEAR, ids=lambda value: getattr(value, "name", None))
def test_exact_on_a_linear_model(attack: wt.Attack, r: float) -> None:
    """The distance to a hyperplane is `|w x + b| / ||w||_*` where no box is in the way.

    DDN's precision is its gamma. PDPGD's first-order steps oscillate around the optimum: 12 % off in l_1, 4 % in l_inf.
    """
    share = 0.15 if isinstance(attack, wt.PDPGD) else 0.01
    model, x = nn.Linear(12, 2), torch.rand(20, 12)
    with torch.no_grad():
        w, height = model.weight[1] - model.weight[0], model(x).diff(dim=1).squeeze(1)
        exact = height.abs() / w.norm(p={1.0: math.inf, 2.0: 2.0, math.inf: 1.0}[r])
    result = attack(model, x, (height > 0).long(), PointwiseBall(radius=1.0, r=r, bounds=None))
    torch.testing.assert_close(result.distances.values, exact.double(), rtol=share, atol=1e-5)


@pytest.mark.parametrize("radius", [1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("kind", [wt.FGSM, wt.PGD, wt.APGD, wt.Square])
def test_tiny_radii_are_not_lost_to_rounding(kind: type[wt.Attack], radius: float) -> None:
    """Samples 0.98 radii from a hyperplane all flip, even where floats are coarse beside the radius."""
    model, x = nn.Linear(12, 2), torch.rand(40, 12)
    with torch.no_grad():
        w, height = model.weight[1] - model.weight[0], model(x).diff(dim=1)
        x += w / w.square().sum() * (height.sign() * 0.98 * radius * w.abs().sum() - height)
    ball = PointwiseBall(radius=radius, r=math.inf, bounds=None)
    assert kind()(model, x, (height > 0).long().squeeze(1), ball).accuracy == 0
