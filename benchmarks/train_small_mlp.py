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

EPOCHS, BATCH, RATE, SEED = 8, 128, 3e-3, 7


def architecture(width: int) -> list[list[str | int]]:
    """784-width-width-10."""
    hidden: list[list[str | int]] = [["linear", 784, width], ["relu"], ["linear", width, width], ["relu"]]
    return [["flatten"], *hidden, ["linear", width, 10]]


def train(path: str, out: Path, layers: list[list[str | int]]) -> float:
    """Train with Adam and a one-cycle rate, measure on the test split, write network.json and weights beside it."""
    torch.manual_seed(SEED)
    data, test = load_data(path, split="train"), load_data(path)
    model = build(layers)
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
    file = out.with_suffix(".safetensors")
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in body.state_dict().items()}, file)
    with torch.no_grad():
        clean = (body.eval()(test.x).argmax(1) == test.y).double().mean().item()
    entry = {
        "architecture": layers, "file": file.name, "dataset": "mnist", "input_shape": [1, 28, 28],
        "clean_acc": round(clean, 4), "clean_n": len(test.y), "training": f"standard training, seed {SEED}",
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }  # fmt: skip
    out.write_text(json.dumps(entry, indent=1) + "\n", encoding="utf-8")
    again = load_model(str(out)).model
    with torch.no_grad():
        assert torch.equal(again(test.x[:100]), model(test.x[:100]))
    return clean


def main() -> None:
    """Train and say how good it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True, help="the network.json; weights go beside it")
    parser.add_argument("--width", type=int, default=24, help="units of both hidden layers")
    given = parser.parse_args()
    torch.set_num_threads(1)
    clean = train(given.data, given.out, architecture(given.width))
    print(f"{given.out}: clean accuracy {clean:.4f} on the test images")


if __name__ == "__main__":
    main()
