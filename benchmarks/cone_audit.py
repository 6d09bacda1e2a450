"""How often the condition of the linear lower slope holds, by layer, network and norm; writes records/cone_audit.json.

python benchmarks/cone_audit.py path/to/manifest.json path/to/mnist.npz --seconds 4
python benchmarks/cone_audit.py --figure

First 200 test images of every network; l, Lambda, Lip_N and L on the whole space for digits-mlp, each given `--seconds`
(the programmes over 784 pixels take minutes); and random networks 2-w-3 at Gaussian points, ten a width. `--figure` draws
the record.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wassertight.certificates import ConeAudit, cone_audit, lipschitz_constants
from wassertight.data import load_data
from wassertight.models import load_model

RECORDS = Path(__file__).parent / "records"
RECORD, FIGURE = RECORDS / "cone_audit.json", Path(__file__).parents[1] / "docs" / "assets" / "cone_audit.png"
SMALL = ("digits-mlp", "mnist_mlp_24_24", "mnist_mlp_32_32")
LARGE = ("mnist_mlp_spectral", "mnist_mlpB_nor", "mnist_mlpB_adv_0.1", "mnist_mlpB_lpd_0.1", "mnist_mlp_9x100_nat")
NORMS = (1.0, 2.0, math.inf)
WIDTHS, DRAWS = (1, 2, 3, 4, 6, 8, 12, 16), 10


def _row(audit: ConeAudit) -> dict[str, Any]:
    left_out = ("witness", "assumptions")
    fields = [f.name for f in dataclasses.fields(audit) if f.name not in left_out]
    return {name: getattr(audit, name) for name in fields}


def trained(manifest: str, mnist: str, n: int, seconds: float) -> list[dict[str, Any]]:
    """One entry a network and norm."""
    rows = []
    for name in (*SMALL, *LARGE):
        path = {"digits-mlp": name, **{s: str(RECORDS / f"{s}.json") for s in SMALL[1:]}}.get(
            name, f"{manifest}#{name}"
        )
        model, data = load_model(path).model, load_data("digits" if name == "digits-mlp" else mnist, n=n)
        for r in NORMS:
            begun = time.perf_counter()
            row: dict[str, Any] = {"network": name, **_row(cone_audit(model, data.x, data.y, norm=r))}
            row["seconds"] = round(time.perf_counter() - begun, 1)
            if name == "digits-mlp":
                chain = lipschitz_constants(model, data.x, data.y, norm=r, bounds=None, seconds=seconds)
                row["constants"] = {b.name: [b.lower, b.upper] for b in chain}
                row["constants seconds"] = round(time.perf_counter() - begun - row["seconds"], 1)
            print(json.dumps(row), flush=True)
            rows.append(row)
    return rows


def random_networks() -> list[dict[str, Any]]:
    """One entry a width and norm: shares of tight pairs over networks with one hidden layer, as initialised."""
    rows = []
    for width in WIDTHS:
        torch.manual_seed(width)
        models = [nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 3)).eval() for _ in range(DRAWS)]
        x, y = torch.randn(200, 2), torch.randint(3, (200,))
        for r in NORMS:
            audits = [cone_audit(model, x, y, norm=r, bounds=None) for model in models]
            shares = [audit.holds_up_to[-1] for audit in audits]
            violated = [audit.violated_overall for audit in audits]
            rows.append({"width": width, "norm": audits[0].norm, "holds": shares, "violated": violated})
    return rows


def draw() -> None:
    """Three panels from the record."""
    import matplotlib.pyplot as plt

    record = json.loads(RECORD.read_text(encoding="utf-8"))
    colours = {"L1": "#0072B2", "L2": "#D55E00", "Linf": "#009E73"}
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplot_mosaic("AA;BC", figsize=(9, 6.2), layout="constrained", width_ratios=(1.5, 1))
    names = list(dict.fromkeys(row["network"] for row in record["networks"]))
    labels = [
        name.removeprefix("mnist_").replace("-", "\n").replace("_", "\n", 1).replace("24_24", "24-24") for name in names
    ]
    labels = [label.replace("32_32", "32-32").replace("_", " ") for label in labels]
    top, start, centres, ticks, layers = axes["A"], 0, [], [], []
    for name in names:
        rows = [row for row in record["networks"] if row["network"] == name]
        depth = len(rows[0]["violated"])
        for k, row in enumerate(rows):
            at = [start + t + (k - 1) * 0.12 for t in range(depth)]
            top.plot(
                at,
                row["violated"],
                "o-",
                ms=4,
                lw=1,
                color=colours[row["norm"]],
                label=row["norm"] if not start else None,
            )
        ticks += range(start, start + depth)
        layers += range(1, depth + 1)
        centres.append(start + (depth - 1) / 2)
        start += depth + 1
    for centre, label in zip(centres, labels, strict=True):
        top.text(centre, -0.1, label, ha="center", va="top")
    top.axhline(0.5, color="0.6", lw=0.8, ls="--")
    top.text(start - 1, 0.49, "a coin", ha="right", va="top", color="0.4")
    top.axhline(0, color="0.2", lw=1.2)
    top.text(start - 1, 0.02, "needed: 0 in every layer", ha="right", va="bottom", color="0.2")
    top.set(
        ylim=(0, 1.02), xticks=ticks, xticklabels=layers, xlim=(-0.7, start - 0.7), ylabel="units on the wrong side"
    )
    top.set_title(
        "Median share of a layer's units that leave their side (layers 1, 2, ... of every network)", loc="left"
    )
    top.legend(frameon=False, ncols=3, loc="upper left")
    left = axes["B"]
    for k, norm in enumerate(colours):
        share = [100 * row["reached"] / row["pairs"] for row in record["networks"] if row["norm"] == norm]
        at = [i + (k - 1) * 0.27 for i in range(len(names))]
        left.bar(at, share, 0.25, color=colours[norm])
        for i, v in zip(at, share, strict=True):
            left.text(i, v + 0.8, f"{v:.0f}" if v >= 1 or v == 0 else f"{v:.1f}", ha="center", fontsize=7)
    left.set_xticks(range(len(names)), labels, fontsize=8)
    left.set(ylabel="% of starts")
    left.set_title("Starts whose iteration ends in a tight triple", loc="left")
    right = axes["C"]
    for norm in colours:
        rows = [row for row in record["random"] if row["norm"] == norm]
        mean = [100 * sum(row["holds"]) / len(row["holds"]) for row in rows]
        right.plot([row["width"] for row in rows], mean, "o-", ms=4, lw=1, color=colours[norm])
    right.set(xscale="log", xlabel="hidden units", ylabel="% of pairs", ylim=(0, None))
    right.set_xticks(WIDTHS, [str(w) for w in WIDTHS])
    right.minorticks_off()
    right.set_title("Random 2-w-3: the condition holds", loc="left")
    figure.savefig(FIGURE, dpi=150)


def main() -> None:
    """Measure, or draw what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="manifest, mnist")
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=4.0, help="limit of every constant")
    parser.add_argument("--figure", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.files:
        manifest, mnist = given.files
        record = {"samples": given.n, "limit": given.seconds, "random": random_networks()}
        record["networks"] = trained(manifest, mnist, given.n, given.seconds)
        RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if given.figure:
        draw()


if __name__ == "__main__":
    main()
