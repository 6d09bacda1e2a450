"""What every training objective takes and returns: craft moved points, then a loss to be minimised."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from wassertight.threats import ThreatModel
from wassertight.types import InputError, ThreatError

Metrics = dict[str, Any]
"""Numbers of a step, by name: floats or tensors without dimensions."""


def _same(values: Tensor) -> Tensor:
    return values


@dataclass(kw_only=True, eq=False)
class Context:
    """What a step is given besides the batch.

    Attributes:
        generator: of every random draw of the crafting, on the CPU, so that a seed means the same on every device.
        state: dual variables and queues of the objective, tensors by name; kept in checkpoints.
        gather: per-sample values of this process to those of all processes, in the order of their ranks.
        rank: of this process.
        step: optimiser steps made so far.
        epoch: epochs finished so far.
        samples: training images in all, 0 where unknown.
        craft_mode: "eval" (published for TRADES and MART) or "train": layers such as batch norm while crafting.
    """

    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))
    state: dict[str, Tensor] = field(default_factory=dict)
    gather: Callable[[Tensor], Tensor] = _same
    rank: int = 0
    step: int = 0
    epoch: int = 0
    samples: int = 0
    craft_mode: str = "eval"

    def local(self, gathered: Tensor, n: int) -> Tensor:
        """This process's n of the gathered values."""
        return gathered[self.rank * n : (self.rank + 1) * n]

    def number(self, name: str, initial: float) -> float:
        """A scalar of the state, set to `initial` where it is not there yet."""
        if name not in self.state:
            self.state[name] = torch.tensor(initial, dtype=torch.float64)
        return float(self.state[name])

    def put(self, name: str, value: float | Tensor) -> None:
        """Store a scalar (float64) or a tensor in the state, on the CPU where it is a scalar."""
        self.state[name] = value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)


@dataclass(kw_only=True, eq=False)
class Crafted:
    """A batch with its moved points: everything the outer loss needs, without gradient.

    Attributes:
        x, y: the batch, (n, *features) and (n,).
        z: moved points, shape of x.
        weights: mean-one weights of the samples where a wrapper set them.
        notes: per-sample tensors that the objective's own outer loss or dual step needs.
    """

    x: Float[Tensor, "n *features"]
    y: Int[Tensor, " n"]
    z: Float[Tensor, "n *features"]
    weights: Tensor | None = None
    notes: dict[str, Tensor] = field(default_factory=dict)


@dataclass(kw_only=True, eq=False)
class Outer:
    """The outer loss.

    Attributes:
        each: differentiable loss of every sample, (n,).
        loss: what is minimised, a scalar; the mean of `each` unless a wrapper weights it.
        clean: logits at x where the objective needed them.
        moved: logits at z where the objective needed them.
    """

    each: Tensor
    loss: Tensor
    clean: Tensor | None = None
    moved: Tensor | None = None

    @classmethod
    def mean(cls, each: Tensor, *, clean: Tensor | None = None, moved: Tensor | None = None) -> Outer:
        """The plain mean over the batch."""
        return cls(each=each, loss=each.mean(), clean=clean, moved=moved)


@runtime_checkable
class Objective(Protocol):
    """A training objective holds only its knobs; the radius lives in the threat, dual variables in the context.

    One step: `craft` -> `outer` -> backward -> optimiser -> `update`. A class that inherits has its call for free.
    """

    name: ClassVar[str]

    def prepare(self, model: nn.Module, x: Tensor, y: Tensor, context: Context) -> None:
        """Called once before the first step with some training samples; starts dual variables that need data."""
        return None

    def craft(self, model: nn.Module, x: Tensor, y: Tensor, context: Context) -> Crafted:
        """Moved points; parameters get no gradient from it."""
        ...

    def outer(self, model: nn.Module, crafted: Crafted, context: Context) -> Outer:
        """The loss to be minimised, with gradient in the parameters."""
        ...

    def update(self, crafted: Crafted, outer: Outer, context: Context) -> Metrics:
        """The dual step after the optimiser's; returns what is worth logging."""
        return {}

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, context: Context | None = None) -> Tensor:
        """The loss of a batch, a scalar ready for `backward()`; dual variables are not moved."""
        context = context or Context()
        return self.outer(model, self.craft(model, x, y, context), context).loss


@contextmanager
def crafting(model: nn.Module, context: Context) -> Iterator[None]:
    """The model in the context's crafting mode, and every module's mode as it was afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.train(context.craft_mode == "train")
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def divergence(clean: Float[Tensor, "n k"], moved: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
    """`KL(softmax(clean) || softmax(moved))`, one value a sample, differentiable in both.

    Its gradient in `moved` vanishes where both are equal: a search has to start away from the sample.

    >>> divergence(torch.zeros(1, 3), torch.zeros(1, 3)).item()
    0.0
    """
    log_clean = functional.log_softmax(clean, 1)
    return (log_clean.exp() * (log_clean - functional.log_softmax(moved, 1))).sum(1)


def check_threat(threat: ThreatModel, who: str) -> None:
    """Refuse balls without a steepest step."""
    if threat.p == 1:
        raise ThreatError(
            f"objective {who!r} steps along the threat's steepest direction, which W_1 does not have; got {threat.name}. "
            "Train with 'knapsack' there, or against L<r>@ or W2-L<r>@"
        )


def check_settings(who: str, *, at_least_zero: dict[str, float], positive: dict[str, float]) -> None:
    """Refuse negative settings, naming the setting."""
    for name, value in at_least_zero.items():
        if not value >= 0:
            raise InputError(f"objective {who!r}: {name} must be >= 0, got {value}")
    for name, value in positive.items():
        if not value > 0:
            raise InputError(f"objective {who!r}: {name} must be > 0, got {value}")
