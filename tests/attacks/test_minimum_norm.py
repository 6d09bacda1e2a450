"""Minimum-norm attacks: exact where the answer is known, within their budget, and comparable to proved distances."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from wassertight.attacks import DDN, FAB, FMN, PDPGD, Attack, BisectedAPGD, DeepFool, MinimumNorm, Problem
from wassertight.attacks.incumbent import Incumbent
from wassertight.attacks.minimum_norm.descent import come_in, restart
from wassertight.attacks.minimum_norm.search import farthest
from wassertight.data import load_data
from wassertight.models import load_model
from wassertight.queries import ModelQueries
from wassertight.threats import PointwiseBall
from wassertight.types import InputError, ThreatError

RECORDS = Path(__file__).parents[2] / "benchmarks" / "records"
PUBLISHED: list[tuple[Attack, float]] = [
    (FMN(steps=200), 0.02), (PDPGD(steps=400), 0.05), (FAB(steps=20), 0.02), (FAB(steps=20, targets=2), 0.02),
    (DeepFool(), 0.021), (BisectedAPGD(rounds=12), 0.03),
]  # fmt: skip


def _linear() -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """Two classes in 12 dimensions; weight difference w, samples on both sides."""
    generator = torch.Generator().manual_seed(5)
    w = torch.randn(12, generator=generator)
    model = nn.Linear(12, 2)
    with torch.no_grad():
        model.weight.copy_(torch.stack((w, -w)))
        model.bias.zero_()
    x = torch.randn(16, 12, generator=generator)
    return model, x, model(x).argmax(1), w


@pytest.mark.parametrize("r", [1.0, 2.0, math.inf])
@pytest.mark.parametrize(("attack", "slack"), PUBLISHED, ids=lambda value: getattr(value, "name", ""))
def test_published_attacks_reach_a_hyperplane(attack: Attack, slack: float, r: float) -> None:
    model, x, y, w = _linear()
    dual = {1.0: w.abs().max(), 2.0: w.norm(), math.inf: w.abs().sum()}[r]
    exact = ((x @ w).abs() / dual).double()
    found = attack(model, x, y, PointwiseBall(radius=0.1, r=r, bounds=None)).distances.values
    assert (found >= exact * (1 - 1e-5)).all()
    assert float((found / exact).median()) <= 1 + slack


def test_ddn_reaches_a_hyperplane_and_is_l2_only() -> None:
    model, x, y, w = _linear()
    found = DDN(steps=200)(model, x, y, PointwiseBall(radius=0.1, r=2.0, bounds=None)).distances.values
    assert float((found / ((x @ w).abs() / w.norm()).double()).median()) <= 1.02
    with pytest.raises(ThreatError, match="min-norm"):
        DDN()(model, x, y, PointwiseBall(radius=0.1, r=1.0, bounds=None))


@pytest.mark.parametrize(
    "norm", ["inf", pytest.param("2", marks=pytest.mark.slow), pytest.param("1", marks=pytest.mark.slow)]
)
def test_strong_against_proved_minimum_distances(norm: str) -> None:
    """The records hold exact distances by MILP and branch and bound; a fifth of the samples keeps this quick."""
    record = json.loads((RECORDS / f"exact_digits-mlp_{norm}.json").read_text())
    rows = torch.tensor(record["indices"])[::5]
    lower = torch.tensor(record["lower"], dtype=torch.float64)[::5]
    data, model = load_data("digits", n=int(rows.max()) + 1), load_model("digits-mlp").model
    ball = PointwiseBall(radius=0.1, r=float(norm))
    found = MinimumNorm(passes="strong")(model, data.x[rows], data.y[rows], ball).distances.values
    assert (found >= lower * (1 - 1e-5)).all(), "an attack below a proved bound"
    assert float((found <= 1.01 * lower).double().mean()) >= 0.9


@pytest.mark.parametrize("r", [1.0, 2.0, math.inf])
@pytest.mark.parametrize("passes", [100, pytest.param(600, marks=pytest.mark.slow)])
def test_budget_and_dominance(passes: int, r: float) -> None:
    """Never above its budget, and in the mean no further out than FMN at the same one."""
    model, data = load_model("digits-cnn").model, load_data("digits", n=40)
    ball = PointwiseBall(radius=0.1, r=r)
    ours = MinimumNorm(passes=passes)(model, data.x, data.y, ball)
    right = int((ours.distances.values > 0).sum())
    assert ours.passes.total <= passes * right + 3 * len(data.y)
    theirs = FMN(steps=passes // 2)(model, data.x, data.y, ball).distances.values
    assert float(ours.distances.values.mean()) <= float(theirs.mean()) * (1 + 1e-6)


def test_presets_by_name() -> None:
    assert MinimumNorm(passes="quick").budget == 100
    assert MinimumNorm(passes="strong").budget == 2000
    with pytest.raises((InputError, TypeError), match="quick"):
        MinimumNorm(passes="fast")  # type: ignore[arg-type]


def test_samples_at_their_floor_cost_nothing_more() -> None:
    model, data = load_model("digits-cnn").model, load_data("digits", n=20)
    ball = PointwiseBall(radius=0.1, r=2.0)
    known = MinimumNorm(passes=200)(model, data.x, data.y, ball)
    with ModelQueries(model) as queries:
        problem = Problem(queries=queries, x=data.x, y=data.y, threat=ball)
        found = MinimumNorm(passes="strong").improve(problem, known.points, known.distances.values.float() * 1.01)
        assert queries.passes.total < 60 * len(data.y)
    moved = (found.points - data.x).flatten(1).norm(dim=1).double()
    assert (moved <= known.distances.values * (1 + 1e-5)).all()


def test_stopping_inside_answers_the_pointwise_question() -> None:
    model, data = load_model("digits-cnn").model, load_data("digits", n=40)
    ball = PointwiseBall(radius=0.1, r=math.inf)
    full = MinimumNorm(passes=500)(model, data.x, data.y, ball)
    stopped = MinimumNorm(passes=500, stop_inside=True)(model, data.x, data.y, ball)
    assert stopped.accuracy <= full.accuracy + 1 / 40
    assert stopped.passes.total < full.passes.total


@pytest.mark.parametrize("r", [1.0, 2.0, math.inf])
def test_moves_keep_the_box_and_never_lose_the_incumbent(r: float) -> None:
    model, data = load_model("digits-cnn").model, load_data("digits", n=12)
    generator = torch.Generator().manual_seed(0)
    ball = PointwiseBall(radius=0.1, r=r)
    start = MinimumNorm(passes=40)(model, data.x, data.y, ball)
    with ModelQueries(model) as queries:
        right = (queries.logits(data.x).argmax(1) == data.y).nonzero().squeeze(1)
        clean = queries.logits(data.x[right])
        incumbent = Incumbent(data.x[right], data.y[right], r, clean.new_full((len(right),), -1.0))
        rows = torch.arange(len(right))
        incumbent.offer(start.points[right], queries.logits(start.points[right]), rows)
        before = incumbent.distance.clone()
        restart(queries, incumbent, ball, 5, rows, generator, None, v=torch.ones_like(clean), turns=1)
        come_in(queries, incumbent, ball, 8, rows, generator)
    assert (incumbent.distance <= before).all()
    assert float(incumbent.points.min()) >= 0
    assert float(incumbent.points.max()) <= 1


def test_farthest_corner() -> None:
    x = torch.tensor([[0.25, 0.5]])
    assert float(farthest(x, 1.0, (0.0, 1.0))) == pytest.approx(1.25)
    assert float(farthest(x, math.inf, (0.0, 1.0))) == pytest.approx(0.75)
    assert math.isinf(float(farthest(x, 2.0, None)))
