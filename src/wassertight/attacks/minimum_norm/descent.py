"""The movements of the boundary search: descent inside the incumbent's ball, restarts, coming in, boundary projection."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wassertight.attacks.incumbent import Incumbent
from wassertight.attacks.minimum_norm.search import cosine
from wassertight.geometry import closest_on_hyperplane, norm, project_ball, project_box, sample_ball
from wassertight.geometry.norms import per_sample
from wassertight.losses import class_margin, margin, weighted
from wassertight.queries import LossFunction, ModelQueries
from wassertight.threats import ThreatModel

_INSIDE = 0.02
"""A restart looks this far, relatively, inside the incumbent."""
_NOISE, _WALK, _STRIDE = 0.3, 5, 0.1
"""Coming in from outside: noise and steps relative to the box, and the number of steps."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """How a sample descends; lengths and shrinkage are relative to the incumbent's distance, cosine from first to last.

    Attributes:
        steepest: step along the norm's own steepest direction (sign for l_inf) instead of the l_2-normalised gradient.
        length: first and last step length.
        shrink: first and last relative shrinkage of the ball on success.
    """

    steepest: bool
    length: tuple[float, float]
    shrink: tuple[float, float]


def arms_for(r: float) -> tuple[Arm, Arm]:
    """The two arms of a norm."""
    if math.isinf(r):
        return (
            Arm(steepest=True, length=(1.0, 0.003), shrink=(0.1, 0.001)),
            Arm(steepest=False, length=(1.0, 0.003), shrink=(0.05, 0.001)),
        )
    if r == 1:
        return (
            Arm(steepest=False, length=(0.2, 0.003), shrink=(0.5, 0.002)),
            Arm(steepest=False, length=(0.12, 0.0006), shrink=(0.3, 0.001)),
        )
    return (
        Arm(steepest=False, length=(1.0, 0.003), shrink=(0.05, 0.001)),
        Arm(steepest=False, length=(1.0, 0.01), shrink=(0.15, 0.001)),
    )


def short_arms(r: float) -> tuple[Arm, Arm]:
    """The two arms of a middling budget: under l_inf greedy signs, then short normalised steps."""
    if math.isinf(r):
        return (
            Arm(steepest=True, length=(0.7, 0.03), shrink=(0.2, 0.01)),
            Arm(steepest=False, length=(0.3, 0.003), shrink=(0.03, 0.001)),
        )
    return arms_for(r)


def fine_arm(r: float, *, steepest: bool) -> Arm:
    """Short steps around the incumbent, for corners where several linear pieces meet."""
    return Arm(steepest=steepest and math.isinf(r), length=(0.15, 0.001), shrink=(0.02, 0.0003))


def lean_arm(r: float, *, far: bool) -> Arm:
    """The only arm of a small budget: under l_inf gentle from a linearised start, greedy from a far one."""
    if math.isinf(r):
        gentle = Arm(steepest=True, length=(0.6, 0.015), shrink=(0.05, 0.002))
        return Arm(steepest=True, length=(0.7, 0.03), shrink=(0.2, 0.01)) if far else gentle
    return arms_for(r)[0]


def descend(
    queries: ModelQueries,
    incumbent: Incumbent,
    threat: ThreatModel,
    steps: int,
    rows: Int[Tensor, " m"],
    arm: Arm,
    *,
    target: Int[Tensor, " m"] | None = None,
    start: Float[Tensor, "m *features"] | None = None,
) -> None:
    """One cosine cycle of projected steps for the samples `rows`; every misclassified iterate is offered.

    Args:
        steps: iterations, a forward and a backward pass each.
        target: ascend the margin of this class; None is the best other class of the moment.
        start: where to start; None is the incumbent.
    """
    x = incumbent.x[rows]
    z = incumbent.points[rows] if start is None else start
    labels, rise = aim(incumbent.y[rows], target)
    for step in range(steps):
        length, shrink = cosine(*arm.length, step, steps), cosine(*arm.shrink, step, steps)
        logits, _, g = queries.gradient(z, labels, rise)
        wrong = incumbent.offer(z, logits, rows)
        limit = incumbent.distance[rows]
        inside = torch.minimum(norm(z - x, threat.r) * (1 + shrink), limit * (1 - 0.2 * shrink))
        ball = torch.where(wrong, limit * (1 - shrink), inside)
        z = ascend(z, x, g, length * limit, ball, threat, steepest=arm.steepest)
    incumbent.offer(z, queries.logits(z), rows)


def restart(
    queries: ModelQueries,
    incumbent: Incumbent,
    threat: ThreatModel,
    steps: int,
    rows: Int[Tensor, " m"],
    generator: torch.Generator,
    target: Int[Tensor, " m"] | None,
    *,
    v: Float[Tensor, "m k"] | None = None,
    turns: int = 0,
) -> None:
    """A fixed-radius attack in the ball just inside the incumbent, with steps that start at the ball's own size.

    It starts from a random point, moved by `turns` steps of the whole ball up the combination `<v, logits>`
    (output-diversified initialisation, 2003.06878, for random v), and climbs towards one class.
    """
    x = incumbent.x[rows]
    ball = incumbent.distance[rows] * (1 - _INSIDE)
    z = project_box(x + sample_ball(x, ball, threat.r, generator), threat.bounds)
    if v is not None:
        for _ in range(turns):
            logits, _, g = queries.gradient(z, v, weighted)
            incumbent.offer(z, logits, rows)
            z = ascend(z, x, g, ball, ball, threat, steepest=True)
    labels, rise = aim(incumbent.y[rows], target)
    for step in range(steps):
        logits, _, g = queries.gradient(z, labels, rise)
        incumbent.offer(z, logits, rows)
        ball = torch.minimum(ball, incumbent.distance[rows] * (1 - _INSIDE))
        z = ascend(z, x, g, cosine(1.0, 0.02, step, steps) * ball, ball, threat, steepest=True)
    incumbent.offer(z, queries.logits(z), rows)


def come_in(
    queries: ModelQueries,
    incumbent: Incumbent,
    threat: ThreatModel,
    steps: int,
    rows: Int[Tensor, " m"],
    generator: torch.Generator,
) -> None:
    """From far outside: noise and a few long sign steps up the margin, then a ball that shrinks towards the sample.

    Finds what gradients near the sample do not show (masked gradients, sparse l_1 flips). The run keeps its own
    best; the incumbent does not limit it.
    """
    x, y = incumbent.x[rows], incumbent.y[rows]
    span = float(x.max() - x.min()) if threat.bounds is None else threat.bounds[1] - threat.bounds[0]
    noise = torch.empty(x.shape, dtype=torch.float64).uniform_(-1, 1, generator=generator).to(x)
    z = project_box(x + _NOISE * span * noise, threat.bounds)
    for _ in range(_WALK):
        logits, _, g = queries.gradient(z, y, margin)
        incumbent.offer(z, logits, rows)
        z = project_box(z + _STRIDE * span * g.sign(), threat.bounds)
    first = 0.1 if threat.r == 1 else 0.3
    ball = norm(z - x, threat.r)
    best = torch.full_like(ball, torch.inf)
    for step in range(steps):
        logits, _, g = queries.gradient(z, y, margin)
        wrong = incumbent.offer(z, logits, rows)
        best = torch.where(wrong, torch.minimum(best, norm(z - x, threat.r)), best)
        shrink = cosine(0.2, 0.002, step, steps)
        ball = torch.where(wrong, best * (1 - shrink), torch.minimum(ball * (1 + shrink / 2), best))
        z = ascend(z, x, g, cosine(first, 0.003, step, steps) * ball, ball, threat, steepest=False)
    incumbent.offer(z, queries.logits(z), rows)


def aim(y: Tensor, target: Tensor | None) -> tuple[Tensor, LossFunction]:
    """Labels and loss of a climb: towards one class, or towards the best other class of the moment."""
    return (y, margin) if target is None else (torch.stack((y, target), 1), class_margin)


def ascend(
    z: Tensor, x: Tensor, g: Tensor, length: Tensor, ball: Tensor, threat: ThreatModel, *, steepest: bool
) -> Tensor:
    """A step of the given length up the gradients, brought back into balls around x and the box.

    Lengths are in the ground norm: a normalised step is stretched by sqrt(dim) under l_inf.
    """
    if steepest and math.isinf(threat.r):
        step = g.sign().mul_(per_sample(length, g))
    else:
        g = _unstopped(g, z, threat)
        reach = math.sqrt(x[0].numel()) if math.isinf(threat.r) else 1.0
        step = g * per_sample(reach * length / norm(g, 2.0).clamp_min(torch.finfo(g.dtype).tiny), g)
    return project_box(project_ball(step.add_(z).sub_(x), ball, threat.r).add_(x), threat.bounds)


def _unstopped(g: Tensor, z: Tensor, threat: ThreatModel) -> Tensor:
    """The gradient without the coordinates that a wall of the box stops."""
    if threat.bounds is None:
        return g
    room = g.sign().add_(z).clamp_(*threat.bounds).sub_(z)
    return room.sign_().mul_(g.abs())


def polish(
    queries: ModelQueries,
    incumbent: Incumbent,
    threat: ThreatModel,
    steps: int,
    *,
    rows: Int[Tensor, " m"] | None = None,
    start: Float[Tensor, "m *features"] | None = None,
) -> None:
    """Project x onto the boundary linearised at the current point, with backtracking; exact where it is flat.

    A trial that is closer but not misclassified is moved half-way back to the incumbent for the next step.
    """
    rows = incumbent.found.nonzero().squeeze(1) if rows is None else rows
    if len(rows) == 0:
        return
    x, y = incumbent.x[rows], incumbent.y[rows]
    z = (incumbent.points[rows] if start is None else start).clone()
    share = torch.ones(len(rows), dtype=x.dtype, device=x.device)
    for _ in range(steps):
        logits, height, g = queries.gradient(z, y, margin)
        wrong = incumbent.offer(z, logits, rows)
        extra = 16 * torch.finfo(logits.dtype).eps * logits.abs().amax(1)
        climb = -height + (g * (z - x)).flatten(1).sum(1) + extra
        d, _ = closest_on_hyperplane(x, g, climb.to(x.dtype), threat.r, threat.bounds)
        share = torch.where(wrong | ~incumbent.found[rows], share, share / 2)
        trial = project_box(x + d, threat.bounds)
        base = torch.where(per_sample(incumbent.found[rows].to(x.dtype), x) > 0, incumbent.points[rows], trial)
        z = base + per_sample(share, x) * (trial - base)
    incumbent.offer(z, queries.logits(z), rows)
