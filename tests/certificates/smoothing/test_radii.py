"""Radii against problems whose worst case is known: half-spaces, a path of two pixels, linear models."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from scipy.stats import norm
from torch import Tensor, nn

from wassertight.certificates import (
    GaussianFlowSmoothing,
    GaussianPixelSmoothing,
    LaplaceFlowSmoothing,
    LaplacePixelSmoothing,
    Population,
    SmoothedCertificate,
    SplittingSmoothing,
    UniformPixelSmoothing,
    Verdict,
    ZonotopeFlowSmoothing,
    accuracy_curves,
)
from wassertight.certificates.smoothing import Smoothing
from wassertight.certificates.smoothing.estimation import VoteBounds
from wassertight.threats import threat
from wassertight.transport.flows import edge_ends, flow_grid, pair_distances
from wassertight.types import InputError, ThreatError

BALL = threat("image-W1@0.01")
VOTES = (0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.05 ** (1 / 10_000), 0.001 ** (1 / 100_000))


def radii(method: Smoothing, votes: tuple[float, ...], r: float, size: int = 28) -> list[float]:
    v = torch.tensor(votes, dtype=torch.float64)
    x = torch.zeros(len(votes), 1, size, size)
    x[:, 0, 0, 0] = 1.0
    return method.bound(VoteBounds(lower=v, upper=1 - v), x, r).tolist()


@pytest.mark.parametrize(
    ("method", "golden"),
    [
        (LaplaceFlowSmoothing(sigma=1.0, tight=False), (0.101, 0.212, 0.347, 0.549, 0.736, 1.149, 2.028, 2.395)),
        (LaplaceFlowSmoothing(sigma=1.0), (0.112, 0.255, 0.458, 0.805, 1.151, 1.956, 3.710, 4.444)),
        (ZonotopeFlowSmoothing(sigma=1.0), (0.424, 0.848, 1.271, 1.695, 1.907, 2.077, 2.118, 2.119)),
        (GaussianFlowSmoothing(sigma=1.0, mass_limits=False), (0.352, 0.729, 1.170, 1.781, 2.286, 3.233, 4.769, 5.296)),
    ],
    ids=["published", "tight", "zonotope", "gauss"],
)
def test_table_of_radii(method: Smoothing, golden: tuple[float, ...]) -> None:
    assert radii(method, VOTES, 2.0) == pytest.approx(golden, abs=1.1e-3)


def test_tight_laplace_is_never_smaller_and_exact_for_a_half_line() -> None:
    votes = tuple(np.linspace(0.501, 0.9999, 200).tolist())
    tight, published = (radii(LaplaceFlowSmoothing(sigma=0.1, tight=flag), votes, 1.0) for flag in (True, False))
    assert all(a >= b for a, b in zip(tight, published, strict=True))
    # Two pixels, model 1{x_0 >= t}: light W moved from pixel 0 brings the probability to 1/2 exactly at W = x_0 - t.
    b = 0.1 / math.sqrt(2)
    for margin in (0.01, 0.1, 0.4):
        v = 1 - math.exp(-margin / b) / 2
        assert radii(LaplaceFlowSmoothing(sigma=0.1), (v,), 1.0)[0] == pytest.approx(margin, rel=1e-6)


def worst_gain(a: np.ndarray, shares: np.ndarray, r: float, budget: float, h: int, w: int) -> float:
    """max <a, m> over plans of cost at most `budget`, channels sharing it."""
    c, v = shares.shape
    cost = np.tile(pair_distances(h, w, r).numpy().ravel(), c)
    rise = (a[:, None, :] - a[:, :, None]).reshape(-1)
    rows = np.kron(np.eye(c * v), np.ones(v))
    return -float(linprog(-rise, A_ub=cost[None], b_ub=[budget], A_eq=rows, b_eq=shares.ravel(), method="highs").fun)


@pytest.mark.parametrize("r", [1.0, 2.0])
@pytest.mark.parametrize(("channels", "h", "w"), [(1, 3, 3), (1, 2, 4), (3, 2, 3)])
def test_no_half_space_beats_the_gaussian_radius(channels: int, h: int, w: int, r: float) -> None:
    """P(z) = Phi((t - <a, z>) / (sigma |a|_L)): the certificate allows <a, m> <= |a|_L W / kappa and no more."""
    rng = np.random.default_rng(0)
    for weighted in (True, False):
        grid = flow_grid(h, w, weighted)
        assert grid.inverse is not None
        laplacian = np.linalg.pinv(grid.inverse.numpy())
        for budget in (0.02, 0.2):
            a = rng.normal(size=(channels, h * w))
            shares = rng.random((channels, h * w)) ** 2
            gain = worst_gain(a, shares / shares.sum(), r, budget, h, w)
            size = math.sqrt(float(np.einsum("ci,ij,cj->", a, laplacian, a)))
            assert gain <= size * budget / grid.kappa(r) * (1 + 1e-6)
        begin, end = edge_ends(h, w)
        worst = int(grid.pair_resistances()[begin, end].argmax())
        a = np.zeros((channels, h * w))
        a[0] = (grid.inverse[end[worst]] - grid.inverse[begin[worst]]).numpy()
        shares = np.zeros((channels, h * w))
        shares[0, begin[worst]] = 1.0
        size = math.sqrt(float(a[0] @ laplacian @ a[0]))
        assert worst_gain(a, shares, r, 0.2, h, w) == pytest.approx(size * 0.2 / grid.kappa(r), rel=1e-5)


class _Linear(nn.Module):
    """Class 0 where <a, x> <= t."""

    def __init__(self, a: Tensor, t: float) -> None:
        super().__init__()
        self.a, self.t = a, t

    def forward(self, x: Tensor) -> Tensor:
        score = self.t - (x.flatten(1) @ self.a)
        return torch.stack((score, -score), 1)


@pytest.mark.parametrize("channels", [1, 2])
def test_linear_model_is_bracketed(channels: int) -> None:
    h = w = 4
    a = torch.randn(channels * h * w)
    x = torch.rand(4, channels, h, w)
    grid = flow_grid(h, w)
    assert grid.inverse is not None
    laplacian = np.linalg.pinv(grid.inverse.numpy())
    flat = a.view(channels, -1).double().numpy()
    size = math.sqrt(float(np.einsum("ci,ij,cj->", flat, laplacian, flat)))
    values = x.flatten(1) @ a
    model = _Linear(a, float(values.max()) + 1.0)
    method = GaussianFlowSmoothing(sigma=0.02, n0=100, n=20_000, alpha=1e-6)
    found = method(model, x, torch.zeros(4, dtype=torch.int64), BALL)
    assert isinstance(found, SmoothedCertificate)
    for i in range(4):
        mass = float(x[i].sum())
        margin = (model.t - float(values[i])) / mass
        v = float(norm.cdf(margin / (0.02 * size)))
        assert float(found.probability[i]) <= v
        assert int(found.hits[i]) / 20_000 == pytest.approx(v, abs=5 * math.sqrt(v * (1 - v) / 20_000) + 1e-6)
        shares = x[i].flatten(1).double().numpy() / mass
        # At the certified radius the exact adversary has not crossed the boundary of the smoothed classifier.
        assert worst_gain(flat, shares, 2.0, float(found.radii.values[i]), h, w) <= margin * (1 + 1e-6)


def test_pixel_baselines() -> None:
    b, v = 0.01 / math.sqrt(2), 0.9
    assert radii(LaplacePixelSmoothing(sigma=0.01), (v,), 2.0)[0] == pytest.approx(-b / 2 * math.log(2 * (1 - v)))
    assert radii(LaplacePixelSmoothing(sigma=0.01, tight=False), (v,), 1.0)[0] == pytest.approx(b / 4 * math.log(9))
    assert radii(GaussianPixelSmoothing(sigma=0.01), (v,), 1.0)[0] == pytest.approx(0.01 * norm.ppf(v) / math.sqrt(2))
    assert radii(UniformPixelSmoothing(sigma=0.01), (v,), 2.0)[0] == pytest.approx(math.sqrt(3) * 0.01 * (v - 0.5))
    assert radii(SplittingSmoothing(sigma=0.2), (v,), 2.0)[0] == pytest.approx(math.sqrt(3) * 0.2 * (v - 0.5))


def _constant(x: Tensor) -> Tensor:
    return torch.tensor([[1.0, 0.0]]).expand(len(x), 2)


def test_verdicts_rules_and_curves() -> None:
    x, y = torch.rand(10, 1, 4, 4), torch.tensor([0] * 9 + [1])
    knobs = {"sigma": 0.01, "n0": 10, "n": 500, "alpha": 0.01}
    each, share, everything = (
        GaussianFlowSmoothing(rule=rule, **knobs)(_constant, x, y, BALL) for rule in ("each", "share", "all")
    )
    assert each.verdicts == (Verdict.CERTIFIED,) * 9 + (Verdict.WRONG,)
    assert each.clean == pytest.approx(0.9)
    assert each.radii.values[:9].max() == pytest.approx(each.reach)
    assert bool((everything.radii.values[:9] < each.radii.values[:9]).all())
    assert share.allowance == pytest.approx(0.1)
    assert share.accuracy == pytest.approx(each.accuracy - 0.1)
    heavy = torch.tensor([0.91] + [0.01] * 9, dtype=torch.float64)  # the one wrong radius allowed may be the heavy one
    assert GaussianFlowSmoothing(rule="share", **knobs)(_constant, x, y, BALL, weights=heavy).accuracy <= 0.08 + 1e-12
    assert each.confidence == 0.99
    above = [each.reach * 1.001, 1.0]
    assert each.curve(math.inf, above).tolist() == pytest.approx([0.0, 0.0])
    assert each.curve(1, [1.0]).tolist() == pytest.approx([0.0])
    (curve,) = accuracy_curves(each.radii, (1,), [0.001], population=Population(failure=0.01))
    assert float(curve.accuracy[0]) < float(each.curve(1, [0.001])[0])
    with pytest.raises(ThreatError, match="image-space"):
        GaussianFlowSmoothing(**knobs)(_constant, x, y, threat("W1-L2@0.1"))
    with pytest.raises(InputError, match="can certify nothing"):
        GaussianFlowSmoothing(n=5)


def test_draws_needed() -> None:
    x = torch.zeros(1, 1, 8, 8)
    x[0, 0, 3, 3] = 1.0
    method = GaussianFlowSmoothing(sigma=0.01, n=100, alpha=0.001)
    need = method.draws_needed(x, threat("image-W1@0.04"))
    assert need is not None
    assert GaussianFlowSmoothing(sigma=0.01, n=need).reach(x, BALL) > 0.04
    assert GaussianFlowSmoothing(sigma=0.01, n=need // 2).reach(x, BALL) <= 0.04
    assert method.draws_needed(x, threat("image-W1@1")) is None
