"""Certified image-Wasserstein radii on the base networks of 1910.10783's authors, without retraining.

python benchmarks/smoothing.py MANIFEST MNIST --out benchmarks/records/smoothing.json

Test images 0, 100, ..., 9900, n0 = 1000, n = 10000, alpha = 0.05 for each radius, as published. Per network: the published
certificate and the tight one from the same Laplace votes; Gaussian flow noise with equal and with optimal edge weights, and with
the light of each pixel, from Gaussian votes. The rate is noisy images a second of the certification against the model alone.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
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
from wassertight.certificates.smoothing.estimation import VoteBounds
from wassertight.data import load_data
from wassertight.models import load_model
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


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and result."""
    begun = time.perf_counter()
    result = work()
    return time.perf_counter() - begun, result


def bare_rate(model: torch.nn.Module, x: Tensor, passes: int) -> float:
    """Images a second of the model alone."""
    batch = x[:1].expand(BATCH, *x.shape[1:]).contiguous()
    with torch.no_grad():
        model(batch)
        seconds, _ = timed(lambda: [model(batch) for _ in range(passes)])
    return passes * BATCH / seconds


def run(manifest: str, sigma: float, x: Tensor, y: Tensor) -> dict[str, Any]:
    """All rules on one network."""
    model = load_model(f"{manifest}#{NETWORK}_{sigma:g}").model.eval()
    ball = threat("image-W1@0.01")
    laplace = LaplaceFlowSmoothing(sigma=sigma, **DRAWS)
    plain = GaussianFlowSmoothing(sigma=sigma, weighted=False, mass_limits=False, **DRAWS)
    edges = GaussianFlowSmoothing(sigma=sigma, mass_limits=False, **DRAWS)
    mass = GaussianFlowSmoothing(sigma=sigma, **DRAWS)
    mass.reach(x[:2], ball)  # tables and weights, once for all
    record: dict[str, Any] = {}
    for noise, base, rules in (
        ("laplace", laplace, {"published": LaplaceFlowSmoothing(sigma=sigma, tight=False, **DRAWS), "tight": laplace}),
        ("gauss, equal weights", plain, {"resistance": plain}),
        ("gauss", mass, {"resistance": edges, "resistance and mass": mass}),
    ):
        torch.manual_seed(0)
        before = bare_rate(model, x, 200)
        seconds, found = timed(lambda base=base: base(model, x, y, ball, batch_size=BATCH))
        bare = (before + bare_rate(model, x, 200)) / 2
        rate = found.passes.forward / seconds
        record[noise] = {
            "accuracy": round(100 * found.clean, 1),
            "abstained": round(100 * sum(v is Verdict.ABSTAINED for v in found.verdicts) / len(y), 2),
            "votes for the label's class": round(
                100 * float((found.hits / found.n)[found.picked == y].sum()) / len(y), 1
            ),
            "images a second": [round(rate), round(bare), round(rate / bare, 3)],
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
