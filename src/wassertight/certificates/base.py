"""What every certificate takes and returns."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from wassertight.certificates.reweighting import proved_accuracy
from wassertight.inputs import check_inputs, check_weights
from wassertight.queries import ModelQueries
from wassertight.threats import ThreatModel, moves_alone
from wassertight.transport import FlipDistances
from wassertight.types import Model, Passes, Progress, Status


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """A proved lower bound on worst-case accuracy, and the per-sample radii it rests on.

    Attributes:
        method: name of the verifier.
        threat: the threat certified.
        accuracy: certified worst-case accuracy: no law in the ball gives less (worst_case.md theorem 2).
        radii: proved radii l_i (float64; 0 where misclassified or nothing was proved).
        assumptions: what the proof takes for granted.
        confidence: 1.0 for a deterministic proof.
        status, steps, converged: how the search for the largest radii ended; any end is sound.
        passes: propagations, in samples: forward = interval passes, backward = linear passes.
        seconds: wall time.
    """

    method: str
    threat: ThreatModel
    accuracy: float
    radii: FlipDistances = field(repr=False)
    assumptions: tuple[str, ...] = field(repr=False)
    confidence: float = 1.0
    status: Status = Status.COMPLETE
    steps: int = 0
    converged: bool = True
    passes: Passes = field(default_factory=Passes)
    seconds: float = 0.0

    def curve(self, p: float, radii: Tensor | list[float]) -> Float[Tensor, " m"]:
        """Certified accuracy at any radius for any order p, from the same radii."""
        return self.radii.curve(p, radii)


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a method is asked: radii of samples the model answers rightly.

    Attributes:
        model: in evaluation mode.
        x, y: inputs (n, *features) and labels (n,), all answered rightly, on the model's device.
        threat: its norm and box; radius and order only where a method says that it looks at them.
        weights: mass of every sample among all of them (n,), float64.
        upper: attack distances (n,), inf where none is known: where to search, and nothing to be proved beyond.
        dtype: of the model's logits.
        batch_size: samples bounded at once; None lets the method choose.
        progress: called as progress(done, total).
    """

    model: Model
    x: Tensor
    y: Tensor
    threat: ThreatModel
    weights: Tensor
    upper: Tensor
    dtype: torch.dtype
    batch_size: int | None = None
    progress: Progress | None = None

    def tell(self, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(done, total)


@dataclass(frozen=True, kw_only=True)
class Proved:
    """What a method answers: a proved radius a sample (n,), 0 where nothing was proved, and how it ended."""

    radii: Tensor
    assumptions: tuple[str, ...]
    status: Status = Status.COMPLETE
    steps: int = 0
    converged: bool = True
    passes: Passes = field(default_factory=Passes)


@runtime_checkable
class CertificateMethod(Protocol):
    """A certificate holds only its knobs; the radius lives in the threat. Methods inherit the call and give `prove`."""

    name: ClassVar[str]

    def prove(self, task: Task) -> Proved:
        """Radii within which the model's answer provably does not change."""

    def __call__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        threat: ThreatModel,
        *,
        batch_size: int | None = None,
        weights: Tensor | None = None,
        upper: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Certificate:
        """Certify the empirical law of exactly these samples.

        Args:
            model: callable from (n, *features) to logits (n, classes); left as it was.
            x, y: inputs (n, *features) inside the threat's box, labels (n,).
            threat: what is certified.
            weights: mass of every sample, 1 / n each by default.
            upper: attack distances (n,); they say where to search, and are never taken for granted.

        Raises:
            UnsupportedLayerError: the model has an operation that cannot be bounded; it is named.
        """
        begun = time.perf_counter()
        x, y = check_inputs(x, y, threat.bounds)
        mass = check_weights(weights, len(x)).to(x.device)
        with ModelQueries(model, batch_size=batch_size) as queries, torch.no_grad():
            clean = queries.clean_logits(x, y)
            device = queries.device or x.device
            right = (clean.argmax(1) == y).nonzero().squeeze(1)
            known = no_upper(len(x)) if upper is None else upper.detach().to(torch.float64)
            task = Task(
                model=model, x=x[right].to(device), y=y[right].to(device), threat=moves_alone(threat), weights=mass[right],
                upper=known.to(x.device)[right], dtype=clean.dtype, batch_size=batch_size, progress=progress,
            )  # fmt: skip
            proved = self.prove(task)
        radii = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        radii[right] = proved.radii.to(radii)
        found = FlipDistances.certified(radii, mass, closed=True)
        return Certificate(
            method=self.name, threat=threat, accuracy=proved_accuracy(found, threat), radii=found,
            assumptions=proved.assumptions, status=proved.status, steps=proved.steps, converged=proved.converged,
            passes=proved.passes, seconds=time.perf_counter() - begun,
        )  # fmt: skip


def no_upper(n: int) -> Tensor:
    """No attack distances known."""
    return torch.full((n,), torch.inf, dtype=torch.float64)
