"""Exact Lipschitz constants over activation cells of two trained networks, with cells and nodes against 2^units.

python benchmarks/exact_lipschitz.py --seconds 300

Networks: the embedded digits-mlp (64-64-32-10, 96 units) and records/mnist_mlp_32_32.json (784-32-32-10, 64 units;
`--train path/to/mnist.npz` trains it again in ten seconds). Ground norms l1, l2, linf; whole space and box [0, 1].
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional

from wassertight.certificates.lipschitz.cells import largest_gradient
from wassertight.certificates.lipschitz.network import read_network
from wassertight.certificates.lipschitz.outcome import Effort
from wassertight.certificates.lipschitz.programmes import Domain
from wassertight.data import load_data
from wassertight.models import build, load_model

RECORDS = Path(__file__).parent / "records"
MNIST = RECORDS / "mnist_mlp_32_32.json"
ARCHITECTURE = [["flatten"], ["linear", 784, 32], ["relu"], ["linear", 32, 32], ["relu"], ["linear", 32, 10]]
EPOCHS, BATCH, RATE, SEED = 8, 128, 3e-3, 7


def train(path: str) -> None:
    """Train 784-32-32-10 with Adam and a one-cycle rate; no regularisation."""
    torch.manual_seed(SEED)
    data, test = load_data(path, split="train"), load_data(path)
    body = build(ARCHITECTURE)[-1]
    optimiser = torch.optim.Adam(body.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=EPOCHS * -(-len(data.y) // BATCH))
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(data.y)).split(BATCH):
            loss = functional.cross_entropy(body(data.x[rows]), data.y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    file = MNIST.with_suffix(".safetensors")
    save_file({key: value.contiguous() for key, value in body.state_dict().items()}, file)
    with torch.no_grad():
        clean = (body.eval()(test.x).argmax(1) == test.y).double().mean().item()
    entry = {
        "architecture": ARCHITECTURE, "file": file.name, "dataset": "mnist", "input_shape": [1, 28, 28],
        "clean_acc": round(clean, 4), "clean_n": len(test.y), "training": f"standard training, seed {SEED}",
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }  # fmt: skip
    MNIST.write_text(json.dumps(entry, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Search every case and write records/exact_lipschitz.json, one entry a case, replacing those run again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300.0, help="limit a case")
    parser.add_argument("--train", metavar="MNIST.npz", help="train the 784-32-32-10 network first")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.train:
        train(given.train)
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
