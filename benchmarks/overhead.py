"""Wall time of MinimumNorm over the time of the bare forward and backward passes it made.

python benchmarks/overhead.py MANIFEST MNIST CIFAR --network cifar_cnn_a_adv mnist_mlpB_adv_0.1 --n 128

The bare passes are timed in the same process and at the same batch size: a pass with gradient is a forward, the margin
and `torch.autograd.grad` in the input; a forward pass alone is under `no_grad`.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import torch

from wassertight.attacks import MinimumNorm, Problem
from wassertight.data import load_data
from wassertight.losses import margin
from wassertight.models import load_model
from wassertight.queries import ModelQueries
from wassertight.threats import PointwiseBall


def bare(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, size: int, forward: int, backward: int) -> float:
    """Seconds for so many forward and backward passes (samples), measured over a part of them and scaled."""
    seconds = []
    for gradient in (True, False):
        begun, done = time.perf_counter(), 0
        while done < 20 * size:
            part = slice(done % len(x), done % len(x) + size)
            z = x[part].detach().requires_grad_(gradient)
            if gradient:
                torch.autograd.grad(margin(model(z), y[part]).sum(), z)
            else:
                with torch.no_grad():
                    model(z)
            done += len(z)
        seconds.append((time.perf_counter() - begun) / done)
    return seconds[0] * backward + seconds[1] * max(0, forward - backward)


def main() -> None:
    """Print a table line a network, norm and budget."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs=3)
    parser.add_argument("--network", nargs="+", required=True)
    parser.add_argument("--n", type=int, default=128)
    parser.add_argument("--record", type=Path, help="a .json file to write the rows to")
    parser.add_argument("--passes", type=int, nargs="+", default=[200, 2000])
    given = parser.parse_args()
    manifest, mnist, cifar = given.files
    print("| network, norm | passes | attack, s | bare passes, s | ratio |")
    print("|---" * 5 + "|")
    rows = []
    for network in given.network:
        model = load_model(f"{manifest}#{network}").model
        data = load_data(mnist if network.startswith("mnist") else cifar, n=given.n)
        for r in (math.inf, 2.0, 1.0):
            for passes in given.passes:
                with ModelQueries(model, batch_size=None) as queries:
                    problem = Problem(queries=queries, x=data.x, y=data.y, threat=PointwiseBall(radius=1.0, r=r))
                    begun = time.perf_counter()
                    MinimumNorm(passes=passes).find(problem)
                    seconds = time.perf_counter() - begun
                    spent = queries.passes
                    right = int((queries.logits(data.x).argmax(1) == data.y).sum())
                    floor = bare(model, data.x, data.y, right, spent.forward, spent.backward)
                label = "Linf" if math.isinf(r) else f"L{r:g}"
                print(
                    f"| {network}, {label} | {passes} | {seconds:.2f} | {floor:.2f} | {seconds / floor:.2f} |",
                    flush=True,
                )
                rows.append(
                    {
                        "case": f"{network}, {label}",
                        "passes": passes,
                        "attack": seconds,
                        "bare": floor,
                        "ratio": seconds / floor,
                    }
                )
    if given.record:
        given.record.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
