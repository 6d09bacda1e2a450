"""Forward linear bounds against points of the region, backward bounds of linear networks, intervals, and dense algebra."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch import Tensor, nn

import wassertight as wt
from random_networks import POINTWISE, PRECISIONS, Grown, check_nodes, exact_points, region_points
from wassertight.certificates import CrownIBP, ForwardPropagation, IntervalPropagation, LinearPropagation
from wassertight.certificates.propagation.forms import Forwarding
from wassertight.certificates.propagation.forward import FormBounds, Forward
from wassertight.certificates.propagation.operations import Dense
from wassertight.certificates.propagation.propagation import Propagation
from wassertight.certificates.propagation.reading import read_graph
from wassertight.certificates.propagation.region import Region
from wassertight.certificates.propagation.rounding import Rounding
from wassertight.threats import PointwiseBall
from wassertight.types import InputError

GROUPS, EACH = 9, 8


def _check_nodes(propagation: Forward, region: Region, points: Tensor) -> None:
    entered, values, found = check_nodes(propagation, region, points)
    graph, region = propagation.graph, propagation.enter(region)
    intervals = propagation.bounds(region, "interval")
    assert isinstance(found, FormBounds)
    _check_forms(propagation, region, entered, values, found)
    plain = ~found.lost & ~intervals.lost
    for index in graph.bent:
        low, high = intervals.low[index][plain], intervals.high[index][plain]
        slack = (1e-4 if region.x.dtype == torch.float32 else 1e-9) * (1 + low.abs() + high.abs())
        assert (found.low[index][plain] >= low - slack).all(), graph.nodes[index].name
        assert (found.high[index][plain] <= high + slack).all(), graph.nodes[index].name


def _check_forms(propagation: Forward, region: Region, points: Tensor, values: list[Tensor], found: FormBounds) -> None:
    """Every node's values lie between its two forms, point by point."""
    away = (points - region.x).flatten(2)
    ones = torch.ones_like(away[..., :1])
    forms = {0: found.forwarding.source(region.x)}
    for index in range(1, len(propagation.graph.nodes)):
        node = propagation.graph.nodes[index]
        forms[index] = propagation.pushed(index, found, [forms[p] for p in node.parents])
        low, high = (
            torch.einsum("pnd,ndk->pnk", torch.cat((ones, away), 2), f.flatten(2))
            for f in (forms[index].lower, forms[index].upper)
        )
        slack = (1e-4 if region.x.dtype == torch.float32 else 1e-10) * found.forwarding.size(forms[index]).flatten(1)
        slack = (slack + found.error[index].flatten(1))[~found.lost]
        value = values[index].reshape(*points.shape[:2], -1)[:, ~found.lost]
        assert (low[:, ~found.lost] <= value + slack).all(), node.name
        assert (high[:, ~found.lost] >= value - slack).all(), node.name


def _lowest(logits: Tensor, y: Tensor) -> Tensor:
    """Smallest margin over points, logits (points, n, classes)."""
    index = y.view(1, -1, 1).expand(len(logits), -1, 1)
    return (logits.gather(2, index).squeeze(2) - logits.scatter(2, index, -math.inf).amax(2)).amin(0)


@pytest.mark.parametrize("group", [0, *(pytest.param(k, marks=pytest.mark.slow) for k in range(1, GROUPS))])
@torch.no_grad()
def test_every_node_and_every_margin(group: int) -> None:
    better: list[float] = []
    for seed in range(group * EACH, (group + 1) * EACH):
        dice = random.Random(seed + 1000)
        model = Grown(seed)
        dtype, own = dice.choice(PRECISIONS)
        model, x = model.to(dtype), torch.rand(3, *model.source).to(dtype)
        r, bounds = dice.choice([1.0, 2.0, math.inf]), dice.choice([None, (0.0, 1.0)])
        t = (dice.choice([1e-3, 0.03, 0.2, 0.7]) * {1.0: 2.0, 2.0: 1.5}.get(r, 1.0) * torch.rand(3)).to(dtype)
        y = model(x).argmax(1)
        graph = read_graph(model, x, dtype=own, device=torch.device("cpu"))
        points = exact_points(x, t, r, bounds)
        region = Region.of(x.to(own), t.to(own), r, bounds)
        worst = _lowest(model(points.flatten(0, 1)).double().view(*points.shape[:2], -1), y)
        margins = {}
        for backward in (False, True):
            propagation = Forward(graph, r, backward=backward, rounding=Rounding.between(dtype, own))
            _check_nodes(propagation, region, points)
            margins[backward] = propagation.margins(region, y).double()
            assert (margins[backward] <= worst).all(), (seed, backward, model.kinds)
            interval = propagation.margins(region, y, method="interval").double()
            slack = 1e-5 if own == torch.float32 else 1e-9
            assert ((margins[backward] >= interval - slack * (1 + interval.abs())) | interval.isinf()).all(), seed
        pulled = (margins[True] >= margins[False] - slack * (1 + interval.abs())) | interval.isinf()
        better.append(float(pulled.double().mean()))
    assert sum(better) >= 0.8 * len(better)  # there is no order between the two, but hardly ever does pulling back lose


@pytest.mark.parametrize(
    "index", [0, 3, 6, *(pytest.param(k, marks=pytest.mark.slow) for k in range(len(POINTWISE)) if k not in (0, 3, 6))]
)
@torch.no_grad()
def test_every_pointwise_function_inside_a_network(index: int) -> None:
    torch.manual_seed(index)
    bend = POINTWISE[index]()
    first, last = nn.Linear(4, 6).double(), nn.Linear(6, 3).double()
    bend = bend.double() if isinstance(bend, nn.Module) else bend
    x, t = torch.rand(4, 4, dtype=torch.float64), torch.tensor([0.01, 0.1, 0.5, 2.0], dtype=torch.float64)

    def model(z: Tensor) -> Tensor:
        return last(bend(3 * first(z)))

    graph = read_graph(model, x, dtype=torch.float64, device=torch.device("cpu"))
    points = region_points(x, t, math.inf, None, n=500)
    propagation = Forward(graph, math.inf, rounding=Rounding.between(torch.float64, torch.float64))
    region = Region.of(x, t, math.inf, None)
    _check_nodes(propagation, region, points)
    y = model(x).argmax(1)
    margins = propagation.margins(region, y)
    assert (margins <= _lowest(model(points.flatten(0, 1)).view(*points.shape[:2], -1), y)).all()
    # one hidden layer: nothing is between the enclosures and the input, so forward and backward bounds are the same
    assert torch.allclose(
        margins, Propagation(graph, math.inf, rounding=propagation.rounding).margins(region, y), atol=1e-6
    )


@pytest.mark.parametrize("r", [1.0, 2.0, math.inf])
def test_forms_of_a_linear_network_are_the_network(r: float) -> None:
    torch.manual_seed(0)
    skip = nn.Conv2d(2, 3, 3, padding=1)
    body = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 3, padding=1), nn.AvgPool2d(3, 1, 1))
    head = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.Linear(8, 3))
    for part in (skip, body, head):
        part.double().eval()

    def model(z: Tensor) -> Tensor:
        return head(body(z) - 0.5 * skip(z))

    x = torch.rand(5, 2, 4, 4, dtype=torch.float64)
    with torch.no_grad():
        y = model(x).argmax(1)
        graph = read_graph(model, x, dtype=torch.float64, device=torch.device("cpu"))
        rounding = Rounding.between(torch.float64, torch.float64)
        region = Region.of(x, torch.linspace(0.0, 0.5, 5, dtype=torch.float64), r, (0.0, 1.0))
        forward, backward = (
            Forward(graph, r, backward=False, rounding=rounding),
            Propagation(graph, r, rounding=rounding),
        )
        assert torch.allclose(forward.margins(region, y), backward.margins(region, y), atol=1e-10)
        found = forward.bounds(forward.enter(region))
        assert found.forms[forward.end].gap.abs().amax() < 1e-12  # type: ignore[attr-defined]


@torch.no_grad()
def test_rounding_of_the_forms_themselves_is_covered() -> None:
    """Exact values of a chain of linear maps against forms in single precision, with nothing else to widen them."""
    torch.manual_seed(0)
    layers = [nn.Linear(60, 60) for _ in range(6)]
    x = torch.rand(3, 60)
    region = Region.of(x, torch.tensor([0.0, 1e-3, 0.3]), math.inf, None)
    points = region_points(x, region.t, math.inf, None, n=50)
    outside = []
    for unit in (0.0, 1.0):
        forwarding = Forwarding(region, Rounding(unit=unit))
        forms, value = forwarding.source(x), points
        for layer in layers:
            dense = Dense(weight=layer.weight, bias=layer.bias, source=(60,), target=(60,))
            forms, value = (
                forwarding.affine(dense, forms),
                nn.functional.linear(value, layer.weight.double(), layer.bias.double()),
            )
        at = torch.cat((torch.ones_like(points[..., :1]), points - x.double()), 2)
        low, high = (torch.einsum("pnd,ndk->pnk", at, f.double()) for f in (forms.lower, forms.upper))
        outside.append(int(((value < low) | (value > high)).sum()))
        least, most = forwarding.bounds(forms)
        assert unit == 0 or ((value >= least) & (value <= most)).all()
    assert outside[0] > 1000
    assert outside[1] == 0


@torch.no_grad()
def test_regions_are_bounded_in_parts_where_memory_is_short() -> None:
    model = Grown(3).double()
    x = torch.rand(7, *model.source, dtype=torch.float64)
    y, graph = model(x).argmax(1), read_graph(model, x, dtype=torch.float64, device=torch.device("cpu"))
    propagation = Forward(graph, 2.0, rounding=Rounding.between(torch.float64, torch.float64))
    region = Region.of(x, torch.full((7,), 0.1, dtype=torch.float64), 2.0, None)
    whole = propagation.margins(region, y)
    propagation.most = 3
    assert torch.allclose(propagation.margins(region, y), whole, atol=1e-12)


@pytest.mark.parametrize("r", [math.inf, pytest.param(1.0, marks=pytest.mark.slow)])
def test_radii_lie_between_crown_ibp_and_crown_on_the_digits_network(r: float) -> None:
    model, data = wt.load_model("digits-cnn").model, wt.load_data("digits", n=8)
    ball = PointwiseBall(radius=0.05, r=r)
    methods = (
        IntervalPropagation(), ForwardPropagation(margins="forward"), CrownIBP(), ForwardPropagation(), LinearPropagation(),
    )  # fmt: skip
    interval, plain, ibp, forward, crown = (method(model, data.x, data.y, ball).radii.values for method in methods)
    assert (plain >= interval * 0.998).all()
    assert (forward >= plain * 0.998).all()
    assert float(ibp.mean()) < float(forward.mean()) <= float(crown.mean())
    assert float(forward.mean()) > 0.85 * float(crown.mean())


def test_bad_settings_are_told() -> None:
    with pytest.raises(InputError, match="margins must be 'backward' or 'forward', got 'up'"):
        ForwardPropagation(margins="up")


@torch.no_grad()
def test_maxima_of_values_with_two_forms() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 2), nn.Tanh(), nn.MaxPool2d(2, 1, 1), nn.Conv2d(3, 2, 2), nn.Flatten(), nn.Linear(18, 3)
    ).double()  # fmt: skip
    for part in (model[0], model[3]):
        part.weight.data *= 4
    x, t = torch.rand(4, 1, 4, 4, dtype=torch.float64), torch.tensor([0.02, 0.1, 0.3, 1.0], dtype=torch.float64)
    graph = read_graph(model, x, dtype=torch.float64, device=torch.device("cpu"))
    for r in (2.0, math.inf):
        points = region_points(x, t, r, None, n=800)
        propagation = Forward(graph, r, rounding=Rounding.between(torch.float64, torch.float64))
        _check_nodes(propagation, Region.of(x, t, r, None), points)
