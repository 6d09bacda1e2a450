"""Train against a threat, and compare: standard training, PGD, and the knapsack dual, judged by one attack.

An objective is a value: it holds the threat and its settings, and `train` runs the loop (resumable with a run directory, on
accelerate). The weights kept are the best ones on images held out of training, by the score `cheap_attack` measures. The
judge afterwards is the attack of `evaluate`, which no objective trains with.

Eight short epochs show the mechanics, not the state of the art: see docs/training.md for a comparison with seeds and spreads.

    python examples/train_against_a_threat.py
"""

from __future__ import annotations

import wassertight as wt
from wassertight.training import Settings, cheap_attack, make_objective, train

THREAT = "W2-Linf@0.1"


def main() -> None:
    """Three trainings of a small network, then worst-case accuracies under the same threat."""
    ball = wt.threat(THREAT)
    images, test = wt.load_data("digits", split="train"), wt.load_data("digits", n=100)
    held_out, rest = slice(0, 200), slice(200, None)
    validate = cheap_attack(images.x[held_out], images.y[held_out], ball)
    settings = Settings(epochs=8, batch_size=100, optimiser="adam", rate=1e-2, seed=0)

    print(f"{'objective':<10} {'clean':>6} {'worst case under ' + THREAT:>32}")
    for name in ("standard", "pgd", "knapsack"):
        model = wt.models.new_model("digits-mlp-64", seed=0).model  # or any nn.Module
        objective = make_objective(name, ball)
        train(model, (images.x[rest], images.y[rest]), objective, settings, validate=validate, progress=False)
        report = wt.benchmark(model.eval(), test, THREAT, certificate=None, preset="quick", progress=False)
        clean, attacked = report
        assert attacked is not None
        print(f"{name:<10} {100 * clean:>5.1f}% {100 * attacked:>20.1f}% at most")


if __name__ == "__main__":
    main()
