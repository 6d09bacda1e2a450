"""What is proved about the values of a graph's nodes over input regions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from torch import Tensor

from wassertight.certificates.propagation.hulls import Planes
from wassertight.certificates.propagation.relaxations import Relaxation

Ends: TypeAlias = Mapping[int, tuple[Tensor, Tensor]]
"""Bounds below and above of some nodes' values, (n, *shape) each."""


@dataclass(kw_only=True)
class Bounds:
    """What is proved about every node's values over the regions; tensors (n, *shape).

    Attributes:
        low, high: bounds of the value computed exactly from rounded arguments.
        error: bound on what rounding adds since the last operation that is not affine.
        relaxations: enclosures of operations whose arguments are bounded for good.
        planes: upper planes on the input of the undecided arguments of hinges, of one sample, where they were found.
        lost: samples (n,) about which nothing is proved: some function is not finite on what is known of its argument.
    """

    lost: Tensor
    low: dict[int, Tensor] = field(default_factory=dict)
    high: dict[int, Tensor] = field(default_factory=dict)
    error: dict[int, Tensor] = field(default_factory=dict)
    relaxations: dict[int, Relaxation] = field(default_factory=dict)
    planes: dict[int, Planes] = field(default_factory=dict)

    def triple(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        return self.low[index], self.high[index], self.error[index]
