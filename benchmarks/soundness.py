"""Certified radii beside attack distances on every shared network: no attack may beat a certificate.

python benchmarks/soundness.py ../shared/data/manifest.json ../shared/data/mnist.npz ../shared/data/cifar10_subset.npz \
    --n 100 --limit 60 --out soundness.json

A sample is a violation if a misclassified point lies within its certified radius; branch and bound is not told what the
attack found. Means are over samples whose distance and radius are both finite; tightness is their ratio. The first sample
is certified alone: where that takes more than --limit seconds the network is left out and named. A started record is
continued.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch

from wassertight.attacks import MinimumNorm
from wassertight.certificates import BranchAndBound, LinearPropagation
from wassertight.certificates.base import CertificateMethod
from wassertight.data import load_data
from wassertight.models import load_model
from wassertight.threats import PointwiseBall
from wassertight.types import UnsupportedLayerError

NORMS = {"linf": math.inf, "l2": 2.0, "l1": 1.0}


def compare(
    model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, r: float, certificate: CertificateMethod, passes: int,
    limit: float,
) -> dict[str, Any]:  # fmt: skip
    """Radii and distances of every sample, or why there are none."""
    ball = PointwiseBall(radius=0.01, r=r)
    distances = MinimumNorm(passes=passes)(model, x, y, ball).distances.values
    begun = time.perf_counter()
    try:
        right = int((distances > 0).nonzero()[0]) if bool((distances > 0).any()) else 0
        one = slice(right, right + 1)
        told = distances if isinstance(certificate, LinearPropagation) else None  # only where to begin, no ceiling
        certificate(model, x[one], y[one], ball, upper=None if told is None else told[one])
        first = time.perf_counter() - begun
        if first > limit:
            return {"left out": f"{first:.0f} s for the first sample"}
        begun = time.perf_counter()
        radii = certificate(model, x, y, ball, upper=told).radii.values
    except UnsupportedLayerError as error:
        return {"left out": str(error).split(". ")[0]}
    seconds = time.perf_counter() - begun
    both = torch.isfinite(radii) & torch.isfinite(distances)
    certified, attacked = float(radii[both].mean()), float(distances[both].mean())
    return {
        "certified": certified,
        "attacked": attacked,
        "tightness": certified / attacked if attacked else math.nan,
        "seconds": seconds,
        "violations": int((radii > distances).sum()),
        "radii": radii.tolist(),
        "distances": distances.tolist(),
    }


def main() -> None:
    """Fill the record and print one line a network and norm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs=3, type=Path, help="manifest.json, mnist.npz, cifar10_subset.npz")
    parser.add_argument("--networks", nargs="*")
    parser.add_argument("--norms", nargs="+", choices=list(NORMS), default=list(NORMS))
    parser.add_argument("--n", type=int, default=10)
    parser.add_argument("--passes", type=int, default=100, help="of the attack, a sample")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--certificate", choices=("crown", "bab"), default="crown")
    parser.add_argument("--seconds", type=float, default=3.0, help="of branch and bound, a sample")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds the first sample may take")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    manifest, mnist, cifar = given.files
    certificate: CertificateMethod = LinearPropagation(precision=given.precision)
    if given.certificate == "bab":
        certificate = BranchAndBound(seconds=given.seconds, precision=given.precision)
    names = given.networks or [entry["name"] for entry in json.loads(manifest.read_text())["networks"]]
    record = json.loads(given.out.read_text()) if given.out is not None and given.out.exists() else {}
    print("| network | norm | mean certified | mean attacked | tightness | s | violations |")
    print("|---" * 7 + "|")
    for name in names:
        model = load_model(f"{manifest}#{name}").model
        data = load_data(str(mnist if name.startswith("mnist") else cifar), n=given.n)
        for label in given.norms:
            key = f"{name}, {label}"
            if key not in record:
                record[key] = compare(
                    model, data.x, data.y, NORMS[label], certificate, given.passes, given.limit
                )  # fmt: skip
                if given.out is not None:
                    given.out.write_text(json.dumps(record, indent=1) + "\n")
            row = record[key]
            if "left out" in row:
                print(f"| {name} | {label} | left out: {row['left out']} |", flush=True)
                break
            shown = [f"{row[column]:.4g}" for column in ("certified", "attacked", "tightness", "seconds")]
            print(f"| {name} | {label} | {' | '.join(shown)} | {row['violations']} |", flush=True)


if __name__ == "__main__":
    main()
