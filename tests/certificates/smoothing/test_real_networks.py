"""Published base networks: the published radii again, and ours from the same networks without retraining."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from wassertight.certificates import DeterministicFlowSmoothing, GaussianFlowSmoothing, LaplaceFlowSmoothing
from wassertight.data import load_data
from wassertight.models import load_model
from wassertight.threats import threat

BALL = threat("image-W1@0.01")
# sigma: published, tight Laplace, equal weights, optimal weights, light of each pixel (medians, Euclid), error of sampling
TARGETS = {0.005: (0.0101, 0.0186, 0.0205, 0.0238, 0.0283), 0.01: (0.0135, 0.0236, 0.0315, 0.0376, 0.0505)}


def images(shared: Path, step: int) -> tuple[Tensor, Tensor]:
    data = load_data(str(shared / "mnist.npz"), n=None)
    return data.x[::step], data.y[::step]


def network(shared: Path, sigma: float) -> torch.nn.Module:
    model = load_model(f"{shared}/manifest.json#mnist_small_wasserstein_smooth_base_{sigma:g}").model
    assert isinstance(model, torch.nn.Module)
    return model


def test_twice_the_published_radius_from_few_draws(shared: Path) -> None:
    (x, y), model = images(shared, 1000), network(shared, 0.01)
    few = {"sigma": 0.01, "n0": 100, "n": 1000, "alpha": 0.05}
    published = LaplaceFlowSmoothing(tight=False, **few)(model, x, y, BALL)
    ours = GaussianFlowSmoothing(mass_limits=False, **few)(model, x, y, BALL)
    assert float(ours.radii.values.median()) >= 2 * float(published.radii.values.median())
    exact = DeterministicFlowSmoothing()(model, x, y, BALL)
    assert float(exact.radii.values.median()) > 0.003


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [0.005, 0.01])
def test_medians_of_the_published_networks(shared: Path, sigma: float) -> None:
    (x, y), model = images(shared, 100), network(shared, sigma)
    draws = {"sigma": sigma, "n0": 1000, "n": 10_000, "alpha": 0.05}
    methods = (
        LaplaceFlowSmoothing(tight=False, **draws), LaplaceFlowSmoothing(**draws),
        GaussianFlowSmoothing(weighted=False, mass_limits=False, **draws),
        GaussianFlowSmoothing(mass_limits=False, **draws), GaussianFlowSmoothing(**draws),
    )  # fmt: skip
    polls = {type(method.noise).__name__ + str(getattr(method, "weighted", "")): method for method in methods}
    votes = {key: method.poll(model, x, y, batch_size=500) for key, method in polls.items()}
    medians = []
    for method in methods:
        poll = votes[type(method.noise).__name__ + str(getattr(method, "weighted", ""))]
        medians.append(float(method.judge(poll, x, y, BALL).radii.values.median()))
    assert medians == pytest.approx(TARGETS[sigma], abs=0.002)
    assert medians[3] >= 2 * medians[0]
