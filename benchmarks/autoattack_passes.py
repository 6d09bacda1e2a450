"""Pointwise robust accuracy of AutoAttack (standard) and of MinimumNorm that stops inside the ball, with their passes.

python benchmarks/autoattack_passes.py MANIFEST MNIST CIFAR --n 100 --case mnist_cnn_a_adv:Linf@0.3 cifar_cnn_a_adv:Linf@2/255 ...

Both run in this process. AutoAttack's passes are our implementation's count, in which flipped samples leave at once; the
released code spends more.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from wassertight.attacks import AutoAttack, MinimumNorm
from wassertight.data import load_data
from wassertight.models import load_model
from wassertight.threats import threat


def main() -> None:
    """Print a table line a case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs=3)
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--passes", type=int, default=1000)
    parser.add_argument("--record", type=Path, help="a .json file to write the rows to")
    parser.add_argument("--case", nargs="+", required=True)
    given = parser.parse_args()
    manifest, mnist, cifar = given.files
    print("| network, threat | clean | AutoAttack | min-norm | AutoAttack passes | min-norm passes | ratio |")
    print("|---" * 7 + "|")
    rows = []
    for case in given.case:
        network, _, text = case.partition(":")
        model = load_model(f"{manifest}#{network}").model
        data = load_data(mnist if network.startswith("mnist") else cifar, n=given.n)
        ball = threat(text)
        theirs = AutoAttack()(model, data.x, data.y, ball)
        ours = MinimumNorm(passes=given.passes, stop_inside=True)(model, data.x, data.y, ball)
        counts = [result.passes.total / given.n for result in (theirs, ours)]
        print(
            f"| {network}, {text} | {ours.clean_accuracy:.3f} | {theirs.accuracy:.3f} | {ours.accuracy:.3f} | "
            f"{counts[0]:,.0f} | {counts[1]:,.0f} | {counts[1] / counts[0]:.2f} |",
            flush=True,
        )
        rows.append(
            {
                "case": f"{network}, {text}", "n": given.n, "clean": ours.clean_accuracy, "AutoAttack": theirs.accuracy,
                "min-norm": ours.accuracy, "passes": {"AutoAttack": counts[0], "min-norm": counts[1]},
            }
        )  # fmt: skip
    if given.record:
        given.record.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
