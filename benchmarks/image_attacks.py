"""Image-space Wasserstein attacks on published networks: strength, time at equal strength, speed against a dense version.

python benchmarks/image_attacks.py strength|speed|distances|smoothed   (needs ../shared; results in records/image_attacks.json)
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wassertight.attacks import DualProjection, FrankWolfe, SinkhornPGD, SmoothedFrankWolfe, TransportDistance
from wassertight.attacks.image.climbing import Flips
from wassertight.attacks.image.frank_wolfe import PlanWalk
from wassertight.losses import cross_entropy
from wassertight.models import load_model
from wassertight.queries import ModelQueries
from wassertight.threats import ImageWasserstein
from wassertight.transport.flow_noise import LaplaceFlow

DATA = Path(__file__).parents[2] / "shared" / "data"
RECORD = Path(__file__).parent / "records" / "image_attacks.json"
NETWORKS = ("vanilla", "wasserstein_adv_wong", "wasserstein_adv_hu", "binarize")
REFERENCE = {
    ("vanilla", "free"): (26, 0, 0), ("vanilla", "capped"): (38, 0, 0),
    ("wasserstein_adv_wong", "free"): (1, 0, 0), ("wasserstein_adv_wong", "capped"): (2, 1, 0),
    ("wasserstein_adv_hu", "free"): (79, 57, 40), ("wasserstein_adv_hu", "capped"): (80, 58, 41),
}  # fmt: skip
RADII = (0.1, 0.3, 0.5)


def digits(n: int = 100) -> tuple[Tensor, Tensor]:
    """Test images 0, 100, ..., 9900."""
    with np.load(DATA / "mnist.npz") as data:
        x = torch.from_numpy(data["x_test"][::100, :, :, 0]).float()[:, None] / 255
        return x[:n], torch.from_numpy(data["y_test"][::100].astype(np.int64))[:n]


def network(name: str) -> Any:
    """A published network."""
    return load_model(f"{DATA / 'manifest.json'}#mnist_small_{name}").model


def note(part: str, rows: list[dict[str, Any]]) -> None:
    """Replace one part of the record."""
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    record[part] = rows
    RECORD.write_text(json.dumps(record, indent=1) + "\n")


def strength(*names: str) -> None:
    """Audited accuracy (%) after 80 steps, free and capped; without and with the overdrawn second run."""
    known = json.loads(RECORD.read_text()).get("strength", []) if RECORD.exists() else []
    x, y = digits()
    for name in names or NETWORKS:
        known = [row for row in known if row["network"] != name]
        for cap in (None, 1.0):
            for radius, expected in zip(
                RADII, REFERENCE.get((name, "capped" if cap else "free"), (None,) * 3), strict=True
            ):
                row: dict[str, Any] = {"network": name, "set": "capped" if cap else "free", "radius": radius}
                for label, overdraw in (("one run", 1.0), ("default", 1.1)):
                    found = FrankWolfe(overdraw=overdraw)(network(name), x, y, ImageWasserstein(radius=radius, cap=cap))
                    row |= {"clean": round(100 * found.clean_accuracy), label: round(100 * found.accuracy)}
                    row |= {"largest distance": round(found.spent, 6), f"seconds, {label}": round(found.seconds, 1)}
                row["reference"] = expected
                known.append(row)
                print(row, flush=True)
                note("strength", known)


class Dense:
    """Frank-Wolfe as one would write it: V x V plans, bisection over all targets; the free set."""

    def __init__(self, x: Tensor, radius: float, window: int = 5) -> None:
        _, _, h, w = x.shape
        grid = torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"), -1).view(-1, 2).float()
        step = (grid[:, None] - grid[None]).abs()
        self.cost = step.square().sum(-1).sqrt()
        self.cost[step.amax(-1) > window // 2] = torch.inf
        self.finite = self.cost.nan_to_num(posinf=0.0)
        self.x, self.shape, self.time = x.flatten(1), x.shape, 0
        self.plan = torch.diag_embed(self.x)
        self.budget = radius * self.x.sum(1)

    def point(self) -> Tensor:
        return self.plan.sum(1).view(self.shape)

    def step(self, g: Tensor) -> None:
        low, high = torch.zeros(len(g)), 2 * torch.ones(len(g))
        for _ in range(25):
            middle = (low + high) / 2
            spent = (self.x * self.finite.expand(len(g), -1, -1).gather(2, self._best(g, middle)).squeeze(2)).sum(1)
            low, high = torch.where(spent > self.budget, middle, low), torch.where(spent > self.budget, high, middle)
        target = torch.zeros_like(self.plan).scatter_(2, self._best(g, high), self.x[:, :, None])
        self.plan += 2 / (self.time + 2) * (target - self.plan)
        self.time += 1

    def _best(self, g: Tensor, multiplier: Tensor) -> Tensor:
        return (g.flatten(1)[:, None, :] - multiplier[:, None, None] * self.cost).argmax(2, keepdim=True)


def speed() -> None:
    """Image-steps per second of ours and of the dense version on the same images; methods' time to equal strength."""
    x, y = digits(20)
    model, rows = network("vanilla"), []
    with ModelQueries(model) as queries:
        for cap in (None, 1.0):
            ours = PlanWalk(x, ImageWasserstein(radius=0.1, cap=cap), torch.full((20,), 0.1))
            rows.append(
                {
                    "implementation": "ours, " + ("capped" if cap else "free"),
                    "image-steps/s": rate(queries, ours, x, y, 20),
                }
            )
        rows.append(
            {"implementation": "dense, free", "image-steps/s": rate(queries, Dense(x[:10], 0.1), x[:10], y[:10], 2)}
        )
    print(rows, flush=True)
    note("speed", rows)
    ball = ImageWasserstein(radius=0.1)
    rows = []
    for method, label in (
        (FrankWolfe, "frank-wolfe"),
        (DualProjection, "dual-projection"),
        (SinkhornPGD, "sinkhorn-pgd"),
    ):
        for steps in (5, 10, 20, 40, 80):
            options: dict[str, Any] = {"overdraw": 1.0} if method is FrankWolfe else {}
            begun = time.perf_counter()
            found = flips(method(steps=steps, **options), model, x, y, ball)
            rows.append(
                {"method": label, "steps": steps, "survivors": found, "seconds": round(time.perf_counter() - begun, 2)}
            )
            print(rows[-1], flush=True)
            note("equal strength", rows)
            if rows[-1]["seconds"] > 60:
                break


def flips(method: Any, model: Any, x: Tensor, y: Tensor, ball: ImageWasserstein) -> int:
    """Images that survive a search, without the audit's time."""
    with ModelQueries(model) as queries:
        right = (queries.logits(x).argmax(1) == y).nonzero().squeeze(1)
        state = Flips(x[right], y[right])
        method._search(queries, state, ball, torch.Generator())
        return int((~state.found).sum())


def rate(queries: ModelQueries, walk: Any, x: Tensor, y: Tensor, steps: int) -> float:
    """Image-steps a second, gradient included, no image leaving."""
    begun = time.perf_counter()
    for _ in range(steps):
        _, _, g = queries.gradient(walk.point(), y, cross_entropy)
        walk.step(g / g.flatten(1).abs().amax(1)[:, None, None, None])
    return round(steps * len(x) / (time.perf_counter() - begun), 2)


def distances() -> None:
    """Least distances found, and the accuracy left under an average budget, by the knapsack."""
    x, y = digits(30)
    rows = []
    for name in ("vanilla", "wasserstein_adv_hu"):
        found = TransportDistance()(network(name), x, y, ImageWasserstein(radius=0.1, order=1.0))
        values = found.distances.values[found.distances.values > 0]
        curve = found.curve(1.0, [0.02, 0.05, 0.1, 0.2])
        row = {
            "network": name,
            "n": 30,
            "median distance": round(float(values.median()), 4),
            "seconds": round(found.seconds, 1),
        }
        row["accuracy at average 0.02, 0.05, 0.1, 0.2"] = [round(float(v), 4) for v in curve]
        row["accuracy at each 0.02, 0.05, 0.1, 0.2"] = [
            round(float(v), 4) for v in found.curve(float("inf"), [0.02, 0.05, 0.1, 0.2])
        ]
        rows.append(row)
        print(row, flush=True)
        note("distances", rows)


def smoothed(*sigmas: str) -> None:
    """Verdicts under Laplace flow noise on the authors' base networks."""
    x, y = digits(40)
    rows = []
    for sigma in sigmas or ("0.01",):
        for radius in (0.1, 0.2, 0.3):
            attack = SmoothedFrankWolfe(
                noise=LaplaceFlow(sigma=float(sigma)), steps=25, draws=24, screen=200, confirm=2000
            )
            found = attack(network(f"wasserstein_smooth_base_{sigma}"), x, y, ImageWasserstein(radius=radius))
            shares = {"correct": found.correct, "wrong": found.wrong, "abstained": found.abstained}
            rows.append({"sigma": float(sigma), "radius": radius, **{k: round(100 * v, 1) for k, v in shares.items()}})
            rows[-1] |= {
                "clean correct": round(100 * float((found.clean == 1).double().mean()), 1),
                "seconds": round(found.seconds),
            }
            print(rows[-1], flush=True)
            note("smoothed", rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    tasks = {"strength": strength, "speed": speed, "distances": distances, "smoothed": smoothed}
    if len(sys.argv) < 2 or sys.argv[1] not in tasks:
        sys.exit(__doc__)
    tasks[sys.argv[1]](*sys.argv[2:])
