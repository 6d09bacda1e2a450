"""Certificates that search on where CROWN ends: branch and bound on every sample, or only on those that matter."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from wassertight.certificates.base import CertificateMethod, Proved, Task
from wassertight.certificates.propagation.branching import Search
from wassertight.certificates.propagation.growing import Effort
from wassertight.certificates.propagation.inner import OwnSlopes
from wassertight.certificates.propagation.methods import (
    LinearPropagation,
    bracketed,
    check_settings,
    searched,
    with_search,
)
from wassertight.certificates.propagation.radii import Reading
from wassertight.threats import ThreatModel
from wassertight.transport import FlipDistances
from wassertight.types import InputError

_CLOSED = 0.01
"""A bracket narrower than this, relatively, is not worth branching."""
_INNER = 0.4
"""Share of a sample's time that inner bounds may take at one radius."""


@dataclass(frozen=True, kw_only=True)
class BranchAndBound(CertificateMethod):
    """Certified radii by CROWN, then optimised slopes and branch and bound over ReLU signs (2011.13824, 2103.06624).

    In Linf, ReLUs are met from above by planes on the input too, which give their concave envelope over the region (after
    1811.01988; see `hulls`). Every sample whose bracket between certificate and attack is open is searched for `seconds`;
    the radius proved last is returned, so more time never gives less. Signs of ReLUs and leaky ReLUs are split; the radii
    of a network without any are CROWN's.

    Args:
        seconds: wall time a sample.
        tolerance: relative width of the bracket at which a sample is done.
        leaves, batch, ascents, tries: see `growing.Effort`.
        precision: as for LinearPropagation.
    """

    name: ClassVar[str] = "bab"

    seconds: float = 10.0
    tolerance: float = 1e-3
    leaves: int = 20_000
    batch: int = 48
    ascents: int = 2
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
        """CROWN's radii first, then the search of every sample whose bracket is open."""
        reading = Reading.of(task, self.precision)
        first = bracketed(LinearPropagation(precision=self.precision), task, "crown", reading)
        return searched(first, task, self.search(task, reading), self.tolerance)

    def search(self, task: Task, reading: Reading) -> Search:
        """What searches one sample after the other, as these settings say."""
        propagation = OwnSlopes(
            reading.graph, task.threat.r, rounding=reading.rounding, seconds=_INNER * self.seconds
        )  # fmt: skip
        effort = Effort(
            seconds=self.seconds, tolerance=self.tolerance, leaves=self.leaves, batch=self.batch,
            ascents=self.ascents, tries=self.tries,
        )  # fmt: skip
        return Search(propagation, task.threat.bounds, effort, reading.dtype)


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
        first = bracketed(LinearPropagation(precision=self.precision), task, "crown", reading)
        search, radii = self.search(task, reading), first.radii.clone()
        end, target, whole = self.deadline(), goal([task.threat]), True
        for done, (i, left) in enumerate(in_turn(radii, task.upper, task.weights, [task.threat])):
            if time.perf_counter() > end:
                whole = False
                break
            radii[i] = search.run(task.x[i], task.y[i], float(radii[i]), float(task.upper[i]), target)
            task.tell(done + 1, done + 1 + left)
        return with_search(first, radii, search, first.converged and whole)

    def search(self, task: Task, reading: Reading) -> Search:
        """What searches one sample after the other."""
        return BranchAndBound(seconds=self.seconds, precision=self.precision).search(task, reading)

    def deadline(self) -> float:
        """The end of all searches, by `time.perf_counter`."""
        return time.perf_counter() + (math.inf if self.total is None else self.total)


def in_turn(radii: Tensor, upper: Tensor, weights: Tensor, threats: Sequence[ThreatModel]) -> Iterator[tuple[int, int]]:
    """Samples to search, each once, and how many are left after it; the caller raises `radii` in place on the way."""
    seen: set[int] = set()
    while rows := [i for i in matters(radii, upper, weights, threats) if i not in seen]:
        seen.add(rows[0])
        yield rows[0], len(rows) - 1


def goal(threats: Sequence[ThreatModel]) -> float | None:
    """The one radius that matters, if there is one: p = inf asks for no other.

    A verified radius counts as inside its own closed ball, so the threat's radius itself is enough.
    """
    return threats[0].radius if len(threats) == 1 and math.isinf(threats[0].p) else None


def matters(radii: Tensor, upper: Tensor, weights: Tensor, threats: Sequence[ThreatModel]) -> list[int]:
    """Samples whose growing radius can raise the certified accuracy of one of the threats, smallest radius first.

    Args:
        radii, upper: proved radii and attack distances (n,) of the samples answered rightly.
        weights: their mass (n,); what is missing to 1 is misclassified already.
    """
    ajar, mass = upper > radii * (1 + _CLOSED), float(weights.sum())
    wanted = torch.zeros_like(ajar)
    for threat in threats:
        if math.isinf(threat.p):
            wanted |= (radii < threat.radius) & (upper > threat.radius)
        elif threat.radius > 0 and len(radii):
            # misclassified samples are free: the whole budget goes to the rest, over the rest's share of the mass
            budget = threat.radius / mass ** (1 / threat.p)
            found = FlipDistances.certified(radii, weights / mass, closed=True)
            wanted |= radii <= found.allocate(threat.p, budget).threshold
    return [int(i) for i in radii.argsort() if bool(ajar[i] & wanted[i])]
