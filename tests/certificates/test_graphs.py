"""Bounds of every node of random networks, and margins, against corners, vertices and dense samples of the region."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
import torch
from torch import Tensor

from random_networks import POINTWISE, PRECISIONS, Grown, check_nodes, exact_points, region_points
from wassertight.certificates.propagation.propagation import Propagation
from wassertight.certificates.propagation.reading import read_graph
from wassertight.certificates.propagation.region import Region
from wassertight.certificates.propagation.rounding import Rounding

GROUPS, EACH = 6, 12


def _lowest(logits: Tensor, y: Tensor) -> Tensor:
    """Smallest margin over points, logits (points, n, classes)."""
    index = y.view(1, -1, 1).expand(len(logits), -1, 1)
    return (logits.gather(2, index).squeeze(2) - logits.scatter(2, index, -math.inf).amax(2)).amin(0)


@pytest.mark.parametrize("group", [pytest.param(k, marks=[pytest.mark.slow] if k > 2 else []) for k in range(GROUPS)])
@torch.no_grad()
def test_every_node_and_every_margin(group: int) -> None:
    for seed in range(group * EACH, (group + 1) * EACH):
        dice = random.Random(seed)
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
        for method in ("interval", "crown-ibp", "crown"):
            propagation = Propagation(graph, r, method=method, rounding=Rounding.between(dtype, own))
            check_nodes(propagation, region, points)
            margins[method] = propagation.margins(region, y).double()
            assert (margins[method] <= worst).all(), (seed, method, model.kinds)
        slack = 1e-5 if own == torch.float32 else 1e-9
        least = margins["interval"] - slack * (1 + margins["interval"].abs())
        assert ((margins["crown"] >= least) | margins["interval"].isinf()).all(), (seed, model.kinds)


def test_at_radius_zero_bounds_are_the_values() -> None:
    """Nothing is lost where there is nothing to cover: margins are those of the network."""
    for seed in range(20):
        model = Grown(seed).double()
        x = torch.rand(3, *model.source, dtype=torch.float64)
        with torch.no_grad():
            logits = model(x)
            y = logits.argmax(1)
            graph = read_graph(model, x, dtype=torch.float64, device=torch.device("cpu"))
            region = Region.of(x, torch.zeros(3, dtype=torch.float64), math.inf, None)
            propagation = Propagation(graph, math.inf, rounding=Rounding.between(torch.float64, torch.float64))
            margins = propagation.margins(region, y)
        assert torch.allclose(margins, _lowest(logits[None], y), atol=1e-7), model.kinds


def test_the_random_networks_have_every_kind_of_layer() -> None:
    kinds: Counter[str] = Counter()
    for seed in range(GROUPS * EACH):
        kinds.update(Grown(seed).kinds)
    offered = {
        kind
        for shape in (torch.rand(1, 4), torch.rand(1, 3, 4), torch.rand(1, 2, 3, 3))
        for kind in {2: Grown(0)._vector, 3: Grown(0)._tokens, 4: Grown(0)._image}[shape.ndim](shape)
    }
    assert set(kinds) == offered, offered - set(kinds)


@pytest.mark.parametrize("index", range(len(POINTWISE)))
@torch.no_grad()
def test_every_pointwise_function_inside_a_network(index: int) -> None:
    torch.manual_seed(index)
    bend = POINTWISE[index]()
    first, last = torch.nn.Linear(4, 6).double(), torch.nn.Linear(6, 3).double()
    bend = bend.double() if isinstance(bend, torch.nn.Module) else bend
    x, t = torch.rand(4, 4, dtype=torch.float64), torch.tensor([0.01, 0.1, 0.5, 2.0], dtype=torch.float64)

    def model(z: Tensor) -> Tensor:
        return last(bend(3 * first(z)))

    graph = read_graph(model, x, dtype=torch.float64, device=torch.device("cpu"))
    points = region_points(x, t, math.inf, None, n=500)
    propagation = Propagation(graph, math.inf, rounding=Rounding.between(torch.float64, torch.float64))
    region = Region.of(x, t, math.inf, None)
    check_nodes(propagation, region, points)
    y = model(x).argmax(1)
    margins = propagation.margins(region, y)
    assert (margins <= _lowest(model(points.flatten(0, 1)).view(*points.shape[:2], -1), y)).all()
    assert margins.isfinite().all()
