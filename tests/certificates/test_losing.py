"""What bounds lose is accounted for exactly; branch and bound splits where it is lost."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from wassertight.certificates.propagation.inner import OwnSlopes
from wassertight.certificates.propagation.losing import losses
from wassertight.certificates.propagation.reading import read_graph
from wassertight.certificates.propagation.region import Region
from wassertight.certificates.propagation.rounding import Rounding
from wassertight.certificates.propagation.sharing import Shared
from wassertight.certificates.propagation.slopes import ascend
from wassertight.types import Bounds as Box

BOX = (0.0, 1.0)


def _network() -> nn.Sequential:
    torch.manual_seed(2)
    parts = [
        nn.Conv2d(1, 4, 2),
        nn.LeakyReLU(0.1),
        nn.Conv2d(4, 4, 2),
        nn.LeakyReLU(0.1),
        nn.Flatten(),
        nn.Linear(16, 3),
    ]
    model = nn.Sequential(*parts).double().eval()
    for parameter in model.parameters():
        parameter.data *= 2
    return model


@pytest.mark.parametrize(
    ("r", "box", "planes"),
    [
        *((r, box, False) for r, box in ((math.inf, BOX), (math.inf, None), (1.0, BOX), (1.0, None), (2.0, None))),
        *((math.inf, box, True) for box in (BOX, None)),
    ],
)
def test_losses_sum_to_the_gap_at_the_input_the_rows_are_least_at(r: float, box: Box, planes: bool) -> None:
    model, x = _network(), torch.rand(1, 1, 4, 4, dtype=torch.float64)
    graph = read_graph(model, x, dtype=torch.float64, device=x.device)
    inner = OwnSlopes(graph, r, rounding=Rounding(unit=0.0), seconds=60.0)
    spec = torch.tensor([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0]], dtype=torch.float64)
    t = {math.inf: 0.2, 2.0: 0.6, 1.0: 1.5}[r]
    with torch.no_grad():
        region = Region.of(x, torch.tensor([t], dtype=torch.float64), r, box)
        bounds = inner.bounds(region)
        relaxations, signed = inner.relaxations(bounds), inner.signed(bounds, [2, 4])
        assert planes <= (signed is not None)
        cover = None
        if planes and signed is not None:
            cover = Shared(signed)
            cover.tilt.uniform_()
            free = {k: relaxations[k].free.expand(1, 2, *graph.nodes[k].shape) for k in (2, 4)}  # type: ignore[attr-defined]
            cover.rows(free, moves=False)
        ascent = ascend(graph, len(graph.nodes) - 1, spec[None], region, relaxations, iterations=0, cover=cover)
        lost = losses(graph, region, ascent, relaxations, cover)
        points = region.lowest(ascent.seen[0])[0]
        values = (spec * graph.logits(points)).sum(1)
    total = sum((part.clamp_min(0).flatten(1).sum(1) for part in lost.values()), torch.zeros(2, dtype=torch.float64))
    assert total.max() > 0.01
    torch.testing.assert_close(ascent.best[0] + total, values, rtol=0, atol=1e-9)
    for k, part in lost.items():
        decided = ~relaxations[k].free[:, 0].expand_as(part)  # type: ignore[attr-defined]
        assert bool((part[decided] == -1).all())


@pytest.mark.parametrize("r", [1.0, 2.0, math.inf])
def test_lowest_points_are_in_the_region(r: float) -> None:
    torch.manual_seed(0)
    x, rows = torch.rand(3, 2, 3, 3, dtype=torch.float64), torch.randn(3, 5, 2, 3, 3, dtype=torch.float64)
    region = Region.of(x, torch.tensor([0.1, 0.3, 0.5], dtype=torch.float64), r, BOX)
    points: Tensor = region.lowest(rows)
    away = torch.linalg.vector_norm((points - x[:, None]).flatten(2), r, dim=2)
    assert (away <= region.t[:, None] * (1 + 1e-9)).all()
    assert ((points >= 0) & (points <= 1)).all()
    values, least = (rows * points).flatten(2).sum(2), region.minimum(rows, tight=True)
    assert (values >= least - 1e-9).all()
    if r != 2:
        torch.testing.assert_close(values, least, rtol=0, atol=1e-9)
