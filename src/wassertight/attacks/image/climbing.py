"""One ascent loop for image threats: a walk says where it is and how it steps, the loop keeps what flips."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from wassertight.attacks.base import Found, Problem
from wassertight.attacks.incumbent import decision_slack
from wassertight.geometry.norms import per_sample
from wassertight.losses import class_margin, loss_by_name, margin
from wassertight.queries import LossFunction, ModelQueries
from wassertight.threats import ImageWasserstein, ThreatModel
from wassertight.types import InputError, Status, ThreatError

_GUARD = 2e-6
"""Left of a radius, or a hundredth of it where that is less, so that rounding of float32 pixels cannot leave the ball."""


@runtime_checkable
class Walk(Protocol):
    """A walk of some images through their balls."""

    def point(self) -> Float[Tensor, "m c h w"]:
        """Where it is: admissible images."""

    def step(self, g: Float[Tensor, "m c h w"]) -> None:
        """One step along gradients whose largest entry is 1."""

    def keep(self, rows: Bool[Tensor, " m"]) -> None:
        """Go on with some of the images."""

    @property
    def spent(self) -> Float[Tensor, " m"]:
        """Cost of the plan that made the point, as a distance: at least W_p."""


class Flips:
    """The first flip of every image of a batch, and how the walks ended.

    Attributes:
        x, y: the batch, all correctly classified.
        points: the flip, x where none.
        spent: its plan's cost as a distance, inf where none.
        stuck: images whose gradient vanished before a flip.
        goal: the class wanted, or None for any wrong one.
    """

    def __init__(self, x: Tensor, y: Tensor, jitter: float = 0.0, goal: int | None = None) -> None:
        self.x, self.y, self.jitter, self.goal = x, y, jitter, goal
        self.points = x.clone()
        self.spent = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
        self.stuck = torch.zeros(len(x), dtype=torch.bool, device=x.device)

    @property
    def found(self) -> Bool[Tensor, " n"]:
        return torch.isfinite(self.spent)

    def wrong(self, logits: Tensor, rows: Int[Tensor, " m"]) -> Bool[Tensor, " m"]:
        """Whether logits of images `rows` are what the adversary wants, by more than rounding."""
        slack = decision_slack(logits) + self.jitter
        finite = torch.isfinite(logits).all(1)
        if self.goal is None:
            return finite & (margin(logits, self.y[rows]) > slack)
        wanted = torch.full_like(rows, self.goal)
        return finite & (self.y[rows] != self.goal) & (margin(logits, wanted) < -slack)

    def offer(self, z: Tensor, logits: Tensor, spent: Tensor, rows: Int[Tensor, " m"]) -> Bool[Tensor, " m"]:
        """Take every flip that is cheaper than the one known; returns which points are flips at all."""
        wrong = self.wrong(logits, rows)
        better = wrong & (spent < self.spent[rows])
        self.points[rows[better]] = z[better]
        self.spent[rows[better]] = spent[better]
        return wrong


def climb(
    queries: ModelQueries,
    walk: Walk,
    flips: Flips,
    rows: Int[Tensor, " m"],
    labels: Tensor,
    loss: LossFunction,
    steps: int,
) -> None:
    """Walk up the loss; an image leaves at its first flip, or where its gradient vanishes."""
    for step in range(steps + 1):
        z = walk.point()
        if step == steps:
            flips.offer(z, queries.logits(z), walk.spent, rows)
            return
        logits, _, g = queries.gradient(z, labels, loss)
        wrong = flips.offer(z, logits, walk.spent, rows)
        size = g.flatten(1).abs().amax(1)
        flips.stuck[rows] |= (size == 0) & ~wrong
        going = ~wrong & (size > 0)
        if not bool(going.any()):
            return
        if not bool(going.all()):
            rows, labels, g, size = rows[going], labels[going], g[going], size[going]
            walk.keep(going)
        walk.step(g / per_sample(size, g))


def ascend(
    queries: ModelQueries,
    flips: Flips,
    rows: Int[Tensor, " m"],
    start: Callable[[Int[Tensor, " k"]], Walk],
    loss: str,
    targets: int,
    steps: int,
) -> int:
    """Walks of the images `rows` as long as they do not flip, one a run of `aims`; returns the iterations made.

    Args:
        start: the walk of some of the batch's images.
    """
    taken = 0
    for labels, height in aims(queries, flips, rows, targets, loss_by_name(loss)):
        left = ~flips.found[rows]
        if not bool(left.any()):
            break
        climb(queries, start(rows[left]), flips, rows[left], labels[left], height, steps)
        taken += steps
    return taken


def aims(
    queries: ModelQueries, flips: Flips, rows: Int[Tensor, " m"], targets: int, loss: LossFunction
) -> list[tuple[Tensor, LossFunction]]:
    """Labels and loss of each run: one untargeted, or towards the goal, or towards the most likely wrong classes."""
    y = flips.y[rows]
    if flips.goal is not None:
        return [(torch.stack((y, torch.full_like(y, flips.goal)), 1), class_margin)]
    if targets == 0:
        return [(y, loss)]
    logits = queries.logits(flips.x[rows]).scatter(1, y[:, None], -torch.inf)
    likely = logits.topk(min(targets, logits.shape[1] - 1), dim=1).indices
    return [(torch.stack((y, likely[:, k]), 1), class_margin) for k in range(likely.shape[1])]


Search = Callable[[ModelQueries, Flips, ImageWasserstein, torch.Generator], int]
"""Improves the flips of a batch and returns the iterations made."""


def image_flips(problem: Problem, search: Search, goal: int | None = None) -> Found:
    """Run a search on the correctly classified images that have light, chunk by chunk."""
    threat = image_threat(problem.threat, problem.x)
    points, steps, stuck = problem.x.clone(), 0, False
    generator = problem.generator()
    for rows, part in problem.chunks():
        clean = part.queries.clean_logits(part.x, part.y)
        able = (clean.argmax(1) == part.y) & (part.x.flatten(1).sum(1) > 0)
        right = able.nonzero().squeeze(1)
        if len(right) == 0:
            continue
        flips = Flips(part.x[right], part.y[right], part.queries.jitter(part.x), goal)
        steps = max(steps, search(part.queries, flips, threat, generator))
        stuck |= bool((flips.stuck & ~flips.found).any())
        moved = part.x.clone()
        moved[right] = flips.points
        points[rows] = moved
    return Found(points=points, steps=steps, status=Status.STAGNATED if stuck else Status.COMPLETE)


def image_threat(threat: ThreatModel, x: Tensor) -> ImageWasserstein:
    """The threat, if it is one of moving light and x are images."""
    if not isinstance(threat, ImageWasserstein):
        raise ThreatError(f"this attack moves light between pixels, for example image-W1@0.1; got {threat.name}")
    if x.ndim != 4:
        raise InputError(f"{threat.name} needs images (n, channels, height, width), got {tuple(x.shape)}")
    return threat


def inner(radius: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The part of radii that walks may use; see `_GUARD`."""
    return torch.maximum(radius * (1 - 1e-6) - _GUARD, 0.99 * radius)


def light(x: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
    """S, the light of each image over all channels, float64."""
    return x.flatten(1).sum(1, dtype=torch.float64)


def shrink_to_flip(queries: ModelQueries, flips: Flips, steps: int, rows: Int[Tensor, " m"], p: float) -> None:
    """Bisect each flip's segment to its image; the share t of it costs at most t**(1/p) of the whole distance."""
    if len(rows) == 0:
        return
    x, far, whole = flips.x[rows], flips.points[rows].clone(), flips.spent[rows].clone()
    low, high = torch.zeros_like(whole), torch.ones_like(whole)
    for _ in range(steps):
        middle = (low + high) / 2
        z = x + per_sample(middle, x) * (far - x)
        wrong = flips.offer(z, queries.logits(z), whole * middle ** (1 / p), rows)
        high, low = torch.where(wrong, middle, high), torch.where(wrong, low, middle)
