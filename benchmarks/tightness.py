"""How much of what an attack finds is proved: mean certified over mean attacked radius, and verified accuracy.

python benchmarks/tightness.py MANIFEST MNIST CIFAR --network cifar_wide_kw mnist_mlpB_adv_0.1 --n 30 --seconds 20
python benchmarks/tightness.py MANIFEST MNIST CIFAR --case cifar_cnn_a_adv:Linf@2/255 --n 100 --seconds 10

Tightness is over the correctly classified of the first n test images, Linf; attacked radii are MinimumNorm's with 2,000
passes. Verified accuracy searches only samples that CROWN leaves open at the radius. Seconds are a sample's, of the
processor, so that other work on the machine counts for little; give OMP_NUM_THREADS=1. Results are added to `--out` one
by one.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from wassertight.attacks import MinimumNorm
from wassertight.certificates import Auto, BranchAndBound, LinearPropagation
from wassertight.data import load_data
from wassertight.models import load_model
from wassertight.threats import PointwiseBall, parse


def main() -> None:
    """Run what is missing and keep it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs=3)
    parser.add_argument("--network", nargs="+", default=[])
    parser.add_argument("--case", nargs="+", default=[])
    parser.add_argument("--n", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    time.perf_counter = time.process_time  # the clock of searches
    manifest, mnist, cifar = given.files
    record = json.loads(given.out.read_text()) if given.out is not None and given.out.exists() else {}
    for case in [*given.network, *given.case]:
        key = f"{case}, n={given.n}, {given.seconds:g} s"
        if key in record:
            continue
        name, _, text = case.partition(":")
        model = load_model(f"{manifest}#{name}").model
        data = load_data(mnist if name.startswith("mnist") else cifar, n=given.n)
        ball = parse(text)[0] if text else PointwiseBall(radius=1.0, r=float("inf"))
        attacked = MinimumNorm(passes=2000)(model, data.x, data.y, ball).distances.values
        begun = time.process_time()
        crown = LinearPropagation()(model, data.x, data.y, ball, upper=attacked)
        seconds = time.process_time() - begun
        method = Auto(seconds=given.seconds) if text else BranchAndBound(seconds=given.seconds)
        begun = time.process_time()
        best = method(model, data.x, data.y, ball, upper=attacked)
        longer = time.process_time() - begun
        right = attacked > 0
        row: dict[str, object] = {"right": int(right.sum())}
        if text:
            row |= {
                "attacked accuracy": float((attacked > ball.radius).double().mean()),
                "crown": crown.accuracy,
                "verified": best.accuracy,
            }
        else:
            mean = float(attacked[right].mean())
            row |= {
                "attacked": mean,
                "crown": round(float(crown.radii.values[right].mean()) / mean, 4),
                "branch and bound": round(float(best.radii.values[right].mean()) / mean, 4),
            }
        beaten = int((best.radii.values > attacked * (1 + 1e-6) + 1e-9).sum())
        row |= {"crown seconds": round(seconds, 1), "all seconds": round(longer, 1), "above the attack": beaten}
        record[key] = row
        print(key, row, flush=True)
        if given.out is not None:
            given.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
