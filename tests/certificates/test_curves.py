"""Accuracy curves: closed forms, movable labels against a transport program, coverage of the bounds for the true law."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from wassertight.certificates import LinearPropagation, Population, accuracy_curves
from wassertight.threats import PointwiseBall
from wassertight.transport import FlipDistances
from wassertight.types import InputError

ORDERS = (1.0, 1.5, 2.0, 5.0, math.inf)


def _tensor(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _lists(n: int = 40) -> tuple[FlipDistances, FlipDistances]:
    low = torch.rand(n, dtype=torch.float64)
    low[:4] = 0
    high = low + torch.rand(n, dtype=torch.float64)
    high[:2] = 0
    high[-1] = math.inf
    return FlipDistances.certified(low), FlipDistances.attacked(high)


def test_curves_are_those_of_the_distances() -> None:
    radii = torch.linspace(0, 2, 33, dtype=torch.float64)
    for side in _lists():
        for curve, p in zip(accuracy_curves(side, ORDERS, radii), ORDERS, strict=True):
            assert torch.equal(curve.accuracy, side.curve(p, radii))
            assert (curve.p, curve.side, curve.confidence, curve.margin) == (p, side.side, 1.0, 0.0)
            assert "labels do not move" in curve.assumptions
            assert any("exactly these 40 samples" in text for text in curve.assumptions)


@pytest.mark.parametrize("p", ORDERS)
def test_one_distance(p: float) -> None:
    """All samples at distance d: `1 - min(1, (radius/d)**p)`."""
    radii = [0.0, 0.1, 0.29, 0.31, 2.0]
    (curve,) = accuracy_curves(FlipDistances.certified(_tensor([0.3, 0.3, 0.3])), (p,), radii)
    exact = [1 - min(1.0, (radius / 0.3) ** p) if math.isfinite(p) else float(radius < 0.3) for radius in radii]
    assert curve.accuracy.tolist() == pytest.approx(exact, abs=1e-12)


def test_uniform_and_exponential_distances() -> None:
    n = 100_000
    grid = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    for p in (1.0, 2.0, 4.0):
        (curve,) = accuracy_curves(FlipDistances.certified(grid), (p,), [0.02, 0.1])
        exact = [1 - (p + 1) ** (1 / (p + 1)) * radius ** (p / (p + 1)) for radius in (0.02, 0.1)]
        assert curve.accuracy.tolist() == pytest.approx(exact, abs=1e-6)
    times = _tensor([0.1, 0.5, 1.5])
    (curve,) = accuracy_curves(FlipDistances.certified(-torch.log1p(-grid)), (1.0,), 1 - (1 + times) * (-times).exp())
    assert curve.accuracy.tolist() == pytest.approx((-times).exp().tolist(), abs=1e-4)


@pytest.mark.parametrize("r", [1.0, 2.0, math.inf])
def test_linear_classifier_is_exact(r: float) -> None:
    """`d_i = margin / dual norm of the weights`, on the whole space; the certificate hits it for every order."""
    generator = torch.Generator().manual_seed(3)
    model = torch.nn.Sequential(torch.nn.Linear(6, 2)).double()
    x = torch.randn(30, 6, generator=generator, dtype=torch.float64)
    y = model(x).argmax(1)
    y[0] = 1 - y[0]
    z = model(x).detach()
    difference = (model[0].weight[0] - model[0].weight[1]).detach()
    dual = torch.linalg.vector_norm(difference, 1 if math.isinf(r) else (math.inf if r == 1 else 2))
    exact = (z.gather(1, y[:, None]) - z.gather(1, 1 - y[:, None])).squeeze(1).clamp_min(0) / dual
    bound = LinearPropagation()(model, x, y, PointwiseBall(radius=0.1, r=r, bounds=None))
    radii = [0.0, 0.05, 0.2, 1.0]
    truth = accuracy_curves(FlipDistances.attacked(exact), (1.0, 2.0), radii)
    for found, wanted in zip(accuracy_curves(bound.radii, (1.0, 2.0), radii), truth, strict=True):
        assert found.accuracy.tolist() == pytest.approx(wanted.accuracy.tolist(), abs=1e-6)


@pytest.mark.parametrize("p", [1.0, 2.0])
@pytest.mark.parametrize("cost", [0.7, 1.6, math.inf])
def test_label_cost_against_the_transport_program(p: float, cost: float) -> None:
    """A grid of states with three labels: the largest error mass any coupling within the budget reaches."""
    rng = np.random.default_rng(5)
    places, labels = np.arange(7) * 0.5, 3
    answer = rng.integers(0, labels, len(places))
    x, y = rng.integers(0, len(places), 6), rng.integers(0, labels, 6)
    y[:4] = answer[x[:4]]
    distance = np.array([
        min((abs(places[i] - z) for z, a in zip(places, answer, strict=True) if a != j), default=math.inf)
        for i, j in zip(x, y, strict=True)
    ])  # fmt: skip
    step = np.abs(places[x][:, None] - places[None])
    moves = step[:, :, None] + np.where(y[:, None, None] == np.arange(labels), 0.0, min(cost, 1e3))
    wrong = np.broadcast_to(answer[:, None] != np.arange(labels), moves.shape)
    flips = FlipDistances.attacked(torch.tensor(distance))
    for radius in (0.1, 0.4, 1.0):
        program = linprog(
            -wrong.ravel().astype(float), A_ub=(moves**p).ravel()[None], b_ub=[radius**p],
            A_eq=np.kron(np.eye(6), np.ones(moves[0].size)), b_eq=np.full(6, 1 / 6),
        )  # fmt: skip
        (curve,) = accuracy_curves(flips, (p,), [radius], label_cost=cost)
        assert float(curve.accuracy[0]) == pytest.approx(1 + program.fun, abs=1e-5 if math.isinf(cost) else 1e-8)
    if math.isfinite(cost):
        assert f"changing one costs {cost:g}" in " ".join(curve.assumptions)


def test_relabelling_at_the_radius_itself_is_not_certified() -> None:
    proved = FlipDistances.certified(_tensor([0.5, 0.5]), closed=True)
    (curve,) = accuracy_curves(proved, (math.inf,), [0.1, 0.2, 0.3], label_cost=0.2)
    assert curve.accuracy.tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("p", [1.0, math.inf])
def test_bounds_around_the_true_law_cover_it(p: float) -> None:
    """2,000 draws of exponential distances: the curve leaves the truth at any radius in at most eta of them, each side."""
    generator, draws, eta, n = torch.Generator().manual_seed(0), 2000, 0.05, 100
    radii = [0.1, 0.5]
    law = FlipDistances.certified(-torch.log1p(-(torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000))
    truth = law.curve(p, radii)
    population = Population(confidence=1 - eta)
    margin, broken = population.margin(n), [0, 0]
    for _ in range(draws):
        value = FlipDistances.certified(torch.empty(n, dtype=torch.float64).exponential_(generator=generator))
        drawn = value.curve(p, radii)
        broken[0] += bool((drawn - margin > truth).any())
        broken[1] += bool((drawn + margin < truth).any())
    assert max(broken) <= eta * draws


def test_population_margin_and_what_it_says() -> None:
    proved, found = _lists()
    one, two = Population(), Population(sides=2)
    assert one.margin(200) == pytest.approx(math.sqrt(math.log(20) / 400))
    assert two.margin(200) == pytest.approx(math.sqrt(math.log(40) / 400))
    assert one.margin(10_000) == pytest.approx(0.0122, abs=5e-5)
    (low,) = accuracy_curves(proved, (2.0,), [0.1], population=one)
    assert float(low.accuracy[0]) == pytest.approx(proved.population_accuracy(2, 0.1, eta=0.05), abs=1e-12)
    (high,) = accuracy_curves(found, (2.0,), [0.1], population=two)
    assert float(high.accuracy[0]) == pytest.approx(min(1, found.accuracy(2, 0.1) + two.margin(40)))
    assert (low.confidence, low.margin) == (0.95, one.margin(40))
    text = " ".join(low.assumptions)
    assert "independent draws" in text
    assert "19.35 points" in text
    assert "each side" in " ".join(high.assumptions)


def test_randomised_certifiers_cost_more() -> None:
    n, eta = 1000, 0.025
    plain = math.sqrt(math.log(1 / eta) / (2 * n))
    assert Population(failure=eta / n).margin(n) == pytest.approx(plain), "union bound"
    assert Population(failure=0.001).margin(n) == pytest.approx(0.001 + 2 * plain)
    assert "wrong with probability at most 0.001" in " ".join(Population(failure=0.001).assumptions(n))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"confidence": 1.0}, r"\[0.5, 1\)"),
        ({"confidence": 0.3}, "got 0.3"),
        ({"confidence": math.nan}, "nan"),
        ({"sides": 3}, "got 3"),
        ({"failure": 1.5}, "deterministic"),
    ],
)
def test_bad_population(changes: dict[str, float], text: str) -> None:
    with pytest.raises(InputError, match=text):
        Population(**changes)


def test_bad_curves() -> None:
    proved, _ = _lists()
    for orders, radii, options, text in (
        ((), [0.1], {}, "no order"),
        ((0.5,), [0.1], {}, ">= 1 or inf"),
        ((1.0,), [], {}, "at least one"),
        ((1.0,), [-0.1], {}, ">= 0"),
        ((1.0,), [0.1], {"label_cost": 0.0}, "label cost must be > 0"),
        ((1.0,), [0.1], {"label_cost": math.nan}, "label cost must be > 0"),
    ):
        with pytest.raises(InputError, match=text):
            accuracy_curves(proved, orders, radii, **options)
    uneven = FlipDistances.certified(_tensor([0.1, 0.2]), _tensor([1.0, 3.0]))
    with pytest.raises(InputError, match="equal weights"):
        accuracy_curves(uneven, (1.0,), [0.1], population=Population())
    with pytest.raises(InputError, match="n >= 1"):
        Population().margin(0)
