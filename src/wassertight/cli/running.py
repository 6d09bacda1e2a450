"""The body of `evaluate`, `attack` and `certify`: load, plan, carry out, show."""

from __future__ import annotations

import json
import math
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wassertight.cli.options import DEFAULT_THREATS
from wassertight.cli.showing import print_paths, print_table, write_pictures
from wassertight.errors import BoxNotice, InputError
from wassertight.records import Record

EXIT_AUDIT = 3


@dataclass(frozen=True, kw_only=True)
class Order:
    """One command line, read."""

    command: str
    model: str
    data: str
    threats: tuple[str, ...]
    n: int | None
    batch_size: int
    device: str
    seed: int
    run_dir: Path | None
    bounds: str
    attack: str | None
    certificate: str | None
    attack_settings: tuple[str, ...] = ()
    certificate_settings: tuple[str, ...] = ()
    skip_unsupported: bool = False
    preset: str | None = None
    draws: int | None = None
    population: bool = False
    confidence: float | None = None
    label_cost: str | None = None
    as_json: bool = False
    quiet: bool = False


def carry_out(order: Order) -> int:
    """Run the order and show its record; returns the exit code: 0, or 3 where the audit found something wrong."""
    bounds = read_bounds(order.bounds)
    attack_options, certificate_options = (
        read_settings(order.attack_settings),
        read_settings(order.certificate_settings),
    )
    confidence = read_confidence(order.population, order.confidence)
    label_cost = math.inf if order.label_cost is None else read_cost(order.label_cost)
    from wassertight.data import load_data
    from wassertight.evaluation import check_claim, execute, make_plan
    from wassertight.models import load_model

    check_claim(confidence, label_cost)
    with warnings.catch_warnings():
        warnings.simplefilter("always", BoxNotice)
        warnings.showwarning = _silence if order.quiet else _notice
        plan = make_plan(
            load_model(order.model).model,
            load_data(order.data, n=order.n),
            list(order.threats or DEFAULT_THREATS),
            batch_size=order.batch_size,
            device=order.device,
            seed=order.seed,
            attack=order.attack,
            certificate=None if order.certificate == "none" else order.certificate,
            bounds=bounds,
            attack_options=attack_options,
            certificate_options=certificate_options,
            skip_unsupported=order.skip_unsupported,
            preset=order.preset,
            draws=order.draws,
            command=order.command,
            model_name=order.model,
            data_name=order.data,
        )
        directory = order.run_dir or plan.default_directory()
        if not order.quiet:
            print(f"{order.command}: {order.model} on {order.data}, n = {len(plan.x)}, in {directory}", file=sys.stderr)
        report = execute(plan, run_dir=directory, progress=not order.quiet)
        if confidence is not None or math.isfinite(label_cost):
            report = report.with_claim(confidence=confidence, label_cost=label_cost)
        show(report.record, directory, as_json=order.as_json, quiet=order.quiet)
    return 0 if report.ok else EXIT_AUDIT


def show(record: Record, directory: Path, *, as_json: bool, quiet: bool) -> None:
    """Figure and page into the run directory; the table and their paths, or the one JSON object, on standard output."""
    pictures = write_pictures(record, directory)
    if as_json:
        print(record.to_json())
    else:
        print_table(record)
        print_paths([directory / "record.json", *pictures])
    if not record.audit.ok:
        print(f"AUDIT FAILED ({record.audit.violations} violations):", file=sys.stderr)
        for line in record.audit.details:
            print(f"  {line}", file=sys.stderr)
    if not quiet:
        for flag in record.flags:
            print(f"flag {flag.name}: {flag.message}. Remedy: {flag.remedy}", file=sys.stderr)


def read_bounds(text: str) -> tuple[float, float] | None:
    """The box as typed.

    >>> read_bounds("0,1"), read_bounds("none")
    ((0.0, 1.0), None)
    """
    if text.strip().lower() == "none":
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--bounds takes LOW,HIGH (for example 0,1) or none, got {text!r}") from None
    if not low < high:
        raise InputError(f"--bounds needs LOW < HIGH, got {text!r}")
    return low, high


def read_confidence(population: bool, confidence: float | None) -> float | None:
    """The confidence of the bound around the true law; None where that bound was not asked for.

    >>> read_confidence(True, None), read_confidence(False, None)
    (0.95, None)
    """
    if confidence is not None and not population:
        raise InputError("--confidence goes with --population; a proof about the samples themselves has confidence 1")
    return (0.95 if confidence is None else confidence) if population else None


def read_cost(text: str) -> float:
    """The cost of changing a label as typed.

    >>> read_cost("16/256")
    0.0625
    """
    numerator, _, denominator = text.strip().partition("/")
    try:
        cost = float(numerator) / float(denominator or 1)
    except (ValueError, ZeroDivisionError):
        raise InputError(f"--label-cost takes a number or a fraction such as 16/255, got {text!r}") from None
    if not cost > 0:
        raise InputError(f"--label-cost must be > 0 (leave it out where labels never move), got {text!r}")
    return cost


def read_norm(text: str) -> float:
    """The order of a ground norm as typed.

    >>> read_norm("Linf"), read_norm("l2")
    (inf, 2.0)
    """
    known = {"linf": float("inf"), "l2": 2.0, "l1": 1.0}
    if text.strip().lower() not in known:
        raise InputError(f"--norm takes Linf, L2 or L1, got {text!r}")
    return known[text.strip().lower()]


def read_settings(texts: tuple[str, ...]) -> dict[str, Any] | None:
    """Settings as typed, name=value, values read as JSON where they are and as text otherwise.

    >>> read_settings(("passes=500", "loss=dlr"))
    {'passes': 500, 'loss': 'dlr'}
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InputError(f"--set takes name=value, for example passes=500; got {text!r}")
        try:
            found[name.strip()] = json.loads(value)
        except json.JSONDecodeError:
            found[name.strip()] = value
    return found or None


def _notice(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if category.__module__.startswith("wassertight"):
        print(f"notice: {message}", file=sys.stderr)


def _silence(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    return None
