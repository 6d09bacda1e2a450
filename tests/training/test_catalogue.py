"""Names of objectives: every one builds and trains a step; settings find their owner; errors teach."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from wassertight.threats import threat
from wassertight.training import (
    ARMOR,
    Context,
    Settings,
    find_objective,
    make_objective,
    objective_entries,
    perturb_once,
)
from wassertight.training.catalogue import Entry
from wassertight.training.finetuning import reset_last_layer
from wassertight.types import InputError, ModelError

WRAPPERS = {"awp": "trades+awp", "weight-noise": "standard+weight-noise", "shuffled": "armor-kl-pgd+shuffled"}


@pytest.mark.parametrize("entry", objective_entries(), ids=lambda e: e.name)
def test_every_objective_takes_a_step(entry: Entry) -> None:
    name = WRAPPERS.get(entry.name, entry.name)
    text = "W2-L2@0.2" if 2 in entry.norms and len(entry.norms) == 1 else "W2-Linf@0.1"
    text = "Linf@0.1" if find_objective(name).orders == "p = inf" else text
    objective = make_objective(name, threat(text))
    assert entry.description
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    x, y, context = torch.rand(6, 1, 4, 4), torch.arange(6) % 3, Context()
    objective.prepare(model, x, y, context)
    crafted = objective.craft(model, x, y, context)
    outer = objective.outer(model, crafted, context)
    outer.loss.backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters())
    assert any(bool((p.grad != 0).any()) for p in model.parameters())
    assert outer.each.shape == (6,)
    if entry.name != "noise":
        assert bool((crafted.z >= 0).all() and (crafted.z <= 1).all())
    for value in objective.update(crafted, outer, context).values():
        assert torch.isfinite(torch.as_tensor(float(value)))


def test_settings_find_their_owner() -> None:
    built = make_objective(
        "armor-kl-udr-mart+awp", threat("Linf@0.1"), {"eps": 0.3, "price": 2.0, "beta": 7, "gamma": 0.01}
    )
    armor = built.base
    assert isinstance(armor, ARMOR)
    assert (built.gamma, armor.eps, armor.base.price, armor.base.base.beta) == (0.01, 0.3, 2.0, 7)
    assert make_objective("armor-kl-mart", threat("Linf@0.1")).base.inner == "full"
    dual = make_objective("knapsack-trades", threat("W2-Linf@0.1"), {"beta": 2.0, "base.beta": 3.0, "base.steps": 5})
    assert (dual.beta, dual.steps, dual.base.beta, dual.base.steps) == (2.0, 10, 3.0, 5)
    assert (dual.threat.p, dual.base.threat) == (2.0, threat("Linf@0.1"))
    assert make_objective("fgsm-rs", threat("Linf@0.1")).step == pytest.approx(0.125)


def test_errors_teach() -> None:
    with pytest.raises(InputError, match="did you mean 'trades'"):
        find_objective("trade")
    with pytest.raises(InputError, match="it has: beta"):
        make_objective("trades", threat("Linf@0.1"), {"betta": 1})
    with pytest.raises(InputError, match=r"has no setting 'x'.* base\.beta"):
        make_objective("knapsack-trades", threat("W2-Linf@0.1"), {"x": 1})
    with pytest.raises(InputError, match="needs a threat"):
        make_objective("trades")
    with pytest.raises(InputError, match=r"unknown wrapper \+swa"):
        make_objective("trades+swa", threat("Linf@0.1"))
    with pytest.raises(InputError, match="armor-"):
        make_objective("trades+shuffled", threat("Linf@0.1"))


def test_beginnings_of_finetuning() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    before = [p.detach().clone() for p in model.parameters()]
    perturb_once(model, 0.05, seed=3)
    moved = [float(((p - q).norm() / q.norm()).detach()) for p, q in zip(model.parameters(), before, strict=True)]
    assert moved == pytest.approx([0.05, 0.0, 0.05, 0.0], abs=1e-6)
    state = torch.get_rng_state()
    assert reset_last_layer(model, seed=1) == "2"
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(model[0].bias, before[1])
    assert not torch.equal(model[2].bias, before[3])
    with pytest.raises(ModelError, match="no linear"):
        reset_last_layer(nn.ReLU())


def test_rates() -> None:
    steps = Settings(epochs=10, rate=1.0, schedule="steps", milestones=(5, 8))
    assert [steps.rate_at(step, 1) for step in (0, 4, 5, 7, 8)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    cosine = Settings(epochs=4, rate=1.0, schedule="cosine")
    rates = [cosine.rate_at(step, 5) for step in range(20)]
    assert rates == sorted(rates, reverse=True)
    assert sum(rates) / 20 == pytest.approx(0.5)
