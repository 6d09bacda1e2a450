"""The body of `train` and `finetune`: flags over recipe over defaults, a run, and the evaluation of start and end."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from wassertight.cli.configuration import keep_configuration
from wassertight.cli.dry_run import preview_training
from wassertight.cli.reading import read_settings
from wassertight.cli.training import Finetune, Training
from wassertight.errors import DataError, InputError, nearest
from wassertight.files import holds, write_whole

_FINETUNING = {
    "epochs": 10, "batch_size": 256, "optimiser": "sgd", "rate": 0.01, "nesterov": True, "schedule": "cosine", "ema": 0.995
}  # fmt: skip
_SECTIONS = {
    "objective": {"name", "threat", "settings"},
    "model": {"name", "perturb", "reset_last_layer"},
    "data": {"name", "n", "validation"},
    "evaluation": {"threats", "n", "preset"},
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be done, flags and recipe taken together; its hash names the run directory."""

    command: str
    objective: str
    threat: str | None
    objective_settings: dict[str, Any]
    model: str
    perturb: float
    reset_last_layer: bool
    data: str
    n: int | None
    validation: int | None
    training: dict[str, Any]
    evaluation_threats: tuple[str, ...]
    evaluation_n: int
    preset: str | None
    certificate: str

    def directory(self) -> Path:
        """`runs/<objective>-<hash>`: the same command finds the same directory again."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:8]
        return Path("runs") / f"{self.objective.replace('+', '-')}-{digest}"


def read_recipe(path: Path) -> dict[str, Any]:
    """The sections of a recipe.

    Raises:
        DataError: not readable, or with sections and keys that recipes do not have.
    """
    from wassertight.training import Settings

    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"{path} is not a readable recipe: {error}") from error
    allowed = _SECTIONS | {"training": {item.name for item in fields(Settings)}}
    for section, keys in content.items():
        if section in ("source", "note"):
            continue
        unknown = sorted(set(keys) - allowed.get(section, set())) if isinstance(keys, dict) else [section]
        if section not in allowed or unknown:
            raise DataError(f"{path}: unknown {section!r} {unknown}; sections and keys: {allowed}")
    return content


def read_job(order: Training) -> Job:
    """Flags over recipe over defaults.

    Raises:
        InputError, DataError: settings that do not exist or are missing.
    """
    recipe = read_recipe(order.recipe) if order.recipe is not None else {}
    part = {name: recipe.get(name, {}) for name in (*_SECTIONS, "training")}
    fine = isinstance(order, Finetune)
    objective = order.objective or part["objective"].get("name") or ("w-dro" if fine else "trades")
    flags = {"epochs": order.epochs, "batch_size": order.batch_size, "rate": order.rate, "seed": order.seed}
    training = {
        **(_FINETUNING if fine else {}),
        **part["training"],
        **(read_settings(order.training) or {}),
        **{key: value for key, value in flags.items() if value is not None},
    }
    own = part["objective"].get("settings", {}) if objective == part["objective"].get("name", objective) else {}
    model = order.model or part["model"].get("name") or (None if fine else "digits-mlp-64")
    if model is None:
        raise InputError("finetune needs --model, the trained network to start from")
    threat = order.threat or part["objective"].get("threat")
    return Job(
        command=order.command,
        objective=objective,
        threat=threat,
        objective_settings={**own, **(read_settings(order.setting) or {})},
        model=model,
        perturb=(order.perturb if isinstance(order, Finetune) else 0.0) or part["model"].get("perturb", 0.0),
        reset_last_layer=(isinstance(order, Finetune) and order.reset_last_layer)
        or part["model"].get("reset_last_layer", False),
        data=order.data or part["data"].get("name", "digits"),
        n=order.n or part["data"].get("n"),
        validation=part["data"].get("validation") if order.validation is None else order.validation,
        training=training,
        evaluation_threats=tuple(order.evaluate_threat or part["evaluation"].get("threats", ()) or around(threat)),
        evaluation_n=order.evaluate_n if order.evaluate_n is not None else part["evaluation"].get("n", 200),
        preset=order.preset or part["evaluation"].get("preset"),
        certificate=order.certificate,
    )


def around(threat: str | None) -> tuple[str, ...]:
    """Pointwise, W_1 and W_2 threats at the radius of a threat string.

    >>> around("W2-Linf@8/255")
    ('Linf@8/255', 'W1-Linf@8/255', 'W2-Linf@8/255')
    """
    if threat is None:
        return ("Linf@0.05", "W1-Linf@0.05", "W2-Linf@0.05")
    ball = threat.strip().rpartition("-")[2]
    return (ball, f"W1-{ball}", f"W2-{ball}")


def carry_out(order: Training) -> int:
    """Train, evaluate start and end, save, show."""
    job = read_job(order)
    from wassertight.data import load_data
    from wassertight.evaluation.plan import fingerprint_model
    from wassertight.models import load_model, new_model, save_network
    from wassertight.threats import threat
    from wassertight.training import cheap_attack, make_objective, perturb_once, reset_last_layer, train
    from wassertight.training.batches import held_out
    from wassertight.training.checkpoints import LAST, load_weights

    ball = None if job.threat is None else threat(job.threat)
    objective = make_objective(job.objective, ball, job.objective_settings)
    settings = settings_of(job.training)
    data = load_data(job.data, split="train", n=job.n)
    count = min(1000, len(data.y) // 10) if job.validation is None else job.validation
    kept, apart = held_out(data.y, count, seed=0)
    if job.command == "finetune" or ":" in job.model:
        start = load_model(job.model)
    else:
        start = new_model(job.model, classes=max(10, int(data.y.max()) + 1), seed=settings.seed)
    if start.input_shape is not None and tuple(data.x.shape[1:]) != start.input_shape:
        raise InputError(f"{job.model} takes inputs {start.input_shape}, {job.data} has {tuple(data.x.shape[1:])}")
    directory = order.run_dir or job.directory()
    before = copy.deepcopy(start.model)
    model: Any = start.model
    if job.perturb:
        perturb_once(model, job.perturb, seed=settings.seed)
    if job.reset_last_layer:
        reset_last_layer(model, seed=settings.seed)
    start_file = directory / "start.json"
    begun = {
        "start": job.model, "start_weights": fingerprint_model(before), "perturb": job.perturb,
        "reset_last_layer": job.reset_last_layer,
    }  # fmt: skip
    known = holds(start_file, begun, "a training run from another start")
    x, y = data.x, data.y
    keep_configuration(order)
    if order.dry_run:
        facts = {
            "command": job.command, "objective": job.objective, "threat": job.threat, "start": job.model,
            "data": f"{len(kept)} images of {job.data}, {count} more for validation",
            "evaluation": list(job.evaluation_threats) if order.evaluate else None,
        }  # fmt: skip
        after = _plan(model, _test_data(job), job, order, settings.seed) if order.evaluate else None
        pair = (x[kept], y[kept])
        return preview_training(facts, model, pair, objective, settings, after, directory, as_json=order.as_json)
    if not order.quiet:
        print(
            f"{job.command}: {job.objective} on {job.data}, {len(kept)} images, {count} for validation, in {directory}",
            file=sys.stderr,
        )
    if not known and not (directory / "training.json").exists():
        directory.mkdir(parents=True, exist_ok=True)
        write_whole(start_file, (json.dumps(begun, indent=1) + "\n").encode())
    trained = train(
        model, (x[kept], y[kept]), objective, settings,
        validate=cheap_attack(x[apart], y[apart], ball) if count else None,
        run_dir=directory, device=order.device, progress=not (order.quiet or order.as_json),
    )  # fmt: skip
    what = f"{job.objective} {objective.threat.name if getattr(objective, 'threat', None) else ''}".strip()
    network = save_network(start, directory, training=f"wassertight {job.command} {what}, seed {settings.seed}")
    result: dict[str, Any] = {
        "schema": 1, "command": job.command, **{k: v for k, v in asdict(job).items() if k != "command"},
        "network": network, "best_epoch": trained.best_epoch, "score": trained.score, "ending": trained.ending,
        "passes": {"forward": trained.passes.forward, "backward": trained.passes.backward},
        "seconds": round(trained.seconds, 3), "notices": list(trained.notices), "history": trained.history,
        "start": None, "end": None,
    }  # fmt: skip
    if order.evaluate:
        last: Any = copy.deepcopy(before)
        load_weights(last, directory / LAST)
        test = _test_data(job)
        for key, network_ in (("start", before), ("end", model), ("last", last)):
            result[key] = _evaluated(network_, test, key, job, order, directory, settings.seed)
    write_whole(directory / "result.json", (json.dumps(result, indent=1) + "\n").encode())
    _show(result, order, directory)
    return 0


def settings_of(values: Mapping[str, Any]) -> Any:
    """Training settings from names and values; lists become tuples.

    Raises:
        InputError: for a name that is no setting.
    """
    from wassertight.training import Settings

    known = {item.name for item in fields(Settings)}
    for key in values:
        if key not in known:
            near = nearest(key, known)
            raise InputError(f"no training setting {key!r}; did you mean {near!r}? Allowed: {', '.join(sorted(known))}")
    plain: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return Settings(**plain)


def _evaluated(
    model: Any, test: Any, name: str, job: Job, order: Training, directory: Path, seed: int
) -> list[dict[str, Any]]:
    from wassertight.evaluation import execute

    plan = _plan(model.eval(), test, job, order, seed, name)
    report = execute(plan, run_dir=directory / f"evaluation-{name}", progress=not (order.quiet or order.as_json))
    return [json.loads(result.model_dump_json()) for result in report.results]


def _test_data(job: Job) -> Any:
    from wassertight.data import load_data

    return load_data(job.data, n=job.evaluation_n or None)


def _plan(model: Any, test: Any, job: Job, order: Training, seed: int, name: str = "start") -> Any:
    from wassertight.evaluation import make_plan

    return make_plan(
        model, test, list(job.evaluation_threats),
        attack="wda++", certificate=None if job.certificate == "none" else job.certificate, preset=job.preset,
        seed=seed, device="cpu" if order.device == "cpu" else "auto", skip_unsupported=True,
        model_name=name, data_name=job.data,
    )  # fmt: skip


def _show(result: Mapping[str, Any], order: Training, directory: Path) -> None:
    if order.as_json:
        print(json.dumps(result))
        return
    from wassertight.cli.showing import print_paths, print_rows

    for notice in result["notices"]:
        print(f"notice: {notice}", file=sys.stderr)
    if result["end"] is not None:
        columns = ["threat"] + [f"{side} {when}" for side in ("clean", "attacked") for when in ("start", "end", "last")]
        rows = [
            [r["threat"], *(_percent(result[when][i][side]) for side in ("clean", "attacked") for when in ("start", "end", "last"))]
            for i, r in enumerate(result["end"])
        ]  # fmt: skip
        print_rows(f"{result['objective']}: start, kept weights (epoch {result['best_epoch']}) and last", columns, rows)
    print_paths([Path(result["network"]), directory / "log.csv", directory / "result.json"])


def _percent(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{100 * value:.1f} %"
