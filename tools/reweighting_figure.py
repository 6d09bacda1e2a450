"""Draws docs/assets/reweighting.png from benchmarks/records/reweighting.json: what re-weighting adds to moves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import torch

from wassertight.transport import KL, flip_table, joint_curve

ROOT = Path(__file__).parents[1]
NAMES = {
    "digits-cnn-robust": "digits, robust CNN\nmoves: Linf 0.05",
    "digits-mlp": "digits, plain MLP\nmoves: Linf 0.02",
    "mnist_mlpB_adv_0.1": "MNIST, adversarial MLP\nmoves: Linf 0.05",
    "cifar_cnn_a_adv": "CIFAR-10, adversarial CNN\nmoves: Linf 2/255",
}
STEPS = (
    ("nominal", "nothing changes", "0.35"),
    ("reweighting", "weights change", "#E69F00"),
    ("transport", "samples move", "#0072B2"),
    ("joint", "both", "#7A3E9D"),
)
SHOWN = "mnist_mlpB_adv_0.1"


def freedoms(axis: Any, networks: dict[str, Any]) -> None:
    """For every network the four worst cases at the budget 0.1: solid reached, open proved, a bar between them."""
    for row, name in enumerate(reversed(NAMES)):
        result = next(one for one in networks[name]["results"] if one["threat"].startswith("KL+Linf@0.1,"))
        part = result["reweighting"]
        for step, (key, label, colour) in enumerate(STEPS):
            y = row + 0.27 - 0.18 * step
            high, low = 100 * part["attacked"][key], 100 * part["certified"][key]
            axis.plot([low, high], [y, y], color=colour, linewidth=3.2, alpha=0.35, solid_capstyle="round")
            axis.plot(low, y, "o", color=colour, markerfacecolor="white", markersize=5.4)
            axis.plot(high, y, "o", color=colour, markersize=5.4, label=label if row == 0 else None)
        if row:
            axis.axhline(row - 0.5, color="0.88", linewidth=0.8)
    axis.set_yticks(range(len(NAMES)), list(reversed(NAMES.values())))
    axis.set(
        xlim=(0, 101),
        ylim=(-0.5, len(NAMES) - 0.5),
        xlabel="worst-case accuracy (%), relative entropy up to 0.1 nats\nfilled: reached by an attack; open: proved",
    )
    axis.set_title("Four freedoms, same budget", loc="left", fontweight="bold")
    axis.legend(loc="upper center", bbox_to_anchor=(0.34, -0.2), ncols=4, handletextpad=0.1, columnspacing=1.0)


def budgets(axis: Any, network: dict[str, Any]) -> None:
    """Worst case against the budget: weights only (exact), and with moves, where a band remains."""
    curve, clean = network["curve"], network["results"][0]["clean"]
    radii = curve["radii"]
    n = 100
    still = torch.full((n,), torch.inf, dtype=torch.float64)
    still[: round(n * (1 - clean))] = 0
    alone = 1 - joint_curve(*flip_table(still), torch.tensor(radii, dtype=torch.float64), KL)[0]
    high, low = ([100 * value for value in curve[side]] for side in ("attacked", "certified"))
    axis.axhline(100 * clean, color="0.35", linestyle=":", linewidth=1)
    axis.plot(radii, 100 * alone, color="#E69F00", linewidth=1.8)
    axis.fill_between(radii, low, high, color="#7A3E9D", alpha=0.16, linewidth=0)
    axis.plot(radii, high, color="#7A3E9D", linewidth=1.8)
    axis.plot(radii, low, color="#7A3E9D", linewidth=1.5, linestyle=(0, (4, 2)))
    for text, line, side, part in (
        ("weights change", 100 * alone, 1, 0.3),
        ("both, reached", high, 1, 0.62),
        ("both, proved", low, -1, 0.3),
    ):
        at = round(part * (len(radii) - 1))
        axis.annotate(
            text, (radii[at], float(line[at])), (3 * side, 3 * side), textcoords="offset points", fontsize=8.5, color="0.15",
            ha="left" if side > 0 else "right", va="bottom" if side > 0 else "top",
        )  # fmt: skip
    axis.annotate(f"clean {100 * clean:.0f}", (1, 100 * clean), (0, 3), xycoords=("axes fraction", "data"), fontsize=8.5,
                  textcoords="offset points", ha="right", color="0.35")  # fmt: skip
    axis.set(xlim=(0, radii[-1]), ylim=(0, 106), xlabel="budget of re-weighting (nats of relative entropy)", ylabel="worst-case accuracy (%)")  # fmt: skip
    axis.set_title("MNIST MLP: the first tenths cost most", loc="left", fontweight="bold")


def main() -> None:
    """Draw the figure."""
    networks = json.loads((ROOT / "benchmarks" / "records" / "reweighting.json").read_text())["networks"]
    style = {"font.size": 9.5, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}
    with mpl.rc_context(style):
        figure, (left, right) = plt.subplots(1, 2, figsize=(10.6, 4.3), width_ratios=(1.2, 1), layout="constrained")
        freedoms(left, networks)
        budgets(right, networks[SHOWN])
        figure.savefig(ROOT / "docs" / "assets" / "reweighting.png", dpi=160)


if __name__ == "__main__":
    main()
