"""Branch and bound: sound, never below CROWN, near the true distance on small networks; auto searches what matters."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import wassertight as wt
from wassertight.attacks import MinimumNorm
from wassertight.certificates import Auto, BranchAndBound, CrownIBP, IntervalPropagation, LinearPropagation
from wassertight.certificates.propagation import matters
from wassertight.certificates.propagation.inner import OwnSlopes
from wassertight.certificates.propagation.propagation import Propagation
from wassertight.certificates.propagation.reading import read_graph
from wassertight.certificates.propagation.region import Region
from wassertight.certificates.propagation.relaxations import Elementwise
from wassertight.certificates.propagation.rounding import Rounding
from wassertight.certificates.propagation.slopes import ascend
from wassertight.certificates.propagation.specification import specification
from wassertight.threats import PointwiseBall, parse
from wassertight.types import InputError


def _network(seed: int, leaky: bool = False) -> nn.Sequential:
    torch.manual_seed(seed)
    hinge = (lambda: nn.LeakyReLU(0.1)) if leaky else nn.ReLU
    return nn.Sequential(nn.Linear(4, 10), hinge(), nn.Linear(10, 10), hinge(), nn.Linear(10, 3)).double().eval()


def _data(model: nn.Module, n: int = 6) -> tuple[Tensor, Tensor]:
    x = torch.rand(n, 4, dtype=torch.float64)
    return x, model(x).argmax(1).detach()


@pytest.mark.parametrize(
    ("seed", "r"),
    [
        pytest.param(0, 1.0, marks=pytest.mark.slow),
        pytest.param(0, 2.0, marks=pytest.mark.slow),
        pytest.param(0, math.inf, marks=pytest.mark.slow),
        (4, math.inf),
    ],
)
def test_radii_reach_the_attack_on_small_networks(seed: int, r: float) -> None:
    model = _network(seed, leaky=seed == 4)
    x, y = _data(model, 4)
    ball = PointwiseBall(radius=1.0, r=r)
    found = MinimumNorm(passes=1000)(model, x, y, ball).distances.values
    crown = LinearPropagation()(model, x, y, ball, upper=found).radii.values
    bab = BranchAndBound(seconds=5, tolerance=1e-2)(model, x, y, ball, upper=found).radii.values
    assert (bab >= crown - 1e-12).all()
    assert (bab <= found * (1 + 1e-6)).all()
    known = torch.isfinite(found)
    share = {math.inf: 0.97, 2.0: 0.94, 1.0: 0.85}[r]
    assert bab[known].sum() >= share * found[known].sum()


def test_multipliers_and_slopes_are_sound_on_every_side() -> None:
    model = _network(3)
    x, y = _data(model, 4)
    graph = read_graph(model, x, dtype=torch.float64, device=torch.device("cpu"))
    propagation = Propagation(graph, math.inf, rounding=Rounding(unit=0.0))
    region = Region.of(x, torch.full((4,), 0.3, dtype=torch.float64), math.inf, (0.0, 1.0))
    with torch.no_grad():
        bounds = propagation.bounds(region)
        relaxations = propagation.relaxations(bounds)
    hinge = next(k for k, v in relaxations.items() if isinstance(v, Elementwise))
    argument, relaxation = graph.nodes[hinge].parents[0], relaxations[hinge]
    assert isinstance(relaxation, Elementwise)
    assert relaxation.free is not None
    generator = torch.Generator().manual_seed(0)
    side = torch.randint(-1, 2, relaxation.free.shape, generator=generator) * relaxation.free
    spec = specification(y, 3, torch.float64)
    with torch.no_grad():
        plain = ascend(graph, len(graph.nodes) - 1, spec, region, relaxations, iterations=0).best
        found = ascend(
            graph, len(graph.nodes) - 1, spec, region, {**relaxations, hinge: relaxation.fixed(side)}, iterations=30,
            sides={argument: side.expand(-1, 2, -1)},
        ).best  # fmt: skip
    assert (found > plain + 1e-9).any()
    points = region.low + (region.high - region.low) * torch.rand(4000, *x.shape, dtype=torch.float64)
    values = graph.values(points.flatten(0, 1))
    inside = ((values[argument].view(4000, 4, -1) * side[:, 0]) >= 0).all(2)
    forms = torch.einsum("nmk,snk->snm", spec, values[-1].view(4000, 4, 3))
    least = forms.masked_fill(~inside[:, :, None], math.inf).amin(0)
    assert bool(inside.any())
    assert (found <= least + 1e-9).all()


@pytest.mark.parametrize("r", [math.inf, 2.0])
def test_inner_bounds_with_slopes_of_their_own_hold_and_are_kept(r: float) -> None:
    widths = (4, 12, 12, 12, 3)
    layers = [(nn.Linear(a, b), nn.LeakyReLU(0.1)) for a, b in itertools.pairwise(widths)]
    model = nn.Sequential(*itertools.chain(*layers))[:-1].double()
    torch.manual_seed(5)
    for layer in model[::2]:
        nn.init.normal_(layer.weight)
    x = torch.rand(1, 4, dtype=torch.float64)
    graph = read_graph(model, x, dtype=torch.float64, device=x.device)
    propagation = Propagation(graph, r, rounding=Rounding(unit=0.0))
    inner, node = OwnSlopes(graph, r, rounding=propagation.rounding, seconds=60.0), 5
    with torch.no_grad():
        for t in (0.2, 0.15, 0.25):
            region = Region.of(x, torch.tensor([t], dtype=torch.float64), r, (0.0, 1.0))
            plain, better = propagation.bounds(region), inner.bounds(region)
            open_units = (better.low[node] < 0) & (better.high[node] > 0)
            widths = [(found.high[node] - found.low[node])[open_units].sum() for found in (better, plain)]
            assert widths[0] < 0.98 * widths[1]
            assert open_units.sum() <= ((plain.low[node] < 0) & (plain.high[node] > 0)).sum()
            points = region.low + (region.high - region.low) * torch.rand(20_000, 4, dtype=torch.float64)
            points = points[torch.linalg.vector_norm(points - x, r, dim=1) <= t]
            for index, value in enumerate(graph.values(points)):
                assert ((value >= better.low[index] - 1e-9) & (value <= better.high[index] + 1e-9)).all()
        assert 0 < inner.evaluations <= 2 * (2 * 12) * (7 + 2 + 2)
        timeless = OwnSlopes(graph, r, rounding=propagation.rounding, seconds=0.0).bounds(region)
    assert all(torch.equal(timeless.low[k], plain.low[k]) for k in plain.low)


@pytest.mark.slow
def test_methods_are_ordered_on_the_digits_network() -> None:
    model, data = wt.load_model("digits-cnn").model, wt.load_data("digits", n=6)
    ball = PointwiseBall(radius=0.05, r=math.inf)
    upper = MinimumNorm(passes=100)(model, data.x, data.y, ball).distances.values
    methods = (IntervalPropagation(), CrownIBP(), LinearPropagation(), BranchAndBound(seconds=2))
    radii = [method(model, data.x, data.y, ball, upper=upper).radii.values for method in methods]
    means = [float(value.mean()) for value in radii]
    assert means == sorted(means)
    assert means[0] < means[2] < means[3]
    assert all((value <= upper * (1 + 1e-6)).all() for value in radii)


def test_what_matters() -> None:
    radii = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    upper = torch.tensor([0.2, 0.2, 0.5, 0.9], dtype=torch.float64)
    weights = torch.full((4,), 0.2, dtype=torch.float64)
    (robust,) = parse("Linf@0.15")
    assert matters(radii, upper, weights, [robust]) == [0]
    (mean,) = parse("W1-Linf@0.05")
    # the budget buys samples 0 (0.02) and three quarters of 1 (0.03 of 0.04); 1 is closed, 2 and 3 are out of reach
    assert matters(radii, upper, weights, [mean]) == [0]
    (wide,) = parse("W1-Linf@0.5")
    assert matters(radii, upper, weights, [wide]) == [0, 2, 3]
    assert matters(radii, upper, weights, [robust, wide]) == [0, 2, 3]
    assert matters(radii, upper, weights, []) == []


def test_auto_raises_the_value_and_searches_less(tmp_path: Path) -> None:
    model, data = wt.load_model("digits-cnn").model, wt.load_data("digits", n=15)
    run = {"progress": False, "seed": 0}
    crown = wt.benchmark(model, data, "W1-Linf@0.01", certificate="crown", **run)
    options = {"certificate": "auto", "certificate_options": {"seconds": 0.4}, "run_dir": tmp_path / "run"}
    auto = wt.benchmark(model, data, "W1-Linf@0.01", **options, **run)
    assert crown.certified < auto.certified <= auto.attacked
    searched = len(list((tmp_path / "run").rglob("*sharpen*")))
    assert searched > 0
    again = wt.benchmark(model, data, "W1-Linf@0.01", **options, **run)
    assert again.certified == auto.certified


def test_radii_grow_without_an_attack() -> None:
    model, data = wt.load_model("digits-cnn").model, wt.load_data("digits", n=3)
    ball = PointwiseBall(radius=0.05, r=math.inf)
    crown = LinearPropagation()(model, data.x, data.y, ball).radii.values
    bab = BranchAndBound(seconds=60.0, leaves=200)(model, data.x, data.y, ball).radii.values
    upper = MinimumNorm(passes=100)(model, data.x, data.y, ball).distances.values
    assert (bab >= crown).all()
    assert bab.sum() > 1.05 * crown.sum()
    assert (bab <= upper * (1 + 1e-6)).all()


def test_the_whole_box_is_proved_where_nothing_flips() -> None:
    model = _network(1)
    with torch.no_grad():
        for layer in model[::2]:
            layer.weight.mul_(3)
        model[4].bias.copy_(torch.tensor([8.0, 0.0, 0.0]))
    x, y = torch.rand(3, 4, dtype=torch.float64), torch.zeros(3, dtype=torch.long)
    ball = PointwiseBall(radius=1.0, r=2.0)
    assert LinearPropagation()(model, x, y, ball).radii.values.isfinite().any()
    assert BranchAndBound(seconds=5.0)(model, x, y, ball).radii.values.isinf().all()


def test_networks_without_hinges_keep_the_radii_of_crown() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Sigmoid(), nn.Linear(6, 3)).double().eval()
    x, y = _data(model, 4)
    ball = PointwiseBall(radius=0.1, r=math.inf)
    upper = MinimumNorm(passes=50)(model, x, y, ball).distances.values
    crown = LinearPropagation()(model, x, y, ball, upper=upper).radii.values
    for method in (BranchAndBound(seconds=1.0), Auto(seconds=1.0)):
        assert torch.equal(method(model, x, y, ball, upper=upper).radii.values, crown)


def test_bad_settings_are_told() -> None:
    with pytest.raises(InputError, match="seconds must be positive, got 0"):
        BranchAndBound(seconds=0)
    with pytest.raises(InputError, match="total must be positive or None"):
        Auto(total=-1.0)
    with pytest.raises(InputError, match="batch"):
        BranchAndBound(batch=0)
