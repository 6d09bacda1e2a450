"""What every attack takes and returns, and the one way from points found to an audited result."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wassertight.attacks.reweighting import Reweighting, buy, describe, worst_law
from wassertight.geometry.norms import per_sample_mask
from wassertight.inputs import check_inputs, check_weights
from wassertight.queries import ModelQueries
from wassertight.threats import AuditReport, DivergenceBall, ThreatModel, audit_measure, moves_alone
from wassertight.transport import Allocation, DiscreteMeasure, FlipDistances, JointAllocation
from wassertight.types import AuditError, Model, Passes, Progress, Status

_PIECE = 2**20


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """What a search is given.

    Attributes:
        queries: counted access to the model.
        x, y: checked samples (n, *features) and labels (n,).
        threat: what the adversary may do.
        weights: masses of the samples (n,), float64, summing to one.
        seed: of every random draw.
        progress: called as progress(done, total) by long work, or None.
    """

    queries: ModelQueries
    x: Float[Tensor, "n *features"]
    y: Int[Tensor, " n"]
    threat: ThreatModel
    weights: Float[Tensor, " n"] | None = None
    seed: int = 0
    progress: Progress | None = None

    @property
    def mass(self) -> Float[Tensor, " n"]:
        """The masses, 1/n each where none were given."""
        return check_weights(self.weights, len(self.x)).to(self.x.device)

    def generator(self) -> torch.Generator:
        """A fresh generator on the CPU, so that a seed gives the same draws on every device."""
        return torch.Generator().manual_seed(self.seed)

    def tell(self, done: int, total: int) -> None:
        """Report progress where somebody listens."""
        if self.progress is not None:
            self.progress(done, total)

    def chunks(self) -> Iterator[tuple[slice, Problem]]:
        """The samples in pieces of the queries' batch size, for searches that treat them one by one.

        Without one, pieces of about a million numbers: small enough for a CPU's caches, large enough to hide overhead.
        """
        size = self.queries.batch_size or max(16, min(1024, _PIECE // max(1, self.x[0].numel())))
        for begin in range(0, len(self.x), size):
            end = min(begin + size, len(self.x))

            def inside(done: int, total: int, begin: int = begin, end: int = end) -> None:
                self.tell(begin + (end - begin) * done // max(1, total), len(self.x))

            rows = slice(begin, end)
            yield rows, replace(self, x=self.x[rows], y=self.y[rows], weights=None, progress=inside)
            self.tell(end, len(self.x))


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search hands over: for every sample the best misclassified point, or the sample itself.

    Attributes:
        points: shape of x; equal to x where nothing was found or the sample is already misclassified.
        measure: set by methods that choose the masses themselves; otherwise the knapsack does.
        price: of the budget, by methods that solve a dual for their measure.
        steps: iterations of the longest sample.
        status: how the search ended.
    """

    points: Float[Tensor, "n *features"]
    steps: int
    status: Status = Status.COMPLETE
    measure: DiscreteMeasure | None = None
    price: float | None = None


@dataclass(frozen=True, kw_only=True)
class AttackResult:
    """What an adversary achieves: an upper bound on worst-case accuracy, audited.

    Attributes:
        method: name of the attack.
        threat: the threat attacked.
        accuracy: accuracy under `measure`, recomputed by the audit.
        clean_accuracy: accuracy on the unmoved samples.
        spent: W_p cost of `measure` (divergence and transport of a re-weighting threat), recomputed by the audit, at
            most the radius.
        measure: the worst-case law found.
        points: nearest misclassified point of every sample, x itself where none, shape of x.
        distances: flip distances u_i (float64; inf where none was found, 0 where already misclassified).
        allocation: how the budget is spent over them.
        status, steps, converged: how the search ended.
        passes: passes spent, the audit's not included.
        seconds: wall time.
        audit: the full audit.
        reweighting: how the budget splits, under a re-weighting threat.
    """

    method: str
    threat: ThreatModel
    accuracy: float
    clean_accuracy: float
    spent: float
    measure: DiscreteMeasure = field(repr=False)
    points: Tensor = field(repr=False)
    distances: FlipDistances = field(repr=False)
    allocation: Allocation | JointAllocation = field(repr=False)
    status: Status
    steps: int
    converged: bool
    passes: Passes
    seconds: float
    audit: AuditReport = field(repr=False)
    reweighting: Reweighting | None = None

    def curve(self, p: float, radii: Tensor | list[float]) -> Float[Tensor, " m"]:
        """Attacked accuracy at any radius for any order p, from the same distances."""
        return self.distances.curve(p, radii)


@runtime_checkable
class Attack(Protocol):
    """An attack holds only its knobs; the radius lives in the threat. A class that inherits has its call for free.

    `separable` attacks treat samples one by one, so that they may be run in chunks and resumed; the others couple
    the samples of a call. `uses_radius` says whether the points found depend on the threat's radius, or, where
    it is a function, under which threats they do.
    """

    name: ClassVar[str]
    separable: ClassVar[bool]

    def find(self, problem: Problem) -> Found:
        """Search for misclassified points near x."""
        ...

    def __call__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        threat: ThreatModel,
        *,
        batch_size: int | None = None,
        seed: int = 0,
        weights: Tensor | None = None,
        progress: Progress | None = None,
    ) -> AttackResult:
        """Attack the empirical law of exactly these samples: check the input, search, and conclude.

        Args:
            model: any callable from (n, *features) to logits (n, classes); left as it was.
            x, y: samples (n, *features) inside the threat's box and labels (n,).
            threat: a ball, for example `wassertight.threat("W1-Linf@8/255")`.
            batch_size: samples a pass at most; None picks one.
            seed: of every random draw.
            weights: masses of the samples, or None for 1/n each.
            progress: called as progress(done, total).

        Raises:
            InputError, ModelError: input or model that cannot be used.
            ThreatError: a threat the attack does not take.
        """
        begun = time.perf_counter()
        x, y = check_inputs(x, y, threat.bounds)
        mass = check_weights(weights, len(x)).to(x.device)
        with ModelQueries(model, batch_size=batch_size) as queries:
            problem = Problem(queries=queries, x=x, y=y, threat=threat, weights=mass, seed=seed, progress=progress)
            found = self.find(problem)
            return conclude(self.name, queries, x, y, threat, found, weights=mass, begun=begun)


def conclude(
    method: str,
    queries: ModelQueries,
    x: Float[Tensor, "n *features"],
    y: Int[Tensor, " n"],
    threat: ThreatModel,
    found: Found,
    *,
    weights: Tensor | None = None,
    begun: float | None = None,
) -> AttackResult:
    """From found points to an audited result: re-classify, re-measure, allocate, audit.

    Points that are not misclassified on re-evaluation, not finite or outside the box count as not found. The result's
    passes are those the queries counted before.

    Raises:
        AuditError: if the measure breaks the threat; that is a defect of the attack, never of the caller.
    """
    begun = time.perf_counter() if begun is None else begun
    passes = queries.passes
    mass = check_weights(weights, len(x)).to(x.device)
    clean_logits = queries.clean_logits(x, y)
    clean_right = clean_logits.argmax(1) == y
    distances = flip_distances(queries.logits, x, y, found.points, threat, clean_right)
    flips = FlipDistances.attacked(distances, mass)
    flipped = torch.isfinite(distances) & (distances > 0)
    points = torch.where(per_sample_mask(flipped, x), found.points, x)
    allocation: Allocation | JointAllocation
    measure, costs = found.measure, distances
    if isinstance(threat, DivergenceBall):
        allocation, costs = buy(threat, flips, points, x)
        measure = measure or worst_law(x, points, flips, allocation)
    else:
        allocation = flips.allocate(threat.order, threat.radius)
        fractions = torch.where(distances > 0, allocation.fractions, 0.0)
        measure = measure or DiscreteMeasure.mixture(x, points, fractions, mass)
    audit = audit_measure(queries.model, x, y, threat, measure, weights=mass, batch_size=queries.batch_size or 256)
    if not audit.ok:
        raise AuditError(f"{method} under {threat.name} failed its audit: " + "; ".join(audit.violations))
    reweighting = None
    if isinstance(threat, DivergenceBall):
        lam = found.price if found.measure is not None else allocation.price  # type: ignore[union-attr]
        reweighting = describe(threat, flips, costs, measure, audit, lam)
    return AttackResult(
        method=method,
        threat=threat,
        accuracy=audit.accuracy,
        clean_accuracy=float(mass[clean_right].sum()),
        spent=audit.spent,
        measure=measure,
        points=points,
        distances=flips,
        allocation=allocation,
        status=found.status,
        steps=found.steps,
        converged=found.status in (Status.COMPLETE, Status.STAGNATED),
        passes=passes,
        seconds=time.perf_counter() - begun,
        audit=audit,
        reweighting=reweighting,
    )


def flip_distances(
    logits: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, points: Tensor, threat: ThreatModel, clean_right: Tensor
) -> Float[Tensor, " n"]:
    """u_i: 0 where the clean sample is wrong, the distance where the point is wrong and admissible, inf elsewhere."""
    out = logits(points)
    wrong = (out.argmax(1) != y) & torch.isfinite(out).all(1) & torch.isfinite(points).flatten(1).all(1)
    if threat.bounds is not None:
        low, high = threat.bounds
        wrong &= (points >= low).flatten(1).all(1) & (points <= high).flatten(1).all(1)
    distance = moves_alone(threat).cost(points, x)
    return torch.where(clean_right, torch.where(wrong, distance, torch.inf), 0.0)
