"""Bracket a worst-case *loss*, then train in your own loop on an objective of the library.

`bracket_loss` does for the expected loss what `benchmark` does for accuracy: an attack reaches one value, growth bounds and
their one-dimensional dual prove another.

    clean  <=  attacked  <=  worst case  <=  certified

The second half is a plain PyTorch loop. An objective is a function `objective(model, x, y) -> loss`; it crafts the moved
points inside and leaves the optimiser, the data and everything else to you.

    python examples/worst_case_loss.py
"""

from __future__ import annotations

import torch

import wassertight as wt
from wassertight.training import make_objective

THREAT = "W2-Linf@0.02"


def bracket(model: torch.nn.Module, name: str) -> None:
    """One line: clean, reached and proved mean cross-entropy."""
    test = wt.load_data("digits", n=30)
    found = wt.evaluation.bracket_loss(model, test.x, test.y, wt.threat(THREAT), loss="cross-entropy")
    print(f"{name:<10} {found.clean:>8.3f} {found.attacked:>10.3f} {found.certified:>10.3f}")


def main() -> None:
    """Standard steps, then TRADES steps, on the same small network; the bracket after each."""
    images = wt.load_data("digits", split="train")
    print(f"mean cross-entropy under {THREAT}, 30 test digits\n")
    print(f"{'network':<10} {'clean':>8} {'attacked':>10} {'certified':>10}")
    for name in ("standard", "trades"):
        model = wt.models.new_model("digits-mlp-64", seed=0).model
        objective = make_objective(name, wt.threat("Linf@0.05"))
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
        order = torch.Generator().manual_seed(0)
        for _ in range(3):
            for rows in torch.randperm(len(images.x), generator=order).split(100):
                optimiser.zero_grad()
                objective(model, images.x[rows], images.y[rows]).backward()
                optimiser.step()
        bracket(model.eval(), name)


if __name__ == "__main__":
    main()
