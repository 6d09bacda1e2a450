"""The loop: resuming to the bit, kills, divergence, averaging, early stops, what is written."""

from __future__ import annotations

import csv
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wassertight.data import load_data
from wassertight.threats import threat
from wassertight.training import (
    Context,
    Crafted,
    Knapsack,
    Objective,
    Outer,
    PGDTraining,
    Settings,
    Standard,
    cheap_attack,
    make_objective,
    train,
)
from wassertight.training.batches import Batches, crop_flip, held_out
from wassertight.types import InputError, ModelError, RunDirectoryError, TrainingError

FAST = {"batch_size": 40, "optimiser": "adam", "rate": 1e-2, "weight_decay": 0.0}


def small(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 10)
    )


def digits(n: int = 200) -> tuple[Tensor, Tensor]:
    data = load_data("digits", split="train", n=n)
    return data.x, data.y


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten().double() for p in model.state_dict().values()])


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("name", ["trades", "udr-pgd", "w-dro", "knapsack", "armor-kl-udr-trades", "pgd+awp"])
def test_resumed_in_mid_epoch_is_the_uninterrupted_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ball = threat("W2-Linf@0.1") if name in ("w-dro", "knapsack") else threat("Linf@0.1")
    options: dict[str, Any] = {"steps": 2, **({"dual": "descent"} if name.startswith("udr") else {})}
    objective = make_objective(name, ball, options)
    settings = Settings(epochs=2, ema=0.9, checkpoint_seconds=0.0, **FAST)
    validate = cheap_attack(*digits(40), threat("Linf@0.1"), steps=1)
    whole = train(small(), digits(), objective, settings, validate=validate, device="cpu", progress=False)

    def stop(text: str, done: int, total: int) -> None:
        if done >= 8:  # of 10: three steps into the second epoch
            raise Interrupted

    monkeypatch.setattr("wassertight.training.loop._SHOW_SECONDS", -1.0)
    with pytest.raises(Interrupted):
        train(small(), digits(), objective, settings, validate=validate, device="cpu", run_dir=tmp_path, progress=stop)
    again = train(
        small(seed=9), digits(), objective, settings, validate=validate, device="cpu", run_dir=tmp_path, progress=False
    )
    assert torch.equal(weights(whole.model), weights(again.model))
    assert whole.history == again.history
    assert whole.passes == again.passes


SCRIPT = """
import sys, torch
sys.path.insert(0, {tests!r})
torch.set_num_threads(1)
from test_loop import small, digits, FAST
from wassertight.threats import threat
from wassertight.training import Settings, PGDTraining, train
objective = PGDTraining(threat=threat("Linf@0.1"), steps=3)
train(small(), digits(), objective, Settings(epochs=40, checkpoint_seconds=0.0, **FAST), device="cpu", run_dir={run!r},
      progress=False)
"""


@pytest.mark.slow
def test_killed_in_mid_epoch(tmp_path: Path) -> None:
    """kill -9 while checkpoints are written at every step; the same command again ends with the same weights."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        objective = PGDTraining(threat=threat("Linf@0.1"), steps=3)
        settings = Settings(epochs=40, checkpoint_seconds=0.0, **FAST)
        code = SCRIPT.format(tests=str(Path(__file__).parent), run=str(tmp_path / "run"))
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        child = subprocess.Popen([sys.executable, "-c", code], env=environment)
        deadline = time.monotonic() + 120
        file = tmp_path / "run" / "checkpoint.pt"
        while time.monotonic() < deadline:
            if file.exists() and torch.load(file, weights_only=True)["at"]["step"] >= 22:
                break
            time.sleep(0.02)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        assert 22 <= torch.load(file, weights_only=True)["at"]["step"] < 200
        again = train(small(), digits(), objective, settings, device="cpu", run_dir=tmp_path / "run", progress=False)
        whole = train(small(), digits(), objective, settings, device="cpu", progress=False)
        assert torch.equal(weights(whole.model), weights(again.model))
    finally:
        torch.set_num_threads(threads)


def test_a_finished_run_is_not_done_again(tmp_path: Path) -> None:
    settings = Settings(epochs=1, **FAST)
    first = train(small(), digits(), Standard(), settings, device="cpu", run_dir=tmp_path, progress=False)
    before = (tmp_path / "checkpoint.pt").stat().st_size
    again = train(small(seed=5), digits(), Standard(), settings, device="cpu", run_dir=tmp_path, progress=False)
    assert torch.equal(weights(first.model), weights(again.model))
    assert (tmp_path / "checkpoint.pt").stat().st_size == before
    with pytest.raises(RunDirectoryError, match="epochs"):
        train(small(), digits(), Standard(), Settings(epochs=2, **FAST), device="cpu", run_dir=tmp_path, progress=False)
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert len(rows) == 1
    assert float(rows[0]["loss"]) == pytest.approx(first.history[0]["loss"])


class Explodes(Objective):
    """Fails in a chosen way after five steps."""

    name = "explodes"

    def __init__(self, how: str) -> None:
        self.how = how

    def craft(self, model: nn.Module, x: Tensor, y: Tensor, context: Context) -> Crafted:
        return Crafted(x=x, y=y, z=x)

    def outer(self, model: nn.Module, crafted: Crafted, context: Context) -> Outer:
        each = nn.functional.cross_entropy(model(crafted.x), crafted.y, reduction="none")
        if context.step >= 5:
            factor = {"nan": math.nan, "grows": 1e6}.get(self.how, 1.0)
            each = each * factor
            if self.how == "gradient":
                each = each + (each - each.detach()).abs().sqrt()
        return Outer.mean(each)


@pytest.mark.parametrize(
    ("how", "message"),
    [("nan", "loss became nan.*lower the rate"), ("grows", "grew from"), ("gradient", "gradient became (nan|inf)")],
)
def test_divergence_stops_and_keeps_the_last_good_checkpoint(how: str, message: str, tmp_path: Path) -> None:
    model = small()
    settings = Settings(epochs=3, checkpoint_seconds=0.0, **FAST)
    with pytest.raises(TrainingError, match=message) as error:
        train(model, digits(), Explodes(how), settings, device="cpu", run_dir=tmp_path, progress=False)
    assert "checkpoint, of step 5" in str(error.value)
    kept = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert kept["at"]["step"] == 5
    assert all(bool(torch.isfinite(v).all()) for v in kept["model"].values() if v.is_floating_point())


def test_impossible_configurations() -> None:
    with pytest.raises(InputError, match="larger than the training set"):
        train(small(), digits(20), Standard(), Settings(batch_size=50), device="cpu", progress=False)
    with pytest.raises(InputError, match="patience"):
        train(small(), digits(), Standard(), Settings(patience=2), device="cpu", progress=False)
    with pytest.raises(ModelError, match="parameters"):
        train(nn.Flatten(), digits(), Standard(), device="cpu", progress=False)
    with pytest.raises(InputError, match="milestones"):
        Settings(schedule="steps")
    with pytest.raises(InputError, match="rate must be > 0"):
        Settings(rate=0.0)
    with pytest.raises(InputError, match="ema"):
        Settings(ema=1.5)


def test_early_stop_collapse_and_best_weights() -> None:
    scores = iter([0.5, 0.6, 0.4, 0.3, 0.2, 0.1])
    seen: list[Tensor] = []

    def validate(model: nn.Module) -> dict[str, float]:
        seen.append(weights(model))
        return {"score": next(scores)}

    settings = Settings(epochs=6, patience=1, collapse=0.9, **FAST)
    found = train(small(), digits(), Standard(), settings, validate=validate, device="cpu", progress=False)
    assert (found.ending, found.best_epoch, found.score) == ("stopped: no better score", 2, 0.6)
    assert torch.equal(weights(found.model), seen[1])
    scores = iter([0.5, 0.2])
    found = train(
        small(), digits(), Standard(), Settings(epochs=4, **FAST), validate=validate, device="cpu", progress=False
    )
    assert found.ending == "stopped: collapsed"
    assert "catastrophic" in found.notices[0]


def test_average_and_steps(tmp_path: Path) -> None:
    settings = Settings(epochs=1, ema=0.5, keep="last", steps=3, schedule="constant", **FAST)
    values: list[Tensor] = []

    class Recorded(Standard):
        def update(self, crafted: Crafted, outer: Outer, context: Context) -> dict[str, Any]:
            values.append(model[1].weight.detach().clone())
            return {}

    model = small()
    start = model[1].weight.detach().clone()
    train(model, digits(), Recorded(), settings, device="cpu", progress=False)
    average = start
    for value in values:
        average = average + 0.5 * (value - average)
    assert len(values) == 3
    assert torch.allclose(model[1].weight, average, atol=1e-7)


def test_random_state_and_bf16() -> None:
    model, state = small(), torch.get_rng_state()
    objective = PGDTraining(threat=threat("Linf@0.1"), steps=2)
    settings = Settings(epochs=1, precision="bf16", **FAST)
    found = train(model, digits(), objective, settings, device="cpu", progress=False)
    assert torch.equal(state, torch.get_rng_state())
    assert found.model(digits(3)[0]).dtype == torch.float32
    assert math.isfinite(found.history[-1]["loss"])
    plain = train(small(), digits(), objective, Settings(epochs=1, **FAST), device="cpu", progress=False)
    assert plain.history[-1]["loss"] == pytest.approx(found.history[-1]["loss"], rel=0.1)


def test_passes_are_counted() -> None:
    objective = PGDTraining(threat=threat("Linf@0.1"), steps=4)
    validate = cheap_attack(*digits(20), threat("Linf@0.1"))  # its passes are not the training's
    settings = Settings(epochs=2, **FAST)
    found = train(small(), digits(), objective, settings, validate=validate, device="cpu", progress=False)
    assert (found.passes.forward, found.passes.backward) == (200 * 2 * 5, 200 * 2 * 5)


def test_a_dataset_gives_the_same_run() -> None:
    x, y = digits()
    data = torch.utils.data.TensorDataset(x, y)
    runs = [
        train(small(), source, Knapsack(threat=threat("W2-Linf@0.1"), steps=2), Settings(epochs=1, **FAST), device="cpu",
              progress=False)
        for source in ((x, y), data)
    ]  # fmt: skip
    assert torch.equal(weights(runs[0].model), weights(runs[1].model))


def test_order_is_a_permutation_and_shares_are_disjoint() -> None:
    x, y = torch.arange(20.0)[:, None], torch.arange(20)
    batches = Batches(data=(x, y), size=6, seed=1)
    whole = torch.cat([part for _, part in batches.epoch(0, 0)])
    assert sorted(whole.tolist()) == list(range(20))
    assert torch.equal(torch.cat([part for _, part in batches.epoch(0, 2)]), whole[12:])
    assert not torch.equal(torch.cat([part for _, part in batches.epoch(1, 0)]), whole)
    halves = [torch.cat([part for _, part in batches.epoch(0, 0, rank, 2)]) for rank in (0, 1)]
    assert sorted(torch.cat(halves).tolist()) == sorted(whole[:18].tolist())


def test_crop_flip_moves_whole_images() -> None:
    x = torch.rand(50, 2, 8, 8)
    z = crop_flip(x, torch.Generator().manual_seed(0))
    padded = nn.functional.pad(x, (4, 4, 4, 4))
    for image, found in zip(padded, z, strict=True):
        crops = [image[:, i : i + 8, j : j + 8] for i in range(9) for j in range(9)]
        assert any(torch.equal(found, c) or torch.equal(found, c.flip(2)) for c in crops)


def test_held_out_samples_keep_the_shares_of_classes() -> None:
    y = torch.cat((torch.zeros(70), torch.ones(30))).long()[torch.randperm(100)]
    kept, apart = held_out(y, 10)
    assert sorted(torch.cat((kept, apart)).tolist()) == list(range(100))
    assert int(y[apart].sum()) == 3


def test_validation_attacks_are_upper_bounds_that_order_radii() -> None:
    x, y = digits(100)
    model = train(small(), digits(1000), Standard(), Settings(epochs=2, **FAST), device="cpu", progress=False).model
    clean = cheap_attack(x, y, None)(model)["score"]
    for form in ("Linf@{}", "W2-Linf@{}", "W1-L2@{}"):
        found = [cheap_attack(x, y, threat(form.format(radius)))(model)["score"] for radius in (0.02, 0.1)]
        assert clean >= found[0] >= found[1]
