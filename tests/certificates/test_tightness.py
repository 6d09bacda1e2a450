"""The bracket: exact widths against dense grids, areas in closed form, closing radii, contradictions refused."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wassertight.certificates import Bracket, area_under
from wassertight.transport import FlipDistances
from wassertight.types import InputError

ORDERS = st.sampled_from([1.0, 1.5, 2.0, 7.0, 400.0, math.inf])


def _bracket(low: list[float], high: list[float], closed: bool = False) -> Bracket:
    return Bracket(
        certified=FlipDistances.certified(torch.tensor(low, dtype=torch.float64), closed=closed),
        attacked=FlipDistances.attacked(torch.tensor(high, dtype=torch.float64)),
    )


@st.composite
def _brackets(draw: st.DrawFn) -> Bracket:
    value = st.one_of(st.floats(0.05, 2), st.just(0.0), st.just(0.5))
    low = draw(st.lists(value, min_size=1, max_size=10))
    high = [l + draw(st.one_of(value, st.just(math.inf))) for l in low]  # noqa: E741
    if draw(st.booleans()):
        low, high = [*low, math.inf], [*high, math.inf]
    return _bracket(low, high, draw(st.booleans()))


@settings(max_examples=40, deadline=None)
@given(_brackets(), ORDERS)
def test_extremes_are_those_of_a_dense_grid(bracket: Bracket, p: float) -> None:
    gap = bracket.gap(p, tolerance=0.05)
    grid = torch.linspace(0, 1.1 * gap.reach + 0.1, 60, dtype=torch.float64)
    width = bracket.width(p, grid)
    assert float(width.max()) <= gap.largest + 1e-9
    assert float(bracket.width(p, [gap.at])[0]) == pytest.approx(gap.largest, abs=1e-7)
    assert float(width.min()) >= -1e-9
    inside = torch.zeros(len(grid), dtype=torch.bool)
    edge = torch.zeros(len(grid), dtype=torch.bool)
    for begin, end in gap.closed:
        assert begin <= end
        inside |= (grid >= begin) & (grid <= end)
        for place in (begin, end):
            edge |= (grid - place).abs() <= 1e-6 * max(1.0, gap.reach)
    assert (width[inside & ~edge] <= 0.05 + 1e-6).all()
    assert (width[~inside & ~edge] > 0.05 - 1e-6).all()
    if math.isfinite(gap.closes_at):
        assert (width[grid > gap.closes_at * (1 + 1e-6)] <= 1e-7).all()
    else:
        assert float(width[-1]) > 0


@settings(max_examples=15, deadline=None)
@given(_brackets(), st.sampled_from([1.0, 2.0, 3.5]))
def test_area_is_the_integral_of_the_width(bracket: Bracket, p: float) -> None:
    gap = bracket.gap(p)
    if gap.reach == 0:
        assert (gap.area, gap.mean) == (0.0, 0.0)
        return
    grid = torch.linspace(0, gap.reach, 300, dtype=torch.float64)
    assert gap.area == pytest.approx(float(torch.trapezoid(bracket.width(p, grid), grid)), abs=1e-2 * gap.reach)
    assert gap.mean == pytest.approx(gap.area / gap.reach)
    low, high = area_under(bracket.certified, p), area_under(bracket.attacked, p)
    if math.isfinite(low) and math.isfinite(high):
        assert gap.area == pytest.approx(high - low, abs=1e-9)


def test_which_areas_are_means() -> None:
    """p = inf: the mean distance. p = 1: half the mean of the smaller of two draws, and zero is reached at the mean."""
    d = torch.rand(50, dtype=torch.float64)
    d[:5] = 0
    flips = FlipDistances.attacked(d)
    assert area_under(flips, math.inf) == pytest.approx(float(d.mean()))
    smaller = torch.minimum(d[:, None], d[None]).mean()
    assert area_under(flips, 1) == pytest.approx(float(smaller) / 2)
    mean = float(d.mean())
    assert flips.accuracy(1, mean * 0.999) > 0
    assert flips.accuracy(1, mean * 1.000001) == pytest.approx(0, abs=1e-12)
    n = 20_000
    uniform = FlipDistances.attacked((torch.arange(n, dtype=torch.float64) + 0.5) / n)
    assert area_under(uniform, 1) == pytest.approx(1 / 6, abs=1e-6)
    assert area_under(FlipDistances.attacked(torch.tensor([0.1, math.inf])), 1) == math.inf
    assert area_under(FlipDistances.attacked(torch.zeros(2)), 2) == 0


def test_tightness_is_the_ratio_of_areas_and_of_zeros() -> None:
    low, high = torch.rand(30, dtype=torch.float64) * 0.5, torch.rand(30, dtype=torch.float64) * 0.5 + 0.5
    low[:3] = high[:3] = 0
    low[3] = 0
    bracket = _bracket(low.tolist(), high.tolist())
    right = high > 0
    expected = float(low[right].mean() / high[right].mean())
    assert bracket.tightness == pytest.approx(expected)
    areas = area_under(bracket.certified, math.inf) / area_under(bracket.attacked, math.inf)
    assert areas == pytest.approx(expected)
    gap = bracket.gap(1)
    assert gap.closes_at == pytest.approx(float(high.mean()), rel=1e-6)
    assert gap.reach == pytest.approx(float(high.mean()))
    assert bracket.gap(math.inf).area == pytest.approx(float(high.mean() - low.mean()))


def test_weights_count() -> None:
    weights = torch.tensor([3.0, 1.0])
    low, high = torch.tensor([0.1, 0.2]), torch.tensor([0.2, 0.6])
    weighted = Bracket(certified=FlipDistances.certified(low, weights), attacked=FlipDistances.attacked(high, weights))
    repeated = _bracket([0.1, 0.1, 0.1, 0.2], [0.2, 0.2, 0.2, 0.6])
    assert weighted.tightness == pytest.approx(repeated.tightness)
    for p in (1.0, 2.0, math.inf):
        one, other = weighted.gap(p), repeated.gap(p)
        assert (one.largest, one.area) == (pytest.approx(other.largest), pytest.approx(other.area))


def test_closed_open_and_never_closed() -> None:
    shut = _bracket([0.1, 0.3, math.inf], [0.1, 0.3, math.inf]).gap(2)
    assert (shut.largest, shut.closes_at, shut.closed) == (0.0, 0.0, ((0.0, math.inf),))
    floor = _bracket([0.1, math.inf], [0.2, math.inf])
    assert floor.gap(1).closes_at == pytest.approx(0.1)
    assert floor.tightness == pytest.approx(0.5), "a sample proved unflippable is closed and has no say"
    missing = _bracket([0.1, 0.2], [0.2, math.inf])
    assert missing.gap(1).closes_at == math.inf
    assert missing.gap(1).largest == pytest.approx(0.5)
    assert missing.tightness is None
    assert _bracket([0.0], [0.0]).tightness is None
    step = _bracket([0.1], [0.3]).gap(math.inf)
    assert (step.largest, step.at, step.closes_at) == (1.0, pytest.approx(0.1), pytest.approx(0.3))
    assert [tuple(part) for part in step.closed] == [(0.0, pytest.approx(0.1)), (pytest.approx(0.3), math.inf)]


def test_movable_labels_narrow_the_bracket() -> None:
    bracket = _bracket([0.1, 0.2, 0.0], [0.4, 0.9, 0.0])
    moved = bracket.relabelled(0.2)
    assert moved.attacked.values.tolist() == [0.2, 0.2, 0.0]
    assert moved.gap(1).largest < bracket.gap(1).largest
    assert moved.tightness == pytest.approx(0.75)


def test_contradictions_and_misuse_are_refused() -> None:
    with pytest.raises(InputError, match=r"1 proved radii exceed.*sample 1"):
        _bracket([0.1, 0.5], [0.2, 0.4])
    low, high = FlipDistances.certified(torch.tensor([0.1])), FlipDistances.attacked(torch.tensor([0.2]))
    with pytest.raises(InputError, match="certified radii below"):
        Bracket(certified=high, attacked=low)
    with pytest.raises(InputError, match="same samples"):
        Bracket(certified=low, attacked=FlipDistances.attacked(torch.tensor([0.2, 0.3])))
    with pytest.raises(InputError, match="tolerance"):
        _bracket([0.1], [0.2]).gap(1, tolerance=1.0)
    with pytest.raises(InputError, match=">= 1 or inf"):
        _bracket([0.1], [0.2]).gap(0.5)
