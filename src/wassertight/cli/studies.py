"""The commands `loss` and `supports`: worst-case expected losses, and how many atoms a worst-case law needs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from wassertight.cli import options as opt

LossName = Annotated[
    str, typer.Option("--loss", "-l", help="cross-entropy (ce), margin or redlr.", rich_help_panel="Methods")
]
Grid = Annotated[int, typer.Option("--grid", help="Radii at which growth is sampled.", rich_help_panel="Methods")]
Searches = Annotated[
    int, typer.Option("--searches", help="Independent searches: candidate atoms a sample.", rich_help_panel="Methods")
]


def loss(
    model: opt.ModelName = opt.DEFAULT_MODEL,
    data: opt.DataName = opt.DEFAULT_DATA,
    threat: opt.Threats = None,
    n: opt.Count = opt.DEFAULT_N,
    batch_size: opt.BatchSize = 256,
    seed: opt.Seed = 0,
    bounds: opt.BoundsText = "0,1",
    name: LossName = "cross-entropy",
    grid: Grid = 12,
    as_json: opt.Json = False,
) -> int:
    """Worst-case expected loss an adversary reaches inside the ball, with at most n + 1 atoms, audited."""
    from wassertight.attacks import ExpectedLoss

    attack = ExpectedLoss(loss=name, grid=grid)
    network, samples, threats = _load(model, data, threat, n, bounds)
    results = []
    for ball in threats:
        found = attack(network, samples.x, samples.y, ball, batch_size=batch_size, seed=seed)
        results.append(
            {
                "threat": ball.name,
                "loss": name,
                "clean": found.clean,
                "attacked": found.value,
                "spent": found.spent,
                "multiplier": found.multiplier,
                "atoms": len(found.measure),
                "passes": {"forward": found.passes.forward, "backward": found.passes.backward},
                "seconds": round(found.seconds, 3),
            }
        )
    columns = ("threat", "clean", "attacked", "spent", "multiplier", "atoms")
    return _print("loss", model, data, len(samples.x), f"worst-case expected {name}", columns, results, as_json)


def supports(
    model: opt.ModelName = opt.DEFAULT_MODEL,
    data: opt.DataName = opt.DEFAULT_DATA,
    threat: opt.Threats = None,
    n: opt.Count = opt.DEFAULT_N,
    batch_size: opt.BatchSize = 256,
    seed: opt.Seed = 0,
    bounds: opt.BoundsText = "0,1",
    searches: Searches = 3,
    as_json: opt.Json = False,
) -> int:
    """Compare worst-case laws of N, 2N, n + 1 and K atoms a sample, all from one pool of flips, all audited."""
    from wassertight.attacks import compare_supports

    network, samples, threats = _load(model, data, threat, n, bounds)
    results = []
    for ball in threats:
        rows = compare_supports(
            network, samples.x, samples.y, ball, searches=searches, batch_size=batch_size, seed=seed
        )
        results += [
            {"threat": ball.name, "support": r.name, "atoms": r.atoms, "attacked": r.accuracy, "spent": r.spent}
            for r in rows
        ]
    columns = ("threat", "support", "atoms", "attacked", "spent")
    return _print("supports", model, data, len(samples.x), "worst-case accuracy by support", columns, results, as_json)


def _load(model: str, data: str, threat: list[str] | None, n: int | None, bounds: str) -> tuple[Any, Any, list[Any]]:
    from wassertight.cli.running import read_bounds
    from wassertight.data import load_data
    from wassertight.models import load_model
    from wassertight.threats import parse

    box = read_bounds(bounds)
    threats = [ball for text in threat or opt.DEFAULT_THREATS for ball in parse(text, box)]
    return load_model(model).model, load_data(data, n=n or None), threats


def _print(
    command: str,
    model: str,
    data: str,
    n: int,
    title: str,
    columns: Sequence[str],
    results: list[dict[str, Any]],
    as_json: bool,
) -> int:
    if as_json:
        head = {"schema": 1, "command": command, "model": model, "data": data, "n": n}
        print(json.dumps({**head, "results": results}))
        return 0
    from wassertight.cli.showing import print_rows

    shown = [[f"{row[c]:.4f}" if isinstance(row[c], float) else str(row[c]) for c in columns] for row in results]
    print_rows(f"{title}: {model} on {data}, n = {n}", columns, shown)
    return 0
