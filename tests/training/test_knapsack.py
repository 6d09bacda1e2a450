"""The knapsack dual against linear classifiers, where distances, accuracies and gradients are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from wassertight.geometry import closest_on_hyperplane, conjugate
from wassertight.threats import WassersteinBall
from wassertight.training import Context, Knapsack, PGDTraining
from wassertight.training.objectives.knapsack import envelope, tail
from wassertight.transport import FlipDistances
from wassertight.types import InputError

N = 40


def linear() -> tuple[nn.Linear, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    model = nn.Linear(5, 2).double()
    with torch.no_grad():
        model.weight.copy_(torch.randn(2, 5, generator=generator, dtype=torch.float64))
        model.bias.copy_(torch.randn(2, generator=generator, dtype=torch.float64))
    x = torch.randn(N, 5, generator=generator, dtype=torch.float64)
    y = model(x).argmax(1)
    y[:5] = 1 - y[:5]
    return model, x, y


def exact(model: nn.Linear, x: Tensor, y: Tensor, r: float) -> Tensor:
    v, gap = model.weight[1] - model.weight[0], model.bias[1] - model.bias[0]
    value = (x @ v + gap) * (2 * y - 1)
    return value.clamp_min(0) / torch.linalg.vector_norm(v, ord=conjugate(r))


def settled(objective: Knapsack, model: nn.Module, x: Tensor, y: Tensor) -> Context:
    """The context after the queue has seen this batch until the cut radius stays."""
    context = Context(samples=len(x))
    for _ in range(12):
        crafted = objective.craft(model, x, y, context)
        objective.update(crafted, objective.outer(model, crafted, context), context)
    return context


@pytest.mark.parametrize("r", [2.0, math.inf])
@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("estimator", ["search", "first_order"])
def test_the_dual_is_the_exact_worst_case_error(r: float, p: float, estimator: str) -> None:
    model, x, y = linear()
    ball = WassersteinBall(radius=0.3, p=p, r=r, bounds=None)
    objective = Knapsack(threat=ball, floor=0.0, heaviest=1e9, estimator=estimator)
    context = settled(objective, model, x, y)
    truth = FlipDistances.attacked(exact(model, x, y, r).detach())
    allocation = truth.allocate(p, 0.3)
    u = context.number("cut", 0.0)
    crafted = objective.craft(model, x, y, context)
    dual = (0.3 / u) ** p + float(tail(crafted.notes["distance"], u, p).mean())
    # a search of ten steps and one projection: a few distances are long by a thousandth
    assert u == pytest.approx(allocation.threshold, rel=1e-3)
    assert dual == pytest.approx(allocation.value, abs=1e-4)


@pytest.mark.parametrize("r", [2.0, math.inf])
@pytest.mark.parametrize("p", [1.0, 2.0])
def test_gradient_against_finite_differences(r: float, p: float) -> None:
    model, x, y = linear()
    objective = Knapsack(
        threat=WassersteinBall(radius=0.3, p=p, r=r, bounds=None), beta=1.0, floor=0.0, heaviest=1e9, wrong="ce"
    )
    context = settled(objective, model, x, y)
    u = 1.03 * context.number("cut", 0.0)  # off the kink: the cut radius is the distance of one sample
    context.put("cut", u)
    right = exact(model, x, y, r) > 0
    outer = objective.outer(model, objective.craft(model, x, y, context), context)
    model.zero_grad()
    outer.each[right].sum().backward()
    slope = torch.cat([model.weight.grad.flatten(), model.bias.grad])
    direction = torch.randn(12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    values = []
    for step in (1e-6, -1e-6):
        other = nn.Linear(5, 2).double()
        with torch.no_grad():
            other.weight.copy_(model.weight + step * direction[:10].view(2, 5))
            other.bias.copy_(model.bias + step * direction[10:])
        values.append(float(tail(exact(other, x, y, r)[right].detach(), u, p).sum()))
    assert float(slope @ direction) == pytest.approx((values[0] - values[1]) / 2e-6, rel=5e-3)


@pytest.mark.parametrize("r", [1.0, 2.0, math.inf])
@pytest.mark.parametrize("boxed", [False, True])
def test_envelope_with_and_without_active_walls(r: float, boxed: bool) -> None:
    generator = torch.Generator().manual_seed(4)
    bounds = (0.0, 1.0) if boxed else None
    x = torch.rand(30, 6, generator=generator, dtype=torch.float64) * 0.3
    w = torch.randn(6, generator=generator, dtype=torch.float64)
    shift = torch.randn(6, generator=generator, dtype=torch.float64)

    def distance(w: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        d, reached = closest_on_hyperplane(x, w.expand_as(x), -(x @ w + c), r, bounds)
        return torch.linalg.vector_norm(d, ord=r, dim=1), x + d, reached

    c = -(x @ w) - 0.35 * w.abs().sum()
    size, z, reached = distance(w, c)
    ups, downs = distance(w + 1e-6 * shift, c)[0], distance(w - 1e-6 * shift, c)[0]
    numeric = (ups - downs) / 2e-6
    eta = envelope(w.expand_as(x), z, x, r, bounds)
    rows = reached & (size > 0)
    if boxed:
        assert bool((((z <= 0) | (z >= 1))[rows]).any()), "no wall is active"
    assert int(rows.sum()) > 5
    # a larger margin towards the other class brings the boundary closer
    assert torch.allclose(-(eta * (z @ shift))[rows], numeric[rows], rtol=1e-4, atol=1e-6)


def test_radius_zero_is_the_clean_error() -> None:
    model, x, y = linear()
    objective = Knapsack(threat=WassersteinBall(radius=0.0, p=2, r=2, bounds=None), beta=1.0)
    context = Context()
    crafted = objective.craft(model, x, y, context)
    clean = nn.functional.cross_entropy(model(x), y)
    assert float((objective.outer(model, crafted, context).loss - clean).detach()) == pytest.approx(5 / N)
    assert (
        float(objective.update(crafted, objective.outer(model, crafted, context), context)["worst-case error"]) == 5 / N
    )


def test_a_large_order_is_nearly_pointwise() -> None:
    model, x, y = linear()
    objective = Knapsack(threat=WassersteinBall(radius=0.3, p=200, r=2, bounds=None), floor=0.0)
    context = settled(objective, model, x, y)
    crafted = objective.craft(model, x, y, context)
    u = context.number("cut", 0.0)
    dual = (0.3 / u) ** 200 + float(tail(crafted.notes["distance"], u, 200).mean())
    pointwise = float((exact(model, x, y, 2.0) <= 0.3).double().mean())
    assert dual == pytest.approx(pointwise, abs=2 / N)


def test_hopeless_and_safe_samples_have_no_weight() -> None:
    model, x, y = linear()
    objective = Knapsack(threat=WassersteinBall(radius=0.3, p=2, r=2, bounds=None), floor=0.0, heaviest=1e9)
    context = settled(objective, model, x, y)
    crafted = objective.craft(model, x, y, context)
    d, weight, u = exact(model, x, y, 2.0).detach(), crafted.notes["weight"], context.number("cut", 0.0)
    assert bool((weight[(d == 0) | (d > u * 1.001)] == 0).all())
    inside = (d > 0) & (d < u * 0.999)
    v = model.weight[1] - model.weight[0]
    expected = 2 * d / u**2 / v.norm()
    assert torch.allclose(weight[inside], expected[inside].detach(), rtol=1e-4)


def test_a_base_takes_the_place_of_the_clean_term() -> None:
    model, x, y = linear()
    ball = WassersteinBall(radius=0.3, p=2, r=2, bounds=None)
    base = PGDTraining(threat=ball.pointwise, start="zero", steps=4)
    plain, joined = Knapsack(threat=ball, beta=2.0), Knapsack(threat=ball, beta=2.0, base=base)
    losses = [float(one(model, x, y, Context()).detach()) for one in (plain, joined, base)]
    clean = float(nn.functional.cross_entropy(model(x), y).detach())
    assert losses[1] - losses[2] == pytest.approx(losses[0] - clean, abs=1e-12)
    assert losses[0] - clean > 0.1
    silent = Knapsack(threat=ball, beta=0.0, base=base)
    assert float(silent(model, x, y, Context()).detach()) == pytest.approx(losses[2], abs=1e-12)
    with pytest.raises(InputError, match="cannot have a base"):
        Knapsack(threat=ball, base=base, wrong="ce")


def test_the_dual_joins_in_after_a_warmup_and_never_looks_far() -> None:
    model, x, y = linear()
    ball = WassersteinBall(radius=0.3, p=2, r=2, bounds=None)
    objective, plain = Knapsack(threat=ball, warmup=2), Knapsack(threat=ball, warmup=0, beta=2.0)
    clean = float(nn.functional.cross_entropy(model(x), y).detach())
    assert float(objective(model, x, y, Context(epoch=0)).detach()) == clean
    assert float(objective(model, x, y, Context(epoch=1)).detach()) == float(plain(model, x, y, Context()).detach())
    greedy = Knapsack(threat=ball.with_radius(50.0), beta=1.0)  # buys every sample and has budget left
    context = settled(greedy, model, x, y)
    assert context.number("cut", 0.0) <= 10 * 50.0
    for _ in range(20):
        crafted = greedy.craft(model, x, y, context)
        greedy.update(crafted, greedy.outer(model, crafted, context), context)
    assert context.number("cut", 0.0) == 500.0
