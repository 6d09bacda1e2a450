"""What a search for the exact Lipschitz constant may spend, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What a search may spend.

    Attributes:
        seconds: wall time.
        tolerance: relative gap between the bound and the gradient found that counts as closed.
        batch: nodes bounded at once.
        first, later: gradient steps on the multipliers of a root and of every other node.
        tries: units whose children are bounded before one is split.
        climbs: starts from which the first gradients are sought.
    """

    seconds: float = 60.0
    tolerance: float = 1e-7
    batch: int = 24
    first: int = 120
    later: int = 12
    tries: int = 6
    climbs: int = 12


@dataclass(frozen=True, kw_only=True)
class CellSearch:
    """How a search ended.

    Attributes:
        lower: the largest gradient norm found at a real point in the interior of a cell; 0 if there is none.
        upper: no cell in the domain has a larger one.
        converged: whether the search ended by itself, `upper` within the tolerance of `lower`.
        pair: (y, j) of the largest gradient found.
        mask: of its cell, (units,) bool, or None.
        point: in its interior, (inputs,), or None.
        cells: full masks tested for a cell; nodes: partial masks that were bounded; programmes: linear programmes solved.
        units: units whose side is not known over the whole domain.
    """

    lower: float
    upper: float
    converged: bool
    pair: tuple[int, int]
    mask: Tensor | None = field(repr=False)
    point: Tensor | None = field(repr=False)
    cells: int
    nodes: int
    programmes: int
    units: int
    seconds: float
