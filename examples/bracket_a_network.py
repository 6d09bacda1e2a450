"""Bracket a network: how accurate it is at least, and at most, when the test law may move.

An attack shows what one adversary achieves, so it gives an upper bound on the worst-case accuracy. A certificate proves
what no adversary can go below. `wt.benchmark` runs both on the same samples and audits what the attack returns:

    certified  <=  worst case  <=  attacked  <=  clean

The threat "W1-Linf@0.05" lets the *mean* Linf distance be 0.05; "Linf@0.05" gives every image 0.05 of its own. The first
ball is larger, so its worst case is lower: the adversary spends the budget where it is cheap.

    python examples/bracket_a_network.py
"""

from __future__ import annotations

import wassertight as wt

THREATS = ["Linf@0.05", "W2-Linf@0.05", "W1-Linf@0.05"]


def main() -> None:
    """Bracket the embedded robust network on 50 test digits."""
    model = wt.load_model("digits-cnn-robust").model  # any callable from [0, 1] inputs to logits will do
    data = wt.load_data("digits", n=50)
    report = wt.benchmark(model, data, THREATS, seed=0, progress=False)
    print(report)
    print()
    for result in report.results:
        assert result.certified is not None
        assert result.attacked is not None
        width = 100 * (result.attacked - result.certified)
        print(f"{result.threat:<14} the worst case is known to within {width:.1f} points")
    print(f"audit: {'passed' if report.ok else 'FAILED'}")


if __name__ == "__main__":
    main()
