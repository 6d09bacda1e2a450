"""When weights may change too: sub-populations that become frequent, and samples that move, out of one budget.

"KL+Linf@0.1,0.05" lets the adversary give the samples new weights with a relative entropy of at most 0.1 nats, and move
every sample by at most 0.05 for free. Weights alone need no attack: with e the share of errors, the worst share of errors
q solves  q log(q / e) + (1 - q) log((1 - q) / (1 - e)) = 0.1. Errors that moves create count like any other.

The last part solves the same problem for losses. `worst_weights` is differentiable, so it fits into any training loop.

    python examples/reweighting.py
"""

from __future__ import annotations

import torch

import wassertight as wt
from wassertight.transport import KL, worst_weights


def main() -> None:
    """What each freedom does alone and what both do together; then the heaviest losses of a batch."""
    model, data = wt.load_model("digits-cnn-robust").model, wt.load_data("digits", n=50)
    report = wt.benchmark(model, data, ["KL+Linf@0.02,0.05", "KL+Linf@0.1,0.05"], progress=False)
    print(f"{'accuracy in %':<22} {'budget 0.02':>16} {'budget 0.1':>16}")
    names = {
        "nominal": "nothing changes",
        "reweighting": "weights change",
        "transport": "samples move",
        "joint": "both",
    }
    for key, name in names.items():
        cells = []
        for result in report.results:
            parts = result.reweighting
            assert parts is not None
            low, high = (100 * getattr(side, key) for side in (parts.certified, parts.attacked))
            cells.append(f"{low:.1f}" if abs(high - low) < 0.05 else f"{low:.1f} .. {high:.1f}")
        print(f"{name:<22} {cells[0]:>16} {cells[1]:>16}")

    losses = torch.nn.functional.cross_entropy(model(data.x), data.y, reduction="none").detach().requires_grad_()
    worst = worst_weights(KL, losses, radius=0.1)
    worst.value.backward()  # the gradient is the worst weights times 1/n
    assert losses.grad is not None
    heaviest = int(losses.grad.argmax())
    print(f"\nmean loss {losses.mean():.3f}, worst mean under 0.1 nats {worst.value:.3f}")
    print(f"sample {heaviest} counts {len(losses) * float(losses.grad[heaviest]):.1f} times as much as an average one")


if __name__ == "__main__":
    main()
