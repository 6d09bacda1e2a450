"""A run on a smoothed classifier: votes and attacks stored unit by unit, radii and record concluded from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from wassertight.certificates.smoothing import NoisyVotes, SmoothedCertificate, Smoother, Smoothing, Verdict
from wassertight.certificates.smoothing.smoothed import Poll, image_threat
from wassertight.evaluation.plan import Plan, Unit, derived_seed
from wassertight.evaluation.result import Report
from wassertight.evaluation.smoothed_attack import attack_smoothed, check_pair
from wassertight.evaluation.smoothed_record import conclude_smoothed
from wassertight.evaluation.store import Outcome, Store, Watch
from wassertight.evaluation.targets import shared_threat
from wassertight.evaluation.units import carry_out
from wassertight.evaluation.watching import watching
from wassertight.records import Flag
from wassertight.types import InputError, Passes

_UNIT_DRAWS = 1_000_000
"""Noisy images a unit takes at most, so that a killed run loses little."""
_LARGEST_UNIT = 32


def execute_smoothed(plan: Plan, *, run_dir: str | Path | None = None, progress: bool | Watch = True) -> Report:
    """Poll and attack the images that have nothing stored yet, judge all of them at once, and store the record.

    Raises:
        InputError: where the two sides are not about the same classifier, or (without an attack) no radius asked for can
            be reached with so many draws, whatever the votes.
    """
    method = plan.certificate
    check_pair(plan)
    flags = [] if method is None else _check_reach(plan, method)
    store = Store(None if run_dir is None else Path(run_dir))
    store.claim(plan.configuration)
    poll, found, attacked = None, [], None
    with watching(progress) as watch:
        if method is not None:
            poll = _poll(plan, store, watch)
            found = [method.judge(poll, plan.x, plan.y, threat) for threat in plan.threats]
        if plan.attack is not None:
            right = None
            if found and isinstance(found[0], SmoothedCertificate):
                right = torch.tensor([v is Verdict.CERTIFIED for v in found[0].verdicts], device=plan.x.device)
            attacked = attack_smoothed(plan, store, watch, right)
    record, arrays = conclude_smoothed(plan, poll, found, attacked, flags)
    if store.path is None:
        record = record.model_copy(update={"arrays": None})
    store.finish(record.to_json(), arrays)
    return Report(record=record, arrays=arrays, run_dir=store.path)


def _check_reach(plan: Plan, method: Smoother[Any]) -> list[Flag]:
    """Refuse draws that cannot certify any radius asked for (where nothing else is asked); say which ones they cannot."""
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
    if plan.attack is None and len(far) == len(plan.threats):
        raise InputError("; ".join(far))
    return [Flag(name="out-of-reach", message=text, remedy="more draws or more noise") for text in far]


def _poll(plan: Plan, store: Store, watch: Watch) -> Poll:
    method = plan.certificate
    draws = method.n0 + method.n if isinstance(method, Smoothing) else 500
    size = max(1, min(_LARGEST_UNIT, _UNIT_DRAWS // draws))
    if isinstance(method, NoisyVotes):
        size = max(1, min(len(plan.x), 20_000 // method.n))
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
