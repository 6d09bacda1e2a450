"""Forward linear bounds against points of the region, backward bounds of linear networks, intervals, and dense algebra."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch import Tensor, nn

from random_networks import POINTWISE, Grown, region_points
from wassertight.certificates.propagation.forward import ForwardPropagation
from wassertight.certificates.propagation.propagation import Propagation
from wassertight.certificates.propagation.reading import read_graph
from wassertight.certificates.propagation.region import Region
from wassertight.certificates.propagation.rounding import Rounding
from wassertight.geometry import norm

GROUPS, EACH = 6, 12
PRECISIONS = [(torch.float64, torch.float64), (torch.float32, torch.float64), (torch.float32, torch.float32)]


def _points(x: Tensor, t: Tensor, r: float, bounds: tuple[float, float] | None) -> Tensor:
    """Points of the regions in the model's precision, exactly inside."""
    points = region_points(x, t, r, bounds).to(x.dtype)
    inside = norm((points.double() - x.double()).flatten(0, 1), r).view(points.shape[:2]) <= t.double()
    return torch.where(inside.view(*inside.shape, *(1,) * (x.ndim - 1)), points, x)


def _check_nodes(propagation: Propagation, region: Region, points: Tensor) -> None:
    graph, region = propagation.graph, propagation.enter(region)
    found, intervals = propagation.bounds(region), propagation.bounds(region, "interval")
    entered = points.flatten(0, 1).to(region.x)
    for scaling in propagation.entry:
        entered = scaling.apply(entered)
    values = graph.values(entered)
    known = ~found.lost
    for index, node in enumerate(graph.nodes):
        value = values[index].view(*points.shape[:2], *node.shape)[:, known]
        low, high, error = (v[known] for v in found.triple(index))
        assert (low - error <= value).all(), node.name
        assert (value <= high + error).all(), node.name
        if index in graph.bent:
            plain = known & ~intervals.lost
            low, high = intervals.low[index][plain], intervals.high[index][plain]
            slack = (1e-4 if region.x.dtype == torch.float32 else 1e-9) * (1 + low.abs() + high.abs())
            assert (found.low[index][plain] >= low - slack).all(), node.name
            assert (found.high[index][plain] <= high + slack).all(), node.name


def _lowest(logits: Tensor, y: Tensor) -> Tensor:
    """Smallest margin over points, logits (points, n, classes)."""
    index = y.view(1, -1, 1).expand(len(logits), -1, 1)
    return (logits.gather(2, index).squeeze(2) - logits.scatter(2, index, -math.inf).amax(2)).amin(0)


@pytest.mark.parametrize("group", range(GROUPS))
@torch.no_grad()
def test_every_node_and_every_margin(group: int) -> None:
    for seed in range(group * EACH, (group + 1) * EACH):
        dice = random.Random(seed + 1000)
        model = Grown(seed)
        dtype, own = dice.choice(PRECISIONS)
        model, x = model.to(dtype), torch.rand(3, *model.source).to(dtype)
        r, bounds = dice.choice([1.0, 2.0, math.inf]), dice.choice([None, (0.0, 1.0)])
        t = (dice.choice([1e-3, 0.03, 0.2, 0.7]) * {1.0: 2.0, 2.0: 1.5}.get(r, 1.0) * torch.rand(3)).to(dtype)
        y = model(x).argmax(1)
        graph = read_graph(model, x, dtype=own, device=torch.device("cpu"))
        points = _points(x, t, r, bounds)
        region = Region.of(x.to(own), t.to(own), r, bounds)
        worst = _lowest(model(points.flatten(0, 1)).double().view(*points.shape[:2], -1), y)
        margins = {}
        for backward in (False, True):
            propagation = ForwardPropagation(graph, r, backward=backward, rounding=Rounding.between(dtype, own))
            _check_nodes(propagation, region, points)
            margins[backward] = propagation.margins(region, y).double()
            assert (margins[backward] <= worst).all(), (seed, backward, model.kinds)
            interval = propagation.margins(region, y, method="interval").double()
            slack = 1e-5 if own == torch.float32 else 1e-9
            assert ((margins[backward] >= interval - slack * (1 + interval.abs())) | interval.isinf()).all(), seed
        assert ((margins[True] >= margins[False] - slack * (1 + interval.abs())) | interval.isinf()).all(), seed


@pytest.mark.parametrize("index", range(len(POINTWISE)))
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
    propagation = ForwardPropagation(graph, math.inf, rounding=Rounding.between(torch.float64, torch.float64))
    region = Region.of(x, t, math.inf, None)
    _check_nodes(propagation, region, points)
    y = model(x).argmax(1)
    margins = propagation.margins(region, y)
    assert (margins <= _lowest(model(points.flatten(0, 1)).view(*points.shape[:2], -1), y)).all()
    # one hidden layer: nothing is between the enclosures and the input, so forward and backward bounds are the same
    assert torch.allclose(margins, Propagation(graph, math.inf, rounding=propagation.rounding).margins(region, y), atol=1e-6)
