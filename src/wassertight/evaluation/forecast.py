"""What a run will cost, before it is run: passes counted on a stand-in, time measured from single passes of the model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wassertight.attacks import Problem, SmoothedFrankWolfe
from wassertight.certificates import Auto, BranchAndBound, InputSplit, LinearPropagation
from wassertight.certificates.smoothing import Smoother, Smoothing
from wassertight.evaluation.plan import Plan, Unit
from wassertight.evaluation.store import Store
from wassertight.queries import ModelQueries
from wassertight.types import Model, Passes

_TRIED = 2
"""Samples a method is tried on."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Samples a second through a model, and the seconds that so many passes take.

    Attributes:
        forward: without gradient.
        backward: forward and backward, gradient in the inputs.
        batch: samples a pass, as measured.
    """

    forward: float
    backward: float
    batch: int

    def seconds(self, passes: Passes) -> float:
        """Time of so many passes; every backward pass needs a forward one with gradient."""
        return max(0, passes.forward - passes.backward) / self.forward + passes.backward / self.backward


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """An estimate of a run; None where it cannot be known beforehand.

    Attributes:
        speed: of the model here.
        attack: passes of the attack over all samples and threats, at most about.
        attack_seconds, certificate_seconds: time of either side, at most about.
        stored, units: units of work that the run directory holds, and that there are.
    """

    speed: Speed
    attack: Passes | None
    attack_seconds: float | None
    certificate_seconds: float | None
    stored: int
    units: int


def measure_speed(model: Model, x: Tensor, *, seconds: float = 0.3) -> Speed:
    """Time passes of a batch for about so many seconds each way, after one to warm up.

    >>> measure_speed(nn.Linear(2, 3), torch.zeros(4, 2), seconds=0.01).batch
    4
    """
    with ModelQueries(model, batch_size=len(x)) as queries:
        y = queries.logits(x).argmax(1)
        forward = _rate(lambda: queries.logits(x), x, seconds)
        backward = _rate(lambda: queries.gradient(x, y, lambda logits, _: logits.sum(1)), x, seconds)
    return Speed(forward=forward, backward=backward, batch=len(x))


def _rate(work: Callable[[], object], x: Tensor, seconds: float) -> float:
    work()
    begun, rounds = time.perf_counter(), 0
    while rounds == 0 or time.perf_counter() - begun < seconds:
        work()
        rounds += 1
    return rounds * len(x) / (time.perf_counter() - begun)


def forecast(plan: Plan, store: Store) -> Forecast:
    """Passes and time of a plan, at most about, and what is stored already; nothing is written.

    Passes are those that the attack makes on linear stand-ins, the dearer of one that never gives way and one that does; the certificate is tried on two samples of the model itself, without the searches of "auto", "bab" and "input-split".
    """
    speed = measure_speed(plan.model, plan.x[: plan.batch_size])
    passes, own = (None, 0.0) if plan.attack is None else _attack_passes(plan)
    units = [unit for kind in ("attack", "certificate") for unit in plan.units(kind)]
    return Forecast(
        speed=speed,
        attack=passes,
        attack_seconds=None if passes is None else speed.seconds(passes) + own,
        certificate_seconds=None if plan.certificate is None else _certificate_seconds(plan, speed),
        stored=sum(store.holds_unit(unit.key) for unit in units),
        units=len(units),
    )


class _StandIn(nn.Module):
    """A linear classifier, cheap to ask; so sure of class 0 that no search succeeds, or evenly undecided."""

    def __init__(self, features: int, classes: int, sure: float) -> None:
        super().__init__()
        self.body = nn.Linear(features, classes)
        with torch.no_grad():
            self.body.bias[0] += sure

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x.flatten(1))
        return out


def _attack_passes(plan: Plan) -> tuple[Passes | None, float]:
    """Passes of the dearer stand-in, and seconds of the method's own arithmetic.

    Searches at a radius end early where they succeed, searches for flips where they do not.
    """
    if isinstance(plan.attack, SmoothedFrankWolfe):
        return None, 0.0
    with ModelQueries(plan.model) as queries:
        classes = queries.logits(plan.x[:1]).shape[1]
    x = plan.x[:_TRIED].cpu()
    units = list(plan.units("attack"))
    total, own = Passes(), 0.0
    for stage in dict.fromkeys(unit.stage for unit in units):
        mine = [unit for unit in units if unit.stage == stage]
        tried = [_tried(plan, mine[0], x, classes, sure) for sure in (0.0, 1e4)]
        one, seconds = max(tried, key=lambda pair: pair[0].total)
        own += seconds * len(mine)
        share = sum(unit.stop - unit.start for unit in mine) / len(x)
        total += Passes(forward=math.ceil(one.forward * share), backward=math.ceil(one.backward * share))
    cost = getattr(plan.model, "draws", 1)
    return Passes(forward=total.forward * cost, backward=total.backward * cost), own


def _tried(plan: Plan, unit: Unit, x: Tensor, classes: int, sure: float) -> tuple[Passes, float]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        model = _StandIn(x[0].numel(), classes, sure).to(x.dtype)
    with ModelQueries(model) as queries:
        y = queries.logits(x).argmax(1)
        begun = time.perf_counter()
        plan.attack.find(Problem(queries=queries, x=x, y=y, threat=unit.threat, seed=plan.seed))
        return queries.passes, time.perf_counter() - begun


def _certificate_seconds(plan: Plan, speed: Speed) -> float | None:
    method, n = plan.certificate, len(plan.x)
    if isinstance(method, Smoothing):
        return n * (method.n0 + method.n) / speed.forward
    if isinstance(method, Smoother):
        return None
    if isinstance(method, (Auto, BranchAndBound, InputSplit)):
        method = LinearPropagation(precision=method.precision)
    units = list(plan.units("certificate"))
    x, y = plan.x[:_TRIED], plan.y[:_TRIED]
    total = 0.0
    for threat in {unit.stage: unit.threat for unit in units}.values():
        method(plan.model, x[:1], y[:1], threat)
        begun = time.perf_counter()
        method(plan.model, x, y, threat)
        total += (time.perf_counter() - begun) * n / len(x)
    return total
