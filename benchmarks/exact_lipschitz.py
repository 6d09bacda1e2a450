"""Exact Lipschitz constants over activation cells of two trained networks, with cells and nodes against 2^units.

python benchmarks/exact_lipschitz.py --seconds 300

Networks: the embedded digits-mlp (64-64-32-10, 96 units) and records/mnist_mlp_32_32.json (784-32-32-10, 64 units;
`--train path/to/mnist.npz` trains it again in ten seconds). Ground norms l1, l2, linf; whole space and box [0, 1].
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import torch
from train_small_mlp import architecture, train

from wassertight.certificates.lipschitz.cells import largest_gradient
from wassertight.certificates.lipschitz.network import read_network
from wassertight.certificates.lipschitz.outcome import Effort
from wassertight.certificates.lipschitz.programmes import Domain
from wassertight.models import load_model

RECORDS = Path(__file__).parent / "records"
MNIST = RECORDS / "mnist_mlp_32_32.json"


def main() -> None:
    """Search every case and write records/exact_lipschitz.json, one entry a case, replacing those run again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300.0, help="limit a case")
    parser.add_argument("--train", metavar="MNIST.npz", help="train the 784-32-32-10 network first")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.train:
        train(given.train, MNIST, architecture(32))
    record = RECORDS / "exact_lipschitz.json"
    for name, shape in (("digits-mlp", (1, 8, 8)), (str(MNIST), (1, 28, 28))):
        network = read_network(load_model(name).model, torch.rand(2, *shape))
        for domain, bounds in (("whole space", None), ("box [0, 1]", (0.0, 1.0))):
            for r in (1.0, 2.0, math.inf):
                case = f"{Path(name).stem}, L{r:g}, {domain}"
                if given.only not in case:
                    continue
                effort = Effort(seconds=given.seconds)
                search = largest_gradient(network, range(10), r, Domain.of(network.inputs, bounds), effort=effort)
                found = {e["case"]: e for e in json.loads(record.read_text())} if record.is_file() else {}
                found[case] = {
                    "case": case, "lower": search.lower, "upper": search.upper, "exact": search.converged,
                    "gap": search.upper / search.lower - 1, "pair": search.pair, "cells": search.cells,
                    "nodes": search.nodes, "programmes": search.programmes, "undecided_units": search.units,
                    "masks": f"2^{search.units}", "seconds": round(search.seconds, 1), "threads": 1,
                }  # fmt: skip
                print(json.dumps(found[case]), flush=True)
                record.write_text(json.dumps(list(found.values()), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
