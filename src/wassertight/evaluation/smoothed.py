"""A run with a smoothing certificate: votes of every image stored unit by unit, radii and record concluded from them."""

from __future__ import annotations

import dataclasses
import math
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wassertight import __version__
from wassertight.certificates import SmoothedCertificate, Verdict
from wassertight.certificates.smoothing import Smoother, Smoothing
from wassertight.certificates.smoothing.smoothed import Poll, image_threat
from wassertight.evaluation.plan import Plan, Unit, derived_seed
from wassertight.evaluation.result import Report
from wassertight.evaluation.store import Outcome, Store, Watch
from wassertight.evaluation.targets import norm_label, shared_threat
from wassertight.evaluation.units import carry_out
from wassertight.evaluation.watching import watching
from wassertight.records import Curve, DistanceSummary, Flag, PassCount, Record, Result, Seconds, Summary
from wassertight.types import InputError, Passes

_UNIT_DRAWS = 1_000_000
"""Noisy images a unit takes at most, so that a killed run loses little."""
_LARGEST_UNIT = 32
_GRID, _BINS, _BEYOND = 129, 24, 1.25


def execute_smoothed(plan: Plan, *, run_dir: str | Path | None = None, progress: bool | Watch = True) -> Report:
    """Poll the images that have no stored votes yet, judge all of them at once, and store the record.

    Raises:
        InputError: where an attack is asked for as well (it would attack the model, not the smoothed classifier), or no
            radius asked for can be reached with so many draws, whatever the votes.
    """
    method = plan.certificate
    if plan.attack is not None:
        raise InputError(
            f"{method.name!r} certifies the smoothed classifier, which {plan.attack_name!r} does not attack; "
            "use 'wassertight certify', or leave the attack out (attack=None)"
        )
    flags = _check_reach(plan, method)
    store = Store(None if run_dir is None else Path(run_dir))
    store.claim(plan.configuration)
    with watching(progress) as watch:
        poll = _poll(plan, store, watch)
    found = [method.judge(poll, plan.x, plan.y, threat) for threat in plan.threats]
    record = _record(plan, found, flags)
    arrays = {
        "x": plan.x, "y": plan.y, "weight": found[0].radii.weights, "certified_distance": found[0].radii.values,
        "picked": poll.picked, "votes": poll.votes, "probability": found[0].probability,
    }  # fmt: skip
    arrays = {name: tensor.detach().cpu().clone() for name, tensor in arrays.items()}
    if store.path is None:
        record = record.model_copy(update={"arrays": None})
    store.finish(record.to_json(), arrays)
    return Report(record=record, arrays=arrays, run_dir=store.path)


def _check_reach(plan: Plan, method: Smoother) -> list[Flag]:
    """Refuse draws that cannot certify any radius asked for; say which ones they cannot."""
    far = []
    for threat in plan.threats:
        reach = method.reach(plan.x, image_threat(method.name, threat))
        if threat.radius >= reach:
            need = method.draws_needed(plan.x, threat) if isinstance(method, Smoothing) else None
            more = (
                f"about {need} draws (n) would reach it" if need else "no number of draws reaches it: raise the noise"
            )
            far.append(
                f"{threat.name} is out of reach: at most {reach:.3g} can be certified if all votes agree; {more}"
            )
    if len(far) == len(plan.threats):
        raise InputError("; ".join(far))
    return [Flag(name="out-of-reach", message=text, remedy="more draws or more noise") for text in far]


def _poll(plan: Plan, store: Store, watch: Watch) -> Poll:
    method = plan.certificate
    draws = method.n0 + method.n if isinstance(method, Smoothing) else 500
    size = max(1, min(_LARGEST_UNIT, _UNIT_DRAWS // draws))
    threat = shared_threat(plan.threats, plan.threats[0].r)
    units = []
    for start in range(0, len(plan.x), size):
        stop = min(start + size, len(plan.x))
        unit = Unit(kind="certificate", threat=threat, shared=True, start=start, stop=stop, seed=0)
        units.append(dataclasses.replace(unit, seed=derived_seed(plan.seed, unit.key)))

    def work(unit: Unit, step: Callable[[int, int], None]) -> Outcome:
        part = slice(unit.start, unit.stop)
        torch.manual_seed(unit.seed)
        poll = method.poll(plan.model, plan.x[part], plan.y[part], batch_size=plan.batch_size, progress=step)
        facts = {"forward": poll.passes.forward, "backward": 0, "seconds": poll.seconds}
        # Radii follow from all votes at once; the name says that the unit is whole.
        return Outcome(tensors={"radii": poll.picked, "votes": poll.votes}, facts=facts)

    side = carry_out(plan, store, watch, units, work)
    (stage,) = side.outcomes
    return Poll(
        picked=side.joined(stage, "radii").to(plan.x.device), votes=side.joined(stage, "votes").to(plan.x.device),
        passes=Passes(forward=side.passes(stage).forward), seconds=side.seconds(stage) or 0.0,
    )  # fmt: skip


def _record(plan: Plan, found: list[SmoothedCertificate], flags: list[Flag]) -> Record:
    results = [
        Result(
            threat=one.threat.name, p=one.threat.order, r=one.threat.r, radius=one.threat.radius, clean=one.clean,
            certified=min(one.accuracy, one.clean), passes=PassCount(forward=one.passes.forward),
            seconds=Seconds(certificate=round(one.seconds, 3)),
        )
        for one in found
    ]  # fmt: skip
    first = found[0]
    distances = DistanceSummary(certified=_summary(first))
    configuration = {key: v for key, v in plan.configuration.items() if key not in ("model", "data", "n", "seed")}
    return Record(
        command=plan.command, model=plan.model_name, data=plan.data_name, n=len(plan.x), seed=plan.seed,
        versions={"wassertight": __version__, "torch": str(torch.__version__), "python": platform.python_version()},
        results=results, distances=distances, distances_by_norm={norm_label(first.threat.r): distances}, flags=flags,
        device=plan.device.type, settings=configuration | {"smoothing": smoothing_facts(first)},
        methods={"attack": None, "certificate": plan.certificate_name}, assumptions=list(first.assumptions),
        passes=PassCount(forward=first.passes.forward), seconds=Seconds(certificate=round(first.seconds, 3)),
        arrays="arrays.safetensors", curves=_curves(found),
    )  # fmt: skip


def smoothing_facts(found: SmoothedCertificate) -> dict[str, Any]:
    """What a record keeps of a smoothing certificate: its noise and draws, how images ended, radii as a histogram."""
    radii = found.radii.values[[verdict is Verdict.CERTIFIED for verdict in found.verdicts]].cpu()
    top = float(radii.max()) if len(radii) and float(radii.max()) > 0 else 1.0
    return {
        "sigma": _or_none(found.sigma), "kappa": _or_none(found.kappa), "n0": found.n0, "n": found.n, "alpha": found.alpha,
        "rule": found.rule, "allowance": found.allowance, "confidence": found.confidence, "reach": found.reach,
        **{verdict.value: found.share(verdict) for verdict in Verdict},
        "median": float(found.radii.values.median()),
        "histogram": {
            "edges": torch.linspace(0, top, _BINS + 1, dtype=torch.float64).tolist(),
            "counts": torch.histc(radii, _BINS, 0, top).to(torch.int64).tolist(),
        },
    }  # fmt: skip


def _curves(found: list[SmoothedCertificate]) -> list[Curve]:
    """Pointwise and average budgets, and the orders asked for."""
    first = found[0]
    top = max(_BEYOND * max(one.threat.radius for one in found), 1.05 * float(first.radii.values.max())) or 1.0
    radii = torch.linspace(0, top, _GRID, dtype=torch.float64)
    orders = sorted({1.0, math.inf, *(one.threat.order for one in found)})
    return [
        Curve(p=p, r=first.threat.r, radii=radii.tolist(), certified=first.curve(p, radii).tolist()) for p in orders
    ]


def _summary(found: SmoothedCertificate) -> Summary | None:
    values: Tensor = found.radii.values[[verdict is not Verdict.WRONG for verdict in found.verdicts]]
    return Summary(mean=float(values.mean()), median=float(values.quantile(0.5))) if len(values) else None


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
