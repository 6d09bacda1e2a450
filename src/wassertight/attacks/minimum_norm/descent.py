"""The two movements of the boundary search: projected descent inside the incumbent's ball, and boundary projection."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wassertight.attacks.incumbent import Incumbent
from wassertight.geometry import closest_on_hyperplane, dual_direction, norm, project_ball, project_box
from wassertight.geometry.norms import per_sample
from wassertight.losses import class_margin, margin
from wassertight.queries import ModelQueries
from wassertight.threats import ThreatModel


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
    arms: Sequence[Arm],
    *,
    target: Int[Tensor, " m"] | None = None,
    start: Float[Tensor, "m *features"] | None = None,
) -> None:
    """One cosine cycle of projected steps for the samples `rows`; every misclassified iterate is offered.

    Args:
        steps: iterations, a forward and a backward pass each.
        arms: one a row.
        target: ascend the margin of this class; None is the best other class of the moment.
        start: where to start; None is the incumbent.
    """
    x, y = incumbent.x[rows], incumbent.y[rows]
    z = (incumbent.points[rows] if start is None else start).clone()
    steepest = torch.tensor([arm.steepest for arm in arms], device=x.device)
    ends = torch.tensor([(*arm.length, *arm.shrink) for arm in arms], dtype=x.dtype, device=x.device)
    reach = 1.0 if threat.r <= 2 else math.sqrt(x[0].numel())

    labels = y if target is None else torch.stack((y, target), 1)
    rise = margin if target is None else class_margin
    for step in range(steps):
        fall = (1 + math.cos(math.pi * step / steps)) / 2
        length = ends[:, 1] + (ends[:, 0] - ends[:, 1]) * fall
        shrink = ends[:, 3] + (ends[:, 2] - ends[:, 3]) * fall
        logits, _, g = queries.gradient(z, labels, rise)
        wrong = incumbent.offer(z, logits, rows)
        limit = incumbent.distance[rows]
        size = norm(z - x, threat.r)
        inside = torch.minimum(size * (1 + shrink), limit * (1 - 0.2 * shrink))
        ball = torch.where(wrong, limit * (1 - shrink), inside)
        g = _unstopped(g, z, threat)
        unit = g * per_sample(reach / norm(g, 2.0).clamp_min(torch.finfo(g.dtype).tiny), g)
        if bool(steepest.any()):
            unit = torch.where(per_sample(steepest.to(g.dtype), g) > 0, dual_direction(g, threat.r), unit)
        moved = z + per_sample(length * limit, g) * unit - x
        z = project_box(x + project_ball(moved, ball, threat.r), threat.bounds)
    incumbent.offer(z, queries.logits(z), rows)


def _unstopped(g: Tensor, z: Tensor, threat: ThreatModel) -> Tensor:
    """The gradient without the coordinates that a wall of the box stops."""
    if threat.bounds is None:
        return g
    low, high = threat.bounds
    return g * (((g > 0) & (z < high)) | ((g < 0) & (z > low)))


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
