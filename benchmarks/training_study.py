"""Objectives compared at equal data, network, schedule and evaluation; one JSON record per (protocol, objective, seed).

python benchmarks/training_study.py mnist --data path/to/mnist.npz --seeds 0 1 2
python benchmarks/training_study.py cifar --data path/to/cifar10_subset.npz --seeds 0
python benchmarks/training_study.py digits --seeds 0 1 2          # the smoke protocol, minutes
python benchmarks/training_study.py finetune-mnist --data mnist.npz --manifest manifest.json
python benchmarks/training_study.py finetune-mnist ... --objectives knapsack-pgd --n 60000 --epochs 1 --rate 0.003
python benchmarks/training_study.py certify mnist --data path/to/mnist.npz   # proved curves of what was trained
python benchmarks/training_study.py table mnist

A record that exists is not made again, a training that was killed resumes from its checkpoint, so the command may be
given again until it has nothing left to do. Weights are chosen on a validation split by a cheap attack; test images see
MinimumNorm (`--passes`), and the knapsack turns its distances into W_1, W_2 and W_inf accuracy. Seeds of the evaluation
are its own. The last epoch is seen by the
quick preset only. Passes an image are not equal between objectives; they are recorded and shown.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from wassertight.attacks import MinimumNorm
from wassertight.certificates import LinearPropagation
from wassertight.data import load_data
from wassertight.models import load_model, new_model
from wassertight.threats import PointwiseBall, threat
from wassertight.training import Settings, cheap_attack, make_objective, perturb_once, train
from wassertight.training.batches import held_out
from wassertight.transport import FlipDistances

RECORDS = Path(__file__).parent / "records" / "training"
OBJECTIVES: dict[str, tuple[str, str, float, dict[str, Any]]] = {
    # label: objective, form of the threat, multiple of the radius, settings
    "standard": ("standard", "W2-Linf", 1, {}),
    "pgd": ("pgd", "Linf", 1, {}),
    "pgd x1.5": ("pgd", "Linf", 1.5, {}),
    "pgd x2": ("pgd", "Linf", 2, {}),
    "pgd x3": ("pgd", "Linf", 3, {}),
    "trades": ("trades", "Linf", 1, {"beta": 6.0}),
    "trades x1.5": ("trades", "Linf", 1.5, {"beta": 6.0}),
    "trades x2": ("trades", "Linf", 2, {"beta": 6.0}),
    "trades x3": ("trades", "Linf", 3, {"beta": 6.0}),
    "mart": ("mart", "Linf", 1, {}),
    "udr-trades": ("udr-trades", "Linf", 1, {"beta": 6.0}),
    "armor-kl-trades": ("armor-kl-trades", "Linf", 1, {"beta": 6.0}),
    "armor-kl-trades shuffled": ("armor-kl-trades+shuffled", "Linf", 1, {"beta": 6.0}),
    "w-dro": ("w-dro", "W2-Linf", 1, {}),
    "knapsack": ("knapsack", "W2-Linf", 1, {}),
    "knapsack w1": ("knapsack", "W2-Linf", 1, {"weight_order": 1.0, "beta": 8.0}),
    "knapsack warm": ("knapsack", "W2-Linf", 1, {"warmup": 3}),
    "knapsack warm light": ("knapsack", "W2-Linf", 1, {"warmup": 3, "beta": 1.5}),
    "knapsack-trades warm": (
        "knapsack-trades",
        "W2-Linf",
        1,
        {"warmup": 3, "beta": 2.0, "base.beta": 6.0, "base.steps": 7},
    ),
    "knapsack-trades": ("knapsack-trades", "W2-Linf", 1, {"base.beta": 6.0, "base.steps": 7}),
    "knapsack ce": ("knapsack", "W2-Linf", 1, {"boundary": "ce"}),
}
TUNING: dict[str, tuple[str, str, float, dict[str, Any]]] = {
    "knapsack-pgd": ("knapsack-pgd", "W2-Linf", 1, {"base.steps": 20, "step": 0.03, "beta": 2.0}),
    "knapsack-pgd short": ("knapsack-pgd", "W2-Linf", 1, {"base.steps": 7, "beta": 2.0}),
    "knapsack-pgd firm": ("knapsack-pgd", "W2-Linf", 1, {"base.steps": 7}),
    "knapsack-pgd even": ("knapsack-pgd", "W2-Linf", 1, {"base.steps": 20, "step": 0.03, "beta": 1.0}),
    "knapsack-pgd mild": ("knapsack-pgd", "W2-Linf", 1, {"base.steps": 20, "step": 0.03, "beta": 0.6}),
    "knapsack-pgd gentle": ("knapsack-pgd", "W2-Linf", 1, {"base.steps": 20, "step": 0.03, "beta": 0.7}),
}
"""Only where a robust network is fine-tuned; steps of 0.03 are a tenth of the MNIST radius."""
LABELS = OBJECTIVES | TUNING
_ATTACKED = ("clean", "Winf@1", "W2@1", "W1@1", "W2@2")
_CERTIFIED = ("W1@0.5", "W1@1", "W2@0.5", "W2@1")
_ADAM = {"optimiser": "adam", "weight_decay": 0.0}
PROTOCOLS: dict[str, dict[str, Any]] = {
    "digits": {"data": "digits", "model": "digits-mlp-64", "n": None, "validation": 200, "test": 397, "radius": 0.1, "steps": 5,
               "settings": {**_ADAM, "epochs": 10, "batch_size": 100, "rate": 1e-2, "schedule": "constant"}},
    "mnist": {"model": "mnist-cnn", "n": 11000, "validation": 1000, "test": 1000, "radius": 0.1, "steps": 7,
              "settings": {**_ADAM, "epochs": 10, "batch_size": 128, "rate": 5e-3, "schedule": "triangle"}},
    "mnist-0.3": {"model": "mnist-cnn", "n": 11000, "validation": 1000, "test": 1000, "radius": 0.3, "steps": 7,
                  "settings": {**_ADAM, "epochs": 10, "batch_size": 128, "rate": 5e-3, "schedule": "triangle"}},
    "cifar": {"model": "cifar-resnet-small", "n": 20000, "validation": 1000, "test": 1000, "radius": 4 / 255, "steps": 7,
              "settings": {"optimiser": "sgd", "rate": 0.05, "weight_decay": 5e-4, "epochs": 15, "batch_size": 128,
                           "schedule": "triangle", "augment": "crop-flip", "channels_last": True}},
    "finetune-mnist": {"start": "mnist_cnn_a_adv", "n": 20000, "validation": 1000, "test": 1000, "radius": 0.3, "steps": 7,
                       "settings": {"optimiser": "sgd", "rate": 0.01, "nesterov": True, "schedule": "cosine", "epochs": 5,
                                    "batch_size": 256, "ema": 0.995}},
    "finetune-cifar": {"start": "cifar_resnet2b_adv", "n": 20000, "validation": 1000, "test": 1000, "radius": 2 / 255,
                       "steps": 7,
                       "settings": {"optimiser": "sgd", "rate": 0.01, "nesterov": True, "schedule": "cosine", "epochs": 8,
                                    "batch_size": 256, "ema": 0.995, "augment": "crop-flip", "channels_last": True}},
}  # fmt: skip
PROTOCOLS["finetune-cifar-4"] = {**PROTOCOLS["finetune-cifar"], "radius": 4 / 255}
"""Twice the radius that network has been trained for."""


def start_of(protocol: dict[str, Any], manifest: str | None, seed: int) -> nn.Module:
    """The network a run begins with."""
    name = f"{manifest}#{protocol['start']}" if "start" in protocol else protocol["model"]
    model = (load_model(name) if "start" in protocol else new_model(name, seed=seed)).model
    assert isinstance(model, nn.Module)
    return model


def measured(model: nn.Module, x: Tensor, y: Tensor, radius: float, passes: int | str) -> dict[str, Any]:
    """Accuracies under W_inf, W_2 and W_1 at half, one and two radii, from one search; and the distances themselves."""
    ball = PointwiseBall(radius=radius, r=math.inf)
    found = MinimumNorm(passes=passes)(model, x, y, ball, seed=12345, batch_size=256)  # type: ignore[arg-type]
    rows = {
        f"W{p:g}@{factor:g}": found.distances.accuracy(p, factor * radius)
        for p in (1.0, 2.0, math.inf) for factor in (0.5, 1, 2)
    }  # fmt: skip
    return {"clean": found.clean_accuracy, **rows, "distances": [round(float(d), 6) for d in found.distances.values]}


def one(name: str, label: str, seed: int, given: argparse.Namespace) -> None:
    """Train, evaluate and write one record, unless it is there."""
    protocol = PROTOCOLS[name]
    stem = f"{name}-{label.replace(' ', '-')}-{seed}"
    file = given.records / f"{stem}.json"
    if file.exists():
        return
    objective_name, form, factor, settings = LABELS[label]
    radius = protocol["radius"]
    ball = threat(f"{form}@{factor * radius}")
    own = {} if objective_name == "standard" else {"steps": protocol["steps"], **settings}
    objective = make_objective(objective_name, ball, own)
    data = load_data(protocol.get("data") or given.data, split="train", n=given.n or protocol["n"])
    test = load_data(protocol.get("data") or given.data, n=given.test or protocol["test"])
    kept, apart = held_out(data.y, min(protocol["validation"], len(data.y) // 4))
    # one score for all, the one that the study is about; standard training, where that is nothing, keeps its last weights
    validate = cheap_attack(data.x[apart], data.y[apart], threat(f"W2-Linf@{radius}")) if own else None
    values = {**protocol["settings"], "seed": seed, **{k: v for k in ("epochs", "rate") if (v := vars(given)[k])}}
    model = start_of(protocol, given.manifest, seed)
    before = measured(model, test.x, test.y, radius, given.passes) if "start" in protocol else None
    if "start" in protocol:
        perturb_once(model, 0.02, seed=seed)
    last: dict[str, Any] = {}
    trained = train(
        model, (data.x[kept], data.y[kept]), objective, Settings(**values), validate=validate,
        run_dir=given.runs / stem, device="cpu", progress=not given.quiet,
    )  # fmt: skip
    after = measured(model, test.x, test.y, radius, given.passes)
    model.load_state_dict(load_file(given.runs / stem / "last.safetensors"))
    last = measured(model, test.x, test.y, radius, "quick")
    last.pop("distances")
    record = {
        "protocol": name, "label": label, "objective": repr(objective), "seed": seed, "radius": radius, "settings": values,
        "images": len(kept), "test": len(test.y), "attack_passes": given.passes, "start": before, "best": after, "last": last,
        "best_epoch": trained.best_epoch, "validated": trained.score, "ending": trained.ending,
        "passes": trained.passes.total, "seconds": round(trained.seconds, 1), "torch": torch.__version__,
    }  # fmt: skip
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record) + "\n", encoding="utf-8")
    print(
        stem, {k: round(v, 3) for k, v in after.items() if isinstance(v, float)}, f"{trained.seconds:.0f} s", flush=True
    )


def certify(name: str, given: argparse.Namespace, n: int = 100) -> None:
    """Add CROWN's proved accuracies on the first test images to every record whose weights are still there."""
    protocol = PROTOCOLS[name]
    test = load_data(protocol.get("data") or given.data, n=n)
    for file in sorted(given.records.glob(f"{name}-*.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        weights = given.runs / file.stem / "best.safetensors"
        if record["protocol"] != name or "certified" in record or not weights.exists():
            continue
        model = start_of(protocol, given.manifest, record["seed"])
        model.load_state_dict(load_file(weights))
        radius = record["radius"]
        found = LinearPropagation()(model, test.x, test.y, PointwiseBall(radius=radius, r=math.inf)).radii  # type: ignore[arg-type]
        attacked = FlipDistances.attacked(torch.tensor(record["best"]["distances"][: len(test.y)], dtype=torch.float64))
        if bool((found.values > attacked.values + 1e-5).any()):  # the record keeps six digits
            raise RuntimeError(f"{file.stem}: a certificate is beaten by an attack")
        rows = {
            f"W{p:g}@{factor:g}": [found.accuracy(p, factor * radius), attacked.accuracy(p, factor * radius)]
            for p in (1.0, 2.0, math.inf) for factor in (0.25, 0.5, 1)
        }  # fmt: skip
        record["certified"] = {"n": len(test.y), "method": "crown", "mean radius": float(found.values.mean()), **rows}
        file.write_text(json.dumps(record) + "\n", encoding="utf-8")
        print(
            file.stem,
            {
                key: value if isinstance(value, (int, str)) else np.round(value, 3).tolist()
                for key, value in record["certified"].items()
            },
            flush=True,
        )


def table(name: str, records: Path) -> None:
    """Mean and standard deviation over seeds, in percent, printed and kept beside the records; one seed has no spread."""
    found = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(records.glob(f"{name}-*.json"))]
    found = [record for record in found if record["protocol"] == name]
    by_label = {label: [one for one in found if one["label"] == label] for label in LABELS}
    summary: dict[str, Any] = {"protocol": name, "attacked": {}, "certified": {}}
    for label, rows in by_label.items():
        if not rows:
            continue
        summary["attacked"][label] = {
            "seeds": len(rows),
            **{column: _spread([100 * row["best"][column] for row in rows]) for column in _ATTACKED},
            "passes an image": round(statistics.mean(one["passes"] / one["images"] / one["settings"]["epochs"] for one in rows), 1),
            "seconds": round(statistics.mean(row["seconds"] for row in rows)),
        }  # fmt: skip
        proved = [row["certified"] for row in rows if "certified" in row]
        if proved:
            summary["certified"][label] = {
                "seeds": len(proved), "mean radius": _spread([one["mean radius"] for one in proved], 3),
                **{
                    f"{column} {side}": _spread([100 * one[column][k] for one in proved])
                    for column in _CERTIFIED for k, side in enumerate(("certified", "attacked"))
                },
            }  # fmt: skip
    for side in ("attacked", "certified"):
        for number, (label, row) in enumerate(summary[side].items()):
            if number == 0:
                print("| objective | " + " | ".join(row) + " |\n" + "|---" * (len(row) + 1) + "|")
            print(f"| {label} | " + " | ".join(str(cell) for cell in row.values()) + " |")
        print()
    (records.parent / f"training_{name}.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")


def _spread(values: list[float], digits: int = 1) -> str:
    spread = f" +- {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def main() -> None:
    """Everything that is missing, seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("protocol", choices=[*PROTOCOLS, "certify", "table"])
    parser.add_argument("which", nargs="?", choices=list(PROTOCOLS), help="of `certify` and `table`")
    parser.add_argument("--data")
    parser.add_argument("--manifest", help="of the networks to fine-tune")
    parser.add_argument("--objectives", nargs="+", choices=list(LABELS), help="unless given, all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--passes", default="strong", help="of the evaluating search: quick, strong or a number")
    parser.add_argument("--epochs", type=int, help="instead of the protocol's")
    parser.add_argument("--rate", type=float, help="of learning, instead of the protocol's")
    parser.add_argument("--n", type=int, help="training images instead of the protocol's")
    parser.add_argument("--test", type=int, help="test images instead of the protocol's")
    parser.add_argument("--records", type=Path, default=RECORDS)
    parser.add_argument("--runs", type=Path, default=Path("runs/study"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quiet", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.protocol == "table":
        table(given.which or "mnist", given.records)
        return
    if given.protocol == "certify":
        certify(given.which or "mnist", given)
        return
    given.passes = int(given.passes) if given.passes.isdigit() else given.passes
    for seed in given.seeds:
        for label in given.objectives or (LABELS if "start" in PROTOCOLS[given.protocol] else OBJECTIVES):
            one(given.protocol, label, seed, given)


if __name__ == "__main__":
    main()
