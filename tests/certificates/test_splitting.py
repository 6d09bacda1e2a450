"""Division of the input: parts of balls against programs and points, radii against dense grids, budgets, schedules."""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize
from torch import Tensor, nn

from random_networks import Grown, region_points
from wassertight.certificates import InputSplit, LinearPropagation
from wassertight.certificates.propagation import growing
from wassertight.certificates.propagation.growing import Effort, Trial, Until, grow
from wassertight.certificates.propagation.propagation import Propagation
from wassertight.certificates.propagation.reading import read_graph
from wassertight.certificates.propagation.region import Region
from wassertight.certificates.propagation.rounding import Rounding
from wassertight.certificates.propagation.splitting import InputSearch
from wassertight.geometry import norm
from wassertight.threats import PointwiseBall
from wassertight.types import InputError

ORDERS = [1.0, 2.0, math.inf]


def _cells(r: float, n: int, d: int) -> tuple[Region, Region, Tensor, Tensor, Tensor]:
    """Random balls in the unit box, cells that meet them or not, and the parts."""
    generator = torch.Generator().manual_seed(int(10 * min(r, 5)))
    x, t = (torch.rand(*shape, generator=generator, dtype=torch.float64) for shape in ((n, d), (n,)))
    ends = torch.rand(2, n, d, generator=generator, dtype=torch.float64).sort(0).values
    far = torch.rand(2, n, d, generator=generator, dtype=torch.float64) < 0.4
    low, high = ends[0].masked_fill(far[0], -math.inf), ends[1].masked_fill(far[1], math.inf)
    ball = Region.of(x, 0.05 + t * {1.0: 1.2, 2.0: 0.7, math.inf: 0.4}[r], r, (0.0, 1.0))
    part, empty = ball.cut(low, high)
    return ball, part, empty, low, high


@pytest.mark.parametrize("r", ORDERS)
def test_a_part_holds_every_point_of_ball_and_cell(r: float) -> None:
    ball, part, empty, low, high = _cells(r, 200, 3)
    points = region_points(ball.x, ball.t, r, (0.0, 1.0), n=400)
    inside = ((points >= low) & (points <= high)).all(2)
    assert not inside[:, empty].any()
    assert 10 < int(empty.sum()) < 190
    held = ((points >= part.low - 1e-12) & (points <= part.high + 1e-12)).all(2)
    held &= norm((points - part.x).flatten(0, 1), r).view(held.shape) <= part.t * (1 + 1e-9) + 1e-12
    assert held[inside].all()


@pytest.mark.parametrize("r", ORDERS)
def test_minima_over_parts_whose_centre_lies_outside(r: float) -> None:
    ball, part, empty, low, high = _cells(r, 60, 3)
    a = torch.randn(60, 1, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tight, loose = (part.minimum(a, tight=tight).squeeze(1) for tight in (True, False))
    low, high = torch.maximum(low, ball.low), torch.minimum(high, ball.high)
    outside = 0
    for i in (~empty).nonzero().squeeze(1).tolist():
        x, t, row = ball.x[i].numpy(), float(ball.t[i]), a[i, 0].numpy()
        least, most = low[i].numpy(), high[i].numpy()
        outside += bool((x < least).any() or (x > most).any())
        if r == 2:
            start = np.clip(x, least, most)
            inside = {"type": "ineq", "fun": lambda z, x=x, t=t: t * t - ((z - x) ** 2).sum()}
            found = minimize(
                lambda z, row=row: row @ z, start, bounds=list(zip(least, most, strict=True)), constraints=[inside],
                options={"ftol": 1e-13},
            )  # fmt: skip
            exact = float(found.fun)
        elif r == 1:  # z = x + u - v
            program = linprog(
                np.r_[row, -row], bounds=[(0, None)] * 6,
                A_ub=np.vstack([np.ones(6), np.c_[np.eye(3), -np.eye(3)], np.c_[-np.eye(3), np.eye(3)]]),
                b_ub=np.r_[t, most - x, x - least],
            )  # fmt: skip
            exact = float(row @ x + program.fun)
        else:
            exact = float(np.minimum(row * least, row * most).sum())
        assert float(loose[i]) <= float(tight[i]) + 1e-9
        assert float(tight[i]) <= exact + 1e-6
        assert float(tight[i]) == pytest.approx(exact, abs=1e-5)
    assert outside > 5


def _network(d: int, seed: int, activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(d, 16), activation(), nn.Linear(16, 16), activation(), nn.Linear(16, 2)).double()
    for layer in model[::2]:
        layer.weight.data *= 8 if activation is nn.Sigmoid else 2.5
    return model.eval()


def _data(model: nn.Module, d: int, n: int) -> tuple[Tensor, Tensor]:
    """Inputs, and logits moved so that both classes occur."""
    x = torch.rand(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = model(torch.rand(4000, d, dtype=torch.float64))
        model[-1].bias.data[0] -= (logits[:, 0] - logits[:, 1]).quantile(0.7)
        return x, model(x).argmax(1)


@torch.no_grad()
def _distances(model: nn.Module, x: Tensor, y: Tensor, r: float) -> Tensor:
    """Distance to the nearest flip in the unit box, by a grid and finer ones around its nearest flips."""
    d, found = x.shape[1], []
    for centre, label in zip(x, y, strict=True):
        best, near, width = math.inf, torch.full((d,), 0.5, dtype=torch.float64), 0.5
        for count in ({2: 401, 3: 81}[d], *[{2: 81, 3: 41}[d]] * 6):
            axes = [(c + width * torch.linspace(-1, 1, count, dtype=torch.float64)).clamp(0, 1) for c in near]
            grid = torch.cartesian_prod(*axes)
            lengths = norm(grid - centre, r).masked_fill(model(grid).argmax(1) == label, math.inf)
            if float(lengths.amin()) < best:
                best, near = float(lengths.amin()), grid[lengths.argmin()]
            width = 6 * width / count
        found.append(best)
    return torch.tensor(found, dtype=torch.float64)


ALL = [(d, r, f) for d, r in ((2, 1.0), (2, 2.0), (2, math.inf), (3, math.inf)) for f in (nn.Tanh, nn.Sigmoid, nn.ReLU)]
QUICK = [(2, 1.0, nn.Tanh), (2, 2.0, nn.Sigmoid), (2, math.inf, nn.ReLU)]


@pytest.mark.parametrize(
    ("d", "r", "activation"),
    [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in ALL if case not in QUICK)],
)
def test_radii_reach_the_true_distance(d: int, r: float, activation: type[nn.Module]) -> None:
    model = _network(d, 1, activation)
    x, y = _data(model, d, 2)
    ball = PointwiseBall(radius=0.1, r=r, bounds=(0.0, 1.0))
    true = _distances(model, x, y, r)
    assert torch.isfinite(true).all()
    crown = LinearPropagation()(model, x, y, ball).radii.values
    found = InputSplit(seconds=20, tolerance=5e-3)(model, x, y, ball)
    radii = found.radii.values
    assert (radii <= true).all()
    assert (radii >= 0.99 * true).all()
    assert (radii >= crown).all()
    assert float(radii.sum()) > 1.05 * float(crown.sum())
    assert found.converged


@pytest.mark.parametrize("group", [0, *(pytest.param(k, marks=pytest.mark.slow) for k in (1, 2, 3))])
def test_no_point_within_a_radius_is_answered_otherwise(group: int) -> None:
    for seed in range(4 * group, 4 * group + 4):
        dice = random.Random(seed)
        model = Grown(seed).double()
        r, bounds = ORDERS[seed % 3], dice.choice([None, (0.0, 1.0)])
        x = torch.rand(2, *model.source, dtype=torch.float64)
        with torch.no_grad():
            y = model(x).argmax(1)
        ball = PointwiseBall(radius=0.1, r=r, bounds=bounds)
        crown = LinearPropagation()(model, x, y, ball).radii.values
        radii = InputSplit(seconds=0.2)(model, x, y, ball).radii.values
        assert (radii >= crown * (1 - 1e-12)).all(), (seed, model.kinds)
        for share in (0.5, 0.9, 1.0):
            points = region_points(x, share * radii.clamp_max(1e3), r, bounds, n=1000)
            with torch.no_grad():
                answers = model(points.flatten(0, 1)).argmax(1).view(points.shape[:2])
            assert (answers == y).all(), (seed, model.kinds)


def test_an_unflippable_sample_is_proved_in_the_whole_box_or_as_far_as_time_allows() -> None:
    model = _network(2, 3)
    x = torch.rand(2, 2, dtype=torch.float64)
    model[-1].bias.data[0] = 60.0
    y = torch.zeros(2, dtype=torch.long)
    boxed = InputSplit(seconds=5)(model, x, y, PointwiseBall(radius=0.1, r=2.0, bounds=(0.0, 1.0)))
    assert boxed.radii.values.isinf().all()
    begun = time.perf_counter()
    model[-1].bias.data[0] = 0.0
    model[-1].weight.data[0] = -model[-1].weight.data[1]  # flips on a curve
    x, y = _data(model, 2, 2)
    free = InputSplit(seconds=0.4)(model, x, y, PointwiseBall(radius=0.1, r=2.0, bounds=None))
    assert time.perf_counter() - begun < 10
    assert (free.radii.values > 0).all()
    assert free.radii.values.isfinite().all()


def _effort(seconds: float, tolerance: float, leaves: int, batch: int) -> Effort:
    return Effort(seconds=seconds, tolerance=tolerance, leaves=leaves, batch=batch)


def _ticking(monkeypatch: pytest.MonkeyPatch) -> Callable[[], float]:
    """A clock that moves by a millisecond every time it is looked at, and what it shows."""
    shown = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: 1e-3 * next(shown))
    return lambda: time.perf_counter()


def test_time_and_cells_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _network(12, 0)
    x, y = _data(model, 12, 1)
    with torch.no_grad():
        graph = read_graph(model, x, dtype=torch.float64, device=torch.device("cpu"))
        propagation = Propagation(graph, math.inf, rounding=Rounding.between(torch.float64, torch.float64))
        clock = _ticking(monkeypatch)
        begun = clock()
        search = InputSearch(propagation, (0.0, 1.0), _effort(0.3, 1e-4, 10**6, 8), torch.float64)
        search.run(x[0], y[0], 0.0, math.inf)
        assert 0.25 <= clock() - begun < 0.35
        monkeypatch.undo()
        begun = time.perf_counter()
        assert not search.converged
        short = InputSearch(propagation, (0.0, 1.0), _effort(60.0, 1e-4, 40, 8), torch.float64)
        radius = short.run(x[0], y[0], 0.0, math.inf)
        assert time.perf_counter() - begun < 30
        assert radius > 0
        assert len(short.cells) <= 48


@pytest.mark.parametrize("r", ORDERS)
def test_finished_cells_lie_in_the_ball(r: float) -> None:
    """What a larger radius adds nothing to: all corners, cut to the box, are in the ball."""
    model = _network(2, 5)
    x, y = _data(model, 2, 1)
    with torch.no_grad():
        graph = read_graph(model, x, dtype=torch.float64, device=torch.device("cpu"))
        propagation = Propagation(graph, r, rounding=Rounding.between(torch.float64, torch.float64))
        search = InputSearch(propagation, (0.0, 1.0), _effort(10.0, 0.05, 50, 16), torch.float64)
        radius = search.run(x[0], y[0], 0.05, math.inf)
        cells = search.cells
        low, high = cells.low.clamp_min(0), cells.high.clamp_max(1)
        corners = torch.stack([torch.stack((a[:, 0], b[:, 1]), 1) for a in (low, high) for b in (low, high)])
        far = norm((corners - x).flatten(0, 1), r).view(4, -1).amax(0)
        assert (far[cells.reached.isinf()] <= 1.1 * radius).all()  # the last radius tried may have failed
        for t in far.tolist():
            assert torch.equal(search._inside(cells, 1.01 * t), far <= 1.01 * t * (1 - 1e-6))
            assert not bool(search._inside(cells, t)[far >= t].any())


def test_growing_meets_what_can_be_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def verify(t: float, until: Until) -> Trial:
        tried.append(t)
        return Trial(proved=t if t <= 0.37 else 0.0, ceiling=t if t > 0.4 else math.inf)

    for ceiling in (0.5, math.inf):
        tried.clear()
        found = grow(verify, 0.01, ceiling, 1e-3, 0.05)
        assert 0.37 * (1 - 2e-3) <= found <= 0.37
        assert all(t > 0.01 for t in tried)
    assert grow(verify, 0.45, math.inf, 1e-3, 0.02) == 0.45
    assert grow(verify, 0.1, math.inf, 1e-3, 1.0, goal=0.3) == 0.3
    assert grow(verify, 0.1, math.inf, 1e-3, 0.1, goal=0.39) == 0.1
    proved = iter((0.0, 0.0, 0.3))
    assert grow(lambda t, _: Trial(proved=next(proved)), 0.1, math.inf, 1e-3, 60.0, goal=0.3) == 0.3
    assert grow(verify, 0.1, 0.2, 1e-3, 60.0, goal=0.3) == 0.1
    exact = grow(
        lambda t, _: Trial(proved=t if t <= 0.3 else 0.0, ceiling=max(0.3, 0.99 * t)), 0.0, math.inf, 1e-3, 9.0
    )
    assert exact == pytest.approx(0.3, rel=1e-3)
    assert grow(lambda t, _: Trial(spent=True), 0.1, math.inf, 1e-3, 60.0) == 0.1
    assert grow(lambda t, _: Trial(proved=math.inf), 0.1, math.inf, 1e-3, 60.0) == math.inf
    clock = _ticking(monkeypatch)
    begun = clock()
    assert grow(lambda t, _: Trial(proved=t if t < 1e-6 else 0.0), 0.0, math.inf, 1e-3, 0.1) < 1e-6
    assert 0.09 <= clock() - begun < 0.12


@pytest.mark.parametrize("pace", [0.02, 0.04, 0.08])
def test_steps_follow_from_what_trials_took(pace: float, monkeypatch: pytest.MonkeyPatch) -> None:
    now, tree, trials = 0.0, 0.0, 0
    monkeypatch.setattr(growing.time, "perf_counter", lambda: now)

    def verify(t: float, until: Until) -> Trial:
        """A second for what is within, then a tree that doubles with the radius; a fifth of it to bound it again."""
        nonlocal now, tree, trials
        trials += 1
        needed = 0.05 * 2 ** ((t - 1.3) / pace)
        grown = max(needed - tree, 0.0)
        left = until.due - now - 1 - 0.2 * tree
        worked = 0.2 * tree + min(grown, max(left, 0.0))
        tree += min(grown, max(left, 0.0))
        now += 1 + worked
        return Trial(proved=t if grown <= left else 0.0, work=worked, again=0.2 * tree)

    found = grow(verify, 1.0, math.inf, 1e-3, 30.0)
    best = 1.3 + pace * math.log2(29 / 0.05)  # all of the time for one trial
    assert found > best - 3 * pace
    assert trials < 15


def test_bad_settings_are_told() -> None:
    with pytest.raises(InputError, match="seconds must be positive, got 0"):
        InputSplit(seconds=0)
    with pytest.raises(InputError, match="batch must be at least 1"):
        InputSplit(batch=0)


def test_progress_foretells_when_a_bound_is_positive(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(growing.time, "perf_counter", lambda: now)

    def given_up(due: float, gain: float, end: float | None = None) -> float:
        nonlocal now
        now = 0.0
        progress = growing.Progress(Until(due=due, end=due if end is None else end))
        for step in range(1, 400):
            now = 0.1 * step
            bound = -1 + gain * math.log2(now)  # a fifth a doubling: positive after 32 seconds
            if bound > 0:
                return math.inf
            if progress.hopeless(bound):
                return now
        return math.nan

    assert given_up(40.0, 0.2) == math.inf
    assert given_up(16.0, 0.2) == pytest.approx(16.1)  # late, but not by much
    assert given_up(16.0, 0.2, end=40.0) == math.inf
    assert given_up(16.0, 0.2, end=24.0) == pytest.approx(16.1)
    assert given_up(6.0, 0.2) < 1.5
    assert given_up(16.0, 0.0) < 3
    assert given_up(0.05, 0.2) == pytest.approx(0.1)
