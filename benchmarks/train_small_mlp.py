"""Trains a 784-24-24-10 ReLU MLP on MNIST in under a minute and writes it as a network.json with its weights.

python benchmarks/train_small_mlp.py --data path/to/mnist.npz --out path/to/mnist_mlp_24_24.json
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional

from wassertight.data import load_data
from wassertight.models import build, load_model

ARCHITECTURE = [["flatten"], ["linear", 784, 24], ["relu"], ["linear", 24, 24], ["relu"], ["linear", 24, 10]]
EPOCHS, BATCH, RATE, SEED = 8, 128, 3e-3, 7


def main() -> None:
    """Train with Adam and a one-cycle rate, measure on the test split, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True, help="the network.json; weights go beside it")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    data, test = load_data(given.data, split="train"), load_data(given.data)
    model = build(ARCHITECTURE)
    body = model[-1]
    optimiser = torch.optim.Adam(body.parameters(), lr=RATE)
    batches = -(-len(data.y) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=EPOCHS * batches)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(data.y)).split(BATCH):
            loss = functional.cross_entropy(body(data.x[rows]), data.y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    file = given.out.with_suffix(".safetensors")
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in body.state_dict().items()}, file)
    with torch.no_grad():
        clean = (body.eval()(test.x).argmax(1) == test.y).double().mean().item()
    entry = {
        "architecture": ARCHITECTURE, "file": file.name, "dataset": "mnist", "input_shape": [1, 28, 28],
        "clean_acc": round(clean, 4), "clean_n": len(test.y), "training": f"standard training, seed {SEED}",
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }  # fmt: skip
    given.out.write_text(json.dumps(entry, indent=1) + "\n", encoding="utf-8")
    again = load_model(str(given.out)).model
    with torch.no_grad():
        assert torch.equal(again(test.x[:100]), model(test.x[:100]))
    print(f"{given.out}: clean accuracy {clean:.4f} on {len(test.y)} test images")


if __name__ == "__main__":
    main()
