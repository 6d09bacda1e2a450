"""Enclosures against dense sampling, CROWN's formula, the envelopes of samples, and their own promises."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import ConvexHull
from torch import Tensor, nn
from torch.nn import functional

from wassertight.certificates.propagation import activations, smooth
from wassertight.certificates.propagation.activations import Activation, Enclosure, Hinge, Ramp
from wassertight.certificates.propagation.curves import Curve
from wassertight.certificates.propagation.steps import Step
from wassertight.types import InputError, UnsupportedLayerError

PIECEWISE: list[Activation] = [
    activations.relu(),
    activations.leaky_relu(0.1),
    activations.leaky_relu(1.7),
    activations.prelu(torch.tensor(-0.3)),
    activations.absolute(),
    activations.clamp(),
    activations.clamp(0.0, 6.0),
    activations.hard_sigmoid(),
]
LINE: list[Activation] = [
    smooth.sigmoid(),
    smooth.tanh(),
    smooth.erf(),
    smooth.gelu(),
    smooth.gelu("tanh"),
    smooth.silu(),
    smooth.silu(1.702),
    smooth.mish(),
    smooth.hard_swish(),
    smooth.softplus(),
    smooth.softplus(3.0, 5.0),
    smooth.elu(),
    smooth.elu(0.5),
    smooth.elu(1.6732632423543772, 1.0507009873554805),
    smooth.exponential(),
    smooth.square(),
]
HALF: list[Activation] = [smooth.logarithm(), smooth.reciprocal(), smooth.square_root(), smooth.reciprocal_root()]
EVERY = [*PIECEWISE, *LINE, *HALF]
DTYPES = [torch.float32, torch.float64]

every = pytest.mark.parametrize("f", EVERY, ids=lambda f: f.name)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def _intervals(f: Activation, dtype: torch.dtype, seed: int = 0, n: int = 60) -> tuple[Tensor, Tensor]:
    """Tiny, medium and wide intervals, one-sided and straddling, points, and intervals that end at special places."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(scale: float) -> Tensor:
        return (2 * torch.rand(n, generator=generator, dtype=torch.float64) - 1) * scale

    pairs = []
    for reach, width in itertools.product((0.1, 1.5, 4.0, 12.0, 50.0), (0.0, 1e-6, 1e-3, 0.3, 3.0, 50.0)):
        centre, half = uniform(reach), uniform(width).abs() / 2
        pairs.append((centre - half, centre + half))
    special = torch.tensor(
        [-math.sqrt(2), -1.0, 0.0, 1.0, 3.0, -3.0, math.sqrt(2), 2.3993572805154677, 6.0, 50.0, -50.0]
    )
    grid = torch.combinations(special, with_replacement=True).double().sort(dim=1).values
    pairs.append((grid[:, 0], grid[:, 1]))
    low, high = (torch.cat(side) for side in zip(*pairs, strict=True))
    if f in HALF:
        low, high = low.abs(), high.abs()
        low, high = torch.minimum(low, high) + 1e-3, torch.maximum(low, high) + 1e-3
        if f.name == "reciprocal":
            mirror = torch.arange(len(low)) % 2 == 0
            low, high = torch.where(mirror, -high, low), torch.where(mirror, -low, high)
    low = low.to(dtype)
    return low, torch.maximum(high.to(dtype), low)


def _points(low: Tensor, high: Tensor, n: int = 101) -> Tensor:
    """Points of every interval in float64, ends included, denser at the ends, (n, *units)."""
    share = torch.linspace(0, 1, n, dtype=torch.float64)
    share = torch.cat([share, share[1:-1] ** 6, 1 - share[1:-1] ** 6]).view(-1, *(1,) * low.ndim)
    low, high = low.double(), high.double()
    return torch.minimum(torch.maximum(low + share * (high - low), low), high)


def _true(f: Activation, a: Tensor) -> Tensor:
    return f.value(a) if isinstance(f, Curve) else f.apply(a)


def _check_sound(f: Activation, low: Tensor, high: Tensor, lines: Enclosure) -> None:
    a = _points(low, high)
    for exact in (_true(f, a), f.apply(a) if low.dtype == torch.float64 else _true(f, a)):
        lower = lines.lower_slope.double() * a + lines.lower_shift.double()
        upper = lines.upper_slope.double() * a + lines.upper_shift.double()
        assert (lower <= exact).all(), (lower - exact).max()
        assert (exact <= upper).all(), (exact - upper).max()


@every
@dtypes
def test_lines_enclose(f: Activation, dtype: torch.dtype) -> None:
    low, high = _intervals(f, dtype)
    lines = f.enclose(low, high)
    assert all(v.dtype == dtype and v.isfinite().all() and v.shape == low.shape for v in vars(lines).values())
    _check_sound(f, low, high, lines)
    generator = torch.Generator().manual_seed(1)
    for choice in (None, 0.0, 1.0):
        pick = [torch.rand(low.shape, generator=generator, dtype=dtype) for _ in range(2)]
        pick = pick if choice is None else [torch.full_like(low, choice)] * 2
        lines = f.enclose(low, high, *pick)
        assert all(v.isfinite().all() for v in vars(lines).values())
        _check_sound(f, low, high, lines)


@every
@dtypes
def test_interval_is_the_range(f: Activation, dtype: torch.dtype) -> None:
    low, high = _intervals(f, dtype)
    bottom, top = f.interval(low, high)
    turn = f.turn if isinstance(f, Curve) and f.turn is not None else 0.0
    special = torch.minimum(torch.maximum(torch.full_like(low, turn), low), high).double()
    exact = _true(f, torch.cat([_points(low, high, 201), special[None]]))
    least, most = exact.amin(0), exact.amax(0)
    assert (bottom.double() <= least).all()
    assert (top.double() >= most).all()
    size = 1 + torch.maximum(least.abs(), most.abs())
    slack = f.slack if isinstance(f, Curve) else 0.0
    room = 40 * torch.finfo(dtype).eps * size + slack
    assert (least - bottom.double() <= room).all()
    assert (top.double() - most <= room).all()


@every
def test_area_is_near_the_best(f: Activation) -> None:
    """At the midpoint, where area is decided, lines are as near to f's convex and concave envelopes as rounding allows."""
    low, high = _intervals(f, torch.float64, seed=3, n=2)
    keep = high - low > 1e-4
    low, high = low[keep][::2], high[keep][::2]
    lines = f.enclose(low, high)
    middle = (low + high) / 2
    share = torch.linspace(0, 1, 4001, dtype=torch.float64)[:, None]
    a = low + share * (high - low)
    values = _true(f, a)
    for i in range(len(low)):
        got = (
            float(lines.lower_slope[i] * middle[i] + lines.lower_shift[i]),
            float(lines.upper_slope[i] * middle[i] + lines.upper_shift[i]),
        )
        best = _envelopes(values[:, i].numpy())
        span = float(values[:, i].max() - values[:, i].min())
        slack = f.slack if isinstance(f, Curve) else 0.0
        room = 4e-4 * span + 1e-12 * (1 + abs(best[0]) + abs(best[1])) + slack
        assert got[0] >= best[0] - room, (f.name, low[i], high[i], got, best)
        assert got[1] <= best[1] + room, (f.name, low[i], high[i], got, best)


def _envelopes(values: np.ndarray) -> tuple[float, float]:
    """Convex and concave envelope of equally spaced values, at the midpoint."""
    x = np.linspace(-1, 1, len(values))
    scale = max(values.max() - values.min(), 1e-300)
    shifted = (values - values.min()) / scale
    corners = np.stack([np.r_[-1, x, 1], np.r_[2.0, shifted, 2.0]], 1)
    lower = _hull_at_zero(corners)
    corners[:, 1] = np.r_[2.0, 1 - shifted, 2.0]
    upper = 1 - _hull_at_zero(corners)
    return lower * scale + values.min(), upper * scale + values.min()


def _hull_at_zero(corners: np.ndarray) -> float:
    hull = ConvexHull(corners)
    normals = hull.equations[hull.equations[:, 1] < -1e-12]
    return float((-normals[:, 2] / normals[:, 1]).max())


def test_relu_is_crown() -> None:
    low, high = _intervals(activations.relu(), torch.float64)
    lines = activations.relu().enclose(low, high)
    unstable = (low < 0) & (high > 0)
    slope = high / (high - low)
    assert torch.allclose(lines.upper_slope[unstable], slope[unstable])
    assert torch.allclose(lines.upper_shift[unstable], (-slope * low)[unstable])
    assert torch.equal(lines.lower_slope[unstable], (high > -low).double()[unstable])
    assert (lines.lower_shift == 0).all()
    choice = torch.rand_like(low)
    assert torch.equal(activations.relu().enclose(low, high, choice).lower_slope[unstable], choice[unstable])
    assert torch.equal(activations.relu().bend(low, high), unstable)
    for slope_of in (lines.lower_slope, lines.upper_slope):
        assert torch.equal(slope_of[~unstable], (low >= 0).double()[~unstable])
    assert (lines.upper_shift[~unstable] == 0).all()


@pytest.mark.parametrize("f", PIECEWISE, ids=lambda f: f.name)
def test_straight_units_are_exact(f: Activation) -> None:
    low, high = _intervals(f, torch.float64)
    straight = ~f.bend(low, high)
    lines = f.enclose(low, high, torch.rand_like(low), torch.rand_like(low))
    middle = (low + high) / 2
    for slope, shift in ((lines.lower_slope, lines.lower_shift), (lines.upper_slope, lines.upper_shift)):
        assert torch.allclose((slope * middle + shift)[straight], f.apply(middle)[straight], atol=1e-12)


@pytest.mark.parametrize("f", [*LINE, *HALF], ids=lambda f: f.name)
def test_gap_is_quadratic_in_the_width(f: Activation) -> None:
    centre = torch.linspace(0.2, 6, 300, dtype=torch.float64)
    centre = centre if f in HALF else torch.cat([-centre, centre])
    gaps = []
    for width in (1e-2, 1e-3):
        low, high = centre - width / 2, centre + width / 2
        kink = (low < 3) & (high > 3) | (low < -3) & (high > -3) if f.name == "hard_swish" else low > high
        lines = f.enclose(low, high)
        upper, lower = (
            (lines.upper_slope * centre + lines.upper_shift),
            (lines.lower_slope * centre + lines.lower_shift),
        )
        gaps.append(((upper - lower) / (1 + f.apply(centre).abs()))[~kink].max())
    slack = f.slack if isinstance(f, Curve) else 0.0
    assert gaps[0] <= 1e-2**2 * 10 + 4 * slack
    assert gaps[1] <= gaps[0] / 80 + 4 * slack
    assert f.bend(low, high).all()
    assert not f.bend(centre, centre).any()


@every
def test_smaller_intervals_are_tighter(f: Activation) -> None:
    low, high = _intervals(f, torch.float64, seed=5)
    generator = torch.Generator().manual_seed(6)
    shares = torch.rand(2, len(low), generator=generator, dtype=torch.float64).sort(dim=0).values
    inner = [low + share * (high - low) for share in shares]
    outer, within = f.enclose(low, high), f.enclose(*inner)
    middle = (inner[0] + inner[1]) / 2

    def height(lines: Enclosure) -> Tensor:
        return (lines.upper_slope - lines.lower_slope) * middle + lines.upper_shift - lines.lower_shift

    span = f.interval(low, high)
    room = 1e-3 * (span[1] - span[0]) + 1e-12 * (1 + span[0].abs() + span[1].abs())
    assert (height(within) <= height(outer) + room).all()


@every
def test_choices_carry_gradients(f: Activation) -> None:
    low, high = _intervals(f, torch.float64, n=20)
    low, high = low.clone().requires_grad_(), high.clone().requires_grad_()
    choices = [torch.full_like(low, 0.5).requires_grad_() for _ in range(2)]
    lines = f.enclose(low, high, *choices)
    total = sum((v * v).clamp_max(1e6).sum() for v in vars(lines).values())
    for gradient in torch.autograd.grad(total, [low, high, *choices], allow_unused=True):
        assert gradient is None or gradient.isfinite().all()
    (gradient,) = torch.autograd.grad(f.enclose(low, high, *choices).lower_slope.sum(), [choices[0]], allow_unused=True)
    (other,) = torch.autograd.grad(f.enclose(low, high, *choices).upper_slope.sum(), [choices[1]], allow_unused=True)
    assert any(g is not None and bool((g != 0).any()) for g in (gradient, other))


@every
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_interval(f: Activation, data: st.DataObject) -> None:
    ends = st.floats(0.0625, 60, width=32) if f in HALF else st.floats(-60, 60, width=32)
    low, high = sorted(data.draw(st.tuples(ends, ends)))
    dtype = data.draw(st.sampled_from(DTYPES))
    pick = [
        None if c is None else torch.tensor(c, dtype=dtype)
        for c in data.draw(st.tuples(*[st.none() | st.floats(0, 1)] * 2))
    ]
    sides = torch.tensor([[low]], dtype=dtype), torch.tensor([[high]], dtype=dtype)
    _check_sound(f, *sides, f.enclose(*sides, *pick))


MODULES = [
    (activations.relu(), nn.ReLU()),
    (activations.leaky_relu(0.2), nn.LeakyReLU(0.2)),
    (activations.clamp(), nn.Hardtanh()),
    (activations.clamp(0.0, 6.0), nn.ReLU6()),
    (activations.hard_sigmoid(), nn.Hardsigmoid()),
    (smooth.gelu(), nn.GELU()),
    (smooth.gelu("tanh"), nn.GELU("tanh")),
    (smooth.silu(), nn.SiLU()),
    (smooth.mish(), nn.Mish()),
    (smooth.hard_swish(), nn.Hardswish()),
    (smooth.softplus(2.0, 10.0), nn.Softplus(2.0, 10.0)),
    (smooth.elu(0.7), nn.ELU(0.7)),
    (smooth.elu(1.6732632423543772848170429916717, 1.0507009873554804934193349852946), nn.SELU()),
]


@pytest.mark.parametrize(("f", "module"), MODULES, ids=lambda f: getattr(f, "name", ""))
def test_is_the_deployed_function(f: Activation, module: nn.Module) -> None:
    a = torch.linspace(-30, 30, 4001, dtype=torch.float64)
    assert torch.allclose(f.apply(a), module(a), atol=1e-13, rtol=1e-13)


@pytest.mark.parametrize("f", [*LINE, *HALF], ids=lambda f: f.name)
def test_curves_are_what_they_say(f: Curve) -> None:
    """Slopes are derivatives; curvature has the stated sign on every piece; outer pieces are separated as required."""
    a = torch.linspace(0.01, 40, 4001, dtype=torch.float64)
    a = a if f in HALF and f.name != "reciprocal" else torch.cat([-a.flip(0), a])
    a = a[1:-1]
    if f.name != "hard_swish":
        free = a.clone().requires_grad_()
        (slope,) = torch.autograd.grad(f.value(free).sum(), free)
        stated = torch.where(a > 0, f.slope_above(a), f.slope(a)) if f.slope_above else f.slope(a)
        assert torch.allclose(slope, stated, atol=1e-12, rtol=1e-10)
    assert ((f.value(a) - f.apply(a)).abs() <= f.slack + 1e-13 * (1 + f.apply(a).abs())).all()
    edges = [-math.inf, *f.bends, math.inf]
    ranges = []
    for i in range(len(edges) - 1):
        convex = f.convex_first == (i % 2 == 0)
        inside = a[(a > edges[i]) & (a < edges[i + 1])]
        slope = (f.slope if convex or f.slope_above is None else f.slope_above)(inside)
        change = slope.diff() if convex else -slope.diff()
        if not (f.name == "elu" and not convex):
            assert (change >= -1e-14 * (1 + slope[1:].abs())).all()
        ranges.append((float(slope.min()), float(slope.max())) if len(slope) else None)
    if len(f.bends) == 2:
        assert not f.convex_first
        assert ranges[0][1] <= 0 < 1 <= ranges[2][0] + 1e-14
    if f.turn is not None:
        assert abs(float(f.slope(torch.tensor(f.turn, dtype=torch.float64)))) < 1e-12


def test_refusals() -> None:
    one = torch.ones(3)
    for f in (smooth.reciprocal(), smooth.logarithm(), smooth.square_root(), smooth.reciprocal_root()):
        with pytest.raises(UnsupportedLayerError, match=f.name):
            f.enclose(-one, one)
        with pytest.raises(UnsupportedLayerError, match=f.name):
            f.interval(0 * one, one)
    for f in (activations.relu(), activations.clamp(), smooth.gelu()):
        for low, high in ((one, -one), (-one, one * math.inf), (one * math.nan, one), (one * math.inf, one * math.inf)):
            with pytest.raises(InputError, match=f.name):
                f.enclose(low, high)
    with pytest.raises(InputError, match="overflows"):
        smooth.exponential().enclose(one, 1000 * one)
    for make in (
        lambda: smooth.gelu("fast"),
        lambda: smooth.softplus(beta=0.0),
        lambda: smooth.elu(alpha=-1.0),
        lambda: activations.clamp(1.0, 1.0),
    ):
        with pytest.raises(InputError):
            make()


def test_slopes_a_channel() -> None:
    weight = torch.tensor([-0.5, 0.25, 2.0])
    f = activations.prelu(weight.view(3, 1, 1))
    assert isinstance(f, Hinge)
    low = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    high = low + 1
    _check_sound(f, low, high, f.enclose(low, high))
    assert torch.equal(f.apply(low), functional.prelu(low, weight))
    assert isinstance(activations.clamp(), Ramp)
    parts = [Hinge(name="part", left=float(w)).enclose(low[:, i], high[:, i]) for i, w in enumerate(weight)]
    assert torch.equal(f.enclose(low, high).upper_slope, torch.stack([p.upper_slope for p in parts], 1))


@dtypes
def test_subnormal_ends_are_enclosed(dtype: torch.dtype) -> None:
    least = torch.tensor([[torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps]], dtype=dtype)
    for low, high in ((torch.full_like(least, -1.25), least), (-least, torch.full_like(least, 1.25)), (-least, least)):
        for f in (activations.relu(), activations.leaky_relu(0.1), activations.absolute()):
            _check_sound(f, low, high, f.enclose(low, high))


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("threshold", [0.0, 0.3, -2.0])
@dtypes
def test_steps_lie_between_their_lines(threshold: float, closed: bool, dtype: torch.dtype) -> None:
    step = Step(threshold=threshold, closed=closed)
    generator = torch.Generator().manual_seed(0)
    ends = (threshold + 2 * torch.randn(2, 4000, generator=generator, dtype=torch.float64)).to(dtype).sort(0).values
    low, high = ends[0].clone(), ends[1].clone()
    low[:3], high[:3] = threshold, torch.tensor([threshold, threshold + 1, threshold], dtype=dtype)
    low[2] = threshold - 1
    share = torch.linspace(0, 1, 41, dtype=torch.float64)[:, None]
    points = torch.cat(
        (low + share * (high - low).double(), torch.full((1, 4000), threshold).double().clamp(low, high))
    )
    values = step.apply(points.to(dtype)).double()
    bottom, top = step.interval(low, high)
    assert ((values >= bottom) & (values <= top)).all()
    decided = (low > threshold + 1e-3) | (high < threshold - 1e-3)
    assert (bottom == top)[decided].all()
    choices = torch.rand(2, 4000, generator=generator).to(dtype)
    areas = []
    for pair in ((None, None), (choices[0], choices[1]), (torch.ones_like(low), torch.ones_like(low))):
        lines = step.enclose(low, high, *pair)
        below = lines.lower_slope.double() * points.to(dtype).double() + lines.lower_shift.double()
        above = lines.upper_slope.double() * points.to(dtype).double() + lines.upper_shift.double()
        assert (below <= values).all()
        assert (above >= values).all()
        areas.append(float((above - below).mean()))
    assert areas[0] <= min(areas) + 1e-3
