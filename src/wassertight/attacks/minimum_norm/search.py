"""What every minimum-norm attack shares: chunks of correctly classified samples, each with its incumbent."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from wassertight.attacks.base import Found, Problem
from wassertight.attacks.incumbent import Incumbent
from wassertight.losses import margin
from wassertight.queries import ModelQueries
from wassertight.threats import ImageWasserstein, ThreatModel
from wassertight.types import Bounds, InputError, Status, ThreatError

Search = Callable[[ModelQueries, Incumbent, ThreatModel, torch.Generator], int]
"""Improves an incumbent and returns the iterations made."""


def nearest_flips(problem: Problem, search: Search) -> Found:
    """Run a search on the correctly classified samples, chunk by chunk of the batch size; the closest flips found."""
    check_norm(problem.threat)
    points, steps = problem.x.clone(), 0
    generator = problem.generator()
    for rows, part in problem.chunks():
        clean = part.queries.clean_logits(part.x, part.y)
        right = (clean.argmax(1) == part.y).nonzero().squeeze(1)
        if len(right) == 0:
            continue
        incumbent = Incumbent(
            part.x[right],
            part.y[right],
            part.threat.r,
            margin(clean[right], part.y[right]),
            part.queries.jitter(part.x),
        )
        steps = max(steps, search(part.queries, incumbent, part.threat, generator))
        moved = part.x.clone()
        moved[right] = incumbent.points
        points[rows] = moved
    return Found(points=points, steps=steps, status=Status.COMPLETE)


def check_norm(threat: ThreatModel) -> None:
    """Refuse distances that are no norm, and ground norms without a projection."""
    if isinstance(threat, ImageWasserstein):
        raise ThreatError(f"this attack takes balls of a norm; for {threat.name} use FrankWolfe or TransportDistance")
    if threat.r not in (1, 2, math.inf):
        raise ThreatError(f"minimum-norm attacks take the ground norms L1, L2 and Linf; got {threat.name}")


def check_steps(steps: int, **positive: float) -> None:
    """Refuse a number of steps below one and settings that must be positive."""
    if steps < 1:
        raise InputError(f"steps must be >= 1, got {steps}")
    for name, value in positive.items():
        if not value > 0:
            raise InputError(f"{name} must be > 0, got {value}")


def within_rounding(radius: Tensor, x: Tensor) -> Tensor:
    """The radius less what rounding may add: 1e-5 of itself, and half the spacing of floats at the largest input.

    A tiny l_inf radius needs the second part: x + d is rounded at the scale of x, not of d.
    """
    return torch.maximum(radius * (1 - 1e-5) - torch.finfo(x.dtype).eps / 2 * x.abs().amax(), radius / 2)


def farthest(x: Tensor, r: float, bounds: Bounds) -> Tensor:
    """Distance from each sample to the farthest corner of the box, (n,): no displacement is longer."""
    if bounds is None:
        return torch.full((len(x),), math.inf, dtype=x.dtype, device=x.device)
    room = torch.maximum(x - bounds[0], bounds[1] - x).flatten(1)
    if math.isinf(r):
        return room.amax(1)
    return (room**r).sum(1) ** (1 / r)


def cosine(first: float, last: float, step: int, steps: int) -> float:
    """Cosine decay from `first` at step 0 towards `last` at step `steps`.

    >>> cosine(1.0, 0.0, 1, 2)
    0.5
    """
    return last + (first - last) * (1 + math.cos(math.pi * step / steps)) / 2
