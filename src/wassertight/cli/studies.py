"""The commands `loss`, `lipschitz` and `supports`, and `certify --loss`: studies with tables of their own."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

import typer

from wassertight.cli import options as opt
from wassertight.cli.configuration import keep_configuration
from wassertight.cli.declaring import METHODS, from_options
from wassertight.cli.orders import Certify
from wassertight.cli.reading import read_bounds, read_norm

LossName: TypeAlias = Annotated[
    str, typer.Option("--loss", "-l", help="cross-entropy (ce), margin or redlr.", rich_help_panel=METHODS)
]
Grid: TypeAlias = Annotated[
    int, typer.Option("--grid", help="Radii at which growth is sampled.", rich_help_panel=METHODS)
]
Searches: TypeAlias = Annotated[
    int, typer.Option("--searches", help="Independent searches: candidate atoms a sample.", rich_help_panel=METHODS)
]
Norms: TypeAlias = Annotated[
    list[str] | None, typer.Option("--norm", help="Linf, L2 or L1; repeat for several. All three by default.")
]
Exact: TypeAlias = Annotated[bool, typer.Option("--exact", help="Search activation cells (ReLU networks), anytime.")]
Seconds: TypeAlias = Annotated[float, typer.Option("--seconds", help="Time of every exact search.")]


@dataclass(frozen=True, kw_only=True)
class Study:
    """What the studies share."""

    model: opt.ModelName = opt.DEFAULT_MODEL
    data: opt.DataName = opt.DEFAULT_DATA
    n: opt.Count = opt.DEFAULT_N
    seed: opt.Seed = 0
    bounds: opt.BoundsText = "0,1"
    as_json: opt.Json = False
    quiet: opt.Quiet = False


@dataclass(frozen=True, kw_only=True)
class Loss(Study):
    """Options of `loss`."""

    threat: opt.Threats = None
    batch_size: opt.BatchSize = 256
    name: LossName = "cross-entropy"
    grid: Grid = 12


@dataclass(frozen=True, kw_only=True)
class Lipschitz(Study):
    """Options of `lipschitz`."""

    n: opt.Count = 50
    norm: Norms = None
    loss: LossName = "margin"
    exact: Exact = False
    seconds: Seconds = 60.0


@dataclass(frozen=True, kw_only=True)
class Supports(Study):
    """Options of `supports`."""

    threat: opt.Threats = None
    batch_size: opt.BatchSize = 256
    searches: Searches = 3


@from_options
def loss(order: Loss) -> int:
    """Worst-case expected loss an adversary reaches inside the ball, with at most n + 1 atoms, audited."""
    from wassertight.evaluation import attack_loss, split_row

    network, samples = _load(order)
    results = []
    for ball in _threats(order):
        found = attack_loss(
            network, samples.x, samples.y, ball, loss=order.name, grid=order.grid, batch_size=order.batch_size,
            seed=order.seed,
        )  # fmt: skip
        results.append(
            {
                "threat": ball.name,
                "loss": order.name,
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
    return _print("loss", order, len(samples.x), f"worst-case expected {order.name}", columns, results)


def loss_bracket(order: Certify) -> int:
    """Body of `certify --loss`: an attack's expected loss below, every rule's proved bound above."""
    from wassertight.cli.showing import print_list
    from wassertight.evaluation import bracket_loss
    from wassertight.evaluation.watching import watching

    network, samples = _load(order)
    balls = _threats(order)
    keep_configuration(order)
    rows = []
    for ball in balls:
        with watching(not (order.quiet or order.as_json)) as watch:
            found = bracket_loss(
                network, samples.x, samples.y, ball, loss=str(order.loss), batch_size=order.batch_size, seed=order.seed,
                watch=_under(ball.name, watch),
            )  # fmt: skip
        rows.append(found.row())
    n = len(samples.x)
    if order.as_json:
        return _print("certify", order, n, "", (), rows)
    rules = [f"by {rule}" for rule in dict.fromkeys(rule for row in rows for rule in row["rules"])]
    shown = [row | {f"by {rule}": value for rule, value in row["rules"].items()} for row in rows]
    columns = ("threat", "clean", "attacked", "certified", *rules)
    _print("certify", order, n, f"worst-case expected {rows[0]['loss']}", columns, shown)
    print_list("What is certified rests on:", rows[0]["assumptions"])
    return 0


def _under(name: str, watch: Callable[[str, int, int], None]) -> Callable[[str, int, int], None]:
    return lambda side, done, total: watch(f"{name} {side}", done, total)


@from_options
def lipschitz(order: Lipschitz) -> int:
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
    from wassertight.cli.showing import print_list

    network, samples = _load(order)
    results: list[dict[str, Any]] = []
    for label in order.norm or ["Linf", "L2", "L1"]:
        if order.exact and not (order.as_json or order.quiet):
            print(f"{label}: searching cells, at most {order.seconds:g} s a constant ...", file=sys.stderr)
        results += [
            row.row()
            for row in lipschitz_table(
                network, samples.x, samples.y, norm=read_norm(label), bounds=read_bounds(order.bounds), loss=order.loss,
                exact=order.exact, seconds=order.seconds, seed=order.seed,
            )
        ]  # fmt: skip
    columns = ("norm", "constant", "lower", "upper", "how", "cells", "units")
    code = _print("lipschitz", order, len(samples.x), f"slopes of the {order.loss} loss", columns, results)
    if not order.as_json:
        print_list("Rests on:", list(dict.fromkeys(text for row in results for text in row["assumptions"])))
    return code


@from_options
def supports(order: Supports) -> int:
    """Compare worst-case laws of N, 2N, n + 1 and K atoms a sample, all from one pool of flips, all audited."""
    from wassertight.attacks import compare_supports

    network, samples = _load(order)
    results = []
    for ball in _threats(order):
        rows = compare_supports(
            network, samples.x, samples.y, ball, searches=order.searches, batch_size=order.batch_size, seed=order.seed
        )
        results += [
            {"threat": ball.name, "support": r.name, "atoms": r.atoms, "attacked": r.accuracy, "spent": r.spent}
            for r in rows
        ]
    columns = ("threat", "support", "atoms", "attacked", "spent")
    return _print("supports", order, len(samples.x), "worst-case accuracy by support", columns, results)


def _load(order: Study | Certify) -> tuple[Any, Any]:
    from wassertight.data import load_data
    from wassertight.models import load_model

    return load_model(order.model).model, load_data(order.data, n=order.n or None)


def _threats(order: Loss | Supports | Certify) -> list[Any]:
    from wassertight.threats import parse

    box = read_bounds(order.bounds)
    return [ball for text in order.threat or opt.DEFAULT_THREATS for ball in parse(text, box)]


def _print(
    command: str, order: Study | Certify, n: int, title: str, columns: Sequence[str], results: list[dict[str, Any]]
) -> int:
    if order.as_json:
        head = {"schema": 1, "command": command, "model": order.model, "data": order.data, "n": n}
        print(json.dumps({**head, "results": results}))
        return 0
    from wassertight.cli.showing import print_rows

    shown = [[f"{row[c]:.4f}" if isinstance(row[c], float) else str(row[c]) for c in columns] for row in results]
    print_rows(f"{title}: {order.model} on {order.data}, n = {n}", columns, shown)
    return 0
