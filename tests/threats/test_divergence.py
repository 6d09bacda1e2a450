"""Strings, prices and the audit of re-weighting threats."""

from __future__ import annotations

import math

import pytest
import torch

from wassertight.threats import DivergenceBall, PointwiseBall, WassersteinBall, audit_measure, parse, threat
from wassertight.transport import (
    KL,
    AlphaDivergence,
    DiscreteMeasure,
    FlipDistances,
    HardBall,
    PowerCost,
    Renyi,
    SoftBall,
)
from wassertight.types import InputError, ThreatError


@pytest.mark.parametrize(
    ("text", "divergence", "transport", "radius"),
    [
        ("KL+Linf@0.1,8/255", KL, HardBall(reach=8 / 255, r=math.inf), 0.1),
        ("kl+winf-linf@1e-2,0", KL, HardBall(reach=0, r=math.inf), 0.01),
        ("alpha2+L2@1/10,0.5", AlphaDivergence(order=2.0), HardBall(reach=0.5, r=2.0), 0.1),
        ("chi2+L1@0.1,3", AlphaDivergence(order=2.0), HardBall(reach=3, r=1.0), 0.1),
        ("alpha-1.5+L2@0.1,0.5", AlphaDivergence(order=-1.5), HardBall(reach=0.5, r=2.0), 0.1),
        ("renyi1.5+Linf@0.1,0.2", Renyi(order=1.5), HardBall(reach=0.2, r=math.inf), 0.1),
        ("revKL+W2-L2@0.1,0.5", AlphaDivergence(order=0.0), PowerCost(price=0.1 / 0.25, p=2, r=2.0), 0.1),
        ("KL+soft-Linf@0.1,0.2,0.01", KL, SoftBall(reach=0.2, tau=0.01), 0.1),
    ],
)
def test_strings(text: str, divergence: object, transport: object, radius: float) -> None:
    ball = threat(text)
    assert isinstance(ball, DivergenceBall)
    assert (ball.divergence, ball.transport, ball.radius) == (divergence, transport, radius)
    again = threat(ball.text)
    assert isinstance(again, DivergenceBall)
    assert again.text == ball.text


@pytest.mark.parametrize("order", [4 / 3, 1e-5, -1.2345678, 2.0, 1.0])
def test_text_keeps_every_digit(order: float) -> None:
    for divergence in (AlphaDivergence(order=order), Renyi(order=abs(order))):
        moves = (HardBall(reach=1 / 3, r=2.0), PowerCost(price=1.0, p=4 / 3, r=2.0))
        for ball in (DivergenceBall(radius=1 / 7, divergence=divergence, transport=move) for move in moves):
            again = threat(ball.text)
            assert isinstance(again, DivergenceBall)
            assert (again.divergence, again.radius) == (ball.divergence, ball.radius)
            assert (again.p, again.r) == (ball.p, ball.r)


def test_lists_are_unambiguous() -> None:
    found = [ball.name for ball in parse("KL+Linf@0.01:0.1,1/4:1/2")]
    assert found == ["KL+Linf@0.01,0.25", "KL+Linf@0.01,0.5", "KL+Linf@0.1,0.25", "KL+Linf@0.1,0.5"]


@pytest.mark.parametrize(
    "text",
    ["KL+Linf@0.1", "KL+Linf@0.1,0.2,0.3", "KL+@0.1,0.2", "jeffreys+Linf@0.1,0.2", "KL+W1-Linf@0,0.1", "KL+soft-L2@1,1,1",
     "soft-Linf@0.1", "KL+soft-Linf@0.1,0.2", "KL+Linf@-1,0.2", "KL+Linf@0.1,-0.2", "alpha+Linf@0.1,0.2", "renyi0+L2@1,1",
     "KL+Linf@nan,0.1"],
)  # fmt: skip
def test_bad_strings_teach(text: str) -> None:
    with pytest.raises(InputError, match=r"KL|did you mean|>=|allowed|order|finite"):
        parse(text)


def test_what_it_contains() -> None:
    assert threat("KL+Linf@0.1,0.2").contained == PointwiseBall(radius=0.2, r=math.inf)  # type: ignore[union-attr]
    ball = threat("KL+W2-L2@0.1,0.5")
    assert isinstance(ball, DivergenceBall)
    assert isinstance(ball.contained, WassersteinBall)
    assert ball.contained.radius == pytest.approx(0.5)
    for ask in (lambda: ball.steepest(torch.ones(1, 2)), lambda: ball.project(torch.ones(1, 2), torch.ones(1, 2))):
        with pytest.raises(ThreatError, match=r"wda\+\+"):
            ask()


def test_prices() -> None:
    x, z = (
        torch.zeros(3, 2, dtype=torch.float64),
        torch.tensor([[0.3, 0.4], [0.0, 0.1], [0.0, 0.0]], dtype=torch.float64),
    )
    assert HardBall(reach=0.4, r=2.0).cost(z, x).tolist() == [math.inf, 0, 0]
    assert PowerCost(price=2, p=2, r=2.0).cost(z, x).tolist() == pytest.approx([0.5, 0.02, 0])
    assert SoftBall(reach=0.1, tau=0.5).cost(z, x).tolist() == pytest.approx([0.04 + 0.09, 0, 0])
    d = torch.tensor([0.0, 0.1, 0.4, math.inf], dtype=torch.float64)
    assert HardBall(reach=0.1, r=2.0).least(d).tolist() == [0, 0, math.inf, math.inf]
    assert HardBall(reach=0.1, r=2.0).least(d, closed=True).tolist() == [0, math.inf, math.inf, math.inf]
    soft = SoftBall(reach=0.1, tau=0.5)
    for t in (0.05, 0.3):  # the cheapest point at that distance moves one coordinate
        points = torch.rand(500, 3, dtype=torch.float64) * 2 - 1
        points = points / points.abs().amax(1, keepdim=True) * t
        assert (
            float(soft.cost(points, torch.zeros_like(points)).min())
            >= float(soft.least(torch.tensor([t], dtype=torch.float64))) - 1e-9
        )


@pytest.mark.parametrize("cost", [PowerCost(price=0.7, p=2, r=2.0), PowerCost(price=0.7, p=1, r=2.0), SoftBall(reach=0.2, tau=0.3), HardBall(reach=0.3, r=2.0)])  # fmt: skip
def test_prox_is_optimal(cost: PowerCost | SoftBall | HardBall) -> None:
    d = torch.randn(6, 3, dtype=torch.float64)
    u, zero = cost.prox(d, 0.4), torch.zeros(6, 3, dtype=torch.float64)
    if isinstance(cost, HardBall):
        assert float(u.norm(dim=1).max()) <= 0.3 + 1e-12
        return

    def worth(v: torch.Tensor) -> torch.Tensor:
        return 0.4 * cost.cost(v, zero) + ((v - d) ** 2).sum(1) / 2

    for seed in range(200):
        v = u + 0.05 * torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        assert bool((worth(v) >= worth(u) - 1e-12).all())


class TestAudit:
    x = torch.tensor([[0.2, 0.8], [0.6, 0.4], [0.3, 0.7], [0.9, 0.1]], dtype=torch.float64)
    y = torch.tensor([1, 0, 0, 0])  # the third is wrong already
    model = torch.nn.Identity()

    def _report(self, ball: DivergenceBall, weights: list[float], atoms: torch.Tensor | None = None):  # type: ignore[no-untyped-def]
        law = DiscreteMeasure(
            atoms=self.x if atoms is None else atoms, weights=torch.tensor(weights, dtype=torch.float64),
            sources=torch.arange(len(self.x)),
        )  # fmt: skip
        return audit_measure(self.model, self.x, self.y, ball, law)

    def test_recomputes_both_parts(self) -> None:
        ball = DivergenceBall(radius=0.5, divergence=KL, transport=PowerCost(price=2, p=1, r=math.inf))
        atoms = self.x.clone()
        atoms[1] = torch.tensor([0.45, 0.55])
        report = self._report(ball, [0.2, 0.3, 0.4, 0.1], atoms)
        divergence = sum(m * math.log(4 * m) for m in (0.2, 0.3, 0.4, 0.1))
        assert report.ok
        assert report.accuracy == pytest.approx(0.3)
        assert report.parts == pytest.approx((divergence, 0.3 * 2 * 0.15))
        assert report.spent == pytest.approx(sum(report.parts))

    @pytest.mark.parametrize(
        "divergence", [KL, AlphaDivergence(order=2.0), AlphaDivergence(order=0.0), Renyi(order=1.5)]
    )
    def test_agrees_with_the_other_code(self, divergence: AlphaDivergence | Renyi) -> None:
        ball = DivergenceBall(radius=5.0, divergence=divergence, transport=HardBall(reach=0.1, r=2.0))
        for size in (1e-5, 0.05):
            w = [0.25 + size, 0.25 - 2 * size, 0.25, 0.25 + size]
            report = self._report(ball, w)
            assert report.parts[0] == pytest.approx(
                float(divergence.value(4 * torch.tensor(w, dtype=torch.float64))), rel=1e-9
            )

    def test_rejects(self) -> None:
        hard = DivergenceBall(radius=0.02, divergence=KL, transport=HardBall(reach=0.1, r=2.0))
        far = self.x.clone()
        far[0] = torch.tensor([0.5, 0.5])
        for weights, atoms, reason in [
            ([0.1, 0.3, 0.5, 0.1], None, "costs"),  # divergence above the radius
            ([0.25, 0.25, 0.25, 0.25], far, "costs"),  # a move beyond the reach
            ([0.25, 0.25, 0.25, 0.2], None, "total mass"),
            ([0.35, 0.25, 0.5, -0.1], None, "negative"),
        ]:
            report = self._report(hard, weights, atoms)
            assert any(reason in violation for violation in report.violations), weights
        reverse = DivergenceBall(radius=9.0, divergence=Renyi(order=1.5), transport=HardBall(reach=0.1, r=2.0))
        assert not self._report(reverse, [0.5, 0.25, 0.25, 0.0]).ok  # orders a <= 0 forbid losing all mass
        chi = DivergenceBall(radius=9.0, divergence=AlphaDivergence(order=2.0), transport=HardBall(reach=0.1, r=2.0))
        assert self._report(chi, [0.5, 0.25, 0.25, 0.0]).ok


def test_freedoms_are_ordered() -> None:
    ball = threat("KL+W1-Linf@0.05,0.05")
    assert isinstance(ball, DivergenceBall)
    d = torch.rand(60, dtype=torch.float64) * 0.3
    d[:5] = 0
    for known in (FlipDistances.attacked(d), FlipDistances.certified(d)):
        found = ball.decompose(known, ball.flip_costs(known))
        assert found.joint <= min(found.reweighting, found.transport) + 1e-9
        assert max(found.reweighting, found.transport) <= found.nominal + 1e-9
        assert found.transport == pytest.approx(known.accuracy(1, 0.05))
    soft = threat("KL+soft-Linf@0.1,0.2,0.01")
    assert isinstance(soft, DivergenceBall)
    with pytest.raises(ThreatError, match="points"):
        soft.flip_costs(FlipDistances.attacked(d))
