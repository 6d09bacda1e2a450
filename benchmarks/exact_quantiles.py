"""MinimumNorm against exact minimum distances (records of exact_distances.py): quantiles of the relative excess.

python benchmarks/exact_quantiles.py MODEL DATA benchmarks/records/exact_MODEL_NORM.json ... [--passes 100 2000]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from wassertight.attacks import MinimumNorm
from wassertight.data import load_data
from wassertight.models import load_model
from wassertight.threats import PointwiseBall


def main() -> None:
    """Print a table line a record and budget."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("records", nargs="+", type=Path)
    parser.add_argument("--record", type=Path, help="a .json file; rows of other networks in it are kept")
    parser.add_argument("--passes", type=int, nargs="+", default=[100, 2000])
    given = parser.parse_args()
    model = load_model(given.model).model
    print("| network, norm | passes | samples | within 0.1 % | within 1 % | median | 95 % quantile | largest |")
    print("|---" * 8 + "|")
    rows = json.loads(given.record.read_text()) if given.record and given.record.exists() else {}
    for path in given.records:
        record = json.loads(path.read_text())
        chosen = torch.tensor(record["indices"])
        data = load_data(given.data, n=int(chosen.max()) + 1)
        lower = torch.tensor(record["lower"], dtype=torch.float64)
        ball = PointwiseBall(radius=1.0, r=float(record["norm"]))
        for passes in given.passes:
            found = MinimumNorm(passes=passes)(model, data.x[chosen], data.y[chosen], ball).distances.values
            excess = found / lower - 1
            if bool((excess < -1e-5).any()):
                raise SystemExit(f"{path}: an attack is below a proved lower bound, by {float(excess.min()):.2e}")
            shares = [float((excess <= limit).double().mean()) for limit in (0.001, 0.01)]
            quantiles = [float(excess.quantile(level)) for level in (0.5, 0.95, 1.0)]
            cells = [*(f"{100 * share:.0f} %" for share in shares), *(f"{100 * value:.3f} %" for value in quantiles)]
            label = f"{record['model']}, L{record['norm'].removesuffix('.0')}"
            print(f"| {label} | {passes} | {len(chosen)} | " + " | ".join(cells) + " |", flush=True)
            rows[f"{label}, {passes} passes"] = {"samples": len(chosen), "within": shares, "excess": quantiles}
    if given.record:
        given.record.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
