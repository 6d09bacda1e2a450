"""Optimality in AttackBench's sense: robust-accuracy curves of minimum-norm attacks against the best of all of them.

python benchmarks/optimality.py path/to/manifest.json path/to/mnist.npz path/to/cifar10_subset.npz network ... \
    --n 200 --out benchmarks/records/optimality.json
python benchmarks/optimality.py --table benchmarks/records/optimality.json

For every network and norm all attacks run in this process at 100 and at 2,000 passes a correctly classified sample;
the envelope is the smallest distance any of them found, a run of MinimumNorm with 4,000 passes and another seed
included. Optimality (2404.19460): 1 - (area between an attack's robust-accuracy curve and the envelope's) /
(area between clean accuracy and the envelope's curve), radii from 0 to the envelope's largest distance. A finished
network and norm is not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from wassertight.attacks import APGD, DDN, FMN, PDPGD, Attack, BisectedAPGD, MinimumNorm, Problem
from wassertight.attacks.base import conclude
from wassertight.data import load_data
from wassertight.models import load_model
from wassertight.queries import ModelQueries
from wassertight.threats import PointwiseBall

BUDGETS = (100, 2000)
NORMS = {"Linf": math.inf, "L2": 2.0, "L1": 1.0}


def contenders(passes: int, r: float) -> dict[str, Attack]:
    """The attacks of a budget; a step of the published ones is a forward and a backward pass."""
    rounds = APGD(targets=9, steps=11) if passes >= 1000 else APGD(targets=3, steps=5)
    found: dict[str, Attack] = {
        "min-norm": MinimumNorm(passes=passes),
        "fmn": FMN(steps=passes // 2, step=10.0 if math.isinf(r) else 1.0),
        "pdpgd": PDPGD(steps=passes // 2),
        "apgd-t + bisection": BisectedAPGD(attack=rounds, rounds=10 if passes >= 1000 else 4),
    }
    if r == 2:
        found["ddn"] = DDN(steps=passes // 2)
    return found


def measure(attack: Attack, model: torch.nn.Module, x: Tensor, y: Tensor, r: float, seed: int) -> dict[str, object]:
    """Distances of the audited result, passes a correctly classified sample, seconds."""
    ball = PointwiseBall(radius=1.0, r=r)
    with ModelQueries(model) as queries:
        begun = time.process_time()
        found = attack.find(Problem(queries=queries, x=x, y=y, threat=ball, seed=seed))
        seconds, passes = time.process_time() - begun, queries.passes.total
        distances = conclude(attack.name, queries, x, y, ball, found).distances.values
    right = int((distances > 0).sum())
    return {"distances": distances, "passes": round(passes / right, 1), "seconds": round(seconds, 2)}


def optimality(distances: Tensor, envelope: Tensor) -> float:
    """AttackBench's local optimality of one attack on one network."""
    known = (envelope > 0) & torch.isfinite(envelope)
    best, mine = envelope[known], distances[known]
    end = best.max()
    return float(1 - (mine.clamp_max(end) - best).mean() / (end - best.mean()))


def compare(model: torch.nn.Module, x: Tensor, y: Tensor, r: float) -> dict[str, object]:
    """All attacks at all budgets on one network."""
    runs = {
        f"{name}@{passes}": measure(attack, model, x, y, r, seed=0)
        for passes in BUDGETS
        for name, attack in contenders(passes, r).items()
    }
    deep = measure(MinimumNorm(passes=4000), model, x, y, r, seed=1)
    columns = [run["distances"] for run in (*runs.values(), deep)]
    envelope = torch.stack(columns).amin(0)  # type: ignore[arg-type]
    known = (envelope > 0) & torch.isfinite(envelope)
    rows = {}
    for name, run in runs.items():
        mine = run["distances"]
        assert isinstance(mine, Tensor)
        ratio = mine[known] / envelope[known]
        rows[name] = {
            "optimality": round(optimality(mine, envelope), 4),
            "within 1 %": round(float((ratio <= 1.01).double().mean()), 3),
            "median excess": round(float(ratio.median() - 1), 5),
            "missed": int(torch.isinf(mine[known]).sum()),
            "passes": run["passes"],
            "seconds": run["seconds"],
        }
    return {"samples": int(known.sum()), "mean distance": round(float(envelope[known].mean()), 5), "attacks": rows}


def table(record: Mapping[str, Mapping[str, object]]) -> str:
    """Optimality at 2,000 and 100 passes, a line a network and norm."""
    names = ["min-norm", "fmn", "ddn", "pdpgd", "apgd-t + bisection"]
    lines = []
    for passes in reversed(BUDGETS):
        lines += [f"| network, norm ({passes:,} passes) | " + " | ".join(names) + " |", "|---" * 6 + "|"]
        for key, entry in record.items():
            rows = entry["attacks"]
            assert isinstance(rows, dict)
            values = [rows.get(f"{name}@{passes}", {}).get("optimality") for name in names]
            top = max(value for value in values if value is not None)
            shown = ["" if v is None else f"**{v:.4f}**" if v == top else f"{v:.4f}" for v in values]
            lines.append(f"| {key} | " + " | ".join(shown) + " |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing and keep it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arguments", nargs="*", help="manifest, mnist, cifar, networks")
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--norms", nargs="+", default=list(NORMS))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/records/optimality.json"))
    parser.add_argument("--table", type=Path)
    given = parser.parse_args()
    if given.table is not None:
        print(table(json.loads(given.table.read_text())))
        return
    manifest, mnist, cifar, *networks = given.arguments
    record = json.loads(given.out.read_text()) if given.out.exists() else {}
    for network in networks:
        loaded = load_model(f"{manifest}#{network}").model
        data = load_data(mnist if network.startswith("mnist") else cifar, n=given.n)
        for label in given.norms:
            key = f"{network}, {label}"
            if key not in record:
                record[key] = compare(loaded, data.x, data.y, NORMS[label])
                given.out.parent.mkdir(parents=True, exist_ok=True)
                given.out.write_text(json.dumps(record, indent=1) + "\n")
                print(key, {name: row["optimality"] for name, row in record[key]["attacks"].items()}, flush=True)


if __name__ == "__main__":
    main()
