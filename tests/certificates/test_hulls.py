"""Planes on the input: above their hinges everywhere in the region, on them at corners, and worth their while."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from wassertight.certificates.propagation import hulls
from wassertight.certificates.propagation.bounds import Bounds
from wassertight.certificates.propagation.hulls import Cover, Offsets, Planes, Tilted
from wassertight.certificates.propagation.inner import OwnSlopes
from wassertight.certificates.propagation.reading import read_graph
from wassertight.certificates.propagation.region import Region
from wassertight.certificates.propagation.rounding import Rounding
from wassertight.certificates.propagation.slopes import ascend
from wassertight.certificates.propagation.specification import specification
from wassertight.certificates.propagation.swaying import Signed, Swayed
from wassertight.certificates.propagation.whole import Whole

INPUTS, UNITS, ROWS = 5, 7, 3


def _region(seed: int = 0, t: float = 0.4) -> Region:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(1, INPUTS, dtype=torch.float64, generator=generator)
    return Region.of(x, torch.tensor([t], dtype=torch.float64), math.inf, (0.0, 1.0))


def _inside(region: Region, n: int) -> Tensor:
    """Offsets from the region's middle that stay in it, all corners among them."""
    generator = torch.Generator().manual_seed(1)
    drawn = 2 * torch.rand(n, INPUTS, dtype=torch.float64, generator=generator) - 1
    corners = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=INPUTS)), dtype=torch.float64)
    return torch.cat((drawn, corners)) * Offsets(region).reach


def _planes(region: Region) -> Planes:
    generator = torch.Generator().manual_seed(2)
    rows = torch.randn(UNITS, INPUTS, dtype=torch.float64, generator=generator)
    rows[0, :3] = 0
    top = 0.1 * torch.randn(UNITS, dtype=torch.float64, generator=generator)
    above = top + Offsets(region).support(rows)
    below = -top + Offsets(region).support(-rows)
    return Planes(units=torch.arange(UNITS) + 1, rows=rows, top=top, chord=(above / (above + below)).clamp(0, 1))


def _excess(cover: Cover, planes: Planes, hinge: tuple[float, float], offsets: Tensor) -> Tensor:
    """How far what replaces `-f(z)` of each unit is below it, (points, rows, units): never below 0 if planes are right."""
    left, right = hinge
    z = offsets @ planes.rows.T + planes.top
    found = []
    for unit in range(UNITS):
        a = torch.zeros(1, ROWS, UNITS + 2, dtype=torch.float64)
        a[:, :, planes.units[unit]] = -1.0
        rest, row, constant = cover.divert(a)
        share = 1 + rest[0, :, planes.units[unit]]
        exact = -share * torch.maximum(left * z[:, unit], right * z[:, unit])[:, None]
        found.append(exact - (offsets @ row[0].T + constant[0]))
    return torch.stack(found, 2)


@pytest.mark.parametrize("hinge", [(0.0, 1.0), (0.1, 1.0), (0.2, 0.7)])
def test_tilted_planes_are_above_the_hinge(hinge: tuple[float, float]) -> None:
    region = _region()
    planes = _planes(region)
    cover = Tilted(planes, hinge, Offsets(region), ROWS)
    generator = torch.Generator().manual_seed(3)
    for variable in cover.variables:
        variable.copy_(torch.rand(variable.shape, dtype=torch.float64, generator=generator))
    excess = _excess(cover, planes, hinge, _inside(region, 500))
    assert excess.min() > -1e-12
    assert excess.amin(0).max() < 0.5  # and not far above
    held = cover.held(-torch.ones(1, ROWS, UNITS + 2, dtype=torch.float64))
    free = torch.ones(4, 1, UNITS + 2, dtype=torch.bool)
    free[0, 0, 3] = False
    a = -torch.rand(4, 1, UNITS + 2, dtype=torch.float64)
    rest, row, constant = held.where(free).divert(a)
    alone = a[:, 0].masked_fill(~free[:, 0], 0.0)
    for k in range(4):
        expected = [found[0, 0] for found in cover.divert(alone[k].expand(1, ROWS, -1))]
        assert torch.allclose(rest[k, 0], expected[0] + a[k, 0] * ~free[k, 0], atol=1e-12)
        assert torch.allclose(row[k, 0], expected[1], atol=1e-12)
        assert torch.allclose(constant[k, 0], expected[2], atol=1e-12)
    other = Tilted(planes.part(torch.arange(1, UNITS)), hinge, Offsets(region), ROWS)
    other.resume(cover)
    assert torch.equal(other.share, cover.share[:, :, 1:])
    assert torch.allclose(other.shift(other.tilt)[0], cover.shift(cover.tilt)[0][:, :, 1:], atol=1e-9)


@pytest.mark.parametrize("hinge", [(0.0, 1.0), (0.1, 1.0)])
def test_swayed_planes_are_above_the_hinge_and_touch_it_at_their_corner(hinge: tuple[float, float]) -> None:
    region = _region()
    planes, offsets = _planes(region), Offsets(region)
    signed = Signed.of(planes, offsets)
    generator = torch.Generator().manual_seed(4)

    def drawn(*shape: int) -> Tensor:
        return torch.rand(1, ROWS, *shape, dtype=torch.float64, generator=generator)

    loose = Swayed(signed, hinge, drawn(INPUTS), (drawn(UNITS), drawn(UNITS)), drawn(UNITS))
    assert _excess(loose, planes, hinge, _inside(region, 500)).min() > -1e-12
    corner = (drawn(INPUTS) > 0.5).double()
    place = (2 * corner - 1) * offsets.reach
    close = Swayed(signed, hinge, corner, signed.at(corner), torch.zeros(1, ROWS, UNITS, dtype=torch.float64))
    points = torch.cat((place[0], _inside(region, 500)))
    excess = _excess(close, planes, hinge, points)
    assert excess.min() > -1e-12
    assert excess[torch.arange(ROWS), torch.arange(ROWS)].max() < 1e-9
    some = torch.tensor([0, 2])
    columns = (planes.rows[some] != 0).any(0).nonzero().squeeze(1)
    part = signed.part(some, columns)
    for mine, all_of_them in zip(part.at(corner[..., columns]), signed.at(corner), strict=True):
        assert torch.allclose(mine, all_of_them[..., some])


@pytest.mark.parametrize("hinge", [(0.0, 1.0), (0.2, 0.7)])
@pytest.mark.parametrize("kind", ["tilted", "swayed"])
def test_gradients_of_covers_are_right(kind: str, hinge: tuple[float, float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hulls, "_TIE", 1e-12)  # no ties at random weights
    region, generator = _region(), torch.Generator().manual_seed(5)
    planes, offsets = _planes(region), Offsets(region)
    shapes = [(INPUTS,), (UNITS,), (UNITS,), (UNITS,)] if kind == "swayed" else [(UNITS, INPUTS), (UNITS,)]
    a = -torch.rand(1, ROWS, UNITS + 2, dtype=torch.float64, generator=generator)
    variables = [torch.rand(1, ROWS, *shape, dtype=torch.float64, generator=generator) for shape in shapes]

    def diverted(a: Tensor, *variables: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if kind == "swayed":
            q, first, last, share = variables
            return Swayed(Signed.of(planes, offsets), hinge, q, (first, last), share).divert(a)
        cover = Tilted(planes, hinge, offsets, ROWS)
        tilt, cover.share = variables
        cover.tilt = tilt.gather(3, cover.columns.expand(1, ROWS, -1, -1))
        return cover.divert(a)

    inputs = [v.requires_grad_() for v in (a, *variables)]
    assert torch.autograd.gradcheck(diverted, inputs)


def _network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [nn.Linear(INPUTS, 16), nn.ReLU(), nn.Linear(16, 16), nn.LeakyReLU(0.1), nn.Linear(16, 3)]
    return nn.Sequential(*layers).double().eval()


def _found(model: nn.Module, region: Region) -> tuple[OwnSlopes, Bounds]:
    graph = read_graph(model, region.x, dtype=torch.float64, device=region.x.device)
    propagation = OwnSlopes(graph, math.inf, rounding=Rounding(unit=0.0), seconds=60.0)
    with torch.no_grad():
        return propagation, propagation.bounds(region)


def test_margins_over_the_whole_region_hold_and_planes_raise_them() -> None:
    gained = 0.0
    for seed in range(6):
        model, region = _network(seed), _region(seed)
        propagation, bounds = _found(model, region)
        graph, y = propagation.graph, model(region.x).argmax(1)
        spec = specification(y, 3, torch.float64)[0]
        relaxations, points = propagation.relaxations(bounds), Offsets(region).centre + _inside(region, 20_000)
        assert set(bounds.planes) == {1, 3}
        whole, targets = Whole(graph, spec), torch.arange(2)
        with torch.no_grad():
            margins, opened = whole.margins(targets, region, bounds, relaxations), whole.target
            again = whole.margins(targets, region, bounds, relaxations)
            slopes = ascend(graph, 5, spec[None], region, relaxations, iterations=60).best[0]
            least = (model(points) @ spec.T).amin(0)
        for found in (margins, again):
            assert (found <= least + 1e-9).all()
        assert (opened < 0) == bool((margins > 0).all())
        assert opened < 0 or bool(margins[opened] <= 0)
        assert again.min() >= margins.min().clamp_max(0) - 0.01
        for index, planes in bounds.planes.items():
            values = (points - Offsets(region).centre) @ planes.rows.T + planes.top
            assert (values >= graph.value(index, points)[:, planes.units] - 1e-9).all()
        if opened >= 0:
            gained += float((margins - slopes)[opened])
    assert gained > 0.01


def test_hinges_that_fall_have_no_planes() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(INPUTS, 8), nn.LeakyReLU(-0.5), nn.Linear(8, 3)).double()
    region = _region()
    propagation, bounds = _found(model, region)
    assert not bounds.planes
    spec = specification(model(region.x).argmax(1), 3, torch.float64)[0]
    margins = Whole(propagation.graph, spec).margins(torch.arange(2), region, bounds, propagation.relaxations(bounds))
    assert (margins <= (model(Offsets(region).centre + _inside(region, 5_000)) @ spec.T).amin(0) + 1e-9).all()
