"""Single noisy answers under a budget: against linear programmes, exact linear models and the law of votes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from scipy.stats import binom, norm
from torch import Tensor

from wassertight.certificates import NoisyVotes
from wassertight.certificates.smoothing.estimation import clopper_pearson
from wassertight.certificates.smoothing.noisy_votes import best_bound, budget_accuracy, mean_loss
from wassertight.threats import ImageWasserstein, threat
from wassertight.transport.exact import image_distance
from wassertight.types import InputError, ThreatError


@pytest.mark.parametrize("scale", [0.5, 0.02])
@pytest.mark.parametrize("radius", [0.01, 0.1, 0.6])
def test_budget_is_shared_as_the_linear_programme_shares_it(scale: float, radius: float) -> None:
    """LP over a fine grid of moves: never below our bound, and equal to it up to the grids."""
    v, radius = torch.tensor([0.999, 0.9, 0.7, 0.5, 0.2, 0.0], dtype=torch.float64), radius * scale
    t = np.linspace(0, 8 * scale, 600)
    right = norm.cdf(norm.ppf(v.numpy())[:, None] - t / scale)
    n, m = right.shape
    rows = np.kron(np.eye(n), np.ones(m))
    found = linprog(
        right.ravel() / n, A_ub=np.tile(t, n)[None] / n, b_ub=[radius], A_eq=rows, b_eq=np.ones(n), method="highs"
    ).fun
    ours = budget_accuracy(v, radius, scale)
    assert ours <= found + 1e-9
    assert ours == pytest.approx(found, abs=2e-4)
    assert budget_accuracy(v, radius, scale, math.inf) >= ours - 1e-9
    assert ours >= float(v.mean()) - mean_loss(radius, scale) - 1e-9  # single images are never worse than the mean


def test_mean_loss_is_the_total_variation_of_shifted_gaussians() -> None:
    grid = np.linspace(-12, 12, 200_001)
    for shift in (0.1, 1.0, 3.0):
        apart = np.abs(norm.pdf(grid) - norm.pdf(grid - shift)).sum() * (grid[1] - grid[0]) / 2
        assert mean_loss(shift * 0.3, 0.3) == pytest.approx(apart, abs=1e-6)


def test_a_linear_model_has_no_less_than_its_bound() -> None:
    """Votes of linear models have closed forms; random moves of light, exact distances."""
    method, ball = NoisyVotes(sigma=0.02, n=400, alpha=0.01), ImageWasserstein(radius=0.05, order=1)
    x = torch.rand(6, 1, 5, 5)
    weight = torch.randn(25)

    def model(z: Tensor) -> Tensor:
        out = z.flatten(1) @ weight
        return torch.stack((out, -out), 1)

    y = model(x).argmax(1)
    noise_std = method.noise(torch.ones(1, 1, 5, 5) / 25, 20_000).flatten(2).matmul(weight).std()

    def share(z: Tensor) -> Tensor:
        out = (z / z.sum((1, 2, 3), keepdim=True)).flatten(1) @ weight
        return torch.special.ndtr(torch.where(y == 0, out, -out).double() / noise_std)

    found = method(model, x, y, ball)
    assert found.mean <= float(share(x).mean()) + 1e-3
    assert found.lower is not None
    assert bool((found.lower <= share(x)).all())
    for radius in (0.02, 0.1, 0.3):
        z = ball.with_radius(radius).sample(x, torch.Generator().manual_seed(1))
        spent = float(image_distance(x, z).mean())
        assert float(share(z).mean()) >= float(found.curve(1, [spent])[0])
    falling = found.curve(1, [0.0, 0.01, 0.1])
    assert falling.tolist() == sorted(falling.tolist(), reverse=True)
    assert found.accuracy == pytest.approx(float(found.curve(1, [0.05])[0]))


def test_bound_of_the_mean_covers_votes_that_are_not_alike() -> None:
    """Exact law of the sum of unlike votes: the bound exceeds the mean with probability at most alpha."""
    alpha, rng = 0.05, np.random.default_rng(0)
    for p in (rng.uniform(0, 1, 12), np.r_[0.9, np.zeros(11)], np.r_[np.ones(9), 0.3, 0.3, 0.3], np.full(12, 0.02)):
        law = np.ones(1)
        for one in p:
            law = np.convolve(law, [1 - one, one])
        k = torch.arange(13)
        lower = torch.minimum(clopper_pearson(k, 12, alpha), (k - 1).clamp_min(0) / 12)
        assert law[(lower > p.mean() + 1e-12).numpy()].sum() <= alpha
        assert binom.pmf(np.arange(13), 12, p.mean())[(lower > p.mean()).numpy()].sum() <= alpha


def test_refusals_and_ends() -> None:
    with pytest.raises(InputError, match="alpha"):
        NoisyVotes(alpha=0.6)
    with pytest.raises(ThreatError, match="image-space"):
        NoisyVotes()(lambda z: z.flatten(1)[:, :2], torch.rand(2, 1, 3, 3), torch.zeros(2).long(), threat("L2@0.1"))
    assert best_bound(0.9, None, 100.0, 0.01, 1) == 0
    assert best_bound(0.9, torch.tensor([0.95, 0.9]).double(), 0.0, 0.01, 1) == pytest.approx(0.925)
