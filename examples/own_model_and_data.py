"""Your own model and your own data: an nn.Module, an .npz file, and a run that is kept.

Nothing has to be wrapped. The model is any callable from inputs in [0, 1] to logits; put the normalisation inside it, so
that radii are in pixels. The data is an .npz file with `x_test` and `y_test`: uint8 or floats in [0, 1], channels first or
last. With `run_dir` the run is stored: stop it at any time, start it again, and it goes on where it was.

On the command line the same is

    wassertight evaluate -m my_model:build -d mine.npz -t W1-Linf@0.02,0.05 -n 50

    python examples/own_model_and_data.py
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import wassertight as wt


class MyModel(nn.Module):
    """Two layers, with the normalisation inside."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(64, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = (x.flatten(1) - 0.3) / 0.4
        return self.out(torch.relu(self.hidden(x)))


def trained(x: Tensor, y: Tensor) -> MyModel:
    """Half a second of Adam; your own training goes here."""
    torch.manual_seed(0)
    model = MyModel()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    return model.eval()  # runs are in eval mode anyway; a model that was in training mode is flagged


def main() -> None:
    """Write an .npz, train, evaluate, and evaluate again: the second time nothing has to be computed."""
    train = wt.load_data("digits", split="train")
    test = wt.load_data("digits")
    model = trained(train.x, train.y)
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "mine.npz"
        pixels = (255 * test.x).round().to(torch.uint8).permute(0, 2, 3, 1)  # NHWC, as most files have it
        np.savez(file, x_test=pixels.numpy(), y_test=test.y.numpy())
        data = wt.load_data(str(file), n=50)
        print(f"{file.name}: {tuple(data.x.shape)}, pixels from {data.x.min():.0f} to {data.x.max():.0f}")
        for attempt in ("first", "again, from the stored run"):
            begun = time.perf_counter()
            report = wt.benchmark(
                model, data, ["W1-Linf@0.02", "W1-Linf@0.05"], run_dir=Path(place) / "run", progress=False
            )
            print(f"\n{attempt}: {time.perf_counter() - begun:.1f} s")
            print(report)
        page = report.to_html(Path(place) / "report.html")
        print(f"\n{page.name}: {page.stat().st_size // 1024} kB, one file, opens anywhere")


if __name__ == "__main__":
    main()
