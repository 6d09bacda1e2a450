"""Limits of every objective: where one method becomes another, or a closed form."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from wassertight.threats import WassersteinBall, threat
from wassertight.training import (
    ARMOR,
    MART,
    TRADES,
    UDR,
    WDRO,
    WRM,
    AdversarialWeights,
    Context,
    Knapsack,
    NoiseTraining,
    PGDTraining,
    RandomWeights,
    Standard,
    make_objective,
)
from wassertight.training.base import divergence
from wassertight.training.objectives.armor import solve_price
from wassertight.training.objectives.mart import boosted
from wassertight.training.objectives.wdro import batch_radius, rectified
from wassertight.training.objectives.weight_perturbation import layers
from wassertight.transport.divergences import divergence_named
from wassertight.transport.joint import allocate_jointly
from wassertight.types import InputError, ThreatError

Batch = tuple[Tensor, Tensor]
BALL = threat("Linf@0.1")


def gradient(loss: Tensor, net: nn.Module) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()))])


@pytest.mark.parametrize(
    "objective",
    [
        PGDTraining(threat=threat("Linf@0")),
        PGDTraining(threat=threat("W2-L2@0")),
        UDR(base=PGDTraining(threat=threat("Linf@0")), price=math.inf),
        WRM(threat=threat("W2-L2@0.1"), gamma=math.inf),
        TRADES(threat=threat("L2@0")),
        TRADES(threat=BALL, beta=0.0),
        NoiseTraining(sigma=0.0),
        RandomWeights(base=Standard(), gamma=0.0),
        AdversarialWeights(base=Standard(), gamma=0.0),
    ],
    ids=lambda o: f"{o.name}",
)
def test_nothing_moves(objective: Any, net: nn.Module, batch: Batch) -> None:
    clean = functional.cross_entropy(net(batch[0]), batch[1])
    assert objective(net, *batch).item() == pytest.approx(clean.item(), abs=1e-12)


def test_mart_at_rest_is_boosted(net: nn.Module, batch: Batch) -> None:
    loss = MART(threat=threat("Linf@0"))(net, *batch)
    assert loss.item() == pytest.approx(boosted(net(batch[0]), batch[1]).mean().item(), abs=1e-12)
    prob = net(batch[0]).softmax(1)
    other = prob.scatter(1, batch[1][:, None], 0).amax(1)
    by_hand = -prob.gather(1, batch[1][:, None])[:, 0].log() - (1.0001 - other + 1e-12).log()
    assert torch.allclose(boosted(net(batch[0]), batch[1]), by_hand)


def test_one_step_of_the_radius_is_fgsm(net: nn.Module, batch: Batch) -> None:
    x, y = batch
    z = x.clone().requires_grad_(True)
    (g,) = torch.autograd.grad(functional.cross_entropy(net(z), y, reduction="sum"), z)
    moved = PGDTraining(threat=BALL, steps=1, step=0.1, start="zero").craft(net, x, y, Context()).z
    assert torch.equal(moved, (x + 0.1 * g.sign()).clamp(0, 1))


def test_divergence_has_no_slope_at_rest(net: nn.Module, batch: Batch) -> None:
    z = batch[0].clone().requires_grad_(True)
    (g,) = torch.autograd.grad(divergence(net(batch[0]).detach(), net(z)).sum(), z)
    assert float(g.abs().max()) < 1e-12
    with pytest.raises(InputError, match="never moves"):
        TRADES(threat=BALL, start="zero")


@pytest.mark.parametrize("name", ["pgd", "trades", "mart", "udr-trades", "wrm"])
@pytest.mark.parametrize("divergence_name", ["KL", "alpha6", "renyi1.25"])
@pytest.mark.parametrize("natural", [0.0, 0.5])
def test_armor_without_budget_is_its_base(
    name: str, divergence_name: str, natural: float, net: nn.Module, batch: Batch
) -> None:
    ball = threat("W2-L2@0.2") if name == "wrm" else BALL
    base = make_objective(name, ball, {"inner": "full"} if name == "mart" else {"steps": 5})
    armor = ARMOR(base=base, eps=0.0, divergence=divergence_name, natural=natural)
    crafted = base.craft(net, *batch, Context())
    if name in ("udr-trades", "wrm"):  # without budget paid moves are not made
        paid = crafted.notes["cost"] > 0
        crafted.z = torch.where(paid.view(-1, 1, 1, 1), batch[0], crafted.z)
        plain = base.harm(net, crafted, Context()).loss
        found = armor.outer(net, base.craft(net, *batch, Context()), Context()).loss
    else:
        plain = base.outer(net, crafted, Context()).loss
        found = armor(net, *batch)
    expected = natural * functional.cross_entropy(net(batch[0]), batch[1]) + (1 - natural) * plain
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)
    assert torch.allclose(gradient(found, net), gradient(expected, net), atol=1e-9)


def test_saturated_armor_sees_the_worst_sample(net: nn.Module, batch: Batch) -> None:
    base = TRADES(threat=BALL)
    armor = ARMOR(base=base, eps=50.0)
    each = base.outer(net, base.craft(net, *batch, Context()), Context()).each
    assert torch.allclose(gradient(armor(net, *batch), net), gradient(each.max(), net))


@pytest.mark.parametrize("divergence_name", ["KL", "alpha2", "renyi1.25"])
def test_armor_gradient_is_that_of_the_solved_value(divergence_name: str, net: nn.Module, batch: Batch) -> None:
    base = PGDTraining(threat=BALL, steps=3)
    armor = ARMOR(base=base, eps=0.1, divergence=divergence_name)
    z = base.craft(net, *batch, Context())
    slope = gradient(armor.outer(net, z, Context()).loss, net)
    direction = torch.randn(len(slope), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = []
    for step in (1e-5, -1e-5):
        shifted = _moved(net, step * direction)
        each = base.outer(shifted, z, Context()).each
        values.append(divergence_named(divergence_name).worst_weights(each, 0.1).value.item())
    assert float(slope @ direction) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5)


def test_armor_with_equal_losses_has_equal_weights(batch: Batch) -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(6, 4)).double()
    for p in flat.parameters():
        nn.init.zeros_(p)
    armor, context = ARMOR(base=PGDTraining(threat=BALL), eps=0.3), Context()
    crafted = armor.craft(flat, *batch, context)
    armor.outer(flat, crafted, context)
    assert torch.equal(crafted.weights, torch.ones(12, dtype=torch.float64))


def test_armor_without_reweighting_is_its_priced_base(net: nn.Module, batch: Batch) -> None:
    soft = UDR(base=TRADES(threat=BALL), price=2.0)
    wrm = WRM(threat=threat("W2-L2@0.2"), gamma=0.7)
    for base in (soft, wrm):
        a = ARMOR(base=base, weights="uniform")(net, *batch)
        assert torch.allclose(gradient(a, net), gradient(base(net, *batch), net))
        assert a.item() == pytest.approx(base(net, *batch).item(), rel=1e-12)


@pytest.mark.parametrize("name", ["KL", "alpha2", "renyi1.25"])
def test_the_price_is_that_of_the_exact_allocation(name: str) -> None:
    generator, found = torch.Generator().manual_seed(0), divergence_named(name)
    stay = torch.rand(30, generator=generator, dtype=torch.float64)
    move, cost = stay + torch.rand(30, generator=generator).double(), torch.rand(30, generator=generator).double()
    table = torch.stack((stay, move), 1), torch.stack((torch.zeros_like(cost), cost), 1)
    exact = allocate_jointly(*table, 0.1, found)
    density, moved, price = solve_price(stay, move, cost, 0.1, found, 1.0)
    value = float((density * torch.where(moved > 0, move, stay)).mean())
    spent = float(found.value(density)) + float((density * cost * moved).mean())
    assert spent <= 0.1
    assert price == pytest.approx(exact.price, rel=1e-3)
    assert exact.value * 0.98 <= value <= exact.value * (1 + 1e-12)  # the split sample's share is what is missing


@pytest.mark.parametrize("settings", [{"price": math.inf}, {"dual": "reference"}])
@pytest.mark.parametrize("ball", ["Linf@0.1", "L2@0.3"])
def test_udr_with_a_hard_edge_is_pgd(settings: dict[str, Any], ball: str, net: nn.Module, batch: Batch) -> None:
    base = PGDTraining(threat=threat(ball), steps=7)
    hard, soft = base.craft(net, *batch, Context()), UDR(base=base, **settings).craft(net, *batch, Context())
    assert torch.allclose(hard.z, soft.z, atol=1e-14)


def test_udr_overshoots_by_softness_over_price(batch: Batch) -> None:
    line = nn.Sequential(nn.Flatten(), nn.Linear(6, 4)).double()
    x, y = torch.full((3, 1, 2, 3), 0.5, dtype=torch.float64), batch[1][:3]
    soft = UDR(base=PGDTraining(threat=threat("Linf@0.1"), steps=200, step=0.02), price=2.0, overshoot=0.05)
    z = soft.craft(line, x, y, Context()).z
    assert torch.allclose((z - x).abs(), torch.full_like(x, 0.15), atol=1e-9)


def test_wrm_on_a_linear_loss() -> None:
    g = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)

    class Steep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.g = nn.Parameter(g)

        def forward(self, z: Tensor) -> Tensor:  # CE of class 0 is log(1 + exp(s)) = s in float64
            s = 60 + z @ self.g
            return torch.stack((torch.zeros_like(s), s), 1)

    x, y = torch.full((2, 3), 0.5, dtype=torch.float64), torch.zeros(2, dtype=torch.int64)
    wrm = WRM(threat=threat("W2-L2@0.1"), gamma=0.8)
    model, context = Steep(), Context()
    crafted = wrm.craft(model, x, y, context)
    assert torch.allclose(crafted.z - x, (g / 1.6).expand(2, 3), atol=1e-9)
    value = wrm.outer(model, crafted, context).loss.item()
    assert value == pytest.approx(float(60 + 0.5 * g.sum() + g @ g / 3.2), rel=1e-12)


def test_wdro_at_infinity_is_trades(net: nn.Module, batch: Batch) -> None:
    ball = WassersteinBall(radius=0.1, p=math.inf, r=math.inf)
    wdro = WDRO(threat=ball, inner="kl", robust="kl", beta=2.0, steps=10, factor=2.5)
    assert wdro(net, *batch).item() == pytest.approx(TRADES(threat=BALL, beta=2.0)(net, *batch).item(), rel=1e-12)


@pytest.mark.parametrize(("r", "p"), [(math.inf, 2.0), (2.0, 2.0), (2.0, 4.0)])
def test_one_step_of_wdro_is_the_closed_form(r: float, p: float, net: nn.Module, batch: Batch) -> None:
    x, y = batch
    wdro = WDRO(threat=WassersteinBall(radius=0.02, p=p, r=r), steps=1, factor=1.0, noise=0.0)
    context, q, s = Context(), p / (p - 1), 1.0 if math.isinf(r) else 2.0
    z = x.clone().requires_grad_(True)
    (g,) = torch.autograd.grad(rectified(net(z), y, 0.0).sum(), z)
    size = torch.linalg.vector_norm(g.flatten(1), ord=s, dim=1)
    population = 0.7 * float((size**q).mean())
    context.put("sensitivity", population)
    crafted = wdro.craft(net, x, y, context)
    unit = g.sign() if math.isinf(r) else g / size.clamp_min(1e-300).view(-1, 1, 1, 1)
    expected = 0.02 * unit * (size / population ** (1 / q)).pow(q - 1).view(-1, 1, 1, 1)
    assert torch.allclose(crafted.z - x, expected, atol=1e-12)
    spent = (torch.linalg.vector_norm((crafted.z - x).flatten(1), ord=r, dim=1) ** p).mean() ** (1 / p)
    assert float(spent) == pytest.approx(float(crafted.notes["radius"][0]), rel=1e-9)


@pytest.mark.parametrize("p", [1.5, 2.0, 4.0])
def test_batch_radii_average_to_the_radius(p: float) -> None:
    q, sizes = p / (p - 1), torch.rand(60, dtype=torch.float64) + 0.5
    parts = (sizes**q).split([7, 20, 33])
    whole = float((sizes**q).mean())
    mean = sum(len(part) * batch_radius(0.1, float(part.mean()), whole, p) ** p for part in parts) / 60
    assert mean == pytest.approx(0.1**p, rel=1e-12)


def test_adversarial_weights(net: nn.Module, batch: Batch) -> None:
    before = [p.detach().clone() for p in net.parameters()]
    awp, context = AdversarialWeights(base=TRADES(threat=BALL), gamma=0.02), Context()
    crafted = awp.craft(net, *batch, context)
    offsets = awp.offsets(net, crafted, context)
    for name, weight in layers(net).items():
        assert (offsets[name].norm() / weight.norm()).item() == pytest.approx(0.02, rel=1e-9)
    outer = awp.outer(net, crafted, context)
    assert outer.loss.item() > awp.base.outer(net, crafted, context).loss.item()
    slope = gradient(outer.loss, net)
    with torch.no_grad():
        for name, weight in layers(net).items():
            weight += offsets[name]
    assert torch.allclose(slope, gradient(awp.base.outer(net, crafted, context).loss, net), atol=1e-12)
    with torch.no_grad():
        for p, old in zip(net.parameters(), before, strict=True):
            p.copy_(old)
    awp(net, *batch).backward()
    assert all(torch.equal(p, old) for p, old in zip(net.parameters(), before, strict=True))


def test_ascent_of_weights_leaves_running_statistics_alone(batch: Batch) -> None:
    x, y = batch
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(6, 4)).double().train()
    awp = AdversarialWeights(base=Standard(), gamma=0.01)
    awp.offsets(model, awp.craft(model, x, y, Context()), Context())
    assert int(model[1].num_batches_tracked) == 0
    awp(model, x, y)
    assert int(model[1].num_batches_tracked) == 1


def test_noise_keeps_light_and_is_fresh_for_every_image() -> None:
    x = torch.rand(4, 3, 6, 6, dtype=torch.float64)
    x[1] = x[0]
    y = torch.zeros(4, dtype=torch.int64)
    for law in ("laplace-flow", "gaussian-flow"):
        z = NoiseTraining(sigma=0.01, law=law).craft(nn.Flatten(), x, y, Context()).z
        assert torch.allclose(z.sum((2, 3)), x.sum((2, 3)), rtol=1e-6)
        assert not torch.allclose(z[0], z[1])
        shared = NoiseTraining(sigma=0.01, law=law, noise="shared").craft(nn.Flatten(), x, y, Context()).z
        assert torch.allclose(shared[0], shared[1])
        assert not torch.allclose(shared[0], x[0])


def test_shuffled_weights_keep_their_histogram(net: nn.Module, batch: Batch) -> None:
    found = {}
    for weights in ("worst", "shuffled"):
        armor, context = ARMOR(base=PGDTraining(threat=BALL), eps=0.2, weights=weights), Context()
        crafted = armor.craft(net, *batch, context)
        loss = armor.outer(net, crafted, context).loss
        assert crafted.weights is not None
        found[weights] = (crafted.weights.sort().values, loss.item())
    assert torch.allclose(found["worst"][0], found["shuffled"][0])
    assert float(found["worst"][0].mean()) == pytest.approx(1.0)
    assert found["worst"][1] > found["shuffled"][1]


def test_threats_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ThreatError, match="W_1 does not have"):
        TRADES(threat=threat("W1-Linf@0.1"))
    with pytest.raises(ThreatError, match="no gradient at p = inf"):
        Knapsack(threat=BALL)
    with pytest.raises(ThreatError, match="W2-L2"):
        WRM(threat=threat("W2-Linf@0.1"))
    with pytest.raises(ThreatError, match="pointwise"):
        ARMOR(base=TRADES(threat=threat("W2-Linf@0.1")))
    with pytest.raises(ThreatError, match="softens"):
        UDR(base=TRADES(threat=threat("W2-Linf@0.1")))


def _moved(net: nn.Module, shift: Tensor) -> nn.Module:
    import copy

    other, at = copy.deepcopy(net), 0
    with torch.no_grad():
        for p in other.parameters():
            p += shift[at : at + p.numel()].view_as(p)
            at += p.numel()
    return other
