"""The body of `evaluate`, `attack` and `certify`: load, plan, carry out, show."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wassertight.cli.configuration import keep_configuration
from wassertight.cli.dry_run import preview
from wassertight.cli.options import DEFAULT_THREATS
from wassertight.cli.orders import Run
from wassertight.cli.reading import read_bounds
from wassertight.cli.showing import print_paths, print_table, write_pictures
from wassertight.errors import BoxNotice
from wassertight.records import Record

EXIT_AUDIT = 3


def carry_out(order: Run) -> int:
    """Run the order and show its record; returns the exit code: 0, or 3 where the audit found something wrong."""
    bounds, methods = read_bounds(order.bounds), order.methods()
    confidence, label_cost = order.claim()
    from wassertight.data import load_data
    from wassertight.evaluation import check_claim, execute, make_plan
    from wassertight.models import load_model

    check_claim(confidence, label_cost)
    with notices(quiet=order.quiet):
        plan = make_plan(
            load_model(order.model).model,
            load_data(order.data, n=order.n or None),
            list(order.threat or DEFAULT_THREATS),
            batch_size=order.batch_size,
            device=order.device,
            seed=order.seed,
            bounds=bounds,
            command=order.command,
            model_name=order.model,
            data_name=order.data,
            **methods,
        )
        directory = order.run_dir or plan.default_directory()
        keep_configuration(order)
        if order.dry_run:
            return preview(plan, directory, as_json=order.as_json)
        if not order.quiet:
            print(f"{order.command}: {order.model} on {order.data}, n = {len(plan.x)}, in {directory}", file=sys.stderr)
        report = execute(plan, run_dir=directory, progress=not order.quiet)
        if confidence is not None or math.isfinite(label_cost):
            report = report.with_claim(confidence=confidence, label_cost=label_cost)
        show(report.record, directory, as_json=order.as_json, quiet=order.quiet)
    return 0 if report.ok else EXIT_AUDIT


@contextmanager
def notices(*, quiet: bool) -> Iterator[None]:
    """Notices of this library as lines on standard error; nothing where it should be quiet."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", BoxNotice)
        warnings.showwarning = _silence if quiet else _notice
        yield


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


def _notice(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if category.__module__.startswith("wassertight"):
        print(f"notice: {message}", file=sys.stderr)


def _silence(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    return None
