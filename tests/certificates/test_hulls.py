"""Planes on the input: above their hinges everywhere in the region, on them at corners, and worth their while."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from wassertight.certificates.propagation import sharing
from wassertight.certificates.propagation.bounds import Bounds
from wassertight.certificates.propagation.hulls import Cover, Offsets, Planes, Signed
from wassertight.certificates.propagation.inner import OwnSlopes
from wassertight.certificates.propagation.layout import flat_rows
from wassertight.certificates.propagation.leaves import At, Common, Evaluator, Leaves
from wassertight.certificates.propagation.reading import read_graph
from wassertight.certificates.propagation.region import Region
from wassertight.certificates.propagation.rounding import Rounding
from wassertight.certificates.propagation.sharing import Shared
from wassertight.certificates.propagation.specification import specification
from wassertight.certificates.propagation.swaying import Swayed

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
    chord = (above / (above + below)).clamp(0, 1)
    return Planes(units=torch.arange(UNITS) + 1, rows=rows, top=top, chord=chord, below=rows, bottom=top)


HINGE = 4
"""Number of the hinge in its graph."""


def _diverted(cover: Cover, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What is left of rows at the hinge, and rows on all offsets and constants of what is taken."""
    rest, taken = cover.divert(HINGE, a)
    least, part = cover.least(a.new_zeros(1, ROWS, INPUTS), {HINGE: taken})
    return rest, part, least + cover.signed.offsets.support(part)


def _excess(cover: Cover, planes: Planes, hinge: tuple[float, float], offsets: Tensor) -> Tensor:
    """How far what replaces `-f(z)` of each unit is below it, (points, rows, units): never below 0 if planes are right."""
    left, right = hinge
    z = offsets @ planes.rows.T + planes.top
    found = []
    for unit in range(UNITS):
        a = torch.zeros(1, ROWS, UNITS + 2, dtype=torch.float64)
        a[:, :, planes.units[unit]] = -1.0
        rest, row, constant = _diverted(cover, a)
        share = 1 + rest[0, :, planes.units[unit]]
        exact = -share * torch.maximum(left * z[:, unit], right * z[:, unit])[:, None]
        found.append(exact - (offsets @ row[0].T + constant[0]))
    return torch.stack(found, 2)


def _free(rows: int) -> dict[int, Tensor]:
    return {HINGE: torch.ones(1, rows, UNITS + 2, dtype=torch.bool)}


@pytest.mark.parametrize("hinge", [(0.0, 1.0), (0.1, 1.0), (0.2, 0.7)])
def test_shared_planes_are_above_the_hinge(hinge: tuple[float, float]) -> None:
    region = _region()
    planes, offsets = _planes(region), Offsets(region)
    signed = Signed.of(HINGE, planes, hinge, offsets)
    cover = Shared(signed)
    cover.kept.zero_()
    points = _inside(region, 500)
    for_all = cover.rows(_free(ROWS), moves=False)
    chord = _excess(for_all, planes, hinge, points)
    assert chord.min() > -1e-12
    z = points @ planes.rows.T + planes.top
    low, high = (planes.top - offsets.support(planes.rows), planes.top + offsets.support(planes.rows))
    left, right = hinge
    line = left * z + (right - left) * planes.chord * (z - low)  # with equal weights a plane is the chord
    taken = line - torch.maximum(left * z, right * z)
    assert torch.allclose(chord[:, 0][:, high > 0], taken[:, high > 0], atol=1e-9)
    generator = torch.Generator().manual_seed(3)
    cover = Shared(signed)
    for variable in (cover.tilt, cover.kept):
        variable.copy_(torch.rand(variable.shape, dtype=torch.float64, generator=generator))
    excess = _excess(cover.rows(_free(ROWS), moves=False), planes, hinge, points)
    assert excess.min() > -1e-12
    assert excess.amin(0).max() < 0.5  # and not far above
    values = cover.values(offsets.centre + points[:4])[HINGE]
    for k in range(4):
        z = points[k] @ planes.rows.T + planes.top
        assert (values[0, k] >= torch.maximum(left * z, right * z) - 1e-12).all()
    free = torch.ones(1, 4, UNITS + 2, dtype=torch.bool)
    free[0, 0, 3] = False
    a = -torch.rand(1, 4, UNITS + 2, dtype=torch.float64)
    rest, taken = cover.rows({HINGE: free}, moves=False).divert(HINGE, a)
    assert torch.equal(rest[0, 0, 3], a[0, 0, 3])
    assert (rest[0, 1:, 3] > a[0, 1:, 3]).all()
    assert taken.shape == (1, 4, UNITS)
    other = Shared(Signed.of(HINGE, planes.part(torch.arange(1, UNITS)), hinge, offsets))
    other.resume(cover)
    assert torch.equal(other.kept, cover.kept[:, :, 1:])
    assert torch.equal(other.tilt, cover.tilt[:, :, INPUTS:])


@pytest.mark.parametrize("hinge", [(0.0, 1.0), (0.1, 1.0)])
def test_swayed_planes_are_above_the_hinge_and_touch_it_at_their_point(hinge: tuple[float, float]) -> None:
    region = _region()
    planes, offsets = _planes(region), Offsets(region)
    signed = Signed.of(HINGE, planes, hinge, offsets)
    generator = torch.Generator().manual_seed(4)

    def drawn(*shape: int) -> Tensor:
        return torch.rand(1, ROWS, *shape, dtype=torch.float64, generator=generator)

    loose = Swayed(signed, 2 * drawn(INPUTS) - 1, drawn(UNITS))
    assert _excess(loose, planes, hinge, _inside(region, 500)).min() > -1e-12
    corner = 2.0 * (drawn(INPUTS) > 0.5) - 1
    close = Swayed(signed, corner, torch.zeros(1, ROWS, UNITS, dtype=torch.float64))
    points = torch.cat((corner[0] * offsets.reach, _inside(region, 500)))
    excess = _excess(close, planes, hinge, points)
    assert excess.min() > -1e-12
    assert excess[torch.arange(ROWS), torch.arange(ROWS)].max() < 1e-9
    chord = Swayed(signed, corner, torch.ones(1, ROWS, UNITS, dtype=torch.float64))
    assert (_excess(chord, planes, hinge, points) == 0).all()


def test_points_step_to_where_rows_are_least_and_planes_are_better_there() -> None:
    region = _region()
    planes, offsets = _planes(region), Offsets(region)
    signed = Signed.of(HINGE, planes, (0.0, 1.0), offsets)
    generator = torch.Generator().manual_seed(7)
    rows = torch.randn(1, ROWS, INPUTS, dtype=torch.float64, generator=generator)
    taken = -torch.rand(1, ROWS, UNITS, dtype=torch.float64, generator=generator)
    cover = Swayed(signed, torch.zeros(1, ROWS, INPUTS, dtype=torch.float64), torch.zeros(1, ROWS, UNITS))
    found = []
    for step in range(40):
        least, whole = cover.least(rows, {HINGE: taken})
        found.append(least)
        cover.turn(whole, 0.5 * 0.9**step)
    assert (cover.point.abs() <= 1).all()
    assert (torch.stack(found).amax(0) >= found[0]).all()
    points = _inside(region, 20_000)
    values = (offsets.centre + points) @ rows[0].T + torch.relu(points @ planes.rows.T + planes.top) @ taken[0].T
    assert (torch.stack(found).amax(0) <= values.amin(0) + 1e-9).all()
    before, after = (values.amin(0) - found[0])[0], (values.amin(0) - torch.stack(found).amax(0))[0]
    assert after.sum() < 0.7 * before.sum()


@pytest.mark.parametrize("hinge", [(0.0, 1.0), (0.2, 0.7)])
@pytest.mark.parametrize("kind", ["shared", "swayed"])
def test_gradients_of_covers_are_right(kind: str, hinge: tuple[float, float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "_TIE", 1e-12)  # no ties at random weights
    region, generator = _region(), torch.Generator().manual_seed(5)
    planes, offsets = _planes(region), Offsets(region)
    shapes = [(UNITS,)] if kind == "swayed" else [(UNITS * INPUTS,), (UNITS,)]
    rows = ROWS if kind == "swayed" else 1
    a = -torch.rand(1, ROWS, UNITS + 2, dtype=torch.float64, generator=generator)
    variables = [torch.rand(1, rows, *shape, dtype=torch.float64, generator=generator) for shape in shapes]

    point = 2 * torch.rand(1, ROWS, INPUTS, dtype=torch.float64, generator=generator) - 1
    straight = torch.randn(1, ROWS, INPUTS, dtype=torch.float64, generator=generator)

    def diverted(straight: Tensor, a: Tensor, *variables: Tensor) -> tuple[Tensor, Tensor]:
        signed = Signed.of(HINGE, planes, hinge, offsets)
        cover: Cover
        if kind == "swayed":
            cover = Swayed(signed, point, *variables)
        else:
            shared = Shared(signed)
            shared.tilt, shared.kept = variables
            cover = shared.rows(_free(ROWS), moves=True)
        rest, taken = cover.divert(HINGE, a)
        return rest, cover.least(straight, {HINGE: taken})[0]

    inputs = [v.requires_grad_() for v in (straight, a, *variables)]
    assert torch.autograd.gradcheck(diverted, inputs)


def test_least_values_of_rows_and_planes_together() -> None:
    region, generator = _region(), torch.Generator().manual_seed(6)
    offsets, shape = Offsets(region), (2, ROWS, INPUTS)
    rows = torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()
    planes = torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()
    least, whole = offsets.least(rows, planes)
    points = _inside(region, 10)
    values = (offsets.centre + points) @ rows[1, 2] + points @ planes[1, 2]
    torch.testing.assert_close(least[1, 2], values.min())  # at one of the corners
    torch.testing.assert_close(whole, rows + planes)
    assert torch.autograd.gradcheck(lambda r, p: offsets.least(r, p)[0], (rows, planes))


def _network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [nn.Linear(INPUTS, 16), nn.ReLU(), nn.Linear(16, 16), nn.LeakyReLU(0.1), nn.Linear(16, 3)]
    return nn.Sequential(*layers).double().eval()


def _found(model: nn.Module, region: Region) -> tuple[OwnSlopes, Bounds]:
    graph = read_graph(model, region.x, dtype=torch.float64, device=region.x.device)
    propagation = OwnSlopes(graph, math.inf, rounding=Rounding(unit=0.0), seconds=60.0)
    with torch.no_grad():
        return propagation, propagation.bounds(region)


def test_bounds_of_leaves_with_planes_hold_and_planes_raise_them() -> None:
    gained = 0.0
    for seed in range(6):
        model, region = _network(seed), _region(seed)
        propagation, bounds = _found(model, region)
        graph, y = propagation.graph, model(region.x).argmax(1)
        spec = specification(y, 3, torch.float64)[0]
        assert set(bounds.planes) == {1, 3}
        evaluator, points = Evaluator(graph), Offsets(region).centre + _inside(region, 20_000)
        assert evaluator.hinges == [2, 4]
        leaves = Leaves.first(2, sum(evaluator.sizes), 3, region.x)
        leaves.target[:] = 0
        unit = int(flat_rows(propagation.relaxations(bounds)[4].free)[0, 0].to(torch.int8).argmax())  # type: ignore[attr-defined]
        leaves.sides[0, evaluator.sizes[0] + unit], leaves.sides[1, evaluator.sizes[0] + unit] = 1, -1
        with torch.no_grad():
            signed = propagation.signed(bounds, evaluator.hinges)
            assert signed is not None
            at = At(
                t=0.4, region=region, root=bounds, relaxations=propagation.relaxations(bounds), signed=signed,
            )  # fmt: skip
            plain = evaluator.bounds(spec, leaves, at, 60, None).value
            common = Common(planes=Shared(signed))
            raised = evaluator.bounds(spec, leaves, at, 60, common, moves=True).value
            again = evaluator.bounds(spec, leaves, at, 10, common).value
            values, argument = model(points) @ spec[0], graph.value(3, points)[:, unit]
        for found in (plain, raised, again):
            assert found[0] <= values.masked_fill(argument < 0, math.inf).min() + 1e-9
            assert found[1] <= values.masked_fill(argument > 0, math.inf).min() + 1e-9
        gained += float((raised - plain).clamp_max(1).sum())
        for index, part in bounds.planes.items():
            above = (points - Offsets(region).centre) @ part.rows.T + part.top
            assert (above >= graph.value(index, points)[:, part.units] - 1e-9).all()
            below = (points - Offsets(region).centre) @ part.below.T + part.bottom
            assert (below <= graph.value(index, points)[:, part.units] + 1e-9).all()
    assert gained > 0.01


def test_hinges_that_fall_have_no_planes() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(INPUTS, 8), nn.LeakyReLU(-0.5), nn.Linear(8, 3)).double()
    region = _region()
    propagation, bounds = _found(model, region)
    assert not bounds.planes
    assert propagation.signed(bounds, [2]) is None
