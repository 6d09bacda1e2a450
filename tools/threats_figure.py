"""Draws docs/assets/threats.png: how three adversaries of one radius spend it on points around a round boundary."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import torch

from wassertight import FlipDistances

TARGET = Path(__file__).parents[1] / "docs" / "assets" / "threats.png"
RADIUS, BOUNDARY = 0.08, 0.55
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "0.72"
PANELS = (
    (math.inf, "L2@0.08: every point by itself", "the largest distance is bounded"),
    (2, "W2-L2@0.08: one budget", "the root mean square is bounded"),
    (1, "W1-L2@0.08: one budget", "the mean is bounded"),
)


def points() -> tuple[torch.Tensor, torch.Tensor]:
    """Points (n, 2) inside and outside the boundary, and their exact distances to it."""
    draw = torch.Generator().manual_seed(3)
    n = 44
    reach = (BOUNDARY + torch.randn(n, generator=draw) * 0.2).clamp(0.12, 0.95)
    reach = torch.where((reach - BOUNDARY).abs() < 0.02, reach + 0.05, reach)
    angle = torch.arange(n) * 2.39996 + 0.3 * torch.rand(n, generator=draw)
    return reach[:, None] * torch.stack((angle.cos(), angle.sin()), 1), (reach - BOUNDARY).abs().double()


def plane(axis: Any, x: torch.Tensor, fractions: torch.Tensor, p: float) -> None:
    """The points, the balls of a pointwise threat, and an arrow to the boundary for every flip that is bought."""
    axis.add_patch(plt.Circle((0, 0), BOUNDARY, facecolor="#dcebf7", edgecolor="0.35", linewidth=1, zorder=0))
    reach = x.norm(dim=1)
    ends = x / reach[:, None] * (BOUNDARY + 0.012 * (BOUNDARY - reach).sign()[:, None])
    for place, end, part, far in zip(x.tolist(), ends.tolist(), fractions.tolist(), reach.tolist(), strict=True):
        colour = BLUE if far < BOUNDARY else ORANGE
        if math.isinf(p):
            axis.add_patch(plt.Circle(place, RADIUS, facecolor="none", edgecolor=colour, linewidth=0.6, alpha=0.6))
        if part > 0:
            style = {
                "arrowstyle": "-|>",
                "color": "black",
                "lw": 1.1,
                "alpha": 0.35 + 0.65 * part,
                "shrinkA": 0,
                "shrinkB": 0,
            }
            axis.annotate("", end, place, arrowprops=style)
        axis.plot(*place, "o", color=colour, markersize=4, markeredgecolor="white", markeredgewidth=0.4)
    axis.set(xlim=(-1, 1), ylim=(-1, 1), xticks=[], yticks=[], aspect="equal")
    axis.spines[:].set_visible(False)


def spending(axis: Any, d: torch.Tensor, fractions: torch.Tensor, threshold: float, p: float) -> None:
    """One bar a point, its distance, cheapest first; what is bought is filled."""
    order = d.argsort()
    for rank, index in enumerate(order.tolist()):
        height, part = float(d[index]), float(fractions[index])
        axis.bar(rank, height, color="white", edgecolor=GREY, linewidth=0.6, width=0.8)
        axis.bar(rank - 0.4 + 0.4 * part, height, color=ORANGE, width=0.8 * part)
    axis.axhline(RADIUS, color="0.3", linewidth=0.9, linestyle=":")
    axis.annotate("radius", (len(d) - 0.5, RADIUS), (0, 2), textcoords="offset points", ha="right", fontsize=8)
    if not math.isinf(p):
        axis.axhline(threshold, color=ORANGE, linewidth=0.9, linestyle="--")
        axis.annotate(f"bought up to {threshold:.2f}", (0, threshold), (0, 2), textcoords="offset points", fontsize=8)
    axis.set(xlim=(-0.7, len(d) - 0.3), ylim=(0, 0.45), xticks=[], xlabel="points, nearest to the boundary first")


def main() -> None:
    """Draw the figure."""
    x, d = points()
    found = FlipDistances.attacked(d)
    style = {"font.size": 9.5, "axes.spines.top": False, "axes.spines.right": False}
    with mpl.rc_context(style):
        figure, axes = plt.subplots(2, 3, figsize=(10.2, 5.6), height_ratios=(2, 1), layout="constrained")
        for (p, title, bound), (upper, lower) in zip(PANELS, axes.T, strict=True):
            spent = found.allocate(p, RADIUS)
            plane(upper, x, spent.fractions, p)
            spending(lower, d, spent.fractions, spent.threshold, p)
            upper.set_title(title, fontweight="bold")
            flipped = 100 * found.accuracy(p, RADIUS)
            upper.set_xlabel(f"{bound}\n{flipped:.0f} % of the points are still right")
        axes[1, 0].set_ylabel("distance to the boundary")
        figure.savefig(TARGET, dpi=120)


if __name__ == "__main__":
    main()
