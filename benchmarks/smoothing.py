"""Certified image-Wasserstein radii on the base networks of 1910.10783's authors, without retraining.

python benchmarks/smoothing.py MANIFEST MNIST --out benchmarks/records/smoothing.json

Test images 0, 100, ..., 9900, n0 = 1000, n = 10000, alpha = 0.05 for each radius, as published. Per network: the published
certificate and the tight one from the same Laplace votes; Gaussian flow noise with equal and with optimal edge weights, and with
the light of each pixel, from Gaussian votes. "microseconds an image" are noisy images of one certification against the model
alone, in turns: wall time, and time of the main thread (noise is drawn by another one); the least of several turns.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wassertight.certificates.smoothing import (
    GaussianFlowSmoothing,
    LaplaceFlowSmoothing,
    SmoothedCertificate,
    Smoothing,
    Verdict,
)
from wassertight.certificates.smoothing.estimation import VoteBounds, count_votes
from wassertight.data import load_data
from wassertight.models import load_model
from wassertight.queries import ModelQueries
from wassertight.threats import threat
from wassertight.transport import FlipDistances

NETWORK = "mnist_small_wasserstein_smooth_base"
RADII = [0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05]
BATCH = 500
DRAWS: dict[str, Any] = {"n0": 1000, "n": 10_000, "alpha": 0.05}


def summary(found: SmoothedCertificate, radii: Tensor) -> dict[str, Any]:
    """Median over all images, abstentions and errors as 0; accuracy under a pointwise and an average budget."""
    distances = FlipDistances.certified(radii, found.radii.weights)
    return {
        "median": round(float(radii.median()), 5),
        "pointwise": [round(100 * float(v), 1) for v in distances.curve(float("inf"), RADII)],
        "average": [round(100 * float(v), 1) for v in distances.curve(1, RADII)],
    }


def rebound(method: Smoothing, found: SmoothedCertificate, x: Tensor, r: float) -> Tensor:
    """Radii of another rule from the same votes."""
    v = found.probability
    right = torch.tensor([verdict is Verdict.CERTIFIED for verdict in found.verdicts])
    return torch.where(right, method.bound(VoteBounds(lower=v, upper=1 - v), x, r), 0.0)


def cost(model: torch.nn.Module, method: Smoothing, x: Tensor, turns: int = 20) -> dict[str, Any]:
    """Microseconds a noisy image: the model alone, and the votes of one image under noise."""
    draws = BATCH * 10
    batch = x[:1].expand(BATCH, *x.shape[1:]).contiguous()
    found: dict[str, list[tuple[float, float]]] = {"model": [], "votes": []}
    with ModelQueries(model, batch_size=BATCH) as queries, torch.no_grad():
        for _ in range(turns):
            for name, work in (
                ("model", lambda: [model(batch) for _ in range(draws // BATCH)]),
                ("votes", lambda: count_votes(queries, method.noise, x[:1], draws, 10, BATCH)),
            ):
                wall, busy = time.perf_counter(), time.thread_time()
                work()
                found[name].append((time.perf_counter() - wall, time.thread_time() - busy))
    least = {name: [1e6 * min(column) / draws for column in zip(*rows, strict=True)] for name, rows in found.items()}
    rates = [alone / both for alone, both in zip(least["model"], least["votes"], strict=True)]
    return {name: [round(value, 1) for value in values] for name, values in least.items()} | {
        "rate [wall, main thread]": [round(rate, 3) for rate in rates]
    }


def run(manifest: str, sigma: float, x: Tensor, y: Tensor) -> dict[str, Any]:
    """All rules on one network."""
    model = load_model(f"{manifest}#{NETWORK}_{sigma:g}").model.eval()
    ball = threat("image-W1@0.01")
    laplace = LaplaceFlowSmoothing(sigma=sigma, **DRAWS)
    plain = GaussianFlowSmoothing(sigma=sigma, weighted=False, mass_limits=False, **DRAWS)
    edges = GaussianFlowSmoothing(sigma=sigma, mass_limits=False, **DRAWS)
    mass = GaussianFlowSmoothing(sigma=sigma, **DRAWS)
    record: dict[str, Any] = {}
    for noise, base, rules in (
        ("laplace", laplace, {"published": LaplaceFlowSmoothing(sigma=sigma, tight=False, **DRAWS), "tight": laplace}),
        ("gauss, equal weights", plain, {"resistance": plain}),
        ("gauss", mass, {"resistance": edges, "resistance and mass": mass}),
    ):
        torch.manual_seed(0)
        found = base(model, x, y, ball, batch_size=BATCH)
        record[noise] = {
            "accuracy": round(100 * found.clean, 1),
            "abstained": round(100 * sum(v is Verdict.ABSTAINED for v in found.verdicts) / len(y), 2),
            "votes for the label's class": round(
                100 * float((found.hits / found.n)[found.picked == y].sum()) / len(y), 1
            ),
            "microseconds an image": cost(model, base, x),
            **{rule: summary(found, rebound(method, found, x, 2.0)) for rule, method in rules.items()},
            **{f"{rule}, r = 1": summary(found, rebound(method, found, x, 1.0)) for rule, method in rules.items()},
        }
        print(sigma, noise, json.dumps(record[noise]), flush=True)
    return record


def main() -> None:
    """Run the networks that are missing and keep them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs=2)
    parser.add_argument("--sigma", nargs="+", type=float, default=[0.01, 0.005, 0.05])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    manifest, mnist = given.files
    record = json.loads(given.out.read_text()) if given.out is not None and given.out.exists() else {}
    data = load_data(mnist, n=None)
    x, y = data.x[::100], data.y[::100]
    record["radii"] = RADII
    for sigma in given.sigma:
        if str(sigma) not in record:
            record[str(sigma)] = run(manifest, sigma, x, y)
            if given.out is not None:
                given.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
