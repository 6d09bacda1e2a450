"""Certificates by one kind of bound propagation: intervals, CROWN-IBP, CROWN."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from wassertight.certificates.base import CertificateMethod, Proved, Task
from wassertight.certificates.propagation.forward import propagation_of
from wassertight.certificates.propagation.memory import fitting_batch
from wassertight.certificates.propagation.radii import PRECISIONS, RadiusSearch, Reading
from wassertight.types import InputError, Passes, Status


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


def bracketed(method: _Settings, task: Task, kind: str, reading: Reading | None = None) -> Proved:
    """Radii by batched bracketing, with bounds of a kind (see `forward.propagation_of`)."""
    if len(task.x) == 0:
        return Proved(radii=torch.zeros(0, dtype=torch.float64, device=task.x.device), assumptions=())
    reading = reading or Reading.of(task, method.precision)
    propagation = propagation_of(kind, reading.graph, task.threat.r, reading.rounding)
    search = RadiusSearch(propagation, task.threat.bounds, method.tolerance, method.steps)
    radii = torch.zeros(len(task.x), dtype=torch.float64, device=task.x.device)
    fitting = fitting_batch(reading.graph, reading.dtype, task.x.device)
    size = min(task.batch_size or fitting, fitting)
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


@runtime_checkable
class Searcher(Protocol):
    """What searches one sample after the other and counts what it spends."""

    splits: int
    evaluations: int
    converged: bool

    def run(self, x: Tensor, y: Tensor, proved: float, ceiling: float, goal: float | None = None) -> float:
        """A radius >= `proved` that is proved for x (*features) with label y ()."""
        ...


def searched(first: Proved, task: Task, search: Searcher, tolerance: float) -> Proved:
    """Every sample whose bracket between the first answer and the attack is open, searched in turn."""
    radii, upper = first.radii.clone(), task.upper.to(first.radii)
    rows = (radii * (1 + tolerance) < upper).nonzero().flatten().tolist()
    for done, i in enumerate(rows):
        radii[i] = search.run(task.x[i], task.y[i], float(radii[i]), float(upper[i]))
        task.tell(done + 1, len(rows))
    return with_search(first, radii, search, search.converged)


def with_search(first: Proved, radii: Tensor, search: Searcher, converged: bool) -> Proved:
    """The first answer with the search's radii and costs."""
    return dataclasses.replace(
        first,
        radii=radii,
        steps=first.steps + search.splits,
        converged=converged,
        status=first.status if converged else Status.STAGNATED,
        passes=first.passes + Passes(backward=search.evaluations),
    )


def check_settings(tolerance: float, steps: int, precision: str) -> None:
    """Refuse settings no method can use."""
    if not 0 < tolerance < 1 or steps < 1 or precision not in ("auto", *PRECISIONS):
        raise InputError(
            f"tolerance must be in (0, 1), steps and leaves >= 1 and precision one of auto, {', '.join(PRECISIONS)}; "
            f"got {tolerance}, {steps}, {precision!r}"
        )
