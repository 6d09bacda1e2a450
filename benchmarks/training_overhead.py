"""CPU time (one thread) of a training step over that of the bare passes it made: what the crafting, weights and duals cost.

python benchmarks/training_overhead.py --data path/to/mnist.npz --model mnist-cnn --steps 10

Passes are counted by a hook and timed bare in the same process at the same batch size, of three kinds: forward alone,
forward and backward to the input (crafting), forward and backward to the parameters (the outer loss).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

import wassertight.training.loop as loop
from wassertight.data import load_data
from wassertight.models import new_model
from wassertight.threats import threat
from wassertight.training import Settings, make_objective, train

OBJECTIVES = ("standard", "pgd", "trades", "mart", "udr-trades", "armor-kl-trades", "w-dro", "knapsack", "trades+awp")


def bare(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
    """Seconds of a pass of each kind over the batch."""

    def forward() -> None:
        with torch.no_grad():
            model(x)

    def crafting() -> None:
        z = x.detach().requires_grad_(True)
        torch.autograd.grad(functional.cross_entropy(model(z), y), z)

    def outer() -> None:
        functional.cross_entropy(model(x), y).backward()
        model.zero_grad()

    seconds = {}
    for work in (forward, crafting, outer):
        begun = time.process_time()
        for _ in range(3):
            work()
        seconds[work.__name__] = (time.process_time() - begun) / 3
    return seconds


class Kinds:
    """Counts samples by the kind of pass: without gradient, with gradient of the input, with gradient of the parameters."""

    def __init__(self, model: nn.Module) -> None:
        self.samples = dict.fromkeys(("forward", "crafting", "outer"), 0)
        model.register_forward_pre_hook(self._count)

    def _count(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        kind = "forward" if not torch.is_grad_enabled() else "crafting" if inputs[0].requires_grad else "outer"
        self.samples[kind] += len(inputs[0])


def main() -> None:
    """Print a table line an objective."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default="mnist-cnn")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=10, help="of the inner attack")
    parser.add_argument("--batches", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=2, help="the last one is measured")
    parser.add_argument("--record", type=Path, help="a .json file to write the rows to")
    parser.add_argument("--objectives", nargs="+", default=OBJECTIVES)
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = load_data(given.data, split="train", n=given.batches * given.batch_size)
    print("| objective | passes an image | step, ms | bare passes, ms | ratio |")
    print("|---" * 5 + "|")
    records = []
    for name in given.objectives:
        model = new_model(given.model).model
        assert isinstance(model, nn.Module)
        ball = threat("W2-Linf@0.1") if name.startswith(("w-dro", "knapsack")) else threat("Linf@0.1")
        objective = make_objective(name, ball, {} if name == "standard" else {"steps": given.steps})
        kinds, rows = (
            Kinds(model),
            Steps(new_model(given.model).model, data.x[: given.batch_size], data.y[: given.batch_size]),
        )
        settings = Settings(epochs=given.epochs, batch_size=given.batch_size, optimiser="adam", rate=1e-3)
        loop._SHOW_SECONDS = -1.0
        train(
            model, (data.x, data.y), objective, settings, device="cpu",
            progress=lambda text, done, total, rows=rows, kinds=kinds: rows.take(kinds),
        )  # fmt: skip
        steps = rows.found[-given.batches :]
        step, floor = sum(s for s, _, _ in steps), sum(f for _, f, _ in steps)
        spent = sum(n for _, _, n in steps) / len(steps) / given.batch_size
        count = len(steps) / 1e3
        print(f"| {name} | {spent:.1f} | {step / count:.0f} | {floor / count:.0f} | {step / floor:.2f} |", flush=True)
        records.append(
            {
                "objective": name,
                "passes": spent,
                "step ms": step / count,
                "bare ms": floor / count,
                "ratio": step / floor,
            }
        )
    if given.record:
        given.record.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


class Steps:
    """CPU seconds of every step beside those of its passes done bare right after it, and samples passed."""

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        self.model, self.x, self.y = model, x, y
        self.found: list[tuple[float, float, int]] = []
        self.before = dict.fromkeys(("forward", "crafting", "outer"), 0)
        self.stamp = time.process_time()

    def take(self, kinds: Kinds) -> None:
        """Called after every step."""
        seconds = time.process_time() - self.stamp
        spent = {kind: count - self.before[kind] for kind, count in kinds.samples.items()}
        self.before = dict(kinds.samples)
        floor = bare(self.model, self.x, self.y)
        bottom = sum(floor[kind] * count / len(self.x) for kind, count in spent.items())
        self.found.append((seconds, bottom, sum(spent.values())))
        self.stamp = time.process_time()


if __name__ == "__main__":
    main()
