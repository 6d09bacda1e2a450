"""Attacks that move light: inside their ball, exact on linear models, silent where nothing can move."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from wassertight.attacks import (
    PGD,
    DualProjection,
    FrankWolfe,
    MinimumNorm,
    SinkhornPGD,
    SmoothedFrankWolfe,
    TransportDistance,
)  # fmt: skip
from wassertight.attacks.image.frank_wolfe import PlanWalk
from wassertight.certificates import LinearPropagation, LossBound
from wassertight.evaluation import benchmark
from wassertight.models import load_model
from wassertight.threats import ImageWasserstein, threat
from wassertight.transport.exact import image_distance
from wassertight.types import Status, ThreatError

METHODS = [
    FrankWolfe(steps=15), FrankWolfe(steps=15, mode="reference"), FrankWolfe(steps=10, loss="margin", restarts=2),
    FrankWolfe(steps=10, targets=2), DualProjection(steps=15), DualProjection(steps=15, mode="reference"),
    SinkhornPGD(steps=10, rounds=20), SinkhornPGD(steps=10, rounds=20, rule="sign", rate=0.1),
]  # fmt: skip
TRANSPORT_DISTANCE = TransportDistance(attack=FrankWolfe(steps=8, overdraw=1.0), rounds=4, first=0.2)


def network(channels: int = 1, size: int = 8) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(6 * size * size, 4)
    ).requires_grad_(False)


def problem(n: int = 12, channels: int = 1) -> tuple[nn.Module, Tensor, Tensor]:
    """Images with white, dark and grey pixels, and the network's own answers, two of them wrong."""
    model = network(channels)
    x = (1.5 * torch.rand(n, channels, 8, 8) - 0.3).clamp(0, 1)
    y = model(x).argmax(1)
    y[:2] = (y[:2] + 1) % 4
    return model, x, y


@pytest.mark.parametrize("method", [*METHODS, TRANSPORT_DISTANCE], ids=repr)
@pytest.mark.parametrize("text", ["image-W1@0.3", "image-W1-free@0.3", "image-W2-L1-k3@0.4"])
def test_every_flip_is_a_moved_image_inside_the_ball(method: FrankWolfe, text: str) -> None:
    model, x, y = problem(8, channels=2)
    ball = threat(text)
    found = method(model, x, y, ball)
    moved = (found.points != x).flatten(1).any(1)
    z = found.points[moved]
    assert found.audit.ok
    assert bool((found.distances.values[:2] == 0).all())
    assert found.accuracy <= found.clean_accuracy
    if not len(z):
        return
    x = x[moved]
    light = x.double().sum((1, 2, 3))
    assert float(((z.double().sum((2, 3)) - x.double().sum((2, 3))).abs().amax(1) / light).max()) < 1e-6
    assert float(z.min()) >= 0
    if isinstance(ball, ImageWasserstein) and ball.cap is not None:
        assert float(z.max()) <= ball.cap
    assert bool((model(z).argmax(1) != y[moved]).all())
    distance = image_distance(x, z, p=ball.p, r=ball.r)
    assert torch.allclose(distance, found.distances.values[moved])
    if method is not TRANSPORT_DISTANCE:
        assert float(distance.max()) <= ball.radius * (1 + 1e-6)


@pytest.mark.parametrize("method", [FrankWolfe(), DualProjection(steps=60, rate=0.5)], ids=repr)
def test_linear_models_are_flipped_where_the_oracle_says(method: FrankWolfe) -> None:
    """A linear margin's worst case over the free ball is the oracle's value: just inside it flips, just outside not."""
    x = torch.rand(1, 1, 6, 6, dtype=torch.float64)
    weight = torch.randn(36, dtype=torch.float64)
    lift = ImageWasserstein(radius=0.2, cap=None).linear_oracle(weight.view_as(x), x)
    height = float((weight.view_as(x) * lift).sum())
    for shift, accuracy in ((-0.02, 0.0), (0.005, 1.0)):
        model = nn.Sequential(nn.Flatten(), nn.Linear(36, 2)).double()
        with torch.no_grad():
            model[1].weight.copy_(torch.stack((-weight, weight)) / 2)
            model[1].bias.copy_(torch.tensor([height + shift, -height - shift]) / 2)
        got = method(model, x, torch.tensor([0]), ImageWasserstein(radius=0.2, cap=None))
        assert got.clean_accuracy == 1
        assert got.accuracy == accuracy


def test_distance_is_the_radius_at_which_the_oracle_flips() -> None:
    x = torch.rand(2, 1, 6, 6, dtype=torch.float64)
    weight = torch.randn(1, 1, 6, 6, dtype=torch.float64)
    ball = ImageWasserstein(radius=0.15, cap=None)
    gain = (weight * (ball.linear_oracle(weight.expand_as(x), x) - x)).sum((1, 2, 3))
    for i in range(2):
        model = nn.Sequential(nn.Flatten(), nn.Linear(36, 2)).double()
        offset = float((weight * x[i]).sum() + gain[i])
        with torch.no_grad():
            model[1].weight.copy_(torch.cat((-weight.flatten()[None], weight.flatten()[None])) / 2)
            model[1].bias.copy_(torch.tensor([offset, -offset]) / 2)
        found = TransportDistance(attack=FrankWolfe(steps=12, overdraw=1.0), rounds=10)(
            model, x[i : i + 1], torch.tensor([0]), ball
        )
        assert float(found.distances.values) == pytest.approx(0.15, rel=0.02)


@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 10**6), radius=st.floats(0.01, 2.0), cap=st.sampled_from([None, 1.0]))
def test_random_members_of_the_set_are_members(seed: int, radius: float, cap: float | None) -> None:
    torch.manual_seed(seed)
    x = (1.5 * torch.rand(2, 1, 6, 6) - 0.3).clamp(0, 1)
    ball = ImageWasserstein(radius=radius, cap=cap)
    z = ball.sample(x, torch.Generator().manual_seed(seed))
    assert bool((ball.cost(z, x) <= radius * (1 + 1e-5)).all())
    near = ball.project(x + 0.3 * torch.randn_like(x), x)
    assert bool((ball.cost(near, x) <= radius * (1 + 1e-5)).all())


def test_nothing_moves_where_nothing_can() -> None:
    model, x, y = problem()
    for method in (*METHODS, TRANSPORT_DISTANCE):
        assert method(model, x, y, ImageWasserstein(radius=0.0)).accuracy == pytest.approx(10 / 12)
    for method in (FrankWolfe(steps=5, overdraw=1.0), DualProjection(steps=5), SinkhornPGD(steps=5, rounds=10)):
        for image in (torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)):
            found = method(model, image, model(image).argmax(1), ImageWasserstein(radius=0.5))
            assert found.accuracy == 1
            assert bool(torch.isfinite(found.points).all())
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    nn.init.zeros_(flat[1].weight)
    found = FrankWolfe()(flat, x, flat(x).argmax(1), ImageWasserstein(radius=0.5))
    assert found.status is Status.STAGNATED
    assert found.accuracy == 1


def test_results_do_not_depend_on_the_batch() -> None:
    model, x, y = problem()
    ball = ImageWasserstein(radius=0.2)
    whole = FrankWolfe(steps=20)(model, x, y, ball)
    parts = FrankWolfe(steps=20)(model, x, y, ball, batch_size=5)
    assert torch.equal(torch.isfinite(whole.distances.values), torch.isfinite(parts.distances.values))
    assert torch.allclose(whole.points, parts.points, atol=1e-4)


def test_a_goal_is_reached_or_nothing() -> None:
    model, x, y = problem()
    goal = int(model(x)[2:].topk(2, dim=1).indices[0, 1])
    found = FrankWolfe(goal=goal)(model, x, y, ImageWasserstein(radius=2.0))
    moved = (found.points != x).flatten(1).any(1)
    assert bool(moved.any())
    assert bool((model(found.points[moved]).argmax(1) == goal).all())


def test_balls_of_norms_and_moving_light_are_kept_apart() -> None:
    model, x, y = problem()
    light, ball = threat("image-W1@0.1"), threat("L2@0.1")
    with pytest.raises(ThreatError, match="moves light"):
        FrankWolfe()(model, x, y, ball)
    for method in (MinimumNorm(), PGD()):
        with pytest.raises(ThreatError, match=r"FrankWolfe|frank-wolfe"):
            method(model, x, y, light)
    for certificate in (LinearPropagation(), LossBound(loss="cross-entropy")):
        with pytest.raises(ThreatError, match="balls of a norm"):
            certificate(model, x, y, light)


def test_the_run_has_the_defaults_of_images_and_a_knapsack() -> None:
    model, x, y = problem(6)
    report = benchmark(model, (x, y), ["image-W1@0.05,0.2"], progress=False, attack_options={"steps": 15})
    assert report.ok
    assert report.record.methods == {"attack": "frank-wolfe", "certificate": None}
    assert report.certified is None
    assert report.results[1].attacked <= report.results[0].attacked <= report.clean
    average = benchmark(model, (x, y), "W1-image-W1@0.05", progress=False, attack_options={"rounds": 3, "first": 0.1})
    assert average.ok
    assert average.record.methods["attack"] == "frank-wolfe-distance"
    assert average.attacked <= report.results[0].attacked + 1e-9
    assert average.results[0].spent <= 0.05 * (1 + 1e-9)


def test_smoothed_classifier_verdicts() -> None:
    """A linear base under symmetric noise is its own smoothed classifier: flips agree with the plain attack's."""
    torch.manual_seed(3)
    x = torch.rand(8, 1, 6, 6)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 2, bias=False))
    y = model(x).argmax(1)

    def noise(z: Tensor, draws: int = 1, generator: torch.Generator | None = None) -> Tensor:
        return z + 0.01 * torch.randn((draws, *z.shape), generator=generator)

    attack = SmoothedFrankWolfe(noise=noise, steps=20, draws=8, screen=100, confirm=2000)
    for radius in (0.0, 0.3):
        ball = ImageWasserstein(radius=radius, cap=None)
        found = attack(model, x, y, ball)
        assert found.correct + found.wrong + found.abstained == pytest.approx(1)
        assert bool((found.distances <= radius * (1 + 1e-6)).all())
        plain = FrankWolfe(steps=20)(model, x, y, ball)
        sure = (plain.distances.values > 0) & torch.isfinite(plain.distances.values)
        assert bool((found.verdict[~sure] >= 0).all())
        assert found.wrong == pytest.approx(float(sure.double().mean()), abs=0.25)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "expected"), [
    ("vanilla", {0.1: 38, 0.3: 0, 0.5: 0}), ("wasserstein_adv_wong", {0.1: 2, 0.3: 1, 0.5: 0}),
    ("wasserstein_adv_hu", {0.1: 80, 0.3: 58, 0.5: 41}),
])  # fmt: skip
def test_as_strong_as_the_reference_table(shared: Path, name: str, expected: dict[float, int]) -> None:
    model = load_model(f"{shared / 'manifest.json'}#mnist_small_{name}").model
    with np.load(shared / "mnist.npz") as data:
        x = torch.from_numpy(data["x_test"][::100, :, :, 0]).float()[:, None] / 255
        y = torch.from_numpy(data["y_test"][::100].astype(np.int64))
    for radius, accuracy in expected.items():
        found = FrankWolfe()(model, x, y, ImageWasserstein(radius=radius))
        assert 100 * found.accuracy <= accuracy + 1


@pytest.mark.parametrize("radius", [0.0005, 0.004])
def test_rounding_of_many_pixels_leaves_no_small_ball(radius: float) -> None:
    """Three channels of 32 x 32 float32 pixels: plans use the whole radius, exact distances stay within it."""
    x = torch.rand(2, 3, 32, 32)
    ball = ImageWasserstein(radius=radius)
    walk = PlanWalk(x, ball, torch.full((2,), radius, dtype=torch.float64))
    for _ in range(4):
        walk.step(torch.randn_like(x))
        assert bool((ball.cost(walk.point(), x) <= radius).all())
