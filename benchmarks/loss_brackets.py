"""Worst-case expected losses of real networks: what an attack reaches and what every rule proves, p = 1 and 2.

python benchmarks/loss_brackets.py MANIFEST MNIST CIFAR --out benchmarks/records/loss_brackets.json

Networks with inputs of MNIST and digits: the first n samples, Linf, cross-entropy; slopes by bounds of the
Jacobian, for the transformer only values (its Jacobian bounds on balls of this size are vacuous) on a few samples. Added one by one.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from wassertight.attacks import ExpectedLoss
from wassertight.certificates import LossBound
from wassertight.data import load_data
from wassertight.models import load_model
from wassertight.threats import parse

CASES = {
    "digits-mlp": ("digits", 50, "linear", "0.01"),
    "digits-cnn-robust": ("digits", 20, "interval", "0.01"),
    "mnist_mlpB_nor": ("mnist", 30, "interval", "0.01"),
    "mnist_mlpB_adv_0.1": ("mnist", 30, "interval", "0.01"),
    "mnist_mlpB_lpd_0.1": ("mnist", 30, "interval", "0.01"),
    "mnist_mlp_spectral": ("mnist", 30, "interval", "0.01"),
    "cifar_vit_pgd_2_3_16": ("cifar", 4, "none", "1/255"),
}


def main() -> None:
    """Run what is missing and keep it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs=3)
    parser.add_argument("--network", nargs="+", default=list(CASES))
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    manifest, mnist, cifar = given.files
    record = json.loads(given.out.read_text()) if given.out is not None and given.out.exists() else {}
    for name in given.network:
        source, n, slopes, radius = CASES[name]
        model = load_model(name if source == "digits" else f"{manifest}#{name}").model
        data = load_data({"digits": "digits", "mnist": mnist, "cifar": cifar}[source], n=n)
        for p in (1, 2):
            (ball,) = parse(f"W{p}-Linf@{radius}")
            key = f"{name}, {ball.name}, n={n}"
            if key in record:
                continue
            proved = LossBound(slopes=slopes, grid=10)(model, data.x, data.y, ball)
            found = ExpectedLoss(grid=10)(model, data.x, data.y, ball)
            assert found.value <= proved.value + 1e-4 * (1 + abs(proved.value))
            record[key] = {
                "clean": found.clean,
                "attacked": found.value,
                **proved.rules,
                "seconds": [round(found.seconds, 1), round(proved.seconds, 1)],
            }
            print(key, record[key], flush=True)
            if given.out is not None:
                given.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
