"""What every certificate takes and returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from wassertight.threats import ThreatModel
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


@runtime_checkable
class CertificateMethod(Protocol):
    """A certificate holds only its knobs; the radius lives in the threat."""

    name: ClassVar[str]

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
            upper: attack distances (n,), used only to start the search where it is likely to end.
        """


def no_upper(n: int) -> Tensor:
    """No attack distances known."""
    return torch.full((n,), torch.inf, dtype=torch.float64)
