"""Attacks on real networks: audited, reproducible, restoring, and never above the reference."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from wassertight.attacks import PGD, Found, MinimumNorm, Problem, WDAPlusPlus, conclude
from wassertight.attacks.incumbent import Incumbent
from wassertight.certificates import LinearPropagation
from wassertight.data import load_data
from wassertight.models import load_model
from wassertight.queries import ModelQueries
from wassertight.threats import PointwiseBall, WassersteinBall
from wassertight.types import InputError, ModelError


@pytest.mark.parametrize("name", ["digits-cnn", "digits-mlp-robust"])
@pytest.mark.parametrize("r", [1.0, 2.0, math.inf])
def test_certified_below_attacked_on_every_sample(name: str, r: float) -> None:
    model, data = load_model(name).model, load_data("digits", n=24)
    ball = PointwiseBall(radius=0.05, r=r)
    found = MinimumNorm(passes=120)(model, data.x, data.y, ball)
    bound = LinearPropagation()(model, data.x, data.y, ball, upper=found.distances.values)
    assert (bound.radii.values <= found.distances.values).all()
    assert torch.isfinite(found.distances.values).all()
    assert float(bound.radii.values.mean()) > 0


def test_the_same_seed_gives_the_same_result_and_the_model_is_restored() -> None:
    model, data = load_model("digits-cnn").model, load_data("digits", n=16)
    assert isinstance(model, nn.Module)
    model.train()
    next(model.parameters()).requires_grad_(False)
    modes, flags = [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]
    state = torch.random.get_rng_state()
    ball = WassersteinBall(radius=0.05, p=2, r=math.inf)
    first = PGD(restarts=2)(model, data.x, data.y, ball, seed=3)
    second = PGD(restarts=2)(model, data.x, data.y, ball, seed=3)
    assert torch.equal(first.points, second.points)
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == flags
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("passes", [40, 120, 300])
def test_the_pass_budget_is_kept(passes: int) -> None:
    model, data = load_model("digits-mlp").model, load_data("digits", n=40)
    result = MinimumNorm(passes=passes)(model, data.x, data.y, PointwiseBall(radius=0.1, r=math.inf))
    right = int((result.distances.values > 0).sum())
    assert result.passes.total <= passes * right + 40 + 2 * len(data.y)


def test_more_passes_help() -> None:
    model, data = load_model("digits-cnn").model, load_data("digits", n=40)
    ball = PointwiseBall(radius=0.1, r=2.0)
    few, many = (MinimumNorm(passes=p)(model, data.x, data.y, ball).distances.values.mean() for p in (40, 400))
    assert float(many) <= float(few)


@pytest.mark.parametrize(
    ("name", "r", "radii"),
    [
        pytest.param("mnist_mlpB_adv_0.1", math.inf, (0.05, 0.1), marks=pytest.mark.slow),
        pytest.param("mnist_mlpB_adv_0.1", 2.0, (0.5, 1.0), marks=pytest.mark.slow),
        ("cifar_wide_kw", math.inf, (2 / 255,)),
        pytest.param("cifar_cnn_a_adv", 2.0, (0.25,), marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_wda_is_never_above_its_reference(name: str, r: float, radii: tuple[float, ...], shared: Path) -> None:
    """With at most the reference's passes; the released function's defaults and its command line's."""
    model = load_model(f"{shared / 'manifest.json'}#{name}").model
    data = load_data(str(shared / ("mnist.npz" if name.startswith("mnist") else "cifar10_subset.npz")), n=24)
    presets = (WDAPlusPlus(mode="reference"), WDAPlusPlus(mode="reference", steps=20, step=0.02, candidates=9))
    for radius in radii:
        for preset in presets:
            with ModelQueries(model) as queries:
                ball = PointwiseBall(radius=radius, r=r)
                problem = Problem(queries=queries, x=data.x, y=data.y, threat=ball)
                theirs = preset.find(problem)
                spent = queries.passes.total
                right = int((queries.logits(data.x).argmax(1) == data.y).sum())
                ours = WDAPlusPlus(passes=max(30, spent // right)).find(problem)
                assert queries.passes.total - spent <= 1.1 * spent + 60
                for p in (1.0, 2.0, math.inf):
                    law = WassersteinBall(radius=radius, p=p, r=r)
                    upper = conclude("reference", queries, data.x, data.y, law, theirs).accuracy
                    assert conclude("ours", queries, data.x, data.y, law, ours).accuracy <= upper + 0.02


def test_nan_and_out_of_box_points_are_not_successes() -> None:
    model, x, y = nn.Identity(), torch.tensor([[0.8, 0.2], [0.7, 0.3]]), torch.tensor([0, 0])
    points = torch.tensor([[math.nan, 0.9], [-0.5, 0.9]])
    with ModelQueries(model) as queries:
        result = conclude("made up", queries, x, y, PointwiseBall(radius=9.0, r=2.0), Found(points=points, steps=1))
    assert result.accuracy == 1.0
    assert torch.isinf(result.distances.values).all()


def test_logits_that_are_not_finite_are_not_flips() -> None:
    x, y = torch.zeros(4, 2), torch.zeros(4, dtype=torch.long)
    kept = Incumbent(x, y, math.inf, torch.full((4,), -1.0))
    logits = torch.tensor([[0.0, math.nan], [0.0, math.inf], [-math.inf, 1.0], [0.0, 1.0]])
    assert kept.offer(torch.ones(4, 2), logits, torch.arange(4)).tolist() == [False, False, False, True]
    assert kept.found.tolist() == [False, False, False, True]
    assert kept.points[3].tolist() == [1.0, 1.0]


class _Odd(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = x.flatten(1)[:, :3]
        return {"nan": out * math.nan, "one": out[:, :1], "batch": out[:1], "shape": out[:, None]}[self.kind]


@pytest.mark.parametrize(
    ("kind", "hint"), [("nan", "NaN"), ("one", "one logit"), ("batch", "rows"), ("shape", "logits")]
)
def test_models_that_misbehave(kind: str, hint: str) -> None:
    with pytest.raises(ModelError, match=hint):
        WDAPlusPlus()(_Odd(kind), torch.rand(4, 5), torch.zeros(4, dtype=torch.long), PointwiseBall(radius=0.1, r=2.0))


@pytest.mark.parametrize(
    ("x", "y", "hint"),
    [
        (torch.rand(4, 3), torch.tensor([0, 1, 2, 3]), "0..2"), (torch.rand(4, 3), torch.zeros(4), "integer"),
        (torch.full((4, 3), math.nan), torch.zeros(4, dtype=torch.long), "NaN"),
        (torch.rand(4, 3) + 1, torch.zeros(4, dtype=torch.long), "box"), (torch.rand(0, 3), torch.zeros(0, dtype=torch.long), "empty"),
        (torch.rand(4, 3), torch.zeros(3, dtype=torch.long), "one label a sample"),
    ],
)  # fmt: skip
def test_bad_input(x: torch.Tensor, y: torch.Tensor, hint: str) -> None:
    with pytest.raises(InputError, match=hint):
        MinimumNorm()(nn.Identity(), x, y, PointwiseBall(radius=0.1, r=2.0))


@pytest.mark.parametrize(
    "make",
    [lambda: MinimumNorm(passes=3), lambda: PGD(steps=0), lambda: PGD(loss="hinge"), lambda: WDAPlusPlus(steps=0)],
)
def test_bad_settings(make: object) -> None:
    with pytest.raises(InputError):
        make()  # type: ignore[operator]
