"""`--dry-run`: what a command would do, how long it would take about, and what is there already; writes nothing."""

from __future__ import annotations

import copy
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wassertight.files import holds


def preview(plan: Any, directory: Path, *, as_json: bool) -> int:
    """Show the plan of `evaluate`, `attack` or `certify`."""
    from wassertight.evaluation.forecast import forecast
    from wassertight.evaluation.store import Store

    store = Store(directory)
    there = store.holds(plan.configuration)
    found = forecast(plan, store)
    state = "new"
    if there and (directory / "record.json").exists():
        state = "finished: the same command shows it again"
    elif there:
        state = f"{found.stored} of {found.units} units are stored; the same command goes on from there"
    return _show(
        {
            "command": plan.command, "model": plan.model_name, "data": plan.data_name, "n": len(plan.x),
            "threats": [threat.name for threat in plan.threats], "attack": plan.configuration["attack"],
            "certificate": plan.configuration["certificate"], "device": str(plan.device), "seed": plan.seed,
            "speed": _speed(found.speed), "attack_passes": _passes(found.attack), "attack_seconds": found.attack_seconds,
            "certificate_seconds": found.certificate_seconds, "run_dir": str(directory), "state": state,
            "units": {"stored": found.stored, "all": found.units},
        },
        as_json,
    )  # fmt: skip


def preview_training(
    facts: Mapping[str, Any], model: Any, data: Any, objective: Any, settings: Any, evaluation: Any, directory: Path, *,
    as_json: bool,
) -> int:  # fmt: skip
    """Show a training run: one step of it is made on a copy of the network, and one look at its evaluation."""
    from wassertight.evaluation.forecast import forecast, measure_speed
    from wassertight.evaluation.store import Store
    from wassertight.training import Context
    from wassertight.training.batches import make_batches
    from wassertight.training.checkpoints import configuration, read_checkpoint
    from wassertight.training.logs import PassCounter

    x, y = data
    batches = make_batches(data, settings, (0.0, 1.0), 1, x.device)
    steps, step = settings.length(batches.count()), 0
    there = holds(
        directory / "training.json", configuration(model, batches, objective, settings), "another training run"
    )
    if there:
        step = ((read_checkpoint(directory) or {}).get("at") or {"step": 0})["step"]
    state = f"step {step} of {steps} is stored; the same command goes on from there" if there else "new"
    state = "finished: the same command shows it again" if step == steps else state
    tried, context = copy.deepcopy(model).train(), Context(samples=len(x), craft_mode=settings.craft_mode)
    objective.prepare(tried, x[:2048], y[:2048], context)
    counter, begun = PassCounter(tried), time.perf_counter()
    x, y = x[: settings.batch_size], y[: settings.batch_size]
    objective.outer(tried, objective.craft(tried, x, y, context), context).loss.backward()
    seconds = (time.perf_counter() - begun) * steps
    counter.close()
    images = steps * settings.batch_size
    passes = {"forward": counter.forward * steps, "backward": counter.backward * steps}
    after = None if evaluation is None else forecast(evaluation, Store(None))
    return _show(
        {
            **facts, "images": images, "steps": steps, "speed": _speed(measure_speed(model, x)),
            "training_passes": passes, "training_seconds": seconds,
            # start, kept and last weights
            "evaluation_seconds": None if after is None else 3 * sum(
                value or 0.0 for value in (after.attack_seconds, after.certificate_seconds)
            ),
            "run_dir": str(directory), "state": state,
        },
        as_json,
    )  # fmt: skip


def duration(seconds: float | None) -> str:
    """Seconds in the unit one would say.

    >>> duration(0.2), duration(90), duration(8000), duration(None)
    ('less than 1 s', '90 s', '2.2 h', 'not known beforehand')
    """
    if seconds is None:
        return "not known beforehand"
    if seconds < 1:
        return "less than 1 s"
    if seconds <= 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _speed(speed: Any) -> dict[str, Any]:
    return {"forward": round(speed.forward, 1), "forward_backward": round(speed.backward, 1), "batch": speed.batch}


def _passes(passes: Any) -> dict[str, int] | None:
    return None if passes is None else {"forward": passes.forward, "backward": passes.backward}


def _show(facts: dict[str, Any], as_json: bool) -> int:
    if as_json:
        print(json.dumps({"schema": 1, "dry_run": True, **facts}))
        return 0
    width = max(len(name) for name in facts)
    sys.stdout.write(
        f"{facts['command']} would do this (dry run: nothing was written; passes and times are estimates)\n"
    )
    for name, value in facts.items():
        side = name.partition("_")[0]
        if name != "command" and (side == name or facts.get(side, "") is not None):
            sys.stdout.write(f"  {name.replace('_', ' '):{width}}  {_text(name, value)}\n")
    return 0


def _text(name: str, value: Any) -> str:
    if name.endswith("seconds"):
        return duration(value)
    if value is None:
        return "-"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    if name == "speed":
        return (
            f"{value['forward']:,.0f} images/s forward, {value['forward_backward']:,.0f} forward and backward, "
            f"in batches of {value['batch']}"
        )
    if name.endswith("passes"):
        return f"{value['forward']:,} forward, {value['backward']:,} backward"
    if name == "units":
        return f"{value['stored']} of {value['all']} stored"
    if isinstance(value, Mapping):
        rest = ", ".join(f"{key}={item}" for key, item in value.items() if key != "name")
        return f"{value['name']} ({rest})" if rest else str(value["name"])
    return f"{value:,}" if isinstance(value, int) and name in ("images", "steps") else str(value)
