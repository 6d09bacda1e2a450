"""Threat strings, oracles and the audit."""

from __future__ import annotations

import math

import pytest
import torch

from wassertight.threats import ImageWasserstein, PointwiseBall, WassersteinBall, audit_measure, parse, threat
from wassertight.transport import DiscreteMeasure
from wassertight.types import ThreatError


@pytest.mark.parametrize(
    ("text", "p", "r", "radius"),
    [
        ("Linf@8/255", math.inf, math.inf, 8 / 255), ("Winf-Linf@8/255", math.inf, math.inf, 8 / 255),
        ("W1-Linf@8/255", 1, math.inf, 8 / 255), ("w2-l2@0.5", 2, 2, 0.5), ("W1.5-L1@3e-1", 1.5, 1, 0.3), ("L2@0", math.inf, 2, 0),
    ],
)  # fmt: skip
def test_strings(text: str, p: float, r: float, radius: float) -> None:
    ball = threat(text)
    assert (ball.p, ball.r, ball.radius) == (p, r, radius)


@pytest.mark.parametrize(
    ("text", "name", "cap", "order"),
    [
        ("image-W1@0.1", "image-W1@0.1", 1.0, math.inf), ("IMAGE-w1-l1-FREE@1/10", "image-W1-L1-free@0.1", None, math.inf),
        ("W1-image-W2-k7-cap2@0.3", "W1-image-W2-k7-cap2@0.3", 2.0, 1.0), ("Winf-image-W1@0", "image-W1@0", 1.0, math.inf),
    ],
)  # fmt: skip
def test_image_strings(text: str, name: str, cap: float | None, order: float) -> None:
    ball = threat(text)
    assert isinstance(ball, ImageWasserstein)
    assert (ball.name, ball.cap, ball.order) == (name, cap, order)
    assert threat(ball.name) == ball
    assert len(parse("image-W1@0.1,0.2,0.3")) == 3


@pytest.mark.parametrize(
    "settings",
    [
        {"radius": -1.0},
        {"window": 4},
        {"window": 1},
        {"p": 0.5},
        {"p": math.inf},
        {"cap": 0.0},
        {"r": 0.5},
        {"order": 0.0},
    ],
)
def test_image_threats_that_make_no_sense(settings: dict[str, float]) -> None:
    with pytest.raises(ThreatError, match="must be"):
        ImageWasserstein(**{"radius": 0.1, **settings})  # type: ignore[arg-type]


def test_image_cost_knows_cap_and_channels() -> None:
    x = torch.rand(2, 3, 5, 5) / 2
    ball = ImageWasserstein(radius=0.1)
    shifted = x.roll(1, 3)
    shifted[..., 0] = 0
    shifted[..., -1] += x[..., -1]
    assert bool((ball.cost(shifted, x) < 1).all())
    assert torch.allclose(ball.cost(shifted, x), ball.cost(x, shifted))
    brighter = x.clone()
    brighter[:, :, 0, 0], brighter[:, :, 1, 1] = x[:, :, 0, 0] + x[:, :, 1, 1], 0
    small = ImageWasserstein(radius=0.1, cap=float(x.max()))
    assert bool((small.cost(brighter, x)[brighter.flatten(1).amax(1) > x.max()] == math.inf).all())
    assert bool((ball.cost(x.flip(1), x) == math.inf).all())


def test_same_ball_for_both_pointwise_names() -> None:
    assert threat("Winf-Linf@8/255") == threat("Linf@8/255")


def test_several_radii() -> None:
    assert [ball.radius for ball in parse("W1-Linf@1/255,2/255,0.1")] == [1 / 255, 2 / 255, 0.1]
    with pytest.raises(ThreatError, match="2 radii"):
        threat("Linf@1,2")


@pytest.mark.parametrize(
    "text", ["W1Linf@8/255", "Linf", "L3x@1", "", "W1-Linf@a", "Linf@1/0", "Linf@-1", "W0.5-L2@1", "Linf@nan"]
)
def test_unknown_strings_teach(text: str) -> None:
    with pytest.raises(ThreatError, match=r"did you mean|not a number|>= 0|>= 1|radius"):
        parse(text)


@pytest.mark.parametrize("p", [1.5, 2.0, 4.0])
@pytest.mark.parametrize("r", [1.0, 2.0, math.inf])
def test_first_order_step_spends_exactly_the_unit(p: float, r: float) -> None:
    ball, g, x = (
        WassersteinBall(radius=1, p=p, r=r, bounds=None),
        torch.randn(30, 7, dtype=torch.float64),
        torch.zeros(30, 7, dtype=torch.float64),
    )
    assert ball.spent(x + ball.steepest(g), x) == pytest.approx(1)
    assert torch.isfinite(ball.steepest(torch.zeros_like(g))).all()


def test_pointwise_limit_is_fgsm_bit_for_bit() -> None:
    g = torch.randn(5, 3)
    assert torch.equal(WassersteinBall(radius=1, p=math.inf, r=math.inf).steepest(g), g.sign())


def test_w1_steepest_points_to_wda() -> None:
    with pytest.raises(ThreatError, match=r"wda\+\+"):
        WassersteinBall(radius=1, p=1, r=2).steepest(torch.ones(2, 2))


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 4.0, math.inf])
@pytest.mark.parametrize("r", [2.0, math.inf])
@pytest.mark.parametrize("projection", ["scaling", "euclidean"])
def test_projection_is_feasible_and_idempotent(p: float, r: float, projection: str) -> None:
    if projection == "euclidean" and r != 2 and math.isfinite(p):
        with pytest.raises(ThreatError, match="L2 only"):
            WassersteinBall(radius=0.3, p=p, r=r, projection="euclidean")
        return
    ball = WassersteinBall(radius=0.3, p=p, r=r, bounds=None, projection=projection)  # type: ignore[arg-type]
    x = torch.zeros(20, 5, dtype=torch.float64)
    z = ball.project(torch.randn(20, 5, dtype=torch.float64), x)
    assert ball.spent(z, x) <= 0.3 * (1 + 1e-9)
    assert torch.allclose(ball.project(z, x), z, atol=1e-9)


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 4.0])
def test_euclidean_projection_is_optimal(p: float) -> None:
    ball = WassersteinBall(radius=0.3, p=p, r=2, bounds=None, projection="euclidean")
    x, d = torch.zeros(12, 4, dtype=torch.float64), torch.randn(12, 4, dtype=torch.float64)
    z = ball.project(d, x)
    for seed in range(200):
        other = torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        other = other * (0.3 / ball.spent(other, x))
        assert float(((d - z) * (other - z)).sum()) <= 1e-6


@pytest.mark.parametrize("ball", [PointwiseBall(radius=0.2, r=1.0), WassersteinBall(radius=0.2, p=2, r=2)])
def test_samples_lie_in_ball_and_box(ball: PointwiseBall | WassersteinBall) -> None:
    x = torch.rand(50, 6)
    z = ball.sample(x, torch.Generator().manual_seed(0))
    assert float(ball.cost(z, x).max()) <= 0.2 + 1e-6
    assert float(z.min()) >= 0
    assert float(z.max()) <= 1


class TestAudit:
    x = torch.tensor([[0.2, 0.8], [0.6, 0.4]], dtype=torch.float64)
    y = torch.tensor([1, 0])
    ball = WassersteinBall(radius=0.1, p=1, r=math.inf)
    model = torch.nn.Identity()

    def _law(self, atoms: list[list[float]], weights: list[float], sources: list[int]) -> DiscreteMeasure:
        return DiscreteMeasure(
            atoms=torch.tensor(atoms, dtype=torch.float64), weights=torch.tensor(weights, dtype=torch.float64),
            sources=torch.tensor(sources),
        )  # fmt: skip

    def test_accepts_the_optimum(self) -> None:
        law = self._law([[0.2, 0.8], [0.49999999, 0.50000001]], [0.5, 0.5], [0, 1])
        report = audit_measure(self.model, self.x, self.y, self.ball, law)
        assert report.ok
        assert report.accuracy == 0.5
        assert report.spent == pytest.approx(0.05, abs=1e-6)

    @pytest.mark.parametrize(
        ("atoms", "weights", "sources", "reason"),
        [
            ([[0.2, 0.8], [0.6, 0.4], [0.6, 0.4]], [0.5, 0.5, 0.5], [0, 1, 1], "mass"),
            ([[0.2, 0.8]], [1.0], [0], "mass"),
            ([[0.2, 0.8], [0.6, 1 + 2.3e-16]], [0.5, 0.5], [0, 1], "box"),
            ([[0.2, 0.8], [math.nan, 0.4]], [0.5, 0.5], [0, 1], "finite"),
            ([[0.2, 0.8], [0.3999998, 0.4]], [0.5, 0.5], [0, 1], "costs"),
            ([[0.2, 0.8], [0.6, 0.4], [0.6, 0.4]], [0.5, 0.6, -0.1], [0, 1, 1], "negative"),
            ([[0.2, 0.8], [0.6, 0.4]], [0.5, 0.5], [0, 2], "source"),
        ],
    )
    def test_rejects(self, atoms: list[list[float]], weights: list[float], sources: list[int], reason: str) -> None:
        report = audit_measure(self.model, self.x, self.y, self.ball, self._law(atoms, weights, sources))
        assert any(reason in violation for violation in report.violations)

    def test_nan_never_counts_as_success(self) -> None:
        law = DiscreteMeasure.empirical(self.x)
        report = audit_measure(lambda z: z * math.nan, self.x, self.y, self.ball, law)
        assert report.accuracy == 1.0
