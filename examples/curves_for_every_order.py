"""Curves for every order p and every radius, from one run.

Both sides of the bracket rest on one number a sample: the distance d_i to the nearest misclassified input, from above by the
attack, from below by the certificate. The worst case over a W_p ball is a fractional knapsack over these numbers: flipping
sample i costs d_i**p / n of the budget radius**p. So one search and one proof give every p and every radius of a norm;
nothing below asks the network again.

    python examples/curves_for_every_order.py
"""

from __future__ import annotations

import math

import wassertight as wt

ORDERS = (1, 2, 4, math.inf)
RADII = [0.0, 0.01, 0.02, 0.05, 0.1, 0.15]


def main() -> None:
    """One run at one threat, a table for all of them."""
    model, data = wt.load_model("digits-cnn-robust").model, wt.load_data("digits", n=50)
    report = wt.benchmark(model, data, "W1-Linf@0.05", progress=False)

    print("proved .. reached accuracy in %, ground norm Linf\n")
    print("radius  " + "".join(f"{'W_' + str(p):>16}" for p in ORDERS))
    low = {p: report.curve(p, RADII).accuracy for p in ORDERS}
    high = {p: report.curve(p, RADII, side="attacked").accuracy for p in ORDERS}
    for row, radius in enumerate(RADII):
        cells = (f"{100 * float(low[p][row]):.1f} .. {100 * float(high[p][row]):.1f}" for p in ORDERS)
        print(f"{radius:<8g}" + "".join(f"{cell:>16}" for cell in cells))
    print("\nLess is allowed from left to right: every W_1 adversary's ball holds all of W_2's, and so on up to W_inf.")

    bracket = report.bracket()
    print(f"tightness (mean proved radius over mean attack distance): {bracket.tightness:.2f}")
    found = wt.FlipDistances.attacked(report.arrays["attacked_distance"])
    spent = found.allocate(1, 0.05)
    print(
        f"at W1-Linf@0.05 the adversary flips samples up to distance {spent.threshold:.3f}: the mean counts, not the reach"
    )


if __name__ == "__main__":
    main()
