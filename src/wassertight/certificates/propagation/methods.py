"""Certificates by bound propagation: intervals, CROWN-IBP, CROWN, optimised slopes, branch and bound."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from wassertight.certificates.base import CertificateMethod, Proved, Task
from wassertight.certificates.propagation.branching import Effort, Search
from wassertight.certificates.propagation.forward import propagation_of
from wassertight.certificates.propagation.propagation import Propagation
from wassertight.certificates.propagation.radii import PRECISIONS, RadiusSearch, Reading
from wassertight.threats import ThreatModel
from wassertight.transport import FlipDistances
from wassertight.types import InputError, Passes, Status

_BATCH = 64
_CLOSED = 0.01
"""A bracket narrower than this, relatively, is not worth branching."""


@runtime_checkable
class _Settings(Protocol):
    """What bracketing asks of a method."""

    @property
    def tolerance(self) -> float: ...
    @property
    def steps(self) -> int: ...
    @property
    def precision(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class LinearPropagation(CertificateMethod):
    """Certified radii by backward linear bound propagation (CROWN, 1811.00866) in l_1, l_2 or l_inf balls cut by the box.

    Problem: the largest t with `min over ||z - x||_r <= t, z in the box, j != y of z_y - z_j > 0` provable by linear
    enclosures. Reads every model that `torch.export` records (residual sums, pooling, BatchNorm, LayerNorm, smooth
    activations, attention). The radius of a sample is the largest one that was verified, found by batched bracketing
    to a relative `tolerance`; on a network without activations it is exact.

    Args:
        tolerance: relative width at which the bracket of a radius is closed.
        steps: propagations a sample at most.
        precision: "float64"; "float32" (two to three times faster, with a larger allowance for rounding); or "auto":
            float64 for networks of at most 1,024 hidden units and for float64 models, else float32.

    Raises:
        UnsupportedLayerError: names the first operation that cannot be bounded, and its place.

    >>> from wassertight.threats import PointwiseBall
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    >>> _ = model[0].load_state_dict({"weight": torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), "bias": torch.zeros(2)})
    >>> ball = PointwiseBall(radius=0.2, r=2.0, bounds=(-1.0, 1.0))
    >>> found = LinearPropagation()(model, torch.tensor([[0.25, 0.5]]), torch.tensor([0]), ball)
    >>> round(float(found.radii.values[0]), 4), found.accuracy
    (0.25, 1.0)
    """

    name: ClassVar[str] = "crown"

    tolerance: float = 1e-3
    steps: int = 14
    precision: str = "auto"

    def __post_init__(self) -> None:
        check_settings(self.tolerance, self.steps, self.precision)

    def prove(self, task: Task) -> Proved:
        """Radii by CROWN."""
        return bracketed(self, task, "crown")


@dataclass(frozen=True, kw_only=True)
class IntervalPropagation(CertificateMethod):
    """Certified radii by interval bound propagation (1810.12715): cheap, and tight only for networks trained for it.

    Args:
        tolerance, steps, precision: as for LinearPropagation.
    """

    name: ClassVar[str] = "interval"

    tolerance: float = 1e-3
    steps: int = 20
    precision: str = "auto"

    def __post_init__(self) -> None:
        check_settings(self.tolerance, self.steps, self.precision)

    def prove(self, task: Task) -> Proved:
        """Radii by intervals."""
        return bracketed(self, task, "interval")


@dataclass(frozen=True, kw_only=True)
class CrownIBP(CertificateMethod):
    """Certified radii by intervals inside and backward linear bounds of the margins (CROWN-IBP, 1906.06316).

    Between the two in cost and tightness; the one to try where CROWN is too slow.

    Args:
        tolerance, steps, precision: as for LinearPropagation.
    """

    name: ClassVar[str] = "crown-ibp"

    tolerance: float = 1e-3
    steps: int = 16
    precision: str = "auto"

    def __post_init__(self) -> None:
        check_settings(self.tolerance, self.steps, self.precision)

    def prove(self, task: Task) -> Proved:
        """Radii by CROWN-IBP."""
        return bracketed(self, task, "crown-ibp")


@dataclass(frozen=True, kw_only=True)
class BranchAndBound(CertificateMethod):
    """Certified radii by CROWN, then optimised slopes and branch and bound over ReLU signs (2011.13824, 2103.06624).

    Every sample whose bracket between certificate and attack is open is searched for `seconds`; the radius proved last
    is returned, so more time never gives less. Networks without ReLUs gain from optimised slopes only where they have
    hinges; else the radii are CROWN's.

    Args:
        seconds: wall time a sample.
        tolerance: relative width of the bracket at which a sample is done.
        leaves, batch, ascents, tries: see `branching.Effort`.
        precision: as for LinearPropagation.
    """

    name: ClassVar[str] = "bab"

    seconds: float = 10.0
    tolerance: float = 1e-3
    leaves: int = 20_000
    batch: int = 48
    ascents: int = 4
    tries: int = 3
    precision: str = "auto"

    def __post_init__(self) -> None:
        check_settings(self.tolerance, self.leaves, self.precision)
        if not self.seconds > 0:
            raise InputError(f"seconds must be positive, got {self.seconds}")
        for name in ("batch", "ascents", "tries"):
            if getattr(self, name) < (1 if name in ("batch", "tries") else 0):
                raise InputError(f"{name} must not be negative (batch and tries at least 1), got {getattr(self, name)}")

    def prove(self, task: Task) -> Proved:
        """CROWN's radii first, as upper ends allow, then the search of every open sample."""
        reading = Reading.of(task, self.precision)
        first = bracketed(LinearPropagation(precision=self.precision), task, "crown", reading)
        return self.improve(task, first, range(len(task.x)), reading)

    def improve(
        self,
        task: Task,
        first: Proved,
        rows: Sequence[int],
        reading: Reading | None = None,
        goal: float | None = None,
    ) -> Proved:
        """Proved radii grown by branch and bound for the given samples, in their order; to `goal` alone if given."""
        reading = reading or Reading.of(task, self.precision)
        effort = Effort(
            seconds=self.seconds, leaves=self.leaves, batch=self.batch, ascents=self.ascents,
            tries=self.tries,
        )  # fmt: skip
        propagation = Propagation(reading.graph, task.threat.r, rounding=reading.rounding)
        search = Search(propagation, task.threat.bounds, effort)
        radii = first.radii.clone()
        chosen = [i for i in rows if float(radii[i]) < float(task.upper[i]) / (1 + self.tolerance)]
        for done, i in enumerate(chosen):
            x = task.x[i : i + 1].to(reading.dtype)
            found = search.run(x, task.y[i : i + 1], float(radii[i]), float(task.upper[i]), self.tolerance, goal)
            radii[i] = max(float(radii[i]), found)
            task.tell(done + 1, len(chosen))
        return dataclasses.replace(
            first,
            radii=radii,
            steps=first.steps + search.splits,
            converged=bool((radii >= task.upper / (1 + 2 * self.tolerance)).all()),
            passes=first.passes + Passes(backward=search.evaluations),
        )


@dataclass(frozen=True, kw_only=True)
class Auto(CertificateMethod):
    """The cheapest certificate first, branch and bound only where it can still move the threat's certified accuracy.

    For finite p the knapsack buys the samples with the smallest radii; samples beyond its threshold cannot move the
    value, so they are left alone. Samples are searched in the order of their radii, and the threshold, which rises as
    radii grow, is looked at after every one. For p = inf only samples with radius <= the threat's are searched.

    Args:
        seconds: wall time a searched sample.
        total: wall time of all searches together; None for no limit.
        precision: as for LinearPropagation.
    """

    name: ClassVar[str] = "auto"

    seconds: float = 10.0
    total: float | None = None
    precision: str = "auto"

    def __post_init__(self) -> None:
        BranchAndBound(seconds=self.seconds, precision=self.precision)
        if self.total is not None and not self.total > 0:
            raise InputError(f"total must be positive or None, got {self.total}")

    def prove(self, task: Task) -> Proved:
        """CROWN everywhere, then one open sample after the other."""
        reading = Reading.of(task, self.precision)
        proved = bracketed(LinearPropagation(precision=self.precision), task, "crown", reading)
        end = time.perf_counter() + (float("inf") if self.total is None else self.total)
        method = BranchAndBound(seconds=self.seconds, precision=self.precision)
        quiet = dataclasses.replace(task, progress=None)
        # a verified radius counts as inside its own closed ball, so p = inf needs the threat's radius itself
        goal = task.threat.radius if math.isinf(task.threat.p) else None
        searched: set[int] = set()
        while time.perf_counter() < end:
            rows = [i for i in matters(proved.radii, task.upper, task.weights, task.threat) if i not in searched]
            if not rows:
                return proved
            proved = method.improve(quiet, proved, rows[:1], reading, goal)
            searched.add(rows[0])
            task.tell(len(searched), len(searched) + len(rows) - 1)
        return dataclasses.replace(proved, status=Status.STAGNATED if searched else proved.status)


def matters(radii: Tensor, upper: Tensor, weights: Tensor, threat: ThreatModel) -> list[int]:
    """Samples whose growing radius can raise the certified accuracy of a threat, smallest radius first.

    Args:
        radii, upper: proved radii and attack distances (n,) of the samples answered rightly.
        weights: their mass (n,); what is missing to 1 is misclassified already.
    """
    ajar = upper > radii * (1 + _CLOSED)
    if math.isinf(threat.p):
        ajar &= (radii < threat.radius) & (upper > threat.radius)
    elif threat.radius > 0 and len(radii):
        mass = float(weights.sum())
        # misclassified samples are free: the whole budget goes to the rest, over the rest's share of the mass
        budget = threat.radius / mass ** (1 / threat.p)
        found = FlipDistances.certified(radii, weights / mass, closed=True)
        ajar &= radii <= found.allocate(threat.p, budget).threshold
    return [int(i) for i in radii.argsort() if threat.radius > 0 and bool(ajar[i])]


def bracketed(method: _Settings, task: Task, kind: str, reading: Reading | None = None) -> Proved:
    """Radii by batched bracketing, with bounds of a kind (see `forward.propagation_of`)."""
    if len(task.x) == 0:
        return Proved(radii=torch.zeros(0, dtype=torch.float64, device=task.x.device), assumptions=())
    reading = reading or Reading.of(task, method.precision)
    propagation = propagation_of(kind, reading.graph, task.threat.r, reading.rounding)
    search = RadiusSearch(propagation, task.threat.bounds, method.tolerance, method.steps)
    radii, size = torch.zeros(len(task.x), dtype=torch.float64, device=task.x.device), task.batch_size or _BATCH
    for begin in range(0, len(task.x), size):
        rows = slice(begin, begin + size)
        x, upper = task.x[rows].to(reading.dtype), task.upper[rows].to(device=task.x.device, dtype=reading.dtype)
        radii[rows] = search.run(x, task.y[rows], upper).to(radii)
        task.tell(min(begin + size, len(task.x)), len(task.x))
    linear = search.propagations if kind != "interval" else 0
    return Proved(
        radii=radii,
        assumptions=reading.assumptions(),
        steps=search.rounds,
        converged=search.converged,
        passes=Passes(forward=search.propagations, backward=linear),
    )


def check_settings(tolerance: float, steps: int, precision: str) -> None:
    """Refuse what no method takes."""
    if not 0 < tolerance < 1 or steps < 1 or precision not in ("auto", *PRECISIONS):
        raise InputError(
            f"tolerance must be in (0, 1), steps and leaves >= 1 and precision one of auto, {', '.join(PRECISIONS)}; "
            f"got {tolerance}, {steps}, {precision!r}"
        )
