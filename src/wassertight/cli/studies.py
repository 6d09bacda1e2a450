"""The commands `loss`, `lipschitz` and `supports`, and `certify --loss`: studies with tables of their own."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
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
Norms = Annotated[
    list[str] | None, typer.Option("--norm", help="Linf, L2 or L1; repeat for several. All three by default.")
]
Exact = Annotated[bool, typer.Option("--exact", help="Search activation cells (ReLU networks), anytime.")]
Seconds = Annotated[float, typer.Option("--seconds", help="Time of every exact search.")]


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
    from wassertight.evaluation import attack_loss, split_row

    network, samples, threats = _load(model, data, threat, n, bounds)
    results = []
    for ball in threats:
        found = attack_loss(network, samples.x, samples.y, ball, loss=name, grid=grid, batch_size=batch_size, seed=seed)
        results.append(
            {
                "threat": ball.name,
                "loss": name,
                "clean": found.clean,
                "attacked": found.value,
                "spent": found.spent,
                "multiplier": found.multiplier,
                "atoms": len(found.measure),
                **split_row(found),
                "passes": {"forward": found.passes.forward, "backward": found.passes.backward},
                "seconds": round(found.seconds, 3),
            }
        )
    columns: tuple[str, ...] = ("threat", "clean", "attacked", "spent", "multiplier", "atoms")
    if any("effective" in row for row in results):
        columns += ("spent_divergence", "spent_transport", "weights_only", "moves_only", "effective")
    return _print("loss", model, data, len(samples.x), f"worst-case expected {name}", columns, results, as_json)


def loss_bracket(
    model: str,
    data: str,
    threat: list[str] | None,
    n: int | None,
    batch_size: int,
    seed: int,
    bounds: str,
    name: str,
    *,
    as_json: bool,
    quiet: bool,
) -> int:
    """Body of `certify --loss`: an attack's expected loss below, every rule's proved bound above."""
    from wassertight.cli.showing import print_list
    from wassertight.evaluation import bracket_loss
    from wassertight.evaluation.watching import watching

    network, samples, threats = _load(model, data, threat, n, bounds)
    rows = []
    for ball in threats:
        with watching(not (quiet or as_json)) as watch:
            found = bracket_loss(
                network, samples.x, samples.y, ball, loss=name, batch_size=batch_size, seed=seed,
                watch=_under(ball.name, watch),
            )  # fmt: skip
        rows.append(found.row())
    if as_json:
        return _print("certify", model, data, len(samples.x), "", (), rows, as_json)
    rules = [f"by {rule}" for rule in dict.fromkeys(rule for row in rows for rule in row["rules"])]
    shown = [row | {f"by {rule}": value for rule, value in row["rules"].items()} for row in rows]
    columns = ("threat", "clean", "attacked", "certified", *rules)
    _print("certify", model, data, len(samples.x), f"worst-case expected {rows[0]['loss']}", columns, shown, as_json)
    print_list("What is certified rests on:", rows[0]["assumptions"])
    return 0


def _under(name: str, watch: Callable[[str, int, int], None]) -> Callable[[str, int, int], None]:
    return lambda side, done, total: watch(f"{name} {side}", done, total)


def lipschitz(
    model: opt.ModelName = opt.DEFAULT_MODEL,
    data: opt.DataName = opt.DEFAULT_DATA,
    norm: Norms = None,
    n: opt.Count = 50,
    bounds: opt.BoundsText = "0,1",
    loss: LossName = "margin",
    exact: Exact = False,
    seconds: Seconds = 60.0,
    seed: opt.Seed = 0,
    as_json: opt.Json = False,
) -> int:
    """How steep a classifier's loss is: Lipschitz constants from the loosest to the exact.

    [bold]What the numbers are for.[/bold] A loss with constant L grows by at most L * radius
    in expectation when the data move by the radius in W_p. "L" counts the
    steepest place of the whole domain (--bounds; none for the whole space),
    "Lip_N" the steepest rise from a sample, "Lambda" the slope far away.

    [bold]Which to trust.[/bold] "upper" is proved, "lower" is attained somewhere; where
    they meet the constant is known. Without --exact only bounds by
    propagation are shown, for every architecture that certificates read;
    --exact searches the activation cells of feed-forward ReLU networks.
    """
    from wassertight.certificates import lipschitz_table
    from wassertight.cli.running import read_bounds, read_norm
    from wassertight.cli.showing import print_list

    network, samples, _ = _load(model, data, None, n, bounds)
    results: list[dict[str, Any]] = []
    for label in norm or ["Linf", "L2", "L1"]:
        if exact and not as_json:
            print(f"{label}: searching cells, at most {seconds:g} s a constant ...", file=sys.stderr)
        results += [
            row.row()
            for row in lipschitz_table(
                network, samples.x, samples.y, norm=read_norm(label), bounds=read_bounds(bounds), loss=loss,
                exact=exact, seconds=seconds, seed=seed,
            )
        ]  # fmt: skip
    columns = ("norm", "constant", "lower", "upper", "how", "cells", "units")
    code = _print("lipschitz", model, data, len(samples.x), f"slopes of the {loss} loss", columns, results, as_json)
    if not as_json:
        print_list("Rests on:", list(dict.fromkeys(text for row in results for text in row["assumptions"])))
    return code


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
