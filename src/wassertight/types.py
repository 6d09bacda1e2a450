"""Names every floor shares: the model's type, pass counts, how a call ended, and (from `errors`) the errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

from torch import Tensor

from wassertight.errors import (
    AuditError as AuditError,
)
from wassertight.errors import (
    BoxNotice as BoxNotice,
)
from wassertight.errors import (
    DataError as DataError,
)
from wassertight.errors import (
    InputError as InputError,
)
from wassertight.errors import (
    ModelError as ModelError,
)
from wassertight.errors import (
    ModelNotice as ModelNotice,
)
from wassertight.errors import (
    PackageError as PackageError,
)
from wassertight.errors import (
    RunDirectoryError as RunDirectoryError,
)
from wassertight.errors import (
    ThreatError as ThreatError,
)
from wassertight.errors import (
    TrainingError as TrainingError,
)
from wassertight.errors import (
    UnsupportedLayerError as UnsupportedLayerError,
)
from wassertight.errors import (
    WassertightError as WassertightError,
)

Model: TypeAlias = Callable[[Tensor], Tensor]
"""Any callable from a batch of inputs (n, *features) to logits (n, classes), or to an object whose `.logits` they are."""

Bounds: TypeAlias = "tuple[float, float] | None"
"""The box of admissible inputs, or None for the whole space."""

Progress: TypeAlias = Callable[[int, int], None]
"""Called as progress(samples_done, samples_total) by long work."""


def logits_of(output: Any) -> Any:
    """What a model returned, or its `.logits` where it wraps them as Hugging Face models do."""
    return output if isinstance(output, Tensor) else getattr(output, "logits", output)


@dataclass(frozen=True, kw_only=True)
class Passes:
    """Model passes spent, in samples: a batch of 32 through the model once is 32 forward passes.

    >>> Passes(forward=2) + Passes(forward=1, backward=1)
    Passes(forward=3, backward=1)
    """

    forward: int = 0
    backward: int = 0

    def __add__(self, other: Passes) -> Passes:
        return Passes(forward=self.forward + other.forward, backward=self.backward + other.backward)

    @property
    def total(self) -> int:
        return self.forward + self.backward


class Status(StrEnum):
    """How a call ended; every result carries one."""

    COMPLETE = "complete"
    """The method ran to its own end."""
    STAGNATED = "stagnated"
    """Stopped early because nothing improved any more."""
    PASSES_SPENT = "passes spent"
    """Stopped at the pass budget; the result is valid but could be better."""
    FALLBACK = "fallback"
    """A weaker method answered for some samples, as the caller allowed."""
