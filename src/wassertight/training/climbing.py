"""The inner maximisation of training: starts, steps, and the one ascent loop that every crafting objective runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from wassertight.attacks.pgd import ascent_step
from wassertight.geometry import project_box
from wassertight.geometry.norms import per_sample_mask
from wassertight.losses import cross_entropy
from wassertight.threats import ThreatModel
from wassertight.training.base import Context, Crafted, Objective, check_settings, check_threat, crafting
from wassertight.types import InputError

Value: TypeAlias = Callable[[Tensor], Tensor]
"""Maps moved points (n, *features) to one value a sample (n,), to be increased."""
Advance: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Maps points and gradients to the next points."""
Start = Literal["uniform", "noise", "zero"]
Keep = Literal["last", "best"]


def climb(
    value: Value, z: Tensor, advance: Advance, steps: int, keep: str = "last", penalty: Value | None = None
) -> Tensor:
    """Ascend: `z <- advance(z, gradient of value)`, `steps` times; the last iterate, or the one of best value - penalty.

    Gradients are taken of the value alone, with respect to z only. "best" costs one more forward pass.

    >>> up = lambda z, g: z + 0.5 * g
    >>> climb(lambda z: -(z**2).sum(1), torch.ones(1, 1), up, 1).item()
    0.0
    """
    best, top = z, None

    def height(z: Tensor, gained: Tensor) -> Tensor:
        return gained if penalty is None else gained - penalty(z)

    for _ in range(steps):
        z = z.detach().requires_grad_(True)
        with torch.enable_grad():
            gained = value(z)
            (g,) = torch.autograd.grad(gained.sum(), z)
        z = z.detach()
        if keep == "best":
            best, top = _better(best, top, z, height(z, gained.detach()))
        z = advance(z, g)
    if keep == "best":
        with torch.no_grad():
            best, _ = _better(best, top, z, height(z, value(z)))
        return best
    return z


def _better(best: Tensor, top: Tensor | None, z: Tensor, height: Tensor) -> tuple[Tensor, Tensor]:
    if top is None:
        return z, height
    up = height > top
    return torch.where(per_sample_mask(up, z), z, best), torch.where(up, height, top)


def started(
    threat: ThreatModel, x: Tensor, start: str, noise: float, generator: torch.Generator
) -> Float[Tensor, "n *features"]:
    """Where crafting starts: uniform in the pointwise ball, a little Gaussian noise, or the sample itself."""
    if start == "uniform":
        return threat.sample(x, generator)
    if start == "noise":
        draw = torch.randn(x.shape, generator=generator, dtype=torch.float32).to(x)
        return project_box(x + noise * draw, threat.bounds)
    return x


@runtime_checkable
class Moving(Objective, Protocol):
    """An objective whose inner problem is `max over z in the threat's ball of value(z)`: PGD-AT, TRADES, MART.

    Wrappers (UDR, ARMOR) read `value`, `begin`, `length` and `steps` and craft under another cost.

    Attributes:
        threat: the ball; a W_p ball couples the samples of a batch (W-PGD, 2306.09844).
        steps: ascent steps.
        step: length of a step in the threat's norm; None is the published rule, see `length`.
        start: "uniform", "noise" or "zero".
        noise: standard deviation of the start "noise".
        keep: "last" (published) or "best" iterate by the crafting value.
    """

    threat: ThreatModel
    steps: int
    step: float | None
    start: Start
    noise: float
    keep: Keep

    def value(self, model: nn.Module, x: Tensor, y: Int[Tensor, " n"], *, full: bool = False) -> Value:
        """What the inner problem maximises; with `full` the whole per-sample loss where the two differ."""
        ...

    def resting(self, clean: Tensor, y: Int[Tensor, " n"]) -> Tensor:
        """The loss of a sample that does not move, from its logits: what `outer` gives at z = x."""
        return cross_entropy(clean, y)

    def craft(self, model: nn.Module, x: Tensor, y: Int[Tensor, " n"], context: Context) -> Crafted:
        """Steps along the threat's steepest direction, each projected into its ball and the box."""
        if self.threat.radius == 0:
            return Crafted(x=x, y=y, z=x)
        with crafting(model, context):
            z = climb(
                self.value(model, x, y),
                begin(self, x, context),
                lambda z, g: ascent_step(self.threat, z, x, g, length(self)),
                self.steps,
                self.keep,
            )
        return Crafted(x=x, y=y, z=z)


def begin(objective: Moving, x: Tensor, context: Context) -> Tensor:
    """The objective's starting points."""
    return started(objective.threat, x, objective.start, objective.noise, context.generator)


def length(objective: Moving) -> float:
    """The step: as given, else a quarter of the radius under l_inf and 2 radius / steps otherwise."""
    if objective.step is not None:
        return objective.step
    return objective.threat.radius * (0.25 if math.isinf(objective.threat.r) else 2 / objective.steps)


def check_moving(objective: Moving) -> None:
    """Refuse settings with which nothing can be crafted."""
    check_threat(objective.threat, objective.name)
    check_settings(
        objective.name,
        at_least_zero={"noise": objective.noise},
        positive={"steps": objective.steps, "step": 1.0 if objective.step is None else objective.step},
    )
    if objective.start not in ("uniform", "noise", "zero") or objective.keep not in ("last", "best"):
        raise InputError(
            f"objective {objective.name!r}: start must be uniform, noise or zero and keep last or best, "
            f"got {objective.start!r} and {objective.keep!r}"
        )
