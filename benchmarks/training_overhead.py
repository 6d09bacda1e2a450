"""Wall time of a training step over the time of the bare passes it made: what the crafting, weights and duals cost.

python benchmarks/training_overhead.py --data path/to/mnist.npz --model mnist-cnn --steps 10

Passes are counted by a hook and timed bare in the same process at the same batch size, of three kinds: forward alone,
forward and backward to the input (crafting), forward and backward to the parameters (the outer loss).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from wassertight.data import load_data
from wassertight.models import new_model
from wassertight.threats import threat
from wassertight.training import Settings, make_objective, train

OBJECTIVES = ("standard", "pgd", "trades", "mart", "udr-trades", "armor-kl-trades", "w-dro", "knapsack", "trades+awp")


def bare(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
    """Median seconds of a pass of each kind over the batch."""

    def forward() -> None:
        with torch.no_grad():
            model(x)

    def crafting() -> None:
        z = x.detach().requires_grad_(True)
        torch.autograd.grad(functional.cross_entropy(model(z), y), z)

    def outer() -> None:
        functional.cross_entropy(model(x), y).backward()
        model.zero_grad()

    return {work.__name__: timed(work) for work in (forward, crafting, outer)}


def timed(work: Callable[[], None], repeats: int = 15) -> float:
    """Median seconds of a call."""
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


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
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--objectives", nargs="+", default=OBJECTIVES)
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = load_data(given.data, split="train", n=given.batches * given.batch_size)
    print("| objective | passes an image | step, ms | bare passes, ms | ratio |")
    print("|---" * 5 + "|")
    for name in given.objectives:
        model = new_model(given.model).model
        assert isinstance(model, nn.Module)
        ball = threat("W2-Linf@0.1") if name in ("w-dro", "knapsack") else threat("Linf@0.1")
        objective = make_objective(name, ball, {} if name == "standard" else {"steps": given.steps})
        stamps: list[float] = []
        kinds = Kinds(model)
        counts: list[dict[str, int]] = []

        def watch(
            text: str, done: int, total: int, stamps: list[float] = stamps, counts: list[dict[str, int]] = counts,
            kinds: Kinds = kinds,
        ) -> None:  # fmt: skip
            stamps.append(time.perf_counter())
            counts.append(dict(kinds.samples))

        import wassertight.training.loop as loop

        loop._SHOW_SECONDS = -1.0
        settings = Settings(epochs=1, batch_size=given.batch_size, optimiser="adam", rate=1e-3)
        floor = bare(model.train(), data.x[: given.batch_size], data.y[: given.batch_size])
        train(model, (data.x, data.y), objective, settings, device="cpu", progress=watch)
        again = bare(model.train(), data.x[: given.batch_size], data.y[: given.batch_size])
        floor = {kind: (floor[kind] + again[kind]) / 2 for kind in floor}
        steps = [
            (later - earlier, {kind: after[kind] - before[kind] for kind in after})
            for earlier, later, before, after in zip(stamps, stamps[1:], counts, counts[1:], strict=False)
        ]
        ratios = [
            seconds / sum(floor[kind] * count / given.batch_size for kind, count in spent.items())
            for seconds, spent in steps
        ]
        seconds = statistics.median(seconds for seconds, _ in steps)
        spent = sum(sum(c.values()) for _, c in steps) / len(steps) / given.batch_size
        ratio = statistics.median(ratios)
        print(f"| {name} | {spent:.1f} | {1e3 * seconds:.0f} | {1e3 * seconds / ratio:.0f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
