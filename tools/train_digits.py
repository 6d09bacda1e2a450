"""Trains the four embedded networks on the digits and writes their weights and manifest. Takes a few minutes on a CPU.

The robust networks minimise cross-entropy of interval-bound worst-case margins (interval bound propagation,
1810.12715) mixed with PGD-adversarial cross-entropy, with the radius ramped up, so that they are robust *and*
certifiable.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from wassertight.data import load_data
from wassertight.models import build

TARGET = Path(__file__).parents[1] / "src" / "wassertight" / "models" / "weights"
CNN = [
    ["conv", 1, 16, 3, 1, 1], ["relu"], ["conv", 16, 32, 4, 2, 1], ["relu"],
    ["flatten"], ["linear", 512, 64], ["relu"], ["linear", 64, 10],
]  # fmt: skip
MLP = [["flatten"], ["linear", 64, 64], ["relu"], ["linear", 64, 32], ["relu"], ["linear", 32, 10]]
RADIUS, EPOCHS, BATCH = 0.1, 120, 64


def interval_logits(body: nn.Sequential, x: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Lower and upper logits over the l_inf ball cut by the box."""
    low, high = (x - radius).clamp(0, 1), (x + radius).clamp(0, 1)
    for layer in body:
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            centre, width = layer((low + high) / 2), (high - low) / 2
            if isinstance(layer, nn.Linear):
                spread = functional.linear(width, layer.weight.abs())
            else:
                spread = functional.conv2d(width, layer.weight.abs(), None, layer.stride, layer.padding)
            low, high = centre - spread, centre + spread
        else:
            low, high = layer(low), layer(high)
    return low, high


def adversary(body: nn.Sequential, x: Tensor, y: Tensor, radius: float, steps: int = 7) -> Tensor:
    """PGD inside the l_inf ball, random start."""
    z = (x + radius * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
    for _ in range(steps):
        z.requires_grad_(True)
        (g,) = torch.autograd.grad(functional.cross_entropy(body(z), y), z)
        z = (x + (z.detach() + 0.3 * radius * g.sign() - x).clamp(-radius, radius)).clamp(0, 1)
    return z


def train(architecture: list[list[object]], *, robust: bool, seed: int) -> nn.Sequential:
    """One network; Adam with a cosine schedule, random shifts by at most one pixel for the standard ones."""
    torch.manual_seed(seed)
    data = load_data("digits", split="train")
    body = build(architecture)[-1]
    optimiser = torch.optim.Adam(body.parameters(), lr=2e-3)
    batches = -(-len(data.y) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, EPOCHS * batches)
    for epoch in range(EPOCHS):
        ramp = min(1.0, max(0.0, (epoch - 5) / 60))
        for rows in torch.randperm(len(data.y)).split(BATCH):
            x, y = data.x[rows], data.y[rows]
            if robust and ramp > 0:
                low, high = interval_logits(body, x, RADIUS * ramp)
                worst = torch.where(functional.one_hot(y, 10).bool(), low, high)
                z = adversary(body, x, y, 1.2 * RADIUS * ramp)
                loss = 0.5 * functional.cross_entropy(worst, y) + 0.5 * functional.cross_entropy(body(z), y)
            else:
                loss = functional.cross_entropy(body(x), y)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return body.eval()


def main() -> None:
    """Train, measure, write."""
    torch.set_num_threads(1)
    TARGET.mkdir(exist_ok=True)
    test = load_data("digits")
    entries = []
    for name, architecture, robust in (
        ("digits-cnn", CNN, False), ("digits-mlp", MLP, False),
        ("digits-cnn-robust", CNN, True), ("digits-mlp-robust", MLP, True),
    ):  # fmt: skip
        body = train(architecture, robust=robust, seed=7)
        file = TARGET / f"{name}.safetensors"
        save_file({key: value.contiguous() for key, value in body.state_dict().items()}, file)
        with torch.no_grad():
            clean = (body(test.x).argmax(1) == test.y).double().mean().item()
            low, high = interval_logits(body, test.x, 0.05)
            proved = (torch.where(functional.one_hot(test.y, 10).bool(), low, high).argmax(1) == test.y).double().mean()
        hard = (body(adversary(body, test.x, test.y, 0.05, 40)).argmax(1) == test.y).double().mean().item()
        training = f"PGD and interval-bound training, l_inf radius {RADIUS}" if robust else "standard training"
        kind = "CNN" if "cnn" in name else "MLP"
        print(f"{name:20s} clean {clean:.3f}  PGD at 0.05 {hard:.3f}  interval bound at 0.05 {proved:.3f}")
        entries.append({
            "name": name, "file": file.name, "dataset": "digits", "input_shape": [1, 8, 8], "architecture": architecture,
            "clean_acc": round(clean, 4), "clean_n": len(test.y),
            "description": f"digits {kind}, {training}, clean accuracy {clean:.1%} on 500 test images",
            "training": training, "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        })  # fmt: skip
    (TARGET / "embedded.json").write_text(json.dumps({"networks": entries}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    np.random.seed(0)
    main()
